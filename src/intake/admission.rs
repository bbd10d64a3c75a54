//! Admits or refuses requests: one needs Postgres, a session with RabbitMQ, and a place among the requests in flight.

use super::auth::Caller;
use super::limits::{Bounds, KeyLimits};
use super::room::{Full, Places, Room};
use super::session::{BrokerSession, BrokerSessions};
use crate::ledger::{Refusal, ShardId};
use crate::postgres::Shards;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How much is admitted at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most requests of a shard between admission and decision.
    pub in_flight: usize,
    /// Most bulk calls that are worked on or wait.
    pub bulk_calls: usize,
    /// The limits of each API key.
    pub of_key: Bounds,
}

/// Places in flight: among those of all requests, and among those of the API key if these are limited. A permit for
/// several items of a bulk call is split, so that each item holds one place.
pub struct Permit {
    of_all: Places,
    of_key: Option<Places>,
}

impl Permit {
    /// Splits off a permit with one place; `None` if no place is left.
    pub fn split(&mut self) -> Option<Self> {
        Some(Self { of_all: self.of_all.split()?, of_key: self.of_key.as_mut().and_then(Places::split) })
    }
}

/// What a request was admitted with, or why it was not.
pub type Admitted = Result<(Arc<BrokerSession>, Permit), Refusal>;

/// Admits requests, or refuses them.
pub struct Admission {
    sessions: Arc<BrokerSessions>,
    shards: Shards,
    /// Most requests of a shard between admission and decision.
    most: usize,
    rooms: RwLock<BTreeMap<ShardId, Arc<Room>>>,
    of_keys: KeyLimits,
    /// A permit for each bulk call that is worked on or waits.
    bulk_calls: Semaphore,
    /// Cancelled once new requests are refused.
    draining: CancellationToken,
    /// How many requests were refused since then.
    refused_in_draining: AtomicU64,
}

impl Admission {
    /// An admission with all places free.
    pub fn new(limits: Limits, sessions: Arc<BrokerSessions>, shards: Shards) -> Self {
        Self {
            sessions,
            shards,
            most: limits.in_flight,
            rooms: RwLock::default(),
            of_keys: KeyLimits::new(limits.of_key),
            bulk_calls: Semaphore::new(limits.bulk_calls),
            draining: CancellationToken::new(),
            refused_in_draining: AtomicU64::new(0),
        }
    }

    /// The limits and the counts of the API keys.
    pub fn of_keys(&self) -> &KeyLimits {
        &self.of_keys
    }

    /// The room of a shard. Each shard has one, so that a shard whose server hangs takes no places from the others.
    fn room(&self, shard: ShardId) -> Arc<Room> {
        let room = self.rooms.read().unwrap_or_else(PoisonError::into_inner).get(&shard).map(Arc::clone);
        room.unwrap_or_else(|| {
            let mut rooms = self.rooms.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(rooms.entry(shard).or_insert_with(|| Arc::new(Room::new(self.most))))
        })
    }

    /// Admits a request, if everything that it needs is there and there is a free place.
    pub fn admit(&self, Caller { business, key }: Caller) -> Admitted {
        let session = self.working_session(business.shard())?;
        let of_key =
            self.of_keys.room(key).map(|room| room.enter()).transpose().map_err(|Full| Refusal::KeyInFlight)?;
        let of_all = self.room(business.shard()).enter().map_err(|Full| Refusal::TooManyInFlight)?;
        Ok((session, Permit { of_all, of_key }))
    }

    /// Takes a place for a bulk call, if one is free.
    pub fn begin_bulk(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.bulk_calls.try_acquire().map_err(|_| Refusal::TooManyBulkCalls)
    }

    /// Admits `items` items of a bulk call, at most [`Self::share`]. Waits for places until `end`.
    pub async fn admit_when_there_is_room(&self, caller: Caller, items: u32, end: Instant) -> Admitted {
        let Caller { business, key } = caller;
        self.working_session(business.shard())?;
        let of_key = match self.of_keys.room(key) {
            Some(room) => Some(self.wait(&room, items, end, Refusal::KeyInFlight).await?),
            None => None,
        };
        let of_all = self.wait(&self.room(business.shard()), items, end, Refusal::TooManyInFlight).await?;
        Ok((self.working_session(business.shard())?, Permit { of_all, of_key }))
    }

    /// Waits for `items` places until `end`; `full` is the refusal if they do not become free.
    async fn wait(&self, room: &Room, items: u32, end: Instant, full: Refusal) -> Result<Places, Refusal> {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => Err(self.refuse_in_draining()),
            entered = tokio::time::timeout_at(end, room.wait_for_places(items)) => entered.ok().and_then(Result::ok).ok_or(full),
        }
    }

    /// Most items of a bulk call that are admitted at a time, so that bulk calls take turns.
    pub fn share(&self, Caller { business, key }: Caller) -> usize {
        let of_key = self.of_keys.room(key).map_or(usize::MAX, |room| room.share());
        self.room(business.shard()).share().min(of_key)
    }

    /// How many items of bulk calls could be admitted now without waiting.
    pub fn left_for_bulk(&self, Caller { business, key }: Caller) -> usize {
        let of_key = self.of_keys.room(key).map_or(usize::MAX, |room| room.left_for_bulk());
        self.room(business.shard()).left_for_bulk().min(of_key)
    }

    /// The number of requests between admission and decision.
    pub fn in_flight(&self) -> usize {
        self.rooms.read().unwrap_or_else(PoisonError::into_inner).values().map(|room| room.taken()).sum()
    }

    /// The session with the broker, if everything is there that a new request of this shard needs.
    fn working_session(&self, shard: ShardId) -> Result<Arc<BrokerSession>, Refusal> {
        if self.draining.is_cancelled() {
            return Err(self.refuse_in_draining());
        }
        match self.shards.known().get(&shard) {
            Some(open) if !open.state.takes_requests() => return Err(Refusal::ShardClosed),
            Some(open) if open.postgres.health().is_up() => {}
            Some(_) | None => return Err(Refusal::PostgresDown),
        }
        let session = self.sessions.current().filter(|session| session.serves(shard)).ok_or(Refusal::RabbitDown)?;
        if session.is_blocked() || session.is_lost() { Err(Refusal::RabbitBlocked) } else { Ok(session) }
    }

    fn refuse_in_draining(&self) -> Refusal {
        self.refused_in_draining.fetch_add(1, Ordering::Relaxed);
        Refusal::Draining
    }

    /// Refuses new requests from now on.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Cancelled once new requests are refused.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Waits until no request was refused because of the draining for the length of `pause`, or until `end`.
    pub async fn until_nobody_comes_for(&self, pause: Duration, end: Instant) {
        let mut refused = u64::MAX;
        while refused != self.refused_in_draining.load(Ordering::Relaxed) && Instant::now() < end {
            refused = self.refused_in_draining.load(Ordering::Relaxed);
            tokio::time::sleep(pause).await;
        }
    }

    /// What keeps new requests out, in words; empty if nothing does.
    pub fn impediments(&self) -> Vec<String> {
        let session = self.sessions.current();
        let is = |what: fn(&BrokerSession) -> bool| session.as_deref().is_some_and(what);
        let checks = [
            (self.draining.is_cancelled(), "draining"),
            (session.is_none(), "rabbitmq is not connected"),
            (is(BrokerSession::is_blocked) || is(BrokerSession::is_lost), "rabbitmq accepts no messages"),
            (is(BrokerSession::is_deaf), "replies are not received"),
        ];
        let found = checks.iter().filter(|(is_so, _)| *is_so).map(|(_, what)| (*what).to_owned());
        self.shards.impediments().into_iter().chain(found).map(|what| format!("intake: {what}")).collect()
    }
}
