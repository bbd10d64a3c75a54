//! Resolves a request that got no usable reply: inserts its row as `voided`, or, if a row is there already, finds what
//! happened.
//!
//! A few tasks do this for each shard, each over a connection of its own, so that no client and no timer can drop a statement
//! half-way. They resolve every request that is handed to them, however long it takes; its caller may stop waiting.
//!
//! | what went wrong | what is done |
//! |---|---|
//! | Postgres is down, or rolled back | try again later |
//! | it took too long, or the outcome is unknown | try halves |
//! | it cannot be done | try halves |
//! | one of the last two, with a single request | it goes to a task that has only such requests, and tries until they are resolved |

use super::admission::Permit;
use super::detached::Died;
use super::raises::Raises;
use crate::failpoint::{self, Failpoint};
use crate::ledger::{Late, Proof, Request, RequestId, ShardId, Verdict, Voider, list_ids};
use crate::metrics::METRICS;
use crate::postgres::allocations::{self, Resolution};
use crate::postgres::{Error, Postgres, Session, Shards};
use crate::retry::Backoff;
use futures_util::FutureExt;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Most requests that one transaction voids.
const BATCH: usize = 256;
/// How many tasks resolve. Two, so that one that waits for a row in doubt does not hold up all requests.
const TASKS: usize = 2;

/// What is voided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The request, and everything that was received under its key before.
    Key,
    /// This attempt alone. A request without a key has no other scope.
    Attempt,
}

/// A request to be resolved.
struct Job {
    request: Request,
    scope: Scope,
    answer: oneshot::Sender<Resolution>,
    /// The request's place in flight, held until it is resolved. So an intake whose database is down admits no more
    /// than it has memory for.
    _permit: Option<Permit>,
    /// Makes the shutdown wait for it.
    _tracked: TaskTrackerToken,
}

/// The ids of the requests that are handed over and not resolved yet.
#[derive(Clone, Debug, Default)]
struct Open(Arc<Mutex<BTreeSet<u128>>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<u128>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands requests to the tasks that resolve those of their shard. The tasks of a shard are started with the first request.
pub struct Resolvers {
    shards: Shards,
    tracker: TaskTracker,
    abandon: CancellationToken,
    raises: Arc<Raises>,
    of_shards: Mutex<BTreeMap<ShardId, Arc<Resolver>>>,
    open: Open,
}

impl Resolvers {
    /// No task runs yet. `abandon` ends the tasks, even if requests are left.
    pub fn new(shards: Shards, tracker: TaskTracker, abandon: CancellationToken, raises: Arc<Raises>) -> Self {
        Self { shards, tracker, abandon, raises, of_shards: Mutex::default(), open: Open::default() }
    }

    /// The oldest request that is not resolved yet: ids rise with time.
    pub fn oldest(&self) -> Option<RequestId> {
        self.open.lock().first().copied().map(RequestId::from_u128)
    }

    /// Hands a request over, to be voided with everything that was received under its key. The receiver gives the final
    /// outcome; it fails only if the process ends first.
    pub fn resolve(&self, request: Request, permit: Option<Permit>) -> oneshot::Receiver<Resolution> {
        let scope = if request.key.is_some() { Scope::Key } else { Scope::Attempt };
        self.hand_over(request, scope, permit)
    }

    /// Like [`Self::resolve`], but voids this attempt alone and leaves its key as it is.
    pub fn resolve_attempt(&self, request: Request, permit: Option<Permit>) -> oneshot::Receiver<Resolution> {
        self.hand_over(request, Scope::Attempt, permit)
    }

    fn hand_over(&self, request: Request, scope: Scope, permit: Option<Permit>) -> oneshot::Receiver<Resolution> {
        let (answer, receiver) = oneshot::channel();
        match self.of(request.business.shard()) {
            Ok(resolver) => {
                self.open.lock().insert(request.id.as_u128());
                resolver.take(Job { request, scope, answer, _permit: permit, _tracked: self.tracker.token() });
            }
            Err(error) => tracing::error!(request_id = %request.id, %error, "request not resolved"),
        }
        receiver
    }

    fn of(&self, shard: ShardId) -> Result<Arc<Resolver>, Error> {
        let mut of_shards = self.of_shards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = of_shards.get(&shard) {
            return Ok(Arc::clone(resolver));
        }
        let postgres = self.shards.get(shard)?;
        let resolver = Arc::new(Resolver::start(shard, &postgres, &self.abandon, &self.open, &self.raises));
        of_shards.insert(shard, Arc::clone(&resolver));
        Ok(resolver)
    }
}

/// Hands requests of one shard to its resolving tasks.
struct Resolver {
    queues: Vec<mpsc::UnboundedSender<Job>>,
    next: AtomicUsize,
}

impl Resolver {
    fn start(
        shard: ShardId,
        postgres: &Postgres,
        abandon: &CancellationToken,
        open: &Open,
        raises: &Arc<Raises>,
    ) -> Self {
        let start = |aside: Option<mpsc::UnboundedSender<Job>>| {
            let (sender, jobs) = mpsc::unbounded_channel();
            let (session, abandon, raises) = (postgres.session(), abandon.clone(), Arc::clone(raises));
            let (groups, open) = (VecDeque::new(), open.clone());
            let task = Task { shard, jobs, groups, aside, session, abandon, open, raises };
            tokio::spawn(task.run());
            sender
        };
        let aside = start(None);
        let queues = (0..TASKS).map(|_| start(Some(aside.clone()))).collect();
        Self { queues, next: AtomicUsize::new(0) }
    }

    fn take(&self, job: Job) {
        let queue = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        if self.queues[queue].send(job).is_err() {
            tracing::error!("the resolver has ended: request not resolved");
        }
    }
}

struct Task {
    shard: ShardId,
    jobs: mpsc::UnboundedReceiver<Job>,
    /// Jobs that were taken from the channel and are not yet resolved. Each group is one transaction. They are kept
    /// here so that a panic does not lose them.
    groups: VecDeque<Vec<Job>>,
    /// Where a single request goes that cannot be resolved now. `None` in the task that takes these.
    aside: Option<mpsc::UnboundedSender<Job>>,
    session: Session,
    abandon: CancellationToken,
    open: Open,
    raises: Arc<Raises>,
}

impl Task {
    /// Resolves until no more requests can come, or until `abandon`. After a panic it goes on with what it had in hand.
    async fn run(mut self) {
        let mut backoff = Backoff::for_connections();
        while let Err(panic) = AssertUnwindSafe(self.resolve_all()).catch_unwind().await {
            tracing::error!(died = %Died::new(panic), "the resolver panicked");
            backoff.wait().await;
        }
    }

    async fn resolve_all(&mut self) {
        let mut backoff = Backoff::for_connections();
        while self.receive().await {
            failpoint::pass(Failpoint::BeforeVoid).await;
            match self.resolve_first().await {
                Ok(()) => backoff.reset(),
                Err(error) if self.put_off(&error) => {
                    tokio::select! { () = backoff.wait() => {}, () = self.abandon.cancelled() => {} }
                }
                Err(_) => {}
            }
        }
    }

    /// Takes the jobs that have come; waits for some if none is in hand. False at the end.
    async fn receive(&mut self) -> bool {
        let mut jobs = Vec::with_capacity(BATCH);
        if self.groups.is_empty() {
            let receiving = self.jobs.recv_many(&mut jobs, BATCH);
            tokio::select! { _ = receiving => {}, () = self.abandon.cancelled() => {} }
        } else {
            jobs.extend(std::iter::from_fn(|| self.jobs.try_recv().ok()).take(BATCH));
        }
        if self.aside.is_none() {
            self.groups.extend(jobs.into_iter().map(|job| vec![job]));
        } else {
            let (keys, attempts): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.scope == Scope::Key);
            self.groups.extend([keys, attempts].into_iter().filter(|group| !group.is_empty()));
        }
        !self.groups.is_empty() && !self.abandon.is_cancelled()
    }

    /// Resolves the first group, in one transaction.
    async fn resolve_first(&mut self) -> Result<(), Error> {
        let Some(group) = self.groups.front() else { return Ok(()) };
        let requests: Vec<&Request> = group.iter().map(|job| &job.request).collect();
        let by_key = group.iter().all(|job| job.scope == Scope::Key);
        let giving_up = async |connection: &mut _| match by_key {
            true => allocations::void_keyed_many(connection, &requests).await,
            false => Ok((allocations::void_attempts(connection, &requests).await?, None)),
        };
        let (resolutions, raise) = self.session.write(giving_up).await?;
        // This comes before any answer: a caller that is told 500 may send again at once, and to this intake.
        raise.into_iter().for_each(|count| self.raises.saw(self.shard, count));
        failpoint::pass(Failpoint::AfterVoid).await;
        let group = self.groups.pop_front().unwrap_or_default();
        group.into_iter().zip(resolutions).for_each(|(job, resolution)| self.finish(job, resolution));
        Ok(())
    }

    /// Puts the first group off: behind the others, in halves if one of its requests may be the cause, or aside. True
    /// if the task should wait before the next try.
    fn put_off(&mut self, error: &Error) -> bool {
        let Some(mut group) = self.groups.pop_front() else { return false };
        let request_ids = list_ids(group.iter().map(|job| &job.request));
        if error.is_retryable() {
            tracing::warn!(%error, requests = group.len(), request_ids, "not resolved yet");
        } else {
            tracing::error!(%error, requests = group.len(), request_ids, "not resolved: this needs a person");
        }
        if error.is_retryable() && !error.may_be_its_size() {
            self.groups.push_back(group);
            return true;
        }
        if group.len() > 1 {
            let half = group.split_off(group.len() / 2);
            self.groups.extend([group, half]);
            return false;
        }
        match &self.aside {
            Some(aside) => group.into_iter().for_each(|job| drop(aside.send(job))),
            None => self.groups.push_back(group),
        }
        self.aside.is_none()
    }

    /// Counts, logs and passes on the outcome of a job.
    fn finish(&self, job: Job, resolution: Resolution) {
        self.open.lock().remove(&job.request.id.as_u128());
        count(&resolution);
        let request_id = job.request.id;
        match &resolution {
            Resolution::Voided(_) => tracing::info!(%request_id, "voided"),
            Resolution::AttemptVoided(_) => tracing::info!(%request_id, "superseded"),
            Resolution::Decided(Verdict::Replayed { .. }, _) => tracing::info!(%request_id, "late replay"),
            Resolution::Decided(Verdict::Decided(outcome), _) if outcome.moves() => {
                tracing::info!(%request_id, "late success");
            }
            Resolution::Decided(..) => tracing::info!(%request_id, "late refusal"),
        }
        let _ = job.answer.send(resolution);
    }
}

fn count(resolution: &Resolution) {
    match resolution {
        Resolution::Voided(voided) => count_void(voided.proof()),
        Resolution::AttemptVoided(voided) => count_void(voided.proof()),
        Resolution::Decided(verdict, _) => METRICS.late.inc(Late::from(*verdict)),
    }
}

fn count_void(proof: Proof) {
    match proof {
        Proof::Inserted | Proof::KeyRaised => METRICS.voids.inc(Voider::Intake),
        Proof::Found | Proof::ForeignId => {}
    }
}
