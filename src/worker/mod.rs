//! Process 2: queue → ledger → reply.
//!
//! [`gather`] makes a batch of whatever has arrived, [`settle`] applies it in one transaction, [`disposition`] sends the
//! replies and then the acknowledgements. The three run side by side, so that one batch is decoded and another answered
//! while a third commits; each passes on in order.

pub mod disposition;
pub mod gather;
pub mod settle;

use crate::cut::{self, Cut};
use crate::postgres::{Health, Postgres};
use crate::rabbit::consumer::Consumer;
use crate::rabbit::dead_letters::DeadLetters;
use crate::rabbit::replies::ReplySender;
use crate::rabbit::topology::Topology;
use crate::rabbit::{self, Broker, Error};
use crate::retry::Backoff;
use crate::secret::HashSecret;
use disposition::Disposition;
use gather::Batches;
use settle::Settler;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The bounds of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most messages taken from the queue and not yet acknowledged.
    pub prefetch: u16,
    /// Most requests in one transaction. A message is never torn apart for it.
    pub batch: usize,
    /// How much later than its deadline, by this worker's clock, a request is still applied.
    pub clock_tolerance: Duration,
}

/// What a worker is made of.
pub struct Settings {
    pub broker: Broker,
    pub topology: Topology,
    pub postgres: Postgres,
    pub secret: HashSecret,
    pub limits: Limits,
}

/// A worker, for as long as it runs.
pub struct Worker {
    settings: Settings,
    consuming: AtomicBool,
    postgres_health: Health,
}

impl Worker {
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self { settings, consuming: AtomicBool::new(false), postgres_health: Health::default() })
    }

    /// What keeps this worker from working, in words; empty if nothing does.
    pub fn impediments(&self) -> Vec<&'static str> {
        let checks = [
            (!self.postgres_health.is_up(), "worker: postgres is not reachable"),
            (!self.consuming.load(Ordering::Relaxed), "worker: not consuming from rabbitmq"),
        ];
        checks.into_iter().filter_map(|(is_so, what)| is_so.then_some(what)).collect()
    }

    /// Works until `stop`; whenever the broker is lost, connects again. On `stop` it finishes the batch in hand, replies,
    /// acknowledges, and leaves the rest to others.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let pings = tokio::spawn(self.postgres_health.clone().watch(self.settings.postgres.clone(), stop.clone()));
        let mut backoff = Backoff::for_connections();
        while !stop.is_cancelled() {
            let session = tokio::spawn({
                let (worker, stop) = (Arc::clone(&self), stop.clone());
                async move { worker.session(&stop).await }
            });
            let ended = session.await;
            self.consuming.store(false, Ordering::Relaxed);
            match ended {
                Ok(Ok(())) => backoff.reset(),
                Ok(Err(error)) => tracing::warn!(%error, "worker cannot reach the broker"),
                Err(panic) => tracing::error!(%panic, "worker session ended by a panic"),
            }
            tokio::select! { () = backoff.wait() => {}, () = stop.cancelled() => {} }
        }
        let _ = pings.await;
        tracing::info!("worker stopped");
    }

    /// One pair of connections, from their opening to their loss.
    async fn session(&self, stop: &CancellationToken) -> Result<(), Error> {
        let Settings { broker, topology, limits, .. } = &self.settings;
        let (consuming, publishing) =
            broker.connect_twice("earmark worker: requests", "earmark worker: replies").await?;
        let opening = async {
            topology.declare(&publishing).await?;
            let replies = ReplySender::open(&publishing).await?;
            let dead_letters = DeadLetters::open(&publishing, topology).await?;
            let consumer = Consumer::open(&consuming, &topology.work_queue(), limits.prefetch).await?;
            Ok((replies, dead_letters, consumer))
        };
        let (replies, dead_letters, consumer) = rabbit::open(&[&consuming, &publishing], opening).await?;
        let acknowledger = consumer.acknowledger();
        let (decoded, messages) = mpsc::channel(usize::from(limits.prefetch));
        // Two: one being answered, one waiting. More would only grow what a crash makes others do again.
        let (settled, dispositions) = mpsc::channel::<Disposition>(2);
        self.consuming.store(true, Ordering::Relaxed);
        tracing::info!("worker consumes");

        let session = stop.child_token();
        let watching = tokio::spawn({
            let (link, session) = (consuming.clone(), session.clone());
            async move {
                tokio::select! { () = link.lost() => session.cancel(), () = session.cancelled() => {} }
            }
        });
        let gathering = tokio::spawn(gather::decode(consumer, decoded, session.clone()));
        let disposing = tokio::spawn({
            let link = consuming.clone();
            async move { disposition::perform_all(dispositions, &replies, &dead_letters, &acknowledger, &link).await }
        });
        self.settle_all(Batches::new(messages, limits.batch), settled, &session).await;
        session.cancel();
        let _ = tokio::join!(gathering, disposing, watching);
        consuming.close().await;
        publishing.close().await;
        Ok(())
    }

    /// Settles batch after batch until the session ends.
    async fn settle_all(&self, mut batches: Batches, settled: mpsc::Sender<Disposition>, session: &CancellationToken) {
        let mut settler = Settler::new(&self.settings);
        loop {
            let batch = tokio::select! { biased; () = session.cancelled() => return, batch = batches.next() => batch };
            let Some(batch) = batch else { return };
            cut::at(Cut::W1).await;
            let Some(results) = settler.settle(&batch, session).await else { return };
            cut::at(Cut::W6).await;
            if settled.send(Disposition::of(batch, results)).await.is_err() {
                return;
            }
        }
    }
}
