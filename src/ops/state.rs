//! Builds the state of this process from its metrics: for its row in `processes`, and for the gauges of `/metrics`.

use crate::metrics::labels::Route;
use crate::metrics::{METRICS, buckets};
use crate::wire::state::{Buckets, Counts, IntakeState, RelayState, State, WorkerState};
use std::sync::Arc;

/// A function that returns the current state of the process.
pub type Describe = Arc<dyn Fn() -> State + Send + Sync>;

impl From<&prometheus::Histogram> for Buckets {
    fn from(histogram: &prometheus::Histogram) -> Self {
        let (bounds, counts) = buckets(histogram).into_iter().unzip();
        Self { bounds, counts, count: histogram.get_sample_count(), sum: histogram.get_sample_sum() }
    }
}

fn counts(read: impl Iterator<Item = (&'static str, u64)>) -> Counts {
    read.map(|(value, count)| (value.to_owned(), count)).collect()
}

/// What this process has counted so far as an intake. The caller fills in the fields that describe its current
/// condition.
pub fn counted_by_intake() -> IntakeState {
    IntakeState {
        answers: counts(METRICS.requests.read(Route::Create)),
        unexpected: counts(METRICS.unexpected.read()),
        unavailable: counts(METRICS.unavailable.read()),
        unknown: METRICS.unknown.get(),
        late: counts(METRICS.late.read()),
        replies_without_waiter: METRICS.replies_without_waiter.get(),
        duration: Buckets::from(&METRICS.request_duration),
        ..IntakeState::default()
    }
}

/// What this process has counted so far as a worker. The caller fills in the fields that describe its current
/// condition.
pub fn counted_by_worker() -> WorkerState {
    WorkerState {
        batches: METRICS.batch_requests.get_sample_count(),
        settled: counts(METRICS.settled.read()),
        commits_in_doubt: METRICS.commits_in_doubt.get(),
        redeliveries: METRICS.redeliveries.get(),
        dead_letters: counts(METRICS.dead_letters.read()),
        duration: Buckets::from(&METRICS.batch_duration),
        ..WorkerState::default()
    }
}

/// What this process has counted so far as a relay. The caller fills in the fields that describe its current condition.
pub fn counted_by_relay() -> RelayState {
    RelayState { deliveries: counts(METRICS.deliveries.read()), ..RelayState::default() }
}
