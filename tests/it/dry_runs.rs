//! `?dry_run=true`, and what else a query may have where money moves: nothing.

use crate::harness::App;
use crate::harness::http::{Answer, Client};
use crate::reversals::{allocate, serving};
use serde_json::{Value, json};

const ANN: &str = "ann@example.com";

/// Sends a call as it is and as a dry run before, and checks that the dry run said what came then, and did nothing.
async fn foretold(client: &Client, path: &str, key: Option<&str>, body: &Value) -> Answer {
    let send = async |query: &str| {
        let request = client.authorized(reqwest::Method::POST, &format!("{path}{query}")).json(body);
        let request = key.into_iter().fold(request, |request, key| request.header("Idempotency-Key", key));
        Client::send(request).await.expect("an answer")
    };
    let before = (client.payout_balance().await, client.user_balance(ANN).await);
    let (first, dry) = (send("?dry_run=true").await, send("?dry_run=true").await);
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), before, "nothing moved");
    assert_eq!((first.status, first.json()), (dry.status, dry.json()), "a dry run changes no other");
    assert_eq!(dry.header("earmark-moved"), Some("no"), "{dry:?}");
    let done = send("").await;
    assert_eq!(dry.status, done.status, "{dry:?} {done:?}");
    assert_eq!(dry.header("idempotent-replayed"), done.header("idempotent-replayed"));
    let (mut said, mut came) = (dry.json(), done.json());
    assert_eq!(said.as_object_mut().and_then(|said| said.remove("dry_run")), Some(json!(true)), "{dry:?}");
    came.as_object_mut().expect("an object").remove("request_id");
    assert_eq!(said, came, "{path} {body}");
    done
}

#[tokio::test]
async fn a_dry_run_says_what_the_answer_would_be_and_moves_nothing() {
    let (app, process, business, client) = serving(1_000).await;
    let create = "/payout/create";
    let asked = |email: &str, amount: i64| json!({"email": email, "amount": amount});
    assert_eq!(foretold(&client, create, None, &asked(ANN, 100)).await.status, 200);
    assert_eq!(foretold(&client, create, Some("k"), &asked(ANN, 100)).await.status, 200);
    assert_eq!(
        foretold(&client, create, Some("k"), &asked(ANN, 100)).await.header("idempotent-replayed"),
        Some("true")
    );
    assert_eq!(foretold(&client, create, Some("k"), &asked(ANN, 101)).await.status, 422);
    assert_eq!(foretold(&client, create, None, &asked(ANN, 801)).await.status, 400);
    // Also what is refused before anything is decided.
    assert_eq!(foretold(&client, create, None, &asked("ann", 0)).await.status, 400);
    assert_eq!(foretold(&client, create, None, &json!([])).await.status, 400);
    assert_eq!(foretold(&client, create, Some(""), &asked(ANN, 1)).await.status, 400);
    let nobodys = format!("/payout/requests/{}/reverse", uuid::Uuid::nil());
    assert_eq!(foretold(&client, &nobodys, None, &json!({})).await.status, 404);
    assert_eq!(foretold(&client, "/payout/create/bulk", None, &json!({"allocations": []})).await.status, 400);
    let stranger = client.request(reqwest::Method::POST, "/payout/create?dry_run=true").json(&asked(ANN, 1));
    let told = Client::send(stranger).await.expect("an answer");
    assert_eq!((told.status, told.json()), (401, json!({"error": "Unauthorized", "dry_run": true})));
    let id = allocate(&client, ANN, 100).await;
    let reverse = format!("/payout/requests/{id}/reverse");
    assert_eq!(foretold(&client, &reverse, Some("r"), &json!({"amount": 101})).await.status, 400);
    assert_eq!(foretold(&client, &reverse, Some("r"), &json!({"amount": 30})).await.status, 200);
    assert_eq!(foretold(&client, &reverse, None, &json!({})).await.json()["reversed"], 70);
    let settled = json!({"email": ANN, "amount": 150, "reference": "t"});
    assert_eq!(foretold(&client, "/payout/user/settle", None, &settled).await.json()["balance"], 50);
    let other = allocate(&client, ANN, 100).await;
    let reverse = format!("/payout/requests/{other}/reverse");
    assert_eq!(client.settle(ANN, 100, "u").await.status, 200);
    assert_eq!(foretold(&client, &reverse, None, &json!({})).await.status, 400);
    app.run(&["business", "disable-payouts", &business.id]).expect_success();
    assert_eq!(foretold(&client, create, None, &asked(ANN, 1)).await.status, 403);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_dry_run_of_bulk_decides_its_items_in_their_order() {
    let (app, process, _, client) = serving(100).await;
    let items = json!([{"email": ANN, "amount": 60}, {"email": ANN, "amount": 0}, {"email": ANN, "amount": 60},
        {"email": "bob@example.com", "amount": 40}]);
    let request = client.authorized(reqwest::Method::POST, "/payout/create/bulk?dry_run=true");
    let told = Client::send(request.json(&json!({"allocations": items}))).await.expect("an answer");
    assert_eq!(
        (told.status, told.header("earmark-debited"), told.header("earmark-moved")),
        (200, Some("no"), Some("no"))
    );
    let shown = told.json();
    assert_eq!(shown["dry_run"], json!(true));
    let results = shown["results"].as_array().expect("results");
    let statuses: Vec<u64> = results.iter().filter_map(|result| result["status"].as_u64()).collect();
    assert_eq!(statuses, [200, 400, 400, 200]);
    assert!(results.iter().all(|result| result["debited"] == "no" && result.get("request_id").is_none()), "{shown}");
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), (100, 0));
    app.finish([process]).await;
}

#[tokio::test]
async fn dry_runs_wait_for_each_other_and_none_is_refused() {
    let app = App::new().await;
    let process = app.start_with("serve", &[("EARMARK_MAX_READS_PER_KEY", "1")]).await;
    let client = app.client(&process, &app.create_business(1_000));
    let asking = (0..50).map(|_| {
        let request = client.authorized(reqwest::Method::POST, "/payout/create?dry_run=true");
        tokio::spawn(Client::send(request.json(&json!({"email": ANN, "amount": 1_000}))))
    });
    for asked in asking.collect::<Vec<_>>() {
        let told = asked.await.expect("joined").expect("an answer");
        assert_eq!(told.status, 200, "{told:?}");
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn a_query_that_is_misspelt_pays_nothing() {
    let (app, process, _, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    let calls = [
        ("/payout/create".to_owned(), json!({"email": ANN, "amount": 1})),
        ("/payout/create/bulk".to_owned(), json!({"allocations": [{"email": ANN, "amount": 1}]})),
        (format!("/payout/requests/{id}/reverse"), json!({})),
        ("/payout/user/settle".to_owned(), json!({"email": ANN, "amount": 1, "reference": "t"})),
    ];
    let queries =
        ["dryrun=true", "dry_run=1", "dry_run=false", "dry_run", "dry_run=true&dry_run=true", "dry_run=true&x=1", "x="];
    for (path, body) in &calls {
        for query in queries {
            let request = client.authorized(reqwest::Method::POST, &format!("{path}?{query}")).json(body);
            let told = Client::send(request).await.expect("an answer");
            assert_eq!((told.status, told.header("earmark-moved")), (400, Some("no")), "{path} {query}: {told:?}");
            assert!(told.json()["error"].is_string());
        }
    }
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), (900, 100));
    app.finish([process]).await;
}
