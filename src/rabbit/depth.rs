//! Asks how many messages wait in queues, and how many consumers they have.
//!
//! This needs a connection of its own, but for a worker's questions about its own queues. A question about a queue that does not exist costs the channel, and one about a
//! queue without a leader may never be answered. Neither must touch a connection that carries requests.

use super::topology::Topology;
use super::{ANSWER_TIMEOUT, Broker, Error, Link};
use crate::metrics::labels::Role;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

/// The state of one queue. The figures are for people and charts: the broker may say 0 for a queue that has no leader
/// for a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depth {
    /// The name of the queue.
    pub queue: String,
    /// Messages that no consumer has taken.
    pub ready: u32,
    /// Consumers, including those that stand by.
    pub consumers: u32,
}

/// A connection over which to ask about queues.
pub struct Gauge {
    link: Link,
    channel: Channel,
}

impl Gauge {
    /// Connects to the broker. `role` is the connection's name there and in the metrics.
    pub async fn open(broker: &Broker, role: Role) -> Result<Self, Error> {
        let link = broker.connect(role).await?;
        let channel = super::open(&[&link], link.channel()).await?;
        Ok(Self { link, channel })
    }

    /// Asks over a connection that is used otherwise too. Only about queues that are consumed over it: if one of them is gone,
    /// the connection is of no use anyway.
    pub async fn over(link: &Link) -> Result<Self, Error> {
        Ok(Self { link: link.clone(), channel: link.channel().await? })
    }

    /// Declares the queues of `topology`, because a question about a queue that does not exist costs the connection.
    pub async fn declare(&self, topology: &Topology, shards: &[u8]) -> Result<(), Error> {
        super::open(&[&self.link], topology.declare(&self.link, shards)).await
    }

    /// Asks about each queue: one [`Depth`] for each, in order. After an error the connection can no longer be used.
    pub async fn read(&self, queues: &[String]) -> Result<Vec<Depth>, Error> {
        let mut depths = vec![];
        for queue in queues {
            let depth = tokio::select! {
                asked = ask(&self.channel, queue) => asked?,
                () = self.link.lost() => return Err(Error::lost()),
                () = tokio::time::sleep(ANSWER_TIMEOUT) => return Err(Error(format!("no answer about {queue}"))),
            };
            depths.push(depth);
        }
        Ok(depths)
    }

    /// Closes the connection.
    pub async fn close(&self) {
        self.link.close().await;
    }
}

/// Asks about one queue. If it does not exist, the broker closes the channel.
pub(super) async fn ask(channel: &Channel, queue: &str) -> Result<Depth, Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    let (ready, consumers) = (declared.message_count(), declared.consumer_count());
    Ok(Depth { queue: queue.to_owned(), ready, consumers })
}
