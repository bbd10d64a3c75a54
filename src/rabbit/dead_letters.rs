//! The dead-letter queue: puts in messages that no worker can apply, each with its reason, and takes them out.

use super::confirmed::Confirmed;
use super::consumer::{Acknowledger, Consumer, Held};
use super::topology::Topology;
use super::{Error, Link};
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

/// The header that says in words why the message is a dead letter.
pub const REASON_HEADER: &str = "x-earmark-reason";
/// The header that names the work queue it came from.
const QUEUE_HEADER: &str = "x-earmark-queue";
/// The header in which the broker notes that it gave up on a message.
const DEATH_HEADER: &str = "x-death";

/// Puts messages of one work queue into the dead-letter queue.
pub struct DeadLetterSender {
    confirmed: Confirmed,
    exchange: String,
    from: String,
}

impl DeadLetterSender {
    /// Opens a channel over which to send messages of the work queue `from`.
    pub async fn open(link: &Link, topology: &Topology, from: &str) -> Result<Self, Error> {
        let exchange = topology.dead_letter_exchange();
        Ok(Self { confirmed: Confirmed::open(link).await?, exchange, from: from.to_owned() })
    }

    /// Returns once the broker has confirmed the message. Only then may the original be acknowledged. `cause` is one
    /// word, `reason` says more. An error loses the link.
    pub async fn put(&self, body: &[u8], cause: &str, reason: &str) -> Result<(), Error> {
        let mut headers = FieldTable::default();
        headers.insert(REASON_HEADER.into(), AMQPValue::LongString(reason.into()));
        headers.insert(QUEUE_HEADER.into(), AMQPValue::LongString(self.from.as_str().into()));
        let properties = BasicProperties::default()
            .with_message_id(format!("{:032x}", rand::random::<u128>()).into())
            .with_type(cause.into())
            .with_headers(headers);
        self.confirmed.publish(&self.exchange, "", properties, body).await
    }
}

/// A dead letter as it was delivered, with what its headers say.
#[derive(Debug)]
pub struct DeadLetterMessage {
    /// The delivery to acknowledge.
    pub tag: u64,
    /// The bytes of the message.
    pub body: Vec<u8>,
    /// The message's own id. It is the same when the dead letter is delivered again.
    pub message_id: Option<String>,
    /// Why it is a dead letter, in one word, by the worker that put it.
    pub cause: Option<String>,
    /// The reason in more words, by that worker.
    pub reason: Option<String>,
    /// The broker's reason, if the broker gave up on the message.
    pub death: Option<String>,
    /// The work queue that it came from.
    pub queue: Option<String>,
    /// How often the broker gave up on it.
    pub deaths: u64,
    /// When the broker first gave up on it, in seconds since 1970.
    pub died_at: Option<u64>,
}

/// Takes dead letters from their queue.
pub struct DeadLetterReceiver(Consumer);

impl DeadLetterReceiver {
    /// Consumes the dead-letter queue, with at most `prefetch` dead letters unacknowledged.
    pub async fn open(link: &Link, topology: &Topology, prefetch: u16) -> Result<Self, Error> {
        Ok(Self(Consumer::open(link, &topology.dead_letter_queue(), prefetch, 0).await?))
    }

    /// What acknowledges the messages.
    pub fn acknowledger(&self) -> Acknowledger {
        self.0.acknowledger()
    }

    /// The messages that it has received and not acknowledged.
    pub fn held(&self) -> Held {
        self.0.held()
    }

    /// The next dead letter; `None` when the link is lost.
    pub async fn next(&mut self) -> Option<DeadLetterMessage> {
        Some(read(self.0.next_raw().await?))
    }
}

fn read(delivery: Delivery) -> DeadLetterMessage {
    let properties = &delivery.properties;
    let header = |name: &str| text(properties.headers().as_ref()?.inner().get(name)?);
    let short = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    let death = last_death(properties);
    let of_death = |name: &str| text(death.as_ref()?.inner().get(name)?);
    let number = |name: &str| match death.as_ref()?.inner().get(name)? {
        AMQPValue::LongLongInt(count) => u64::try_from(*count).ok(),
        AMQPValue::Timestamp(seconds) => Some(*seconds),
        _ => None,
    };
    DeadLetterMessage {
        tag: delivery.delivery_tag,
        message_id: short(properties.message_id()),
        cause: short(properties.kind()),
        death: of_death("reason"),
        reason: header(REASON_HEADER),
        queue: of_death("queue").or_else(|| header(QUEUE_HEADER)),
        deaths: number("count").unwrap_or(0),
        died_at: number("time"),
        body: delivery.data,
    }
}

/// The broker's note about the last time it gave up on the message, which it puts first.
fn last_death(properties: &BasicProperties) -> Option<FieldTable> {
    let AMQPValue::FieldArray(deaths) = properties.headers().as_ref()?.inner().get(DEATH_HEADER)? else { return None };
    match deaths.as_slice().first()? {
        AMQPValue::FieldTable(death) => Some(death.clone()),
        _ => None,
    }
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}
