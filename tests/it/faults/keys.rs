//! `Idempotency-Key`: a retry finds the first success, and a 500 holds for all that was sent under the key.

use crate::harness::http::{Answer, Client};
use crate::harness::{App, assert_allocated, eventually};
use futures_util::StreamExt;
use serde_json::json;

const QUICK: [(&str, &str); 4] = [
    ("EARMARK_REPLY_TIMEOUT", "1s"),
    ("EARMARK_SETTLE_TIMEOUT", "1s"),
    ("EARMARK_RESOLVE_TIMEOUT", "2s"),
    ("EARMARK_SHUTDOWN_GRACE", "5s"),
];

fn assert_replayed(answer: &Answer, first: &Answer) {
    assert_allocated(answer);
    assert_eq!(answer.header("idempotent-replayed"), Some("true"), "{answer:?}");
    assert_eq!(answer.json(), first.json());
}

#[tokio::test]
async fn a_retry_under_a_key_is_answered_with_the_first_success() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    let first = client.create_with_key("k", "ann@example.com", 10).await;
    assert_allocated(&first);
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_replayed(&client.create_with_key("k", " Ann@Example.com", 10).await, &first);
    assert_replayed(&client.create_with_key("\"k\"", "ann@example.com", 10).await, &first);
    for (email, amount) in [("bob@example.com", 10), ("ann@example.com", 11)] {
        let reused = client.create_with_key("k", email, amount).await;
        assert_eq!((reused.status, reused.header("earmark-debited")), (422, Some("no")), "{reused:?}");
        assert!(reused.json()["error"].is_string());
    }
    let other = app.client(&process, &app.create_business(1_000));
    let elsewhere = other.create_with_key("k", "ann@example.com", 10).await;
    assert_eq!(elsewhere.header("idempotent-replayed"), None, "a key belongs to its business");
    assert_eq!((client.user_balance("ann@example.com").await, client.payout_balance().await), (10, 990));
    let found = client.get("/payout/requests?idempotency_key=k").await.json();
    assert_eq!((&found["state"], &found["request_id"]), (&json!("allocated"), &json!(first.request_id())));
    assert_eq!(client.get("/payout/requests?idempotency_key=other").await.status, 404);
    for wrong in ["", "a b", &"x".repeat(256)] {
        let request = client.create_request("ann@example.com", 1).header("Idempotency-Key", wrong);
        assert_eq!(Client::send(request).await.expect("an answer").status, 400, "{wrong:?}");
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn of_concurrent_attempts_under_one_key_one_allocates_and_all_get_its_200() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let (one, two) = (app.start("intake").await, app.start("intake").await);
    let (worker, second) = (app.start("worker").await, app.start("worker").await);
    let (client, other) = (app.client(&one, &business), app.client(&two, &business));
    let asking = (0..40).map(|number| {
        let client = if number % 2 == 0 { client.clone() } else { other.clone() };
        tokio::spawn(async move { client.create_with_key("k", "ann@example.com", 10).await })
    });
    let mut replayed = 0;
    for asked in asking.collect::<Vec<_>>() {
        let answer = asked.await.expect("joined");
        assert_allocated(&answer);
        replayed += usize::from(answer.header("idempotent-replayed").is_some());
    }
    assert_eq!((replayed, client.user_balance("ann@example.com").await), (39, 10));
    app.finish([one, two, worker, second]).await;
}

#[tokio::test]
async fn a_refusal_is_not_remembered_under_a_key() {
    let app = App::new().await;
    let business = app.create_business(5);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    assert_eq!(client.create_with_key("k", "ann@example.com", 10).await.status, 400);
    app.run(&["business", "fund", &business.id, "--amount", "5"]).expect_success();
    app.run(&["business", "disable-payouts", &business.id]).expect_success();
    assert_eq!(client.create_with_key("k", "ann@example.com", 10).await.status, 403);
    app.run(&["business", "enable-payouts", &business.id]).expect_success();
    let allocated = client.create_with_key("k", "ann@example.com", 10).await;
    assert_allocated(&allocated);
    assert_eq!(allocated.header("idempotent-replayed"), None);
    assert_eq!(client.user_balance("ann@example.com").await, 10);
    app.finish([process]).await;
}

/// Makes sure that the queue exists but has no worker.
async fn without_worker(app: &App) {
    app.start("worker").await.terminate().await;
}

#[tokio::test]
async fn after_a_500_under_a_key_no_earlier_attempt_debits_and_a_later_one_can() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    without_worker(&app).await;
    // Nobody waits for this attempt any more: its client and its intake are gone. Its message is still there.
    let mut doomed = app.start_with("intake", &[("EARMARK_REPLY_TIMEOUT", "4s")]).await;
    let first = app.client(&doomed, &business);
    let gone =
        tokio::spawn(
            async move { first.create_request("ann@example.com", 10).header("Idempotency-Key", "k").send().await },
        );
    app.until_queue_holds(&app.work_queue(), 1).await;
    doomed.kill().await;
    assert!(gone.await.expect("joined").is_err());
    // The retry, on another intake, times out and is voided.
    let intake = app.start_with("intake", &QUICK).await;
    let client = app.client(&intake, &business);
    let denied = client.create_with_key("k", "ann@example.com", 10).await;
    assert_eq!((denied.status, denied.header("earmark-debited")), (500, Some("no")));
    // Now a worker finds the messages, the first one within its deadline.
    let worker = app.start("worker").await;
    eventually("both are decided", async || app.count("voided").await == 2).await;
    assert_eq!(client.user_balance("ann@example.com").await, 0, "A1k");
    let allocated = client.create_with_key("k", "ann@example.com", 10).await;
    assert_allocated(&allocated);
    assert_eq!(allocated.header("idempotent-replayed"), None);
    assert_eq!(client.user_balance("ann@example.com").await, 10);
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_500_says_so_and_its_request_is_voided_permanently() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    without_worker(&app).await;
    let intake = app.start_with("intake", &QUICK).await;
    let client = app.client(&intake, &business);
    let denied = client.create("ann@example.com", 10).await;
    assert_eq!(denied.status, 500);
    assert_eq!(denied.json(), json!({"error": "An unexpected error occurred. No funds were debited."}));
    let path = format!("/payout/requests/{}", denied.request_id());
    let shown = client.get(&path).await.json();
    assert_eq!(
        (&shown["state"], &shown["email"], &shown["amount"]),
        (&json!("voided"), &json!("ann@example.com"), &json!(10))
    );
    let worker = app.start("worker").await;
    worker.until_logged("voided before it arrived").await;
    assert_eq!(client.user_balance("ann@example.com").await, 0);
    assert_eq!(client.get(&path).await.json()["state"], "voided");
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn while_the_database_is_away_the_answer_is_504_and_the_request_is_decided_afterwards() {
    let Some(servers) = crate::harness::servers::Servers::alone().await else { return };
    let app = App::on(servers).await;
    let business = app.create_business(1_000);
    without_worker(&app).await;
    // It waits for a reply for longer than Postgres takes to stop, even on a busy machine.
    let patient =
        [("EARMARK_REPLY_TIMEOUT", "12s"), ("EARMARK_RESOLVE_TIMEOUT", "1s"), ("EARMARK_SETTLE_TIMEOUT", "500ms")];
    let intake = app.start_with("intake", &patient).await;
    let client = app.client(&intake, &business);
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.create("ann@example.com", 10).await }
    });
    app.until_queue_holds(&app.work_queue(), 1).await;
    app.servers().control(&["stop", "postgres", "--immediate"]).await;
    let unknown = asking.await.expect("joined");
    assert_eq!((unknown.status, unknown.header("earmark-debited")), (504, Some("unknown")));
    let id = unknown.json()["request_id"].as_str().expect("an id").to_owned();
    assert_eq!(
        (unknown.json()["error"].as_str(), id.clone()),
        (Some("The outcome is not known yet."), unknown.request_id())
    );
    app.servers().control(&["start", "postgres"]).await;
    intake.until_logged("voided").await;
    let path = format!("/payout/requests/{id}");
    eventually("it is decided", async || client.get(&path).await.status == 200).await;
    assert_eq!(client.get(&path).await.json()["state"], "voided");
    let worker = app.start("worker").await;
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_request_is_shown_to_its_own_business_and_asking_after_its_deadline_decides_it() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    without_worker(&app).await;
    let mut doomed = app.start_with("intake", &QUICK).await;
    let client = app.client(&doomed, &business);
    let asking = tokio::spawn(async move { client.try_create("ann@example.com", 10).await });
    app.until_queue_holds(&app.work_queue(), 1).await;
    doomed.kill().await;
    assert!(asking.await.expect("joined").is_err());
    // Only the message shows the request's id.
    let id = peek_request_id(&app).await;
    let intake = app.start_with("intake", &QUICK).await;
    let (client, other) = (app.client(&intake, &business), app.client(&intake, &app.create_business(1)));
    let path = format!("/payout/requests/{id}");
    assert_eq!(other.get(&path).await.status, 404, "another business's request");
    eventually("asking decides it", async || client.get(&path).await.json()["state"] == "voided").await;
    assert_eq!(app.count("voided").await, 1);
    for stranger in [uuid::Uuid::new_v4().to_string(), "nonsense".to_owned(), id.replace('-', "")] {
        assert_eq!(client.get(&format!("/payout/requests/{stranger}")).await.status, 404, "{stranger}");
    }
    assert_eq!(app.count("voided").await, 1, "asking about strange ids writes nothing");
    let worker = app.start("worker").await;
    worker.until_logged("voided before it arrived").await;
    assert_eq!(client.user_balance("ann@example.com").await, 0);
    app.finish([intake, worker]).await;
}

async fn peek_request_id(app: &App) -> String {
    let broker = app.broker().await;
    let channel = broker.create_channel().await.expect("a channel");
    let consuming = channel.basic_consume(app.work_queue().into(), "".into(), Default::default(), Default::default());
    let message = consuming.await.expect("a consumer").next().await.expect("a message").expect("delivered");
    let read = earmark::wire::messages::read_requests(&app.keys(), &message.data).expect("a message of ours");
    // Closing the connection without an acknowledgement puts the message back.
    broker.close(200, "done".into()).await.expect("closed");
    uuid::Uuid::from_u128(read.requests[0].id.as_u128()).to_string()
}

#[tokio::test]
async fn a_backlog_past_its_deadline_is_voided_and_not_applied() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    without_worker(&app).await;
    let mut doomed = app.start_with("intake", &QUICK).await;
    let client = app.client(&doomed, &business);
    let asking: Vec<_> = (0..50)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.try_create(&format!("user{number}@example.com"), 10).await })
        })
        .collect();
    eventually("all are published", async || {
        doomed.logged("resolving") > 0 || app.ready_messages(&app.work_queue()).await > 0
    })
    .await;
    doomed.kill().await;
    for asked in asking {
        let _ = asked.await.expect("joined");
    }
    // The deadlines are at most a second away, and a worker allows for another.
    let latest = earmark::clock::now_millis() + 1_000 + 1_000;
    eventually("the deadlines are past", async || earmark::clock::now_millis() > latest).await;
    let process = app.start("serve").await;
    app.until_queue_holds(&app.work_queue(), 0).await;
    let client = app.client(&process, &business);
    assert_allocated(&client.create("after@example.com", 1).await);
    assert_eq!((client.payout_balance().await, app.count("allocated").await), (999, 1));
    app.finish([process]).await;
}
