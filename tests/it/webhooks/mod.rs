//! Webhooks: what is delivered, how it is signed, and what platforms can do with an endpoint.

mod failures;
mod refused;
mod relays;

use crate::harness::hook::{Got, Hook};
use crate::harness::http::{Answer, Client};
use crate::harness::process::Process;
use crate::harness::{App, Business, eventually};
use crate::reversals::allocate;
use earmark::feed;
use earmark::ledger::BusinessId;
use earmark::secret::HashSecret;
use earmark::webhook::{Signer, signing};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use std::time::Duration;
use uuid::Uuid;

const ANN: &str = "ann@example.com";

/// The settings with which a test's own server may be called.
pub const LOCAL: (&str, &str) = ("EARMARK_WEBHOOK_EXCEPTIONS", "127.0.0.1");

/// A deployment in one process, with a business and a server for its webhooks.
async fn serving(settings: &[(&'static str, &str)]) -> (App, Process, Business, Client, Hook) {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let process = app.start_with("serve", &[&[LOCAL], settings].concat()).await;
    let client = app.client(&process, &business);
    (app, process, business, client, Hook::start().await)
}

async fn call(client: &Client, method: Method, path: &str, body: Option<Value>) -> Answer {
    let request = client.authorized(method, path);
    let request = if let Some(body) = &body { request.json(body) } else { request };
    Client::send(request).await.expect("an answer")
}

async fn post(client: &Client, path: &str, body: Option<Value>) -> Answer {
    call(client, Method::POST, path, body).await
}

/// Creates a webhook that gets all events, and returns it.
pub async fn create(client: &Client, url: &str) -> Value {
    let answer = post(client, "/webhooks", Some(json!({"url": url, "after": 0}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

pub fn id_of(webhook: &Value) -> String {
    webhook["webhook_id"].as_str().expect("an id").to_owned()
}

async fn shown(client: &Client, id: &str) -> Value {
    let answer = client.get(&format!("/webhooks/{id}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn deliveries(client: &Client, id: &str) -> Vec<Value> {
    let answer = client.get(&format!("/webhooks/{id}/deliveries")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["deliveries"].as_array().expect("deliveries").clone()
}

pub async fn until_seqs(hook: &Hook, path: &str, expected: &[i64]) {
    let what = format!("{path} got {expected:?}");
    eventually(&what, async || hook.got(path).len() >= expected.len()).await;
    assert_eq!(hook.seqs(path), expected);
}

fn verifies(got: &Got, secret: &Value) -> bool {
    Webhook::new(secret.as_str().expect("a secret")).expect("a key").verify(&got.body, &got.headers).is_ok()
}

#[tokio::test]
async fn every_event_is_delivered_in_order_as_the_feed_has_it_and_signed() {
    let (app, process, business, client, hook) = serving(&[]).await;
    let webhook = create(&client, &hook.at("/a")).await;
    let id = allocate(&client, ANN, 100).await;
    client.settle(ANN, 30, "t").await;
    client.reverse_part("k", &id, 20).await;
    app.run(&["business", "fund", &business.id, "--amount", "-50"]).expect_success();
    until_seqs(&hook, "/a", &[1, 2, 3, 4, 5]).await;
    let feed = client.get("/events").await.json();
    let got = hook.got("/a");
    assert_eq!(feed["events"], Value::from_iter(got.iter().map(Got::json)));
    for one in &got {
        assert!(verifies(one, &webhook["secret"]), "{one:?}");
        assert_eq!(one.header("content-type"), "application/json");
        let expected = format!("evt_{}_{}", business.id.replace('-', ""), one.seq());
        assert_eq!(one.header("webhook-id"), expected);
    }
    let id = id_of(&webhook);
    eventually("the cursor is there", async || shown(&client, &id).await["cursor"] == 5).await;
    let mut expected = webhook.clone();
    expected["cursor"] = json!(5);
    expected.as_object_mut().expect("an object").remove("secret");
    assert_eq!(shown(&client, &id).await, expected, "the secret is shown once");
    assert_eq!(client.get("/webhooks").await.json(), json!({"webhooks": [expected]}));
    let delivered = r#"earmark_webhook_deliveries_total{result="delivered"}"#;
    assert_eq!(process.metric(delivered).await, Some(5.0));
    assert_eq!(process.metric("earmark_webhook_delay_seconds_count").await, Some(5.0));
    eventually("it is counted", async || {
        process.metric(r#"earmark_webhooks{state="sound"}"#).await == Some(1.0)
            && process.metric("earmark_webhook_oldest_event_age_seconds").await == Some(0.0)
    })
    .await;
    app.finish([process]).await;
}

#[test]
fn each_secret_verifies_what_was_signed_while_it_counts() {
    let secret: HashSecret = "11".repeat(32).parse().expect("a secret");
    let (business, webhook, body) = (BusinessId::from_u128(7), Uuid::from_u128(8), b"{\"seq\":1}");
    let now = earmark::clock::now_millis() / 1000;
    let id = feed::id(business, 1);
    let headers = |id: &str, timestamp: i64, signature: &str| {
        let timestamp = timestamp.to_string();
        let named = [("webhook-id", id), ("webhook-timestamp", timestamp.as_str()), ("webhook-signature", signature)];
        let named = named.map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        HeaderMap::from_iter(named)
    };
    let verifies = |version: i32, headers: &HeaderMap, body: &[u8]| {
        let shown = signing::show(secret.webhook_secret(business, webhook, version));
        Webhook::new(&shown).expect("a secret").verify(body, headers).is_ok()
    };
    for (version, twice, good, bad) in [(1, false, vec![1], vec![0, 2]), (2, true, vec![1, 2], vec![0, 3])] {
        let signature = Signer::new(&secret, business, webhook, version, twice).sign(&id, now, body);
        let signed = headers(&id, now, &signature);
        good.iter().for_each(|version| assert!(verifies(*version, &signed, body), "{version}"));
        bad.iter().for_each(|version| assert!(!verifies(*version, &signed, body), "{version}"));
        assert!(!verifies(version, &signed, b"{\"seq\":2}"), "another body");
        assert!(!verifies(version, &headers(&feed::id(business, 2), now, &signature), body), "another id");
        assert!(!verifies(version, &headers(&id, now + 1, &signature), body), "another time");
    }
}

#[tokio::test]
async fn a_webhook_begins_now_or_where_it_is_told_and_belongs_to_its_business() {
    let (app, process, _, client, hook) = serving(&[]).await;
    allocate(&client, ANN, 1).await;
    let answer = post(&client, "/webhooks", Some(json!({"url": hook.at("/now")}))).await;
    let now = answer.json();
    assert_eq!((answer.status, &now["cursor"], &now["state"]), (200, &json!(2), &json!("sound")), "{now}");
    let answer = post(&client, "/webhooks", Some(json!({"url": hook.at("/second"), "after": 1}))).await;
    assert_eq!(answer.json()["cursor"], 1);
    let answer = post(&client, "/webhooks", Some(json!({"url": hook.at("/far"), "after": 3}))).await;
    let said = json!({"after": ["The after must not be greater than the number of the last event."]});
    assert_eq!((answer.status, answer.json()), (400, said), "event 3 would be missed");
    assert_eq!(post(&client, "/webhooks", Some(json!({"url": hook.at("/far"), "after": 2}))).await.status, 200);
    allocate(&client, ANN, 1).await;
    until_seqs(&hook, "/now", &[3]).await;
    until_seqs(&hook, "/second", &[2, 3]).await;
    until_seqs(&hook, "/far", &[3]).await;
    let other = app.client(&process, &app.create_business(5));
    let path = format!("/webhooks/{}", id_of(&now));
    assert_eq!(other.get("/webhooks").await.json(), json!({"webhooks": []}));
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::GET, format!("{path}/deliveries")),
        (Method::POST, format!("{path}/rotate")),
        (Method::POST, format!("{path}/enable")),
        (Method::POST, format!("{path}/disable")),
        (Method::GET, "/webhooks/x".to_owned()),
        (Method::POST, format!("/webhooks/{}/enable", Uuid::nil())),
    ] {
        let answer = call(&other, method.clone(), &path, None).await;
        assert_eq!((answer.status, answer.json()), (404, json!({"error": "Not found"})), "{method} {path}");
    }
    let answer = post(&other, &format!("{path}/redeliver"), Some(json!({"seq": 1}))).await;
    assert_eq!(answer.status, 404);
    assert_eq!(call(&client, Method::DELETE, &path, None).await.json()["webhook_id"], now["webhook_id"]);
    assert_eq!(call(&client, Method::DELETE, &path, None).await.status, 404);
    allocate(&client, ANN, 1).await;
    until_seqs(&hook, "/second", &[2, 3, 4]).await;
    assert_eq!(hook.seqs("/now"), [3], "nothing more is delivered");
    app.finish([process]).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_webhook_is_said_and_a_business_has_at_most_ten() {
    let (app, process, _, client, hook) = serving(&[]).await;
    for (body, expected) in [
        (json!({}), json!({"url": ["The url field is required."]})),
        (json!({"url": null, "after": null}), json!({"url": ["The url field is required."]})),
        (json!({"url": 5}), json!({"url": ["The url must be a string."]})),
        (json!({"url": "http://example.com"}), json!({"url": ["The url must be a valid https URL."]})),
        (
            json!({"url": "https://me@example.com", "after": -1}),
            json!({
                "url": ["The url must have no user, no password and no fragment."],
                "after": ["The after must be the number of an event, or 0."],
            }),
        ),
        (json!({"url": "https://10.0.0.1/x"}), json!({"url": ["The url must lead to a public address."]})),
        (json!([]), json!({"error": "The request body must be a JSON object."})),
    ] {
        let answer = post(&client, "/webhooks", Some(body)).await;
        assert_eq!((answer.status, answer.json()), (400, expected));
    }
    assert_eq!(client.request(Method::POST, "/webhooks").send().await.expect("an answer").status(), 401);
    assert_eq!(client.request(Method::GET, "/webhooks").send().await.expect("an answer").status(), 401);
    let not_allowed = call(&client, Method::PUT, "/webhooks", None).await;
    assert_eq!((not_allowed.status, not_allowed.header("allow")), (405, Some("GET, HEAD, POST")));
    let creating: Vec<_> = (0..15)
        .map(|number| {
            let (client, url) = (client.clone(), hook.at(&format!("/{number}")));
            tokio::spawn(async move { post(&client, "/webhooks", Some(json!({"url": url}))).await })
        })
        .collect();
    let mut statuses = vec![];
    for created in creating {
        statuses.push(created.await.expect("joined").status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [[200; 10].as_slice(), &[400; 5]].concat());
    let listed = client.get("/webhooks").await.json();
    assert_eq!(listed["webhooks"].as_array().map(Vec::len), Some(10));
    let id = id_of(&listed["webhooks"][0]);
    assert_eq!(call(&client, Method::DELETE, &format!("/webhooks/{id}"), None).await.status, 200);
    create(&client, &hook.at("/again")).await;
    let answer = post(&client, "/webhooks", Some(json!({"url": hook.at("/x")}))).await;
    assert_eq!(answer.json(), json!({"error": "A business may have at most 10 webhooks."}));
    app.finish([process]).await;
}

#[tokio::test]
async fn a_secret_is_replaced_while_both_sign() {
    let (app, process, _, client, hook) = serving(&[]).await;
    let webhook = create(&client, &hook.at("/a")).await;
    until_seqs(&hook, "/a", &[1]).await;
    let path = format!("/webhooks/{}", id_of(&webhook));
    let rotated = post(&client, &format!("{path}/rotate"), None).await.json();
    assert_ne!(rotated["secret"], webhook["secret"]);
    assert!(rotated["former_secret_until"].is_string(), "{rotated}");
    allocate(&client, ANN, 1).await;
    until_seqs(&hook, "/a", &[1, 2]).await;
    let got = hook.got("/a");
    assert!(verifies(&got[0], &webhook["secret"]) && !verifies(&got[0], &rotated["secret"]));
    assert!(verifies(&got[1], &webhook["secret"]) && verifies(&got[1], &rotated["secret"]));
    app.execute("UPDATE webhooks SET former_until = now()").await;
    allocate(&client, ANN, 1).await;
    until_seqs(&hook, "/a", &[1, 2, 3]).await;
    let last = &hook.got("/a")[2];
    assert!(verifies(last, &rotated["secret"]) && !verifies(last, &webhook["secret"]));
    assert_eq!(shown(&client, &id_of(&webhook)).await.get("former_secret_until"), None);
    let of_database: Vec<String> = sqlx::query_scalar("SELECT to_jsonb(w)::text FROM webhooks w")
        .fetch_all(&mut app.database().await)
        .await
        .expect("rows");
    let secret = rotated["secret"].as_str().expect("a secret").trim_start_matches("whsec_");
    assert!(!of_database[0].contains(secret), "it is stored nowhere");
    app.finish([process]).await;
}

#[tokio::test]
async fn deliveries_are_listed_with_what_came_back_and_can_be_sent_again() {
    let (app, process, _, client, hook) = serving(&[("EARMARK_WEBHOOK_RETRIES", "100ms")]).await;
    let long = "é".repeat(2_000);
    hook.answers("/a", crate::harness::hook::Reply::status(418).saying(&long));
    let webhook = create(&client, &hook.at("/a")).await;
    let id = id_of(&webhook);
    eventually("it failed twice", async || deliveries(&client, &id).await.len() >= 2).await;
    hook.answers("/a", crate::harness::hook::Reply::status(202).saying("thanks \0 you"));
    eventually("it is delivered", async || shown(&client, &id).await["waiting"] == 0).await;
    let tried = deliveries(&client, &id).await;
    let (last, first) = (&tried[0], &tried[tried.len() - 1]);
    assert_eq!(
        (&last["seq"], &last["result"], &last["status"], &last["answer"]),
        (&json!(1), &json!("delivered"), &json!(202), &json!("thanks \u{fffd} you"))
    );
    assert_eq!((&first["number"], &first["result"], &first["status"]), (&json!(1), &json!("refused"), &json!(418)));
    assert_eq!(first["answer"].as_str().map(str::len), Some(1024));
    assert!(first["duration_ms"].as_i64().is_some_and(|millis| (0..15_000).contains(&millis)), "{first}");
    let count = hook.got("/a").len();
    let path = format!("/webhooks/{id}/redeliver");
    for body in [json!({}), json!({"seq": 0}), json!({"seq": "1"}), json!({"seq": 2}), json!({"seq": 1.5})] {
        assert_eq!(post(&client, &path, Some(body.clone())).await.status, 400, "{body}");
    }
    let said = json!({"error": "The event is beyond the cursor of the webhook: it is delivered without asking."});
    assert_eq!(post(&client, &path, Some(json!({"seq": 2}))).await.json(), said);
    let again = post(&client, &path, Some(json!({"seq": 1}))).await;
    assert_eq!((again.status, again.json()["cursor"].clone()), (200, json!(1)), "{again:?}");
    eventually("it comes again", async || hook.got("/a").len() == count + 1).await;
    let got = hook.got("/a");
    assert_eq!(got[count].header("webhook-id"), got[0].header("webhook-id"), "the same event");
    eventually("it is noted", async || deliveries(&client, &id).await.len() == count + 1).await;
    let page = client.get(&format!("/webhooks/{id}/deliveries?limit=1")).await.json();
    let cursor = page["next_cursor"].as_str().expect("a cursor");
    let next = client.get(&format!("/webhooks/{id}/deliveries?limit=1000&cursor={cursor}")).await.json();
    let numbers: Vec<i64> = [&page, &next]
        .into_iter()
        .flat_map(|page| page["deliveries"].as_array().expect("deliveries"))
        .map(|one| one["number"].as_i64().expect("a number"))
        .collect();
    let all = i64::try_from(count + 1).expect("few");
    assert_eq!(numbers, (1..=all).rev().collect::<Vec<_>>());
    assert_eq!(next["next_cursor"], Value::Null);
    for wrong in ["limit=0", "cursor=x", "cursor=0", "limit=1&limit=2"] {
        assert_eq!(client.get(&format!("/webhooks/{id}/deliveries?{wrong}")).await.status, 400, "{wrong}");
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn only_the_last_thousand_deliveries_are_kept() {
    let (app, process, _, client, hook) = serving(&[]).await;
    let webhook = create(&client, &hook.at("/a")).await;
    let id = id_of(&webhook);
    until_seqs(&hook, "/a", &[1]).await;
    eventually("it is noted", async || deliveries(&client, &id).await.len() == 1).await;
    app.execute(
        "INSERT INTO webhook_deliveries (business_id, webhook_id, number, seq, millis, result)
         SELECT business_id, webhook_id, n, 1, 0, 'timeout' FROM webhooks, generate_series(2, 1000) AS n;
         UPDATE webhooks SET tries = 1000",
    )
    .await;
    allocate(&client, ANN, 1).await;
    eventually("the newest is noted", async || deliveries(&client, &id).await[0]["number"] == 1001).await;
    let kept: (i64, i64) = sqlx::query_as("SELECT count(*), min(number) FROM webhook_deliveries")
        .fetch_one(&mut app.database().await)
        .await
        .expect("a count");
    assert_eq!(kept, (1_000, 2));
    app.finish([process]).await;
}

#[tokio::test]
async fn operators_see_webhooks_and_switch_them_with_the_command() {
    let (app, process, business, client, hook) = serving(&[("EARMARK_WEBHOOK_RETRIES", "1h")]).await;
    hook.answers("/a", crate::harness::hook::Reply::status(500).saying("no\nway"));
    let webhook = id_of(&create(&client, &hook.at("/a")).await);
    eventually("it failed", async || deliveries(&client, &webhook).await.len() == 1).await;
    let run = |arguments: &[&str]| app.run(&[&["webhook"], arguments].concat());
    let id = business.id.as_str();
    let listed = run(&["list", id, "--json"]).expect_success().json();
    let expected = json!({"state": "failing", "cursor": 1, "waiting": 1, "url": hook.at("/a"), "webhook_id": webhook});
    for (name, value) in expected.as_object().expect("fields") {
        assert_eq!(listed[0][name], *value, "{listed}");
    }
    assert!(run(&["list", id]).expect_success().stdout().contains(&hook.at("/a")));
    let tried = run(&["deliveries", id, &webhook, "--json"]).expect_success().json();
    assert_eq!((&tried[0]["status"], &tried[0]["answer"]), (&json!(500), &json!("no\nway")), "{tried}");
    let shown_as_text = run(&["deliveries", id, &webhook]).expect_success().stdout();
    assert!(shown_as_text.contains("refused") && shown_as_text.contains("no way"), "{shown_as_text}");
    run(&["disable", id, &webhook]).expect_success();
    let disabled = shown(&client, &webhook).await;
    assert_eq!((&disabled["state"], &disabled["disabled_by"]), (&json!("disabled"), &json!("operator")));
    hook.answers("/a", None);
    run(&["enable", id, &webhook]).expect_success();
    until_seqs(&hook, "/a", &[1, 1]).await;
    eventually("nothing waits", async || shown(&client, &webhook).await["waiting"] == 0).await;
    run(&["redeliver", id, &webhook, "--seq", "1"]).expect_success();
    until_seqs(&hook, "/a", &[1, 1, 1]).await;
    assert_eq!(run(&["redeliver", id, &webhook, "--seq", "9"]).code(), 1);
    let nobody = Uuid::nil().to_string();
    for arguments in [["enable", id, &nobody], ["disable", id, &nobody], ["deliveries", id, &nobody]] {
        let run = run(&arguments);
        assert_eq!(run.code(), 1);
        assert!(run.stderr().contains("the business has no webhook"), "{}", run.stderr());
    }
    app.finish([process]).await;
}

/// How long something may take that must happen within seconds.
const SECONDS: Duration = Duration::from_secs(20);
