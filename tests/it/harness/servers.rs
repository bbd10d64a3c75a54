//! The real Postgres and the real RabbitMQ of the tests. There are two of each: most tests use the first ones side by side.
//! The second ones are for tests that stop a server, one test at a time. Tests of a cluster have three nodes of RabbitMQ
//! beside the first Postgres, and tests of a failover a primary and a standby beside the first RabbitMQ, also one at a time.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};
use std::process::{Command, Output};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The servers. The test may use them while it holds this.
pub struct Servers {
    pub postgres_url: String,
    pub amqp_url: String,
    /// The standby of that Postgres, if it has one.
    pub standby_url: Option<String>,
    /// The management API of RabbitMQ, if it has one.
    pub management_url: Option<String>,
    /// Set if these are servers that may be stopped.
    own: Option<Own>,
}

/// Servers that a test has for itself.
struct Own {
    folder: String,
    /// The command that tidies up after the test: it mends them, or removes those that no other test needs.
    tidy: &'static [&'static str],
    _alone: OwnedMutexGuard<()>,
}

type Lock = LazyLock<Arc<Mutex<()>>>;
static STOPPABLE: Lock = LazyLock::new(Arc::default);
static CLUSTER: Lock = LazyLock::new(Arc::default);
static PAIR: Lock = LazyLock::new(Arc::default);

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"))
}

impl Own {
    /// The servers of the folder that a variable names. `None` if this test run has none.
    async fn take(variable: &str, lock: &Lock, tidy: &'static [&'static str]) -> Option<Self> {
        let Ok(folder) = std::env::var(variable) else {
            eprintln!("skipped: this test run has no servers for it ({variable})");
            return None;
        };
        Some(Self { folder, tidy, _alone: Arc::clone(lock).lock_owned().await })
    }

    /// `scripts/services`, for these servers.
    fn services(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(setting("EARMARK_SERVICES"));
        // The URLs in the environment are those of the other pair.
        command.env("EARMARK_LOCAL", &self.folder).env_remove("DATABASE_URL").env_remove("AMQP_URL").args(arguments);
        command
    }

    /// A line of a file that `scripts/services` writes for these servers.
    fn find(&self, file: &str, name: &str) -> Option<String> {
        let path = format!("{}/{file}", self.folder);
        let lines = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        lines.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    }

    fn url(&self, file: &str, name: &str) -> String {
        self.find(file, name).unwrap_or_else(|| panic!("{}/{file} has no {name}", self.folder))
    }
}

impl Servers {
    /// The servers that most tests use side by side.
    pub fn shared() -> Self {
        let (postgres_url, amqp_url) = (setting("DATABASE_URL"), setting("AMQP_URL"));
        Self { postgres_url, amqp_url, standby_url: None, management_url: None, own: None }
    }

    /// The servers that may be stopped, for this test alone. `None` if this test run has not started any.
    pub async fn alone() -> Option<Self> {
        let own = Own::take("EARMARK_STOPPABLE", &STOPPABLE, &["up"]).await?;
        let url = |name| own.url("services.env", name);
        let (postgres_url, amqp_url) = (url("DATABASE_URL"), url("AMQP_URL"));
        Some(Self { postgres_url, amqp_url, standby_url: None, management_url: None, own: Some(own) })
    }

    /// A cluster of RabbitMQ for this test alone, and the Postgres of all. The first test starts it. `None` if this test run
    /// cannot have one.
    pub async fn cluster() -> Option<Self> {
        let own = Own::take("EARMARK_CLUSTER", &CLUSTER, &["cluster", "up"]).await?;
        run(own.services(own.tidy)).await;
        let (postgres_url, amqp_url) = (setting("DATABASE_URL"), own.url("services.env", "AMQP_URL"));
        let management_url = own.find("services.env", "RABBITMQ_MANAGEMENT_URL");
        Some(Self { postgres_url, amqp_url, standby_url: None, management_url, own: Some(own) })
    }

    /// A new primary with a standby that confirms its commits, for this test alone, and the RabbitMQ that most tests use. `None`
    /// if this test run cannot have them.
    pub async fn pair() -> Option<Self> {
        let own = Own::take("EARMARK_STOPPABLE", &PAIR, &["pair", "--purge"]).await?;
        if std::fs::read_to_string(format!("{}/services.mode", own.folder)).is_ok_and(|mode| mode.trim() != "native") {
            eprintln!("skipped: a primary with a standby needs the programs on this machine");
            return None;
        }
        run(own.services(&["pair"])).await;
        let (postgres_url, standby_url) = (own.url("pair.env", "PRIMARY_URL"), own.find("pair.env", "STANDBY_URL"));
        Some(Self { postgres_url, amqp_url: setting("AMQP_URL"), standby_url, management_url: None, own: Some(own) })
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
            Ok(program) if self.postgres_url == setting("DATABASE_URL") => {
                let mut command = Command::new(program);
                command.arg(name);
                run(command).await;
            }
            _ => self.execute(format!("CREATE DATABASE \"{name}\"")).await,
        }
        self.url_of(name)
    }

    fn url_of(&self, database: &str) -> String {
        let (server, _) = self.postgres_url.rsplit_once('/').expect("a URL with a database");
        format!("{server}/{database}?sslmode=disable")
    }

    /// Whether this is the Postgres that most tests use, and a database can be copied there by one statement.
    pub fn can_copy(&self) -> bool {
        self.postgres_url == setting("DATABASE_URL") && std::env::var("EARMARK_TEST_CREATE_DATABASE").is_err()
    }

    /// Creates a database like another one, to which nobody is connected, and returns its URL.
    pub async fn copy_database(&self, template: &str, name: &str) -> String {
        self.execute(format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\"")).await;
        self.url_of(name)
    }

    pub async fn drop_database(&self, name: &str) {
        self.execute(format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await;
    }

    /// `stop postgres`, `stop rabbitmq --immediate`, `start primary`, `promote`, as `scripts/services` understands it. Returns what it
    /// prints.
    pub async fn control(&self, arguments: &[&str]) -> String {
        let own = self.own.as_ref().expect("only a test that has the servers for itself may stop them");
        let output = run(own.services(arguments)).await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

async fn run(mut command: Command) -> Output {
    let shown = format!("{command:?}");
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("it runs");
    assert!(output.status.success(), "{shown}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A test that fails halfway must not leave the next one without a server, nor a server that nobody needs.
impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            let _ = own.services(own.tidy).output();
        }
    }
}
