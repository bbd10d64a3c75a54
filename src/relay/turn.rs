//! One turn of an endpoint: what waits for it is delivered, one event after the other, until nothing is left, one
//! fails, or others should have their turn.

use super::courier::{Courier, Letter};
use super::lease::Lease;
use crate::clock;
use crate::feed;
use crate::ledger::Delivery;
use crate::ledger::webhooks::{Change, MOST_WAITING, Next, Schedule, Standing};
use crate::metrics::METRICS;
use crate::postgres::movements::{Event, read_events};
use crate::postgres::webhooks::{self, Due, Taken, Tried};
use crate::postgres::{Error, PgConnection, Postgres};
use crate::retry::Backoff;
use crate::secret::HashSecret;
use crate::webhook::Signer;
use crate::wire;
use std::collections::VecDeque;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Most events that are read for a turn, and most retries.
const PAGE: i64 = 100;

/// What every turn needs.
pub(super) struct Post {
    /// Posts deliveries.
    pub courier: Courier,
    /// Makes the secrets of endpoints.
    pub secret: HashSecret,
    /// When failures are tried again.
    pub schedule: Schedule,
}

/// What waits for an endpoint.
struct Work {
    events: VecDeque<Event>,
    due: VecDeque<Due>,
}

/// What is delivered next.
enum Item {
    /// An event beyond the cursor.
    New(Event),
    /// An event behind the cursor, which has failed so often.
    Again(Due),
}

impl Work {
    /// Takes what has waited longest: an event since it happened, a retry since it is due. So neither holds up the
    /// other.
    fn next(&mut self) -> Option<Item> {
        let event = self.events.front().map(|event| event.moved_at);
        let due = self.due.front().map(|due| due.due_at);
        if is_first(event, due) {
            self.events.pop_front().map(Item::New)
        } else {
            self.due.pop_front().map(Item::Again)
        }
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.due.is_empty()
    }
}

/// Whether the event comes before the retry.
fn is_first(event: Option<OffsetDateTime>, due: Option<OffsetDateTime>) -> bool {
    match (event, due) {
        (Some(event), Some(due)) => event <= due,
        (event, _) => event.is_some(),
    }
}

/// A turn, as far as it has come.
pub(super) struct Turn<'a> {
    pub post: &'a Post,
    pub postgres: &'a Postgres,
    pub lease: &'a Lease,
    pub taken: Taken,
    /// When the endpoint was taken.
    pub since: Instant,
}

impl Turn<'_> {
    /// Delivers. True if there may be more to deliver at once. The endpoint is given back, unless its lease was lost.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Result<bool, Error> {
        let mut work = self.read().await?;
        let is_full = work.events.len() as i64 == PAGE || work.due.len() as i64 == PAGE;
        while let Some(item) = work.next() {
            if stop.is_cancelled() || !self.lease.holds() {
                break;
            }
            let (event, failures, is_new) = match item {
                Item::New(event) => (event, 0, true),
                Item::Again(due) => (self.read_event(due.seq).await?, due.failures.unsigned_abs(), false),
            };
            let (delivery, goes_on) = self.deliver(event, failures, is_new, work.is_empty()).await?;
            if !goes_on {
                return Ok(false);
            }
            if work.is_empty() {
                return Ok(is_full && delivery == Delivery::Delivered);
            }
        }
        self.postgres.write_idempotent(async |connection| webhooks::mark_free(connection, &self.taken).await).await?;
        Ok(false)
    }

    async fn read(&self) -> Result<Work, Error> {
        let Taken { business, webhook, cursor, last, waiting, .. } = self.taken;
        // Later events than `last` may be missing on a synchronous standby. They have their turn next.
        let limit = if waiting < MOST_WAITING { (last - cursor).clamp(0, PAGE) } else { 0 };
        let reading = async |connection: &mut PgConnection| {
            let events = if limit > 0 { read_events(connection, business, cursor, limit).await? } else { vec![] };
            let due = if waiting > 0 { webhooks::find_due(connection, business, webhook, PAGE).await? } else { vec![] };
            Ok(Work { events: events.into(), due: due.into() })
        };
        self.postgres.read(reading).await
    }

    /// The event with this number.
    async fn read_event(&self, seq: i64) -> Result<Event, Error> {
        let business = self.taken.business;
        let found = self.postgres.read(async |connection| read_events(connection, business, seq - 1, 1).await).await?;
        let event = found.into_iter().next().filter(|event| event.seq == seq);
        event.ok_or_else(|| Error::Fatal(format!("there is no event {seq} to deliver again")))
    }

    /// Tries one event, and notes how it ended. Returns that, and whether the turn goes on. It ends with a failure:
    /// then the endpoint is one of those that fail, which share places of their own.
    async fn deliver(
        &mut self,
        event: Event,
        failures: u32,
        is_new: bool,
        is_last: bool,
    ) -> Result<(Delivery, bool), Error> {
        let (seq, moved_at) = (event.seq, event.moved_at);
        let ended = self.post.courier.post(self.write(event)).await;
        let failing_for = self
            .taken
            .failing_millis
            .map(|millis| Duration::from_millis(millis.unsigned_abs()).saturating_add(self.since.elapsed()));
        let change = self.post.schedule.judge(ended.delivery, ended.asked, Standing { failures, failing_for });
        METRICS.deliveries.inc(ended.delivery);
        METRICS.delivery_duration.observe(ended.took.as_secs_f64());
        let is_done = change.next == Next::Done;
        if is_done && is_new {
            METRICS.delivery_delay.observe((clock::now_utc() - moved_at).as_seconds_f64().max(0.0));
        }
        self.taken.tries += 1;
        let tried = Tried {
            number: self.taken.tries,
            seq,
            tried_at: clock::now_utc(),
            millis: i64::try_from(ended.took.as_millis()).unwrap_or(i64::MAX),
            result: ended.delivery,
            status: ended.status.map(|status| i32::from(status.as_u16())),
            answer: ended.answer,
        };
        let gives_back = is_last || !is_done;
        let is_enabled = self.note(&tried, change, failures + u32::from(!is_done), gives_back).await?;
        if is_done {
            self.taken.failing_millis = None;
        }
        if let Some(why) = change.disabled.filter(|_| is_enabled.is_some()) {
            tracing::info!(webhook = %self.taken.webhook, why = why.as_str(), "a webhook is disabled");
        }
        Ok((ended.delivery, is_done && is_enabled == Some(true)))
    }

    fn write(&self, event: Event) -> Letter<'_> {
        let Taken { business, webhook, secret_version, signs_twice, ref url, .. } = self.taken;
        let (id, timestamp) = (feed::id(business, event.seq), clock::now_millis() / 1000);
        let body = wire::to_json(&feed::show(&event));
        let signer = Signer::new(&self.post.secret, business, webhook, secret_version, signs_twice);
        Letter { url, signature: signer.sign(&id, timestamp, &body), id, timestamp, body }
    }

    /// Notes a try. It is tried again while the lease holds, because what is not noted is delivered again. `None` if
    /// the endpoint belongs to another by now, else whether it is enabled.
    async fn note(
        &self,
        tried: &Tried,
        change: Change,
        failures: u32,
        gives_back: bool,
    ) -> Result<Option<bool>, Error> {
        let mut backoff = Backoff::for_transactions();
        loop {
            let noting = async |connection: &mut PgConnection| {
                webhooks::write_tried(connection, &self.taken, tried, change, failures, gives_back).await
            };
            match self.postgres.write_idempotent(noting).await {
                Err(error) if self.lease.holds() => {
                    tracing::debug!(%error, "a delivery was not noted");
                    backoff.wait().await;
                }
                noted => return noted,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_waited_longest_comes_first() {
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).ok();
        for (event, due, expected) in
            [(1, 2, true), (2, 2, true), (2, 1, false)].map(|(event, due, first)| (at(event), at(due), first))
        {
            assert_eq!(is_first(event, due), expected);
        }
        assert!(is_first(at(1), None) && !is_first(None, at(1)) && !is_first(None, None));
    }
}
