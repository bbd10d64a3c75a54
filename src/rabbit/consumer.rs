//! Consumes queues: hands out their deliveries, and acknowledges them in order.

use super::topology::Topology;
use super::{Error, Link};
use futures_util::StreamExt;
use lapin::message::Delivery as RawDelivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::DropGuard;

/// One message from a queue.
#[derive(Debug)]
pub struct Delivery {
    /// The delivery tag. It rises by one with each delivery of a consumer.
    pub tag: u64,
    /// The bytes of the message.
    pub body: Vec<u8>,
    /// How often the message was delivered before without being acknowledged.
    pub redeliveries: u64,
}

/// A consumer of one queue. Its stream ends when its link is lost, and dropping it loses the link.
pub struct Consumer {
    link: Link,
    /// Loses the link when the consumer is dropped, by a panic too.
    _ended: DropGuard,
    channel: Channel,
    stream: lapin::Consumer,
    /// `None` if the broker expects no acknowledgements.
    held: Option<Held>,
}

/// The messages that a consumer has received and not acknowledged: the tag of each, and since when it is held. Clones
/// share them.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<Mutex<VecDeque<(u64, Instant)>>>);

impl Held {
    fn messages(&self) -> MutexGuard<'_, VecDeque<(u64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many messages are held now.
    pub fn count(&self) -> u64 {
        self.messages().len() as u64
    }

    /// How long the oldest of them has been held; zero if there is none.
    pub fn longest(&self) -> Duration {
        self.messages().front().map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    fn take(&self, tag: u64) {
        self.messages().push_back((tag, Instant::now()));
    }

    fn release_through(&self, tag: u64) {
        let mut messages = self.messages();
        let kept = messages.partition_point(|(taken, _)| *taken <= tag);
        messages.drain(..kept);
    }
}

impl Consumer {
    /// Consumes a shared queue, with at most `prefetch` messages unacknowledged. Without that bound the broker would
    /// send everything it has. Of the consumers that stand by, the one with the highest `priority` is the next, and takes
    /// over from one with a lower priority as soon as that has no messages in hand. RabbitMQ before 4.0 ignores it: there
    /// the next is the one that has waited longest. Fails if the broker does not answer as expected.
    pub async fn open(link: &Link, queue: &str, prefetch: u16, priority: i16) -> Result<Self, Error> {
        let channel = link.channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut arguments = FieldTable::default();
        arguments.insert("x-priority".into(), AMQPValue::LongInt(priority.into()));
        let stream = channel.basic_consume(queue.into(), "".into(), options, arguments).await?;
        let held = Some(Held::default());
        Ok(Self { link: link.clone(), _ended: link.lost_when_dropped(), channel, stream, held })
    }

    /// Declares and consumes a reply queue. Nothing is acknowledged there: a lost reply is looked up in the ledger.
    pub async fn open_replies(link: &Link, topology: &Topology, queue: &str) -> Result<Self, Error> {
        let channel = link.channel().await?;
        topology.declare_replies(&channel, queue).await?;
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
        let stream = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
        Ok(Self { link: link.clone(), _ended: link.lost_when_dropped(), channel, stream, held: None })
    }

    /// What acknowledges the deliveries of this consumer.
    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger { link: self.link.clone(), channel: self.channel.clone(), held: self.held() }
    }

    /// This consumer's unacknowledged messages.
    pub fn held(&self) -> Held {
        self.held.clone().unwrap_or_default()
    }

    /// The next message; `None` when the link is lost. A consumer that the broker cancels counts as a lost link.
    pub async fn next(&mut self) -> Option<Delivery> {
        Some(read(self.next_raw().await?))
    }

    /// The next message with all its properties; `None` when the link is lost.
    pub(super) async fn next_raw(&mut self) -> Option<RawDelivery> {
        let next = tokio::select! { next = self.stream.next() => next, () = self.link.lost() => return None };
        match next {
            Some(Ok(delivery)) => {
                if let Some(held) = &self.held {
                    held.take(delivery.delivery_tag);
                }
                Some(delivery)
            }
            Some(Err(error)) => {
                self.link.give_up(&error.to_string());
                None
            }
            None => {
                self.link.give_up("the broker cancelled the consumer");
                None
            }
        }
    }
}

fn read(delivery: RawDelivery) -> Delivery {
    let redeliveries = delivery_count(&delivery.properties).unwrap_or(u64::from(delivery.redelivered));
    Delivery { tag: delivery.delivery_tag, body: delivery.data, redeliveries }
}

/// The number of earlier deliveries, which quorum queues count in a header.
fn delivery_count(properties: &BasicProperties) -> Option<u64> {
    match properties.headers().as_ref()?.inner().get("x-delivery-count")? {
        AMQPValue::LongLongInt(count) => u64::try_from(*count).ok(),
        AMQPValue::LongInt(count) => u64::try_from(*count).ok(),
        AMQPValue::LongUInt(count) => Some(u64::from(*count)),
        AMQPValue::ShortInt(count) => u64::try_from(*count).ok(),
        AMQPValue::ShortUInt(count) => Some(u64::from(*count)),
        AMQPValue::ShortShortInt(count) => u64::try_from(*count).ok(),
        AMQPValue::ShortShortUInt(count) => Some(u64::from(*count)),
        _ => None,
    }
}

/// Acknowledges what a consumer delivered.
#[derive(Clone)]
pub struct Acknowledger {
    link: Link,
    channel: Channel,
    held: Held,
}

impl Acknowledger {
    /// Acknowledges this delivery and all before it. To be called by one task, in order. An error loses the link.
    pub async fn ack_through(&self, tag: u64) -> Result<(), Error> {
        let done = self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await;
        done.inspect_err(|error| self.link.give_up(&error.to_string()))?;
        self.held.release_through(tag);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_is_held_no_longer() {
        let held = Held::default();
        assert_eq!((held.count(), held.longest()), (0, Duration::ZERO));
        (1..=3).for_each(|tag| held.take(tag));
        assert_eq!(held.count(), 3);
        assert!(held.longest() > Duration::ZERO);
        held.release_through(2);
        assert_eq!(held.count(), 1);
        held.release_through(3);
        assert_eq!((held.count(), held.longest()), (0, Duration::ZERO));
    }
}
