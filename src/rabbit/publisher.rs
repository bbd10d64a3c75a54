//! Publishes the requests of an intake to one work queue. One task owns the channel.
//!
//! It packs all requests that wait into one message, and never delays one to fill a message: a single request is sent
//! alone, at once. Requests gather while `window` messages are unconfirmed, or while `answer_window` messages are
//! unanswered and the next is not full. The next message then takes all of them, so messages grow with the load. If
//! more requests wait than one message takes, their owners take turns.
//!
//! A worker that has fallen behind, or is gone, delays a message here by [`HOLD`] at most. A backlog belongs in the
//! queue, where it is visible and survives.
//!
//! The broker's confirms and returns are used to give up early, never as proof. The broker also confirms a message that
//! it cannot route, or whose queue was just deleted; and a message that could not be written may be written later.
//!
//! A channel on whose node the queue's leader was not known when it was opened may refuse every message from then on, or
//! confirm none, until the node of the former leader is back (both seen with RabbitMQ 3.10). So a channel that does nothing but
//! refuse is replaced and, if there are other nodes, one that confirms nothing at all.

use super::fair_queue::FairQueue;
use super::topology::Topology;
use super::{Error, Link};
use crate::metrics::METRICS;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// The header with the W3C trace context of the first item that has one.
const TRACE_HEADER: &str = "traceparent";

fn header(name: &str, value: &str) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert(name.into(), AMQPValue::LongString(value.into()));
    headers
}

/// One item to publish, and what the publisher needs to know of it.
#[derive(Debug)]
pub struct Outgoing {
    /// On whose behalf it is sent: owners take turns.
    pub owner: u128,
    /// Identifies the item when it runs into trouble or is answered.
    pub tag: u128,
    /// The bytes that go into the message.
    pub item: Vec<u8>,
    /// Its W3C trace context, if it has one.
    pub trace: Option<String>,
}

/// Why a published item will probably get no reply. It may have been delivered all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No queue took it.
    Returned,
    /// The broker refused it, or did not confirm.
    Nacked,
}

/// The bounds of a publisher.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most items in one message.
    pub pack: usize,
    /// Most unconfirmed messages.
    pub window: usize,
    /// Most unanswered messages. With so many, requests gather for the next message until one is answered, it is full,
    /// or [`HOLD`] has passed.
    pub answer_window: usize,
}

/// How long requests gather because messages are unanswered: as long as a worker takes for a large batch.
const HOLD: Duration = Duration::from_millis(20);

/// A message is full with the item that brings it to this many bytes, even with fewer than `pack` items. So the memory
/// that a worker needs for the messages it holds is bounded. Room for more than `pack` items of the usual size.
const FULL: usize = 128 * 1024 - 4 * 1024;

/// How long a channel may do nothing but refuse until it is replaced. Twice as long for each one in a row, as a full queue
/// refuses too, over any channel.
const REFUSALS: Duration = Duration::from_millis(250);
/// How long a channel may take to confirm its first message until it is replaced. Far longer than it ever takes. Twice as long
/// for each one in a row, until the connection is given up.
const SILENCE: Duration = Duration::from_secs(1);
/// The longest that either becomes.
const MOST_PATIENCE: Duration = Duration::from_secs(60);

/// Since when there are only signs that a channel is of no use, and how long that may last.
#[derive(Debug)]
struct Doubt {
    since: Option<Instant>,
    patience: Duration,
}

impl Doubt {
    /// No sign yet.
    fn none(patience: Duration) -> Self {
        Self { since: None, patience }
    }

    /// Notes a sign. True if the channel should be replaced.
    fn note(&mut self, now: Instant) -> bool {
        now.duration_since(*self.since.get_or_insert(now)) >= self.patience
    }

    /// When the channel should be replaced; `None` without a sign.
    fn end(&self) -> Option<Instant> {
        self.since.map(|since| since + self.patience)
    }

    /// Notes that there is another channel, which is given longer.
    fn replaced(&mut self) {
        *self = Self::none((2 * self.patience).min(MOST_PATIENCE));
    }
}

/// Returns at this moment; never if there is none.
async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Moves the items of the next message into `next`, at most `most` of them and until it is full, and returns how many.
/// 0 when no more will come. Waits only while there is no item at all. Loses nothing if it is cancelled.
async fn fill(
    next: &mut Vec<Outgoing>,
    most: usize,
    waiting: &mut FairQueue<Outgoing>,
    incoming: &mut mpsc::UnboundedReceiver<Outgoing>,
) -> usize {
    if waiting.is_empty() {
        // The usual case: all of it fits.
        let count = incoming.recv_many(next, most).await;
        if count < most && next.iter().map(|item| item.item.len()).sum::<usize>() < FULL {
            return count;
        }
        next.drain(..).for_each(|item| waiting.push(item.owner, item));
    }
    while let Ok(item) = incoming.try_recv() {
        waiting.push(item.owner, item);
    }
    let (mut count, mut bytes) = (0, 0);
    waiting.take(next, |item| {
        (count, bytes) = (count + 1, bytes + item.item.len());
        count == most || bytes >= FULL
    });
    next.len()
}

/// Publishes to one work queue over a link, with confirms.
pub struct Publisher {
    link: Link,
    channel: Channel,
    exchange: String,
    queue: String,
    limits: Limits,
    sent: u64,
    /// The tags of each unconfirmed message, by its `message_id`.
    unconfirmed: HashMap<String, Vec<u128>>,
}

impl Publisher {
    /// Opens a channel over which to publish to the work queue of the shard with this number.
    pub async fn open(link: &Link, topology: &Topology, shard: u8, limits: Limits) -> Result<Self, Error> {
        let channel = Self::open_channel(link).await?;
        let (exchange, queue) = (topology.request_exchange(), topology.work_queue(shard));
        Ok(Self { link: link.clone(), channel, exchange, queue, limits, sent: 0, unconfirmed: HashMap::new() })
    }

    async fn open_channel(link: &Link) -> Result<Channel, Error> {
        let channel = link.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    /// Takes another channel. The old one is closed in the background, as it may be of no use for that either.
    async fn replace_channel(&mut self) -> Result<(), Error> {
        tracing::info!(queue = self.queue, "a channel takes nothing, and is replaced");
        let old = std::mem::replace(&mut self.channel, Self::open_channel(&self.link).await?);
        let link = self.link.clone();
        tokio::spawn(async move { link.close_channel(old).await });
        Ok(())
    }

    /// Publishes what comes in until the link is lost or all senders are gone.
    ///
    /// `pack` makes the body of a message from its items. `on_trouble` is called with the tag of each item that ran
    /// into trouble. `answered` ends once no caller waits for the answer to the item with this tag.
    pub async fn run<Answered: Future<Output = ()>>(
        mut self,
        mut incoming: mpsc::UnboundedReceiver<Outgoing>,
        pack: impl Fn(&[Outgoing]) -> Vec<u8>,
        on_trouble: impl Fn(u128, Trouble),
        answered: impl Fn(u128) -> Answered,
    ) {
        let link = self.link.clone();
        // However this ends, by a panic too, the link is lost, so that no more is sent to it.
        let _ended = link.lost_when_dropped();
        let (mut confirms, mut is_useless) = (FuturesUnordered::new(), false);
        let (mut refusals, mut silence) = (Doubt::none(REFUSALS), Doubt::none(SILENCE));
        let mut has_confirmed = false;
        let mut progress = Instant::now();
        let mut published_at = Instant::now();
        // For each message that may be unanswered, oldest first: the tag of its last item, which is answered last.
        let mut unanswered = VecDeque::new();
        let mut next = Vec::with_capacity(self.limits.pack);
        let mut waiting = FairQueue::new();
        loop {
            let gathered = incoming.len() + waiting.len();
            let gathers = unanswered.len() == self.limits.answer_window && gathered < self.limits.pack;
            let awaited = unanswered.front().copied().filter(|_| gathers);
            if is_useless && confirms.is_empty() {
                let replaced =
                    tokio::select! { replaced = self.replace_channel() => replaced, () = link.lost() => return };
                if let Err(error) = replaced {
                    return link.give_up(&error.to_string());
                }
                (is_useless, has_confirmed) = (false, false);
                refusals.replaced();
                silence.replaced();
            }
            let room = confirms.len() < self.limits.window && awaited.is_none() && !is_useless;
            tokio::select! {
                biased;
                () = link.lost() => return,
                Some(done) = confirms.next(), if !confirms.is_empty() => {
                    let (message_id, confirmed): (String, _) = done;
                    (progress, has_confirmed) = (Instant::now(), true);
                    silence = Doubt::none(SILENCE);
                    match self.confirmed(&message_id, confirmed, &on_trouble) {
                        Some(Trouble::Nacked) => is_useless |= refusals.note(progress),
                        Some(Trouble::Returned) | None => (is_useless, refusals) = (false, Doubt::none(REFUSALS)),
                    }
                }
                () = reached(silence.end()) => {
                    confirms.clear();
                    is_useless = true;
                    for message_id in self.unconfirmed.keys().cloned().collect::<Vec<_>>() {
                        self.report(&message_id, Trouble::Nacked, &on_trouble);
                    }
                }
                () = tokio::time::sleep_until(progress + link.confirm_timeout()), if !confirms.is_empty() => {
                    return link.give_up("the broker did not confirm in time");
                }
                // The oldest message is answered, or has had its time: another one may go.
                _ = timeout_at(published_at + HOLD, answered(awaited.unwrap_or_default())), if awaited.is_some() => {
                    unanswered.pop_front();
                }
                count = fill(&mut next, self.limits.pack, &mut waiting, &mut incoming), if room => {
                    if count == 0 {
                        return;
                    }
                    if confirms.is_empty() {
                        progress = Instant::now();
                    }
                    let published = tokio::select! { published = self.publish(&next, &pack) => published, () = link.lost() => return };
                    match published {
                        Ok((message_id, confirm)) => confirms.push(async move { (message_id, confirm.await) }),
                        Err(error) => return self.link.give_up(&error.to_string()),
                    }
                    published_at = Instant::now();
                    if !has_confirmed && link.has_other_nodes {
                        silence.note(published_at);
                    }
                    if unanswered.len() == self.limits.answer_window {
                        unanswered.pop_front();
                    }
                    unanswered.extend(next.last().map(|item| item.tag));
                    next.clear();
                }
            }
        }
    }

    /// Publishes a message with these items. Once it is written to the socket, returns its id and its pending confirm.
    async fn publish(
        &mut self,
        items: &[Outgoing],
        pack: impl Fn(&[Outgoing]) -> Vec<u8>,
    ) -> Result<(String, PublisherConfirm), Error> {
        self.sent += 1;
        METRICS.message_requests.observe(items.len() as f64);
        let message_id = format!("{:032x}-{}", items.first().map_or(0, |item| item.tag), self.sent);
        self.unconfirmed.insert(message_id.clone(), items.iter().map(|item| item.tag).collect());
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(message_id.as_str().into());
        let properties = match items.iter().find_map(|item| item.trace.as_deref()) {
            // For tools that look at messages from outside. Inside the message each item has its own.
            Some(trace) => properties.with_headers(header(TRACE_HEADER, trace)),
            None => properties,
        };
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, queue) = (self.exchange.as_str().into(), self.queue.as_str().into());
        let confirm = self.channel.basic_publish(exchange, queue, options, &pack(items), properties).await?;
        Ok((message_id, confirm))
    }

    /// Handles the broker's answer to a message. Returns its trouble, if it has any.
    fn confirmed(
        &mut self,
        message_id: &str,
        confirmed: lapin::Result<Confirmation>,
        on_trouble: &impl Fn(u128, Trouble),
    ) -> Option<Trouble> {
        match confirmed {
            Ok(Confirmation::Ack(None)) => {
                self.unconfirmed.remove(message_id);
                None
            }
            // lapin may attach a returned message to the confirm of another one, so it is identified by its own id.
            Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
                let properties = &returned.delivery.properties;
                let returned_id = properties.message_id().as_ref().map_or(message_id, |id| id.as_str());
                self.report(returned_id, Trouble::Returned, on_trouble);
                if returned_id != message_id {
                    self.unconfirmed.remove(message_id);
                }
                Some(Trouble::Returned)
            }
            Ok(Confirmation::Nack(None) | Confirmation::NotRequested) => {
                self.report(message_id, Trouble::Nacked, on_trouble);
                Some(Trouble::Nacked)
            }
            Err(error) => {
                self.link.give_up(&error.to_string());
                None
            }
        }
    }

    /// Reports trouble for every item of a message.
    fn report(&mut self, message_id: &str, trouble: Trouble, on_trouble: &impl Fn(u128, Trouble)) {
        for tag in self.unconfirmed.remove(message_id).unwrap_or_default() {
            on_trouble(tag, trouble);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packs items of these sizes into messages: how many items and bytes each message has.
    async fn messages(sizes: impl Iterator<Item = usize>, pack: usize) -> Vec<(usize, usize)> {
        let (sender, mut incoming) = mpsc::unbounded_channel();
        for size in sizes {
            sender.send(Outgoing { owner: 1, tag: 1, item: vec![0; size], trace: None }).unwrap();
        }
        drop(sender);
        let (mut packed, mut next, mut waiting) = (vec![], vec![], FairQueue::new());
        while fill(&mut next, pack, &mut waiting, &mut incoming).await > 0 {
            packed.push((next.len(), next.iter().map(|item| item.item.len()).sum()));
            next.clear();
        }
        packed
    }

    #[test]
    fn a_channel_that_takes_nothing_is_replaced_later_each_time() {
        let (start, mut refusals) = (Instant::now(), Doubt::none(REFUSALS));
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!([0, 100, 249, 250].map(|millis| refusals.note(at(millis))), [false, false, false, true]);
        assert_eq!(refusals.end(), Some(at(250)));
        refusals.replaced();
        assert_eq!(refusals.end(), None);
        assert_eq!([1_000, 1_499, 1_500].map(|millis| refusals.note(at(millis))), [false, false, true]);
        for _ in 0..20 {
            refusals.replaced();
        }
        assert_eq!(refusals.patience, MOST_PATIENCE);
    }

    #[tokio::test]
    async fn a_message_ends_with_the_item_that_fills_it_by_number_or_by_size() {
        assert_eq!(messages([200; 1_100].into_iter(), 512).await, [(512, 102_400), (512, 102_400), (76, 15_200)]);
        assert_eq!(messages([1_000; 150].into_iter(), 512).await, [(127, 127_000), (23, 23_000)]);
        assert_eq!(messages([FULL + 1, 1, 1].into_iter(), 512).await, [(1, FULL + 1), (2, 2)]);
    }
}
