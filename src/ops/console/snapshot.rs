//! The snapshot: everything that the console knows about the deployment at one moment.

use crate::ops::deployment::{Process, Standing};
use crate::wire::operator::Queue;
use crate::wire::state::{Counts, State};
use serde::Serialize;

/// One point of the charts. Unknown values are `None`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    /// The time, in seconds since 1970.
    pub at: i64,
    /// Messages in all work queues that no worker has taken.
    pub ready: Option<u64>,
    /// Messages that workers have taken and not yet acknowledged.
    pub unacknowledged: Option<u64>,
    /// The age of the oldest request without an outcome, in seconds; 0 if there is none.
    pub oldest: Option<f64>,
    /// Requests per second that were allocated.
    pub allocated: Option<f64>,
    /// Answers per second to `POST /payout/create`, of all intakes.
    pub answered: Option<f64>,
    /// Percentiles of the time from arrival to answer, in milliseconds; `None` if there were no answers.
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    /// Answers with 500 since the last sample.
    #[serde(skip)]
    pub unexpected: u64,
    /// Answers with 504 since the last sample.
    #[serde(skip)]
    pub unknown: u64,
}

/// The sums of the counts of all live processes, each counted from the start of its process.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Answers by status.
    pub answers: Counts,
    /// Answers with 500, by what proves that nothing was debited.
    pub unexpected: Counts,
    /// Answers with 503 or 429, by reason.
    pub unavailable: Counts,
    /// Answers with 504.
    pub unknown: u64,
    /// Requests whose reply did not come in time and that had been decided, by outcome.
    pub late: Counts,
    /// Requests settled, by what was decided.
    pub settled: Counts,
    /// Requests between admission and decision, now.
    pub in_flight: u64,
}

/// How serious a finding is, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    Good,
    Warn,
    Bad,
}

impl Grade {
    /// The name of the grade, which is also its CSS class.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// One thing that operators should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub grade: Grade,
    pub text: String,
}

/// The state of the deployment at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When it was taken, in milliseconds since 1970.
    pub at_millis: i64,
    /// False while Postgres does not answer: then everything else is from an earlier snapshot.
    pub is_current: bool,
    pub sample: Sample,
    pub processes: Vec<Process>,
    /// The work queues; empty while no process reaches the broker.
    pub queues: Vec<Queue>,
    pub totals: Totals,
    /// Answers with 500 in the last 15 minutes.
    pub recent_unexpected: u64,
    /// Answers with 504 in the last 15 minutes.
    pub recent_unknown: u64,
    pub standing: Standing,
    /// What is wrong, worst first; empty if all is well.
    pub findings: Vec<Finding>,
}

/// The count for a label's value; 0 if there is none.
pub(super) fn count_of(counts: &Counts, value: &str) -> u64 {
    counts.get(value).copied().unwrap_or(0)
}

/// Sums up the counts of live processes.
pub(super) fn totals<'a>(states: impl Iterator<Item = &'a State>) -> Totals {
    let mut totals = Totals::default();
    for state in states {
        if let Some(intake) = &state.intake {
            add(&mut totals.answers, &intake.answers);
            add(&mut totals.unexpected, &intake.unexpected);
            add(&mut totals.unavailable, &intake.unavailable);
            add(&mut totals.late, &intake.late);
            totals.unknown += intake.unknown;
            totals.in_flight += intake.in_flight;
        }
        if let Some(worker) = &state.worker {
            add(&mut totals.settled, &worker.settled);
        }
    }
    totals
}

fn add(sum: &mut Counts, counts: &Counts) {
    for (value, count) in counts {
        *sum.entry(value.clone()).or_default() += count;
    }
}
