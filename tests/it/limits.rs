//! The limits of one API key.

use crate::harness::http::Answer;
use crate::harness::{App, assert_allocated, eventually};
use serde_json::{Value, json};

fn assert_too_many(answer: &Answer) -> u64 {
    assert_eq!((answer.status, answer.header("earmark-debited")), (429, Some("no")), "{answer:?}");
    assert_eq!(answer.json(), json!({"error": "Too many requests. No funds were debited by this request."}));
    answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("seconds")
}

#[tokio::test]
async fn a_key_beyond_its_rate_is_told_to_come_again_and_the_others_are_not() {
    let app = App::new().await;
    let (business, other) = (app.create_business(1_000), app.create_business(1_000));
    let process = app.start_with("serve", &[("EARMARK_RATE_LIMIT", "1")]).await;
    let (client, other) = (app.client(&process, &business), app.client(&process, &other));
    let items = Value::from(vec![json!({"email": "ann@example.com", "amount": 1}); 50]);
    let answer = client.create_all(&items).await;
    assert_eq!(
        answer.status, 200,
        "a bulk call with more than a second's worth passes when a second is saved up: {answer:?}"
    );
    // The key has used up fifty seconds' worth of its rate. Until they are over, nothing passes, in bulk or alone.
    let wait = assert_too_many(&client.create("ann@example.com", 1).await);
    assert!((1..=50).contains(&wait), "{wait}");
    assert_too_many(&client.create_all(&items).await);
    assert_eq!(client.create("nope", 1).await.status, 400, "a request that is not a valid allocation does not count");
    assert_eq!(client.user_balance("ann@example.com").await, 50);
    assert_allocated(&other.create("ann@example.com", 1).await);
    let second = app.run(&["key", "create", &business.id, "--json"]).expect_success().json();
    let second_key = earmark_client(&process, second["key"].as_str().expect("a key"));
    assert_allocated(&second_key.create("ann@example.com", 1).await);
    app.finish([process]).await;
}

fn earmark_client(process: &crate::harness::process::Process, key: &str) -> crate::harness::http::Client {
    crate::harness::http::Client::new(process.url(), key)
}

#[tokio::test]
async fn no_key_has_more_in_flight_than_it_may() {
    let app = App::new().await;
    let (business, other) = (app.create_business(1_000), app.create_business(1_000));
    let settings =
        [("EARMARK_MAX_IN_FLIGHT_PER_KEY", "2"), ("EARMARK_REPLY_TIMEOUT", "20s"), ("EARMARK_SHUTDOWN_GRACE", "30s")];
    let intake = app.start_with("intake", &settings).await;
    let (client, other) = (app.client(&intake, &business), app.client(&intake, &other));
    let post = |client: &crate::harness::http::Client| {
        let client = client.clone();
        tokio::spawn(async move { client.create("ann@example.com", 1).await })
    };
    let mut waiting = vec![post(&client)];
    app.until_queue_holds(&app.work_queue(), 1).await;
    waiting.push(post(&client));
    app.until_queue_holds(&app.work_queue(), 2).await;
    assert_eq!(assert_too_many(&client.create("ann@example.com", 1).await), 1);
    let bulk = tokio::spawn({
        let (client, items) = (client.clone(), Value::from(vec![json!({"email": "ann@example.com", "amount": 1}); 30]));
        async move { client.create_all(&items).await }
    });
    waiting.push(post(&other));
    app.until_queue_holds(&app.work_queue(), 3).await;
    assert!(!bulk.is_finished(), "the bulk call waits until its key may have more in flight");
    let worker = app.start("worker").await;
    for asked in waiting {
        assert_allocated(&asked.await.expect("joined"));
    }
    let answer = bulk.await.expect("joined");
    assert_eq!((answer.status, answer.header("earmark-debited")), (200, Some("yes")), "{answer:?}");
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn bulk_of_a_key_leaves_room_for_what_the_same_key_posts_alone() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let settings =
        [("EARMARK_MAX_IN_FLIGHT_PER_KEY", "4"), ("EARMARK_REPLY_TIMEOUT", "25s"), ("EARMARK_SHUTDOWN_GRACE", "60s")];
    let intake = app.start_with("intake", &settings).await;
    let client = app.client(&intake, &business);
    let until_in_flight = async |count| {
        eventually("so many are in flight", async || intake.metric("earmark_requests_in_flight").await == Some(count))
            .await;
    };
    let bulk = tokio::spawn({
        let (client, items) = (client.clone(), Value::from(vec![json!({"email": "ann@example.com", "amount": 1}); 30]));
        async move { client.create_all(&items).await }
    });
    until_in_flight(2.0).await;
    let alone: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.create("ann@example.com", 1).await })
        })
        .collect();
    until_in_flight(4.0).await;
    assert_too_many(&client.create("ann@example.com", 1).await);
    let worker = app.start("worker").await;
    for answer in alone {
        assert_allocated(&answer.await.expect("joined"));
    }
    assert_eq!(bulk.await.expect("joined").header("earmark-debited"), Some("yes"));
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn bulk_for_which_its_key_has_no_room_within_the_reply_budget_is_a_429() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // No worker runs, and the test's table lock stops the intake from voiding the request that it gave up on. So that
    // request stays in flight.
    let settings = [
        ("EARMARK_MAX_IN_FLIGHT_PER_KEY", "1"),
        ("EARMARK_REPLY_TIMEOUT", "300ms"),
        ("EARMARK_RESOLVE_TIMEOUT", "600ms"),
        ("EARMARK_SETTLE_TIMEOUT", "500ms"),
    ];
    let intake = app.start_with("intake", &settings).await;
    let client = app.client(&intake, &business);
    let mut database = app.database().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE allocations IN SHARE MODE").execute(&mut database).await.expect("locked");
    assert_eq!(client.create("ann@example.com", 1).await.status, 504);
    assert_too_many(&client.create_all(&json!([{"email": "bob@example.com", "amount": 1}])).await);
    sqlx::raw_sql("ROLLBACK").execute(&mut database).await.expect("unlocked");
    eventually("it is voided", async || app.count("voided").await == 1).await;
    let worker = app.start("worker").await;
    eventually("the queue is empty", async || app.ready_messages(&app.work_queue()).await == 0).await;
    app.finish([intake, worker]).await;
}
