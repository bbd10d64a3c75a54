//! The HTTP contract, row by row.

use crate::harness::http::{Answer, Client};
use crate::harness::process::Process;
use crate::harness::{App, Business, assert_allocated};
use reqwest::Method;
use serde_json::{Value, json};

async fn serving() -> (App, Process, Business, Client) {
    let app = App::new().await;
    let business = app.create_business(1_000_000_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    (app, process, business, client)
}

/// Checks what every answer must have, and what every answer of `POST /payout/create` must have besides.
fn assert_complete(answer: &Answer, debited: &str) {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!(answer.header("earmark-debited"), Some(debited), "{answer:?}");
    assert!(uuid::Uuid::parse_str(&answer.request_id()).is_ok(), "{answer:?}");
}

#[tokio::test]
async fn every_case_of_the_contract_is_answered_exactly_as_it_says() {
    let (app, process, business, client) = serving().await;
    let cases: Vec<Value> = include_str!("contract-cases.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a case a line"))
        .collect();
    assert!(cases.len() > 20);
    for case in cases {
        let body = case["body"].as_str().expect("a body").to_owned();
        let request =
            client.request(Method::POST, "/payout/create").header("content-type", "application/json").body(body);
        let request = match case["key"].as_str() {
            None => request.bearer_auth(&business.secret_key),
            Some("public") => request.bearer_auth(&business.public_key),
            Some(_) => request,
        };
        let answer = Client::send(request).await.expect("an answer");
        assert_eq!(u64::from(answer.status), case["status"].as_u64().expect("a status"), "{case}: {answer:?}");
        assert_complete(&answer, case["debited"].as_str().expect("debited"));
        let shown = answer.json();
        match case.get("json") {
            Some(expected) => assert_eq!(&shown, expected, "{case}"),
            None => {
                let keys: Vec<&str> = shown.as_object().expect("an object").keys().map(String::as_str).collect();
                assert_eq!(json!(keys), case["keys"], "{case}");
            }
        }
    }
    assert_eq!(client.user_balance("ann@example.com").await, 10_000 + 1 + 100_000_000 + 5);
    app.finish([process]).await;
}

#[tokio::test]
async fn everything_that_is_not_a_working_secret_key_is_the_same_401() {
    let (app, process, business, client) = serving().await;
    let secret = &business.secret_key;
    let mut mistyped = secret.clone();
    mistyped.replace_range(10..11, if &secret[10..11] == "x" { "y" } else { "x" });
    let never_issued = earmark::api_key::generate(earmark::api_key::Kind::Secret);
    let headers: [&[String]; 8] = [
        &[],
        &[format!("Bearer {}", business.public_key)],
        &[format!("Bearer {mistyped}")],
        &[format!("Bearer {never_issued}")],
        &[format!("Basic {secret}")],
        std::slice::from_ref(secret),
        &["Bearer ".to_owned()],
        &[format!("Bearer {secret}"), format!("Bearer {secret}")],
    ];
    for values in headers {
        for (method, path) in [
            (Method::POST, "/payout/create"),
            (Method::GET, "/balance"),
            (Method::GET, "/business"),
            (Method::GET, "/payout/user?email=a@b.co"),
        ] {
            let request = client.request(method, path);
            let request = values.iter().fold(request, |request, value| request.header("authorization", value));
            let answer = Client::send(request).await.expect("an answer");
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{values:?} {path}");
            assert_eq!(answer.json(), json!({"error": "Unauthorized"}), "{values:?} {path}");
        }
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn checks_run_in_the_order_of_the_contract() {
    let (app, process, business, client) = serving().await;
    let large = "x".repeat(9_000);
    let rows = [
        (Method::POST, "/nowhere", None, "text/plain", large.as_str(), 404),
        (Method::GET, "/payout/create", None, "text/plain", "", 405),
        (Method::DELETE, "/balance", None, "text/plain", "", 405),
        (Method::POST, "/business", None, "text/plain", "", 405),
        (Method::POST, "/payout/create", None, "text/plain", large.as_str(), 401),
        (Method::POST, "/payout/create", Some(()), "text/plain", large.as_str(), 413),
        (Method::POST, "/payout/create", Some(()), "text/plain", "{", 415),
        (Method::POST, "/payout/create", Some(()), "application/json; charset=latin1", "{}", 415),
        (Method::POST, "/payout/create", Some(()), "application/json", "{", 400),
        (Method::POST, "/payout/create", Some(()), "Application/JSON; charset=UTF-8", "{}", 400),
    ];
    for (method, path, key, content_type, body, status) in rows {
        let request = client.request(method.clone(), path).header("content-type", content_type).body(body.to_owned());
        let request = if key.is_some() { request.bearer_auth(&business.secret_key) } else { request };
        let answer = Client::send(request).await.expect("an answer");
        assert_eq!(answer.status, status, "{method} {path} {content_type}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {path}");
        if path == "/payout/create" {
            assert_complete(&answer, "no");
        }
        match (status, path) {
            (405, "/payout/create") => assert_eq!(answer.header("allow"), Some("POST")),
            (405, _) => assert_eq!(answer.header("allow"), Some("GET, HEAD")),
            (400, _) => {}
            _ => assert!(answer.json()["error"].is_string(), "{answer:?}"),
        }
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn a_request_body_may_come_in_pieces_up_to_the_limit() {
    let (app, process, _, client) = serving().await;
    let padding = "x".repeat(4_000);
    let whole = format!(r#"{{"email":"ann@example.com","amount":7,"note":"{padding}"}}"#);
    let pieces = |count: usize| {
        let (first, second) = whole.split_at(100);
        let mut pieces = vec![Ok::<_, std::io::Error>(first.to_owned()), Ok(second.to_owned())];
        pieces.extend((0..count).map(|_| Ok(" ".repeat(1_000))));
        reqwest::Body::wrap_stream(futures_util::stream::iter(pieces))
    };
    let answer = Client::send(client.create_request("x@example.com", 1).body(pieces(0))).await.expect("an answer");
    assert_allocated(&answer);
    let answer = Client::send(client.create_request("x@example.com", 1).body(pieces(6))).await.expect("an answer");
    assert_eq!(answer.status, 413);
    assert_eq!(client.user_balance("ann@example.com").await, 7);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_user_is_one_address_of_one_business() {
    let (app, process, business, client) = serving().await;
    let other_business = app.create_business(1_000);
    let other = app.client(&process, &other_business);
    let first = client.create("Ann@Example.com", 10).await.json();
    assert_eq!(client.create(" ann@example.COM ", 5).await.json(), first, "the same user has the same hash");
    assert_ne!(other.create("ann@example.com", 3).await.json(), first, "another business, another user");
    assert_eq!((client.user_balance("ANN@example.com").await, other.user_balance("ann@example.com").await), (15, 3));
    assert_eq!((client.payout_balance().await, other.payout_balance().await), (1_000_000_000 - 15, 1_000 - 3));
    assert_eq!(client.get("/balance").await.json(), json!({"balance": 0, "payout_balance": 1_000_000_000 - 15}));
    let shown = client.get("/business").await.json();
    let name = shown["name"].as_str().expect("a name").to_owned();
    let expected = json!({
        "business_id": business.id, "name": name, "payout_balance": 1_000_000_000 - 15, "payouts_enabled": true,
    });
    assert_eq!((shown, name.is_empty()), (expected, false));
    app.finish([process]).await;
}

#[tokio::test]
async fn every_spelling_of_an_address_is_one_user_and_what_could_be_two_is_refused() {
    let (app, process, _, client) = serving().await;
    let users = [
        (vec!["josé@example.com", "JOSE\u{301}@EXAMPLE.com."], "josé@example.com"),
        (
            vec!["ann@bücher.example", "ann@bu\u{308}cher.example", "Ann@XN--BCHER-KVA.example."],
            "ann@xn--bcher-kva.example",
        ),
        (vec!["kate@example.com", "KATE@example.com"], "kate@example.com"),
    ];
    for (spellings, stored) in &users {
        for spelling in spellings {
            assert_allocated(&client.create(spelling, 10).await);
        }
        let shown = client.get(&format!("/payout/user?email={}", spellings[0])).await.json();
        assert_eq!((&shown["email"], &shown["balance"]), (&json!(stored), &json!(10 * spellings.len())));
        let found = client.get(&format!("/payout/requests?email={}", spellings[0])).await.json();
        assert_eq!(found["requests"].as_array().map(Vec::len), Some(spellings.len()), "{found}");
    }
    for text in ["\u{212a}ate@example.com", "ｋate@example.com", "ann@\u{212a}ate.example", "İan@example.com"] {
        let answer = client.create(text, 10).await;
        let invalid = json!({"email": ["The email must be a valid email address."]});
        assert_eq!((answer.status, answer.json()), (400, invalid), "{text}");
    }
    // The same under a key: a retry may spell the address differently, as keyboards do.
    let first = client.create_with_key("one", "ann@bücher.example", 7).await;
    let again = client.create_with_key("one", "ann@xn--bcher-kva.example", 7).await;
    assert_eq!((again.json(), again.header("idempotent-replayed")), (first.json(), Some("true")));
    app.finish([process]).await;
}

#[tokio::test]
async fn a_payout_user_is_shown_to_its_business_and_to_itself() {
    let (app, process, _, client) = serving().await;
    let hash = client.create("ann@example.com", 10).await.json()["hash"].as_str().expect("a hash").to_owned();
    let shown = client.get("/payout/user?email=Ann%40Example.com").await.json();
    assert_eq!((&shown["email"], &shown["hash"]), (&json!("ann@example.com"), &json!(hash)));
    assert_eq!((&shown["balance"], &shown["status"]), (&json!(10), &json!("active")));
    assert!(shown["created_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{shown}");
    let by_hash = async |hash: String| {
        Client::send(client.request(Method::GET, "/payout/user").header("X-Payout-Hash", hash))
            .await
            .expect("an answer")
    };
    let own = by_hash(hash.clone()).await;
    assert_eq!((own.status, own.json()), (200, shown));
    for wrong in ["0".repeat(64), hash[..63].to_owned(), hash.to_uppercase(), String::new()] {
        assert_eq!(by_hash(wrong.clone()).await.status, 401, "{wrong}");
    }
    assert_eq!(client.get("/payout/user?email=bob@example.com").await.status, 404);
    assert_eq!(client.get("/payout/user").await.json(), json!({"email": ["The email field is required."]}));
    sqlx::query("UPDATE payout_users SET status = 'inactive'")
        .execute(&mut app.database().await)
        .await
        .expect("inactive");
    assert_eq!(by_hash(hash).await.status, 401, "an inactive user");
    assert_eq!(client.get("/payout/user?email=ann@example.com").await.json()["status"], "inactive");
    app.finish([process]).await;
}

#[tokio::test]
async fn switched_off_payouts_are_a_403_and_move_nothing() {
    let (app, process, business, client) = serving().await;
    app.run(&["business", "disable-payouts", &business.id]).expect_success();
    let answer = client.create("ann@example.com", 10).await;
    let message = "Payouts are currently disabled. Please enable them in Settings.";
    assert_eq!((answer.status, answer.json()), (403, json!({"error": message})));
    assert_complete(&answer, "no");
    app.run(&["business", "enable-payouts", &business.id]).expect_success();
    assert_allocated(&client.create("ann@example.com", 10).await);
    assert_eq!(client.user_balance("ann@example.com").await, 10);
    app.finish([process]).await;
}

#[tokio::test]
async fn an_amount_that_is_not_covered_is_refused_and_a_covered_one_after_it_is_not() {
    let app = App::new().await;
    let business = app.create_business(100);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    let answer = client.create("ann@example.com", 101).await;
    assert_eq!((answer.status, answer.json()), (400, json!({"error": "Insufficient payout balance"})));
    assert_complete(&answer, "no");
    assert_allocated(&client.create("ann@example.com", 100).await);
    assert_eq!((client.payout_balance().await, client.user_balance("ann@example.com").await), (0, 100));
    app.finish([process]).await;
}
