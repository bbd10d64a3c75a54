//! Spans on their way to a collector: OTLP over HTTP, in its JSON form, which every collector takes at the same address as
//! the binary one. Written by hand in a page, where the libraries for it are nine more crates and a thread of their own.

use super::{Kind, Span};
use crate::https;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Most spans that wait. More are dropped: a collector that is away must cost nobody anything.
const WAITING: usize = 8192;
/// Most spans in one message.
const BATCH: usize = 512;
/// How long spans gather for a message that is not full.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long the collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A span that has ended.
pub struct Ended {
    pub span: Span,
    /// In nanoseconds since 1970.
    pub end: u128,
    pub attributes: super::Attributes,
}

enum Job {
    Send(Ended),
    Flush(oneshot::Sender<()>),
}

impl Job {
    fn is_flush(&self) -> bool {
        matches!(self, Self::Flush(_))
    }
}

/// The way to the task that sends.
pub struct Exporter(mpsc::Sender<Job>);

impl Exporter {
    pub fn start(endpoint: &str, service: &'static str) -> Result<Self, String> {
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let url = reqwest::Url::parse(&url).map_err(|error| format!("is not a URL: {error}"))?;
        let client = https::client().and_then(|client| client.timeout(TIMEOUT).build());
        let client = client.map_err(|error| error.to_string())?;
        let (sender, jobs) = mpsc::channel(WAITING);
        tokio::spawn(send_all(jobs, client, url, service));
        Ok(Self(sender))
    }

    /// Never waits.
    pub fn send(&self, ended: Ended) {
        let _ = self.0.try_send(Job::Send(ended));
    }

    /// Returns when all that was sent before has been sent, or failed.
    pub async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.0.send(Job::Flush(done)).await.is_ok() {
            let _ = sent.await;
        }
    }
}

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

/// Waits until there is a message full, or the interval is over, or somebody waits for all to be sent.
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

/// Ids in hexadecimal, times and other large numbers as text: so the protocol has it.
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
