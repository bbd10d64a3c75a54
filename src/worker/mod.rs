//! The worker process: takes requests from RabbitMQ, settles them in Postgres, and sends the replies.
//!
//! [`gather`] makes a batch of the messages that have arrived. [`settle`] tries until the batch is settled; [`attempt`]
//! is one try, in one transaction. [`disposition`] sends the replies and then the acknowledgements. [`lane`] runs these
//! three side by side for one shard. In addition, [`dead_letters`] moves dead letters from their queue into rows,
//! [`pause`] reads the switch that pauses all workers, and [`audits`] adds up the books.

pub mod attempt;
pub mod audits;
pub mod dead_letters;
pub mod disposition;
pub mod gather;
pub mod lane;
pub mod pause;
pub mod settle;

use crate::ledger::ShardId;
use crate::metrics::labels::Role;
use crate::postgres::Shards;
use crate::rabbit::consumer::{Consumer, Held};
use crate::rabbit::dead_letters::DeadLetterReceiver;
use crate::rabbit::depth::Gauge;
use crate::rabbit::topology::Topology;
use crate::rabbit::{self, Broker, Error, Link};
use crate::retry::Backoff;
use crate::secret::HashSecret;
use crate::wire::signing::Keyring;
use lane::Lane;
use pause::Pause;
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The bounds of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most messages taken from the queues and not yet acknowledged.
    pub prefetch: u16,
    /// Most requests of these messages that are decoded before their transaction begins.
    pub read_ahead: u32,
    /// Most requests in one transaction.
    pub batch: usize,
    /// How much later than its deadline, by this worker's clock, a request is still applied.
    pub clock_tolerance: Duration,
    /// How long a message may be held without being settled. Then all go back to their queues.
    pub hold: Duration,
}

impl Limits {
    /// The limits for each of `queues` queues: an equal share of `prefetch` and `read_ahead`, at least one each.
    fn shared_by(self, queues: usize) -> Self {
        let queues = u16::try_from(queues).unwrap_or(u16::MAX).max(1);
        let (prefetch, read_ahead) = (self.prefetch / queues, self.read_ahead / u32::from(queues));
        Self { prefetch: prefetch.max(1), read_ahead: read_ahead.max(1), ..self }
    }
}

/// What a worker needs.
pub struct Settings {
    /// The way to RabbitMQ.
    pub broker: Broker,
    /// The way to Postgres: to the directory, and to each shard.
    pub shards: Shards,
    /// The hash secret.
    pub secret: HashSecret,
    /// The keys that messages and replies are signed with.
    pub keys: Keyring,
    /// How much it takes at once.
    pub limits: Limits,
    /// How old the last audit may be before this worker makes another; zero if it makes none.
    pub audit_interval: Duration,
}

/// How often a session looks whether it holds messages for too long, and whether there is more to work on.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often a worker asks its node about its queues, if there are several nodes.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// What a session works on. A shard whose database is known to be away is left out, as its messages could only be held; so
/// are the dead letters, which go to the directory.
#[derive(Debug, PartialEq, Eq)]
struct Scope {
    shards: BTreeSet<ShardId>,
    dead_letters: bool,
}

impl Scope {
    /// What can be worked on now.
    fn of(ledger: &Shards) -> Self {
        let shards =
            ledger.known().iter().filter(|(_, open)| !open.postgres.health().is_away()).map(|(&id, _)| id).collect();
        Self { shards, dead_letters: !ledger.directory().health().is_away() }
    }

    /// Whether all of `other` is in this one too.
    fn covers(&self, other: &Self) -> bool {
        self.shards.is_superset(&other.shards) && (self.dead_letters || !other.dead_letters)
    }
}

/// A running worker.
pub struct Worker {
    settings: Settings,
    consuming: AtomicBool,
    /// The count of unacknowledged messages of each queue. Empty while the worker is not connected.
    held: Mutex<Vec<(String, Held)>>,
    /// The shards from whose queues messages are taken one at a time.
    one_at_a_time: Mutex<HashSet<ShardId>>,
    /// How many sessions in a row ended because their node was cut off from a queue.
    cut_off: AtomicU32,
    pause: Pause,
}

/// The state of a worker, for people.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether Postgres can be worked with.
    pub postgres_up: bool,
    /// Whether it takes messages from its queues.
    pub consuming: bool,
    /// A person has paused all workers.
    pub paused: bool,
    /// Messages taken and not yet acknowledged, by queue.
    pub unacknowledged: Vec<(String, u64)>,
}

impl Worker {
    /// A worker that does not run yet.
    pub fn new(settings: Settings) -> Arc<Self> {
        let (consuming, held, one_at_a_time) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        let (cut_off, pause) = (AtomicU32::new(0), Pause::unknown());
        Arc::new(Self { settings, consuming, held, one_at_a_time, cut_off, pause })
    }

    /// The state of this worker, for people.
    pub fn status(&self) -> Status {
        Status {
            postgres_up: self.settings.shards.impediments().is_empty(),
            paused: self.pause.is_on(),
            consuming: self.consuming.load(Ordering::Relaxed),
            unacknowledged: self.held().iter().map(|(queue, held)| (queue.clone(), held.count())).collect(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<(String, Held)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_at_a_time(&self) -> MutexGuard<'_, HashSet<ShardId>> {
        self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how messages are taken from the queue of this shard from the next session on: one at a time, or as many as
    /// `prefetch` allows.
    fn take_one_at_a_time(&self, shard: ShardId, one_at_a_time: bool) {
        if one_at_a_time {
            tracing::warn!(%shard, "a message keeps coming back: messages are taken one at a time");
            self.one_at_a_time().insert(shard);
        } else {
            tracing::info!(%shard, "messages are taken many at a time again");
            self.one_at_a_time().remove(&shard);
        }
    }

    /// What keeps this worker from working, in words; empty if nothing does.
    pub fn impediments(&self) -> Vec<String> {
        let mut found = self.settings.shards.impediments();
        let paused = self.pause.is_on();
        found.extend(paused.then(|| "paused".to_owned()));
        let is_idle = !paused && !self.consuming.load(Ordering::Relaxed);
        found.extend(is_idle.then(|| "not consuming from rabbitmq".to_owned()));
        found.into_iter().map(|what| format!("worker: {what}")).collect()
    }

    /// Works on the queues of all shards until `stop`, and connects again whenever the broker is lost, messages were held for
    /// too long, or there is another shard. On `stop` and on a pause it finishes the batch in hand, replies, acknowledges, and leaves the rest in the
    /// queues.
    pub async fn run(self: Arc<Self>, topology: Topology, stop: CancellationToken) {
        let mut beside = self.start_beside(topology.prefix(), &stop);
        let mut backoff = Backoff::for_connections();
        loop {
            tokio::select! { biased; () = stop.cancelled() => break, () = self.pause.until(false) => {} }
            let session = tokio::spawn({
                let (worker, topology, stop) = (Arc::clone(&self), topology.clone(), stop.clone());
                async move { worker.session(&topology, &stop).await }
            });
            let ended = session.await;
            self.consuming.store(false, Ordering::Relaxed);
            self.held().clear();
            match ended {
                Ok(Ok(())) => backoff.reset(),
                Ok(Err(error)) => tracing::warn!(%error, "worker cannot reach the broker"),
                Err(panic) => tracing::error!(%panic, "worker session ended by a panic"),
            }
            tokio::select! { () = backoff.wait() => {}, () = stop.cancelled() => {} }
        }
        while beside.join_next().await.is_some() {}
        tracing::info!("worker stopped");
    }

    /// Starts the tasks that run with or without a broker: the check of Postgres, the reader of the pause switch, and
    /// the audits. All end with `stop`.
    fn start_beside(self: &Arc<Self>, prefix: &str, stop: &CancellationToken) -> JoinSet<()> {
        let Settings { shards, audit_interval, .. } = &self.settings;
        let mut beside = JoinSet::new();
        beside.spawn(shards.clone().watch(stop.clone(), |_, _| {}));
        let (worker, prefix, stopped) = (Arc::clone(self), prefix.to_owned(), stop.clone());
        beside.spawn(async move { worker.pause.watch(worker.settings.shards.directory(), &prefix, &stopped).await });
        beside.spawn(audits::audit_regularly(shards.clone(), *audit_interval, stop.clone()));
        beside
    }

    /// Returns when there is more to work on than `scope`.
    async fn until_there_is_more_than(&self, scope: &Scope) {
        while scope.covers(&Scope::of(&self.settings.shards)) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Returns when a message has been held for too long. The broker takes a consumer that keeps a message for half an hour
    /// for stuck: it closes the channel, and RabbitMQ 4.3.0 to 4.3.5 may never deliver from the queue again.
    async fn until_held_too_long(&self, held: &[Held]) {
        while held.iter().all(|held| held.longest() < self.settings.limits.hold) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        tracing::warn!("messages cannot be settled, and go back to their queues");
    }

    /// Gives the link up when its node is cut off from a queue that is consumed over it. Such a node keeps its connections and
    /// delivers nothing; it says that the queue has no consumer. If other nodes say so too, the queue is at fault, and the
    /// other queues must not suffer: then it takes longer each time.
    async fn give_up_when_cut_off(&self, link: &Link, queues: &[String]) -> Result<(), Error> {
        let needed = 2 << self.cut_off.load(Ordering::Relaxed).min(8);
        let (gauge, mut blind) = (Gauge::over(link).await?, 0);
        while blind < needed {
            tokio::time::sleep(ASK_INTERVAL).await;
            if gauge.read(queues).await?.iter().all(|depth| depth.consumers > 0) {
                self.cut_off.store(0, Ordering::Relaxed);
                blind = 0;
            } else {
                blind += 1;
            }
        }
        self.cut_off.fetch_add(1, Ordering::Relaxed);
        link.give_up("its node is cut off from a queue");
        Ok(())
    }

    /// Opens a pair of connections and works until they are lost, the worker is paused, messages are held for too long, there
    /// is more to work on, or `stop`.
    async fn session(self: &Arc<Self>, topology: &Topology, stop: &CancellationToken) -> Result<(), Error> {
        let broker = &self.settings.broker;
        let scope = Scope::of(&self.settings.shards);
        let numbers: Vec<u8> = scope.shards.iter().map(|shard| shard.number()).collect();
        let limits = self.settings.limits.shared_by(scope.shards.len());
        let (consuming, publishing) = broker.connect_twice(Role::WorkerRequests, Role::WorkerReplies).await?;
        let opening = async {
            topology.declare(&publishing, &numbers).await?;
            let mut lanes = vec![];
            for &shard in &scope.shards {
                let one_at_a_time = self.one_at_a_time().contains(&shard);
                // Drawn anew for each queue, so that the queues are spread over the workers. One queue alone stays where
                // it is.
                let priority = if scope.shards.len() > 1 { rand::random() } else { 0 };
                lanes
                    .push(Lane::open(&consuming, &publishing, topology, shard, limits, priority, one_at_a_time).await?);
            }
            let dead_letters = match scope.dead_letters {
                true => Some(DeadLetterReceiver::open(&consuming, topology, dead_letters::PREFETCH).await?),
                false => None,
            };
            Ok((lanes, dead_letters))
        };
        let (lanes, dead_letters) = rabbit::open(&[&consuming, &publishing], opening).await?;
        *self.held() = lanes.iter().map(Lane::held).collect();
        let held: Vec<Held> =
            lanes.iter().map(|lane| lane.held().1).chain(dead_letters.iter().map(DeadLetterReceiver::held)).collect();
        self.consuming.store(true, Ordering::Relaxed);
        tracing::info!("worker connected to RabbitMQ");
        let ending = CancellationToken::new();
        let _ended = ending.clone().drop_guard();
        let store = |dead_letters| dead_letters::store_all(dead_letters, Arc::clone(self), ending.clone());
        let mut storing: JoinSet<DeadLetterReceiver> = dead_letters.into_iter().map(store).collect();
        let mut running: JoinSet<Option<Consumer>> =
            lanes.into_iter().map(|lane| lane.run(Arc::clone(self), consuming.clone(), ending.clone())).collect();
        let asking = async {
            if broker.has_several_nodes() {
                let queues: Vec<String> = numbers.iter().map(|&shard| topology.work_queue(shard)).collect();
                let _ = self.give_up_when_cut_off(&consuming, &queues).await;
            }
            std::future::pending().await
        };
        // A lane ends by itself only if its link is lost, if it panics, or if its messages have to be taken
        // differently: one at a time, or many again.
        let mut ended = tokio::select! {
            ended = running.join_next() => ended,
            () = consuming.lost() => Some(Ok(None)),
            () = self.pause.until(true) => Some(Ok(None)),
            () = asking => Some(Ok(None)),
            () = self.until_held_too_long(&held) => Some(Ok(None)),
            () = self.until_there_is_more_than(&scope) => Some(Ok(None)),
            () = stop.cancelled() => Some(Ok(None)),
        };
        consuming.begin_close();
        publishing.begin_close();
        ending.cancel();
        // The consumers are kept until every lane has answered and acknowledged its batch in hand: dropping one loses
        // the link.
        let mut consumers = vec![];
        while let Some(lane) = ended {
            match lane {
                Ok(consumer) => consumers.push(consumer),
                Err(panic) => tracing::error!(%panic, "a lane of the worker ended by a panic"),
            }
            ended = running.join_next().await;
        }
        drop((storing.join_next().await, consumers));
        consuming.close().await;
        publishing.close().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_for_what_it_lacks_and_not_for_what_is_gone() {
        let scope = |shards: &[u8], dead_letters| Scope {
            shards: shards.iter().map(|&shard| ShardId::new(shard)).collect(),
            dead_letters,
        };
        let some = scope(&[0, 1], false);
        for (other, covered) in [
            (scope(&[0, 1], false), true),
            (scope(&[1], false), true),
            (scope(&[], false), true),
            (scope(&[1, 2], false), false),
            (scope(&[1], true), false),
        ] {
            assert_eq!(some.covers(&other), covered, "{other:?}");
        }
        assert!(scope(&[0], true).covers(&scope(&[0], false)));
    }

    #[test]
    fn queues_share_what_is_held_and_none_goes_without() {
        let limits =
            Limits { prefetch: 10, read_ahead: 100, batch: 7, clock_tolerance: Duration::ZERO, hold: Duration::ZERO };
        let shares = |queues| {
            let share = limits.shared_by(queues);
            (share.prefetch, share.read_ahead, share.batch)
        };
        assert_eq!([1, 3, 64, 128].map(shares), [(10, 100, 7), (3, 33, 7), (1, 1, 7), (1, 1, 7)]);
    }
}
