//! What a deployment shows about itself: metrics, readiness, and the list of its processes.

use crate::allocate::publish;
use crate::harness::process::Process;
use crate::harness::{App, assert_allocated, eventually};
use earmark::wire::state::State;
use sqlx::Row;

async fn until(process: &Process, series: &str, holds: impl Fn(f64) -> bool) {
    eventually(series, async || process.metric(series).await.is_some_and(&holds)).await;
}

/// Checks that each series has this value now.
async fn assert_series(process: &Process, expected: &[(&str, f64)]) {
    let text = process.metrics().await;
    for (series, value) in expected {
        let line = format!("{series} {value}");
        assert!(text.lines().any(|found| found == line), "not there: {line}\n{text}");
    }
}

#[tokio::test]
async fn requests_are_counted_where_they_are_answered_and_where_they_are_settled() {
    let app = App::new().await;
    let business = app.create_business(100);
    let (intake, worker) = (app.start("intake").await, app.start("worker").await);
    let client = app.client(&intake, &business);
    assert_series(&intake, &[("earmark_request_duration_seconds_count", 0.0), ("earmark_ready", 1.0)]).await;
    assert_allocated(&client.create("ann@example.com", 60).await);
    assert_allocated(&client.create_with_key("key", "ann@example.com", 40).await);
    assert_allocated(&client.create_with_key("key", "ann@example.com", 40).await);
    assert_eq!(client.create("ann@example.com", 1).await.status, 400);
    assert_eq!(client.create("nobody", 1).await.status, 400);
    assert_eq!(client.get("/balance").await.status, 200);
    let answered = [
        (r#"earmark_requests_total{route="/payout/create",status="200"}"#, 3.0),
        (r#"earmark_requests_total{route="/payout/create",status="400"}"#, 2.0),
        (r#"earmark_requests_total{route="/balance",status="200"}"#, 1.0),
        ("earmark_request_duration_seconds_count", 4.0),
        ("earmark_message_requests_count", 4.0),
        ("earmark_requests_in_flight", 0.0),
        ("earmark_oldest_request_age_seconds", 0.0),
        (r#"earmark_connected{role="intake",to="rabbitmq"}"#, 1.0),
        (r#"earmark_rabbitmq_connects_total{connection="intake_requests"}"#, 1.0),
        (r#"earmark_rabbitmq_connections{connection="intake_replies"}"#, 1.0),
    ];
    assert_series(&intake, &answered).await;
    let settled = [
        (r#"earmark_outcomes_total{outcome="allocated"}"#, 2.0),
        (r#"earmark_outcomes_total{outcome="replayed"}"#, 1.0),
        (r#"earmark_outcomes_total{outcome="insufficient_balance"}"#, 1.0),
        (r#"earmark_voids_total{by="worker_key"}"#, 1.0),
        ("earmark_batch_requests_sum", 4.0),
        ("earmark_batch_duration_seconds_count", 4.0),
        (r#"earmark_connected{role="worker",to="postgres"}"#, 1.0),
    ];
    assert_series(&worker, &settled).await;
    assert!(!worker.metrics().await.contains(r#"role="intake""#), "a worker has no metrics of an intake");
    let queue = app.work_queue();
    until(&worker, &format!("earmark_queue_messages{{queue=\"{queue}\",state=\"unacknowledged\"}}"), |n| n == 0.0)
        .await;
    until(&intake, &format!("earmark_queue_consumers{{queue=\"{queue}\"}}"), |n| n == 1.0).await;
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn what_waits_is_seen_and_each_500_is_counted_by_its_proof() {
    let app = App::new().await;
    let business = app.create_business(100);
    let intake = app.start_with("intake", &[("EARMARK_REPLY_TIMEOUT", "4s")]).await;
    let client = app.client(&intake, &business);
    let asking = tokio::spawn({
        let client = client.clone();
        async move {
            let keyed = client.create_with_key("key", "ann@example.com", 1);
            let (plain, keyed) = tokio::join!(client.create("ann@example.com", 1), keyed);
            [plain.status, keyed.status]
        }
    });
    until(&intake, "earmark_requests_in_flight", |count| count == 2.0).await;
    until(&intake, "earmark_oldest_request_age_seconds", |age| age > 0.5).await;
    let queue = app.work_queue();
    until(&intake, &format!("earmark_queue_messages{{queue=\"{queue}\",state=\"ready\"}}"), |count| count >= 1.0).await;
    assert_eq!(asking.await.expect("answers"), [500, 500]);
    let expected = [
        (r#"earmark_unexpected_total{proof="inserted"}"#, 1.0),
        (r#"earmark_unexpected_total{proof="key_raised"}"#, 1.0),
        (r#"earmark_voids_total{by="intake"}"#, 2.0),
        ("earmark_oldest_request_age_seconds", 0.0),
    ];
    assert_series(&intake, &expected).await;
    let worker = app.start("worker").await;
    until(&worker, r#"earmark_outcomes_total{outcome="decided_before"}"#, |count| count == 2.0).await;
    until(&intake, "earmark_replies_without_waiter_total", |count| count == 2.0).await;
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_refusal_is_counted_by_its_reason_and_a_dead_letter_too() {
    let app = App::new().await;
    let business = app.create_business(100);
    let (intake, worker) = (app.spawn("intake", &[("AMQP_URL", "amqp://127.0.0.1:1")]), app.start("worker").await);
    eventually("the intake finds postgres", async || {
        let readiness = intake.readiness().await;
        intake.listens() && readiness.is_some_and(|(_, body)| body == "intake: rabbitmq is not connected\n")
    })
    .await;
    assert_eq!(app.client(&intake, &business).create("ann@example.com", 1).await.status, 503);
    assert_series(&intake, &[(r#"earmark_unavailable_total{reason="rabbitmq_down"}"#, 1.0), ("earmark_ready", 0.0)])
        .await;
    publish(&app, b"no message at all").await;
    until(&worker, r#"earmark_dead_letters_total{reason="unreadable"}"#, |count| count == 1.0).await;
    intake.terminate().await;
    worker.terminate().await;
    app.discard().await;
}

/// The processes on the list, each with the state that it reports.
async fn listed(app: &App) -> Vec<(String, State)> {
    let rows = sqlx::query("SELECT kind, state::text FROM processes ORDER BY started_at");
    let rows = rows.fetch_all(&mut app.database().await).await.expect("processes");
    rows.iter().map(|row| (row.get(0), serde_json::from_str(row.get(1)).expect("a state"))).collect()
}

#[tokio::test]
async fn a_process_is_on_the_list_from_its_start_to_its_end_and_says_how_it_is() {
    let app = App::new().await;
    let business = app.create_business(100);
    let intake = app.start("intake").await;
    let mut worker = app.start("worker").await;
    assert_allocated(&app.client(&intake, &business).create("ann@example.com", 1).await);
    let queue = app.work_queue();
    eventually("both say what happened", async || {
        let listed = listed(&app).await;
        let find = |kind: &str| listed.iter().find(|(found, _)| found == kind).map(|(_, state)| state.clone());
        let (Some(intake), Some(worker)) = (find("intake"), find("worker")) else { return false };
        let told = intake.intake.is_some_and(|intake| {
            intake.rabbitmq_up && intake.postgres_up && intake.answers["200"] == 1 && intake.duration.count == 1
        });
        let settled = worker.worker.is_some_and(|worker| {
            worker.consuming && worker.settled["allocated"] == 1 && worker.unacknowledged.get(&queue) == Some(&0)
        });
        told && settled
            && intake.impediments.is_empty()
            && worker.queues.iter().any(|seen| seen.name == queue && seen.consumers == 1)
    })
    .await;
    worker.kill().await;
    intake.terminate().await;
    let left: Vec<String> = listed(&app).await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(left, ["worker"], "a process that stops properly leaves the list, and a killed one stays on it");
    app.finish([]).await;
}
