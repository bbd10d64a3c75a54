//! Connections: one of one's own, and those that reads share.

use super::session_settings::{Checked, Settings};
use super::{Error, Health};
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
    /// How long a connect or a piece of work may last.
    pub timeout: Duration,
    pub health: Health,
}

/// One connection of one's own, opened when it is needed.
#[derive(Debug)]
pub struct Session {
    way: Way,
    open: Option<Open>,
}

/// A connection that is proved to be what it was set to.
#[derive(Debug)]
struct Open {
    connection: PgConnection,
    settings: Settings,
    /// How often the database had been lost before it was opened.
    losses: u64,
}

impl Session {
    /// A session that opens its connection when it is needed.
    pub fn new(way: Way) -> Self {
        Self { way, open: None }
    }

    /// Does `work` once, within the timeout. After anything but a clean answer the connection is dropped, so that nothing
    /// half-done is ever continued.
    pub(super) async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut open = self.ready().await?;
        let result = within(self.way.timeout, work(&mut open.connection)).await;
        match &result {
            Ok(_) => self.open = Some(open),
            Err(error) => self.heard(error),
        }
        result
    }

    /// Writes, once. If there is no answer, it stands or it does not: whoever tries again has to find out, by a key or a
    /// mark in the rows.
    pub async fn write<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.run(work).await
    }

    /// Reads. What failed over a connection that was open before is done once more, over a new one: the old one may have been
    /// lost, or somebody has changed a table under what it has prepared.
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

    /// Asks whether the session still is what it was set to, and can write. For the one who watches: nobody else hears of it.
    pub async fn prove(&mut self) -> Result<(), Error> {
        let mut open = match self.take() {
            Some(open) => open,
            None => open(&self.way).await?.0,
        };
        within(self.way.timeout, open.settings.prove(&mut open.connection)).await?.writable()?;
        self.open = Some(open);
        Ok(())
    }

    /// Whether there is a connection. One that was opened before the database was last lost is none: it may lead to what is
    /// not there any more, and nobody has closed it.
    pub fn is_open(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.losses == self.way.health.losses())
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
            // Whatever it is, others may meet it too.
            self.way.health.doubt();
        });
        let (open, checked) = opened?;
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

/// A new connection, set and proved.
async fn open(way: &Way) -> Result<(Open, Checked), Error> {
    let losses = way.health.losses();
    let settings = Settings::new(way.timeout);
    let opening = async {
        let mut connection = PgConnection::connect_with(&way.options).await?;
        METRICS.postgres_connects.inc();
        settings.apply(&mut connection).await?;
        let checked = settings.prove(&mut connection).await?;
        Ok((connection, checked))
    };
    let opened = tokio::time::timeout(way.timeout, opening).await;
    let late = || Err(Error::Away(format!("no connection within {:?}", way.timeout)));
    let (connection, checked) = opened.unwrap_or_else(|_| late())?;
    Ok((Open { connection, settings, losses }, checked))
}

/// A new connection, and nothing that watches over it.
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

    /// Reads over one of the sessions; waits until one is free, but not for longer than a piece of work may last. A session
    /// whose caller went away in the middle does not come back.
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
