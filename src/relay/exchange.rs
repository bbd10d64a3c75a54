//! Publishes the events of one shard to the exchange, for consumers in the house.
//!
//! One relay at a time does it for a shard: it prolongs a lease whenever it looks for work, and another takes over from one
//! that is silent. A cursor moves when the broker has confirmed, so an event comes at least once, and again if the process
//! ends in between. The events of a business are sent in their order over one channel, many before the first is confirmed:
//! one at a time would be a few hundred a second. If the broker refuses one, it and all after it are sent again.

use super::lease::LEASE;
use crate::feed;
use crate::ledger::{BusinessId, ShardId};
use crate::metrics::METRICS;
use crate::postgres::event_exchange::{self, Behind};
use crate::postgres::movements::{self, read_events};
use crate::postgres::{self, PgConnection, Postgres, Session};
use crate::rabbit::events::{Event, EventPublisher};
use crate::rabbit::topology::Topology;
use crate::rabbit::{self, Broker};
use crate::retry::Backoff;
use crate::wire;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often a relay looks for events: so often, unless looking itself takes long.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// At most one part in so many of the time is spent looking in vain.
const LOOK_SHARE: u32 = 20;
/// Most businesses in one round, and most events. Together they take well under a second.
const MOST_BUSINESSES: usize = 200;
const MOST_EVENTS: usize = 2_000;

/// Where events go.
pub struct Exchange {
    /// The broker.
    pub broker: Broker,
    /// The names there.
    pub topology: Topology,
    /// Whether the broker took events when it was last tried.
    is_up: AtomicBool,
}

/// Why a round broke off. All of it is done again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    #[error(transparent)]
    Broker(#[from] rabbit::Error),
}

/// How a round ended.
enum Round {
    /// There may be more to publish at once.
    More,
    /// There was nothing to do, or it cannot be done now.
    Idle,
}

impl Exchange {
    /// An exchange that nothing was published to yet.
    pub fn new(broker: Broker, topology: Topology) -> Self {
        Self { broker, topology, is_up: AtomicBool::new(true) }
    }

    /// Whether the broker took events when it was last tried.
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }
}

/// Publishes for one shard.
pub(super) struct Lane {
    exchange: Arc<Exchange>,
    shard: ShardId,
    postgres: Postgres,
    session: Session,
    publisher: Option<EventPublisher>,
    /// The number of the lease that it had last.
    claim: Option<i64>,
    /// How long it took to look for events.
    looking: Duration,
}

impl Lane {
    pub(super) fn new(exchange: Arc<Exchange>, shard: ShardId, postgres: Postgres) -> Self {
        let session = postgres.session();
        Self { exchange, shard, postgres, session, publisher: None, claim: None, looking: Duration::ZERO }
    }

    /// Publishes until `stop`, and then gives the lease back.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::for_connections();
        while !stop.is_cancelled() {
            if self.postgres.health().is_away() {
                tokio::select! { () = tokio::time::sleep(LOOK_INTERVAL) => continue, () = stop.cancelled() => break }
            }
            let pause = LOOK_INTERVAL.max(self.looking * LOOK_SHARE);
            match self.round().await {
                Ok(Round::More) => backoff.reset(),
                Ok(Round::Idle) => {
                    backoff.reset();
                    tokio::select! { () = tokio::time::sleep(pause) => {}, () = stop.cancelled() => {} }
                }
                Err(error) => {
                    match &error {
                        Error::Broker(_) => tracing::warn!(shard = %self.shard, %error, "events were not published"),
                        Error::Postgres(_) => tracing::debug!(shard = %self.shard, %error, "events were not published"),
                    }
                    tokio::select! { () = backoff.wait() => {}, () = stop.cancelled() => {} }
                }
            }
        }
        if let Some(claim) = self.claim {
            let freeing = async |connection: &mut PgConnection| event_exchange::mark_free(connection, claim).await;
            let _ = self.postgres.write_idempotent(freeing).await;
        }
        if let Some(publisher) = self.publisher {
            publisher.close().await;
        }
    }

    /// Finds events that are not published, publishes them, and moves the cursors.
    async fn round(&mut self) -> Result<Round, Error> {
        let since = Instant::now();
        let (claim, most) = (self.claim, MOST_BUSINESSES as i64);
        let locking = async |connection: &mut _| event_exchange::lock_lease(connection, claim, LEASE, most).await;
        let held = self.session.write(locking).await?;
        self.looking = since.elapsed();
        let Some((claim, behind)) = held else { return Ok(Round::Idle) };
        self.claim = Some(claim);
        if behind.is_empty() || !self.connect().await? {
            return Ok(Round::Idle);
        }
        let found = self.read(&behind).await?;
        // A lease that is over ends the round here: the next one asks for it. A process that was frozen comes by here.
        let Some(publisher) = self.publisher.as_ref().filter(|_| since.elapsed() < LEASE) else {
            return Ok(Round::Idle);
        };
        let events = found.iter().map(|(business, event)| show(*business, event)).collect();
        let taken =
            publisher.publish(events).await.inspect_err(|_| self.exchange.is_up.store(false, Ordering::Relaxed))?;
        let published = advance(&found, &taken);
        METRICS.published_events.inc_by(taken.iter().filter(|is_taken| **is_taken).count() as u64);
        let writing = async |connection: &mut _| event_exchange::write_published(connection, &published).await;
        self.session.write(writing).await?;
        Ok(if taken.iter().all(|is_taken| *is_taken) { Round::More } else { Round::Idle })
    }

    /// Sees to it that there is a connection that takes messages; false if the broker takes none now.
    async fn connect(&mut self) -> Result<bool, Error> {
        if self.publisher.as_ref().is_none_or(EventPublisher::is_lost) {
            self.publisher = None;
            let opened = EventPublisher::open(&self.exchange.broker, &self.exchange.topology).await;
            self.exchange.is_up.store(opened.is_ok(), Ordering::Relaxed);
            self.publisher = Some(opened?);
        }
        Ok(!self.publisher.as_ref().is_some_and(EventPublisher::is_blocked))
    }

    /// The next events of these businesses. Each has an equal share of the round.
    async fn read(&mut self, behind: &[Behind]) -> Result<Vec<(BusinessId, movements::Event)>, Error> {
        let share = (MOST_EVENTS / behind.len().max(1)) as i64;
        let reading = async |connection: &mut PgConnection| {
            let mut found = vec![];
            for &Behind { business, cursor, last } in behind {
                let events = read_events(connection, business, cursor, share.min(last - cursor)).await?;
                found.extend(events.into_iter().map(|event| (business, event)));
            }
            Ok(found)
        };
        Ok(self.session.read(reading).await?)
    }
}

fn show(business: BusinessId, event: &movements::Event) -> Event {
    let shown = feed::show(event);
    Event {
        kind: shown.kind,
        id: feed::id(business, event.seq),
        business: Uuid::from_u128(business.as_u128()).to_string(),
        timestamp: event.moved_at.unix_timestamp().unsigned_abs(),
        body: wire::to_json(&shown),
    }
}

/// For each business, the last event up to which all were `taken`. `found`: the events of a business are beside each other,
/// in their order.
fn advance(found: &[(BusinessId, movements::Event)], taken: &[bool]) -> Vec<(BusinessId, i64)> {
    let mut taken = taken.iter();
    let of_one = |events: &[(BusinessId, movements::Event)]| {
        let taken: Vec<bool> = taken.by_ref().take(events.len()).copied().collect();
        let count = taken.iter().take_while(|is_taken| **is_taken).count();
        events[..count].last().map(|(business, event)| (*business, event.seq))
    };
    found.chunk_by(|(one, _), (other, _)| one == other).filter_map(of_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;
    use uuid::Uuid;

    fn event(seq: i64) -> movements::Event {
        movements::Event {
            seq,
            moved_at: OffsetDateTime::UNIX_EPOCH,
            id: Uuid::nil(),
            outcome: None,
            cents: 1,
            payout_balance_after: 1,
            email: None,
            target: None,
            remaining: None,
            reference: None,
        }
    }

    #[test]
    fn a_cursor_moves_up_to_the_first_event_that_was_refused_and_holds_up_no_other() {
        let [one, two, three] = [1, 2, 3].map(|number| BusinessId::new(ShardId::FIRST, number));
        let found = [(one, 5), (one, 6), (one, 7), (two, 1), (three, 9), (three, 10)];
        let found: Vec<_> = found.map(|(business, seq)| (business, event(seq))).into();
        let all = [true; 6];
        assert_eq!(advance(&found, &all), [(one, 7), (two, 1), (three, 10)]);
        let [mut some, mut none] = [all, all];
        some[1] = false;
        none[3] = false;
        assert_eq!(advance(&found, &some), [(one, 5), (two, 1), (three, 10)]);
        assert_eq!(advance(&found, &none), [(one, 7), (three, 10)]);
        assert_eq!(advance(&[], &[]), []);
    }
}
