//! How a process is: what it writes into its row of `processes` every second, as JSON.
//!
//! Counts are since the start of the process and only grow, buckets of histograms too. So whoever has two states of a
//! process knows exactly what happened between them, and those of several processes can be added up.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counts by the value of a label.
pub type Counts = BTreeMap<String, u64>;

/// How a process is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// By the clock of the process, in milliseconds since 1970.
    pub clock_millis: i64,
    /// What keeps it from working, in words; nothing if it can.
    pub impediments: Vec<String>,
    /// As this process sees them. Empty while it cannot ask the broker.
    pub queues: Vec<QueueDepth>,
    /// In an intake.
    pub intake: Option<IntakeState>,
    /// In a worker.
    pub worker: Option<WorkerState>,
}

/// One queue of the deployment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QueueDepth {
    pub name: String,
    /// Messages that nobody has taken. A message holds up to `EARMARK_PACK` requests.
    pub ready: u32,
    /// Those that stand by are among them.
    pub consumers: u32,
}

/// How an intake is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IntakeState {
    pub draining: bool,
    pub postgres_up: bool,
    pub rabbitmq_up: bool,
    /// The broker accepts no messages (a memory or disk alarm).
    pub rabbitmq_blocked: bool,
    /// Requests between admission and decision.
    pub in_flight: u64,
    /// The age of the oldest request that is not decided yet.
    pub oldest_millis: Option<i64>,
    /// Answers of `POST /payout/create`, by status.
    pub answers: Counts,
    /// Answers with 500, by what proves that they never debit.
    pub unexpected: Counts,
    /// Answers with 503, by reason.
    pub unavailable: Counts,
    /// Answers with 504.
    pub unknown: u64,
    /// What requests that were given up on had turned out to be, if not voided. `allocated` and `replayed` are successes.
    pub late: Counts,
    pub replies_without_waiter: u64,
    /// From arrival to answer, in seconds.
    pub duration: Buckets,
}

/// How a worker is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkerState {
    pub postgres_up: bool,
    pub consuming: bool,
    /// By a person, with all other workers.
    #[serde(default)]
    pub paused: bool,
    /// Messages taken and not yet acknowledged, by queue.
    pub unacknowledged: Counts,
    /// Batches begun.
    pub batches: u64,
    /// Requests settled, by what was decided.
    pub settled: Counts,
    pub commits_in_doubt: u64,
    pub redeliveries: u64,
    pub dead_letters: Counts,
    /// From a batch taken to its commit, in seconds.
    pub duration: Buckets,
}

/// A histogram: the nth count is of what was at most as large as the nth bound.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Buckets {
    pub bounds: Vec<f64>,
    pub counts: Vec<u64>,
    /// Of everything, also beyond the last bound.
    pub count: u64,
    pub sum: f64,
}
