//! The real Postgres and the real RabbitMQ that the tests share. Most tests use them side by side. A test that stops a
//! server has both for itself while it runs.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};
use std::process::Command;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

#[expect(dead_code, reason = "held, not read")]
enum Hold {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

/// The servers. The test may use them while it holds this.
pub struct Servers {
    pub postgres_url: String,
    pub amqp_url: String,
    hold: Hold,
}

fn lock() -> Arc<RwLock<()>> {
    static LOCK: OnceLock<Arc<RwLock<()>>> = OnceLock::new();
    Arc::clone(LOCK.get_or_init(Arc::default))
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"))
}

impl Servers {
    pub async fn shared() -> Self {
        Self::held(Hold::Shared(lock().read_owned().await))
    }

    /// Both servers, for this test alone. `None` if they do not belong to the tests, because then nobody may stop them.
    pub async fn alone() -> Option<Self> {
        if std::env::var("EARMARK_SERVICES").is_err() {
            eprintln!("skipped: the servers were not started by this test run");
            return None;
        }
        Some(Self::held(Hold::Alone(lock().write_owned().await)))
    }

    fn held(hold: Hold) -> Self {
        Self { postgres_url: setting("DATABASE_URL"), amqp_url: setting("AMQP_URL"), hold }
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

    /// Creates a database and returns its URL.
    pub async fn create_database(&self, name: &str) -> String {
        self.execute(format!("CREATE DATABASE \"{name}\"")).await;
        let (server, _) = self.postgres_url.rsplit_once('/').expect("a URL with a database");
        format!("{server}/{name}?sslmode=disable")
    }

    pub async fn drop_database(&self, name: &str) {
        self.execute(format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await;
    }

    /// `stop postgres`, `stop rabbitmq --immediate`, `start postgres`, as `scripts/services` understands it.
    pub async fn control(&self, arguments: &[&str]) {
        assert!(matches!(self.hold, Hold::Alone(_)), "only a test that has the servers for itself may stop them");
        let mut command = Command::new(setting("EARMARK_SERVICES"));
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A test that fails halfway must not leave the other tests without a server.
impl Drop for Servers {
    fn drop(&mut self) {
        if matches!(self.hold, Hold::Alone(_)) {
            let _ = Command::new(setting("EARMARK_SERVICES")).arg("up").output();
        }
    }
}
