//! Which requests suffer when Postgres is slow, unreachable or read-only.

use super::end_sessions;
use crate::harness::http::{Answer, Client};
use crate::harness::process::Process;
use crate::harness::servers::Servers;
use crate::harness::{App, Business, assert_allocated, eventually, shard};
use reqwest::Method;
use serde_json::json;
use sqlx::PgConnection;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Makes only the search by email slow: it waits while somebody holds an advisory lock.
async fn make_searches_wait(app: &App) {
    app.execute(
        "SET allow_system_table_mods = on;
         ALTER FUNCTION hashtextextended(text, bigint) RENAME TO the_real_one;
         CREATE FUNCTION pg_catalog.hashtextextended(text, bigint) RETURNS bigint LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM pg_advisory_xact_lock_shared(7);
             RETURN the_real_one($1, $2);
         END
         $$",
    )
    .await;
}

/// Holds the lock that searches wait for. Dropping the connection releases it.
async fn hold_searches(app: &App) -> PgConnection {
    let mut holding = app.database().await;
    sqlx::query("SELECT pg_advisory_lock(7)").execute(&mut holding).await.expect("locked");
    holding
}

const SEARCH: &str = "/payout/requests?email=ann@example.com";

/// Waits until `count` searches are waiting.
async fn until_searches_wait(app: &App, count: i64) {
    eventually(&format!("{count} searches wait"), async || {
        let counting = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '/* find_requests_by_email%'",
        );
        counting.fetch_one(&mut app.database().await).await.expect("a count") == count
    })
    .await;
}

fn assert_unavailable(answer: &Answer) {
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
}

/// Another key of the business, which no intake has seen yet.
fn new_key(app: &App, business: &Business, process: &Process) -> Client {
    let created = app.run(&["key", "create", &business.id, "--json"]).expect_success().json();
    Client::new(process.url(), created["key"].as_str().expect("a key"))
}

#[tokio::test]
async fn slow_reads_refuse_nobody_else() {
    let app = App::new().await;
    let (slow, business) = (app.create_business(1_000), app.create_business(1_000));
    make_searches_wait(&app).await;
    let settings = [("EARMARK_MAX_READS_PER_KEY", "8"), ("EARMARK_SETTLE_TIMEOUT", "4s")];
    let process = app.start_with("serve", &settings).await;
    let (slow, client) = (app.client(&process, &slow), app.client(&process, &business));
    assert_allocated(&slow.create("ann@example.com", 1).await);
    let holding = hold_searches(&app).await;
    // Four of the eight searches take all connections for reads. The other four wait for a connection.
    let searches = (0..8).map(|_| {
        let slow = slow.clone();
        tokio::spawn(async move { slow.get(SEARCH).await })
    });
    let searches: Vec<_> = searches.collect();
    until_searches_wait(&app, 4).await;
    // Other requests succeed while the searches wait, and also when the searches time out.
    while !searches.iter().all(tokio::task::JoinHandle::is_finished) {
        let (new, since) = (new_key(&app, &business, &process), Instant::now());
        assert_allocated(&client.create("bob@example.com", 1).await);
        assert_allocated(&new.create("bob@example.com", 1).await);
        assert!(process.is_ready().await);
        assert!(
            since.elapsed() < Duration::from_secs(2),
            "other requests wait for the searches: {:?}",
            since.elapsed()
        );
    }
    for search in searches {
        assert_unavailable(&search.await.expect("joined"));
    }
    assert_allocated(&client.create("bob@example.com", 1).await);
    drop(holding);
    eventually("searches are answered again", async || slow.get(SEARCH).await.status == 200).await;
    let refused =
        async |reason: &str| process.metric(&format!("earmark_unavailable_total{{reason=\"{reason}\"}}")).await;
    assert_eq!((refused("postgres_slow").await >= Some(8.0), refused("postgres_down").await), (true, Some(0.0)));
    app.finish([process]).await;
}

#[tokio::test]
async fn no_key_has_more_pages_read_at_once_than_it_may() {
    let app = App::new().await;
    let (business, other) = (app.create_business(1_000), app.create_business(1_000));
    make_searches_wait(&app).await;
    let process = app.start("serve").await;
    let (client, other) = (app.client(&process, &business), app.client(&process, &other));
    assert_allocated(&client.create("ann@example.com", 1).await);
    let holding = hold_searches(&app).await;
    let search = |csv: bool| {
        let request = client.authorized(Method::GET, SEARCH);
        let request = if csv { request.header("accept", "text/csv") } else { request };
        tokio::spawn(async move { Client::send(request).await.expect("an answer") })
    };
    let searches = [search(false), search(true)];
    until_searches_wait(&app, 2).await;
    for csv in [false, true] {
        let refused = search(csv).await.expect("joined");
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{refused:?}");
        assert_eq!(refused.json(), json!({"error": "Too many requests. No funds were debited by this request."}));
    }
    assert_eq!(client.get("/balance").await.status, 200, "only pages of the history count");
    assert_eq!(other.get("/payout/requests").await.status, 200, "other keys are not limited");
    drop(holding);
    for search in searches {
        assert_eq!(search.await.expect("joined").status, 200);
    }
    assert_eq!(client.get(SEARCH).await.status, 200);
    app.finish([process]).await;
}

#[tokio::test]
async fn an_export_that_nobody_takes_holds_nothing() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let settings = [("EARMARK_MAX_READS_PER_KEY", "1"), ("EARMARK_READ_CONNECTIONS", "1")];
    let process = app.start_with("serve", &settings).await;
    let client = app.client(&process, &business);
    // The export is much larger than the socket buffers.
    app.execute(&format!(
        "INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome)
         SELECT '{}', (lpad(to_hex(1700000000000 + n), 12, '0') || '700080000000' || lpad(to_hex(n), 8, '0'))::uuid,
                'allocate', 'ann@example.com', 5, 'voided' FROM generate_series(1, 120000) AS n",
        business.id
    ))
    .await;
    let export = || client.authorized(Method::GET, "/payout/requests").header("accept", "text/csv").send();
    let mut stalled = export().await.expect("an answer");
    assert!(stalled.chunk().await.expect("the first piece").is_some());
    eventually("it stalls, as the sockets are full", async || {
        let looking = sqlx::query_scalar::<_, Option<bool>>(
            "SELECT max(state_change) < clock_timestamp() - interval '500 ms' FROM pg_stat_activity
             WHERE datname = current_database() AND state = 'idle' AND query LIKE '/* find_requests_by_time%'",
        );
        looking.fetch_one(&mut app.database().await).await.expect("an answer") == Some(true)
    })
    .await;
    for _ in 0..20 {
        assert_eq!(client.get("/payout/requests?limit=1").await.status, 200);
        assert_eq!(client.get("/balance").await.status, 200);
    }
    let whole = export().await.expect("an answer").text().await.expect("all of it");
    assert_eq!(whole.lines().count(), 1 + 120_000);
    drop(stalled);
    app.discard_running([process]).await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_not_ready_and_named_at_once() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let settings = [("EARMARK_REPLY_TIMEOUT", "20s"), ("EARMARK_SHUTDOWN_GRACE", "30s")];
    let (intake, worker) = (app.start_with("intake", &settings).await, app.start_with("worker", &settings).await);
    let client = app.client(&intake, &business);
    assert_allocated(&client.create("ann@example.com", 1).await);
    // The lock keeps one batch unsettled while the server becomes read-only. The worker settles it afterwards.
    let mut holding = app.database().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE businesses IN EXCLUSIVE MODE").execute(&mut holding).await.expect("locked");
    let asking = {
        let client = client.clone();
        tokio::spawn(async move { client.create("ann@example.com", 1).await })
    };
    app.until_queue_holds(&app.work_queue(), 0).await;
    let switch = |value: &str| format!("ALTER DATABASE \"{}\" SET default_transaction_read_only = {value}", app.prefix);
    app.execute(&switch("on")).await;
    end_sessions(&app).await;
    let since = Instant::now();
    for (process, role) in [(&intake, "intake"), (&worker, "worker")] {
        let expected = Some((503, format!("{role}: postgres is read-only\n")));
        eventually(role, async || process.readiness().await == expected).await;
        eventually("the directory and the shard are named", async || {
            let log = process.log();
            let named = log.iter().filter(|entry| entry["fields"]["message"] == "postgres is read-only");
            named.map(|entry| entry["fields"]["schema"].to_string()).collect::<BTreeSet<_>>().len()
                == 2 + usize::from(shard())
        })
        .await;
    }
    let refused = client.create("bob@example.com", 1).await;
    // The refusal takes a few milliseconds. The limit is generous because the machine may be busy.
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_unavailable(&refused);
    sqlx::raw_sql("ROLLBACK").execute(&mut holding).await.expect("released");
    // A process that starts now reports the same.
    let starting = app.spawn("serve", &settings);
    let expected = (503, "intake: postgres is read-only");
    eventually("it says why", async || {
        starting
            .readiness()
            .await
            .is_some_and(|(status, said)| (status, said.lines().next().unwrap_or_default()) == expected)
    })
    .await;
    // This session may write although the default is read-only, so it can switch the default off.
    let mut writing = app.database().await;
    sqlx::raw_sql("SET default_transaction_read_only = off").execute(&mut writing).await.expect("set");
    sqlx::raw_sql(sqlx::AssertSqlSafe(switch("off"))).execute(&mut writing).await.expect("switched");
    for process in [&intake, &worker, &starting] {
        process.ready().await;
    }
    assert_allocated(&asking.await.expect("joined"));
    assert_allocated(&client.create("ann@example.com", 1).await);
    assert_eq!(client.user_balance("ann@example.com").await, 3);
    assert_eq!(app.count("voided").await, 0, "no request was published and then voided");
    app.finish([intake, worker, starting]).await;
}

/// Makes the next `times` writes of decisions fail with the Postgres error `code`.
async fn fail_with(app: &App, code: &str, times: u32) {
    app.execute(&format!(
        "CREATE SEQUENCE IF NOT EXISTS failures;
         CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF nextval('failures') <= {times} THEN
                 RAISE EXCEPTION 'made up' USING ERRCODE = '{code}';
             END IF;
             RETURN NULL;
         END
         $$;
         ALTER SEQUENCE failures RESTART;
         CREATE OR REPLACE TRIGGER fail AFTER INSERT ON allocations FOR EACH STATEMENT EXECUTE FUNCTION fail()",
    ))
    .await;
}

#[tokio::test]
async fn only_what_the_data_are_to_blame_for_costs_a_request() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let (intake, worker) = (app.start("intake").await, app.start("worker").await);
    let client = app.client(&intake, &business);
    // Each code is tried with a plain request and with a keyed one, because they take different code paths.
    let innocent = [
        "0A000", "26000", "42703", "42P01", "42501", "P0001", "HV000", "21000", "XX000", "XX001", "53200", "53100",
        "25001", "25006", "25P03", "40001", "40P01", "55P03", "55006", "57014", "57P01", "58030", "08006",
    ];
    for code in innocent {
        fail_with(&app, code, 3).await;
        assert_allocated(&client.create("ann@example.com", 1).await);
        fail_with(&app, code, 3).await;
        assert_allocated(&client.create_with_key(code, "ann@example.com", 1).await);
    }
    assert_eq!(app.dead_letters(), Vec::<serde_json::Value>::new());
    assert_eq!(worker.metric("earmark_batch_splits_total").await, Some(0.0));
    let refusals = worker.metric(r#"earmark_postgres_errors_total{kind="refused"}"#).await;
    assert!(refusals >= Some(12.0), "{refusals:?}");
    let alarms = worker.logged("postgres refuses a statement; it is tried again over a new connection");
    assert!((1..=3).contains(&alarms), "it is logged at most once a minute: {alarms}");
    for code in ["22000", "23514", "54000"] {
        // The request fails twice. The third write is its void, which succeeds.
        fail_with(&app, code, 2).await;
        assert_eq!(client.create("bob@example.com", 1).await.status, 500, "{code}");
    }
    app.until_dead_letters(3).await;
    app.drop_dead_letters();
    assert_eq!(client.user_balance("bob@example.com").await, 0);
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_full_disk_is_named_and_what_waits_is_done_when_there_is_room() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let settings = [("EARMARK_REPLY_TIMEOUT", "40s"), ("EARMARK_SHUTDOWN_GRACE", "50s")];
    let (intake, worker) = (app.start_with("intake", &settings).await, app.start_with("worker", &settings).await);
    let client = app.client(&intake, &business);
    fail_with(&app, "53100", u32::MAX).await;
    let asking = tokio::spawn(async move { client.create("ann@example.com", 1).await });
    // With several shards the process works on with the others.
    let expected = match app.last_shard() {
        0 => (503, "worker: postgres has no disk space left\n".to_owned()),
        shard => (200, format!("ready\nshard {shard}: postgres has no disk space left\n")),
    };
    eventually("it says why", async || worker.readiness().await == Some(expected.clone())).await;
    app.execute("DROP TRIGGER fail ON allocations").await;
    assert_allocated(&asking.await.expect("joined"));
    worker.ready().await;
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn sessions_that_are_ended_by_hand_refuse_nobody() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    for round in 0..20 {
        assert_allocated(&client.create("ann@example.com", 1).await);
        assert_eq!(client.get(&format!("/payout/requests?limit={}", round + 1)).await.status, 200);
        assert_eq!(client.get("/balance").await.status, 200);
        end_sessions(&app).await;
        assert_eq!(client.get("/balance").await.status, 200);
        assert_allocated(&new_key(&app, &business, &process).create("ann@example.com", 1).await);
    }
    assert_eq!(process.logged("postgres is not reachable"), 0);
    app.finish([process]).await;
}

/// Postgres backends that are stopped with SIGSTOP. Dropping this lets them continue.
pub(super) struct Stopped(Vec<i32>);

impl Stopped {
    /// Stops the one with this process id.
    pub(super) fn one(pid: i32) -> Self {
        signal("STOP", pid);
        Self(vec![pid])
    }

    /// Stops all backends that serve this deployment. `None` if Postgres does not run on this machine.
    async fn all_of(app: &App) -> Option<Self> {
        let mut stopped = Self(vec![]);
        let mut database = app.database().await;
        loop {
            // Only idle backends are stopped. A busy one would keep its locks while it is stopped.
            let idle = sqlx::query_scalar::<_, i32>(
                "SELECT pid FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'earmark' AND state = 'idle' AND pid <> ALL ($1)",
            );
            let pids = idle.bind(&stopped.0).fetch_all(&mut database).await.expect("backends");
            if pids.is_empty() && !stopped.0.is_empty() {
                return Some(stopped);
            }
            for pid in pids {
                let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                if !command.starts_with("postgres: ") {
                    eprintln!("skipped: the server's processes are not here");
                    return None;
                }
                signal("STOP", pid);
                stopped.0.push(pid);
            }
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.iter().for_each(|&pid| signal("CONT", pid));
    }
}

fn signal(name: &str, pid: i32) {
    let kill = format!("kill -{name} {pid}");
    let _ = std::process::Command::new("sh").args(["-c", &kill]).stderr(std::process::Stdio::null()).status();
}

#[tokio::test]
async fn connections_of_before_an_outage_are_not_waited_for_after_it() {
    let Some(servers) = Servers::alone().await else { return };
    let app = App::on(servers).await;
    let business = app.create_business(1_000);
    let (intake, worker) = (app.start("intake").await, app.start("worker").await);
    let client = app.client(&intake, &business);
    assert_allocated(&client.create("ann@example.com", 1).await);
    assert_eq!(client.get("/balance").await.status, 200);
    // This looks as if the server's machine had vanished: nobody closes these connections.
    let Some(stopped) = Stopped::all_of(&app).await else { return app.discard_running([intake, worker]).await };
    eventually("both notice that the server is gone", async || !intake.is_ready().await && !worker.is_ready().await)
        .await;
    for process in [&intake, &worker] {
        process.ready().await;
    }
    let since = Instant::now();
    assert_allocated(&client.create("ann@example.com", 1).await);
    assert_eq!(client.get("/balance").await.status, 200);
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    drop(stopped);
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_server_that_has_no_room_for_another_connection_is_not_ready_until_it_has() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let role = format!("{}-role", app.prefix);
    let schemas: String = (0..=shard()).map(|shard| format!("shard_{shard}, ")).collect::<String>() + "earmark";
    let (_, rest) = app.database_url.split_once("://").expect("a URL");
    let (login, address) = rest.rsplit_once('@').expect("a user in the URL");
    let password = login.split_once(':').map_or("none", |(_, password)| password);
    app.execute(&format!(
        "CREATE ROLE \"{role}\" LOGIN PASSWORD '{password}';
         GRANT USAGE ON SCHEMA {schemas} TO \"{role}\";
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schemas} TO \"{role}\"",
    ))
    .await;
    let settings = [("DATABASE_URL", &*format!("postgres://{role}:{password}@{address}"))];
    let intake = app.start_with("intake", &settings).await;
    let client = app.client(&intake, &business);
    assert_eq!(client.get("/balance").await.status, 200);
    app.execute(&format!("ALTER ROLE \"{role}\" CONNECTION LIMIT 0")).await;
    // Open connections keep working. The problem shows when the intake needs a new connection.
    assert!(intake.is_ready().await);
    let expected = Some((503, "intake: postgres is not reachable\n".to_owned()));
    eventually("it says why", async || {
        let reading = (0..4).map(|_| client.get("/balance"));
        futures_util::future::join_all(reading).await;
        intake.readiness().await == expected
    })
    .await;
    app.execute(&format!("ALTER ROLE \"{role}\" CONNECTION LIMIT -1")).await;
    intake.ready().await;
    assert_eq!(client.get("/balance").await.status, 200);
    intake.terminate().await;
    app.execute(&format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
    app.start("worker").await.terminate().await;
    app.finish([]).await;
}
