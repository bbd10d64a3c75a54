//! Everything that is known of the deployment at one moment.

use crate::ops::deployment::{Process, Standing, unacknowledged};
use crate::wire::state::{Counts, State};
use serde::Serialize;

/// One point of the charts. What is not known is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    /// In seconds since 1970.
    pub at: i64,
    /// Messages in all work queues that nobody has taken.
    pub ready: Option<u64>,
    /// Messages that workers hold.
    pub unacknowledged: Option<u64>,
    /// Age of the oldest request without an outcome, in seconds; 0 if none waits.
    pub oldest: Option<f64>,
    /// Requests a second that moved money.
    pub allocated: Option<f64>,
    /// Answers a second of the intakes to requests for allocations.
    pub answered: Option<f64>,
    /// End to end, in milliseconds, of the answers in the window; none if there were none.
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    /// Answers with 500 since the sample before.
    #[serde(skip)]
    pub unexpected: u64,
    /// Answers with 504 since the sample before.
    #[serde(skip)]
    pub unknown: u64,
}

/// One queue, as all processes together see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    pub ready: u32,
    pub unacknowledged: u64,
    pub consumers: u32,
}

/// What was counted since the processes that live now were started.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Answers by status.
    pub answers: Counts,
    /// 500s by proof.
    pub unexpected: Counts,
    /// 503s by reason.
    pub unavailable: Counts,
    pub unknown: u64,
    pub late: Counts,
    /// Requests settled, by what was decided.
    pub settled: Counts,
    pub in_flight: u64,
}

/// How grave something is, the gravest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    Good,
    Warn,
    Bad,
}

impl Grade {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// One thing that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub grade: Grade,
    pub text: String,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub at_millis: i64,
    /// False while Postgres cannot be asked: then nothing else here is current.
    pub is_current: bool,
    pub sample: Sample,
    pub processes: Vec<Process>,
    /// The work queues; empty while no process can ask the broker.
    pub queues: Vec<Queue>,
    pub totals: Totals,
    /// 500s and 504s of the last quarter of an hour.
    pub recent_unexpected: u64,
    pub recent_unknown: u64,
    pub standing: Standing,
    /// What is not as it should be, the worst first; empty if all is well.
    pub findings: Vec<Finding>,
}

/// A count by its label's value.
pub fn count_of(counts: &Counts, value: &str) -> u64 {
    counts.get(value).copied().unwrap_or(0)
}

/// What all processes that live have counted.
pub fn totals<'a>(states: impl Iterator<Item = &'a State>) -> Totals {
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

/// The work queues: what the broker says of them to whoever was heard of last, and what all workers hold.
pub fn queues(processes: &[Process], dead_letters: &str) -> Vec<Queue> {
    let live: Vec<&Process> = processes.iter().filter(|process| !process.is_silent()).collect();
    let seen = live.iter().filter(|process| !process.state.queues.is_empty()).max_by_key(|process| {
        // Workers know more queues than an intake, if there once were more partitions.
        (process.state.queues.len(), process.row.seen_at)
    });
    let held = unacknowledged(live.iter().copied());
    let shown = seen.into_iter().flat_map(|process| &process.state.queues).filter(|queue| queue.name != dead_letters);
    shown
        .map(|queue| Queue {
            name: queue.name.clone(),
            ready: queue.ready,
            unacknowledged: held.get(queue.name.as_str()).copied().unwrap_or(0),
            consumers: queue.consumers,
        })
        .collect()
}
