//! Traces: a caller's context goes with its request through the queue, and spans go to a collector.

use crate::harness::{App, assert_allocated, eventually};
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use futures_util::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn traceparent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{CALLER}-{flags}")
}

/// A minimal collector: keeps every span that it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Value>>>);

impl Collector {
    /// Starts the collector and returns its address.
    async fn start(&self) -> String {
        let spans = Arc::clone(&self.0);
        let take = async move |body: Bytes| {
            let message: Value = serde_json::from_slice(&body).expect("JSON");
            let service = &message["resourceSpans"][0]["resource"]["attributes"][0];
            assert_eq!(service, &json!({ "key": "service.name", "value": { "stringValue": "earmark" } }));
            let new = message["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans").clone();
            spans.lock().expect("the spans").extend(new);
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(axum::serve(listener, Router::new().route("/v1/traces", post(take))).into_future());
        format!("http://{address}")
    }

    fn named(&self, name: &str) -> Vec<Value> {
        self.0.lock().expect("the spans").iter().filter(|span| span["name"] == name).cloned().collect()
    }

    /// Waits for `count` spans. Returns those of intakes and those of workers, in the order in which they ended.
    async fn until_both(&self, count: usize) -> (Vec<Value>, Vec<Value>) {
        let both = || (self.named("allocate"), self.named("settle"));
        eventually("the spans arrive", async || both().0.len() == count && both().1.len() == count).await;
        both()
    }
}

fn attribute(span: &Value, key: &str) -> String {
    let attributes = span["attributes"].as_array().expect("attributes");
    let found =
        attributes.iter().find(|attribute| attribute["key"] == key).unwrap_or_else(|| panic!("{key} in {span}"));
    found["value"]["stringValue"].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn the_spans_of_intake_and_worker_are_of_the_callers_trace() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let settings = [("EARMARK_OTLP_ENDPOINT", endpoint.as_str())];
    let (intake, worker) = (app.start_with("intake", &settings).await, app.start_with("worker", &settings).await);
    let client = app.client(&intake, &business);
    let answer = client.create_traced(&traceparent(TRACE, "01"), "ann@example.com", 10).await;
    assert_allocated(&answer);
    let (allocate, settle) = collector.until_both(1).await;
    let (allocate, settle) = (&allocate[0], &settle[0]);
    assert_eq!((&allocate["traceId"], &settle["traceId"]), (&json!(TRACE), &json!(TRACE)));
    assert_eq!(allocate["parentSpanId"], CALLER);
    assert_eq!(settle["parentSpanId"], allocate["spanId"], "the worker's span is below the intake's");
    let id = answer.header("x-request-id").expect("an id");
    assert_eq!(
        (attribute(allocate, "earmark.request_id"), attribute(settle, "earmark.request_id")),
        (id.to_owned(), id.to_owned())
    );
    assert_eq!(attribute(allocate, "http.response.status_code"), "200");
    assert_eq!(attribute(settle, "earmark.outcome"), "allocated");
    let time = |span: &Value, name: &str| span[name].as_str().expect("text").parse::<u128>().expect("nanoseconds");
    let times = [
        time(allocate, "startTimeUnixNano"),
        time(settle, "startTimeUnixNano"),
        time(settle, "endTimeUnixNano"),
        time(allocate, "endTimeUnixNano"),
    ];
    assert!(times.is_sorted(), "{times:?}");
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_trace_is_sampled_as_its_caller_says_and_begun_where_there_is_none() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let collector = Collector::default();
    let endpoint = collector.start().await;
    // `OTEL_EXPORTER_OTLP_ENDPOINT` is the standard name of this setting.
    let process = app.start_with("serve", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await;
    let client = app.client(&process, &business);
    assert_allocated(&client.create_traced(&traceparent(TRACE, "00"), "ann@example.com", 10).await);
    for not_one in ["nonsense", &traceparent(&"0".repeat(32), "01")] {
        assert_allocated(&client.create_traced(not_one, "ann@example.com", 10).await);
    }
    assert_allocated(&client.create("ann@example.com", 10).await);
    let (allocate, settle) = collector.until_both(3).await;
    // All unsent spans are sent before the process ends.
    process.terminate().await;
    assert_eq!(collector.0.lock().expect("the spans").len(), 6, "the trace that is not sampled has no spans");
    for span in &allocate {
        let trace = span["traceId"].as_str().expect("an id");
        assert!(trace.len() == 32 && trace != TRACE && trace.bytes().any(|byte| byte != b'0'), "{span}");
        assert_eq!(span["parentSpanId"], "");
        assert_eq!(settle.iter().filter(|below| below["parentSpanId"] == span["spanId"]).count(), 1, "{span}");
    }
    app.finish([]).await;
}

#[tokio::test]
async fn a_trace_context_is_passed_on_though_nothing_is_exported() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let intake = app.start_with("intake", &[("EARMARK_REPLY_TIMEOUT", "2s")]).await;
    let client = app.client(&intake, &business);
    let sent = traceparent(TRACE, "01");
    let asking = {
        let (client, sent) = (client.clone(), sent.clone());
        tokio::spawn(async move { client.create_traced(&sent, "ann@example.com", 10).await })
    };
    let broker = app.broker().await;
    let channel = broker.create_channel().await.expect("a channel");
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = channel
        .basic_consume(app.work_queue().into(), "".into(), options, FieldTable::default())
        .await
        .expect("a consumer");
    let delivery = consumer.next().await.expect("a delivery").expect("a message");
    let message: Value = serde_json::from_slice(&delivery.data).expect("JSON");
    assert_eq!(message["requests"][0]["trace"], sent.as_str());
    let headers = delivery.properties.headers().clone().expect("headers");
    let header = headers.inner().get("traceparent").and_then(|value| value.as_long_string()).expect("a header");
    assert_eq!(header.to_string(), sent);
    assert_eq!(asking.await.expect("joined").status, 500, "the message was lost with its consumer");
    // A request without a trace context has none to pass on.
    let asking = tokio::spawn(async move { client.create("ann@example.com", 10).await });
    let delivery = consumer.next().await.expect("a delivery").expect("a message");
    assert!(delivery.properties.headers().is_none(), "{:?}", delivery.properties);
    assert_eq!(asking.await.expect("joined").status, 500);
    broker.close(200, "done".into()).await.expect("closed");
    app.start("worker").await.terminate().await;
    app.finish([intake]).await;
}

#[tokio::test]
async fn a_collector_that_is_away_costs_no_request() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start_with("serve", &[("EARMARK_OTLP_ENDPOINT", "http://127.0.0.1:1")]).await;
    let client = app.client(&process, &business);
    assert_allocated(&client.create("ann@example.com", 10).await);
    process.until_logged("spans not exported").await;
    assert_allocated(&client.create("ann@example.com", 10).await);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_request_can_be_followed_through_the_logs_by_its_id() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let verbose = [("EARMARK_LOG", "earmark=debug")];
    let (intake, worker) = (app.start_with("intake", &verbose).await, app.start_with("worker", &verbose).await);
    let answer = app.client(&intake, &business).create("ann@example.com", 10).await;
    assert_allocated(&answer);
    let id = answer.header("x-request-id").expect("an id");
    for (process, message) in [(&intake, "answered"), (&worker, "settled")] {
        let says = |entry: &Value| entry["fields"]["message"] == message && entry["fields"]["request_id"] == id;
        eventually(message, async || process.log().iter().any(says)).await;
    }
    app.finish([intake, worker]).await;
}
