//! The real Postgres and the real RabbitMQ of the tests. There are two pairs: most tests use the first one side by side.
//! The second one is for tests that stop a server, one test at a time.

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
    /// Set if these are the servers that may be stopped.
    alone: Option<OwnedMutexGuard<()>>,
}

fn lock() -> Arc<Mutex<()>> {
    static LOCK: OnceLock<Arc<Mutex<()>>> = OnceLock::new();
    Arc::clone(LOCK.get_or_init(Arc::default))
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
        Self { postgres_url: setting("DATABASE_URL"), amqp_url: setting("AMQP_URL"), alone: None }
    }

    /// The servers that may be stopped, for this test alone. `None` if this test run has not started any.
    pub async fn alone() -> Option<Self> {
        let Ok(folder) = std::env::var("EARMARK_STOPPABLE") else {
            eprintln!("skipped: this test run has started no servers");
            return None;
        };
        let alone = lock().lock_owned().await;
        let path = format!("{folder}/services.env");
        let lines = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let url = |name: &str| {
            let value = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_else(|| panic!("{path} has no {name}")).to_owned()
        };
        Some(Self { postgres_url: url("DATABASE_URL"), amqp_url: url("AMQP_URL"), alone: Some(alone) })
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

    /// `stop postgres`, `stop rabbitmq --immediate`, `start postgres`, as `scripts/services` understands it.
    pub async fn control(&self, arguments: &[&str]) {
        assert!(self.alone.is_some(), "only a test that has the servers for itself may stop them");
        run(services().args(arguments)).await;
    }
}

/// Runs a program to its end.
async fn run(command: &mut Command) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("joined").expect("it ends");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A test that fails halfway must not leave the next one without a server.
impl Drop for Servers {
    fn drop(&mut self) {
        if self.alone.is_some() {
            let _ = services().arg("up").output();
        }
    }
}
