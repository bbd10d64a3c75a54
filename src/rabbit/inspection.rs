//! What commands such as `earmark doctor` ask the broker: its version, whether the queues are declared as this program
//! declares them, and whether a message goes through.

use super::confirmed::Confirmed;
use super::depth::{self, Depth, Gauge};
use super::topology::Topology;
use super::{Broker, Error, OPEN_TIMEOUT};
use crate::metrics::labels::Role;
use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::uri::{AMQPScheme, AMQPUri};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The first bytes of AMQP 0-9-1. The broker answers with its name and version.
const GREETING: &[u8] = b"AMQP\x00\x00\x09\x01";
/// What stands before the version in that answer: the length of the field's name, the name, and the type of a long
/// text.
const VERSION_FIELD: &[u8] = b"\x07versionS";

impl Broker {
    /// The version of each node, from its greeting, because lapin does not pass it on. `None` over TLS, and if the node
    /// does not say it in time.
    pub async fn versions(&self) -> Vec<Option<String>> {
        let mut versions = vec![];
        for uri in &self.uris {
            versions.push(match uri.scheme {
                AMQPScheme::AMQP => tokio::time::timeout(OPEN_TIMEOUT, Self::greet(uri)).await.ok().flatten(),
                AMQPScheme::AMQPS => None,
            });
        }
        versions
    }

    async fn greet(uri: &AMQPUri) -> Option<String> {
        let authority = &uri.authority;
        let mut stream = TcpStream::connect((authority.host.as_str(), authority.port)).await.ok()?;
        stream.write_all(GREETING).await.ok()?;
        let mut answer = vec![];
        while version_in(&answer).is_none() {
            let read = stream.read_buf(&mut answer).await.ok()?;
            if read == 0 || answer.len() > 8192 {
                return None;
            }
        }
        version_in(&answer)
    }

    /// The state of each queue, in the same order; `None` for a queue that does not exist.
    pub async fn find_queues(&self, queues: &[String]) -> Result<Vec<Option<Depth>>, Error> {
        let gauge = Gauge::open(self, Role::Command).await?;
        let together = gauge.read(queues).await;
        gauge.close().await;
        if let Ok(depths) = together {
            return Ok(depths.into_iter().map(Some).collect());
        }
        let mut found = vec![];
        for queue in queues {
            found.push(self.find_queue(queue).await?);
        }
        Ok(found)
    }

    /// Asks about one queue over a connection of its own, because a queue that does not exist costs the connection.
    async fn find_queue(&self, queue: &str) -> Result<Option<Depth>, Error> {
        let link = self.connect(Role::Command).await?;
        let asking = async { depth::ask(&link.channel().await?, queue).await };
        let asked = tokio::time::timeout(OPEN_TIMEOUT, asking).await;
        link.close().await;
        match asked.unwrap_or_else(|_| Err(Error(format!("no answer about {queue}")))) {
            Ok(depth) => Ok(Some(depth)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Declares everything. If something was declared differently before, the broker refuses, and the error is its text.
    pub async fn declare(&self, topology: &Topology, shards: &[u8]) -> Result<(), Error> {
        let link = self.connect(Role::Command).await?;
        let declared = super::open(&[&link], topology.declare(&link, shards)).await;
        link.close().await;
        declared
    }

    /// Sends a message through a queue of its own, and returns how long that took.
    pub async fn round_trip(&self, topology: &Topology) -> Result<Duration, Error> {
        let link = self.connect(Role::Command).await?;
        let since = Instant::now();
        let queue = topology.reply_queue(rand::random());
        let sending = async {
            let channel = link.channel().await?;
            let options = QueueDeclareOptions::exclusive().auto_delete();
            channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
            // The default exchange: another one may not be there yet, and nothing is to be declared here that stays.
            Confirmed::open(&link).await?.publish("", &queue, BasicProperties::default(), b"check").await?;
            let got = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await?;
            got.map(drop).ok_or_else(|| Error("the message did not come back".to_owned()))
        };
        super::open(&[&link], sending).await?;
        let took = since.elapsed();
        link.close().await;
        Ok(took)
    }
}

fn version_in(answer: &[u8]) -> Option<String> {
    let at = answer.windows(VERSION_FIELD.len()).position(|window| window == VERSION_FIELD)?;
    let rest = &answer[at + VERSION_FIELD.len()..];
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let text = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_out_of_a_greeting_that_has_arrived_whole() {
        let greeting = b"...\x08platformS\x00\x00\x00\x06Erlang\x07versionS\x00\x00\x00\x063.10.8...";
        assert_eq!(version_in(greeting).as_deref(), Some("3.10.8"));
        assert_eq!(version_in(&greeting[..30]), None);
        assert_eq!(version_in(b""), None);
    }
}
