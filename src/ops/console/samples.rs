//! Takes a snapshot of the whole deployment every second, and keeps 15 minutes of samples in memory. Everything is read
//! from the rows that the processes write.

use super::findings;
use super::rates::Tracks;
use super::snapshot::{Sample, Snapshot};
use crate::clock;
use crate::ops::deployment::{self, Process, Standing};
use crate::postgres::{Error, PgConnection, Postgres, Session};
use crate::rabbit::topology::Topology;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(1);
/// How many samples are kept: 15 minutes.
pub(super) const KEPT: usize = 900;
/// How long a process that has ended is still shown, in milliseconds: one hour.
const SHOWN_MILLIS: i64 = 3_600_000;

/// All samples, as one list for each column: the format that the charts need.
#[derive(Debug, Default, Serialize)]
pub(super) struct History {
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

/// The samples that this process has taken, and the latest snapshot.
#[derive(Default)]
pub(super) struct Samples {
    kept: Mutex<VecDeque<Sample>>,
    latest: watch::Sender<Arc<Snapshot>>,
}

impl Samples {
    /// The latest snapshot.
    pub(super) fn latest(&self) -> Arc<Snapshot> {
        self.latest.borrow().clone()
    }

    /// A receiver that is notified of each new snapshot.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }

    /// All kept samples.
    pub(super) fn history(&self) -> History {
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

    /// Takes a snapshot every second until `stop`.
    pub(super) async fn run(&self, postgres: &Postgres, topology: &Topology, stop: CancellationToken) {
        let (mut session, mut tracks) = (postgres.session(), Tracks::default());
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! { _ = ticks.tick() => {}, () = stop.cancelled() => return }
            let looked = look(&mut session, topology.prefix()).await;
            if let Err(error) = &looked {
                tracing::debug!(%error, "no snapshot for the console: postgres failed");
            }
            self.take(looked.ok(), &mut tracks, topology);
        }
    }

    fn take(&self, looked: Option<(Vec<Process>, Standing)>, tracks: &mut Tracks, topology: &Topology) {
        let at_millis = clock::now_millis();
        let mut snapshot = match looked {
            Some((processes, standing)) => tracks.snapshot(at_millis, processes, standing, topology),
            // The last snapshot again, marked as not current.
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

/// Reads the states of the processes and the standing of the deployment.
async fn look(session: &mut Session, prefix: &str) -> Result<(Vec<Process>, Standing), Error> {
    let looking = async |connection: &mut PgConnection| {
        let processes = deployment::find_processes(connection).await?;
        Ok((processes, deployment::find_standing(connection, prefix).await?))
    };
    let (mut processes, standing) = session.read(looking).await?;
    processes.retain(|process| process.row.unseen_millis < SHOWN_MILLIS);
    Ok((processes, standing))
}
