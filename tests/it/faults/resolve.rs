//! Intakes that give up on many requests at once: a request that cannot be resolved must not hold up another.

use super::site::{Role, Site, Way};
use crate::harness::http::{Answer, Client};
use crate::harness::proxy::{Mode, Protocol};
use crate::harness::servers::Servers;
use crate::harness::{App, assert_allocated, eventually};
use futures_util::future::join_all;
use std::time::Duration;

const QUICK: [(&str, &str); 4] = [
    ("EARMARK_REPLY_TIMEOUT", "500ms"),
    ("EARMARK_SETTLE_TIMEOUT", "1s"),
    ("EARMARK_RESOLVE_TIMEOUT", "20s"),
    ("EARMARK_SHUTDOWN_GRACE", "25s"),
];

/// Starts an intake whose queue exists but has no worker.
async fn intake_without_worker(app: &App) -> crate::harness::process::Process {
    app.start("worker").await.terminate().await;
    app.start_with("intake", &QUICK).await
}

async fn create_all(client: &Client, emails: impl Iterator<Item = String>, keyed: bool) -> Vec<Answer> {
    join_all(emails.map(async |email| match keyed {
        true => client.create_with_key(&format!("key-{email}"), &email, 10).await,
        false => client.create(&email, 10).await,
    }))
    .await
}

fn others() -> impl Iterator<Item = String> {
    (0..100).map(|number| format!("user{number}@example.com"))
}

fn assert_denied(answers: &[Answer]) {
    for answer in answers {
        assert_eq!((answer.status, answer.header("earmark-debited")), (500, Some("no")), "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_voided_is_set_aside_and_holds_up_no_other() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let intake = intake_without_worker(&app).await;
    let client = app.client(&intake, &business);
    let mut database = app.database().await;
    let rule = "ALTER TABLE allocations ADD CONSTRAINT no_bob CHECK (email NOT LIKE 'bob%')";
    sqlx::query(rule).execute(&mut database).await.expect("a rule");
    let bobs = tokio::spawn({
        let client = client.clone();
        async move {
            tokio::join!(
                create_all(&client, ["bob1@example.com".to_owned()].into_iter(), true),
                create_all(&client, ["bob2@example.com".to_owned()].into_iter(), false)
            )
        }
    });
    let (keyed, plain) = tokio::join!(create_all(&client, others(), true), create_all(&client, others(), false));
    assert_denied(&keyed);
    assert_denied(&plain);
    intake.until_logged("not resolved: this needs a person").await;
    // Later requests are not held up either, whichever task resolves them.
    assert_denied(&create_all(&client, others(), true).await);
    assert!(!bobs.is_finished(), "these requests cannot be voided, so they have no answer yet");
    sqlx::query("ALTER TABLE allocations DROP CONSTRAINT no_bob").execute(&mut database).await.expect("no rule");
    let (keyed, plain) = bobs.await.expect("joined");
    assert_denied(&keyed);
    assert_denied(&plain);
    let worker = app.start("worker").await;
    app.until_queue_holds(&app.work_queue(), 0).await;
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_key_that_somebody_holds_locked_holds_up_no_other() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let intake = intake_without_worker(&app).await;
    let client = app.client(&intake, &business);
    assert_denied(&create_all(&client, ["ann@example.com".to_owned()].into_iter(), true).await);
    let mut database = app.database().await;
    let lock = "BEGIN; SELECT FROM idempotency_keys WHERE key = 'key-ann@example.com' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut database).await.expect("locked");
    let held = tokio::spawn({
        let client = client.clone();
        async move { create_all(&client, ["ann@example.com".to_owned()].into_iter(), true).await }
    });
    for _ in 0..3 {
        assert_denied(&create_all(&client, others(), true).await);
    }
    assert!(!held.is_finished());
    sqlx::raw_sql("COMMIT").execute(&mut database).await.expect("unlocked");
    assert_denied(&held.await.expect("joined"));
    let worker = app.start("worker").await;
    app.until_queue_holds(&app.work_queue(), 0).await;
    let allocated = async || client.create_with_key("key-ann@example.com", "ann@example.com", 10).await;
    eventually("the key is free again", async || allocated().await.status == 200).await;
    assert_allocated(&allocated().await);
    app.finish([intake, worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_broker_is_lost_every_keyed_request_in_flight_is_answered_and_none_with_a_504() {
    const IN_FLIGHT: usize = 4_096;
    let site = Site::new(Servers::shared()).await;
    site.app.start("worker").await.terminate().await;
    // No request times out here. The loss of the broker ends the wait. The resolve timeout is three times the default, for a
    // busy machine. One by one, all of them would take twice that.
    let settings = [
        ("EARMARK_REPLY_TIMEOUT", "300s"),
        ("EARMARK_SETTLE_TIMEOUT", "10s"),
        ("EARMARK_RESOLVE_TIMEOUT", "15s"),
        ("EARMARK_SHUTDOWN_GRACE", "320s"),
    ];
    let intake = site.spawn_with(Role::Intake, None, &settings);
    intake.ready().await;
    site.proxy(Way(Role::Intake, Protocol::Postgres)).set(Mode::Delay(Duration::from_millis(5)));
    let client = site.app.client(&intake, &site.business);
    let in_flight = async || intake.metric("earmark_requests_in_flight").await;
    let mut asking = vec![];
    while asking.len() < IN_FLIGHT {
        // Not all at once: a busy machine would be too slow to look up their API key in time.
        for _ in 0..256 {
            let (client, key) = (client.clone(), format!("key-{}", asking.len()));
            asking.push(tokio::spawn(async move { client.create_with_key(&key, "ann@example.com", 1).await }));
        }
        eventually("all are in flight", async || in_flight().await == Some(asking.len() as f64)).await;
    }
    site.proxy(Way(Role::Intake, Protocol::Amqp)).set(Mode::Refuse);
    site.proxy(Way(Role::Intake, Protocol::Amqp)).reset_all();
    let mut answers = vec![];
    for asked in asking {
        answers.push(asked.await.expect("joined"));
    }
    assert_denied(&answers);
    site.proxy(Way(Role::Intake, Protocol::Amqp)).set(Mode::Pass);
    let worker = site.app.start("worker").await;
    site.app.until_queue_holds(&site.app.work_queue(), 0).await;
    assert_eq!(client.user_balance("ann@example.com").await, 0);
    intake.terminate().await;
    worker.terminate().await;
    site.app.discard().await;
}
