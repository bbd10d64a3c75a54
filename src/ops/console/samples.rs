//! One look at the whole deployment each second, and a quarter of an hour of them, in memory.
//!
//! Everything comes from the rows that the processes write. Their counts only grow, so what happened between two of a
//! process's states is their difference, exactly; the buckets of all intakes are added up before a percentile is read.

use super::findings::{self, Finding};
use crate::clock;
use crate::ledger::Cause;
use crate::ops::state::{Buckets, Counts, State};
use crate::postgres::audits::{self, Audited};
use crate::postgres::partitions::{self, Paused};
use crate::postgres::processes::{self, Present};
use crate::postgres::{Error, PgConnection, Postgres, Session, dead_letters};
use crate::rabbit::topology::Topology;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const INTERVAL: Duration = Duration::from_secs(1);
/// How many samples are kept: a quarter of an hour.
pub const KEPT: usize = 900;
/// Rates and percentiles are of the last seconds, as rows are not written in step with the samples.
const WINDOW: time::Duration = time::Duration::seconds(5);
/// A process that was not heard of for so long is gone, or cannot reach the database: it writes every second.
pub const STALE_MILLIS: i64 = 5_000;
/// For so long a process that is gone is still shown.
const SHOWN_MILLIS: i64 = 3_600_000;

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

/// All samples by column, as the charts take them.
#[derive(Debug, Default, Serialize)]
pub struct History {
    at: Vec<i64>,
    ready: Vec<Option<u64>>,
    unacknowledged: Vec<Option<u64>>,
    oldest: Vec<Option<f64>>,
    allocated: Vec<Option<f64>>,
    answered: Vec<Option<f64>>,
    p50: Vec<Option<f64>>,
    p95: Vec<Option<f64>>,
    p99: Vec<Option<f64>>,
}

/// A process, with its state read.
#[derive(Clone, Debug)]
pub struct Process {
    pub row: Present,
    pub state: State,
}

impl Process {
    pub fn is_live(&self) -> bool {
        self.row.unseen_millis < STALE_MILLIS
    }
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
    pub findings: Vec<Finding>,
}

/// What the database knows besides: things that people did or have to do.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Open dead letters, by cause.
    pub dead_letters: Vec<(Cause, i64)>,
    pub audit: Option<Audited>,
    pub paused: Option<Paused>,
}

impl Standing {
    pub fn open_dead_letters(&self) -> i64 {
        self.dead_letters.iter().map(|(_, count)| count).sum()
    }
}

/// The samples of this process.
#[derive(Default)]
pub struct Samples {
    kept: Mutex<VecDeque<Sample>>,
    latest: watch::Sender<Arc<Snapshot>>,
}

impl Samples {
    pub fn latest(&self) -> Arc<Snapshot> {
        self.latest.borrow().clone()
    }

    /// Tells of each snapshot from now on.
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }

    pub fn history(&self) -> History {
        let mut history = History::default();
        for sample in self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            history.at.push(sample.at);
            history.ready.push(sample.ready);
            history.unacknowledged.push(sample.unacknowledged);
            history.oldest.push(sample.oldest);
            history.allocated.push(sample.allocated);
            history.answered.push(sample.answered);
            history.p50.push(sample.p50);
            history.p95.push(sample.p95);
            history.p99.push(sample.p99);
        }
        history
    }

    /// Samples every second until `stop`.
    pub async fn run(&self, postgres: &Postgres, topology: &Topology, stop: CancellationToken) {
        let (mut session, mut tracks) = (postgres.session(), Tracks::default());
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! { _ = ticks.tick() => {}, () = stop.cancelled() => return }
            let looked = look(&mut session, topology.prefix()).await;
            if let Err(error) = &looked {
                tracing::debug!(%error, "the console cannot look");
            }
            self.take(looked.ok(), &mut tracks, topology);
        }
    }

    fn take(&self, looked: Option<(Vec<Process>, Standing)>, tracks: &mut Tracks, topology: &Topology) {
        let at_millis = clock::now_millis();
        let mut snapshot = match looked {
            Some((processes, standing)) => tracks.snapshot(at_millis, processes, standing, topology),
            // The last one again, as what it is: not of now.
            None => Snapshot { is_current: false, sample: Sample::default(), ..Snapshot::clone(&self.latest()) },
        };
        snapshot.at_millis = at_millis;
        snapshot.sample.at = at_millis / 1000;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.back().is_none_or(|last| last.at < snapshot.sample.at) {
            kept.push_back(snapshot.sample.clone());
        }
        while kept.len() > KEPT {
            kept.pop_front();
        }
        snapshot.recent_unexpected = kept.iter().map(|sample| sample.unexpected).sum();
        snapshot.recent_unknown = kept.iter().map(|sample| sample.unknown).sum();
        drop(kept);
        snapshot.findings = findings::find(&snapshot);
        self.latest.send_replace(Arc::new(snapshot));
    }
}

/// Reads what the processes wrote, and what stands besides.
async fn look(session: &mut Session, prefix: &str) -> Result<(Vec<Process>, Standing), Error> {
    let looking = async |connection: &mut PgConnection| {
        let rows = processes::find_present(connection).await?;
        let dead_letters = dead_letters::count_open(connection).await?;
        let audit = audits::find_last_audit(connection).await?;
        let paused = partitions::find_pause(connection, prefix).await?;
        Ok((rows, Standing { dead_letters, audit, paused }))
    };
    let (rows, standing) = session.read(looking).await?;
    let shown = rows.into_iter().filter(|row| row.unseen_millis < SHOWN_MILLIS);
    // A process of another release may say what this one does not know; it is shown with what is known.
    let read = |row: Present| Process { state: serde_json::from_str(&row.state).unwrap_or_default(), row };
    Ok((shown.map(read).collect(), standing))
}

/// The states of each process over the window, the oldest first.
#[derive(Default)]
struct Tracks(HashMap<Uuid, VecDeque<(OffsetDateTime, State)>>);

impl Tracks {
    fn snapshot(
        &mut self,
        at_millis: i64,
        processes: Vec<Process>,
        standing: Standing,
        topology: &Topology,
    ) -> Snapshot {
        let fresh: Vec<(u64, u64)> = processes.iter().map(|process| self.note(process)).collect();
        self.0.retain(|id, _| processes.iter().any(|process| process.row.process_id == *id && process.is_live()));
        let live = || processes.iter().filter(|process| process.is_live()).map(|process| &process.state);
        let queues = queues(&processes, &topology.dead_letter_queue());
        let [p50, p95, p99] = self.percentiles([0.5, 0.95, 0.99]);
        let has_intake = live().any(|state| state.intake.is_some());
        let oldest = live().filter_map(|state| state.intake.as_ref()?.oldest_millis).max().unwrap_or(0);
        let sample = Sample {
            at: at_millis / 1000,
            ready: (!queues.is_empty()).then(|| queues.iter().map(|queue| u64::from(queue.ready)).sum()),
            unacknowledged: (!queues.is_empty()).then(|| queues.iter().map(|queue| queue.unacknowledged).sum()),
            oldest: has_intake.then_some(oldest as f64 / 1000.0),
            allocated: Some(
                self.rate(|state| state.worker.as_ref().map_or(0, |worker| count_of(&worker.settled, "allocated"))),
            ),
            answered: Some(self.rate(|state| state.intake.as_ref().map_or(0, |intake| intake.answers.values().sum()))),
            p50,
            p95,
            p99,
            unexpected: fresh.iter().map(|(unexpected, _)| unexpected).sum(),
            unknown: fresh.iter().map(|(_, unknown)| unknown).sum(),
        };
        let totals = totals(live());
        Snapshot { at_millis, is_current: true, sample, processes, queues, totals, standing, ..Snapshot::default() }
    }

    /// Notes a state, if it is a new one. Answers how many 500s and 504s there were since the one before.
    fn note(&mut self, process: &Process) -> (u64, u64) {
        let track = self.0.entry(process.row.process_id).or_default();
        let errors = |state: &State| {
            let answers = |status| state.intake.as_ref().map_or(0, |intake| count_of(&intake.answers, status));
            (answers("500"), answers("504"))
        };
        let before = track.back().map(|(_, state)| errors(state));
        if track.back().is_some_and(|(seen, _)| *seen >= process.row.seen_at) {
            return (0, 0);
        }
        track.push_back((process.row.seen_at, process.state.clone()));
        while track.len() > 2 && track[1].0 <= process.row.seen_at - WINDOW {
            track.pop_front();
        }
        let now = errors(&process.state);
        before.map_or((0, 0), |before| (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1)))
    }

    /// The first and the last state of each process in the window, and the seconds between them.
    fn spans(&self) -> impl Iterator<Item = (&State, &State, f64)> {
        self.0.values().filter_map(|track| {
            let ((from, first), (to, last)) = (track.front()?, track.back()?);
            let seconds = (*to - *from).as_seconds_f64();
            (seconds > 0.0).then_some((first, last, seconds))
        })
    }

    /// How fast a count grows, a second, in all processes together.
    fn rate(&self, count: impl Fn(&State) -> u64) -> f64 {
        self.spans().map(|(first, last, seconds)| count(last).saturating_sub(count(first)) as f64 / seconds).sum()
    }

    /// In milliseconds.
    fn percentiles(&self, shares: [f64; 3]) -> [Option<f64>; 3] {
        let mut sum = Buckets::default();
        for (first, last, _) in self.spans() {
            if let (Some(first), Some(last)) = (&first.intake, &last.intake) {
                add_difference(&mut sum, &first.duration, &last.duration);
            }
        }
        shares.map(|share| percentile(&sum, share).map(|seconds| seconds * 1000.0))
    }
}

/// A count by its label's value.
pub fn count_of(counts: &Counts, value: &str) -> u64 {
    counts.get(value).copied().unwrap_or(0)
}

fn add(sum: &mut Counts, counts: &Counts) {
    for (value, count) in counts {
        *sum.entry(value.clone()).or_default() += count;
    }
}

/// Adds what came into a histogram between two readings. One of another release, with other bounds, is left out.
fn add_difference(sum: &mut Buckets, first: &Buckets, last: &Buckets) {
    if sum.bounds.is_empty() {
        *sum = Buckets { bounds: last.bounds.clone(), counts: vec![0; last.bounds.len()], ..Buckets::default() };
    }
    if [&first.bounds, &last.bounds].iter().any(|bounds| **bounds != sum.bounds) {
        return;
    }
    for ((sum, first), last) in sum.counts.iter_mut().zip(&first.counts).zip(&last.counts) {
        *sum += last.saturating_sub(*first);
    }
    sum.count += last.count.saturating_sub(first.count);
}

/// The value that this share of a histogram does not exceed, taken evenly within its bucket; of what lies beyond the last
/// bound, that bound. `None` for an empty one.
fn percentile(buckets: &Buckets, share: f64) -> Option<f64> {
    let rank = share * buckets.count as f64;
    if buckets.count == 0 {
        return None;
    }
    let (mut lower, mut below) = (0.0, 0);
    for (&bound, &count) in buckets.bounds.iter().zip(&buckets.counts) {
        if count as f64 >= rank && count > below {
            return Some(lower + (bound - lower) * ((rank - below as f64) / (count - below) as f64).max(0.0));
        }
        (lower, below) = (bound, count);
    }
    buckets.bounds.last().copied()
}

/// The work queues: what the broker says of them to whoever was heard of last, and what all workers hold.
fn queues(processes: &[Process], dead_letters: &str) -> Vec<Queue> {
    let live: Vec<&Process> = processes.iter().filter(|process| process.is_live()).collect();
    let seen = live.iter().filter(|process| !process.state.queues.is_empty()).max_by_key(|process| {
        // Workers know more queues than an intake, if there once were more partitions.
        (process.state.queues.len(), process.row.seen_at)
    });
    let mut held = BTreeMap::<&str, u64>::new();
    for (queue, count) in
        live.iter().filter_map(|process| process.state.worker.as_ref()).flat_map(|worker| &worker.unacknowledged)
    {
        *held.entry(queue).or_default() += count;
    }
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

fn totals<'a>(states: impl Iterator<Item = &'a State>) -> Totals {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(counts: [u64; 3], count: u64) -> Buckets {
        Buckets { bounds: vec![0.01, 0.1, 1.0], counts: counts.to_vec(), count, sum: 0.0 }
    }

    #[test]
    fn a_percentile_lies_in_the_bucket_that_its_rank_falls_into() {
        assert_eq!(percentile(&buckets([0, 0, 0], 0), 0.5), None);
        assert_eq!(percentile(&buckets([100, 100, 100], 100), 0.5), Some(0.005));
        let mixed = buckets([50, 90, 100], 100);
        assert_eq!(percentile(&mixed, 0.5), Some(0.01));
        assert!((percentile(&mixed, 0.7).unwrap() - 0.055).abs() < 1e-9);
        assert!((percentile(&mixed, 0.99).unwrap() - 0.91).abs() < 1e-9);
        assert_eq!(percentile(&buckets([0, 0, 0], 7), 0.5), Some(1.0), "beyond the last bound");
    }

    #[test]
    fn buckets_of_several_processes_are_added_up_before_a_percentile_is_read() {
        let mut sum = Buckets::default();
        add_difference(&mut sum, &buckets([10, 10, 10], 10), &buckets([60, 60, 60], 60));
        add_difference(&mut sum, &buckets([0, 0, 0], 0), &buckets([0, 0, 50], 50));
        add_difference(
            &mut sum,
            &Buckets::default(),
            &Buckets { bounds: vec![5.0], counts: vec![9], count: 9, sum: 0.0 },
        );
        assert_eq!((sum.counts.clone(), sum.count), (vec![50, 50, 100], 100));
        assert_eq!(percentile(&sum, 0.5), Some(0.01));
        assert!(percentile(&sum, 0.95).unwrap() > 0.1);
    }

    fn process(id: u128, seen: i64, allocated: u64, unexpected: u64) -> Process {
        let mut state =
            State { intake: Some(Default::default()), worker: Some(Default::default()), ..State::default() };
        state.worker.as_mut().unwrap().settled.insert("allocated".to_owned(), allocated);
        state.intake.as_mut().unwrap().answers.insert("500".to_owned(), unexpected);
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seen);
        let row = Present {
            process_id: Uuid::from_u128(id),
            kind: "serve".to_owned(),
            host: "here".to_owned(),
            pid: 1,
            version: "0".to_owned(),
            started_at: OffsetDateTime::UNIX_EPOCH,
            seen_at: at,
            unseen_millis: 0,
            state: String::new(),
        };
        Process { row, state }
    }

    #[test]
    fn rates_are_of_the_last_seconds_of_each_process_and_a_restart_counts_nothing_twice() {
        let (mut tracks, topology) = (Tracks::default(), Topology::new("t", 1));
        let mut take = |processes| tracks.snapshot(0, processes, Standing::default(), &topology).sample;
        assert_eq!(take(vec![process(1, 0, 1_000, 5)]).allocated, Some(0.0), "nothing to compare with yet");
        assert_eq!(take(vec![process(1, 2, 1_200, 5), process(2, 2, 50, 0)]).allocated, Some(100.0));
        let both = take(vec![process(1, 4, 1_400, 7), process(2, 4, 100, 1)]);
        assert_eq!((both.allocated, both.unexpected), (Some(125.0), 3));
        // The same rows again: nothing new was heard, and nothing is counted again.
        let same = take(vec![process(1, 4, 1_400, 7), process(2, 4, 100, 1)]);
        assert_eq!((same.allocated, same.unexpected), (Some(125.0), 0));
        // The first is gone, a third has come with a past of its own.
        let next = take(vec![process(2, 5, 100, 1), process(3, 5, 9_999, 9)]);
        assert_eq!((next.allocated.map(f64::round), next.unexpected), (Some(17.0), 0));
    }
}
