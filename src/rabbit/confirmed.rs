//! Publishes one message at a time, and waits until the broker has confirmed it.

use super::topology::Topology;
use super::{ANSWER_TIMEOUT, Error, Link};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};

/// A channel with publisher confirms.
pub struct Confirmed {
    link: Link,
    channel: Channel,
}

impl Confirmed {
    /// Opens a channel with confirms.
    pub async fn open(link: &Link) -> Result<Self, Error> {
        let channel = link.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { link: link.clone(), channel })
    }

    /// Publishes a message to a work queue as an intake does, and returns once the broker has confirmed it. A message that
    /// no queue takes is an error; any error loses the link.
    pub async fn put(&self, topology: &Topology, queue: &str, message_id: &str, body: &[u8]) -> Result<(), Error> {
        let properties = BasicProperties::default().with_message_id(message_id.into());
        self.publish(&topology.request_exchange(), queue, properties, body).await
    }

    /// Publishes a message to an exchange, in the same way.
    pub(super) async fn publish(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), Error> {
        let placed = tokio::select! {
            placed = self.place(exchange, key, properties, body) => placed,
            () = self.link.lost() => Err(Error::lost()),
            () = tokio::time::sleep(ANSWER_TIMEOUT) => Err(Error("the broker did not confirm in time".to_owned())),
        };
        placed.inspect_err(|error| self.link.give_up(&error.to_string()))
    }

    /// The same, without a limit of time, and the link stays.
    pub(super) async fn place(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), Error> {
        let properties = properties.with_delivery_mode(2).with_content_type("application/json".into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?;
        match confirm.await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                Err(Error(format!("{exchange} did not take a message for {key:?}")))
            }
        }
    }
}
