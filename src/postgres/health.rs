//! Whether the database is there.

use super::{Error, PgConnection, Postgres};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the database is asked. Whatever fails on the way says so at once.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// Whether the database was there when last heard of. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks again and again, until `stop`. Over a connection of its own: a pool would go on trying to connect for as long
    /// as its timeout lasts before it says that nothing is there.
    pub async fn watch(self, postgres: Postgres, stop: CancellationToken) {
        let mut session = postgres.session();
        while !stop.is_cancelled() {
            match session.run(ping).await {
                Ok(()) => self.answered(),
                Err(error) => self.failed(&error),
            }
            tokio::select! { () = tokio::time::sleep(PING_INTERVAL) => {}, () = stop.cancelled() => {} }
        }
    }

    fn answered(&self) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::info!("postgres answers");
        }
    }

    /// Counts as away from now on, until the next ping is answered.
    pub fn failed(&self, error: &Error) {
        if error.is_retryable() && self.0.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "postgres does not answer");
        }
    }
}

async fn ping(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query("/* ping */ SELECT 1").execute(connection).await?;
    Ok(())
}
