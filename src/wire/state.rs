//! The state of a process: what it writes as JSON into its row of `processes` every second.
//!
//! Counters and histogram buckets count from the start of the process and never decrease. So the difference of two
//! states of a process is exactly what happened between them, and the differences of several processes can be added up.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counts by the value of a metric's label.
pub type Counts = BTreeMap<String, u64>;

/// The state of a process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The time by the clock of the process, in milliseconds since 1970.
    pub clock_millis: i64,
    /// Why the process cannot work, as texts; empty if it can.
    pub impediments: Vec<String>,
    /// The shards that the process knows, by number: what keeps each from being used, as text; `None` if nothing does.
    #[serde(default)]
    pub shards: BTreeMap<u8, Option<String>>,
    /// The queues, as the broker describes them to this process. Empty while it cannot ask the broker.
    pub queues: Vec<QueueDepth>,
    /// Present if the process runs an intake.
    pub intake: Option<IntakeState>,
    /// Present if the process runs a worker.
    pub worker: Option<WorkerState>,
    /// Present if the process runs a relay.
    #[serde(default)]
    pub relay: Option<RelayState>,
}

impl State {
    /// The shards that cannot be used while others can, as texts. If none can be used, that is an impediment.
    pub fn shards_away(&self) -> Vec<String> {
        if self.shards.values().all(Option::is_some) {
            return vec![];
        }
        let away = |(shard, why): (&u8, &Option<String>)| Some(format!("shard {shard}: {}", why.as_deref()?));
        self.shards.iter().filter_map(away).collect()
    }
}

/// One queue of the deployment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QueueDepth {
    /// The name of the queue.
    pub name: String,
    /// Messages that no worker has taken. A message has up to `EARMARK_PACK` requests.
    pub ready: u32,
    /// The number of consumers, including those that stand by.
    pub consumers: u32,
}

/// The state of an intake.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IntakeState {
    /// It is shutting down and accepts no requests.
    pub draining: bool,
    /// Whether Postgres can be worked with.
    pub postgres_up: bool,
    /// Whether RabbitMQ is connected.
    pub rabbitmq_up: bool,
    /// The broker accepts no messages because of a memory or disk alarm.
    pub rabbitmq_blocked: bool,
    /// Requests between admission and decision.
    pub in_flight: u64,
    /// The age of the oldest request without an outcome, in milliseconds; `None` if there is none.
    pub oldest_millis: Option<i64>,
    /// Answers of `POST /payout/create`, by status.
    pub answers: Counts,
    /// Answers with 500, by what proves that they never debit.
    pub unexpected: Counts,
    /// Answers with 503, or 429 for an API key's limits, by reason.
    pub unavailable: Counts,
    /// Answers with 504.
    pub unknown: u64,
    /// Requests whose reply did not come in time and that had been decided, by outcome. `allocated` and `replayed` are
    /// successes.
    pub late: Counts,
    /// Replies that no request waited for.
    pub replies_without_waiter: u64,
    /// Times from arrival to answer, in seconds.
    pub duration: Buckets,
}

/// The state of a worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkerState {
    /// Whether Postgres can be worked with.
    pub postgres_up: bool,
    /// It is subscribed to its queues, active or standing by.
    pub consuming: bool,
    /// An operator has paused all workers.
    #[serde(default)]
    pub paused: bool,
    /// Messages taken and not yet acknowledged, by queue.
    pub unacknowledged: Counts,
    /// Batches begun.
    pub batches: u64,
    /// Requests settled, by what was decided.
    pub settled: Counts,
    /// Commits whose answer from Postgres was lost.
    pub commits_in_doubt: u64,
    /// Messages that came to this worker by a redelivery.
    pub redeliveries: u64,
    /// Dead letters stored by this process, by cause.
    pub dead_letters: Counts,
    /// Times from taking a batch to its commit, in seconds.
    pub duration: Buckets,
}

/// The state of a relay. It counts the endpoints of the whole deployment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RelayState {
    /// Whether Postgres can be worked with.
    pub postgres_up: bool,
    /// Endpoints that this relay has in hand.
    pub in_hand: u64,
    /// Endpoints whose last delivery was a success.
    pub sound: i64,
    /// Endpoints whose last delivery failed.
    pub failing: i64,
    /// Endpoints that are disabled.
    pub disabled: i64,
    /// Events that failed and wait to be tried again, for all endpoints that are not disabled.
    pub waiting: i64,
    /// The age of the oldest event that no relay has tried for an endpoint whose last delivery was a success, in milliseconds; 0 if
    /// there is none.
    pub oldest_millis: i64,
    /// Tries to deliver, by how they ended.
    pub deliveries: Counts,
    /// Whether the broker takes events for the exchange; `None` if none are published.
    #[serde(default)]
    pub exchange_up: Option<bool>,
    /// The age of the oldest event that is not published there, in milliseconds; 0 if there is none.
    #[serde(default)]
    pub unpublished_millis: i64,
}

/// A histogram. `counts[n]` is the number of values that were at most `bounds[n]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Buckets {
    /// The upper bounds of the buckets.
    pub bounds: Vec<f64>,
    /// How many observations were at most as large as each bound.
    pub counts: Vec<u64>,
    /// The number of all values, including those above the last bound.
    pub count: u64,
    /// The sum of all values.
    pub sum: f64,
}
