//! Connects to RabbitMQ with lapin, publishes and consumes. This module carries bytes: it knows nothing of the ledger,
//! of SQL, or of what the bytes mean.
//!
//! Nothing here recovers by itself. If anything goes wrong on a connection, its [`Link`] is lost as a whole, and its
//! owner builds everything anew: connection, channels, queues, consumers. Publishing and consuming use separate links,
//! because during a memory alarm the broker blocks a connection that publishes, acknowledgements included.

pub mod confirmed;
pub mod consumer;
pub mod dead_letters;
pub mod depth;
pub mod events;
mod fair_queue;
pub mod inspection;
pub mod management;
pub mod permissions;
pub mod publisher;
pub mod replies;
pub mod topology;
mod url;

use crate::metrics::{
    METRICS,
    labels::{Label, Role},
};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use rand::seq::SliceRandom;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Anything that went wrong with the broker. The only way to go on is to connect again.
#[derive(Debug, thiserror::Error)]
#[error("broker: {0}")]
pub struct Error(String);

impl Error {
    /// Whether the broker's user may not do what was asked.
    fn is_refusal(&self) -> bool {
        self.0.contains("ACCESS_REFUSED")
    }

    /// Whether what was asked about does not exist.
    fn is_missing(&self) -> bool {
        self.0.contains("NOT_FOUND")
    }

    /// The connection was lost while an answer was awaited.
    fn lost() -> Self {
        Self("connection lost".to_owned())
    }
}

impl From<lapin::Error> for Error {
    fn from(error: lapin::Error) -> Self {
        Self(error.to_string())
    }
}

/// The addresses of a broker's nodes, checked, with a heartbeat and a connect timeout set. There is at least one. Clones
/// share which of them is tried last.
#[derive(Clone)]
pub struct Broker {
    uris: Vec<AMQPUri>,
    /// The place in `uris` of the node to which a connection was lost last. It may still let connections in, and be of no
    /// use: because it hangs, or is cut off from the others.
    lost_last: Arc<AtomicUsize>,
}

/// How often a broker of one node must say something, in seconds: its connection counts as lost when it was silent for two
/// such intervals and up to half of another.
const HEARTBEAT_SECONDS: u16 = 10;
/// The same for a broker of several nodes. When one of them hangs, another serves, so it is left within 8 s. One node alone
/// gets more time: nothing is won by leaving it, and the machine may only be busy.
const HEARTBEAT_SECONDS_OF_SEVERAL: u16 = 3;
/// How long connecting may take, and how long opening everything over a new connection. Short, because a broker may
/// hang while it starts: the next try then comes soon after it has started.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one node is waited for before the next one is tried beside it. A node that hangs accepts connections and says
/// nothing; a healthy one takes some milliseconds.
const NEXT_NODE: Duration = Duration::from_millis(300);

/// How long the broker may take to confirm or to answer. Far longer than it ever takes, it serves to notice a queue
/// that is permanently stuck before messages pile up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for confirms of a broker of several nodes: one that is cut off from the leader of a queue confirms nothing, and
/// another node does. As long as a request waits by default.
const ANSWER_TIMEOUT_OF_SEVERAL: Duration = Duration::from_secs(5);

impl Broker {
    /// Reads `amqp://user:password@host:port/vhost`, or several of them with commas between. The error text is meant to
    /// follow the name of the setting.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut uris = url::parse_several(text)?;
        let heartbeat = if uris.len() == 1 { HEARTBEAT_SECONDS } else { HEARTBEAT_SECONDS_OF_SEVERAL };
        for uri in &mut uris {
            uri.query.heartbeat.get_or_insert(heartbeat);
            uri.query.connection_timeout.get_or_insert(OPEN_TIMEOUT.as_millis() as u64);
        }
        Ok(Self { uris, lost_last: Arc::new(AtomicUsize::new(usize::MAX)) })
    }

    /// Whether there is another node to go to.
    pub fn has_several_nodes(&self) -> bool {
        self.uris.len() > 1
    }

    /// Opens two connections, one to consume over and one to publish over. They are lost together, because their owner
    /// cannot work with one of them. So they lead to one node: it is the loss of one node that costs both, and whoever gets
    /// messages over a node can answer over it.
    pub async fn connect_twice(&self, consuming: Role, publishing: Role) -> Result<(Link, Link), Error> {
        let consuming = self.connect(consuming).await?;
        match self.connect_to(consuming.node, publishing).await {
            Ok(publishing) => {
                consuming.tie(&publishing);
                Ok((consuming, publishing))
            }
            Err(error) => {
                consuming.close().await;
                Err(error)
            }
        }
    }

    /// Opens a connection to the first node that lets it, in a random order, so that connections spread over the nodes; the
    /// one that was lost last comes last. A node that refuses or is slow does not hold up the next. The error is that of the
    /// node that failed last.
    pub async fn connect(&self, role: Role) -> Result<Link, Error> {
        let mut nodes: Vec<usize> = (0..self.uris.len()).collect();
        nodes.shuffle(&mut rand::rng());
        let lost_last = self.lost_last.load(Ordering::Relaxed);
        // They are taken from the end.
        nodes.sort_by_key(|node| *node != lost_last);
        let (mut trying, mut last) = (FuturesUnordered::new(), Error::lost());
        loop {
            trying.extend(nodes.pop().map(|node| self.connect_to(node, role)));
            tokio::select! {
                Some(tried) = trying.next() => match tried {
                    Ok(link) => return Ok(link),
                    Err(error) => last = error,
                },
                () = tokio::time::sleep(NEXT_NODE), if !nodes.is_empty() => {}
                else => return Err(last),
            }
        }
    }

    /// Opens a connection to one node. The broker lists it under a name that says its role.
    async fn connect_to(&self, node: usize, role: Role) -> Result<Link, Error> {
        let name = match role {
            Role::IntakeReplies => "earmark intake: replies",
            Role::IntakeRequests => "earmark intake: requests",
            Role::WorkerRequests => "earmark worker: requests",
            Role::WorkerReplies => "earmark worker: replies",
            Role::RelayEvents => "earmark relay: events",
            Role::Command => "earmark: a command",
            Role::Watch => "earmark: depth of queues",
        };
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = Connection::connect_uri(self.uris[node].clone(), properties);
        let connected = tokio::time::timeout(OPEN_TIMEOUT, connecting).await;
        let connected = connected.map_err(|_| Error(format!("no connection within {OPEN_TIMEOUT:?}")))?;
        Ok(Link::watch(connected?, role, self, node))
    }
}

/// Runs `opening`, which opens what is needed over `links`, and closes the links if it fails or takes longer than
/// [`OPEN_TIMEOUT`]. A broker that has just come back may never answer a question about a queue; the same question over
/// new connections gets an answer.
pub async fn open<T>(links: &[&Link], opening: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
    let opened = opened.unwrap_or_else(|_| Err(Error(format!("no answer within {OPEN_TIMEOUT:?}"))));
    if opened.is_err() {
        futures_util::future::join_all(links.iter().map(|link| link.close())).await;
    }
    opened
}

/// One connection to the broker, and whether it is lost. Clones share it.
#[derive(Clone)]
pub struct Link {
    connection: Arc<Connection>,
    /// Kept until the connection is gone. A channel that is dropped closes itself in the background; if the connection
    /// closes meanwhile, lapin takes that for an error of the connection, and logs it.
    channels: Arc<Mutex<Vec<Channel>>>,
    lost: CancellationToken,
    blocked: Arc<AtomicBool>,
    /// It is being closed on purpose: its end is not logged as a failure.
    closes: Arc<AtomicBool>,
    /// The place of its node, and what the broker is told of its loss.
    node: usize,
    lost_last: Arc<AtomicUsize>,
    /// Whether there is another node to go to.
    has_other_nodes: bool,
}

impl Link {
    fn watch(connection: Connection, role: Role, broker: &Broker, node: usize) -> Self {
        METRICS.rabbitmq_connects.inc(role);
        METRICS.rabbitmq_connections[role.index()].inc();
        let link = Self {
            connection: Arc::new(connection),
            channels: Arc::default(),
            lost: CancellationToken::new(),
            blocked: Arc::default(),
            closes: Arc::default(),
            node,
            lost_last: Arc::clone(&broker.lost_last),
            has_other_nodes: broker.has_several_nodes(),
        };
        let mut events = Box::pin(link.connection.events_listener());
        let (lost, blocked, lost_last) = (link.lost.clone(), Arc::clone(&link.blocked), Arc::clone(&link.lost_last));
        tokio::spawn(async move {
            while let Some(event) = tokio::select! { event = events.next() => event, () = lost.cancelled() => None } {
                match event {
                    Event::ConnectionBlocked(reason) => {
                        tracing::warn!(reason, "the broker accepts no messages for now");
                        blocked.store(true, Ordering::Relaxed);
                    }
                    Event::ConnectionUnblocked => {
                        tracing::info!("the broker accepts messages again");
                        blocked.store(false, Ordering::Relaxed);
                    }
                    Event::Error(error) => {
                        match role {
                            // A command reports the error itself.
                            Role::Command => tracing::debug!(%error, "broker connection lost"),
                            _ => tracing::warn!(%error, "broker connection lost"),
                        }
                        lost_last.store(node, Ordering::Relaxed);
                        lost.cancel();
                    }
                    _ => {}
                }
            }
            METRICS.rabbitmq_connections[role.index()].dec();
            lost.cancel();
        });
        link
    }

    /// How long the broker may take to confirm.
    fn confirm_timeout(&self) -> Duration {
        if self.has_other_nodes { ANSWER_TIMEOUT_OF_SEVERAL } else { ANSWER_TIMEOUT }
    }

    async fn channel(&self) -> Result<Channel, Error> {
        let channel = self.connection.create_channel().await?;
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).push(channel.clone());
        Ok(channel)
    }

    /// Closes one of the link's channels.
    async fn close_channel(&self, channel: Channel) -> Result<(), Error> {
        let closed = channel.close(200, "goodbye".into()).await;
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| other.id() != channel.id());
        Ok(closed?)
    }

    /// Gives the link up: it is lost from now on, and all who share it must build everything anew. `why` goes to the
    /// log.
    pub fn give_up(&self, why: &str) {
        if !self.lost.is_cancelled() {
            self.lost_last.store(self.node, Ordering::Relaxed);
        }
        self.lose(why);
    }

    fn lose(&self, why: &str) {
        if !self.lost.is_cancelled() {
            if !self.closes.load(Ordering::Relaxed) {
                tracing::warn!(why, "broker connection given up");
            }
            self.lost.cancel();
        }
    }

    /// Says that the link is about to be closed on purpose: what ends with it from now on is not logged as a failure.
    pub fn begin_close(&self) {
        self.closes.store(true, Ordering::Relaxed);
    }

    /// A guard that loses the link when it is dropped. A task holds it, if the link is of no use without that task.
    fn lost_when_dropped(&self) -> DropGuard {
        self.lost.clone().drop_guard()
    }

    /// Loses both links as soon as either is lost.
    fn tie(&self, other: &Link) {
        let (one, other) = (self.clone(), other.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = one.lost() => other.lose("its other connection is lost"),
                () = other.lost() => one.lose("its other connection is lost"),
            }
        });
    }

    /// Returns when the link is lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Whether the link is lost, or its connection is closed.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled() || !self.connection.status().connected()
    }

    /// Whether the broker has stopped taking messages (a memory or disk alarm).
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Closes the connection in good order, so that everything written before arrives. Gives up after a second.
    pub async fn close(&self) {
        self.begin_close();
        let closing = self.connection.close(200, "goodbye".into());
        let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
        self.lost.cancel();
    }
}
