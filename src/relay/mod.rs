//! The relay process: delivers the events of businesses to their webhooks.
//!
//! Any number of relays share the work. For each shard a relay asks a few times a second, in one statement, for
//! endpoints that have work and that nobody has, and takes them for a while ([`lease`]). Each endpoint that it has
//! taken gets a [`turn`], in which the [`courier`] posts one event after the other, to addresses that the [`resolver`]
//! allows. An endpoint that fails has a turn of one event, in places that only such endpoints use. So however many are
//! dead, the others do not wait.
//!
//! If it is asked to, it also publishes all events to an [`exchange`] of the broker.

mod courier;
mod exchange;
mod lease;
mod resolver;
mod turn;

use crate::ledger::ShardId;
use crate::ledger::webhooks::Schedule;
use crate::postgres::event_exchange::read_oldest_millis;
use crate::postgres::webhooks::{self, Counts, Taken};
use crate::postgres::{Error, Postgres, Session, Shards};
use crate::secret::HashSecret;
use crate::webhook::target::Exceptions;
use courier::Courier;
pub use exchange::Exchange;
use lease::{LEASE, Leases};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use turn::{Post, Turn};

/// Connections of a relay to each shard for what turns read and note. One more takes endpoints and prolongs leases, and
/// one watches the shard.
pub const CONNECTIONS: u32 = 4;
/// How often a relay looks for work.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How soon it looks again after there was more work than places.
const FULL_INTERVAL: Duration = Duration::from_millis(50);
/// How often leases are prolonged: so often that a few failures in a row lose none.
const PROLONG_INTERVAL: Duration = Duration::from_secs(1);
/// How often the endpoints are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// What a relay needs.
pub struct Settings {
    /// The way to Postgres. Nobody else watches it.
    pub shards: Shards,
    /// The hash secret, from which those of the endpoints follow.
    pub secret: HashSecret,
    /// When deliveries that fail are tried again.
    pub schedule: Schedule,
    /// How long a delivery may take.
    pub timeout: Duration,
    /// Addresses that are allowed although they are not public.
    pub exceptions: Exceptions,
    /// How many endpoints it has in hand at once. A quarter of the places is for those that fail.
    pub places: usize,
    /// Where events are published; `None` if nowhere.
    pub exchange: Option<Exchange>,
}

/// A running relay.
pub struct Relay {
    shards: Shards,
    post: Post,
    /// The places for endpoints that work, and for those that fail.
    sound: Arc<Semaphore>,
    failing: Arc<Semaphore>,
    places: usize,
    exchange: Option<Arc<Exchange>>,
    counts: Mutex<Counts>,
    /// The age of the oldest event that is not published.
    unpublished_millis: AtomicI64,
}

/// The state of a relay, for people.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether Postgres can be worked with.
    pub postgres_up: bool,
    /// How many endpoints it has in hand.
    pub in_hand: usize,
    /// How the endpoints of all shards stood when they were last counted.
    pub counts: Counts,
    /// Whether the broker takes events; `None` if none are published.
    pub exchange_up: Option<bool>,
    /// The age of the oldest event of all shards that is not published, in milliseconds; 0 if there is none.
    pub unpublished_millis: i64,
}

impl Relay {
    /// A relay that does not run yet. Fails if the HTTP client cannot be made.
    pub fn new(settings: Settings) -> Result<Arc<Self>, String> {
        let Settings { shards, secret, schedule, timeout, exceptions, places, exchange } = settings;
        let courier = Courier::new(exceptions, timeout).map_err(|error| error.to_string())?;
        let failing = (places / 4).max(1);
        Ok(Arc::new(Self {
            shards,
            post: Post { courier, secret, schedule },
            sound: Arc::new(Semaphore::new(places.saturating_sub(failing).max(1))),
            failing: Arc::new(Semaphore::new(failing)),
            places: places.max(2),
            exchange: exchange.map(Arc::new),
            counts: Mutex::default(),
            unpublished_millis: AtomicI64::new(0),
        }))
    }

    /// The state of this relay, for people.
    pub fn status(&self) -> Status {
        let free = self.sound.available_permits() + self.failing.available_permits();
        Status {
            postgres_up: self.shards.impediments().is_empty(),
            in_hand: self.places.saturating_sub(free),
            counts: *self.counts(),
            exchange_up: self.exchange.as_ref().map(|exchange| exchange.is_up()),
            unpublished_millis: self.unpublished_millis.load(Ordering::Relaxed),
        }
    }

    /// What keeps this relay from working, in words; empty if nothing does.
    pub fn impediments(&self) -> Vec<String> {
        self.shards.impediments().into_iter().map(|what| format!("relay: {what}")).collect()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers for all shards until `stop`, also for those that are added meanwhile. On `stop` it finishes the
    /// deliveries in hand, and gives the endpoints back.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut running = JoinSet::new();
        running.spawn(self.shards.clone().watch(stop.clone(), |_, _| {}));
        running.spawn(Arc::clone(&self).keep_counting(stop.clone()));
        let (mut known, mut begun) = (self.shards.subscribe(), BTreeSet::new());
        loop {
            let shards = Arc::clone(&known.borrow_and_update());
            for (&shard, open) in shards.iter().filter(|(shard, _)| begun.insert(**shard)) {
                let lane = Lane::new(Arc::clone(&self), shard, open.postgres.clone());
                running.spawn(lane.run(stop.clone()));
                if let Some(exchange) = self.exchange.clone() {
                    running.spawn(exchange::Lane::new(exchange, shard, open.postgres.clone()).run(stop.clone()));
                }
            }
            tokio::select! {
                // The sender is in `self`, so there is always one.
                _ = known.changed() => {}
                Some(Err(panic)) = running.join_next() => tracing::error!(%panic, "a part of the relay ended by a panic"),
                () = stop.cancelled() => break,
            }
        }
        while running.join_next().await.is_some() {}
        tracing::info!("relay stopped");
    }

    /// Counts the endpoints of all shards, and what is not published, again and again. A shard that cannot be asked is left out.
    async fn keep_counting(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let (mut sum, mut oldest) = (Counts::default(), 0);
            for open in self.shards.known().values().filter(|open| open.postgres.health().is_up()) {
                if let Ok(counts) = open.postgres.read(async |connection| webhooks::count_all(connection).await).await {
                    sum.add(counts);
                }
                if self.exchange.is_some()
                    && let Ok(millis) =
                        open.postgres.read(async |connection| read_oldest_millis(connection).await).await
                {
                    oldest = oldest.max(millis);
                }
            }
            *self.counts() = sum;
            self.unpublished_millis.store(oldest, Ordering::Relaxed);
            tokio::select! { () = tokio::time::sleep(COUNT_INTERVAL) => {}, () = stop.cancelled() => {} }
        }
    }
}

/// All that a relay does for one shard.
struct Lane {
    relay: Arc<Relay>,
    shard: ShardId,
    postgres: Postgres,
    leases: Leases,
    turns: TaskTracker,
    /// Notified when an endpoint has more work than fitted into its turn.
    more: Arc<Notify>,
}

impl Lane {
    fn new(relay: Arc<Relay>, shard: ShardId, postgres: Postgres) -> Self {
        let (leases, turns, more) = (Leases::default(), TaskTracker::new(), Arc::default());
        turns.close();
        Self { relay, shard, postgres, leases, turns, more }
    }

    /// Takes endpoints and prolongs leases until `stop`, and then prolongs the leases of the last turns.
    async fn run(self, stop: CancellationToken) {
        let mut session = self.postgres.session();
        let mut prolonged = Instant::now();
        while !stop.is_cancelled() || !self.turns.is_empty() {
            let is_away = self.postgres.health().is_away();
            let is_full = if is_away { Ok(false) } else { self.work(&mut session, &mut prolonged, &stop).await };
            let interval = match is_full {
                Ok(true) => FULL_INTERVAL,
                Ok(false) => LOOK_INTERVAL,
                Err(error) => {
                    tracing::debug!(shard = %self.shard, %error, "no webhooks were taken");
                    LOOK_INTERVAL
                }
            };
            tokio::select! { () = tokio::time::sleep(interval) => {}, () = self.more.notified() => {} }
        }
    }

    /// Prolongs leases if it is time, and takes endpoints unless it stops. True if there may be more work than places.
    async fn work(
        &self,
        session: &mut Session,
        prolonged: &mut Instant,
        stop: &CancellationToken,
    ) -> Result<bool, Error> {
        if prolonged.elapsed() >= PROLONG_INTERVAL {
            *prolonged = Instant::now();
            self.prolong(session).await?;
        }
        if stop.is_cancelled() { Ok(false) } else { self.take(session, stop).await }
    }

    async fn prolong(&self, session: &mut Session) -> Result<(), Error> {
        let (asked, since) = (self.leases.claims(), Instant::now());
        if asked.is_empty() {
            return Ok(());
        }
        let hold = session.write(async |connection| webhooks::mark_held(connection, &asked, LEASE).await).await?;
        self.leases.prolong(&asked, &hold, since);
        Ok(())
    }

    /// Takes as many endpoints as there are places, and begins their turns. True if there may be more work than places.
    async fn take(&self, session: &mut Session, stop: &CancellationToken) -> Result<bool, Error> {
        let (mut sound, mut failing) = (share_of(&self.relay.sound), share_of(&self.relay.failing));
        let places = |permit: &Option<OwnedSemaphorePermit>| {
            permit.as_ref().map_or(0, |permit| i64::try_from(permit.num_permits()).unwrap_or(i64::MAX))
        };
        let (most, most_failing) = (places(&sound), places(&failing));
        if most + most_failing == 0 {
            return Ok(true);
        }
        let since = Instant::now();
        let taking = async |connection: &mut _| webhooks::lock_due(connection, most, most_failing, LEASE).await;
        for taken in session.write(taking).await? {
            let from = if taken.failing_millis.is_some() { &mut failing } else { &mut sound };
            let place = from.as_mut().and_then(|permit| permit.split(1));
            self.begin(taken, since, place, stop.clone());
        }
        Ok(places(&sound) == 0)
    }

    fn begin(&self, taken: Taken, since: Instant, place: Option<OwnedSemaphorePermit>, stop: CancellationToken) {
        let (relay, postgres, more) = (Arc::clone(&self.relay), self.postgres.clone(), Arc::clone(&self.more));
        let in_hand = self.leases.add(&taken, since);
        self.turns.spawn(async move {
            let (_place, webhook) = (place, taken.webhook);
            let turn = Turn { post: &relay.post, postgres: &postgres, lease: &in_hand.lease, taken, since };
            match turn.run(&stop).await {
                Ok(true) => more.notify_one(),
                Ok(false) => {}
                // The lease ends by itself, and then somebody takes the endpoint again.
                Err(error) => tracing::warn!(%webhook, %error, "a turn of a webhook broke off"),
            }
        });
    }
}

/// Half of the places that are free, at least one. The rest is for other shards, which look at the same time.
fn share_of(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    let free = places.available_permits();
    let share = u32::try_from(free.div_ceil(2)).unwrap_or(u32::MAX);
    Arc::clone(places).try_acquire_many_owned(share).ok().filter(|_| share > 0)
}
