//! How many messages wait in queues, and how many consumers they have. Over a connection of its own: a question about a
//! queue that is not there costs the channel, and one to a queue without a leader may never be answered. Neither must
//! touch a connection that carries requests.

use super::topology::Topology;
use super::{ANSWER_TIMEOUT, Broker, Error, Link};
use crate::metrics::labels::Role;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

/// How one queue stands. Figures for people and charts: the broker may say 0 for a queue whose leader is just away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depth {
    pub queue: String,
    /// Messages that nobody has taken.
    pub ready: u32,
    /// Those that stand by are among them.
    pub consumers: u32,
}

/// A connection to ask over.
pub struct Gauge {
    link: Link,
    channel: Channel,
}

impl Gauge {
    pub async fn open(broker: &Broker, role: Role) -> Result<Self, Error> {
        let link = broker.connect(role).await?;
        let channel = super::open(&[&link], link.channel()).await?;
        Ok(Self { link, channel })
    }

    /// Declares what is asked for: a question about a queue that is not there yet costs the connection.
    pub async fn declare(&self, topology: &Topology) -> Result<(), Error> {
        super::open(&[&self.link], topology.declare(&self.link)).await
    }

    /// Asks for each queue. After an error the connection is of no use any more.
    pub async fn read(&self, queues: &[String]) -> Result<Vec<Depth>, Error> {
        let mut depths = vec![];
        for queue in queues {
            let depth = tokio::select! {
                asked = ask(&self.channel, queue) => asked?,
                () = self.link.lost() => return Err(Error("connection lost".to_owned())),
                () = tokio::time::sleep(ANSWER_TIMEOUT) => return Err(Error(format!("no answer about {queue}"))),
            };
            depths.push(depth);
        }
        Ok(depths)
    }

    pub async fn close(&self) {
        self.link.close().await;
    }
}

/// Asks for one queue. A no costs the channel.
pub(super) async fn ask(channel: &Channel, queue: &str) -> Result<Depth, Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    let (ready, consumers) = (declared.message_count(), declared.consumer_count());
    Ok(Depth { queue: queue.to_owned(), ready, consumers })
}
