//! `POST /payout/user/settle`, sentence by sentence.

use crate::harness::http::Client;
use crate::reversals::{allocate, assert_told, serving};
use serde_json::json;

const ANN: &str = "ann@example.com";

#[tokio::test]
async fn money_that_was_paid_out_elsewhere_leaves_the_users_balance_and_no_other() {
    let (app, process, business, client) = serving(1_000).await;
    allocate(&client, ANN, 100).await;
    assert_told(&client.settle(ANN, 60, "t").await, 200, "yes", &json!({"balance": 40}));
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), (900, 40));
    let insufficient = json!({"error": "Insufficient user balance"});
    assert_told(&client.settle(ANN, 41, "u").await, 400, "no", &insufficient);
    assert_told(&client.settle("bob@example.com", 1, "v").await, 400, "no", &insufficient);
    // It works while payouts are disabled.
    app.run(&["business", "disable-payouts", &business.id]).expect_success();
    assert_told(&client.settle(" Ann@Example.com", 40, "w").await, 200, "yes", &json!({"balance": 0}));
    app.finish([process]).await;
}

#[tokio::test]
async fn the_reference_is_required_and_is_the_key() {
    let (app, process, _, client) = serving(1_000).await;
    allocate(&client, ANN, 100).await;
    for missing in [json!({"email": ANN, "amount": 5}), json!({"email": ANN, "amount": 5, "reference": " "})] {
        let request = client.authorized(reqwest::Method::POST, "/payout/user/settle").json(&missing);
        let told = Client::send(request).await.expect("an answer");
        assert_told(&told, 400, "no", &json!({"reference": ["The reference field is required."]}));
    }
    let empty =
        Client::send(client.settle_request(ANN, 5, "t").header("Idempotency-Key", "")).await.expect("an answer");
    let keyed = client.settle_request(ANN, 5, "t").header("Idempotency-Key", "t");
    let told = Client::send(keyed).await.expect("an answer");
    let said = json!({"error": "A settlement takes no Idempotency-Key: its reference is its key."});
    assert_told(&told, 400, "no", &said);
    assert_told(&empty, 400, "no", &said);
    let first = client.settle(ANN, 60, "Überweisung 7").await;
    assert_told(&first, 200, "yes", &json!({"balance": 40}));
    allocate(&client, ANN, 1).await;
    let again = client.settle(ANN, 60, " Überweisung 7 ").await;
    assert_eq!((again.json(), again.header("idempotent-replayed")), (first.json(), Some("true")));
    for (email, amount) in [(ANN, 59), ("bob@example.com", 60)] {
        let reused = client.settle(email, amount, "Überweisung 7").await;
        assert_eq!((reused.status, reused.header("earmark-moved")), (422, Some("no")), "{reused:?}");
        assert!(reused.json()["error"].as_str().is_some_and(|said| said.contains("reference")));
    }
    assert_eq!(client.user_balance(ANN).await, 41);
    app.finish([process]).await;
}

#[tokio::test]
async fn references_of_settlements_are_no_keys_of_clients() {
    let (app, process, _, client) = serving(1_000).await;
    assert_eq!(client.create_with_key("k", ANN, 100).await.status, 200);
    assert_told(&client.settle(ANN, 10, "k").await, 200, "yes", &json!({"balance": 90}));
    assert_eq!(client.create_with_key("j", ANN, 100).await.status, 200);
    let found = client.get("/payout/requests?idempotency_key=k").await.json();
    assert_eq!(found["kind"], "allocate");
    app.finish([process]).await;
}

#[tokio::test]
async fn refusals_leave_the_reference_free_and_a_reversed_settlement_keeps_it() {
    let (app, process, _, client) = serving(1_000).await;
    let refused = client.settle(ANN, 60, "t").await;
    assert_told(&refused, 400, "no", &json!({"error": "Insufficient user balance"}));
    allocate(&client, ANN, 100).await;
    let settled = client.settle(ANN, 60, "t").await;
    assert_told(&settled, 200, "yes", &json!({"balance": 40}));
    assert_told(&client.reverse(&settled.request_id()).await, 200, "yes", &json!({"reversed": 60, "remaining": 0}));
    let again = client.settle(ANN, 60, "t").await;
    assert_eq!((again.json(), again.header("idempotent-replayed")), (settled.json(), Some("true")));
    assert_eq!((client.user_balance(ANN).await, client.payout_balance().await), (100, 900));
    app.finish([process]).await;
}

#[tokio::test]
async fn of_a_settlement_and_a_reversal_of_the_same_money_one_succeeds() {
    let (app, process, _, client) = serving(10_000).await;
    for number in 0..20 {
        let email = format!("user{number}@example.com");
        let id = allocate(&client, &email, 100).await;
        let reference = format!("t{number}");
        let (settled, reversed) = tokio::join!(client.settle(&email, 60, &reference), client.reverse(&id));
        let told = (settled.status, reversed.status);
        assert!([(200, 400), (400, 200)].contains(&told), "{settled:?} {reversed:?}");
        assert_eq!(client.user_balance(&email).await, if told.0 == 200 { 40 } else { 0 });
    }
    app.finish([process]).await;
}
