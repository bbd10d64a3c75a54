//! Each test gets its own deployment: a database, a prefix for its queues, and processes of the real program. The tests
//! are written with the functions here.

pub mod browser;
pub mod hook;
pub mod http;
pub mod pooler;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod scripted;
pub mod servers;

use earmark::ledger::ShardId;
use earmark::wire::messages;
use earmark::wire::signing::Keyring;
use http::{Answer, Client};
use lapin::options::{BasicPublishOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use process::{Process, Run};
use serde_json::Value;
use servers::Servers;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// How long a test waits for something that must happen. It is far longer than needed, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const SECRET: &str = "5ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7";

/// The keys that sign the messages of every deployment.
pub const ENVELOPE_KEYS: &str = "k1:e1e7e1e7e1e7e1e7e1e7e1e7e1e7e1e7e1e7e1e7e1e7e1e7e1e7e1e7e1e7e1e7";

/// Waits until `check` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let end = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A business that can pay.
#[derive(Clone, Debug)]
pub struct Business {
    pub id: String,
    pub secret_key: String,
    pub public_key: String,
}

/// A migrated database, of which most tests get a copy: to migrate one takes as long as many a test.
static TEMPLATE: OnceCell<String> = OnceCell::const_new();

fn new_prefix() -> String {
    format!("it-{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

/// One deployment.
pub struct App {
    pub database_url: String,
    pub amqp_url: String,
    pub prefix: String,
    servers: Servers,
    last_shard: AtomicU8,
}

impl App {
    /// A deployment with its own migrated database and its own prefix. No process runs yet.
    pub async fn new() -> Self {
        Self::on(Servers::shared()).await
    }

    /// The same, on servers that this test alone uses and may stop.
    pub async fn on(servers: Servers) -> Self {
        if !servers.can_copy() {
            let app = Self::empty(servers).await;
            app.migrate_and_add(shard());
            return app;
        }
        let template = TEMPLATE.get_or_init(async || {
            let app = Self::empty(Servers::shared()).await;
            app.migrate_and_add(shard());
            app.prefix
        });
        let prefix = new_prefix();
        let database_url = servers.copy_database(template.await, &prefix).await;
        Self::at(servers, prefix, database_url, shard())
    }

    /// A deployment with so many shards, whichever one the other tests use.
    pub async fn with_shards(count: u8) -> Self {
        let app = Self::without_schema().await;
        app.migrate_and_add(count - 1);
        app
    }

    fn migrate_and_add(&self, shards: u8) {
        self.run(&["migrate"]).expect_success();
        self.add_shards(shards);
    }

    /// Adds shards while whatever runs goes on.
    pub fn add_shards(&self, count: u8) {
        for _ in 0..count {
            self.run(&["shards", "add"]).expect_success();
            self.last_shard.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The number of the shard that was added last.
    pub fn last_shard(&self) -> u8 {
        self.last_shard.load(Ordering::Relaxed)
    }

    /// The same with a database that has no tables yet.
    pub async fn without_schema() -> Self {
        Self::empty(Servers::shared()).await
    }

    async fn empty(servers: Servers) -> Self {
        let prefix = new_prefix();
        let database_url = servers.create_database(&prefix).await;
        Self::at(servers, prefix, database_url, 0)
    }

    fn at(servers: Servers, prefix: String, database_url: String, last_shard: u8) -> Self {
        let (amqp_url, last_shard) = (servers.amqp_url.clone(), AtomicU8::new(last_shard));
        Self { database_url, amqp_url, prefix, servers, last_shard }
    }

    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The settings of every process of this deployment.
    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", self.database_url.clone()),
            ("AMQP_URL", self.amqp_url.clone()),
            ("EARMARK_QUEUE_PREFIX", self.prefix.clone()),
            ("EARMARK_HASH_SECRET", SECRET.to_owned()),
            ("EARMARK_ENVELOPE_KEYS", ENVELOPE_KEYS.to_owned()),
            ("EARMARK_LISTEN", "127.0.0.1:0".to_owned()),
            ("EARMARK_OPS_LISTEN", "127.0.0.1:0".to_owned()),
            ("EARMARK_LOG_FORMAT", "json".to_owned()),
        ]
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::new(arguments, self.environment())
    }

    /// The same, with settings that differ from the usual ones.
    pub fn run_with(&self, arguments: &[&str], settings: &[(&'static str, &str)]) -> Run {
        Run::new(arguments, self.environment_with(settings))
    }

    fn environment_with(&self, settings: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let mut environment = self.environment();
        environment.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        environment
    }

    /// Starts a process, with settings that differ from the usual ones.
    pub fn spawn(&self, command: &str, settings: &[(&'static str, &str)]) -> Process {
        Process::spawn(&[command], self.environment_with(settings))
    }

    /// The same, with a limit on the number of open files.
    pub fn spawn_limited(&self, files: u32, command: &str, settings: &[(&'static str, &str)]) -> Process {
        Process::spawn_limited(files, &[command], self.environment_with(settings))
    }

    /// Starts a process and waits until it is ready.
    pub async fn start(&self, command: &str) -> Process {
        self.start_with(command, &[]).await
    }

    pub async fn start_with(&self, command: &str, settings: &[(&'static str, &str)]) -> Process {
        let process = self.spawn(command, settings);
        process.ready().await;
        process
    }

    pub fn create_business(&self, payout_balance: i64) -> Business {
        self.create_business_in(shard(), payout_balance)
    }

    pub fn create_business_in(&self, shard: u8, payout_balance: i64) -> Business {
        let (shard, balance) = (shard.to_string(), payout_balance.to_string());
        let arguments = ["business", "create", "--name", "Acme", "--payout-balance", &balance, "--enable-payouts"];
        let shown = self.run(&[&arguments[..], &["--shard", &shard, "--json"]].concat()).expect_success().json();
        let text = |name: &str| shown[name].as_str().unwrap_or_else(|| panic!("{name} in {shown}")).to_owned();
        Business { id: text("business_id"), secret_key: text("secret_key"), public_key: text("public_key") }
    }

    /// The API of a process, called by a business.
    pub fn client(&self, process: &Process, business: &Business) -> Client {
        Client::new(process.url(), &business.secret_key)
    }

    /// Runs the audit command and returns its report. Checks that the exit code agrees with the report.
    pub fn audit(&self) -> Value {
        let run = self.run(&["audit", "--json"]);
        let shown = run.json();
        let clean = shown["differences"].as_array().is_some_and(Vec::is_empty);
        assert_eq!(run.code(), if clean { 0 } else { 1 }, "{shown}");
        shown
    }

    pub fn assert_clean_audit(&self) {
        let audit = self.audit();
        assert_eq!(audit["differences"], serde_json::json!([]), "{audit}");
    }

    /// A connection that sees the tables of the directory and of the shard.
    pub async fn database(&self) -> PgConnection {
        self.database_of(shard()).await
    }

    /// The same, for another shard.
    pub async fn database_of(&self, shard: u8) -> PgConnection {
        let options = PgConnectOptions::from_str(&self.database_url).expect("a URL");
        let schemas = format!("shard_{shard},earmark");
        options.options([("search_path", schemas)]).connect().await.expect("the test's database")
    }

    /// Runs SQL in the test's database, over a connection of its own.
    pub async fn execute(&self, sql: &str) {
        let executed = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut self.database().await).await;
        executed.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// How many rows of `allocations` have this outcome.
    pub async fn count(&self, outcome: &str) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM allocations WHERE outcome = $1")
            .bind(outcome)
            .fetch_one(&mut self.database().await)
            .await
            .expect("a count")
    }

    /// A connection to the broker; to the first node of a cluster.
    pub async fn broker(&self) -> lapin::Connection {
        let (properties, url) = (lapin::ConnectionProperties::default(), self.amqp_url.split(',').next());
        lapin::Connection::connect(url.expect("a URL"), properties).await.expect("the test's broker")
    }

    pub fn work_queue(&self) -> String {
        self.work_queue_of(shard())
    }

    pub fn work_queue_of(&self, shard: u8) -> String {
        format!("{}.allocations.{shard}", self.prefix)
    }

    /// The keys that sign the messages of this deployment.
    pub fn keys(&self) -> Keyring {
        Keyring::parse(ENVELOPE_KEYS, &self.prefix, false).expect("keys")
    }

    /// Makes a signed message of serialised requests. Nobody listens to its replies.
    pub fn pack<'a>(&self, shard: u8, items: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let replies = format!("{}.replies.{:032x}", self.prefix, 0);
        messages::pack_requests(&self.keys(), ShardId::new(shard), &replies, items)
    }

    pub fn dead_letter_queue(&self) -> String {
        format!("{}.dead-letters", self.prefix)
    }

    /// The number of messages in a queue that no consumer has taken yet.
    pub async fn ready_messages(&self, queue: &str) -> u32 {
        let broker = self.broker().await;
        let channel = broker.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await.expect("the queue");
        let _ = broker.close(200, "done".into()).await;
        declared.message_count()
    }

    pub async fn until_queue_holds(&self, queue: &str, count: u32) {
        eventually(&format!("{queue} holds {count}"), async || self.ready_messages(queue).await == count).await;
    }

    /// Publishes a message from the test itself, over a connection of its own.
    pub async fn publish(&self, queue: &str, body: &[u8], properties: lapin::BasicProperties) {
        let broker = self.broker().await;
        let channel = broker.create_channel().await.expect("a channel");
        channel.confirm_select(Default::default()).await.expect("confirms");
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let published = channel.basic_publish("".into(), queue.into(), options, body, properties);
        let confirmed = published.await.expect("published").await.expect("confirmed");
        assert!(matches!(confirmed, lapin::Confirmation::Ack(None)), "{confirmed:?}");
        broker.close(200, "done".into()).await.expect("closed");
    }

    /// Publishes many messages over one connection.
    pub async fn publish_all(&self, queue: &str, bodies: impl Iterator<Item = Vec<u8>>) {
        let broker = self.broker().await;
        let channel = broker.create_channel().await.expect("a channel");
        channel.confirm_select(Default::default()).await.expect("confirms");
        for body in bodies {
            let properties = lapin::BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            channel.basic_publish("".into(), queue.into(), options, &body, properties).await.expect("published");
        }
        channel.wait_for_confirms().await.expect("confirmed");
        broker.close(200, "done".into()).await.expect("closed");
    }

    /// The open dead letters, the newest first, as the command lists them.
    pub fn dead_letters(&self) -> Vec<Value> {
        let listed = self.run(&["dead-letters", "list", "--limit=1000", "--json"]).expect_success().json();
        listed.as_array().expect("a list").clone()
    }

    pub async fn until_dead_letters(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} dead letters"), async || self.dead_letters().len() == count).await;
        self.dead_letters()
    }

    /// Drops the open dead letters that the test has caused, because `finish` expects none.
    pub fn drop_dead_letters(&self) {
        self.run(&["dead-letters", "drop", "--all", "--yes"]).expect_success();
    }

    /// Stops the processes, and checks that the books balance, that both queues are empty, and that no dead letter is
    /// open. Then removes the deployment from the servers.
    pub async fn finish(self, processes: impl IntoIterator<Item = Process>) {
        for process in processes {
            process.terminate().await;
        }
        self.assert_clean_audit();
        for shard in 0..=self.last_shard() {
            assert_eq!(self.ready_messages(&self.work_queue_of(shard)).await, 0, "the queue of shard {shard} is empty");
        }
        assert_eq!(self.ready_messages(&self.dead_letter_queue()).await, 0, "the dead-letter queue is empty");
        assert_eq!(self.dead_letters(), Vec::<Value>::new(), "no dead letter is left open");
        self.discard().await;
    }

    /// Stops the processes and removes the deployment without these checks. For tests that write rows by hand, so that
    /// the books cannot balance.
    pub async fn discard_running(self, processes: impl IntoIterator<Item = Process>) {
        for process in processes {
            process.terminate().await;
        }
        self.discard().await;
    }

    /// Removes the deployment from the broker, whatever it contains. Its database stays until the servers are stopped: to
    /// remove it takes as long as many a test.
    pub async fn discard(self) {
        self.delete_queues(&self.prefix).await;
    }

    /// Deletes the queues and the exchanges that processes with this prefix declare.
    pub async fn delete_queues(&self, prefix: &str) {
        let dead_letters = format!("{prefix}.dead-letters");
        let work = (0..=self.last_shard()).map(|shard| format!("{prefix}.allocations.{shard}"));
        let broker = self.broker().await;
        let channel = broker.create_channel().await.expect("a channel");
        for queue in work.chain([dead_letters]) {
            let deleting = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
            deleting.await.expect("deleted");
        }
        for exchange in ["dead-letters", "events", "requests", "replies"].map(|name| format!("{prefix}.{name}")) {
            channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.expect("deleted");
        }
        let _ = broker.close(200, "done".into()).await;
    }

    pub async fn delete_queue(&self, queue: &str) {
        let broker = self.broker().await;
        let channel = broker.create_channel().await.expect("a channel");
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
        let _ = broker.close(200, "done".into()).await;
    }
}

/// The shard that the tests use. With `EARMARK_TEST_SHARD=3` each deployment has four shards, and all businesses are in
/// the last one.
pub fn shard() -> u8 {
    static SHARD: LazyLock<u8> =
        LazyLock::new(|| std::env::var("EARMARK_TEST_SHARD").map_or(0, |shard| shard.parse().expect("a number")));
    *SHARD
}

/// The host and port of a URL: what stands between `@` and the path.
pub fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split_once('/').map_or(rest, |(authority, _)| authority);
    rest.rsplit_once('@').map_or(rest, |(_, host)| host)
}

/// Checks that an answer says that the amount was allocated and debited.
pub fn assert_allocated(answer: &Answer) {
    assert_eq!((answer.status, answer.header("earmark-debited")), (200, Some("yes")), "{answer:?}");
}
