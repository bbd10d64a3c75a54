//! The switch that pauses all workers of a deployment, read from its row once a second. People set it, and to a person
//! one second makes no difference.

use crate::postgres::{PgConnection, Postgres, deployments};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(1);

/// Whether the workers are paused, as last read; `None` until the first read.
#[derive(Debug)]
pub struct Pause(watch::Sender<Option<bool>>);

impl Pause {
    /// A switch that has not been read yet.
    pub fn unknown() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Whether the workers are known to be paused.
    pub fn is_on(&self) -> bool {
        *self.0.borrow() == Some(true)
    }

    /// Returns when the workers are paused (`on` is true) or not paused (`on` is false). Until the switch was read for
    /// the first time, they count as neither.
    pub async fn until(&self, on: bool) {
        // The sender is `self`, so there is always one.
        let _ = self.0.subscribe().wait_for(|known| *known == Some(on)).await;
    }

    /// Reads the switch once a second until `stop`. While Postgres is away, the last value holds.
    pub async fn watch(&self, postgres: &Postgres, prefix: &str, stop: &CancellationToken) {
        let mut session = postgres.session();
        while !stop.is_cancelled() {
            let reading = async |connection: &mut PgConnection| deployments::find_pause(connection, prefix).await;
            if let Ok(found) = session.read(reading).await {
                self.switch(found.is_some());
            }
            tokio::select! { () = tokio::time::sleep(INTERVAL) => {}, () = stop.cancelled() => {} }
        }
    }

    fn switch(&self, on: bool) {
        let before = self.0.send_replace(Some(on));
        if before.unwrap_or(false) != on {
            tracing::info!(paused = on, "pause switch changed");
        }
    }
}
