//! Messages that nobody can apply, kept for a person, each with its reason.

use super::topology::Topology;
use super::{ANSWER_TIMEOUT, Error, Link};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};

/// The header that says why, in words.
pub const REASON_HEADER: &str = "x-earmark-reason";

/// The sending end.
pub struct DeadLetters {
    link: Link,
    channel: Channel,
    queue: String,
}

impl DeadLetters {
    pub async fn open(link: &Link, topology: &Topology) -> Result<Self, Error> {
        let channel = link.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { link: link.clone(), channel, queue: topology.dead_letter_queue() })
    }

    /// Returns once the broker has the message safe. Only then may the original be acknowledged.
    pub async fn put(&self, body: &[u8], reason: &str) -> Result<(), Error> {
        let placed = tokio::select! {
            placed = self.publish(body, reason) => placed,
            () = self.link.lost() => Err(Error("connection lost".to_owned())),
            () = tokio::time::sleep(ANSWER_TIMEOUT) => Err(Error("the broker confirms nothing".to_owned())),
        };
        placed.inspect_err(|error| self.link.give_up(&error.to_string()))
    }

    async fn publish(&self, body: &[u8], reason: &str) -> Result<(), Error> {
        let mut headers = FieldTable::default();
        headers.insert(REASON_HEADER.into(), AMQPValue::LongString(reason.into()));
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm =
            self.channel.basic_publish("".into(), self.queue.as_str().into(), options, body, properties).await?;
        match confirm.await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                Err(Error("the dead-letter queue did not take a message".to_owned()))
            }
        }
    }
}
