//! The heartbeat of a process: every second it writes its state into its row of `processes`, which every console and
//! command reads. It also counts open dead letters for the metrics.

use super::state::Describe;
use crate::metrics::METRICS;
use crate::postgres::processes::{self, Presence};
use crate::postgres::{Error, PgConnection, Postgres, Session, dead_letters};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(1);
/// The number of rounds between two counts of dead letters: 5 s.
const ROUNDS_BETWEEN_COUNTS: u64 = 5;
/// The number of rounds between two removals of rows of processes that have not reported for a day: 1 h.
const ROUNDS_BETWEEN_REMOVALS: u64 = 3600;

/// Writes the process's row every second until `stop`, then removes it. A failed write is only logged: the row's age
/// then shows that the process cannot reach Postgres. The task has a connection of its own, so it does not compete with
/// requests.
pub async fn keep(postgres: Postgres, presence: Presence, describe: Describe, stop: CancellationToken) {
    let mut session = postgres.session();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0_u64.. {
        tokio::select! { _ = ticks.tick() => {}, () = stop.cancelled() => break }
        if let Err(error) = write(&mut session, &presence, &describe, round).await {
            tracing::debug!(%error, "process row not written");
        }
    }
    let removing = async |connection: &mut _| processes::remove_presence(connection, presence.process_id).await;
    if let Err(error) = session.write(removing).await {
        tracing::debug!(%error, "process row not removed");
    }
}

async fn write(session: &mut Session, presence: &Presence, describe: &Describe, round: u64) -> Result<(), Error> {
    let state = serde_json::to_string(&describe()).unwrap_or_default();
    let writing = async |connection: &mut _| {
        processes::write_presence(connection, presence, &state).await?;
        if round.is_multiple_of(ROUNDS_BETWEEN_COUNTS) {
            count_dead_letters(connection).await?;
        }
        if round.is_multiple_of(ROUNDS_BETWEEN_REMOVALS) { processes::remove_unseen(connection).await } else { Ok(()) }
    };
    session.write(writing).await
}

async fn count_dead_letters(connection: &mut PgConnection) -> Result<(), Error> {
    let open = dead_letters::count_open(connection).await?;
    METRICS.dead_letters_open.set(open.iter().map(|(_, count)| count).sum());
    Ok(())
}
