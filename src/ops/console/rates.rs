//! Computes rates and percentiles from the states of processes. Counts never decrease, so the difference of two states
//! of a process is exactly what happened in between. Percentiles are read from the sum of all intakes' histogram
//! buckets.

use super::snapshot::{Sample, Snapshot, count_of, totals};
use crate::ledger::SettledAs;
use crate::metrics::labels::Status;
use crate::ops::deployment::{Process, Standing, queues};
use crate::rabbit::topology::Topology;
use crate::wire::state::{Buckets, State};
use std::collections::{HashMap, VecDeque};
use time::OffsetDateTime;
use uuid::Uuid;

/// The time that rates and percentiles cover. It is several seconds because processes do not write their rows in step
/// with the samples.
const WINDOW: time::Duration = time::Duration::seconds(5);

/// The states of each process within the window, oldest first, by process id.
#[derive(Default)]
pub struct Tracks(HashMap<Uuid, VecDeque<(OffsetDateTime, State)>>);

impl Tracks {
    /// Adds the current states, and computes the snapshot. `at_millis`: now, in milliseconds since 1970.
    pub fn snapshot(
        &mut self,
        at_millis: i64,
        processes: Vec<Process>,
        standing: Standing,
        topology: &Topology,
    ) -> Snapshot {
        let fresh: Vec<(u64, u64)> = processes.iter().map(|process| self.note(process)).collect();
        self.0.retain(|id, _| processes.iter().any(|process| process.row.process_id == *id && !process.is_silent()));
        let live = || processes.iter().filter(|process| !process.is_silent()).map(|process| &process.state);
        let queues = queues(&processes, &topology.dead_letter_queue());
        let [p50, p95, p99] = self.percentiles([0.5, 0.95, 0.99]);
        let has_intake = live().any(|state| state.intake.is_some());
        let oldest = live().filter_map(|state| state.intake.as_ref()?.oldest_millis).max().unwrap_or(0);
        let sample = Sample {
            at: at_millis / 1000,
            ready: (!queues.is_empty()).then(|| queues.iter().map(|queue| u64::from(queue.ready.unwrap_or(0))).sum()),
            unacknowledged: (!queues.is_empty()).then(|| queues.iter().map(|queue| queue.unacknowledged).sum()),
            oldest: has_intake.then_some(oldest as f64 / 1000.0),
            allocated: Some(self.rate(|state| {
                state.worker.as_ref().map_or(0, |worker| count_of(&worker.settled, SettledAs::Allocated.as_str()))
            })),
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

    /// Adds a process's state if it is newer than the last. Returns the numbers of 500s and 504s since the last.
    fn note(&mut self, process: &Process) -> (u64, u64) {
        let track = self.0.entry(process.row.process_id).or_default();
        let errors = |state: &State| {
            let answers = |status| state.intake.as_ref().map_or(0, |intake| count_of(&intake.answers, status));
            (answers(Status::Unexpected.as_str()), answers(Status::Unknown.as_str()))
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

    /// For each process the first and the last state in the window, and the seconds between them.
    fn spans(&self) -> impl Iterator<Item = (&State, &State, f64)> {
        self.0.values().filter_map(|track| {
            let ((from, first), (to, last)) = (track.front()?, track.back()?);
            let seconds = (*to - *from).as_seconds_f64();
            (seconds > 0.0).then_some((first, last, seconds))
        })
    }

    /// The growth of a count per second, summed over all processes.
    fn rate(&self, count: impl Fn(&State) -> u64) -> f64 {
        self.spans().map(|(first, last, seconds)| count(last).saturating_sub(count(first)) as f64 / seconds).sum()
    }

    /// Percentiles of the time from arrival to answer, in milliseconds. `shares`: 0.5 for the median.
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

/// Adds what a histogram gained between two readings to `sum`. A histogram with other bounds, of another release, is
/// left out.
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

/// The percentile of a histogram: the value that a `share` of its values does not exceed. Interpolates linearly within
/// a bucket. Beyond the last bound it is that bound. `None` if the histogram is empty.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::processes::Present;

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
        let (mut tracks, topology) = (Tracks::default(), Topology::new("t"));
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
