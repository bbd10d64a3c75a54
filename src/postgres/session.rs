//! Connections: a [`Session`] has one of its own, and [`Readers`] are a few that reads share.

use super::lineage::{Lineage, Primary};
use super::session_settings::{Checked, Settings};
use super::{Error, Health, warnings};
use crate::metrics::METRICS;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How connections are opened.
#[derive(Clone, Debug)]
pub struct Way {
    pub options: PgConnectOptions,
    /// The schema that each session works in.
    pub schema: String,
    /// How long a connect or a piece of work may last.
    pub timeout: Duration,
    /// Whether a standby has to confirm commits.
    pub needs_standby: bool,
    pub health: Health,
    /// Which servers were met so far.
    pub lineage: Lineage,
}

/// A connection that its owner alone uses. It is opened when it is needed.
#[derive(Debug)]
pub struct Session {
    way: Way,
    open: Option<Open>,
    is_citus: bool,
}

/// A connection whose settings are checked.
#[derive(Debug)]
struct Open {
    connection: PgConnection,
    settings: Settings,
    /// How often the database had been lost before it was opened.
    losses: u64,
    /// The server that it leads to; `None` if that was a standby.
    primary: Option<Primary>,
}

impl Session {
    /// A session that opens its connection when it is needed.
    pub fn new(way: Way) -> Self {
        Self { way, open: None, is_citus: false }
    }

    /// Does `work` once, within the timeout. After an error the connection is dropped, so that no later work meets an open
    /// transaction or a late answer on it.
    ///
    /// [`Error::Unknown`] also if the server sent a warning, or if this process has met a later primary meanwhile: what `work`
    /// has committed may not be there after a failover.
    pub(super) async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut open = self.ready().await?;
        let working = within(self.way.timeout, work(&mut open.connection));
        let (result, was_warned) = warnings::listen(working).await;
        let result = result.and_then(|done| match was_warned {
            true => Err(Error::Unknown("Postgres answered with a warning; the log has it".to_owned())),
            false => self.way.lineage.confirm(open.primary).map(|()| done),
        });
        match &result {
            Ok(_) => self.open = Some(open),
            Err(error) => self.heard(error),
        }
        result
    }

    /// Writes once. If the answer is lost, nobody knows whether it was committed. A second try has to find that out from
    /// the rows.
    pub async fn write<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.run(work).await
    }

    /// Reads. If `work` fails over a connection that was open before, it is done once more over a new one: the old one may
    /// be lost, or a table may have changed under its prepared statements.
    pub async fn read<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Error> {
        loop {
            let was_open = self.is_open();
            match self.run(work.clone()).await {
                Err(error) if was_open && error.may_be_the_connection() => {}
                result => return result,
            }
        }
    }

    /// Checks that the session still has its settings, and can write. An error is only returned: the caller reports it to
    /// [`Health`].
    pub async fn prove(&mut self) -> Result<(), Error> {
        let mut open = match self.take() {
            Some(open) => open,
            None => open(&self.way).await?.0,
        };
        let checked = within(self.way.timeout, prove(&self.way, &open.settings, &mut open.connection)).await?;
        open.primary = checked.primary;
        checked.writable()?;
        self.open = Some(open);
        Ok(())
    }

    /// Whether there is a connection that can be used. One from before the database was last lost does not count: it may
    /// lead to a server that is gone, and nobody has closed it. Nor does one to a primary of before the last promotion.
    pub fn is_open(&self) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.losses == self.way.health.losses() && self.way.lineage.confirm(open.primary).is_ok()
        })
    }

    /// Whether the last connection led to a server of Citus.
    pub fn is_citus(&self) -> bool {
        self.is_citus
    }

    fn take(&mut self) -> Option<Open> {
        let is_open = self.is_open();
        self.open.take().filter(|_| is_open)
    }

    async fn ready(&mut self) -> Result<Open, Error> {
        if let Some(open) = self.take() {
            return Ok(open);
        }
        let opened = open(&self.way).await.inspect_err(|error| {
            self.heard(error);
            // The cause may affect all connections, so the watcher looks at once.
            self.way.health.doubt();
        });
        let (open, checked) = opened?;
        self.is_citus = checked.is_citus;
        checked.read_only.iter().for_each(|error| self.way.health.heard(error));
        Ok(open)
    }

    fn heard(&self, error: &Error) {
        METRICS.postgres_errors.inc(error.trouble());
        self.way.health.heard(error);
    }
}

async fn within<T>(timeout: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = || Err(Error::Unknown(format!("no answer within {timeout:?}")));
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| late())
}

/// Checks the settings of a session, and that it leads to the newest primary.
async fn prove(way: &Way, settings: &Settings, connection: &mut PgConnection) -> Result<Checked, Error> {
    let checked = settings.prove(connection).await?;
    checked.primary.map_or(Ok(()), |primary| way.lineage.admit(primary))?;
    Ok(checked)
}

/// A new connection, with its settings made and checked.
async fn open(way: &Way) -> Result<(Open, Checked), Error> {
    let losses = way.health.losses();
    let settings = Settings::new(way.timeout, &way.schema, way.needs_standby);
    let opening = async {
        let mut connection = PgConnection::connect_with(&way.options).await?;
        METRICS.postgres_connects.inc();
        settings.apply(&mut connection).await?;
        let checked = prove(way, &settings, &mut connection).await?;
        Ok((connection, checked))
    };
    let opened = tokio::time::timeout(way.timeout, opening).await;
    let late = || Err(Error::Away(format!("no connection within {:?}", way.timeout)));
    let (connection, checked) = opened.unwrap_or_else(|_| late())?;
    let primary = checked.primary;
    Ok((Open { connection, settings, losses, primary }, checked))
}

/// A new connection without a time limit for its work.
pub(super) async fn connect(way: &Way) -> Result<PgConnection, Error> {
    Ok(open(way).await?.0.connection)
}

/// A few sessions that reads share.
#[derive(Debug)]
pub(super) struct Readers {
    places: Semaphore,
    idle: Mutex<Vec<Session>>,
}

impl Readers {
    pub(super) fn new(most: u32) -> Self {
        Self { places: Semaphore::new(most as usize), idle: Mutex::default() }
    }

    /// Reads over one of the sessions. Waits until one is free, at most for the timeout. If the caller drops this future,
    /// its session is closed and not used again.
    pub(super) async fn read<T>(
        &self,
        way: &Way,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Error> {
        let since = Instant::now();
        let place = tokio::time::timeout(way.timeout, self.places.acquire()).await;
        METRICS.pool_wait.observe(since.elapsed().as_secs_f64());
        let Ok(Ok(_place)) = place else {
            return Err(Error::TooSlow(format!("no connection for reads was free within {:?}", way.timeout)));
        };
        let idle = self.idle().pop();
        let mut session = idle.unwrap_or_else(|| Session::new(way.clone()));
        let result = session.read(work).await;
        if session.is_open() {
            self.idle().push(session);
        }
        result
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
