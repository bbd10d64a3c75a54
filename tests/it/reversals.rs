//! `POST /payout/requests/{request_id}/reverse`, sentence by sentence.

use crate::harness::http::{Answer, Client};
use crate::harness::process::Process;
use crate::harness::{App, Business, assert_allocated, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const ANN: &str = "ann@example.com";

pub async fn serving(payout_balance: i64) -> (App, Process, Business, Client) {
    let app = App::new().await;
    let business = app.create_business(payout_balance);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    (app, process, business, client)
}

/// Allocates, and returns the id of the request.
pub async fn allocate(client: &Client, email: &str, amount: i64) -> String {
    let answer = client.create(email, amount).await;
    assert_allocated(&answer);
    answer.request_id()
}

/// Checks the status, whether money moved, and the body without its id, which must be that of the header.
pub fn assert_told(answer: &Answer, status: u16, moved: &str, body: &Value) {
    let mut shown = answer.json();
    if status == 200 {
        let id = shown.as_object_mut().and_then(|shown| shown.remove("request_id"));
        assert_eq!(id, Some(json!(answer.request_id())), "{answer:?}");
    }
    assert_eq!((answer.status, answer.header("earmark-moved"), &shown), (status, Some(moved), body), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(Uuid::parse_str(&answer.request_id()).is_ok(), "{answer:?}");
    assert_eq!(answer.header("earmark-debited"), None, "only where something is allocated");
}

#[tokio::test]
async fn without_an_amount_all_that_is_left_is_taken_back_and_then_nothing_is_left() {
    let (app, process, _, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    assert_told(&client.reverse(&id).await, 200, "yes", &json!({"reversed": 100, "remaining": 0}));
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), (1_000, 0));
    let nothing = client.reverse(&id).await;
    assert_told(&nothing, 200, "no", &json!({"reversed": 0, "remaining": 0}));
    assert_told(&client.reverse_part("k", &id, 5).await, 200, "no", &json!({"reversed": 0, "remaining": 0}));
    let found = client.get(&format!("/payout/requests/{}", nothing.request_id())).await.json();
    assert_eq!((&found["kind"], &found["state"], found.get("seq")), (&json!("reverse"), &json!("nothing_left"), None));
    app.finish([process]).await;
}

#[tokio::test]
async fn a_misspelt_amount_takes_nothing_back_and_no_body_takes_back_all() {
    let (app, process, _, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    for body in [json!({"amout": 5}), json!({"amount": 5, "email": ANN})] {
        let told = Client::send(client.reverse_request(&id, &body)).await.expect("an answer");
        let words = told.json()["amount"][0].as_str().expect("words").to_owned();
        assert!(told.status == 400 && words.contains("no other fields than amount and reference"), "{told:?}");
    }
    assert_eq!(client.user_balance(ANN).await, 100);
    let bare = client.authorized(Method::POST, &format!("/payout/requests/{id}/reverse"));
    let told = Client::send(bare).await.expect("an answer");
    assert_told(&told, 200, "yes", &json!({"reversed": 100, "remaining": 0}));
    app.finish([process]).await;
}

#[tokio::test]
async fn partial_reversals_may_repeat_and_their_sum_never_exceeds_the_allocation() {
    let (app, process, _, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    let told = client.reverse_part("a", &id, 30).await;
    assert_told(&told, 200, "yes", &json!({"reversed": 30, "remaining": 70}));
    let told = client.reverse_part("b", &id, 30).await;
    assert_told(&told, 200, "yes", &json!({"reversed": 30, "remaining": 40}));
    let told = client.reverse_part("c", &id, 41).await;
    assert_told(&told, 400, "no", &json!({"amount": ["The amount must not be greater than 40."]}));
    assert_told(&client.reverse(&id).await, 200, "yes", &json!({"reversed": 40, "remaining": 0}));
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), (1_000, 0));
    app.finish([process]).await;
}

#[tokio::test]
async fn of_concurrent_reversals_of_one_allocation_exactly_what_is_left_is_taken_back() {
    let (app, process, _, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    let asking = (0..40).map(|number| {
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move { client.reverse_part(&format!("k{number}"), &id, 7).await })
    });
    let mut moved = 0;
    for asked in asking.collect::<Vec<_>>() {
        let answer = asked.await.expect("joined");
        match answer.status {
            200 => moved += answer.json()["reversed"].as_i64().expect("cents"),
            400 => assert_eq!(answer.json(), json!({"amount": ["The amount must not be greater than 2."]})),
            _ => panic!("{answer:?}"),
        }
    }
    assert_eq!((moved, client.payout_balance().await, client.user_balance(ANN).await), (98, 998, 2));
    app.finish([process]).await;
}

#[tokio::test]
async fn it_works_while_payouts_are_disabled() {
    let (app, process, business, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    app.run(&["business", "disable-payouts", &business.id]).expect_success();
    assert_eq!(client.create(ANN, 1).await.status, 403);
    assert_told(&client.reverse(&id).await, 200, "yes", &json!({"reversed": 100, "remaining": 0}));
    app.finish([process]).await;
}

#[tokio::test]
async fn the_users_balance_must_cover_it_and_nothing_forces_it() {
    let (app, process, _, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    assert_eq!(client.settle(ANN, 60, "t").await.status, 200);
    let insufficient = json!({"error": "Insufficient user balance"});
    assert_told(&client.reverse(&id).await, 400, "no", &insufficient);
    assert_told(&client.reverse_part("k", &id, 41).await, 400, "no", &insufficient);
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), (900, 40));
    // A refusal is not remembered under its key.
    allocate(&client, ANN, 1).await;
    assert_told(&client.reverse_part("k", &id, 41).await, 200, "yes", &json!({"reversed": 41, "remaining": 59}));
    app.finish([process]).await;
}

#[tokio::test]
async fn only_an_allocation_can_be_reversed_or_a_settlement() {
    let (app, process, business, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    let settled = client.settle(ANN, 60, "t").await.request_id();
    let refused = client.create(ANN, 5_000).await.request_id();
    let reversal = client.reverse_part("k", &settled, 10).await;
    assert_told(&reversal, 200, "yes", &json!({"reversed": 10, "remaining": 50}));
    assert_eq!(
        (client.payout_balance().await, client.user_balance(ANN).await),
        (900, 50),
        "the money is the user's again"
    );
    let state = client.get(&format!("/payout/requests/{}", reversal.request_id())).await.json();
    assert_eq!((&state["state"], &state["target"]), (&json!("settlement_reversed"), &json!(settled)));
    let only = json!({"error": "Only an allocation can be reversed"});
    // An id that this service made, of a request that it never got.
    let undecided = crate::allocate::request(&business, ANN, 1).id.to_string();
    let mut database = app.database().await;
    let void = crate::allocate::request(&business, ANN, 1).id.to_string();
    sqlx::query("INSERT INTO allocations (business_id, request_id, outcome) VALUES ($1::uuid, $2::uuid, 'voided')")
        .bind(&business.id)
        .bind(&void)
        .execute(&mut database)
        .await
        .expect("voided");
    for other in [&refused, &reversal.request_id(), &undecided, &void] {
        assert_told(&client.reverse(other).await, 400, "no", &only);
    }
    let unknown = json!({"error": "Not found"});
    let elsewhere = app.client(&process, &app.create_business(1_000));
    let foreign = allocate(&elsewhere, ANN, 10).await;
    for other in [foreign.as_str(), &Uuid::new_v4().to_string(), "nonsense", &id.to_uppercase().replace('-', "")] {
        assert_told(&client.reverse(other).await, 404, "no", &unknown);
    }
    assert_eq!(elsewhere.user_balance(ANN).await, 10);
    app.finish([process]).await;
}

#[tokio::test]
async fn with_an_amount_a_key_is_required_and_a_repeat_under_it_is_the_first_success() {
    let (app, process, _, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    let keyless = Client::send(client.reverse_request(&id, &json!({"amount": 5}))).await.expect("an answer");
    assert_told(&keyless, 400, "no", &json!({"error": "An Idempotency-Key is required with an amount."}));
    let first = client.reverse_part("k", &id, 30).await;
    assert_told(&client.reverse(&id).await, 200, "yes", &json!({"reversed": 70, "remaining": 0}));
    let again = client.reverse_part("k", &id, 30).await;
    assert_told(&again, 200, "yes", &json!({"reversed": 30, "remaining": 70}));
    assert_eq!((again.json(), again.header("idempotent-replayed")), (first.json(), Some("true")));
    assert_eq!(client.user_balance(ANN).await, 0);
    let found = client.get("/payout/requests?idempotency_key=k").await.json();
    assert_eq!((&found["request_id"], &found["state"]), (&json!(first.request_id()), &json!("reversed")));
    app.finish([process]).await;
}

#[tokio::test]
async fn a_key_remembers_kind_target_and_amount() {
    let (app, process, _, client) = serving(1_000).await;
    let created = client.create_with_key("k", ANN, 100).await;
    let (id, other) = (created.request_id(), allocate(&client, ANN, 100).await);
    let reused = client.reverse_part("k", &id, 100).await;
    assert_eq!((reused.status, reused.header("earmark-moved")), (422, Some("no")), "{reused:?}");
    assert_eq!(client.reverse_part("r", &id, 10).await.status, 200);
    for reused in [client.reverse_part("r", &other, 10).await, client.reverse_part("r", &id, 11).await] {
        assert_eq!((reused.status, reused.header("earmark-moved")), (422, Some("no")), "{reused:?}");
    }
    let whole = client.reverse_request(&id, &json!({})).header("Idempotency-Key", "r");
    assert_eq!(Client::send(whole).await.expect("an answer").status, 422);
    assert_eq!(client.create_with_key("r", ANN, 10).await.status, 422);
    // A replay repeats the first success, also after that was reversed.
    assert_eq!(client.reverse(&id).await.status, 200);
    let replayed = client.create_with_key("k", ANN, 100).await;
    assert_allocated(&replayed);
    assert_eq!(replayed.json(), created.json());
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), (900, 100));
    app.finish([process]).await;
}

#[tokio::test]
async fn checks_run_in_the_same_order_as_those_of_an_allocation() {
    let (app, process, business, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    let path = format!("/payout/requests/{id}/reverse");
    let unknown = format!("/payout/requests/{}/reverse", Uuid::new_v4());
    let large = "x".repeat(9_000);
    let rows = [
        (Method::GET, path.as_str(), true, "text/plain", "", 405),
        (Method::POST, &path, false, "text/plain", &large, 401),
        (Method::POST, &unknown, true, "text/plain", &large, 404),
        (Method::POST, &path, true, "text/plain", &large, 413),
        (Method::POST, &path, true, "text/plain", "{", 415),
        (Method::POST, &path, true, "application/json", "{", 400),
        (Method::POST, &path, true, "application/json", r#"{"amount":0}"#, 400),
    ];
    for (method, path, with_key, kind, body, status) in rows {
        let request = client.request(method.clone(), path).header("content-type", kind).body(body.to_owned());
        let request = if with_key { request.bearer_auth(&business.secret_key) } else { request };
        let answer = Client::send(request).await.expect("an answer");
        assert_eq!(
            (answer.status, answer.header("earmark-moved")),
            (status, Some("no")),
            "{method} {path}: {answer:?}"
        );
        assert!(Uuid::parse_str(&answer.request_id()).is_ok());
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("POST"));
        }
    }
    let fields = json!({"amount": 0, "reference": 7});
    let told = Client::send(client.reverse_request(&id, &fields)).await.expect("an answer");
    let said = json!({"amount": ["The amount must be at least 1."], "reference": ["The reference must be a string."]});
    assert_told(&told, 400, "no", &said);
    assert_eq!(client.user_balance(ANN).await, 100);
    app.finish([process]).await;
}

const QUICK: [(&str, &str); 4] = [
    ("EARMARK_REPLY_TIMEOUT", "1s"),
    ("EARMARK_SETTLE_TIMEOUT", "1s"),
    ("EARMARK_RESOLVE_TIMEOUT", "2s"),
    ("EARMARK_SHUTDOWN_GRACE", "5s"),
];

#[tokio::test]
async fn a_500_never_moves_money_however_late_the_message_is_applied() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let (intake, worker) = (app.start_with("intake", &QUICK).await, app.start("worker").await);
    let client = app.client(&intake, &business);
    let id = allocate(&client, ANN, 100).await;
    worker.terminate().await;
    let said = json!({"error": "An unexpected error occurred. No funds were debited."});
    let (whole, part) = (client.reverse(&id).await, client.reverse_part("k", &id, 10).await);
    let settled = client.settle(ANN, 5, "t").await;
    for answer in [&whole, &part, &settled] {
        assert_told(answer, 500, "no", &said);
    }
    let worker = app.start("worker").await;
    worker.until_logged("voided before it arrived").await;
    eventually("the queue is empty", async || app.ready_messages(&app.work_queue()).await == 0).await;
    for answer in [&whole, &part, &settled] {
        let found = client.get(&format!("/payout/requests/{}", answer.request_id())).await.json();
        assert_eq!(found["state"], "voided", "{found}");
    }
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), (900, 100));
    // A retry after it succeeds.
    assert_told(&client.reverse_part("k", &id, 10).await, 200, "yes", &json!({"reversed": 10, "remaining": 90}));
    assert_told(&client.settle(ANN, 5, "t").await, 200, "yes", &json!({"balance": 85}));
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_message_that_comes_again_is_answered_from_its_row() {
    let (app, process, business, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    process.terminate().await;
    let mut once = crate::allocate::request(&business, ANN, 1);
    once.movement = earmark::ledger::Movement::Reverse {
        target: earmark::ledger::RequestId::from_u128(Uuid::parse_str(&id).expect("an id").as_u128()),
        amount: earmark::ledger::Amount::from_cents(30).ok(),
    };
    for _ in 0..3 {
        let body = crate::allocate::message(&app, &[&once, &once], &[]);
        crate::allocate::publish(&app, &body).await;
    }
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    eventually("all are settled", async || app.ready_messages(&app.work_queue()).await == 0).await;
    eventually("it is applied", async || app.count("reversed").await == 1).await;
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), (930, 70));
    app.finish([process]).await;
}
