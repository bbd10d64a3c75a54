//! Giving up on a request, safely: its row is inserted as `voided`, or the row that won says what happened.
//!
//! A few tasks do this, each over a connection of its own, so that no client and no timer can drop a statement half-way.
//! A request that is given to them is resolved, however long it takes; its caller may stop waiting for that.

use super::Permit;
use super::unstoppable::Died;
use crate::cut::{self, Cut};
use crate::ledger::{Request, RequestId, list_ids};
use crate::metrics::{Late, METRICS, Proof, Voider};
use crate::postgres::allocations::{self, Resolution};
use crate::postgres::{Error, Postgres, Session};
use crate::retry::Backoff;
use futures_util::FutureExt;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Most requests that one statement voids.
const BATCH: usize = 256;
/// How many tasks resolve. Two, so that one that waits for a row in doubt does not hold up everybody.
const TASKS: usize = 2;

/// A request to be resolved.
struct Job {
    request: Request,
    answer: oneshot::Sender<Resolution>,
    /// Held until it is resolved: an intake whose database is away takes no more than it can remember.
    _permit: Option<Permit>,
    /// Shutdown waits for it.
    _tracked: TaskTrackerToken,
}

/// The requests that are given up and not resolved yet.
#[derive(Clone, Debug, Default)]
struct Open(Arc<Mutex<BTreeSet<u128>>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<u128>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to the resolving tasks.
pub struct Resolver {
    queues: Vec<mpsc::UnboundedSender<Job>>,
    next: AtomicUsize,
    tracker: TaskTracker,
    open: Open,
}

impl Resolver {
    /// Starts the tasks. `abandon` ends them with whatever is left.
    pub fn start(postgres: &Postgres, tracker: TaskTracker, abandon: &CancellationToken) -> Self {
        let open = Open::default();
        let start = |_| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let (session, abandon) = (postgres.session(), abandon.clone());
            let task =
                Task { jobs: receiver, in_hand: Vec::with_capacity(BATCH), session, abandon, open: open.clone() };
            tokio::spawn(task.run());
            sender
        };
        Self { queues: (0..TASKS).map(start).collect(), next: AtomicUsize::new(0), tracker, open }
    }

    /// The oldest request that is not resolved yet: ids rise with time.
    pub fn oldest(&self) -> Option<RequestId> {
        self.open.lock().first().copied().map(RequestId::from_u128)
    }

    /// Hands a request over. The receiver yields how it stands for ever; it fails only if the process ends first.
    pub fn resolve(&self, request: Request, permit: Option<Permit>) -> oneshot::Receiver<Resolution> {
        let (answer, receiver) = oneshot::channel();
        self.open.lock().insert(request.id.as_u128());
        let job = Job { request, answer, _permit: permit, _tracked: self.tracker.token() };
        let queue = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        if self.queues[queue].send(job).is_err() {
            tracing::error!("the resolver has ended");
        }
        receiver
    }
}

struct Task {
    jobs: mpsc::UnboundedReceiver<Job>,
    /// Taken from the channel and not yet resolved. Kept here, so that nothing is lost by a panic.
    in_hand: Vec<Job>,
    session: Session,
    abandon: CancellationToken,
    open: Open,
}

impl Task {
    /// Resolves until there is nothing more to come; goes on after a panic with what it had in hand.
    async fn run(mut self) {
        let mut backoff = Backoff::for_connections();
        while let Err(panic) = AssertUnwindSafe(self.resolve_all()).catch_unwind().await {
            tracing::error!(died = %Died::of(panic), "the resolver panicked");
            backoff.wait().await;
        }
    }

    async fn resolve_all(&mut self) {
        loop {
            if self.in_hand.is_empty() {
                let receiving = self.jobs.recv_many(&mut self.in_hand, BATCH);
                let count = tokio::select! { count = receiving => count, () = self.abandon.cancelled() => 0 };
                if count == 0 {
                    return;
                }
            }
            cut::at(Cut::I6).await;
            self.resolve_together().await;
            while !self.in_hand.is_empty() {
                self.resolve_next().await;
                if self.abandon.is_cancelled() {
                    return;
                }
            }
        }
    }

    /// All without a key at once. If that cannot be, they stay in hand.
    async fn resolve_together(&mut self) {
        let plain: Vec<&Request> =
            self.in_hand.iter().map(|job| &job.request).filter(|request| request.key.is_none()).collect();
        if plain.is_empty() {
            return;
        }
        match self.session.run(async |connection| allocations::void_many(connection, &plain).await).await {
            Ok(resolutions) => {
                cut::at(Cut::I7).await;
                let (plain, keyed) = self.in_hand.drain(..).partition(|job| job.request.key.is_none());
                self.in_hand = keyed;
                Vec::into_iter(plain).zip(resolutions).for_each(|(job, resolution)| self.finish(job, resolution));
            }
            Err(error) => {
                let request_ids = list_ids(plain.iter().copied());
                tracing::warn!(%error, requests = plain.len(), request_ids, "not resolved yet");
            }
        }
    }

    /// The last in hand, again and again, until it is resolved.
    async fn resolve_next(&mut self) {
        let mut backoff = Backoff::for_connections();
        while let (Some(job), false) = (self.in_hand.last(), self.abandon.is_cancelled()) {
            let request_id = job.request.id;
            match void_one(&mut self.session, &job.request).await {
                Ok(resolution) => {
                    cut::at(Cut::I7).await;
                    if let Some(job) = self.in_hand.pop() {
                        self.finish(job, resolution);
                    }
                    return;
                }
                Err(error) if error.is_retryable() => tracing::warn!(%request_id, %error, "not resolved yet"),
                Err(error) => tracing::error!(%request_id, %error, "not resolved: this needs a person"),
            }
            tokio::select! { () = backoff.wait() => {}, () = self.abandon.cancelled() => {} }
        }
    }

    fn finish(&self, job: Job, resolution: Resolution) {
        self.open.lock().remove(&job.request.id.as_u128());
        count(&resolution);
        let request_id = job.request.id;
        match &resolution {
            Resolution::Voided(_) => tracing::info!(%request_id, "voided"),
            Resolution::Allocated(_) => tracing::info!(%request_id, "late success"),
            Resolution::Replayed { .. } => tracing::info!(%request_id, "late replay"),
            Resolution::KeyReused | Resolution::PayoutsDisabled | Resolution::InsufficientBalance => {
                tracing::info!(%request_id, "late refusal");
            }
        }
        let _ = job.answer.send(resolution);
    }
}

fn count(resolution: &Resolution) {
    match resolution {
        Resolution::Voided(voided) => match voided.proof() {
            Proof::Inserted | Proof::KeyRaised => METRICS.voids.inc(Voider::Intake),
            Proof::Found | Proof::ForeignId => {}
        },
        Resolution::Allocated(_) => METRICS.late.inc(Late::Allocated),
        Resolution::Replayed { .. } => METRICS.late.inc(Late::Replayed),
        Resolution::KeyReused => METRICS.late.inc(Late::KeyReused),
        Resolution::PayoutsDisabled => METRICS.late.inc(Late::PayoutsDisabled),
        Resolution::InsufficientBalance => METRICS.late.inc(Late::InsufficientBalance),
    }
}

async fn void_one(session: &mut Session, request: &Request) -> Result<Resolution, Error> {
    let voiding = async |connection: &mut _| match request.key {
        Some(_) => allocations::void_keyed(connection, request).await,
        None => {
            let resolution = allocations::void_many(connection, &[request]).await?.pop();
            resolution.ok_or_else(|| Error::Fatal("no resolution for a request".to_owned()))
        }
    };
    session.run(voiding).await
}
