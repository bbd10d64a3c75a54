//! The shards: their rows in the directory, and the way to each.
//!
//! The directory is the schema `earmark`. A shard is the schema `shard_3`, with all rows of its businesses. The two have no
//! table of the same name, and a session works in one schema only. So a statement that comes to the wrong one fails.

use super::{Error, Postgres, Settings, citus};
use crate::ledger::{BusinessId, RaiseCount, Shard, ShardId, ShardState};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often a process looks which shards there are.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A shard that can be used.
#[derive(Clone, Debug)]
pub struct Open {
    /// What it takes.
    pub state: ShardState,
    /// The way to it.
    pub postgres: Postgres,
}

/// The shards that can be used, by number.
pub type Known = Arc<BTreeMap<ShardId, Open>>;

/// The way to the directory, and to every shard that it lists. Clones share what is known of them.
#[derive(Clone, Debug)]
pub struct Shards {
    directory: Postgres,
    known: Arc<watch::Sender<Known>>,
    /// The shards that were there when this process first looked.
    first: Arc<OnceLock<Known>>,
}

impl Shards {
    /// No shard is known until [`Self::look`].
    pub fn new(settings: &Settings, application: &str) -> Result<Self, Error> {
        let directory = Postgres::new(settings, application)?;
        Ok(Self { directory, known: Arc::new(watch::Sender::default()), first: Arc::default() })
    }

    /// The way to the directory.
    pub fn directory(&self) -> &Postgres {
        &self.directory
    }

    /// The shards that are known now.
    pub fn known(&self) -> Known {
        Arc::clone(&self.known.borrow())
    }

    /// The shards that are known, and a way to hear of changes.
    pub fn subscribe(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// The numbers of the shards that are known, by which their queues are named.
    pub fn numbers(&self) -> Vec<u8> {
        self.known().keys().map(|shard| shard.number()).collect()
    }

    /// The way to a shard. [`Error::Fatal`] if there is no such shard.
    pub fn get(&self, shard: ShardId) -> Result<Postgres, Error> {
        let found = self.known.borrow().get(&shard).map(|open| open.postgres.clone());
        found.ok_or_else(|| Error::Fatal(format!("there is no shard {shard}: see `earmark shards list`")))
    }

    /// The way to the shard of a business. [`Error::Fatal`] if there is no such shard.
    pub fn of(&self, business: BusinessId) -> Result<Postgres, Error> {
        self.get(business.shard())
    }

    /// Reads which shards there are.
    pub async fn look(&self) -> Result<(), Error> {
        let listed = self.directory.read(read_all).await?;
        self.known.send_if_modified(|known| {
            let listed = listed.iter().map(|row| row.shard).filter(|shard| shard.state.is_ready());
            let listed: Vec<Shard> = listed.collect();
            if known.iter().map(|(id, open)| Shard { id: *id, state: open.state }).eq(listed.iter().copied()) {
                return false;
            }
            let postgres =
                |id| known.get(&id).map_or_else(|| self.directory.of_shard(id), |open| open.postgres.clone());
            let open = |shard: Shard| (shard.id, Open { state: shard.state, postgres: postgres(shard.id) });
            *known = Arc::new(listed.into_iter().map(open).collect());
            true
        });
        self.first.get_or_init(|| self.known());
        Ok(())
    }

    /// Looks every second which shards there are, until `stop`. While the directory cannot be read, what is known stays.
    pub async fn keep_looking(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "the list of shards was not read");
            }
            tokio::select! { () = tokio::time::sleep(LOOK_INTERVAL) => {}, () = stop.cancelled() => {} }
        }
    }

    /// Like [`Self::keep_looking`], and watches the health of the directory and of each shard. `tell` gets the count of the
    /// last raise of each shard, as [`Postgres::watch`] says.
    pub async fn watch<F>(self, stop: CancellationToken, tell: F)
    where
        F: Fn(ShardId, Option<RaiseCount>) + Clone + Send + Sync + 'static,
    {
        let mut watchers = JoinSet::new();
        let mut watched = BTreeSet::new();
        watchers.spawn(self.directory.clone().watch(stop.clone(), |_| {}));
        let mut known = self.known.subscribe();
        let watching = async {
            loop {
                for (&id, open) in known.borrow_and_update().iter().filter(|(id, _)| watched.insert(**id)) {
                    let tell = tell.clone();
                    watchers.spawn(open.postgres.clone().watch(stop.clone(), move |count| tell(id, count)));
                }
                // The sender is in `self`, so there is always one.
                let _ = known.changed().await;
            }
        };
        tokio::select! { () = watching => {}, () = self.keep_looking(&stop) => {} }
        while watchers.join_next().await.is_some() {}
    }

    /// What keeps each shard from being used, in words, by number; `None` if nothing does.
    pub fn troubles(&self) -> BTreeMap<u8, Option<&'static str>> {
        let trouble = |(id, open): (&ShardId, &Open)| (id.number(), open.postgres.health().impediment());
        self.known().iter().map(trouble).collect()
    }

    /// What keeps the directory or every shard from being used, in words; empty if nothing does. A shard that is away alone
    /// keeps nobody from using the others: requests of its own businesses are refused. But a process that starts must have
    /// asked each once.
    pub fn impediments(&self) -> Vec<String> {
        let known = self.known();
        let of_shards: Vec<_> = known.values().map(|open| open.postgres.health().impediment()).collect();
        let is_unknown = |open: &Open| open.postgres.health().is_unknown();
        let is_unknown = self.first.get().is_some_and(|first| first.values().any(is_unknown));
        let all = is_unknown || of_shards.iter().all(Option::is_some);
        let found = self.directory.health().impediment().or(of_shards.iter().copied().flatten().next().filter(|_| all));
        found.map(str::to_owned).into_iter().collect()
    }
}

/// The schema that has all of these businesses. [`Error::Fatal`] if there is no such schema.
///
/// A statement that decides compares it with the schema of its session, and fails if they differ. So it makes no difference
/// how the session came there.
pub(super) fn schema_of(businesses: impl IntoIterator<Item = BusinessId>) -> Result<String, Error> {
    let mut shards = businesses.into_iter().map(BusinessId::shard);
    let first = shards.next().ok_or_else(|| Error::Fatal("a statement about no business".to_owned()))?;
    if shards.any(|shard| shard != first) {
        return Err(Error::Fatal("a statement about businesses of two shards".to_owned()));
    }
    Ok(schema(first))
}

/// The name of a shard's schema.
pub(super) fn schema(shard: ShardId) -> String {
    format!("shard_{shard}")
}

/// Brings the directory and every shard up to this program's version. A ledger without a shard gets the first one.
pub async fn migrate(shards: &Shards) -> Result<(), Error> {
    let directory = shards.directory();
    directory.refuse_shared_sessions().await?;
    directory.migrate().await?;
    let listed = directory.read(read_all).await?;
    if listed.is_empty() {
        return add(shards, ShardId::FIRST).await;
    }
    for row in listed {
        directory.of_shard(row.shard.id).migrate().await?;
        if row.shard.state == ShardState::Preparing {
            open(directory, row.shard.id).await?;
        }
    }
    Ok(())
}

/// Adds a shard: notes it, makes its schema, and opens it. If that breaks off, [`migrate`] completes it.
pub async fn add(shards: &Shards, shard: ShardId) -> Result<(), Error> {
    let directory = shards.directory();
    directory.write(async |connection| write_new(connection, shard).await).await?;
    directory.of_shard(shard).migrate().await?;
    open(directory, shard).await
}

async fn open(directory: &Postgres, shard: ShardId) -> Result<(), Error> {
    directory.write(async |connection| write_state(connection, shard, ShardState::Open).await).await.map(drop)
}

/// The node that each shard is on, as `host:port`. Without Citus there are none.
pub async fn read_places(shards: &Shards) -> Result<BTreeMap<ShardId, String>, Error> {
    let reading = async |connection: &mut PgConnection| match citus::find(connection).await? {
        true => citus::read_places(connection).await,
        false => Ok(BTreeMap::new()),
    };
    let mut places = shards.directory().read(reading).await?;
    let known = shards.known();
    Ok(known.iter().filter_map(|(id, open)| Some((*id, places.remove(open.postgres.schema())?))).collect())
}

/// How many migrations of this program the directory and the shards lack together. Reads which shards there are.
pub async fn missing_migrations(shards: &Shards) -> Result<usize, Error> {
    let mut missing = shards.directory().missing_migrations().await?;
    if missing == 0 {
        shards.look().await?;
        for open in shards.known().values() {
            missing += open.postgres.missing_migrations().await?;
        }
    }
    Ok(missing)
}

/// A shard, as its row says.
#[derive(Clone, Debug)]
pub struct ShardRow {
    /// Its number and state.
    pub shard: Shard,
    /// Since when it has this state.
    pub changed_at: OffsetDateTime,
}

/// Every shard, by number.
pub async fn read_all(connection: &mut PgConnection) -> Result<Vec<ShardRow>, Error> {
    let rows = sqlx::query!(
        r#"/* read_shards */
        SELECT shard AS "id: ShardId", state AS "state: ShardState", changed_at FROM shards ORDER BY shard"#
    )
    .map(|row| ShardRow { shard: Shard { id: row.id, state: row.state }, changed_at: row.changed_at })
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Stores a shard whose schema is not made yet. Twice is the same as once.
pub async fn write_new(connection: &mut PgConnection, shard: ShardId) -> Result<(), Error> {
    sqlx::query!(
        "/* write_shard */ INSERT INTO shards (shard, state) VALUES ($1, 'preparing') ON CONFLICT DO NOTHING",
        shard as ShardId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives a shard another state; false if there is no such shard. Twice is the same as once.
pub async fn write_state(connection: &mut PgConnection, shard: ShardId, state: ShardState) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* write_shard_state */
         UPDATE shards SET state = $2, changed_at = CASE WHEN state = $2 THEN changed_at ELSE now() END WHERE shard = $1",
        shard as ShardId,
        state as ShardState
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
