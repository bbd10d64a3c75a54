//! Commits wait for a standby. Whoever is told an outcome can rely on it after a failover.

use super::trouble::Stopped;
use crate::harness::servers::Servers;
use crate::harness::{App, assert_allocated, eventually};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use std::str::FromStr;
use std::time::Duration;

async fn connect(url: &str) -> PgConnection {
    PgConnectOptions::from_str(url).expect("a URL").connect().await.expect("a connection")
}

/// Stops the process with which the standby receives, so that it confirms nothing, as if its machine had vanished.
async fn stop_receiving(app: &App) -> Stopped {
    let url = app.servers().standby_url.clone().expect("a standby");
    let receiver = sqlx::query_scalar("SELECT pid FROM pg_stat_wal_receiver").fetch_one(&mut connect(&url).await).await;
    Stopped::one(receiver.expect("the standby receives"))
}

/// Cancels every wait for the standby, as an administrator can, and returns how many there were.
async fn cancel_waits(database: &mut PgConnection) -> usize {
    let cancelling = sqlx::query_scalar::<_, bool>(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()",
    );
    cancelling.fetch_all(database).await.expect("cancelled").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_may_be_missing_on_the_standby_is_told_to_nobody() {
    tell_nobody(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_under_a_key_that_may_be_missing_on_the_standby_is_told_to_nobody() {
    tell_nobody(Some("key")).await;
}

/// Cancels every wait for the standby of a request, with this key if it has one.
async fn tell_nobody(key: Option<&'static str>) {
    let Some(servers) = Servers::pair().await else { return };
    let app = App::on(servers).await;
    let business = app.create_business(1_000);
    let settings =
        [("EARMARK_REPLY_TIMEOUT", "1s"), ("EARMARK_SETTLE_TIMEOUT", "1s"), ("EARMARK_RESOLVE_TIMEOUT", "3s")];
    let (intake, worker) = (app.start_with("intake", &settings).await, app.start_with("worker", &settings).await);
    let client = app.client(&intake, &business);
    assert_allocated(&client.create("ann@example.com", 1).await);
    let stopped = stop_receiving(&app).await;
    let asking = {
        let client = client.clone();
        tokio::spawn(async move {
            match key {
                None => client.create("bob@example.com", 1).await,
                Some(key) => client.create_with_key(key, "bob@example.com", 1).await,
            }
        })
    };
    eventually("it is admitted", async || intake.metric("earmark_requests_in_flight").await == Some(1.0)).await;
    let (mut database, mut cancelled) = (app.database().await, 0);
    while !asking.is_finished() {
        cancelled += cancel_waits(&mut database).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = asking.await.expect("joined");
    assert_eq!(app.count("allocated").await, 2, "it can be seen on the primary: without that this test shows nothing");
    assert_eq!((answer.status, answer.header("earmark-debited")), (504, Some("unknown")), "{answer:?}");
    let path = format!("/payout/requests/{}", answer.request_id());
    let looking = client.get(&path).await;
    assert_eq!(looking.status, 503, "{looking:?}");
    assert!(cancelled > 2, "each way to the answer was cancelled: {cancelled}");
    assert!(worker.logged("commit in doubt") > 0, "{:#?}", worker.log());
    for (process, role) in [(&intake, "intake"), (&worker, "worker")] {
        let expected = Some((503, format!("{role}: postgres does not answer in time, or waits for its standby\n")));
        eventually("it says why", async || process.readiness().await == expected).await;
    }
    assert_eq!(client.create("ann@example.com", 1).await.status, 503, "nothing is published meanwhile");
    drop(stopped);
    eventually("the standby has it", async || client.get(&path).await.status == 200).await;
    assert_eq!(client.get(&path).await.json()["state"], "allocated");
    assert_eq!(client.user_balance("bob@example.com").await, 1);
    intake.ready().await;
    worker.ready().await;
    eventually("requests are paid again", async || client.create("ann@example.com", 1).await.status == 200).await;
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_time_out_of_statements_does_not_end_the_wait_for_the_standby() {
    let Some(servers) = Servers::pair().await else { return };
    let app = App::on(servers).await;
    let stopped = stop_receiving(&app).await;
    let mut writing = app.database().await;
    let waiting = tokio::spawn(async move {
        let text = "SET statement_timeout = '50ms'; SELECT pg_logical_emit_message(true, '', '')";
        sqlx::raw_sql(text).execute(&mut writing).await.map(drop)
    });
    eventually("it has waited for much longer", async || {
        let looking = sqlx::query_scalar::<_, Option<bool>>(
            "SELECT bool_or(clock_timestamp() - query_start > interval '1 s') FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
        );
        looking.fetch_one(&mut app.database().await).await.expect("an answer") == Some(true)
    })
    .await;
    assert!(!waiting.is_finished());
    drop(stopped);
    waiting.await.expect("joined").expect("confirmed");
    app.discard().await;
}

/// What the doctor says of standbys, each with its level, over the connection of this role.
fn of_standbys(app: &App, role: &str) -> Vec<(String, String)> {
    let url = app.database_url.replace("//postgres@", &format!("//{role}@"));
    let found = app.run_with(&["doctor", "--json"], &[("DATABASE_URL", &url)]).json();
    let checks = found["checks"].as_array().expect("a list").iter().filter(|check| check["check"] == "standbys");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    checks.map(|check| (text(&check["level"]), text(&check["found"]))).collect()
}

#[tokio::test]
async fn where_a_standby_is_required_a_server_without_one_is_refused_and_the_doctor_says_which_confirm() {
    let Some(servers) = Servers::pair().await else { return };
    let app = App::on(servers).await;
    let required = [("EARMARK_SYNCHRONOUS_STANDBY", "required")];
    let process = app.start_with("serve", &required).await;
    app.execute("CREATE ROLE ordinary LOGIN").await;
    let says = |role: &str, level: &str, found: &str| of_standbys(&app, role) == [(level.to_owned(), found.to_owned())];
    assert!(says("postgres", "ok", "standby confirm commits"), "{:?}", of_standbys(&app, "postgres"));
    let hidden = "commits wait for standby; which of them are there, only pg_monitor may see";
    assert!(says("ordinary", "ok", hidden), "{:?}", of_standbys(&app, "ordinary"));

    app.servers().control(&["stop", "standby"]).await;
    let missing = "commits wait for standby, and none of them is there";
    eventually("the standby is gone", async || says("postgres", "failure", missing)).await;
    app.servers().control(&["start", "standby"]).await;
    eventually("the standby is back", async || says("postgres", "ok", "standby confirm commits")).await;

    app.execute("ALTER SYSTEM RESET synchronous_standby_names").await;
    app.execute("SELECT pg_reload_conf()").await;
    let refuses = "postgres refuses this program; the log says why";
    eventually(refuses, async || process.readiness().await.is_some_and(|(_, said)| said.contains(refuses))).await;
    let starting = app.run_with(&["worker"], &required);
    let said = starting.stdout() + &starting.stderr();
    assert!(starting.code() == 1 && said.contains("EARMARK_SYNCHRONOUS_STANDBY is required"), "{said}");
    let asynchronous = ("warning".to_owned(), "standby confirm no commit".to_owned());
    assert!(of_standbys(&app, "postgres").contains(&asynchronous), "{:?}", of_standbys(&app, "postgres"));
    assert!(says("ordinary", "warning", "1 follow, and confirm no commit"), "{:?}", of_standbys(&app, "ordinary"));
    app.discard_running([process]).await;
}
