//! A session with RabbitMQ: a pair of connections, a publisher for each shard, the reply queue, and the requests that wait
//! for replies. Whenever any of it is lost, all of it is built anew. A shard that is new gets a publisher in the session
//! that is there.

use super::replies::{Event, Waiters};
use crate::ledger::{Cause, Request, RequestId, ShardId};
use crate::metrics::METRICS;
use crate::metrics::labels::Role;
use crate::postgres::Shards;
use crate::postgres::shards::Known;
use crate::rabbit::consumer::Consumer;
use crate::rabbit::publisher::{Limits, Outgoing, Publisher};
use crate::rabbit::topology::Topology;
use crate::rabbit::{self, Broker, Error, Link};
use crate::retry::Backoff;
use crate::trace;
use crate::wire::messages;
use crate::wire::signing::Keyring;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How soon a publisher that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps a session open, and knows the present one.
pub struct BrokerSessions {
    broker: Broker,
    topology: Topology,
    keys: Keyring,
    packing: Limits,
    shards: Shards,
    open: RwLock<Option<Arc<BrokerSession>>>,
}

impl BrokerSessions {
    /// No session yet; [`Self::start`] opens one.
    pub fn new(broker: Broker, topology: Topology, keys: Keyring, packing: Limits, shards: Shards) -> Arc<Self> {
        Arc::new(Self { broker, topology, keys, packing, shards, open: RwLock::new(None) })
    }

    /// The session that is open now, if there is one.
    pub fn current(&self) -> Option<Arc<BrokerSession>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, session: Option<Arc<BrokerSession>>) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// Keeps a session open until `stop`, on a thread of its own; the receiver hears when the thread has ended. Among
    /// the tasks of thousands of connections the session would be polled only once in a round of all of them, and under
    /// overload the refusals would hold up the requests that were accepted.
    pub fn start(self: Arc<Self>, stop: CancellationToken) -> std::io::Result<oneshot::Receiver<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new().name("broker".to_owned()).spawn(move || {
            runtime.block_on(self.keep(&stop));
            let _ = ended.send(());
        })?;
        Ok(end)
    }

    /// Opens a new session whenever the last is lost.
    async fn keep(&self, stop: &CancellationToken) {
        let mut backoff = Backoff::for_connections();
        while !stop.is_cancelled() {
            match BrokerSession::open(&self.broker, &self.topology, &self.keys).await {
                Ok(session) => {
                    let ended =
                        tokio::select! { ended = self.use_session(&session) => ended, () = stop.cancelled() => Ok(()) };
                    if let Err(error) = ended {
                        tracing::warn!(%error, "intake cannot publish to a queue");
                    } else {
                        backoff.reset();
                    }
                    self.set(None);
                    session.waiters.fail_all();
                    session.close().await;
                }
                Err(error) => tracing::warn!(%error, "intake cannot reach the broker"),
            }
            tokio::select! { () = backoff.wait() => {}, () = stop.cancelled() => {} }
        }
    }

    /// Lets requests use the session until its connection for publishing is lost. Opens the publisher of each shard.
    async fn use_session(&self, session: &Arc<BrokerSession>) -> Result<(), Error> {
        let mut shards = self.shards.subscribe();
        let known = |shards: &mut watch::Receiver<Known>| shards.borrow_and_update().keys().copied().collect();
        session.serve(&self.topology, known(&mut shards), self.packing).await?;
        tracing::info!("intake connected to RabbitMQ");
        self.set(Some(Arc::clone(session)));
        loop {
            tokio::select! {
                () = session.publishing.lost() => return Ok(()),
                // The sender is in `self`, so there is always one.
                _ = shards.changed() => {}
            }
            // The requests of the other shards go on meanwhile, and also if this fails.
            while let Err(error) = session.serve(&self.topology, known(&mut shards), self.packing).await {
                if session.is_lost() {
                    return Ok(());
                }
                tracing::warn!(%error, "a new shard has no publisher yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// One pair of connections to the broker, with the reply queue and the waiters that belong to it.
pub struct BrokerSession {
    publishing: Link,
    consuming: Link,
    reply_queue: String,
    keys: Keyring,
    /// The way to the publisher of each shard.
    outgoing: RwLock<BTreeMap<ShardId, mpsc::UnboundedSender<Outgoing>>>,
    waiters: Arc<Waiters>,
}

impl BrokerSession {
    /// Those who wait for a reply over this session.
    pub fn waiters(&self) -> &Arc<Waiters> {
        &self.waiters
    }

    async fn open(broker: &Broker, topology: &Topology, keys: &Keyring) -> Result<Arc<Self>, Error> {
        let (consuming, publishing) = broker.connect_twice(Role::IntakeReplies, Role::IntakeRequests).await?;
        let reply_queue = topology.reply_queue(rand::random());
        let opening = async {
            topology.declare(&publishing, &[]).await?;
            Consumer::open_replies(&consuming, topology, &reply_queue).await
        };
        let consumer = rabbit::open(&[&publishing, &consuming], opening).await?;
        let waiters = Arc::new(Waiters::new());
        tokio::spawn(deliver(consumer, reply_queue.clone(), keys.clone(), Arc::clone(&waiters)));
        let (keys, outgoing) = (keys.clone(), RwLock::default());
        Ok(Arc::new(Self { publishing, consuming, reply_queue, keys, outgoing, waiters }))
    }

    /// Declares the queues of these shards, and opens the publishers that are missing.
    async fn serve(&self, topology: &Topology, shards: Vec<ShardId>, packing: Limits) -> Result<(), Error> {
        let numbers: Vec<u8> = shards.iter().map(|shard| shard.number()).collect();
        let opening = async {
            topology.declare(&self.publishing, &numbers).await?;
            for &shard in shards.iter().filter(|shard| !self.serves(**shard)) {
                let publisher = Publisher::open(&self.publishing, topology, shard.number(), packing).await?;
                let outgoing = self.start_publisher(shard, publisher);
                self.outgoing.write().unwrap_or_else(PoisonError::into_inner).insert(shard, outgoing);
            }
            Ok(())
        };
        rabbit::open(&[], opening).await
    }

    /// Whether there is a publisher for this shard.
    pub fn serves(&self, shard: ShardId) -> bool {
        self.outgoing.read().unwrap_or_else(PoisonError::into_inner).contains_key(&shard)
    }

    /// Hands a request to the publisher of its shard. Never waits. From here on the outcome is unknown.
    pub fn publish(&self, request: &Request, trace: Option<trace::Context>) {
        let (owner, tag) = (request.business.as_u128(), request.id.as_u128());
        let trace = trace.map(|trace| trace.to_string());
        let item = messages::write_traced_request(request, trace.as_deref());
        let outgoing = Outgoing { owner, tag, item, trace };
        let publishers = self.outgoing.read().unwrap_or_else(PoisonError::into_inner);
        let publisher = publishers.get(&request.business.shard());
        if publisher.is_none_or(|publisher| publisher.send(outgoing).is_err()) {
            self.waiters.wake(request.id.as_u128(), Event::Trouble);
        }
    }

    /// Whether the broker accepts no messages: a memory or disk alarm.
    pub fn is_blocked(&self) -> bool {
        self.publishing.is_blocked()
    }

    /// Whether the connection for publishing is lost.
    pub fn is_lost(&self) -> bool {
        self.publishing.is_lost()
    }

    /// Whether the connection for replies is lost.
    pub fn is_deaf(&self) -> bool {
        self.consuming.is_lost()
    }

    /// Starts a publisher, and returns the way to it.
    fn start_publisher(&self, shard: ShardId, publisher: Publisher) -> mpsc::UnboundedSender<Outgoing> {
        let (outgoing, incoming) = mpsc::unbounded_channel();
        let (keys, reply_queue) = (self.keys.clone(), self.reply_queue.clone());
        let (waiters, answering) = (Arc::clone(&self.waiters), Arc::clone(&self.waiters));
        tokio::spawn(publisher.run(
            incoming,
            move |items: &[Outgoing]| {
                let items = items.iter().map(|item| item.item.as_slice());
                messages::pack_requests(&keys, shard, &reply_queue, items)
            },
            move |id, trouble| {
                let request_id = RequestId::from_u128(id);
                tracing::debug!(%request_id, ?trouble, "the broker returned or refused a message");
                waiters.wake(id, Event::Trouble);
            },
            move |id| {
                let waiters = Arc::clone(&answering);
                async move { waiters.answered(id).await }
            },
        ));
        outgoing
    }

    async fn close(&self) {
        tokio::join!(self.publishing.close(), self.consuming.close());
    }
}

/// Passes replies to the requests that wait for them, until the connection is lost. A reply that is not believed is left out:
/// its request is resolved in the ledger, so its answer is true all the same.
async fn deliver(mut consumer: Consumer, queue: String, keys: Keyring, waiters: Arc<Waiters>) {
    let _failed = waiters.fail_when_dropped();
    while let Some(delivery) = consumer.next().await {
        let replies = messages::read_replies(&keys, &queue, &delivery.body);
        waiters.deliver(replies.unwrap_or_else(|(cause, reason)| {
            if cause == Cause::Unauthentic {
                METRICS.unauthentic_replies.inc();
            }
            tracing::warn!(cause = cause.as_str(), reason, "replies are not believed");
            vec![]
        }));
    }
}
