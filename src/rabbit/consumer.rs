//! Consumes queues: hands out their deliveries, and acknowledges them in order.

use super::topology::Topology;
use super::{Error, Link};
use futures_util::StreamExt;
use lapin::message::Delivery as RawDelivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    held: Held,
}

/// How many messages a consumer has received and not acknowledged. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<Tags>);

/// The last tag that was delivered and the last that was acknowledged. Tags rise by one, so the difference is the
/// number of messages held.
#[derive(Debug, Default)]
struct Tags {
    delivered: AtomicU64,
    acknowledged: AtomicU64,
}

impl Held {
    /// How many messages are held now.
    pub fn count(&self) -> u64 {
        let acknowledged = self.0.acknowledged.load(Ordering::Relaxed);
        self.0.delivered.load(Ordering::Relaxed).saturating_sub(acknowledged)
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
        Ok(Self { link: link.clone(), _ended: link.lost_when_dropped(), channel, stream, held: Held::default() })
    }

    /// Declares and consumes a reply queue. Nothing is acknowledged there: a lost reply is looked up in the ledger.
    pub async fn open_replies(link: &Link, topology: &Topology, queue: &str) -> Result<Self, Error> {
        let channel = link.channel().await?;
        topology.declare_replies(&channel, queue).await?;
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
        let stream = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
        Ok(Self { link: link.clone(), _ended: link.lost_when_dropped(), channel, stream, held: Held::default() })
    }

    /// What acknowledges the deliveries of this consumer.
    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger { link: self.link.clone(), channel: self.channel.clone(), held: self.held.clone() }
    }

    /// The count of this consumer's unacknowledged messages.
    pub fn held(&self) -> Held {
        self.held.clone()
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
                self.held.0.delivered.store(delivery.delivery_tag, Ordering::Relaxed);
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
        self.held.0.acknowledged.store(tag, Ordering::Relaxed);
        Ok(())
    }
}
