//! Whether the database is there.

use super::{Error, Postgres, keys};
use crate::ledger::RaiseCount;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the database is asked. Whatever fails on the way says so at once. A retry under a key may need the count of
/// a raise that another intake made, so within the second after which a client that is told `Retry-After: 1` comes again.
const PING_INTERVAL: Duration = Duration::from_millis(250);

/// Whether the database was there when last heard of. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks again and again, until `stop`. Over a connection of its own: a pool would go on trying to connect for as long
    /// as its timeout lasts before it says that nothing is there.
    ///
    /// What it asks for is the count of the last raise. `tell` is told each that is read, and `None` when the connection
    /// is lost: the next one may lead to another database.
    pub async fn watch(self, postgres: Postgres, stop: CancellationToken, tell: impl Fn(Option<RaiseCount>)) {
        let mut session = postgres.session();
        while !stop.is_cancelled() {
            match session.run(keys::read_raises).await {
                Ok(count) => {
                    tell(Some(count));
                    self.answered();
                }
                Err(error) => {
                    tell(None);
                    self.failed(&error);
                }
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
