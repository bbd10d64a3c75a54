//! Several shards: each business in one of them, and nothing of it anywhere else.

use crate::allocate::request;
use crate::harness::http::{Answer, Client};
use crate::harness::process::Process;
use crate::harness::{App, assert_allocated, eventually};
use earmark::ledger::{Request, ShardId};
use earmark::postgres::{self, Error, Shards, allocations};
use earmark::wire::messages;
use lapin::BasicProperties;
use reqwest::Method;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Asks for a payout user by the hash alone, without an API key.
async fn by_hash(process: &Process, hash: &str) -> Answer {
    let asking = Client::new(process.url(), "").request(Method::GET, "/payout/user").header("X-Payout-Hash", hash);
    Client::send(asking).await.expect("an answer")
}

/// The ledger, as a process sees it.
async fn ledger(app: &App) -> Shards {
    let settings = postgres::Settings {
        url: app.database_url.clone(),
        pool_size: 1,
        timeout: Duration::from_secs(10),
        needs_standby: false,
    };
    let shards = Shards::new(&settings, "test").expect("a way");
    shards.look().await.expect("the shards");
    shards
}

#[tokio::test]
async fn a_shard_that_is_added_is_used_by_processes_that_run_and_costs_the_others_no_request() {
    let app = App::with_shards(1).await;
    let before = app.create_business(100_000);
    let (intake, worker) = (app.start("intake").await, app.start("worker").await);
    let (client, done) = (app.client(&intake, &before), Arc::new(AtomicU64::new(0)));
    let asking = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            loop {
                let number = done.load(Ordering::Relaxed);
                assert_allocated(&client.create(&format!("user{number}@example.com"), 1).await);
                done.store(number + 1, Ordering::Relaxed);
            }
        }
    });
    app.add_shards(1);
    let business = app.create_business_in(app.last_shard(), 1_000);
    assert!(
        business.id[9..13].ends_with(&format!("{:02x}", app.last_shard())),
        "people see its shard: {}",
        business.id
    );
    let client = app.client(&intake, &business);
    eventually("the new shard is used", async || {
        let answer = client.create("ann@example.com", 10).await;
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        answer.status == 200
    })
    .await;
    let so_far = done.load(Ordering::Relaxed);
    eventually("the others go on", async || {
        assert!(!asking.is_finished(), "all are answered 200");
        done.load(Ordering::Relaxed) > so_far + 20
    })
    .await;
    asking.abort();
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_full_shard_takes_no_business_and_a_closed_one_no_request() {
    let app = App::with_shards(3).await;
    let shard_of = |name: &str| {
        let made = app.run(&["business", "create", "--name", name, "--json"]).expect_success().json();
        made["business_id"].as_str().expect("an id")[11..13].to_owned()
    };
    // Each goes to the one with the fewest.
    assert_eq!([shard_of("one"), shard_of("two"), shard_of("three"), shard_of("four")], ["00", "01", "02", "00"]);
    app.run(&["shards", "full", "1"]).expect_success();
    assert_eq!([shard_of("five"), shard_of("six")], ["02", "00"]);
    let refused = app.run(&["business", "create", "--name", "seven", "--shard", "1"]);
    assert!(refused.code() != 0 && refused.stderr().contains("shard 1 is full"), "{}", refused.stderr());
    let business = app.create_business_in(2, 1_000);
    let serve = app.start("serve").await;
    let client = app.client(&serve, &business);
    let told = client.create("ann@example.com", 10).await;
    assert_allocated(&told);
    app.run(&["shards", "close", "2"]).expect_success();
    eventually("it takes no request", async || {
        let answer = client.create("ann@example.com", 10).await;
        answer.status == 503 && answer.header("earmark-debited") == Some("no")
    })
    .await;
    assert_eq!(client.get("/balance").await.status, 200, "what is there can be read");
    app.run(&["shards", "open", "2"]).expect_success();
    eventually("it is open again", async || client.create("ann@example.com", 10).await.status == 200).await;
    let listed = app.run(&["shards", "list", "--json"]).expect_success().json();
    let states: Vec<_> = listed.as_array().expect("a list").iter().map(|shard| shard["state"].clone()).collect();
    assert_eq!(states, ["open", "full", "open"]);
    app.finish([serve]).await;
}

#[tokio::test]
async fn the_shards_are_spread_over_the_workers() {
    // With one shard more there is one chance in 65,536 that all go to one worker.
    let app = App::with_shards(17).await;
    let business = |shard| app.create_business_in(shard, 1_000);
    let businesses: Vec<_> = (0..17).map(business).collect();
    let [intake, one, other] = [app.start("intake").await, app.start("worker").await, app.start("worker").await];
    if app.run(&["doctor"]).stdout().contains("version 3.") {
        eprintln!("skipped: this RabbitMQ ignores priorities");
        return app.finish([intake, one, other]).await;
    }
    eventually("both have worked", async || {
        for business in &businesses {
            assert_allocated(&app.client(&intake, business).create("ann@example.com", 1).await);
        }
        let batches = async |worker: &Process| worker.metric("earmark_batch_requests_count").await.unwrap_or(0.0);
        batches(&one).await > 0.0 && batches(&other).await > 0.0
    })
    .await;
    app.finish([intake, one, other]).await;
}

#[tokio::test]
async fn what_a_closed_shard_has_is_still_decided() {
    let app = App::with_shards(2).await;
    let business = app.create_business_in(1, 1_000);
    let intake = app.start_with("intake", &[("EARMARK_REPLY_TIMEOUT", "40s"), ("EARMARK_SHUTDOWN_GRACE", "60s")]).await;
    let client = app.client(&intake, &business);
    let asking = tokio::spawn(async move { client.create("ann@example.com", 10).await });
    app.until_queue_holds(&app.work_queue_of(1), 1).await;
    app.run(&["shards", "close", "1"]).expect_success();
    let worker = app.start("worker").await;
    assert_allocated(&asking.await.expect("an answer"));
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn nothing_is_decided_in_the_schema_of_another_shard() {
    let app = App::with_shards(2).await;
    let business = app.create_business_in(0, 1_000);
    let shards = ledger(&app).await;
    let request = request(&business, "ann@example.com", 10);
    let other = shards.get(ShardId::new(1)).expect("a shard");
    let refused = [
        other.write(async |at| allocations::void_attempts(at, &[&request]).await.map(drop)).await,
        other.write(async |at| allocations::void_by_id(at, request.business, request.id).await.map(drop)).await,
    ];
    for refused in refused {
        let Err(Error::Refused(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("shard_0") && why.contains("shard_1"), "{why}");
    }
    let own = shards.of(request.business).expect("a shard");
    own.write(async |at| allocations::void_attempts(at, &[&request]).await.map(drop)).await.expect("voided");
    let mut database = app.database_of(1).await;
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM allocations").fetch_one(&mut database).await.expect("a count");
    assert_eq!(rows, 0);
    app.discard().await;
}

#[tokio::test]
async fn a_message_in_the_queue_of_another_shard_is_a_dead_letter_and_moves_nothing() {
    let app = App::with_shards(2).await;
    let business = app.create_business_in(1, 1_000);
    let worker = app.start("worker").await;
    let strayed: Request = request(&business, "ann@example.com", 10);
    let item = messages::write_request(&strayed);
    let body = app.pack(1, std::iter::once(item.as_slice()));
    app.publish(&app.work_queue_of(0), &body, BasicProperties::default()).await;
    let found = app.until_dead_letters(1).await;
    let said = (&found[0]["cause"], &found[0]["reason"]);
    assert_eq!(said, (&json!("wrong_shard"), &json!("it is of shard 1, and came to the queue of shard 0")));
    assert_eq!(app.audit()["allocations"], 0);
    // A replay puts it where it belongs.
    app.run(&["dead-letters", "replay", "--all"]).expect_success();
    eventually("it is settled", async || app.audit()["allocated"] == "10").await;
    app.finish([worker]).await;
}

#[tokio::test]
async fn people_find_everything_of_every_shard() {
    let app = App::with_shards(3).await;
    let businesses = [0, 1, 2].map(|shard| app.create_business_in(shard, 1_000));
    let serve = app.start("serve").await;
    let mut ids = vec![];
    for business in &businesses {
        let told = app.client(&serve, business).create("ann@example.com", 10).await;
        assert_allocated(&told);
        let hash = told.json()["hash"].as_str().expect("a hash").to_owned();
        // Twice, because the shard is remembered.
        for _ in 0..2 {
            let found = by_hash(&serve, &hash).await;
            assert_eq!((found.status, found.json()["balance"].clone()), (200, json!(10)), "{found:?}");
        }
        ids.push(told.header("x-request-id").expect("an id").to_owned());
    }
    let unknown = by_hash(&serve, &"0".repeat(64)).await;
    assert_eq!(unknown.status, 401);
    for (id, business) in ids.iter().zip(&businesses) {
        let found = app.run(&["request", id, "--json"]).expect_success().json();
        assert_eq!((&found["state"], &found["business_id"]), (&json!("allocated"), &json!(business.id)));
    }
    let listed = app.run(&["business", "list", "--json"]).expect_success().json();
    assert_eq!(listed.as_array().expect("a list").len(), 3);
    assert_eq!(app.audit()["allocated"], "30");
    let mut database = app.database_of(2).await;
    sqlx::query("UPDATE businesses SET payout_balance = payout_balance + 7").execute(&mut database).await.expect("set");
    let audit = app.audit();
    assert_eq!(audit["differences"][0]["business_id"], json!(businesses[2].id), "{audit}");
    app.discard_running([serve]).await;
}

#[tokio::test]
async fn a_search_of_all_shards_costs_no_connection() {
    let app = App::with_shards(3).await;
    let business = app.create_business_in(0, 1_000);
    let serve = app.start_with("serve", &[("EARMARK_READ_CONNECTIONS", "1")]).await;
    let client = app.client(&serve, &business);
    let mut hashes = vec![];
    for number in 0..20 {
        let told = client.create(&format!("user{number}@example.com"), 1).await;
        hashes.push(told.json()["hash"].as_str().expect("a hash").to_owned());
    }
    assert_eq!(by_hash(&serve, &"0".repeat(64)).await.status, 401, "each shard was asked");
    let connects = async || serve.metric("earmark_postgres_connects_total").await;
    let before = connects().await;
    for hash in &hashes {
        // No search breaks off what the other shards still read.
        assert_eq!(by_hash(&serve, hash).await.status, 200);
    }
    assert_eq!(connects().await, before);
    app.finish([serve]).await;
}

#[tokio::test]
async fn a_shard_that_is_gone_costs_the_businesses_of_the_others_nothing() {
    let app = App::with_shards(2).await;
    let [here, gone] = [0, 1].map(|shard| app.create_business_in(shard, 1_000));
    let (intake, worker) = (app.start("intake").await, app.start("worker").await);
    let (here, gone) = (app.client(&intake, &here), app.client(&intake, &gone));
    assert_allocated(&gone.create("ann@example.com", 1).await);
    app.execute("ALTER SCHEMA shard_1 RENAME TO elsewhere").await;
    eventually("its requests are refused", async || gone.create("ann@example.com", 1).await.status == 503).await;
    let refused = gone.create("ann@example.com", 1).await;
    assert_eq!((refused.status, refused.header("earmark-debited")), (503, Some("no")), "{refused:?}");
    for number in 0..20 {
        assert_allocated(&here.create(&format!("user{number}@example.com"), 1).await);
    }
    assert!(intake.is_ready().await && worker.is_ready().await, "for all the others");
    for process in [&intake, &worker] {
        let said = process.readiness().await.expect("an answer").1;
        assert!(said.starts_with("ready\nshard 1: postgres "), "{said}");
        assert_eq!(process.metric("earmark_shard_up{shard=\"1\"}").await, Some(0.0));
    }
    eventually("the doctor says so", async || app.run(&["doctor"]).stdout().contains("shard 1: postgres ")).await;
    app.execute("ALTER SCHEMA elsewhere RENAME TO shard_1").await;
    eventually("it is back", async || gone.create("ann@example.com", 1).await.status == 200).await;
    app.finish([intake, worker]).await;
}
