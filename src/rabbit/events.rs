//! Publishes events to an exchange. Unlike requests they need no answer, so many are on their way at once.

use super::topology::Topology;
use super::{Broker, Error, Link, open};
use crate::metrics::labels::Role;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};

/// An event as the exchange gets it.
pub struct Event {
    /// What happened: queues are bound by it.
    pub kind: &'static str,
    /// The same for every try to publish it.
    pub id: String,
    /// Whose event it is.
    pub business: String,
    /// When it was, in seconds since 1970.
    pub timestamp: u64,
    /// The event as JSON.
    pub body: Vec<u8>,
}

/// A connection that publishes events to the exchange of a deployment, with confirms.
pub struct EventPublisher {
    link: Link,
    channel: Channel,
    exchange: String,
}

impl EventPublisher {
    /// Connects, and sees to it that the exchange is there.
    pub async fn open(broker: &Broker, topology: &Topology) -> Result<Self, Error> {
        let link = broker.connect(Role::RelayEvents).await?;
        let opening = async {
            let channel = link.channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            topology.declare(&link, &[]).await?;
            Ok(channel)
        };
        let channel = open(&[&link], opening).await?;
        Ok(Self { link, channel, exchange: topology.event_exchange() })
    }

    /// Whether it is of no use any more.
    pub fn is_lost(&self) -> bool {
        self.link.is_lost()
    }

    /// Whether the broker has stopped taking messages (a memory or disk alarm).
    pub fn is_blocked(&self) -> bool {
        self.link.is_blocked()
    }

    /// Publishes events in their order. Returns, for each, whether the broker has taken it for all queues that are bound; it
    /// refuses one that any of them refuses. An error loses the connection, and some may have been taken all the same.
    pub async fn publish(&self, events: Vec<Event>) -> Result<Vec<bool>, Error> {
        let publishing = tokio::select! {
            published = self.publish_all(events) => published,
            () = self.link.lost() => Err(Error::lost()),
        };
        publishing.inspect_err(|error| self.link.give_up(&error.to_string()))
    }

    async fn publish_all(&self, events: Vec<Event>) -> Result<Vec<bool>, Error> {
        let mut confirms = Vec::with_capacity(events.len());
        for event in events {
            let mut headers = FieldTable::default();
            headers.insert("business_id".into(), AMQPValue::LongString(event.business.into()));
            let properties = BasicProperties::default()
                .with_delivery_mode(2)
                .with_content_type("application/json".into())
                .with_message_id(event.id.into())
                .with_type(event.kind.into())
                .with_timestamp(event.timestamp)
                .with_headers(headers);
            let (exchange, options) = (self.exchange.as_str().into(), BasicPublishOptions::default());
            confirms
                .push(self.channel.basic_publish(exchange, event.kind.into(), options, &event.body, properties).await?);
        }
        let mut taken = Vec::with_capacity(confirms.len());
        for confirm in confirms {
            let confirmed = tokio::time::timeout(self.link.confirm_timeout(), confirm).await;
            let confirmed = confirmed.map_err(|_| Error("the broker did not confirm in time".to_owned()))??;
            taken.push(matches!(confirmed, Confirmation::Ack(_)));
        }
        Ok(taken)
    }

    /// Closes the connection in good order.
    pub async fn close(&self) {
        self.link.close().await;
    }
}
