//! Tables that change under prepared statements, through a migration of a later version or by hand.

use crate::harness::http::Client;
use crate::harness::process::Process;
use crate::harness::{App, Business, assert_allocated};
use reqwest::Method;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Every kind of change that leaves the data as they are, and the change back.
const CHANGES: [&str; 9] = [
    "ALTER TABLE allocations ADD COLUMN extra text",
    "ALTER TABLE allocations ALTER COLUMN email TYPE varchar(300)",
    "ALTER TABLE payout_users ALTER COLUMN email TYPE varchar(300), ALTER COLUMN status TYPE varchar(300)",
    "ALTER TABLE idempotency_keys ALTER COLUMN email TYPE varchar(300), ADD COLUMN extra text",
    "ALTER TABLE businesses ADD COLUMN extra text; ALTER TABLE api_keys ADD COLUMN extra text",
    "ALTER TABLE allocations ALTER COLUMN email TYPE text, DROP COLUMN extra",
    "ALTER TABLE payout_users ALTER COLUMN email TYPE text, ALTER COLUMN status TYPE text",
    "ALTER TABLE idempotency_keys ALTER COLUMN email TYPE text, DROP COLUMN extra",
    "ALTER TABLE businesses DROP COLUMN extra; ALTER TABLE api_keys DROP COLUMN extra",
];

/// The status of each kind of read.
async fn read_all(client: &Client, hash: &str, id: &str) -> Vec<(String, u16)> {
    let mut found = vec![];
    let paths =
        ["/balance", "/payout/user?email=ann@example.com", "/payout/requests?idempotency_key=k", "/payout/requests"];
    for path in paths.map(str::to_owned).into_iter().chain([format!("/payout/requests/{id}")]) {
        found.push((path.clone(), client.get(&path).await.status));
    }
    let csv = client.authorized(Method::GET, "/payout/requests").header("accept", "text/csv");
    found.push(("csv".to_owned(), Client::send(csv).await.expect("an answer").status));
    let own = client.request(Method::GET, "/payout/user").header("X-Payout-Hash", hash);
    found.push(("hash".to_owned(), Client::send(own).await.expect("an answer").status));
    found
}

#[tokio::test]
async fn reads_go_on_when_a_table_changes() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    let allocated = client.create_with_key("k", "ann@example.com", 1).await;
    let (id, hash) = (allocated.request_id(), allocated.json()["hash"].as_str().expect("a hash").to_owned());
    for change in CHANGES {
        // All connections have every statement prepared.
        let preparing = (0..8).map(|_| {
            let (client, hash, id) = (client.clone(), hash.clone(), id.clone());
            tokio::spawn(async move { read_all(&client, &hash, &id).await })
        });
        for prepared in preparing.collect::<Vec<_>>() {
            prepared.await.expect("joined");
        }
        app.execute(change).await;
        for _ in 0..8 {
            let refused: Vec<_> =
                read_all(&client, &hash, &id).await.into_iter().filter(|(_, status)| *status != 200).collect();
            assert_eq!(refused, [], "after {change}");
        }
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn a_row_that_does_not_fit_is_no_refusal() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    assert_allocated(&client.create("ann@example.com", 1).await);
    app.execute("ALTER TABLE payout_users DROP CONSTRAINT payout_users_hash_length").await;
    app.execute("UPDATE payout_users SET hash = '\\x00'").await;
    assert_eq!(client.get("/payout/user?email=ann@example.com").await.status, 503);
    for (kind, expected) in [("fatal", 1.0), ("refused", 0.0)] {
        let count = process.metric(&format!(r#"earmark_postgres_errors_total{{kind="{kind}"}}"#)).await;
        assert_eq!(count.unwrap_or_default(), expected, "{kind}");
    }
    assert_eq!(client.get("/balance").await.status, 200, "requests of other kinds are not affected");
    app.finish([process]).await;
}

/// Changes a balance by hand, so that the worker has to settle the next batch step by step.
fn fund(app: &App, business: &Business) {
    app.run(&["business", "fund", &business.id, "--amount", "1000"]).expect_success();
}

/// Allocates in each way that a request can be settled.
async fn allocate_each_way(app: &App, business: &Business, client: &Client, key: &str) {
    assert_allocated(&client.create("ann@example.com", 1).await);
    assert_allocated(&client.create_with_key(key, "ann@example.com", 1).await);
    assert_allocated(&client.create_with_key(key, "ann@example.com", 1).await);
    fund(app, business);
    assert_allocated(&client.create("ann@example.com", 1).await);
    assert_eq!(client.create("ann@example.com", 100_000_000).await.status, 400);
    assert_eq!(client.create_with_key(key, "ann@example.com", 2).await.status, 422);
}

#[tokio::test]
async fn a_request_that_comes_alone_is_settled_when_a_table_changes() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    allocate_each_way(&app, &business, &client, "before").await;
    for (number, change) in CHANGES.into_iter().enumerate() {
        app.execute(change).await;
        allocate_each_way(&app, &business, &client, &number.to_string()).await;
    }
    assert_eq!(app.dead_letters(), Vec::<Value>::new());
    let refusals = process.metric(r#"earmark_postgres_errors_total{kind="refused"}"#).await;
    assert!(refusals > Some(0.0), "no change made a statement fail: {refusals:?}");
    app.finish([process]).await;
}

#[tokio::test]
async fn everything_is_settled_while_tables_change_under_load() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let process = app.start("serve").await;
    let stop = Arc::new(AtomicBool::new(false));
    let loading = (0..16).map(|number| tokio::spawn(load(app.client(&process, &business), number, Arc::clone(&stop))));
    let loading: Vec<_> = loading.collect();
    for _ in 0..4 {
        for change in CHANGES {
            let before = settled(&process).await;
            app.execute(change).await;
            fund(&app, &business);
            // Some requests must be settled between two changes.
            crate::harness::eventually("it goes on", async || settled(&process).await > before + 100.0).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut allocated = 0;
    for load in loading {
        allocated += load.await.expect("joined");
    }
    assert!(allocated > 3_600, "{allocated}");
    assert_eq!(app.dead_letters(), Vec::<Value>::new());
    app.finish([process]).await;
}

async fn settled(process: &Process) -> f64 {
    process.metric(r#"earmark_outcomes_total{outcome="allocated"}"#).await.expect("a count")
}

/// Allocates until it is stopped, every fourth time under a key. Returns how often.
async fn load(client: Client, number: usize, stop: Arc<AtomicBool>) -> usize {
    let email = format!("user{number}@example.com");
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            return count;
        }
        let answer = if count % 4 == 0 {
            client.create_with_key(&format!("{number}-{count}"), &email, 1).await
        } else {
            client.create(&email, 1).await
        };
        assert_allocated(&answer);
    }
    0
}
