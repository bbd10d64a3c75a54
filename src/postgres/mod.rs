//! All SQL of the program. Knows the ledger's types, and nothing of queues or HTTP.
//!
//! A function has one statement. Each statement begins with a comment that names it; `pg_stat_activity`, the server's log
//! and a packet capture show that name. Work runs over one of a few shared connections, or over a connection of its own:
//!
//! | | connection | when it fails |
//! |---|---|---|
//! | [`Postgres::read`] | shared | may be done once more, which does no harm |
//! | [`Postgres::write_idempotent`] | shared | may be done once more: twice is the same as once |
//! | [`Postgres::write`] | a new one | is not done again; without an answer, nobody knows whether it was committed |
//! | [`Session::read`], [`Session::write`] | its own, kept | like [`Postgres::read`] and [`Postgres::write`] |
//!
//! The worker settles requests over a [`Session`], and an intake gives up on them over one. Only a look-up voids over a
//! shared connection. When work fails or takes too long, its whole connection is dropped. So no connection is used again
//! while a transaction is open in it or a COMMIT is unsent.

pub mod allocations;
pub mod api_keys;
pub mod audits;
pub mod batches;
pub mod books;
pub mod businesses;
pub mod citus;
pub mod dead_letters;
pub mod deployments;
mod error;
pub mod event_exchange;
mod health;
pub mod history;
pub mod inspection;
pub mod keys;
mod lineage;
mod migrations;
pub mod movements;
pub mod processes;
pub mod roles;
mod session;
mod session_settings;
pub mod shards;
mod types;
mod url;
pub mod users;
mod warnings;
mod watch;
pub mod webhooks;

pub use error::Error;
pub use health::Health;
pub use session::Session;
pub use shards::Shards;
pub use warnings::Ear;

use crate::ledger::ShardId;
use lineage::Lineage;
use session::{Readers, Way};
pub use sqlx::PgConnection;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, Executor, Postgres as Database, Transaction};
use std::sync::Arc;
use std::time::Duration;

/// The migrations of the directory.
static DIRECTORY: Migrator = sqlx::migrate!("migrations/directory");
/// The migrations of each shard.
static SHARD: Migrator = sqlx::migrate!("migrations/shard");

/// How to reach the database, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `postgres://user:password@host:port/database`
    pub url: String,
    /// The largest number of connections that reads share.
    pub pool_size: u32,
    /// How long a connect, a statement, a wait for a lock or an idle transaction may last before it is given up. If a
    /// process stops in the middle of a transaction, its locks are held for no longer than this.
    pub timeout: Duration,
    /// Whether a server is refused on which no standby has to confirm commits.
    pub needs_standby: bool,
}

/// The way to one schema of the database: the directory, or a shard.
#[derive(Clone, Debug)]
pub struct Postgres {
    way: Way,
    /// The shard; `None` for the directory.
    shard: Option<ShardId>,
    pool_size: u32,
    readers: Arc<Readers>,
}

impl Postgres {
    /// Prepares the way to the directory; connects to nothing yet.
    pub fn new(settings: &Settings, application: &str) -> Result<Self, Error> {
        let options = url::parse(&settings.url)
            .map_err(|wrong| Error::Fatal(format!("DATABASE_URL {wrong}")))?
            .application_name(application)
            // Some poolers refuse a start-up packet that sets this, and the program does not need it.
            .extra_float_digits(None);
        let schema = "earmark".to_owned();
        let Settings { timeout, needs_standby, pool_size, .. } = *settings;
        let health = Health::unknown(&schema);
        let way = Way { options, schema, timeout, needs_standby, health, lineage: Lineage::default() };
        Ok(Self { way, shard: None, pool_size, readers: Arc::new(Readers::new(pool_size)) })
    }

    /// The way to a shard. Its health and its connections are its own: each shard may be on another server.
    pub fn of_shard(&self, shard: ShardId) -> Self {
        let schema = shards::schema(shard);
        let way = Way { health: Health::unknown(&schema), schema, ..self.way.clone() };
        let pool_size = self.pool_size;
        Self { way, shard: Some(shard), pool_size, readers: Arc::new(Readers::new(pool_size)) }
    }

    /// The same schema, with shared connections for reads that are separate from those of `self`.
    pub fn apart(&self, pool_size: u32) -> Self {
        Self { pool_size, readers: Arc::new(Readers::new(pool_size)), ..self.clone() }
    }

    /// The name of the schema.
    pub fn schema(&self) -> &str {
        &self.way.schema
    }

    fn migrator(&self) -> &'static Migrator {
        if self.shard.is_some() { &SHARD } else { &DIRECTORY }
    }

    /// How the database is, as far as this process knows. [`Self::watch`] keeps it up to date.
    pub fn health(&self) -> &Health {
        &self.way.health
    }

    /// How long a connect or a piece of work may last.
    pub fn timeout(&self) -> Duration {
        self.way.timeout
    }

    /// Reads over one of the shared connections, within the timeout. If `work` fails over a connection
    /// that was open before, it is done once more over a new one. A connection that failed is not used again.
    pub async fn read<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Error> {
        self.readers.read(&self.way, work).await
    }

    /// Writes what may be written twice, over a shared connection as [`Self::read`] does. The first try may be committed
    /// although its answer is lost. The second then meets the rows of the first, and must give the same answer.
    pub async fn write_idempotent<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Error> {
        self.read(work).await
    }

    /// Writes over a new connection, once. If the answer is lost, nobody knows whether it was committed.
    pub async fn write<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>) -> Result<T, Error> {
        self.session().write(work).await
    }

    /// A session: a connection that its owner alone uses.
    pub fn session(&self) -> Session {
        Session::new(self.way.clone())
    }

    /// A new connection, for work without a time limit.
    async fn connect(&self) -> Result<PgConnection, Error> {
        session::connect(&self.way).await
    }

    /// A new connection for work that changes a schema or moves it. That may take as long as it needs, and read whole tables.
    ///
    /// What Postgres notes on the way is for nobody. It takes the settings of Citus also where there is none: a new schema is
    /// not distributed by itself, because the directory must not be; and triggers are allowed, as ours refuse a statement, and
    /// read and write nothing.
    async fn connect_unlimited(&self) -> Result<PgConnection, Error> {
        let mut connection = self.connect().await?;
        let sql = "SET statement_timeout = 0; SET lock_timeout = 0; RESET enable_seqscan;
                   SET client_min_messages = warning;
                   SET citus.enable_schema_based_sharding = off; SET citus.enable_unsafe_triggers = on";
        connection.execute(sql).await?;
        Ok(connection)
    }

    /// Refuses a pooler that lets several clients into one session (transaction mode): no setting, prepared statement or
    /// lock lasts there from one transaction to the next. Such a pooler gives the same session to two that are used
    /// alternately, and each then finds the mark of the other.
    pub async fn refuse_shared_sessions(&self) -> Result<(), Error> {
        let (mut one, mut other) = (self.session(), self.session());
        for _ in 0..3 {
            one.prove().await?;
            other.prove().await?;
        }
        Ok(())
    }

    /// Brings the schema up to this program's version, and creates it if it is missing. Does nothing if it has that version
    /// already. On Citus it also distributes the schema of a shard. If the roles are in use, it grants them what they need.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut connection = self.connect_unlimited().await?;
        let has_roles = roles::act_as_owner(&mut connection).await?;
        if !roles::has_schema(&mut connection, self.schema()).await? {
            let sql = format!("CREATE SCHEMA {}", self.schema());
            connection.execute(AssertSqlSafe(sql)).await?;
        }
        let applied = migrations::apply(self.migrator(), &mut connection).await;
        applied.map_err(|error| Error::Fatal(format!("{}: {error}", self.schema())))?;
        if has_roles {
            let grants = if self.shard.is_some() { roles::SHARD } else { roles::DIRECTORY };
            migrations::execute(grants, self.schema(), &mut connection).await?;
        }
        // After the migrations: Citus takes a table with the triggers and functions that it has, and refuses some later.
        if self.shard.is_some() && citus::find(&mut connection).await? {
            citus::write_distributed(&mut connection, self.schema()).await?;
        }
        Ok(())
    }

    /// How many of this program's migrations the schema lacks. Fails if the schema is newer than the program.
    pub async fn missing_migrations(&self) -> Result<usize, Error> {
        let known: Vec<i64> = self.migrator().iter().map(|migration| migration.version).collect();
        let Some(applied) = self.read(find_migrations).await? else { return Ok(known.len()) };
        if let Some(newer) = applied.iter().find(|version| !known.contains(version)) {
            return Err(Error::Fatal(format!(
                "the schema {} has migration {newer}, which this program does not know: run a newer earmark",
                self.schema()
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

/// Commits. [`Error::Unknown`] if the answer is lost: nobody knows then whether the transaction is committed. That an answer
/// came with a warning is seen by the [`Session`].
pub async fn commit(transaction: Transaction<'_, Database>) -> Result<(), Error> {
    transaction.commit().await.map_err(Error::of_commit)
}
