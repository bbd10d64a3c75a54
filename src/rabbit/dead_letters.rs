//! Messages that nobody can apply, each with its reason: put into their queue, and taken from it.

use super::confirmed::Confirmed;
use super::consumer::{Acknowledger, Consumer};
use super::topology::Topology;
use super::{Error, Link};
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

/// The header that says why, in words.
pub const REASON_HEADER: &str = "x-earmark-reason";
/// The header that says which work queue it came from.
const QUEUE_HEADER: &str = "x-earmark-queue";
/// What the broker notes about a message that it gives up on.
const DEATH_HEADER: &str = "x-death";

/// The sending end, for the messages of one work queue.
pub struct DeadLetterSender {
    confirmed: Confirmed,
    queue: String,
    from: String,
}

impl DeadLetterSender {
    pub async fn open(link: &Link, topology: &Topology, from: &str) -> Result<Self, Error> {
        Ok(Self { confirmed: Confirmed::open(link).await?, queue: topology.dead_letter_queue(), from: from.to_owned() })
    }

    /// Returns once the broker has the message safe. Only then may the original be acknowledged. `cause` is one word,
    /// `reason` says more.
    pub async fn put(&self, body: &[u8], cause: &str, reason: &str) -> Result<(), Error> {
        let mut headers = FieldTable::default();
        headers.insert(REASON_HEADER.into(), AMQPValue::LongString(reason.into()));
        headers.insert(QUEUE_HEADER.into(), AMQPValue::LongString(self.from.as_str().into()));
        let properties = BasicProperties::default()
            .with_message_id(format!("{:032x}", rand::random::<u128>()).into())
            .with_type(cause.into())
            .with_headers(headers);
        self.confirmed.publish(&self.queue, properties, body).await
    }
}

/// A dead letter, with all that is known of it.
#[derive(Debug)]
pub struct DeadLetterMessage {
    pub tag: u64,
    pub body: Vec<u8>,
    /// The message's own; dead letters that are delivered again have the same.
    pub message_id: Option<String>,
    /// One word and more words, by the worker that put it.
    pub cause: Option<String>,
    pub reason: Option<String>,
    /// The broker's word, if it gave up on it.
    pub death: Option<String>,
    /// The work queue that it came from.
    pub queue: Option<String>,
    /// How often it died, by the broker's account.
    pub deaths: u64,
    /// When it died first, in seconds since 1970, by the broker's account.
    pub died_at: Option<u64>,
}

/// The receiving end.
pub struct DeadLetterReceiver(Consumer);

impl DeadLetterReceiver {
    /// At most `prefetch` dead letters are unacknowledged.
    pub async fn open(link: &Link, topology: &Topology, prefetch: u16) -> Result<Self, Error> {
        Ok(Self(Consumer::open(link, &topology.dead_letter_queue(), prefetch).await?))
    }

    pub fn acknowledger(&self) -> Acknowledger {
        self.0.acknowledger()
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

/// The broker puts the last death first.
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
