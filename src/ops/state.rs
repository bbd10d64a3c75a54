//! How a process is: what it writes into its row of `processes` every second, as JSON, and what `/metrics` shows besides
//! what is counted where it happens.
//!
//! Counts are since the start of the process and only grow, buckets of histograms too. So whoever has two states of a
//! process knows exactly what happened between them, and those of several processes can be added up.

use crate::metrics::{METRICS, buckets, labels::Route};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Counts by the value of a label.
pub type Counts = BTreeMap<String, u64>;

/// What tells how the process is now.
pub type Describe = Arc<dyn Fn() -> State + Send + Sync>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// By the clock of the process, in milliseconds since 1970.
    pub clock_millis: i64,
    /// What keeps it from working, in words; nothing if it can.
    pub impediments: Vec<String>,
    /// As this process sees them. Empty while it cannot ask the broker.
    pub queues: Vec<Queue>,
    /// In an intake.
    pub intake: Option<Intake>,
    /// In a worker.
    pub worker: Option<Worker>,
}

/// One queue of the deployment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Queue {
    pub name: String,
    /// Messages that nobody has taken. A message holds up to `EARMARK_PACK` requests.
    pub ready: u32,
    /// Those that stand by are among them.
    pub consumers: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Intake {
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

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Worker {
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

impl From<&prometheus::Histogram> for Buckets {
    fn from(histogram: &prometheus::Histogram) -> Self {
        let (bounds, counts) = buckets(histogram).into_iter().unzip();
        Self { bounds, counts, count: histogram.get_sample_count(), sum: histogram.get_sample_sum() }
    }
}

fn counts(read: impl Iterator<Item = (&'static str, u64)>) -> Counts {
    read.map(|(value, count)| (value.to_owned(), count)).collect()
}

impl Intake {
    /// What was counted so far. How it is now is left to the caller.
    pub fn counted() -> Self {
        Self {
            answers: counts(METRICS.requests.read(Route::Create)),
            unexpected: counts(METRICS.unexpected.read()),
            unavailable: counts(METRICS.unavailable.read()),
            unknown: METRICS.unknown.get(),
            late: counts(METRICS.late.read()),
            replies_without_waiter: METRICS.replies_without_waiter.get(),
            duration: Buckets::from(&METRICS.request_duration),
            ..Self::default()
        }
    }
}

impl Worker {
    /// What was counted so far. How it is now is left to the caller.
    pub fn counted() -> Self {
        Self {
            batches: METRICS.batch_requests.get_sample_count(),
            settled: counts(METRICS.settled.read()),
            commits_in_doubt: METRICS.commits_in_doubt.get(),
            redeliveries: METRICS.redeliveries.get(),
            dead_letters: counts(METRICS.dead_letters.read()),
            duration: Buckets::from(&METRICS.batch_duration),
            ..Self::default()
        }
    }
}
