//! What one API key may ask for.

use crate::harness::http::Answer;
use crate::harness::{App, assert_allocated};
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
    let list = Value::from(vec![json!({"email": "ann@example.com", "amount": 1}); 50]);
    let answer = client.create_all(&list).await;
    assert_eq!(answer.status, 200, "a list longer than a second's worth passes when a second is saved up: {answer:?}");
    // Fifty seconds' worth is used: nothing passes until they are over, as a list or alone.
    let wait = assert_too_many(&client.create("ann@example.com", 1).await);
    assert!((1..=50).contains(&wait), "{wait}");
    assert_too_many(&client.create_all(&list).await);
    assert_eq!(client.create("nope", 1).await.status, 400, "what is no allocation counts for nothing");
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
    let list = Value::from(vec![json!({"email": "ann@example.com", "amount": 1}); 30]);
    assert_too_many(&client.create_all(&list).await);
    waiting.push(post(&other));
    app.until_queue_holds(&app.work_queue(), 3).await;
    let worker = app.start("worker").await;
    for asked in waiting {
        assert_allocated(&asked.await.expect("joined"));
    }
    let answer = client.create_all(&list).await;
    assert_eq!((answer.status, answer.header("earmark-debited")), (200, Some("yes")), "as many at once as may be");
    app.finish([intake, worker]).await;
}
