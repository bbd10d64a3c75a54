//! What the user of a broker may do, found out by trying: each try is refused, or does nothing.

use super::confirmed::Confirmed;
use super::topology::Topology;
use super::{Broker, Error, Link, open};
use crate::metrics::labels::Role;
use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

/// Something that a user may do, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Declare queues of any name. Whoever may that, may delete them too.
    Declare,
    /// Write to the default exchange, and so into every queue.
    WriteAnywhere,
    /// Write requests.
    WriteRequests,
    /// Write replies.
    WriteReplies,
    /// Take requests from the work queues.
    TakeRequests,
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Declare, Self::WriteAnywhere, Self::WriteRequests, Self::WriteReplies, Self::TakeRequests];

    /// It in words, behind "may".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Declare => "declare and delete queues",
            Self::WriteAnywhere => "write into every queue (to the default exchange)",
            Self::WriteRequests => "write requests",
            Self::WriteReplies => "write replies",
            Self::TakeRequests => "take requests from the work queues",
        }
    }
}

impl Broker {
    /// Whether this user may do it.
    pub async fn may(&self, topology: &Topology, act: Act) -> Result<bool, Error> {
        let link = self.connect(Role::Command).await?;
        // It ends with an error of the connection or a channel, which is no failure here.
        link.begin_close();
        let tried = open(&[&link], attempt(&link, topology, act)).await;
        link.close().await;
        match tried {
            Ok(()) => Ok(true),
            Err(error) if error.is_refusal() => Ok(false),
            // A queue that is not there was looked for, and a message that nobody takes came back: both are allowed.
            Err(error) if error.is_missing() || error.0.contains("did not take") => Ok(true),
            Err(error) => Err(error),
        }
    }
}

async fn attempt(link: &Link, topology: &Topology, act: Act) -> Result<(), Error> {
    let nobody = topology.nothing(rand::random());
    // The error of the channel is awaited, which says what was refused: that the link is lost says nothing of it.
    let write = async |exchange: &str| {
        Confirmed::open(link).await?.place(exchange, &nobody, BasicProperties::default(), b"check").await
    };
    match act {
        Act::Declare => {
            let options = QueueDeclareOptions::exclusive().auto_delete();
            link.channel().await?.queue_declare(nobody.into(), options, FieldTable::default()).await?;
        }
        Act::WriteAnywhere => write("").await?,
        Act::WriteRequests => write(&topology.request_exchange()).await?,
        Act::WriteReplies => write(&topology.reply_exchange()).await?,
        Act::TakeRequests => {
            let options = BasicGetOptions::default();
            link.channel().await?.basic_get(topology.no_work_queue().into(), options).await?;
        }
    }
    Ok(())
}
