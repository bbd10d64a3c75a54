//! The intake process: takes requests over HTTP, publishes them to RabbitMQ, waits for the replies, and answers.
//!
//! [`routes`] checks a request, [`admission`] admits it, [`submit`] publishes it over the [`session`] and waits,
//! [`replies`] knows which request waits for what, [`resolve`] decides those that got no reply, and [`problem`] writes
//! every answer. [`publication`] has the proof that nothing was published, and [`raises`] knows which epochs a request
//! may use. [`bulk`] does all this for many allocations in one call. [`room`] has the places in flight, and [`limits`]
//! those of each API key. [`auth`] finds the caller, and [`validate`] reads the body. [`lookup`] and [`history`] answer
//! reads, over [`reads`]; [`finder`] finds payout users by their hashes. [`webhooks`] manages where events are
//! delivered. [`detached`] keeps work going when its client hangs up. [`openapi`] describes the API, and [`page`] shows
//! that to people.

pub mod admission;
pub mod auth;
pub mod bulk;
mod detached;
pub mod dry_run;
pub mod events;
mod finder;
mod followers;
pub mod history;
pub mod limits;
pub mod lookup;
pub mod openapi;
mod page;
pub mod parameters;
mod parts;
pub mod problem;
pub mod publication;
mod raises;
mod reads;
pub mod replies;
pub mod resolve;
pub mod room;
pub mod routes;
pub mod session;
pub mod statement;
mod strict_json;
pub mod submit;
pub mod validate;
pub mod webhooks;

use crate::ledger::Millis;
use crate::{clock, connections, secret};
pub use parts::{Budgets, Intake, Settings};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The state of an intake, for people.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether it takes no new requests, because it is about to stop.
    pub draining: bool,
    /// Whether Postgres can be worked with.
    pub postgres_up: bool,
    /// Whether RabbitMQ is connected.
    pub broker_up: bool,
    /// The broker accepts no messages (a memory or disk alarm).
    pub broker_blocked: bool,
    /// Requests between admission and decision.
    pub in_flight: usize,
    /// The age of the oldest request that is not decided yet, as far as this intake knows, in milliseconds.
    pub oldest_millis: Option<Millis>,
}

/// A draining intake accepts connections until no new request has come for this long, and answers that it is draining:
/// a closed listener would reset clients that are just connecting. For half of the grace period at most.
const LAME_DUCK: Duration = Duration::from_millis(500);

impl Intake {
    /// Serves until `stop`, then drains: refuses new requests, and answers everything in flight, within `grace`. Fails
    /// if the thread for RabbitMQ cannot be started, or if serving panics.
    pub async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        stop: CancellationToken,
        grace: Duration,
    ) -> std::io::Result<()> {
        let links = Arc::clone(self.sessions()).start(self.abandon().clone())?;
        let raises = Arc::clone(self.raises());
        let tell = move |shard, count: Option<_>| match count {
            Some(count) => raises.saw(shard, count),
            None => raises.forget(shard),
        };
        let watching = tokio::spawn(self.shards().clone().watch(self.abandon().clone(), tell));
        let ending = connections::Ending { soon: self.admission().draining().clone(), now: CancellationToken::new() };
        let router = routes::router(Arc::clone(&self));
        let serving = tokio::spawn(connections::serve(listener, router, self.connections(), ending.clone()));
        stop.cancelled().await;
        tracing::info!("intake drains");
        self.admission().drain();
        let end = Instant::now() + grace;
        self.admission().until_nobody_comes_for(LAME_DUCK, end - grace / 2).await;
        ending.now.cancel();
        self.tracker().close();
        let drained = async {
            let served = serving.await;
            self.tracker().wait().await;
            served
        };
        match tokio::time::timeout_at(end, drained).await {
            Ok(served) => served?,
            Err(_) => tracing::warn!("grace period over: whatever is left is decided by its deadline"),
        }
        self.abandon().cancel();
        let _ = tokio::join!(links, watching);
        tracing::info!("intake stopped");
        Ok(())
    }

    /// The state of this intake, for people.
    pub fn status(&self) -> Status {
        let session = self.sessions().current();
        let waiting = session.as_ref().and_then(|session| session.waiters().oldest());
        let oldest = [waiting, self.resolvers().oldest()].into_iter().flatten().min();
        let age = |id| clock::now_millis().saturating_sub(secret::minted_at(id)).max(0);
        Status {
            draining: self.admission().draining().is_cancelled(),
            postgres_up: self.shards().impediments().is_empty(),
            broker_up: session.as_ref().is_some_and(|session| !session.is_lost()),
            broker_blocked: session.is_some_and(|session| session.is_blocked()),
            in_flight: self.admission().in_flight(),
            oldest_millis: oldest.map(age),
        }
    }

    /// What keeps this intake from taking requests, in words; empty if nothing does.
    pub fn impediments(&self) -> Vec<String> {
        self.admission().impediments()
    }
}
