//! Exports spans to a collector by OTLP over HTTP with JSON. Collectors accept JSON at the same address as the binary
//! form. It is written by hand because it is short, while the OpenTelemetry libraries would add nine crates and a
//! thread.

use super::{Kind, Span};
use crate::https;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The largest number of spans that wait to be sent. Further ones are dropped, so that a collector that is down slows
/// nothing.
const WAITING: usize = 8192;
/// The largest number of spans in one message.
const BATCH: usize = 512;
/// How long spans are gathered for a message that is not full.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long the collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A span that has ended.
pub(super) struct Ended {
    pub span: Span,
    /// When it ended, in nanoseconds since 1970.
    pub end: u128,
    pub attributes: super::Attributes,
}

/// What the sending task is told to do.
enum Job {
    Send(Ended),
    /// Signal when all spans before it are sent.
    Flush(oneshot::Sender<()>),
}

impl Job {
    fn is_flush(&self) -> bool {
        matches!(self, Self::Flush(_))
    }
}

/// A handle of the task that sends spans.
pub(super) struct Exporter(mpsc::Sender<Job>);

impl Exporter {
    /// Starts the task. `endpoint`: the collector's URL without a path. `service`: the service's name in spans.
    pub(super) fn start(endpoint: &str, service: &'static str) -> Result<Self, String> {
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let url = reqwest::Url::parse(&url).map_err(|error| format!("is not a URL: {error}"))?;
        let client = https::client().and_then(|client| client.timeout(TIMEOUT).build());
        let client = client.map_err(|error| error.to_string())?;
        let (sender, jobs) = mpsc::channel(WAITING);
        tokio::spawn(send_all(jobs, client, url, service));
        Ok(Self(sender))
    }

    /// Hands over a span. It never waits: if too many spans wait, the span is dropped.
    pub(super) fn send(&self, ended: Ended) {
        let _ = self.0.try_send(Job::Send(ended));
    }

    /// Waits until all spans handed over before are sent or have failed.
    pub(super) async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.0.send(Job::Flush(done)).await.is_ok() {
            let _ = sent.await;
        }
    }
}

/// The sending task: sends spans in messages until the exporter is dropped.
async fn send_all(mut jobs: mpsc::Receiver<Job>, client: reqwest::Client, url: reqwest::Url, service: &'static str) {
    let mut taken = Vec::with_capacity(BATCH);
    while jobs.recv_many(&mut taken, BATCH).await > 0 {
        if !taken.iter().any(Job::is_flush) {
            gather(&mut jobs, &mut taken).await;
        }
        let (mut spans, mut flushes) = (vec![], vec![]);
        for job in taken.drain(..) {
            match job {
                Job::Send(ended) => spans.push(shown(&ended)),
                Job::Flush(done) => flushes.push(done),
            }
        }
        if !spans.is_empty() {
            post(&client, &url, &message(service, spans)).await;
        }
        for done in flushes {
            let _ = done.send(());
        }
    }
}

/// Adds spans until the message is full, the interval is over, or a flush is requested.
async fn gather(jobs: &mut mpsc::Receiver<Job>, taken: &mut Vec<Job>) {
    let filling = async {
        while taken.len() < BATCH && !taken.last().is_some_and(Job::is_flush) {
            let Some(job) = jobs.recv().await else { return };
            taken.push(job);
        }
    };
    let _ = tokio::time::timeout(INTERVAL, filling).await;
}

async fn post(client: &reqwest::Client, url: &reqwest::Url, message: &Value) {
    let sent = client.post(url.clone()).json(message).send().await;
    if let Err(error) = sent.and_then(reqwest::Response::error_for_status) {
        tracing::warn!(error = %error.without_url(), "spans not exported");
    }
}

fn message(service: &str, spans: Vec<Value>) -> Value {
    let resource = [text("service.name", service), text("service.version", env!("CARGO_PKG_VERSION"))];
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "earmark" }, "spans": spans }],
    }] })
}

/// The OTLP form of a span. The protocol wants ids in hexadecimal, and large numbers such as times as text.
fn shown(ended: &Ended) -> Value {
    let Ended { span: Span { context, parent, name, kind, start }, end, attributes } = ended;
    let attributes: Vec<Value> = attributes.iter().map(|(name, value)| text(name, value)).collect();
    let kind = match kind {
        Kind::Server => 2,
        Kind::Consumer => 5,
    };
    json!({
        "traceId": format!("{:032x}", context.trace),
        "spanId": format!("{:016x}", context.span),
        "parentSpanId": parent.map_or_else(String::new, |parent| format!("{parent:016x}")),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": start.to_string(),
        "endTimeUnixNano": end.to_string(),
        "attributes": attributes,
    })
}

fn text(name: &str, value: &str) -> Value {
    json!({ "key": name, "value": { "stringValue": value } })
}
