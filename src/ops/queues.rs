//! Polls the broker every second for the depth of the deployment's queues.

use crate::metrics::labels::Role;
use crate::postgres::Shards;
use crate::rabbit::depth::{Depth, Gauge};
use crate::rabbit::topology::Topology;
use crate::rabbit::{Broker, Error};
use crate::retry::Backoff;
use crate::wire::state::QueueDepth;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(1);

/// The depths at the last poll. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Depths(Arc<RwLock<Vec<QueueDepth>>>);

impl Depths {
    /// The depths at the last poll; empty while the broker cannot be asked.
    pub fn latest(&self) -> Vec<QueueDepth> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, queues: Vec<QueueDepth>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = queues;
    }

    /// Polls the queues that can be seen here every second until `stop`. Connects again after each failure.
    pub async fn watch(self, broker: Broker, topology: Topology, shards: Shards, stop: CancellationToken) {
        let mut backoff = Backoff::for_connections();
        while !stop.is_cancelled() {
            if let Err(error) = self.watch_once(&broker, &topology, &shards, &mut backoff, &stop).await {
                tracing::debug!(%error, "queue depths not read");
            }
            self.set(vec![]);
            tokio::select! { () = backoff.wait() => {}, () = stop.cancelled() => {} }
        }
    }

    async fn watch_once(
        &self,
        broker: &Broker,
        topology: &Topology,
        shards: &Shards,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let (gauge, mut queues) = (Gauge::open(broker, Role::Watch).await?, Vec::<String>::new());
        let watching = async {
            loop {
                let known = shards.numbers();
                let all = topology.all_queues(&known);
                if queues != all {
                    gauge.declare(topology, &known).await?;
                    queues = all;
                }
                self.set(gauge.read(&queues).await?.into_iter().map(shown).collect());
                backoff.reset();
                tokio::time::sleep(INTERVAL).await;
            }
        };
        let ended = tokio::select! { ended = watching => ended, () = stop.cancelled() => Ok(()) };
        gauge.close().await;
        ended
    }
}

fn shown(depth: Depth) -> QueueDepth {
    QueueDepth { name: depth.queue, ready: depth.ready, consumers: depth.consumers }
}
