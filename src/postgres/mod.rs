//! SQL and ledger types. Knows nothing of queues or HTTP.
//!
//! One statement a function; each statement begins with its own name in a comment, which `pg_stat_activity`, the server's
//! log and a packet capture show. Work is done over one of a few connections that are shared, or over one of one's own:
//!
//! | | connection | when it fails |
//! |---|---|---|
//! | [`Postgres::read`] | shared | may be done once more: that harms nobody |
//! | [`Postgres::write_idempotent`] | shared | may be done once more: twice is the same as once |
//! | [`Postgres::write`] | a new one | is not done again; without an answer it stands or it does not |
//! | [`Session::read`], [`Session::write`] | its own, kept | as above |
//!
//! Requests are settled and given up over a [`Session`]; only a look-up voids over a shared connection. Where a deadline passes, the whole connection is dropped. Nothing is ever
//! continued with an open transaction or an unsent COMMIT in it.

pub mod allocations;
pub mod api_keys;
pub mod audits;
pub mod batches;
pub mod businesses;
pub mod dead_letters;
mod error;
mod health;
pub mod history;
pub mod inspection;
pub mod keys;
pub mod partitions;
pub mod processes;
mod proof;
mod session;
mod types;
mod url;
pub mod users;
mod watch;

pub use error::Error;
pub use health::Health;
pub use session::Session;

use session::{Readers, Way};
pub use sqlx::PgConnection;
use sqlx::migrate::Migrator;
use sqlx::{Connection, Postgres as Database, Transaction};
use std::sync::Arc;
use std::time::Duration;

static MIGRATOR: Migrator = sqlx::migrate!();

/// How to reach the database, and how long one may wait for it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `postgres://user:password@host:port/database`
    pub url: String,
    /// Most connections that reads share.
    pub pool_size: u32,
    /// How long a connect, a statement, a lock or an idle transaction may last before Postgres gives it up. No lock of a
    /// process that was stopped in the middle is held for longer.
    pub timeout: Duration,
}

/// The way to one database.
#[derive(Clone, Debug)]
pub struct Postgres {
    way: Way,
    readers: Arc<Readers>,
}

impl Postgres {
    /// Prepares the way to the database; connects to nothing yet.
    pub fn new(settings: &Settings, application: &str) -> Result<Self, Error> {
        let options = url::parse(&settings.url)
            .map_err(|wrong| Error::Fatal(format!("DATABASE_URL {wrong}")))?
            .application_name(application)
            // Poolers refuse a start-up packet with what they do not know, and this one is of no use here.
            .extra_float_digits(None);
        let way = Way { options, timeout: settings.timeout, health: Health::default() };
        Ok(Self { way, readers: Arc::new(Readers::new(settings.pool_size)) })
    }

    /// The same way to the same database, with connections for reads that nobody else takes.
    pub fn apart(&self, pool_size: u32) -> Self {
        Self { way: self.way.clone(), readers: Arc::new(Readers::new(pool_size)) }
    }

    /// How the database is, as far as is known over this way. Somebody has to [watch](Self::watch) it.
    pub fn health(&self) -> &Health {
        &self.way.health
    }

    /// How long one may have to wait for an answer.
    pub fn timeout(&self) -> Duration {
        self.way.timeout
    }

    /// Reads over one of the shared connections, within the timeout. What failed over a connection that was open before is
    /// done once more, over a new one. A connection that did not answer cleanly is not used again.
    pub async fn read<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Error> {
        self.readers.read(&self.way, work).await
    }

    /// Writes what may be written twice, as [`Self::read`] reads. The first try may have been committed and only its answer
    /// lost: then `work` finds its own rows, and must answer the same.
    pub async fn write_idempotent<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Error> {
        self.read(work).await
    }

    /// Writes over a new connection, once. If there is no answer, it stands or it does not.
    pub async fn write<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>) -> Result<T, Error> {
        self.session().write(work).await
    }

    /// A way to a connection of one's own.
    pub fn session(&self) -> Session {
        Session::new(self.way.clone())
    }

    /// A new connection, for work that takes as long as it takes.
    async fn connect(&self) -> Result<PgConnection, Error> {
        session::connect(&self.way).await
    }

    /// Refuses a pooler that lets several clients into one session: there no setting, no prepared statement and no lock lasts
    /// from one transaction to the next. Two sessions that are used in turns meet there.
    pub async fn refuse_shared_sessions(&self) -> Result<(), Error> {
        let (mut one, mut other) = (self.session(), self.session());
        for _ in 0..3 {
            one.prove().await?;
            other.prove().await?;
        }
        Ok(())
    }

    /// Brings the schema up to this program's version; harmless when it is there already.
    pub async fn migrate(&self) -> Result<(), Error> {
        self.refuse_shared_sessions().await?;
        let mut connection = self.connect().await?;
        // A migration takes as long as it takes, and plans like everybody else.
        sqlx::raw_sql("SET statement_timeout = 0; SET lock_timeout = 0; RESET enable_seqscan")
            .execute(&mut connection)
            .await?;
        MIGRATOR.run(&mut connection).await.map_err(|error| Error::Fatal(error.to_string()))
    }

    /// How many of this program's migrations the schema lacks. Fails if the schema is newer than the program.
    pub async fn missing_migrations(&self) -> Result<usize, Error> {
        let known: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
        let Some(applied) = self.read(find_migrations).await? else { return Ok(known.len()) };
        if let Some(newer) = applied.iter().find(|version| !known.contains(version)) {
            return Err(Error::Fatal(format!(
                "the schema has migration {newer}, which this program does not know: run a newer earmark"
            )));
        }
        Ok(known.iter().filter(|version| !applied.contains(version)).count())
    }
}

/// The migrations that were applied; `None` if there is no schema at all.
async fn find_migrations(connection: &mut PgConnection) -> Result<Option<Vec<i64>>, Error> {
    let table =
        sqlx::query_scalar!(r#"/* find_schema */ SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS "exists!""#);
    if !table.fetch_one(&mut *connection).await? {
        return Ok(None);
    }
    let applied = sqlx::query_scalar("/* find_migrations */ SELECT version FROM _sqlx_migrations WHERE success");
    Ok(Some(applied.fetch_all(connection).await?))
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
