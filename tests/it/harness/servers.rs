//! The real Postgres and the real RabbitMQ of the tests. There are two of each: most tests use the first ones side by side.
//! The second ones are for tests that stop a server, one test at a time. Tests of a failover start a primary and a standby.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The servers. The test may use them while it holds this.
pub struct Servers {
    pub postgres_url: String,
    pub amqp_url: String,
    /// The standby of that Postgres, if it has one.
    pub standby_url: Option<String>,
    /// Set if this test alone has these servers: what keeps others away, and the command that tidies up after it.
    own: Option<(OwnedMutexGuard<()>, &'static [&'static str])>,
}

type Lock = OnceLock<Arc<Mutex<()>>>;

async fn hold(lock: &Lock) -> OwnedMutexGuard<()> {
    Arc::clone(lock.get_or_init(Arc::default)).lock_owned().await
}

/// The value of a variable in a file of the servers that may be stopped.
fn read(folder: &str, file: &str, name: &str) -> String {
    let path = format!("{folder}/{file}");
    let lines = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let value = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{path} has no {name}")).to_owned()
}

/// The folder of the servers that may be stopped. `None` if this test run has not started any.
fn stoppable() -> Option<String> {
    let folder = std::env::var("EARMARK_STOPPABLE").ok();
    if folder.is_none() {
        eprintln!("skipped: this test run has started no servers");
    }
    folder
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"))
}

/// `scripts/services`, for the servers that may be stopped.
fn services() -> Command {
    let mut command = Command::new(setting("EARMARK_SERVICES"));
    // The URLs in the environment are those of the other pair.
    command.env("EARMARK_LOCAL", setting("EARMARK_STOPPABLE")).env_remove("DATABASE_URL").env_remove("AMQP_URL");
    command
}

impl Servers {
    /// The servers that most tests use side by side.
    pub fn shared() -> Self {
        Self { postgres_url: setting("DATABASE_URL"), amqp_url: setting("AMQP_URL"), standby_url: None, own: None }
    }

    /// The servers that may be stopped, for this test alone. `None` if this test run has not started any.
    pub async fn alone() -> Option<Self> {
        static LOCK: Lock = OnceLock::new();
        let folder = stoppable()?;
        let own: Option<(_, &[&str])> = Some((hold(&LOCK).await, &["up"]));
        let url = |name| read(&folder, "services.env", name);
        Some(Self { postgres_url: url("DATABASE_URL"), amqp_url: url("AMQP_URL"), standby_url: None, own })
    }

    /// A new primary with a standby that confirms its commits, for this test alone, and the RabbitMQ that most tests use. `None`
    /// if this test run cannot have them.
    pub async fn pair() -> Option<Self> {
        static LOCK: Lock = OnceLock::new();
        let folder = stoppable()?;
        if std::fs::read_to_string(format!("{folder}/services.mode")).is_ok_and(|mode| mode.trim() != "native") {
            eprintln!("skipped: a primary with a standby needs the programs on this machine");
            return None;
        }
        let mut pair = Self::shared();
        pair.own = Some((hold(&LOCK).await, &["pair", "--purge"]));
        pair.control(&["pair"]).await;
        pair.postgres_url = read(&folder, "pair.env", "PRIMARY_URL");
        pair.standby_url = Some(read(&folder, "pair.env", "STANDBY_URL"));
        Some(pair)
    }

    fn options(&self) -> PgConnectOptions {
        PgConnectOptions::from_str(&self.postgres_url).expect("DATABASE_URL")
    }

    async fn execute(&self, sql: String) {
        let mut connection: PgConnection = self.options().connect().await.expect("the server");
        sqlx::raw_sql(AssertSqlSafe(sql.clone()))
            .execute(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Creates a database and returns its URL. A cluster at `DATABASE_URL` may need more than one statement for it, so whoever
    /// has started it names a program in `EARMARK_TEST_CREATE_DATABASE`.
    pub async fn create_database(&self, name: &str) -> String {
        match std::env::var("EARMARK_TEST_CREATE_DATABASE") {
            Ok(program) if self.postgres_url == setting("DATABASE_URL") => run(Command::new(program).arg(name)).await,
            _ => self.execute(format!("CREATE DATABASE \"{name}\"")).await,
        }
        let (server, _) = self.postgres_url.rsplit_once('/').expect("a URL with a database");
        format!("{server}/{name}?sslmode=disable")
    }

    pub async fn drop_database(&self, name: &str) {
        self.execute(format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await;
    }

    /// `stop postgres`, `stop rabbitmq --immediate`, `start primary`, `promote`, as `scripts/services` understands it.
    pub async fn control(&self, arguments: &[&str]) {
        assert!(self.own.is_some(), "only a test that has the servers for itself may stop them");
        run(services().args(arguments)).await;
    }
}

/// Runs a program to its end.
async fn run(command: &mut Command) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("joined").expect("it ends");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A test that fails halfway must not leave the next one without a server, nor a server that nobody needs.
impl Drop for Servers {
    fn drop(&mut self) {
        if let Some((_, tidying)) = &self.own {
            let _ = services().args(*tidying).output();
        }
    }
}
