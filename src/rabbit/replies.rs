//! Sends replies to the intakes that asked. They are neither confirmed nor persistent: a lost reply only costs its
//! caller some seconds, until the intake looks into the ledger.

use super::topology::Topology;
use super::{Error, Link};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel};

/// Sends replies over a channel of its own.
pub struct ReplySender {
    link: Link,
    channel: Channel,
    exchange: String,
}

impl ReplySender {
    /// Opens a channel for replies.
    pub async fn open(link: &Link, topology: &Topology) -> Result<Self, Error> {
        Ok(Self { link: link.clone(), channel: link.channel().await?, exchange: topology.reply_exchange() })
    }

    /// Returns once the reply is written to the socket, so that an acknowledgement sent after it cannot overtake it. An
    /// error loses the link.
    pub async fn send(&self, queue: &str, body: &[u8]) -> Result<(), Error> {
        let properties = BasicProperties::default().with_content_type("application/json".into());
        let options = BasicPublishOptions::default();
        let exchange = self.exchange.as_str().into();
        let writing = self.channel.basic_publish(exchange, queue.into(), options, body, properties);
        let written = tokio::select! {
            written = writing => written,
            () = self.link.lost() => return Err(Error::lost()),
        };
        written.inspect_err(|error| self.link.give_up(&error.to_string()))?;
        Ok(())
    }
}
