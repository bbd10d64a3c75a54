//! A session with RabbitMQ: a pair of connections, the publisher of each work queue, the reply queue, and the requests
//! that wait for replies. Whenever any of it is lost, all of it is built anew.

use super::replies::{Event, Waiters};
use crate::ledger::{Request, RequestId};
use crate::metrics::labels::Role;
use crate::rabbit::consumer::Consumer;
use crate::rabbit::publisher::{Limits, Outgoing, Publisher};
use crate::rabbit::topology::Topology;
use crate::rabbit::{self, Broker, Error, Link};
use crate::retry::Backoff;
use crate::trace;
use crate::wire::messages;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Keeps a session open, and knows the present one.
pub struct BrokerSessions {
    broker: Broker,
    topology: Topology,
    packing: Limits,
    open: RwLock<Option<Arc<BrokerSession>>>,
}

impl BrokerSessions {
    /// No session yet; [`Self::start`] opens one.
    pub fn new(broker: Broker, topology: Topology, packing: Limits) -> Arc<Self> {
        Arc::new(Self { broker, topology, packing, open: RwLock::new(None) })
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
            match BrokerSession::open(&self.broker, &self.topology, self.packing).await {
                Ok(session) => {
                    backoff.reset();
                    tracing::info!("intake connected to RabbitMQ");
                    self.set(Some(Arc::clone(&session)));
                    tokio::select! { () = session.publishing.lost() => {}, () = stop.cancelled() => {} }
                    self.set(None);
                    session.waiters.fail_all();
                    session.close().await;
                }
                Err(error) => tracing::warn!(%error, "intake cannot reach the broker"),
            }
            tokio::select! { () = backoff.wait() => {}, () = stop.cancelled() => {} }
        }
    }
}

/// One pair of connections to the broker, with the reply queue and the waiters that belong to it.
pub struct BrokerSession {
    publishing: Link,
    consuming: Link,
    /// The way to the publisher of each work queue.
    outgoing: Vec<mpsc::UnboundedSender<Outgoing>>,
    waiters: Arc<Waiters>,
}

impl BrokerSession {
    /// Those who wait for a reply over this session.
    pub fn waiters(&self) -> &Arc<Waiters> {
        &self.waiters
    }

    async fn open(broker: &Broker, topology: &Topology, packing: Limits) -> Result<Arc<Self>, Error> {
        let (consuming, publishing) = broker.connect_twice(Role::IntakeReplies, Role::IntakeRequests).await?;
        let reply_queue = topology.reply_queue(rand::random());
        let opening = async {
            topology.declare(&publishing).await?;
            let consumer = Consumer::open_replies(&consuming, topology, &reply_queue).await?;
            let mut publishers = vec![];
            for queue in topology.work_queues() {
                publishers.push(Publisher::open(&publishing, &queue, packing).await?);
            }
            Ok((consumer, publishers))
        };
        let (consumer, publishers) = rabbit::open(&[&publishing, &consuming], opening).await?;
        let waiters = Arc::new(Waiters::new());
        tokio::spawn(deliver(consumer, Arc::clone(&waiters)));
        let start = |publisher| start_publisher(publisher, reply_queue.clone(), Arc::clone(&waiters));
        let outgoing = publishers.into_iter().map(start).collect();
        Ok(Arc::new(Self { publishing, consuming, outgoing, waiters }))
    }

    /// Hands a request to the publisher of its business's work queue. Never waits. From here on the outcome is unknown.
    pub fn publish(&self, request: &Request, trace: Option<trace::Context>) {
        // The ids of businesses are random, so this spreads them evenly.
        let partition = request.business.as_u128() % self.outgoing.len() as u128;
        let (owner, tag) = (request.business.as_u128(), request.id.as_u128());
        let trace = trace.map(|trace| trace.to_string());
        let item = messages::write_traced_request(request, trace.as_deref());
        let outgoing = Outgoing { owner, tag, item, trace };
        if self.outgoing[partition as usize].send(outgoing).is_err() {
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

    async fn close(&self) {
        tokio::join!(self.publishing.close(), self.consuming.close());
    }
}

/// Starts a publisher, and returns the way to it.
fn start_publisher(
    publisher: Publisher,
    reply_queue: String,
    waiters: Arc<Waiters>,
) -> mpsc::UnboundedSender<Outgoing> {
    let (outgoing, incoming) = mpsc::unbounded_channel();
    let answering = Arc::clone(&waiters);
    tokio::spawn(publisher.run(
        incoming,
        move |items: &[Outgoing]| messages::pack_requests(&reply_queue, items.iter().map(|item| item.item.as_slice())),
        move |id, trouble| {
            tracing::debug!(request_id = %RequestId::from_u128(id), ?trouble, "the broker returned or refused a message");
            waiters.wake(id, Event::Trouble);
        },
        move |id| {
            let waiters = Arc::clone(&answering);
            async move { waiters.answered(id).await }
        },
    ));
    outgoing
}

/// Passes replies to the requests that wait for them, until the connection is lost.
async fn deliver(mut consumer: Consumer, waiters: Arc<Waiters>) {
    let _failed = waiters.fail_when_dropped();
    while let Some(delivery) = consumer.next().await {
        waiters.deliver(messages::read_replies(&delivery.body));
    }
}
