//! Users of Postgres for each kind of process: each may do what its process does, and the database refuses the rest.

use crate::harness::http::Client;
use crate::harness::process::Process;
use crate::harness::{App, Business, assert_allocated, eventually};
use crate::webhooks::{LOCAL, until_seqs};
use lapin::BasicProperties;
use serde_json::json;
use sqlx::ConnectOptions;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use std::str::FromStr;

const ANN: &str = "ann@example.com";
const ROLES: [&str; 5] = ["owner", "intake", "worker", "relay", "console"];

/// A deployment whose database has a user for each role. An administrator has made the roles, and nobody else is one.
struct Guarded {
    app: App,
}

impl Guarded {
    async fn new() -> Self {
        let app = App::without_schema().await;
        app.execute(include_str!("../../deploy/roles.sql")).await;
        for role in ROLES {
            app.execute(&format!("CREATE ROLE \"{0}-{role}\" LOGIN PASSWORD '{0}' IN ROLE earmark_{role}", app.prefix))
                .await;
        }
        let guarded = Self { app };
        guarded.app.run_with(&["migrate"], &[("DATABASE_URL", &guarded.url("owner"))]).expect_success();
        guarded
    }

    /// The database's URL for the user of this role.
    fn url(&self, role: &str) -> String {
        let prefix = &self.app.prefix;
        let (_, host) = self.app.database_url.rsplit_once('@').expect("a user");
        format!("postgres://{prefix}-{role}:{prefix}@{host}")
    }

    async fn start(&self, role: &'static str) -> Process {
        let (url, console) = (self.url(role), self.url("console"));
        let own = [
            LOCAL,
            ("DATABASE_URL", &url),
            ("EARMARK_CONSOLE_DATABASE_URL", &console),
            ("EARMARK_EVENT_EXCHANGE", "true"),
        ];
        self.app.start_with(role, &own).await
    }

    /// Runs a command as a person does.
    fn run(&self, arguments: &[&str]) -> crate::harness::process::Run {
        self.app.run_with(arguments, &[("DATABASE_URL", &self.url("console"))])
    }

    fn create_business(&self) -> Business {
        let arguments =
            ["business", "create", "--name", "Acme", "--payout-balance", "1000", "--enable-payouts", "--json"];
        let shown = self.run(&arguments).expect_success().json();
        let text = |name: &str| shown[name].as_str().expect("text").to_owned();
        Business { id: text("business_id"), secret_key: text("secret_key"), public_key: text("public_key") }
    }

    async fn connect(&self, role: &str) -> PgConnection {
        let options = PgConnectOptions::from_str(&self.url(role)).expect("a URL");
        options.options([("search_path", "shard_0,earmark")]).connect().await.expect("connected")
    }
}

#[tokio::test]
async fn each_process_works_with_a_database_user_that_may_do_no_more_than_it_needs() {
    let guarded = Guarded::new().await;
    let app = &guarded.app;
    let hook = crate::harness::hook::Hook::start().await;
    let (intake, worker, relay) =
        (guarded.start("intake").await, guarded.start("worker").await, guarded.start("relay").await);
    let business = guarded.create_business();
    let client = app.client(&intake, &business);
    let webhook =
        client.authorized(reqwest::Method::POST, "/webhooks").json(&json!({"url": hook.at("/a"), "after": 0}));
    let webhook = Client::send(webhook).await.expect("an answer");
    assert_eq!(webhook.status, 200, "{webhook:?}");
    let webhook = webhook.json()["webhook_id"].as_str().expect("an id").to_owned();

    // What a platform does.
    let told = client.create(ANN, 100).await;
    assert_allocated(&told);
    let first = told.header("x-request-id").expect("an id").to_owned();
    for _ in 0..2 {
        assert_allocated(&client.create_with_key("k", ANN, 50).await);
    }
    assert_eq!(client.create_with_key("k", ANN, 51).await.status, 422);
    assert_eq!(client.create(ANN, 10_000).await.status, 400);
    assert_eq!(client.reverse(&first).await.json()["reversed"], 100);
    assert_eq!(client.settle(ANN, 20, "t").await.json()["balance"], 30);
    for path in ["/balance", "/business", "/payout/requests", "/events?after=0", "/webhooks"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    for path in ["/payout/user?email=ann@example.com", "/payout/user/statement?email=ann@example.com"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    let now = earmark::clock::now_utc().format(&time::format_description::well_known::Rfc3339).expect("a time");
    for path in [format!("/balance?at={now}"), format!("/payout/user?email={ANN}&at={now}")] {
        let then = client.get(&path).await;
        assert_eq!(then.status, 200, "{path}: {then:?}");
    }
    // A request that is given up on is void, with its key.
    worker.signal("STOP");
    let keyed = client.create_with_key("void", ANN, 1);
    let (plain, keyed) = tokio::join!(client.create(ANN, 1), keyed);
    worker.signal("CONT");
    assert_eq!((plain.status, keyed.status), (500, 500), "{plain:?} {keyed:?}");
    assert_allocated(&client.create_with_key("void", ANN, 1).await);
    until_seqs(&hook, "/a", &[1, 2, 3, 4, 5, 6]).await;
    eventually("events are published", async || {
        relay.metric("earmark_events_published_total").await.is_some_and(|count| count >= 6.0)
    })
    .await;
    app.publish(&app.work_queue_of(0), b"nonsense", BasicProperties::default()).await;
    app.until_dead_letters(1).await;

    // What people do.
    let id = business.id.as_str();
    for arguments in [
        &["business", "fund", id, "--amount", "5"][..],
        &["business", "limit", id, "--daily", "5000"],
        &["business", "disable-payouts", id],
        &["business", "enable-payouts", id],
        &["business", "list"],
        &["key", "create", id, "--kind", "secret"],
        &["key", "list", id],
        &["request", &first],
        &["queues"],
        &["workers", "list"],
        &["workers", "pause"],
        &["workers", "resume"],
        &["webhook", "list", id],
        &["webhook", "redeliver", id, &webhook, "--seq", "1"],
        &["webhook", "disable", id, &webhook],
        &["webhook", "enable", id, &webhook],
        &["dead-letters", "list"],
        &["dead-letters", "drop", "--all", "--yes"],
        &["shards", "full", "0"],
        &["shards", "open", "0"],
        &["audit"],
    ] {
        guarded.run(arguments).expect_success();
    }
    assert_allocated(&client.create(ANN, 1).await);

    for role in ["intake", "worker", "relay"] {
        let doctor = app.run_with(&["doctor", "--as", role], &[("DATABASE_URL", &guarded.url(role))]).stdout();
        for words in ["permissions    all that the program needs", "this user has no more rights than it needs"] {
            assert!(doctor.contains(words), "{role}: {doctor}");
        }
    }
    for (role, other, words) in [
        ("intake", "worker", "FAILURE  permissions    missing: "),
        ("worker", "intake", "INSERT on shard_0.payout_users"),
        ("intake", "worker", "this user: it also is earmark_worker"),
        ("intake", "owner", "this user: it owns the tables"),
    ] {
        let doctor = app.run_with(&["doctor", "--as", role], &[("DATABASE_URL", &guarded.url(other))]).stdout();
        assert!(doctor.contains(words), "{role} as {other}: {doctor}");
    }
    let doctor = app.run(&["doctor", "--as", "intake"]).stdout();
    assert!(doctor.contains("this user: it is a superuser"), "{doctor}");
    let wrong = app.spawn("worker", &[("DATABASE_URL", &guarded.url("intake"))]);
    eventually("it says what is missing", async || {
        wrong.log().iter().any(|line| line.to_string().contains("lacks the role earmark_worker"))
    })
    .await;
    for process in [&intake, &worker, &relay] {
        assert!(process.log().iter().all(|line| !line.to_string().contains("may do more")), "{:?}", process.log());
    }
    guarded.app.finish([intake, worker, relay]).await;
}

/// What somebody tries who has the password of one role. The words are in the error.
const REFUSED: &[(&str, &str)] = &[
    // To move a cent.
    ("intake", "UPDATE businesses SET payout_balance = payout_balance + 1"),
    ("intake", "UPDATE payout_users SET balance = balance + 1"),
    (
        "intake",
        "INSERT INTO payout_users (business_id, email, hash, balance) SELECT business_id, 'x@example.com', sha256('x'), 5 FROM businesses",
    ),
    (
        "intake",
        "INSERT INTO deposits (business_id, deposit_id, amount, seq, payout_balance_after, moved_at) SELECT business_id, gen_random_uuid(), 5, 99, 5, now() FROM businesses",
    ),
    (
        "intake",
        "INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome) SELECT business_id, gen_random_uuid(), 'allocate', 'ann@example.com', 5, 'insufficient_balance' FROM businesses",
    ),
    (
        "intake",
        "INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome, seq, payout_balance_after, moved_at) SELECT business_id, gen_random_uuid(), 'allocate', 'ann@example.com', 5, 'allocated', 99, 5, now() FROM businesses",
    ),
    (
        "worker",
        "INSERT INTO deposits (business_id, deposit_id, amount, seq, payout_balance_after, moved_at) SELECT business_id, gen_random_uuid(), 5, 99, 5, now() FROM businesses",
    ),
    ("worker", "UPDATE businesses SET payouts_enabled = true"),
    ("worker", "UPDATE businesses SET daily_limit = NULL"),
    ("worker", "INSERT INTO businesses (business_id, name, payout_balance) VALUES (gen_random_uuid(), 'x', 5)"),
    ("relay", "UPDATE businesses SET payout_balance = payout_balance + 1"),
    (
        "relay",
        "INSERT INTO allocations (business_id, request_id, outcome) SELECT business_id, gen_random_uuid(), 'voided' FROM businesses",
    ),
    ("console", "UPDATE payout_users SET balance = balance + 1"),
    (
        "console",
        "INSERT INTO allocations (business_id, request_id, outcome) SELECT business_id, gen_random_uuid(), 'voided' FROM businesses",
    ),
    // To make an answer false that was given.
    ("intake", "UPDATE allocations SET outcome = 'voided'"),
    ("worker", "UPDATE allocations SET outcome = 'voided'"),
    ("worker", "DELETE FROM allocations"),
    ("owner", "UPDATE allocations SET outcome = 'voided'"),
    ("owner", "DELETE FROM deposits"),
    ("owner", "TRUNCATE allocations"),
    ("intake", "UPDATE idempotency_keys SET request_id = NULL, kind = NULL, email = NULL, amount = NULL"),
    ("intake", "UPDATE idempotency_keys SET epoch = epoch - 1"),
    (
        "intake",
        "INSERT INTO idempotency_keys (business_id, scope, key, request_id, kind, email, amount) SELECT business_id, 'client', 'x', gen_random_uuid(), 'allocate', 'ann@example.com', 5 FROM businesses",
    ),
    ("intake", "DELETE FROM idempotency_keys"),
    ("worker", "UPDATE idempotency_keys SET epoch = 0, raise_count = 0"),
    ("worker", "UPDATE idempotency_keys SET request_id = gen_random_uuid() WHERE request_id IS NOT NULL"),
    ("worker", "UPDATE idempotency_keys SET amount = amount + 1 WHERE request_id IS NOT NULL"),
    ("worker", "DELETE FROM idempotency_keys"),
    ("intake", "UPDATE key_raises SET count = 0"),
    ("worker", "UPDATE key_raises SET count = count - 1"),
    // To read what it need not.
    ("intake", "SELECT body FROM dead_letters"),
    ("relay", "SELECT requests FROM dead_letters"),
    ("relay", "SELECT email FROM payout_users"),
    ("worker", "SELECT digest FROM api_keys"),
    ("relay", "SELECT digest FROM api_keys"),
    ("worker", "SELECT url FROM webhooks"),
    // To lead events elsewhere.
    ("relay", "UPDATE webhooks SET url = 'https://example.org/'"),
    (
        "worker",
        "INSERT INTO webhooks (business_id, webhook_id, slot, url, cursor) SELECT business_id, gen_random_uuid(), 9, 'https://example.org/', 0 FROM businesses",
    ),
    // To make a key.
    (
        "intake",
        "INSERT INTO api_keys (key_id, business_id, kind, digest, hint) SELECT gen_random_uuid(), business_id, 'secret', sha256('x'), 'x' FROM businesses",
    ),
    ("worker", "UPDATE api_keys SET revoked_at = NULL"),
    ("console", "UPDATE api_keys SET digest = sha256('x')"),
    // To erase a trace.
    ("console", "DELETE FROM dead_letters"),
    ("console", "UPDATE dead_letters SET body = ''"),
    ("console", "UPDATE audits SET differences = 0"),
    ("console", "DELETE FROM audits"),
    ("owner", "UPDATE audits SET differences = 0"),
    ("console", "UPDATE deposits SET amount = 1"),
    ("worker", "DELETE FROM audits"),
    // To become somebody else, or to switch off what guards.
    ("intake", "SET ROLE earmark_owner"),
    ("intake", "SET ROLE earmark_worker"),
    ("worker", "SET ROLE earmark_console"),
    ("console", "SET ROLE earmark_owner"),
    ("worker", "ALTER TABLE allocations DISABLE TRIGGER ALL"),
    ("intake", "ALTER TABLE allocations DISABLE ROW LEVEL SECURITY"),
    ("intake", "DROP POLICY allocations_voids ON allocations"),
    ("worker", "SET session_replication_role = replica"),
    ("owner", "SET session_replication_role = replica"),
    ("intake", "CREATE TABLE shard_0.mine (a int)"),
    ("intake", "CREATE TABLE public.mine (a int)"),
    ("intake", "CREATE TEMPORARY TABLE businesses (a int)"),
    ("intake", "CREATE SCHEMA mine"),
    ("worker", "CREATE FUNCTION shard_0.await_standby() RETURNS boolean LANGUAGE sql AS 'SELECT true'"),
];

/// What the same somebody may do, so that the attempts above are refused for the right reason.
const ALLOWED: &[(&str, &str)] = &[
    (
        "intake",
        "INSERT INTO allocations (business_id, request_id, outcome) SELECT business_id, gen_random_uuid(), 'voided' FROM businesses",
    ),
    (
        "intake",
        "INSERT INTO idempotency_keys (business_id, scope, key) SELECT business_id, 'client', 'x' FROM businesses",
    ),
    ("intake", "UPDATE key_raises SET count = count + 1"),
    ("intake", "UPDATE idempotency_keys SET epoch = epoch + 1, raise_count = raise_count + 1 WHERE key = 'x'"),
    ("intake", "SELECT count(*) FROM dead_letters WHERE dropped_at IS NULL"),
    ("worker", "UPDATE businesses SET payout_balance = payout_balance"),
    (
        "worker",
        "UPDATE idempotency_keys SET request_id = gen_random_uuid(), kind = 'allocate', email = 'a@example.com', amount = 1 WHERE key = 'x'",
    ),
    ("relay", "UPDATE webhooks SET cursor = cursor"),
    ("console", "UPDATE api_keys SET revoked_at = now() WHERE hint = 'none'"),
];

#[tokio::test]
async fn the_database_refuses_the_password_of_one_role_what_another_does() {
    let guarded = Guarded::new().await;
    let app = &guarded.app;
    let serve = app.start_with("serve", &[("DATABASE_URL", &app.database_url)]).await;
    let business = guarded.create_business();
    let client = app.client(&serve, &business);
    assert_allocated(&client.create_with_key("k", ANN, 10).await);
    app.run(&["audit"]).expect_success();
    serve.terminate().await;
    app.execute("INSERT INTO dead_letters (dead_letter_id, body, requests, cause, reason, deaths) VALUES (gen_random_uuid(), 'x', '{}', 'other', 'x', 1)").await;
    app.execute("INSERT INTO shard_0.webhooks (business_id, webhook_id, slot, url, cursor) SELECT business_id, gen_random_uuid(), 1, 'https://example.com/', 0 FROM shard_0.businesses").await;
    for (role, sql) in ALLOWED {
        let done = sqlx::raw_sql(*sql).execute(&mut guarded.connect(role).await).await;
        assert!(done.is_ok(), "{role}: {sql}: {done:?}");
    }
    let before = everything(app).await;
    let mut wrong = vec![];
    for (role, sql) in REFUSED {
        let tried = sqlx::raw_sql(*sql).execute(&mut guarded.connect(role).await).await;
        let code = tried.as_ref().err().and_then(|error| Some(error.as_database_error()?.code()?.into_owned()));
        // Not permitted, or a trigger that guards the row.
        if !matches!(code.as_deref(), Some("42501" | "23001")) {
            wrong.push(format!("{role}: {sql}: {tried:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "not refused");
    assert_eq!(everything(app).await, before, "nothing has changed");
    // The one thing that an intake may do to a business: nothing is dated ahead by it.
    let mut intake = guarded.connect("intake").await;
    let ahead =
        sqlx::query_scalar::<_, bool>("SELECT mark_past(business_id, now() + interval '1 day') FROM businesses");
    assert!(!ahead.fetch_one(&mut intake).await.expect("an answer"));
    assert_eq!(everything(app).await, before, "nothing has changed");
    app.drop_dead_letters();
    guarded.app.discard().await;
}

/// All rows, as text.
async fn everything(app: &App) -> Vec<String> {
    let mut found = vec![];
    let mut database = app.database_of(0).await;
    for table in [
        "businesses",
        "payout_users",
        "allocations",
        "idempotency_keys",
        "key_raises",
        "deposits",
        "webhooks",
        "api_keys",
        "audits",
        "dead_letters",
    ] {
        let sql = format!("SELECT t::text FROM {table} AS t ORDER BY 1");
        found.extend(
            sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql)).fetch_all(&mut database).await.expect("rows"),
        );
    }
    found
}

#[tokio::test]
async fn a_database_of_one_user_is_handed_over_to_the_roles_and_no_request_is_lost() {
    let app = App::without_schema().await;
    let (_, host) = app.database_url.rsplit_once('@').expect("a user");
    let url = format!("postgres://{0}-all:{0}@{host}", app.prefix);
    app.execute(&format!(
        "CREATE ROLE \"{0}-all\" LOGIN PASSWORD '{0}'; GRANT ALL ON DATABASE \"{0}\" TO \"{0}-all\"",
        app.prefix
    ))
    .await;
    app.run_with(&["migrate"], &[("DATABASE_URL", &url)]).expect_success();
    let serve = app.start_with("serve", &[("DATABASE_URL", &url)]).await;
    let business = app.create_business_in(0, 1_000);
    assert_allocated(&app.client(&serve, &business).create(ANN, 10).await);
    app.execute(include_str!("../../deploy/roles.sql")).await;
    app.execute(&format!(
        "REASSIGN OWNED BY \"{0}-all\" TO earmark_owner; GRANT earmark_owner TO \"{0}-all\"",
        app.prefix
    ))
    .await;
    // What runs goes on, as the user is the owner's member.
    assert_allocated(&app.client(&serve, &business).create(ANN, 10).await);
    app.run_with(&["migrate"], &[("DATABASE_URL", &url)]).expect_success();
    serve.terminate().await;
    app.execute(&format!(
        "CREATE ROLE \"{0}-rest\" LOGIN PASSWORD '{0}' IN ROLE earmark_intake, earmark_worker, earmark_relay",
        app.prefix
    ))
    .await;
    let serve = app.start_with("serve", &[("DATABASE_URL", &url.replace("-all:", "-rest:"))]).await;
    let client = app.client(&serve, &business);
    assert_allocated(&client.create(ANN, 10).await);
    assert_eq!((client.payout_balance().await, client.user_balance(ANN).await), (970, 30));
    app.finish([serve]).await;
}

#[tokio::test]
async fn without_the_roles_one_user_does_everything_and_the_doctor_says_so() {
    let app = App::new().await;
    let doctor = app.run(&["doctor"]).stdout();
    assert!(doctor.contains("one user does everything: its password is enough to move money"), "{doctor}");
    app.discard().await;
}
