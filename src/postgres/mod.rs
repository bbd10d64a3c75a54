//! SQL and ledger types. Knows nothing of queues or HTTP.
//!
//! One statement a function; each statement begins with its own name in a comment, which `pg_stat_activity`, the server's
//! log and a packet capture show. Two ways to a connection:
//!
//! - [`Postgres::read`] for reads, over a pool: any of them may be lost without harm.
//! - [`Session`] for everything that decides: one connection of its own, never shared. Where a deadline passes, the whole
//!   connection is dropped. It never goes back to a pool with an open transaction or an unsent COMMIT in it.

pub mod allocations;
pub mod api_keys;
pub mod batches;
pub mod businesses;
pub mod dead_letters;
mod error;
mod health;
pub mod history;
pub mod inspection;
pub mod keys;
pub mod overview;
pub mod partitions;
pub mod processes;
mod url;
pub mod users;

pub use error::Error;
pub use health::Health;

use crate::metrics::METRICS;
pub use sqlx::PgConnection;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, Postgres as Database, Transaction};
use std::time::{Duration, Instant};

static MIGRATOR: Migrator = sqlx::migrate!();

/// How to reach the database, and how long one may wait for it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `postgres://user:password@host:port/database`
    pub url: String,
    /// Most connections that the pool opens.
    pub pool_size: u32,
    /// How long a connect, a statement, a lock or an idle transaction may last before Postgres gives it up. No lock of a
    /// process that was stopped in the middle is held for longer.
    pub timeout: Duration,
}

/// The way to one database.
#[derive(Clone, Debug)]
pub struct Postgres {
    options: PgConnectOptions,
    pool: PgPool,
    timeout: Duration,
}

impl Postgres {
    /// Prepares the way to the database; connects to nothing yet.
    pub fn new(settings: &Settings, application: &str) -> Result<Self, Error> {
        let millis = settings.timeout.as_millis().to_string();
        let options = url::parse(&settings.url)
            .map_err(|wrong| Error::Fatal(format!("DATABASE_URL {wrong}")))?
            .application_name(application)
            .options([
                ("statement_timeout", millis.as_str()),
                ("lock_timeout", millis.as_str()),
                ("idle_in_transaction_session_timeout", millis.as_str()),
                ("synchronous_commit", "on"),
                // A statement that was planned while its table was empty would keep scanning the whole table as it
                // grows: in a prototype 7,000 requests a second fell to 4,000. This makes every plan go by the index.
                ("enable_seqscan", "off"),
                // A table that has no index for a question looks immensely dear then, and Postgres would compile the plan
                // to machine code: tens of milliseconds for a question of microseconds.
                ("jit", "off"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(settings.pool_size)
            .acquire_timeout(settings.timeout)
            // A round trip a read, so that nobody is told 503 over a connection that went away with a restarted server.
            .test_before_acquire(true)
            .after_connect(|connection, _| {
                METRICS.postgres_connects.inc();
                Box::pin(async move { refuse_lossy(connection).await })
            })
            .connect_lazy_with(options.clone());
        Ok(Self { options, pool, timeout: settings.timeout })
    }

    /// Runs `work` on a connection of the pool within the timeout. A connection that did not answer in time does not go
    /// back to the pool.
    pub async fn read<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>) -> Result<T, Error> {
        let since = Instant::now();
        let acquired = self.pool.acquire().await;
        METRICS.pool_wait.observe(since.elapsed().as_secs_f64());
        let mut connection = acquired?;
        match tokio::time::timeout(self.timeout, work(&mut connection)).await {
            Ok(result) => result,
            Err(_) => {
                drop(connection.detach());
                Err(Error::Transient(format!("no answer within {:?}", self.timeout)))
            }
        }
    }

    /// A way to connections of one's own.
    pub fn session(&self) -> Session {
        Session { options: self.options.clone(), connection: None, timeout: self.timeout }
    }

    /// Brings the schema up to this program's version; harmless when it is there already.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut connection = connect(&self.options, self.timeout).await?;
        // A migration takes as long as it takes, and plans like everybody else.
        sqlx::raw_sql("SET statement_timeout = 0; SET lock_timeout = 0; RESET enable_seqscan")
            .execute(&mut connection)
            .await?;
        MIGRATOR.run(&mut connection).await.map_err(|error| Error::Fatal(error.to_string()))
    }

    /// How many of this program's migrations the schema lacks. Fails if the schema is newer than the program.
    pub async fn missing_migrations(&self) -> Result<usize, Error> {
        let table =
            sqlx::query_scalar!(r#"/* find_schema */ SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS "exists!""#);
        let known: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
        if !table.fetch_one(&self.pool).await? {
            return Ok(known.len());
        }
        let applied: Vec<i64> =
            sqlx::query_scalar("/* find_migrations */ SELECT version FROM _sqlx_migrations WHERE success")
                .fetch_all(&self.pool)
                .await?;
        if let Some(newer) = applied.iter().find(|version| !known.contains(version)) {
            return Err(Error::Fatal(format!(
                "the schema has migration {newer}, which this program does not know: run a newer earmark"
            )));
        }
        Ok(known.iter().filter(|version| !applied.contains(version)).count())
    }
}

/// One connection of one's own, opened when it is needed.
#[derive(Debug)]
pub struct Session {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    timeout: Duration,
}

impl Session {
    /// Runs `work` on the connection within the timeout. After anything but a clean answer the connection is dropped, so
    /// that nothing half-done is ever continued.
    pub async fn run<T>(&mut self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>) -> Result<T, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.options, self.timeout).await?,
        };
        match tokio::time::timeout(self.timeout, work(&mut connection)).await {
            Ok(Ok(value)) => {
                self.connection = Some(connection);
                Ok(value)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Unknown(format!("no answer within {:?}", self.timeout))),
        }
    }
}

async fn connect(options: &PgConnectOptions, timeout: Duration) -> Result<PgConnection, Error> {
    let opening = async {
        let mut connection = PgConnection::connect_with(options).await?;
        METRICS.postgres_connects.inc();
        refuse_lossy(&mut connection).await?;
        Ok(connection)
    };
    tokio::time::timeout(timeout, opening)
        .await
        .unwrap_or_else(|_| Err(Error::Transient(format!("no connection within {timeout:?}"))))
}

/// A server that may forget a commit it has answered cannot keep this service's promise.
async fn refuse_lossy(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let settings = sqlx::query!(
        r#"/* read_durability */ SELECT current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on' AS "durable!""#
    );
    if settings.fetch_one(connection).await?.durable {
        return Ok(());
    }
    Err(sqlx::Error::Configuration(
        "this Postgres runs with fsync or full_page_writes off and could forget a committed debit: switch both on"
            .into(),
    ))
}

/// Opens a transaction.
pub async fn begin(connection: &mut PgConnection) -> Result<Transaction<'_, Database>, Error> {
    Ok(connection.begin().await?)
}

/// Rolls back: nothing happened.
pub async fn rollback(transaction: Transaction<'_, Database>) -> Result<(), Error> {
    Ok(transaction.rollback().await?)
}

/// Commits. [`Error::Unknown`] if the answer is lost: the transaction stands or it does not.
pub async fn commit(transaction: Transaction<'_, Database>) -> Result<(), Error> {
    transaction.commit().await.map_err(Error::of_commit)
}
