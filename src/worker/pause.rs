//! The switch that pauses all workers of a deployment, as its row says. Asked for once a second: a pause is for people, and
//! a person cannot tell a second from none.

use crate::postgres::{PgConnection, Postgres, partitions};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(1);

/// Whether the workers are paused, as far as is known.
#[derive(Debug)]
pub struct Pause(watch::Sender<Option<bool>>);

impl Pause {
    pub fn unknown() -> Self {
        Self(watch::Sender::new(None))
    }

    pub fn is_on(&self) -> bool {
        *self.0.borrow() == Some(true)
    }

    /// Returns when the workers are paused (`true`) or are not; a switch that has not been read yet is neither.
    pub async fn until(&self, on: bool) {
        // The sender is `self`, so there is always one.
        let _ = self.0.subscribe().wait_for(|known| *known == Some(on)).await;
    }

    /// Reads the switch again and again, until `stop`. While Postgres is away, what was read last holds.
    pub async fn watch(&self, postgres: &Postgres, prefix: &str, stop: &CancellationToken) {
        let mut session = postgres.session();
        while !stop.is_cancelled() {
            let reading = async |connection: &mut PgConnection| partitions::find_pause(connection, prefix).await;
            if let Ok(found) = session.read(reading).await {
                self.switch(found.is_some());
            }
            tokio::select! { () = tokio::time::sleep(INTERVAL) => {}, () = stop.cancelled() => {} }
        }
    }

    fn switch(&self, on: bool) {
        let before = self.0.send_replace(Some(on));
        if before.unwrap_or(false) != on {
            tracing::info!(paused = on, "worker paused or resumed");
        }
    }
}
