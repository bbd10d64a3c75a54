//! Process 1: HTTP → queue, reply → HTTP.
//!
//! [`routes`] checks a request, [`submit`] publishes it and waits, [`replies`] knows who waits for what, [`resolve`]
//! decides what nobody answered, [`raises`] knows which epochs a request may use, [`problem`] writes every answer. [`bulk`]
//! does it for many in one call; [`room`] has the places in flight, [`limits`] those of a key; [`lookup`] and [`history`]
//! have the reads; [`unstoppable`] lets no client that hangs up stop any of it half-way. [`openapi`] describes all of it,
//! [`page`] shows that to people.

pub mod auth;
pub mod bulk;
pub mod history;
pub mod limits;
pub mod lookup;
pub mod openapi;
mod page;
pub mod problem;
mod raises;
pub mod replies;
pub mod resolve;
pub mod room;
pub mod routes;
pub mod submit;
mod unstoppable;
pub mod validate;

use crate::clock;
use crate::ledger::{Millis, Request, RequestId};
use crate::metrics::{Refusal, Role};
use crate::postgres::{Health, Postgres};
use crate::rabbit::consumer::Consumer;
use crate::rabbit::publisher::{Limits, Outgoing, Publisher};
use crate::rabbit::topology::Topology;
use crate::rabbit::{self, Broker, Error, Link};
use crate::retry::Backoff;
use crate::secret::{self, HashSecret, RequestIds};
use crate::{connections, trace, wire};
use auth::{Authenticator, KeyDigest};
use limits::{Bounds, KeyLimits};
use raises::Raises;
use replies::{Event, Waiters};
use resolve::Resolver;
use room::{Full, Places, Room};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use submit::Budgets;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What an intake is made of.
pub struct Settings {
    pub broker: Broker,
    pub topology: Topology,
    pub postgres: Postgres,
    pub secret: HashSecret,
    pub budgets: Budgets,
    /// Most requests between admission and decision.
    pub max_in_flight: usize,
    /// Most calls of bulk that are worked on or wait.
    pub max_bulk_calls: usize,
    /// What one API key may ask for.
    pub key_bounds: Bounds,
    pub packing: Limits,
    pub connections: connections::Limits,
}

/// How an intake is.
#[derive(Clone, Debug)]
pub struct Status {
    pub draining: bool,
    pub postgres_up: bool,
    pub broker_up: bool,
    /// The broker accepts no messages (a memory or disk alarm).
    pub broker_blocked: bool,
    /// Requests between admission and decision.
    pub in_flight: usize,
    /// The age of the oldest request that is not decided yet, as far as this intake knows, in milliseconds.
    pub oldest_millis: Option<Millis>,
}

/// An intake, for as long as it runs.
pub struct Intake {
    broker: Broker,
    topology: Topology,
    postgres: Postgres,
    packing: Limits,
    connections: connections::Limits,
    pub(self) secret: HashSecret,
    budgets: Budgets,
    ids: RequestIds,
    authenticator: Authenticator,
    resolver: Resolver,
    raises: Arc<Raises>,
    room: Room,
    limits: KeyLimits,
    /// One for each call of bulk that is worked on or waits.
    bulk_calls: Semaphore,
    session: RwLock<Option<Arc<Session>>>,
    postgres_health: Health,
    /// Cancelled when no new request is taken any more.
    draining: CancellationToken,
    /// How many requests were refused since then.
    told_to_go: AtomicU64,
    /// Cancelled when whatever is left is left to others.
    abandon: CancellationToken,
    /// Every request's work, and everything that is still being resolved.
    tracker: TaskTracker,
}

/// Places in flight, among all and among those of their key. One, once the request has begun.
pub struct Permit {
    of_all: Places,
    of_key: Option<Places>,
}

impl Permit {
    /// Takes one place out; `None` if there is none.
    fn split(&mut self) -> Option<Self> {
        Some(Self { of_all: self.of_all.split()?, of_key: self.of_key.as_mut().and_then(Places::split) })
    }
}

/// What a request was admitted with, or why it was not.
type Admission = Result<(Arc<Session>, Permit), Refusal>;

/// A draining intake accepts connections until nobody new has come for this long, to refuse in words what arrives on
/// them: a closed listener would reset those who are just connecting. For half of the grace period at most.
const LAME_DUCK: Duration = Duration::from_millis(500);

impl Intake {
    pub fn start(settings: Settings) -> Arc<Self> {
        let Settings { broker, topology, postgres, secret, budgets, packing, connections, .. } = settings;
        let (tracker, abandon) = (TaskTracker::new(), CancellationToken::new());
        let raises = Arc::new(Raises::unknown());
        Arc::new(Self {
            ids: RequestIds::new(secret.clone()),
            authenticator: Authenticator::start(postgres.apart(auth::CONNECTIONS)),
            resolver: Resolver::start(&postgres, tracker.clone(), &abandon, &raises),
            raises,
            room: Room::new(settings.max_in_flight),
            limits: KeyLimits::new(settings.key_bounds),
            bulk_calls: Semaphore::new(settings.max_bulk_calls),
            session: RwLock::new(None),
            postgres_health: postgres.health().clone(),
            draining: CancellationToken::new(),
            told_to_go: AtomicU64::new(0),
            broker,
            topology,
            postgres,
            packing,
            connections,
            secret,
            budgets,
            abandon,
            tracker,
        })
    }

    /// Serves until `stop`, then drains: refuses what is new, and answers everything in flight, within `grace`.
    pub async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        stop: CancellationToken,
        grace: Duration,
    ) -> std::io::Result<()> {
        let links = on_a_thread_of_its_own(Arc::clone(&self).keep_session())?;
        let raises = Arc::clone(&self.raises);
        let tell = move |count: Option<_>| count.map_or_else(|| raises.forget(), |count| raises.saw(count));
        let pings = tokio::spawn(self.postgres_health.clone().watch(self.postgres.clone(), self.abandon.clone(), tell));
        let ending = connections::Ending { soon: self.draining.clone(), now: CancellationToken::new() };
        let router = routes::router(Arc::clone(&self));
        let serving = tokio::spawn(connections::serve(listener, router, self.connections, ending.clone()));
        stop.cancelled().await;
        tracing::info!("intake drains");
        self.draining.cancel();
        let end = Instant::now() + grace;
        let mut told = u64::MAX;
        while told != self.told_to_go.load(Ordering::Relaxed) && Instant::now() < end - grace / 2 {
            told = self.told_to_go.load(Ordering::Relaxed);
            tokio::time::sleep(LAME_DUCK).await;
        }
        ending.now.cancel();
        self.tracker.close();
        let drained = async {
            let served = serving.await;
            self.tracker.wait().await;
            served
        };
        match tokio::time::timeout_at(end, drained).await {
            Ok(served) => served?,
            Err(_) => tracing::warn!("grace period over: whatever is left is decided by its deadline"),
        }
        self.abandon.cancel();
        let _ = tokio::join!(links, pings);
        tracing::info!("intake stopped");
        Ok(())
    }

    /// Admits a request, or not: everything it needs must be there, and there must be room.
    fn admit(&self, key: KeyDigest) -> Admission {
        let session = self.able_session()?;
        let of_key = self.limits.room(key).map(|room| room.enter()).transpose().map_err(|Full| Refusal::KeyInFlight)?;
        let of_all = self.room.enter().map_err(|Full| Refusal::TooManyInFlight)?;
        Ok((session, Permit { of_all, of_key }))
    }

    /// The same for so many items of bulk, not more than [`Self::turn`]. They wait for room, until `end`.
    async fn admit_in_turn(&self, key: KeyDigest, items: u32, end: Instant) -> Admission {
        self.able_session()?;
        let of_key = match self.limits.room(key) {
            Some(room) => Some(self.wait(&room, items, end, Refusal::KeyInFlight).await?),
            None => None,
        };
        let of_all = self.wait(&self.room, items, end, Refusal::TooManyInFlight).await?;
        Ok((self.able_session()?, Permit { of_all, of_key }))
    }

    /// Waits for so many places, until `end`.
    async fn wait(&self, room: &Room, items: u32, end: Instant, full: Refusal) -> Result<Places, Refusal> {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => Err(self.refuse_to_go_on()),
            entered = tokio::time::timeout_at(end, room.enter_in_turn(items)) => entered.ok().and_then(Result::ok).ok_or(full),
        }
    }

    /// Most items of a call of bulk that are admitted at a time, so that it takes turns with the other calls.
    fn turn(&self, key: KeyDigest) -> usize {
        let of_key = self.limits.room(key).map_or(usize::MAX, |room| room.turn());
        self.room.turn().min(of_key)
    }

    /// How many items of bulk would not have to wait now.
    fn left_for_bulk(&self, key: KeyDigest) -> usize {
        let of_key = self.limits.room(key).map_or(usize::MAX, |room| room.left_for_bulk());
        self.room.left_for_bulk().min(of_key)
    }

    /// The session with the broker, if everything is there that a new request needs.
    fn able_session(&self) -> Result<Arc<Session>, Refusal> {
        if self.draining.is_cancelled() {
            return Err(self.refuse_to_go_on());
        }
        if !self.postgres_health.is_up() {
            return Err(Refusal::PostgresDown);
        }
        let session = self.session().ok_or(Refusal::RabbitDown)?;
        if session.is_impeded() { Err(Refusal::RabbitBlocked) } else { Ok(session) }
    }

    fn refuse_to_go_on(&self) -> Refusal {
        self.told_to_go.fetch_add(1, Ordering::Relaxed);
        Refusal::Draining
    }

    fn session(&self) -> Option<Arc<Session>> {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How this intake is, for people to look at.
    pub fn status(&self) -> Status {
        let session = self.session();
        let waiting = session.as_ref().and_then(|session| session.waiters.oldest());
        let oldest = [waiting, self.resolver.oldest()].into_iter().flatten().min();
        let age = |id| clock::now_millis().saturating_sub(secret::minted_at(id)).max(0);
        Status {
            draining: self.draining.is_cancelled(),
            postgres_up: self.postgres_health.is_up(),
            broker_up: session.as_ref().is_some_and(|session| !session.publishing.is_lost()),
            broker_blocked: session.is_some_and(|session| session.publishing.is_blocked()),
            in_flight: self.room.taken(),
            oldest_millis: oldest.map(age),
        }
    }

    /// What keeps this intake from taking requests, in words; empty if nothing does.
    pub fn impediments(&self) -> Vec<String> {
        let (session, postgres) = (self.session(), self.postgres_health.impediment());
        let is = |what: fn(&Session) -> bool| session.as_deref().is_some_and(what);
        let checks = [
            (self.draining.is_cancelled(), "draining"),
            (postgres.is_some(), postgres.unwrap_or_default()),
            (session.is_none(), "rabbitmq is not connected"),
            (is(Session::is_impeded), "rabbitmq accepts no messages"),
            (is(|session| session.consuming.is_lost()), "replies are not received"),
        ];
        checks.iter().filter(|(is_so, _)| *is_so).map(|(_, what)| format!("intake: {what}")).collect()
    }

    /// Keeps a session with the broker, building a new one whenever it is lost.
    async fn keep_session(self: Arc<Self>) {
        let mut backoff = Backoff::for_connections();
        while !self.abandon.is_cancelled() {
            match Session::open(&self.broker, &self.topology, self.packing).await {
                Ok(session) => {
                    backoff.reset();
                    tracing::info!("intake publishes");
                    *self.session.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&session));
                    tokio::select! { () = session.publishing.lost() => {}, () = self.abandon.cancelled() => {} }
                    *self.session.write().unwrap_or_else(PoisonError::into_inner) = None;
                    session.waiters.fail_all();
                    session.close().await;
                }
                Err(error) => tracing::warn!(%error, "intake cannot reach the broker"),
            }
            tokio::select! { () = backoff.wait() => {}, () = self.abandon.cancelled() => {} }
        }
    }
}

/// Runs what talks to the broker on a thread of its own. Among the tasks of thousands of connections it would be polled
/// once in a round of all of them, and under overload the refusals would hold up what was accepted.
fn on_a_thread_of_its_own(work: impl Future<Output = ()> + Send + 'static) -> std::io::Result<oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new().name("broker".to_owned()).spawn(move || {
        runtime.block_on(work);
        let _ = ended.send(());
    })?;
    Ok(end)
}

/// One pair of connections to the broker, with the reply queue and the waiters that belong to it.
pub struct Session {
    publishing: Link,
    consuming: Link,
    /// One a work queue.
    outgoing: Vec<mpsc::UnboundedSender<Outgoing>>,
    waiters: Arc<Waiters>,
}

impl Session {
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

    /// Hands a request to the publisher of its business's work queue. Never waits; what becomes of it is not known from
    /// here on.
    fn publish(&self, request: &Request, trace: Option<trace::Context>) {
        // The ids of businesses are random.
        let partition = request.business.as_u128() % self.outgoing.len() as u128;
        let (owner, tag) = (request.business.as_u128(), request.id.as_u128());
        let trace = trace.map(|trace| trace.to_string());
        let item = wire::write_traced_request(request, trace.as_deref());
        let outgoing = Outgoing { owner, tag, item, trace };
        if self.outgoing[partition as usize].send(outgoing).is_err() {
            self.waiters.wake(request.id.as_u128(), Event::Trouble);
        }
    }

    fn is_impeded(&self) -> bool {
        self.publishing.is_blocked() || self.publishing.is_lost()
    }

    async fn close(&self) {
        tokio::join!(self.publishing.close(), self.consuming.close());
    }
}

fn start_publisher(
    publisher: Publisher,
    reply_queue: String,
    waiters: Arc<Waiters>,
) -> mpsc::UnboundedSender<Outgoing> {
    let (outgoing, incoming) = mpsc::unbounded_channel();
    let answering = Arc::clone(&waiters);
    tokio::spawn(publisher.run(
        incoming,
        move |items: &[Outgoing]| wire::pack_requests(&reply_queue, items.iter().map(|item| item.item.as_slice())),
        move |id, trouble| {
            tracing::debug!(request_id = %RequestId::from_u128(id), ?trouble, "message in trouble");
            waiters.wake(id, Event::Trouble);
        },
        move |id| {
            let waiters = Arc::clone(&answering);
            async move { waiters.answered(id).await }
        },
    ));
    outgoing
}

/// Brings replies to those who wait for them, until the connection is lost.
async fn deliver(mut consumer: Consumer, waiters: Arc<Waiters>) {
    let _failed = waiters.fail_when_dropped();
    while let Some(delivery) = consumer.next().await {
        waiters.deliver(wire::read_replies(&delivery.body));
    }
}
