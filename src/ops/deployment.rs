//! The state of the whole deployment, read from Postgres: its processes, what they hold of its queues, open dead
//! letters, the last audit, and whether workers are paused. The command line and the console both use this.

use crate::ledger::{Cause, Millis};
use crate::postgres::audits::{self, Audited};
use crate::postgres::deployments::{self, Paused};
use crate::postgres::processes::{self, Present};
use crate::postgres::{Error, PgConnection, dead_letters};
use crate::wire::operator::{self, Queue};
use crate::wire::state::State;
use std::collections::HashMap;

/// The age of its last report, in milliseconds, from which a process counts as silent. Processes report every second,
/// so a silent one has ended or cannot reach the database.
pub const SILENCE_MILLIS: i64 = 5_000;

/// One process of the deployment.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its row in the list of processes.
    pub row: Present,
    /// The state that the process reported, parsed from its row.
    pub state: State,
}

/// All processes that have a row, oldest first.
pub async fn find_processes(connection: &mut PgConnection) -> Result<Vec<Process>, Error> {
    let present = processes::find_present(connection).await?;
    // Processes of other releases may report other fields. What cannot be parsed becomes an empty state.
    let read = |row: Present| Process { state: serde_json::from_str(&row.state).unwrap_or_default(), row };
    Ok(present.into_iter().map(read).collect())
}

impl Process {
    /// Whether its last report is so old that it may no longer be true.
    pub fn is_silent(&self) -> bool {
        self.row.unseen_millis >= SILENCE_MILLIS
    }

    /// How far its clock is ahead of the database's, in milliseconds.
    pub fn clock_ahead(&self) -> Millis {
        let seen = i64::try_from(self.row.seen_at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        self.state.clock_millis.saturating_sub(seen)
    }

    /// Its condition in a few words, for the command line.
    pub fn in_words(&self) -> String {
        if self.is_silent() {
            return "silent".to_owned();
        }
        let found = [self.state.impediments.clone(), self.state.shards_away()].concat();
        if found.is_empty() { "works".to_owned() } else { found.join(", ") }
    }
}

impl From<Process> for operator::Process {
    fn from(process: Process) -> Self {
        let is_silent = process.is_silent();
        let Process { row, state } = process;
        Self {
            process_id: row.process_id,
            kind: row.kind,
            host: row.host,
            pid: row.pid,
            version: row.version,
            started_at: row.started_at,
            seen_at: row.seen_at,
            is_silent,
            state,
        }
    }
}

/// Joins what the broker says of queues with what the workers hold. `depths`: messages that no worker has taken, and
/// consumers, by queue; `None` if the broker has no such queue.
pub fn join_queues<'a>(
    depths: impl IntoIterator<Item = (String, Option<(u32, u32)>)>,
    processes: impl Iterator<Item = &'a Process>,
) -> Vec<Queue> {
    let mut held = HashMap::<&str, u64>::new();
    let workers = processes.filter_map(|process| process.state.worker.as_ref());
    for (queue, count) in workers.flat_map(|worker| &worker.unacknowledged) {
        *held.entry(queue.as_str()).or_default() += count;
    }
    let join = |(name, depth): (String, Option<(u32, u32)>)| Queue {
        ready: depth.map(|(ready, _)| ready),
        unacknowledged: held.get(name.as_str()).copied().unwrap_or(0),
        consumers: depth.map(|(_, consumers)| consumers),
        name,
    };
    depths.into_iter().map(join).collect()
}

/// The work queues. The broker's counts are those that one live process reported: the one that knows most queues and,
/// of those, the one that reported last. `dead_letters`: the name of the dead-letter queue, which is left out.
pub fn queues(processes: &[Process], dead_letters: &str) -> Vec<Queue> {
    let live: Vec<&Process> = processes.iter().filter(|process| !process.is_silent()).collect();
    let seen = live.iter().filter(|process| !process.state.queues.is_empty()).max_by_key(|process| {
        // A process that has just heard of a new shard knows more queues than the others.
        (process.state.queues.len(), process.row.seen_at)
    });
    let reported =
        seen.into_iter().flat_map(|process| &process.state.queues).filter(|queue| queue.name != dead_letters);
    let depths = reported.map(|queue| (queue.name.clone(), Some((queue.ready, queue.consumers))));
    join_queues(depths, live.iter().copied())
}

/// What concerns the whole deployment and no single process.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The number of open dead letters, by cause.
    pub dead_letters: Vec<(Cause, i64)>,
    /// The last audit, if there was one.
    pub audit: Option<Audited>,
    /// Who paused the workers and when, while they are paused.
    pub paused: Option<Paused>,
}

impl Standing {
    /// The number of open dead letters of all causes.
    pub fn open_dead_letters(&self) -> i64 {
        self.dead_letters.iter().map(|(_, count)| count).sum()
    }
}

/// Reads the standing of the deployment with this queue prefix.
pub async fn find_standing(connection: &mut PgConnection, prefix: &str) -> Result<Standing, Error> {
    Ok(Standing {
        dead_letters: dead_letters::count_open(connection).await?,
        audit: audits::find_last_audits(connection).await?,
        paused: deployments::find_pause(connection, prefix).await?,
    })
}

impl From<Paused> for operator::Paused {
    fn from(paused: Paused) -> Self {
        Self { paused_at: paused.paused_at, paused_by: paused.paused_by }
    }
}
