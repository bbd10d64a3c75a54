//! What the commands show when something is wrong: queues, workers, one request, the doctor.

use crate::allocate::{message, request};
use crate::harness::process::Run;
use crate::harness::{App, assert_allocated, eventually};
use earmark::ledger::{IdempotencyKey, KeyClaim};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

#[tokio::test]
async fn queues_shows_what_waits_how_long_and_who_consumes() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let queues = || app.run(&["queues", "--json"]).expect_success().json();
    assert_eq!(
        queues()["queues"][0],
        json!({
            "name": app.work_queue(), "ready": null, "unacknowledged": 0, "consumers": null
        })
    );
    let patient = [("EARMARK_REPLY_TIMEOUT", "40s"), ("EARMARK_SHUTDOWN_GRACE", "60s")];
    let intake = app.start_with("intake", &patient).await;
    let client = app.client(&intake, &business);
    let asking = tokio::spawn(async move { client.create("ann@example.com", 10).await });
    eventually("a request waits and grows old", async || {
        let shown = queues();
        let queue = &shown["queues"][0];
        queue["ready"] == 1
            && queue["consumers"] == 0
            && shown["oldest_millis"].as_i64() > Some(500)
            && shown["in_flight"] == 1
    })
    .await;
    let text = app.run(&["queues"]).expect_success().stdout();
    assert!(text.contains(&app.work_queue()) && text.contains(&app.dead_letter_queue()), "{text}");
    let worker = app.start("worker").await;
    assert_allocated(&asking.await.expect("joined"));
    eventually("nothing waits", async || {
        let shown = queues();
        let queue = &shown["queues"][0];
        queue["ready"] == 0 && queue["consumers"] == 1 && shown["oldest_millis"].is_null() && shown["in_flight"] == 0
    })
    .await;
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn queues_looks_again_until_it_is_interrupted() {
    let app = App::new().await;
    let worker = app.start("worker").await;
    let mut watching = Command::new(env!("CARGO_BIN_EXE_earmark"))
        .args(["queues", "--watch", "--json"])
        .envs([("DATABASE_URL", &app.database_url), ("AMQP_URL", &app.amqp_url), ("EARMARK_QUEUE_PREFIX", &app.prefix)])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(watching.stdout.take().expect("stdout")).lines().take(2);
    for line in lines {
        let shown: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        assert_eq!(shown["queues"].as_array().map(Vec::len), Some(2), "{shown}");
    }
    watching.kill().expect("killed");
    watching.wait().expect("ended");
    app.finish([worker]).await;
}

#[tokio::test]
async fn workers_are_listed_with_what_they_do() {
    let app = App::new().await;
    let (worker, intake) = (app.start("worker").await, app.start("intake").await);
    let list = || app.run(&["workers", "list", "--json"]).expect_success().json();
    eventually("it works", async || list()["workers"][0]["state"]["worker"]["consuming"] == true).await;
    assert_eq!(list()["workers"].as_array().map(Vec::len), Some(1), "an intake is not a worker");
    app.run(&["workers", "pause", "--by", "ann"]).expect_success();
    eventually("it is paused", async || list()["workers"][0]["state"]["impediments"] == json!(["worker: paused"]))
        .await;
    let text = app.run(&["workers", "list"]).expect_success().stdout();
    assert!(text.contains("paused by ann since") && text.contains("worker: paused"), "{text}");
    app.run(&["workers", "resume"]).expect_success();
    app.finish([worker, intake]).await;
}

#[tokio::test]
async fn a_request_is_told_from_its_minting_to_its_end_by_its_id_alone() {
    let app = App::new().await;
    let (business, _other) = (app.create_business(1_000), app.create_business(1_000));
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    let answer = client.create_with_key("order-77", "ann.private@example.com", 10).await;
    assert_allocated(&answer);
    let id = answer.header("x-request-id").expect("an id").to_owned();
    let shown = app.run(&["request", &id, "--json"]).expect_success().json();
    let expected =
        json!({ "business": business.id, "state": "allocated", "amount": 10, "email": "a***@example.com", "epoch": 0 });
    let found = json!({
        "business": shown["business_id"], "state": shown["state"], "amount": shown["amount"], "email": shown["email"], "epoch": shown["epoch"]
    });
    assert_eq!(found, expected, "{shown}");
    let time = |name: &str| OffsetDateTime::parse(shown[name].as_str().expect("text"), &Rfc3339).expect("a time");
    let times = ["minted_at", "decided_at", "deadline"].map(time);
    assert!(times.is_sorted(), "{times:?}");
    let hidden = app.run(&["request", &id]).expect_success().stdout();
    assert!(
        !hidden.contains("ann.private") && !hidden.contains("order-77") && hidden.contains("allocated"),
        "{hidden}"
    );
    let revealed = app.run(&["request", &id, "--reveal"]).expect_success().stdout();
    assert!(revealed.contains("ann.private@example.com") && revealed.contains("order-77"), "{revealed}");
    let refused = app.run(&["request", &Uuid::new_v4().to_string()]);
    assert_eq!(refused.code(), 1);
    app.finish([process]).await;
}

#[tokio::test]
async fn an_undecided_request_is_told_with_the_dead_letter_that_holds_it() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let worker = app.start("worker").await;
    let mut held = request(&business, "ann@example.com", 10);
    held.key = IdempotencyKey::new("order-77").map(|key| KeyClaim { key, epoch: 3 });
    let id = Uuid::from_u128(held.id.as_u128()).to_string();
    let unknown = app.run(&["request", &id, "--json"]).expect_success().json();
    assert_eq!((&unknown["state"], &unknown["dead_letters"]), (&json!("undecided"), &json!([])));
    app.publish(&app.dead_letter_queue(), &message(&app, &[&held], &[]), Default::default()).await;
    let letter = app.until_dead_letters(1).await.remove(0);
    let shown = app.run(&["request", &id, "--json"]).expect_success().json();
    assert_eq!((&shown["dead_letters"][0]["dead_letter_id"], &shown["epoch"]), (&letter["dead_letter_id"], &json!(3)));
    assert_eq!(shown["deadline"], letter["requests"][0]["deadline"]);
    app.drop_dead_letters();
    app.finish([worker]).await;
}

/// What the doctor found: its exit code, and for each check its level and its text.
fn diagnosis(run: &Run) -> (i32, Vec<(String, String)>) {
    let shown = run.json();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let checks = shown["checks"].as_array().expect("checks");
    for check in checks {
        assert_eq!(
            check["level"] == "ok",
            check["fix"].is_null(),
            "each failed check names a fix, and no other: {check}"
        );
    }
    assert_eq!(shown["ok"] == true, run.code() == 0, "{shown}");
    let found =
        |check: &Value| (text(&check["level"]), format!("{}: {}", text(&check["check"]), text(&check["found"])));
    (run.code(), checks.iter().map(found).collect())
}

fn says(found: &[(String, String)], level: &str, words: &str) -> bool {
    found.iter().any(|(of, text)| of == level && text.contains(words))
}

#[tokio::test]
async fn the_doctor_finds_nothing_wrong_where_nothing_is() {
    let app = App::new().await;
    app.create_business(1_000);
    app.run(&["audit"]).expect_success();
    let processes = [app.start("worker").await, app.start("worker").await, app.start("intake").await];
    let doctor = || diagnosis(&app.run(&["doctor", "--json"]));
    // The tests have one user for everything, as a quick start has.
    let is_well =
        |(level, found): &(String, String)| level == "ok" || found.starts_with("roles: one user does everything");
    eventually("all is well", async || doctor().1.iter().all(is_well)).await;
    let (code, found) = doctor();
    assert_eq!(code, 0);
    for words in [
        "fsync on",
        "rabbitmq: version",
        "a message went through",
        "clock: postgres",
        "schema: up to date",
        "they balance",
    ] {
        assert!(says(&found, "ok", words), "{words} in {found:#?}");
    }
    let text = app.run(&["doctor"]).expect_success().stdout();
    let others: Vec<&str> = text.lines().filter(|line| !line.starts_with("ok ")).collect();
    assert!(others.len() == 2 && others[0].starts_with("warning  roles "), "{text}");
    app.finish(processes).await;
}

#[tokio::test]
async fn the_doctor_names_what_is_wrong_and_how_to_fix_it() {
    let app = App::new().await;
    app.create_business(1_000);
    let doctor = |settings: &[(&'static str, &str)]| diagnosis(&app.run_with(&["doctor", "--json"], settings));
    // No process has ever run here. That is no failure.
    let (code, found) = doctor(&[]);
    assert_eq!(code, 0, "{found:#?}");
    for words in ["is not there", "intakes: none runs", "workers: none works", "nobody has audited"] {
        assert!(says(&found, "warning", words), "{words} in {found:#?}");
    }
    for (setting, value, words) in [
        ("EARMARK_HASH_SECRET", "5ec7e7", "settings: EARMARK_HASH_SECRET"),
        ("EARMARK_ENVELOPE_KEYS", "k1:5ec7e7", "settings: EARMARK_ENVELOPE_KEYS"),
        ("EARMARK_REPLY_TIMEOUT", "20s", "settings: EARMARK_REPLY_TIMEOUT"),
        ("AMQP_URL", "amqp://127.0.0.1:1", "rabbitmq: "),
        ("DATABASE_URL", "postgres://127.0.0.1:1/nothing", "postgres: "),
    ] {
        let (code, found) = doctor(&[(setting, value)]);
        assert!(code == 1 && says(&found, "failure", words), "{setting}: {found:#?}");
    }
    for unsigned in [("EARMARK_ENVELOPE_KEYS", ""), ("EARMARK_ACCEPT_UNSIGNED", "true")] {
        let (_, found) = doctor(&[unsigned]);
        assert!(says(&found, "warning", "what is not signed is believed"), "{unsigned:?}: {found:#?}");
    }
    let mut database = app.database().await;
    let broken = [
        ("ALTER TABLE allocations DISABLE TRIGGER allocations_append_only", "nothing guards shard_"),
        ("UPDATE businesses SET payout_balance = payout_balance + 7", "1 differences, 7 cents"),
        ("DELETE FROM _sqlx_migrations", "migrations of this program are missing"),
    ];
    for (sql, words) in broken {
        sqlx::query(sql).execute(&mut database).await.expect(sql);
        app.run(&["audit"]);
        let (code, found) = doctor(&[]);
        assert!(code == 1 && says(&found, "failure", words), "{sql}: {found:#?}");
    }
    app.servers().drop_database(&app.prefix).await;
}

#[tokio::test]
async fn the_doctor_checks_the_rights_on_every_table() {
    let app = App::new().await;
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname IN ('earmark', 'shard_0') AND tablename <> '_sqlx_migrations' ORDER BY 1";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut app.database().await).await.expect("tables");
    let source = include_str!("../../src/postgres/inspection.rs");
    let (_, list) = source.split_once("FROM (VALUES").expect("the list");
    let (list, _) = list.split_once("AS t (name, intake, worker, relay, console)").expect("its end");
    let mut listed: Vec<&str> = list.split("('").skip(1).filter_map(|row| row.split('\'').next()).collect();
    listed.sort_unstable();
    assert_eq!(listed, tables, "src/postgres/inspection.rs lists every table");
    app.discard().await;
}

/// RabbitMQ compares this argument from 4.3 on: before, `migrate` has nothing to pass over.
#[tokio::test]
async fn a_work_queue_of_before_the_timeout_is_no_reason_for_migrate_or_a_new_shard_to_fail() {
    let app = App::new().await;
    let broker = app.broker().await;
    let channel = broker.create_channel().await.expect("a channel");
    let text = |text: String| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    for (name, value) in [
        ("x-queue-type", text("quorum".into())),
        ("x-dead-letter-exchange", text(format!("{}.dead-letters", app.prefix))),
        ("x-dead-letter-strategy", text("at-least-once".into())),
        ("x-overflow", text("reject-publish".into())),
        ("x-delivery-limit", AMQPValue::LongInt(20)),
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
    ] {
        arguments.insert(name.into(), value);
    }
    let queue = app.work_queue();
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.expect("declared");
    broker.close(200, "done".into()).await.expect("closed");
    let migrate = app.run(&["migrate"]).expect_success().stderr();
    assert!(migrate.contains("the queues are declared"), "{migrate}");
    app.add_shards(1);
    let process = app.start("serve").await;
    let business = app.create_business(5);
    assert_eq!(app.client(&process, &business).create("ann@example.com", 1).await.status, 200);
    app.finish([process]).await;
}

#[tokio::test]
async fn the_doctor_sees_a_queue_that_somebody_declared_otherwise() {
    let app = App::new().await;
    let broker = app.broker().await;
    let channel = broker.create_channel().await.expect("a channel");
    for queue in [app.work_queue(), app.dead_letter_queue()] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions::durable();
        channel.queue_declare(queue.into(), durable, arguments).await.expect("declared");
    }
    let (code, found) = diagnosis(&app.run(&["doctor", "--json"]));
    assert_eq!(code, 1);
    assert!(says(&found, "failure", "inequivalent arg"), "{found:#?}");
    assert!(says(&found, "failure", &app.work_queue()), "{found:#?}");
    broker.close(200, "done".into()).await.expect("closed");
    app.finish([]).await;
}
