//! What an intake is made of. Other files get each part by its method, and see nothing else of the intake.

use super::admission::{self, Admission};
use super::auth::{self, Authenticator};
use super::finder::UserFinder;
use super::followers::Followers;
use super::raises::Raises;
use super::resolve::Resolvers;
use super::session::BrokerSessions;
use crate::connections;
use crate::postgres::Shards;
use crate::rabbit::Broker;
use crate::rabbit::publisher;
use crate::rabbit::topology::Topology;
use crate::secret::{HashSecret, RequestIds};
use crate::webhook::target::Exceptions;
use crate::wire::signing::Keyring;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long one request may take, in two parts.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// How long to wait for the worker's reply.
    pub reply: Duration,
    /// How long to wait, after that, until the request is resolved.
    pub resolve: Duration,
}

/// What an intake needs.
pub struct Settings {
    /// The way to RabbitMQ.
    pub broker: Broker,
    /// The names of the queues.
    pub topology: Topology,
    /// The way to Postgres: to the directory, and to each shard.
    pub shards: Shards,
    /// The hash secret.
    pub secret: HashSecret,
    /// The keys that messages and replies are signed with.
    pub keys: Keyring,
    /// The addresses that webhooks may lead to although they are not public.
    pub exceptions: Exceptions,
    /// How long a request may take.
    pub budgets: Budgets,
    /// How much is admitted at once.
    pub admission: admission::Limits,
    /// How requests are packed into messages.
    pub packing: publisher::Limits,
    /// The limits of its HTTP listener.
    pub connections: connections::Limits,
}

/// A running intake.
pub struct Intake {
    sessions: Arc<BrokerSessions>,
    admission: Admission,
    authenticator: Authenticator,
    raises: Arc<Raises>,
    resolvers: Resolvers,
    shards: Shards,
    finder: UserFinder,
    followers: Followers,
    secret: HashSecret,
    exceptions: Exceptions,
    ids: RequestIds,
    budgets: Budgets,
    connections: connections::Limits,
    /// Cancelled when the intake has drained or its grace period is over. Requests that are unresolved then are decided
    /// by their deadline, by workers and look-ups.
    abandon: CancellationToken,
    /// The work of every request, and every request that is still being resolved.
    tracker: TaskTracker,
}

impl Intake {
    /// Makes an intake, and starts the tasks that look up API keys and resolve requests. [`Self::run`] does the rest.
    pub fn start(settings: Settings) -> Arc<Self> {
        let Settings { broker, topology, shards, secret, keys, exceptions, budgets, admission, packing, connections } =
            settings;
        let (tracker, abandon) = (TaskTracker::new(), CancellationToken::new());
        let raises = Arc::new(Raises::default());
        let sessions = BrokerSessions::new(broker, topology, keys, packing, shards.clone());
        Arc::new(Self {
            admission: Admission::new(admission, Arc::clone(&sessions), shards.clone()),
            sessions,
            authenticator: Authenticator::start(shards.directory().apart(auth::CONNECTIONS)),
            resolvers: Resolvers::new(shards.clone(), tracker.clone(), abandon.clone(), Arc::clone(&raises)),
            raises,
            finder: UserFinder::new(),
            followers: Followers::new(),
            shards,
            ids: RequestIds::new(secret.clone()),
            secret,
            exceptions,
            budgets,
            connections,
            abandon,
            tracker,
        })
    }

    /// The broker sessions.
    pub(super) fn sessions(&self) -> &Arc<BrokerSessions> {
        &self.sessions
    }

    /// What admits requests or refuses them.
    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// What knows the API keys.
    pub(super) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    /// What knows the count of the last raise of each shard.
    pub(super) fn raises(&self) -> &Arc<Raises> {
        &self.raises
    }

    /// What decides the requests that nobody answered.
    pub(super) fn resolvers(&self) -> &Resolvers {
        &self.resolvers
    }

    /// The way to Postgres.
    pub(super) fn shards(&self) -> &Shards {
        &self.shards
    }

    /// What finds payout users by their hashes.
    pub(super) fn finder(&self) -> &UserFinder {
        &self.finder
    }

    /// Who waits for movements.
    pub(super) fn followers(&self) -> &Followers {
        &self.followers
    }

    /// The hash secret, which tells the ids of this deployment from others.
    pub(super) fn secret(&self) -> &HashSecret {
        &self.secret
    }

    /// The addresses that webhooks may lead to although they are not public.
    pub(super) fn exceptions(&self) -> &Exceptions {
        &self.exceptions
    }

    /// What mints request ids.
    pub(super) fn ids(&self) -> &RequestIds {
        &self.ids
    }

    /// How long a request may take.
    pub(super) fn budgets(&self) -> Budgets {
        self.budgets
    }

    /// The limits of its HTTP listener.
    pub(super) fn connections(&self) -> connections::Limits {
        self.connections
    }

    /// Cancelled when the intake leaves everything that is not decided to others.
    pub(super) fn abandon(&self) -> &CancellationToken {
        &self.abandon
    }

    /// Counts the work of every request until it has ended.
    pub(super) fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }
}
