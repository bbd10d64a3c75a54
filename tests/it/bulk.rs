//! Bulk calls, which hold many allocations, and references.

use crate::harness::http::{Answer, Client};
use crate::harness::process::Process;
use crate::harness::{App, Business, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio::task::JoinHandle;

async fn serving(payout_balance: i64) -> (App, Process, Business, Client) {
    let app = App::new().await;
    let business = app.create_business(payout_balance);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    (app, process, business, client)
}

/// The status, the debited value and the text of each result.
fn told(answer: &Answer) -> Vec<(u64, String, String)> {
    let shown = answer.json();
    let results = shown["results"].as_array().unwrap_or_else(|| panic!("no results: {answer:?}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    results
        .iter()
        .map(|result| {
            let said = if result["errors"].is_object() { result["errors"].to_string() } else { text(&result["error"]) };
            (result["status"].as_u64().expect("a status"), text(&result["debited"]), said)
        })
        .collect()
}

fn assert_outer(answer: &Answer, status: u16, debited: &str) {
    assert_eq!((answer.status, answer.header("earmark-debited")), (status, Some(debited)), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(uuid::Uuid::parse_str(&answer.request_id()).is_ok());
}

#[tokio::test]
async fn each_item_of_a_bulk_call_is_decided_as_if_it_were_posted_alone() {
    let (app, process, _, client) = serving(1_000).await;
    let answer = client
        .create_all(&json!([
            {"email": " Ann@example.com", "amount": 600, "reference": "Invoice 1"},
            {"email": "nope", "amount": 0, "reference": 7},
            [],
            {"email": "bob@example.com", "amount": 1_001},
            {"email": "ann@example.com", "amount": 400, "note": "ignored"},
        ]))
        .await;
    assert_outer(&answer, 200, "partial");
    let errors = json!({
        "email": ["The email must be a valid email address."],
        "amount": ["The amount must be at least 1."],
        "reference": ["The reference must be a string."],
    });
    let no = || "no".to_owned();
    let told = told(&answer);
    assert_eq!(told[0], (200, "yes".to_owned(), String::new()));
    assert_eq!(told[1], (400, no(), errors.to_string()));
    assert_eq!(told[2], (400, no(), "The allocation must be a JSON object.".to_owned()));
    assert_eq!(told[3], (400, no(), "Insufficient payout balance".to_owned()));
    assert_eq!((told[4].0, told.len()), (200, 5));
    let results = answer.json()["results"].clone();
    assert_eq!(results[0]["hash"], client.get("/payout/user?email=ann@example.com").await.json()["hash"]);
    assert!(results[1].get("request_id").is_none(), "it never became a request: {results}");
    let looked_up =
        client.get(&format!("/payout/requests/{}", results[0]["request_id"].as_str().expect("an id"))).await;
    assert_eq!(
        (&looked_up.json()["state"], &looked_up.json()["reference"]),
        (&json!("allocated"), &json!("Invoice 1"))
    );
    let refused = client.get(&format!("/payout/requests/{}", results[3]["request_id"].as_str().expect("an id"))).await;
    assert_eq!((&refused.json()["state"], refused.json().get("reference")), (&json!("insufficient_balance"), None));
    assert_eq!((client.payout_balance().await, client.user_balance("ann@example.com").await), (0, 1_000));
    app.finish([process]).await;
}

#[tokio::test]
async fn an_item_with_a_key_of_its_own_is_known_by_it_in_every_call_and_alone() {
    let (app, process, _, client) = serving(1_000).await;
    let item = |key: &str, name: &str, amount: i64| json!({"email": format!("{name}@example.com"), "amount": amount, "idempotency_key": key});
    let statuses = |answer: &Answer| told(answer).iter().map(|item| item.0).collect::<Vec<_>>();
    let first = client.create_all(&json!([item("k-1", "ann", 5), item("k-2", "bob", 6), item("a b", "eve", 7)])).await;
    assert_outer(&first, 200, "partial");
    assert_eq!(statuses(&first), [200, 200, 400]);
    let said =
        json!({"idempotency_key": ["The idempotency_key must be a string of 1 to 255 visible ASCII characters."]});
    assert_eq!(told(&first)[2].2, said.to_string());
    // In another call, at another place, under the key of a call, and posted alone.
    let again = json!([item("k-3", "carl", 1), item("k-2", "bob", 6), item("k-1", "ann", 50), item("k-1", "ann", 5)]);
    let second = client.create_all_with_key("friday", &again).await;
    assert_eq!(statuses(&second), [200, 200, 422, 200]);
    let (first, second) = (first.json()["results"].clone(), second.json()["results"].clone());
    assert_eq!((&second[1]["replayed"], &second[1]["request_id"]), (&json!(true), &first[1]["request_id"]));
    assert_eq!((&second[3]["replayed"], &second[3]["request_id"]), (&json!(true), &first[0]["request_id"]));
    let alone = client.create_with_key("k-1", "ann@example.com", 5).await;
    assert_eq!((alone.status, alone.header("idempotent-replayed")), (200, Some("true")));
    let found = client.get("/payout/requests?idempotency_key=k-3").await.json();
    assert_eq!(found["request_id"], second[0]["request_id"]);
    assert_eq!(client.payout_balance().await, 1_000 - 5 - 6 - 1);
    // An item without one has the key of the call and of its place.
    assert_eq!(client.get("/payout/requests?idempotency_key=friday%200").await.status, 404);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_repeat_under_the_same_key_finishes_what_is_missing_and_repeats_nothing() {
    let (app, process, business, client) = serving(150).await;
    let items = json!([
        {"email": "ann@example.com", "amount": 100},
        {"email": "bob@example.com", "amount": 10_000},
        {"email": "ann@example.com", "amount": 50},
    ]);
    let first = client.create_all_with_key("friday", &items).await;
    assert_outer(&first, 200, "partial");
    assert_eq!(told(&first).iter().map(|item| item.0).collect::<Vec<_>>(), [200, 400, 200]);
    app.run(&["business", "fund", &business.id, "--amount", "20000"]).expect_success();
    let again = client.create_all_with_key("friday", &items).await;
    assert_outer(&again, 200, "yes");
    assert_eq!(told(&again).iter().map(|item| item.0).collect::<Vec<_>>(), [200, 200, 200]);
    let (before, after) = (first.json()["results"].clone(), again.json()["results"].clone());
    for place in [0, 2] {
        assert_eq!(after[place]["replayed"], json!(true));
        assert_eq!(after[place]["request_id"], before[place]["request_id"], "the request that was allocated");
    }
    assert_eq!(after[1].get("replayed"), None);
    // Other items under the same key: a changed item is refused, and an unchanged one gets its first answer again.
    let mut other = items.clone();
    other[0]["amount"] = json!(101);
    other[1]["reference"] = json!("named later");
    assert_eq!(
        told(&client.create_all_with_key("friday", &other).await).iter().map(|item| item.0).collect::<Vec<_>>(),
        [422, 200, 200],
        "an Idempotency-Key stands for an address and an amount; the reference is not compared"
    );
    // Each item has its own key, such as `friday 0`. A caller cannot send such a key, and `friday` itself is still
    // free.
    assert_eq!(client.create_with_key("friday", "eve@example.com", 7).await.status, 200);
    assert_eq!(client.create_with_key("friday 0", "eve@example.com", 7).await.status, 400);
    let found = client.get("/payout/requests?idempotency_key=friday%201").await.json();
    assert_eq!(found["request_id"], after[1]["request_id"]);
    let balances = ["ann", "bob", "eve"].map(|name| format!("{name}@example.com"));
    let mut seen = vec![];
    for email in &balances {
        seen.push(client.user_balance(email).await);
    }
    assert_eq!(seen, [150, 10_000, 7]);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_bulk_call_is_an_array_of_one_to_a_thousand_items_in_at_most_a_mebibyte() {
    let (app, process, _, client) = serving(1_000_000).await;
    let items = |count: usize| Value::from(vec![json!({"email": "ann@example.com", "amount": 3}); count]);
    let answer = client.create_all(&items(1_000)).await;
    assert_outer(&answer, 200, "yes");
    let ids: BTreeSet<String> = answer.json()["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|item| item["request_id"].to_string())
        .collect();
    assert_eq!((ids.len(), client.user_balance("ann@example.com").await), (1_000, 3_000));
    for (items, message) in [
        (items(1_001), "The allocations must not have more than 1000 items."),
        (items(0), "The allocations field is required."),
        (Value::Null, "The allocations field is required."),
        (json!("x"), "The allocations must be an array."),
    ] {
        let answer = client.create_all(&items).await;
        assert_outer(&answer, 400, "no");
        assert_eq!(answer.json(), json!({"allocations": [message]}));
    }
    let padded =
        client.create_all(&json!([{"email": "ann@example.com", "amount": 3, "note": "x".repeat(1 << 20)}])).await;
    assert_outer(&padded, 413, "no");
    let broken = Client::send(client.bulk_request(&items(1)).body("{\"allocations\":[")).await.expect("an answer");
    assert_outer(&broken, 400, "no");
    assert_eq!(broken.json(), json!({"error": "The request body must be a JSON object."}));
    assert_outer(&Client::send(client.bulk_request(&items(1)).bearer_auth("x")).await.expect("an answer"), 401, "no");
    let bad_key = client.bulk_request(&items(1)).header("Idempotency-Key", "a b");
    assert_outer(&Client::send(bad_key).await.expect("an answer"), 400, "no");
    assert_eq!(client.user_balance("ann@example.com").await, 3_000);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_bulk_call_with_more_items_than_may_be_in_flight_goes_through() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let process = app.start_with("serve", &[("EARMARK_MAX_IN_FLIGHT", "8")]).await;
    let client = app.client(&process, &business);
    let items = (0..100).map(|user| json!({"email": format!("user{user}@example.com"), "amount": 7}));
    let answer = client.create_all(&items.collect()).await;
    assert_outer(&answer, 200, "yes");
    assert_eq!(client.payout_balance().await, 1_000_000 - 700);
    app.finish([process]).await;
}

/// `count` allocations of one cent each, to different users whose names begin with `name`.
fn payouts(name: &str, count: usize) -> Value {
    (0..count).map(|user| json!({"email": format!("{name}{user}@example.com"), "amount": 1})).collect()
}

fn statuses(answer: &Answer) -> Vec<u64> {
    told(answer).into_iter().map(|(status, ..)| status).collect()
}

fn call(client: &Client, allocations: Value) -> JoinHandle<Answer> {
    let client = client.clone();
    tokio::spawn(async move { client.create_all(&allocations).await })
}

async fn until_in_flight(intake: &Process, count: f64) {
    eventually(&format!("{count} in flight"), async || {
        intake.metric("earmark_requests_in_flight").await == Some(count)
    })
    .await;
}

/// The reply timeout is too long to be reached, even on a busy machine.
const PATIENT: [(&str, &str); 2] = [("EARMARK_REPLY_TIMEOUT", "25s"), ("EARMARK_SHUTDOWN_GRACE", "60s")];

#[tokio::test]
async fn sixteen_callers_with_a_thousand_items_each_wait_in_a_fair_queue_and_none_is_refused() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let process = app.start_with("serve", &PATIENT).await;
    let client = app.client(&process, &business);
    let calls: Vec<_> = (0..16).map(|caller| call(&client, payouts(&format!("{caller}-"), 1_000))).collect();
    for answer in calls {
        assert_outer(&answer.await.expect("joined"), 200, "yes");
    }
    assert_eq!(client.payout_balance().await, 1_000_000 - 16_000);
    app.finish([process]).await;
}

#[tokio::test]
async fn many_callers_share_what_little_may_be_in_flight() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    for most in ["1", "20"] {
        let process = app.start_with("serve", &[&PATIENT[..], &[("EARMARK_MAX_IN_FLIGHT", most)]].concat()).await;
        let client = app.client(&process, &business);
        let calls: Vec<_> = (0..16).map(|caller| call(&client, payouts(&format!("{caller}-"), 20))).collect();
        for answer in calls {
            assert_outer(&answer.await.expect("joined"), 200, "yes");
        }
        process.terminate().await;
    }
    assert_eq!(app.count("allocated").await, 2 * 16 * 20);
    app.finish([]).await;
}

#[tokio::test]
async fn a_small_call_is_answered_while_the_large_ones_before_it_go_on() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let process = app.start_with("serve", &[&PATIENT[..], &[("EARMARK_MAX_IN_FLIGHT", "16")]].concat()).await;
    let client = app.client(&process, &business);
    let large: Vec<_> = (0..5).map(|caller| call(&client, payouts(&format!("{caller}-"), 300))).collect();
    eventually("the large ones are at work", async || app.count("allocated").await > 50).await;
    assert_outer(&client.create_all(&payouts("small", 5)).await, 200, "yes");
    assert!(
        large.iter().all(|call| !call.is_finished()),
        "the large calls came first, and each has 60 times as many items"
    );
    for answer in large {
        assert_outer(&answer.await.expect("joined"), 200, "yes");
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn bulk_leaves_room_for_requests_that_are_posted_alone() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // No worker runs yet.
    let intake = app.start_with("intake", &[&PATIENT[..], &[("EARMARK_MAX_IN_FLIGHT", "8")]].concat()).await;
    let client = app.client(&intake, &business);
    let bulk = [call(&client, payouts("a", 40)), call(&client, payouts("b", 40))];
    until_in_flight(&intake, 4.0).await;
    let alone: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.create("ann@example.com", 1).await })
        })
        .collect();
    until_in_flight(&intake, 8.0).await;
    assert_eq!(client.create("ann@example.com", 1).await.status, 503, "now all places are taken");
    let worker = app.start("worker").await;
    for answer in alone {
        assert_eq!(answer.await.expect("joined").status, 200);
    }
    for answer in bulk {
        assert_outer(&answer.await.expect("joined"), 200, "yes");
    }
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn an_item_that_finds_no_room_within_the_reply_budget_is_a_503_of_that_item() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // No worker runs, and the test's table lock stops the intake from voiding the request that it gave up on. So that
    // request stays in flight.
    let settings = [
        ("EARMARK_MAX_IN_FLIGHT", "1"),
        ("EARMARK_REPLY_TIMEOUT", "300ms"),
        ("EARMARK_RESOLVE_TIMEOUT", "600ms"),
        ("EARMARK_SETTLE_TIMEOUT", "500ms"),
    ];
    let intake = app.start_with("intake", &settings).await;
    let client = app.client(&intake, &business);
    let mut database = app.database().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE allocations IN SHARE MODE").execute(&mut database).await.expect("locked");
    assert_eq!(client.create("ann@example.com", 1).await.status, 504);
    let good = json!({"email": "bob@example.com", "amount": 1});
    let answer = client.create_all(&json!([{"email": "x", "amount": 1}, good])).await;
    assert_outer(&answer, 200, "no");
    let message = "Service temporarily unavailable. No funds were debited by this request.".to_owned();
    assert_eq!(told(&answer)[1], (503, "no".to_owned(), message));
    assert!(answer.json()["results"][1].get("request_id").is_none(), "it never became a request");
    let refused = client.create_all(&json!([good, good])).await;
    assert_outer(&refused, 503, "no");
    assert_eq!(refused.header("retry-after"), Some("1"));
    sqlx::raw_sql("ROLLBACK").execute(&mut database).await.expect("unlocked");
    until_in_flight(&intake, 0.0).await;
    let worker = app.start("worker").await;
    eventually("the queue is empty", async || app.ready_messages(&app.work_queue()).await == 0).await;
    assert_eq!((client.user_balance("bob@example.com").await, app.count("voided").await), (0, 1));
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_repeat_under_the_key_finishes_what_there_was_no_room_for() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // No worker runs. The one request in flight takes as long as the other items may wait.
    let settings = [("EARMARK_MAX_IN_FLIGHT", "1"), ("EARMARK_REPLY_TIMEOUT", "300ms")];
    let intake = app.start_with("intake", &settings).await;
    let client = app.client(&intake, &business);
    let items = payouts("user", 3);
    let first = client.create_all_with_key("friday", &items).await;
    assert_outer(&first, 200, "no");
    let mut seen = statuses(&first);
    seen.sort_unstable();
    assert_eq!(seen, [500, 503, 503]);
    intake.terminate().await;
    let process = app.start_with("serve", &PATIENT).await;
    let again = client.at(process.url()).create_all_with_key("friday", &items).await;
    assert_outer(&again, 200, "yes");
    assert_eq!(statuses(&again), [200, 200, 200]);
    app.finish([process]).await;
}

#[tokio::test]
async fn items_that_wait_when_the_process_is_told_to_go_are_503_and_what_is_in_flight_is_finished() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let mut intake = app.start_with("intake", &[&PATIENT[..], &[("EARMARK_MAX_IN_FLIGHT", "4")]].concat()).await;
    let client = app.client(&intake, &business);
    let calling = call(&client, payouts("user", 5));
    until_in_flight(&intake, 2.0).await;
    intake.signal("TERM");
    intake.until_logged("intake drains").await;
    let worker = app.start("worker").await;
    let answer = calling.await.expect("joined");
    assert_outer(&answer, 200, "partial");
    let mut seen = statuses(&answer);
    seen.sort_unstable();
    assert_eq!(seen, [200, 200, 503, 503, 503]);
    assert!(intake.ended().await.success());
    app.finish([worker]).await;
}

#[tokio::test]
async fn a_call_beyond_those_that_may_wait_is_a_503_at_once() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let intake = app.start_with("intake", &[&PATIENT[..], &[("EARMARK_MAX_BULK_CALLS", "1")]].concat()).await;
    let client = app.client(&intake, &business);
    let first = call(&client, payouts("a", 2));
    until_in_flight(&intake, 2.0).await;
    let refused = client.create_all(&payouts("b", 2)).await;
    assert_outer(&refused, 503, "no");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(!first.is_finished());
    let worker = app.start("worker").await;
    assert_outer(&first.await.expect("joined"), 200, "yes");
    assert_outer(&client.create_all(&payouts("b", 2)).await, 200, "yes");
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_bulk_call_of_which_nothing_was_published_is_a_503() {
    let (app, process, _, client) = serving(1_000).await;
    app.delete_queue(&app.work_queue()).await;
    process.signal("TERM");
    process.until_logged("intake drains").await;
    let answer =
        client.create_all(&json!([{"email": "ann@example.com", "amount": 1}, {"email": "b@b.co", "amount": 1}])).await;
    assert_outer(&answer, 503, "no");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let message = "Service temporarily unavailable. No funds were debited by this request.";
    assert_eq!(answer.json(), json!({"error": message}));
    drop(process);
    assert_eq!(app.count("allocated").await, 0);
    app.discard().await;
}

#[tokio::test]
async fn items_that_nobody_decided_in_time_are_voided_one_by_one_and_the_call_says_so() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // No worker runs.
    let intake = app.start_with("intake", &[("EARMARK_REPLY_TIMEOUT", "300ms")]).await;
    let client = app.client(&intake, &business);
    let answer =
        client.create_all(&json!([{"email": "ann@example.com", "amount": 1}, {"email": "x", "amount": 1}])).await;
    assert_outer(&answer, 200, "no");
    let told = told(&answer);
    let voided = "An unexpected error occurred. No funds were debited.".to_owned();
    assert_eq!(told[0], (500, "no".to_owned(), voided));
    assert_eq!(told[1].0, 400);
    let worker = app.start("worker").await;
    eventually("the queue is empty", async || app.ready_messages(&app.work_queue()).await == 0).await;
    assert_eq!((client.payout_balance().await, app.count("voided").await), (1_000, 1));
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn an_unknown_outcome_of_one_item_is_a_504_of_the_whole_with_all_results() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // No worker runs, and the test's table lock delays the void until it is too late.
    let settings =
        [("EARMARK_REPLY_TIMEOUT", "300ms"), ("EARMARK_RESOLVE_TIMEOUT", "600ms"), ("EARMARK_SETTLE_TIMEOUT", "500ms")];
    let intake = app.start_with("intake", &settings).await;
    let client = app.client(&intake, &business);
    let mut database = app.database().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE allocations IN SHARE MODE").execute(&mut database).await.expect("locked");
    let answer =
        client.create_all(&json!([{"email": "ann@example.com", "amount": 1}, {"email": "x", "amount": 1}])).await;
    assert_outer(&answer, 504, "unknown");
    let told = told(&answer);
    assert_eq!(told[0], (504, "unknown".to_owned(), "The outcome is not known yet.".to_owned()));
    assert_eq!((told[1].0, told[1].1.as_str()), (400, "no"));
    sqlx::raw_sql("ROLLBACK").execute(&mut database).await.expect("unlocked");
    let id = answer.json()["results"][0]["request_id"].as_str().expect("an id").to_owned();
    eventually("the look-up is final", async || {
        client.get(&format!("/payout/requests/{id}")).await.json()["state"] == "voided"
    })
    .await;
    let worker = app.start("worker").await;
    eventually("the queue is empty", async || app.ready_messages(&app.work_queue()).await == 0).await;
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_no_item() {
    let app = App::new().await;
    let business = app.create_business(100_000);
    let intake = app.start("intake").await;
    let client = app.client(&intake, &business);
    let items = Value::from(vec![json!({"email": "ann@example.com", "amount": 10}); 50]);
    let calling = tokio::spawn({
        let client = client.clone();
        async move { client.create_all(&items).await }
    });
    eventually("all are published", async || app.ready_messages(&app.work_queue()).await > 0).await;
    calling.abort();
    let worker = app.start("worker").await;
    eventually("all are allocated", async || client.user_balance("ann@example.com").await == 500).await;
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_reference_is_kept_with_whatever_was_decided() {
    let (app, process, business, client) = serving(100).await;
    let post = async |reference: Value, amount: i64| {
        let body = json!({"email": "ann@example.com", "amount": amount, "reference": reference});
        Client::send(client.create_request("", 0).json(&body)).await.expect("an answer")
    };
    let state = async |answer: Answer| {
        let shown = client.get(&format!("/payout/requests/{}", answer.request_id())).await.json();
        (shown["state"].as_str().expect("a state").to_owned(), shown.get("reference").cloned())
    };
    let seven = || Some(json!("Rechnung „7“, Käse"));
    assert_eq!(state(post(json!("  Rechnung „7“, Käse "), 10).await).await, ("allocated".to_owned(), seven()));
    assert_eq!(
        state(post(json!("Rechnung „7“, Käse"), 1_000).await).await,
        ("insufficient_balance".to_owned(), seven())
    );
    assert_eq!(state(post(Value::Null, 1).await).await, ("allocated".to_owned(), None));
    assert_eq!(state(post(json!(" "), 1).await).await, ("allocated".to_owned(), None));
    app.run(&["business", "disable-payouts", &business.id]).expect_success();
    assert_eq!(state(post(json!("x"), 10).await).await, ("payouts_disabled".to_owned(), Some(json!("x"))));
    for (reference, message) in [
        (json!(7), "The reference must be a string."),
        (json!("x".repeat(256)), "The reference must not be greater than 255 characters."),
        (json!("a\u{0}b"), "The reference must not contain control characters."),
    ] {
        let answer = post(reference, 10).await;
        assert_eq!((answer.status, answer.json()), (400, json!({"reference": [message]})));
    }
    process.terminate().await;
    // A voided request keeps its reference too.
    let intake = app.start_with("intake", &[("EARMARK_REPLY_TIMEOUT", "200ms")]).await;
    let body = json!({"email": "ann@example.com", "amount": 5, "reference": "late"});
    let client = client.at(intake.url());
    let answer = Client::send(client.create_request("", 0).json(&body)).await.expect("an answer");
    assert_eq!(answer.status, 500);
    let shown = client.get(&format!("/payout/requests/{}", answer.request_id())).await.json();
    assert_eq!((&shown["state"], &shown["reference"]), (&json!("voided"), &json!("late")));
    let worker = app.start("worker").await;
    eventually("the queue is empty", async || app.ready_messages(&app.work_queue()).await == 0).await;
    app.finish([intake, worker]).await;
}
