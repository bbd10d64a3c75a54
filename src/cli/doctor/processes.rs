//! The doctor's checks of the deployment: running processes, their clocks and versions, dead letters, and the last
//! audit.

use super::ledger::time;
use super::{failure, ok, warning};
use crate::ops::deployment::{self, Process};
use crate::postgres::audits::Audited;
use crate::postgres::deployments::Paused;
use crate::postgres::webhooks::{self, Counts};
use crate::postgres::{PgConnection, Shards};
use crate::wire::operator::Check;
use crate::wire::state::RelayState;
use crate::{cli, clock};

/// The age of the last audit, in seconds, from which it is a warning: one day.
const OLD_AUDIT_SECONDS: i64 = 24 * 60 * 60;

/// The age of the oldest event that nobody has tried to deliver, in milliseconds, from which it is a warning. A relay tries it
/// within a second.
const OLD_EVENT_MILLIS: i64 = 60_000;

/// All checks of the deployment; empty if the database cannot be read, which another check reports.
pub(super) async fn check(shards: &Shards, prefix: &str) -> Vec<Check> {
    let postgres = shards.directory();
    let reading = async |connection: &mut PgConnection| {
        Ok((deployment::find_processes(connection).await?, deployment::find_standing(connection, prefix).await?))
    };
    let Ok((running, standing)) = postgres.session().read(reading).await else { return vec![] };
    let heard_of: Vec<&Process> = running.iter().filter(|process| !process.is_silent()).collect();
    let mut checks = vec![intakes(&heard_of), workers(&heard_of, standing.paused.as_ref())];
    checks.extend(relays(&heard_of, shards).await);
    checks.extend(running.iter().filter(|process| process.is_silent()).map(silent));
    checks.extend(heard_of.iter().flat_map(|process| of_one(process)));
    checks.push(match standing.open_dead_letters() {
        0 => ok("dead letters", "none"),
        count => {
            warning("dead letters", format!("{count} wait for a person"), "look at them: `earmark dead-letters list`")
        }
    });
    checks.push(audit(standing.audit.as_ref()));
    checks
}

fn intakes(running: &[&Process]) -> Check {
    match running.iter().filter(|process| process.state.intake.is_some()).count() {
        0 => warning("intakes", "none runs", "start `earmark intake`"),
        count => ok("intakes", format!("{count} run")),
    }
}

fn workers(running: &[&Process], paused: Option<&Paused>) -> Check {
    let is_working = |process: &&&Process| process.state.worker.as_ref().is_some_and(|worker| worker.consuming);
    let (working, asking) =
        (running.iter().filter(is_working).count(), running.iter().any(|one| one.state.intake.is_some()));
    if let Some(paused) = paused {
        let found = format!("paused by {} since {}", paused.paused_by, cli::moment(paused.paused_at));
        return warning("workers", found, "run `earmark workers resume`");
    }
    match working {
        0 if asking => failure("workers", "none works: every request ends in 500", "start `earmark worker`"),
        0 => warning("workers", "none works", "start `earmark worker`"),
        1 => warning("workers", "only one works: no other takes over when it ends", "start a second one"),
        count => ok("workers", format!("{count} work or stand by")),
    }
}

/// What relays do, or should. Each of them counts the webhooks of the whole deployment. Without relays they are counted here:
/// where there are none, no relay is needed.
async fn relays(running: &[&Process], shards: &Shards) -> Vec<Check> {
    let states: Vec<&RelayState> = running.iter().filter_map(|process| process.state.relay.as_ref()).collect();
    let Some(of_one) = states.first() else {
        let mut counts = Counts::default();
        for open in shards.known().values() {
            if let Ok(of_shard) = open.postgres.session().read(webhooks::count_all).await {
                counts.add(of_shard);
            }
        }
        let enabled = counts.sound + counts.failing;
        let found = format!("none runs: nothing is delivered to {enabled} webhooks");
        return if enabled == 0 { vec![] } else { vec![warning("relays", found, "start `earmark relay`")] };
    };
    let found = format!(
        "{} run; of the webhooks {} work, {} fail, {} are disabled",
        states.len(),
        of_one.sound,
        of_one.failing,
        of_one.disabled
    );
    let mut checks = vec![match of_one.failing > of_one.sound {
        true => warning("relays", found, "see what came back: `earmark webhook deliveries`, as the runbook says"),
        false => ok("relays", found),
    }];
    if of_one.oldest_millis > OLD_EVENT_MILLIS {
        let found = format!("an event waits for its webhook since {} s", of_one.oldest_millis / 1000);
        checks.push(warning("relays", found, "start another relay, or give each more places (EARMARK_RELAY_PLACES)"));
    }
    if states.iter().any(|state| state.exchange_up == Some(false)) {
        let found = "a relay cannot publish events to the exchange";
        checks.push(warning("relays", found, "see its log, and whether its user may write to the exchange"));
    }
    checks
}

fn silent(process: &Process) -> Check {
    let found = format!("{} {} on {} is silent", process.row.kind, process.row.pid, process.row.host);
    warning("process", found, "check whether it runs and reaches Postgres; if it was killed on purpose, all is well")
}

/// Checks one process: its clock, its version, and what keeps it from working.
fn of_one(process: &Process) -> Vec<Check> {
    let name = format!("{} {} on {}", process.row.kind, process.row.pid, process.row.host);
    let clock = time("clock", "Postgres'", process.clock_ahead().into());
    let mut checks = vec![Check { found: format!("{name}: {}", clock.found), ..clock }];
    if process.row.version != env!("CARGO_PKG_VERSION") {
        let found = format!("{name} is version {}", process.row.version);
        checks.push(warning("version", found, "run all processes in the same version, except during an upgrade"));
    }
    for impediment in &process.state.impediments {
        let found = format!("{name}: {impediment}");
        checks.push(warning("process", found, "see its log, and the other lines here"));
    }
    for away in process.state.shards_away() {
        let found = format!("{name}: {away}: requests of its businesses are refused");
        checks.push(failure("shard", found, "see the log of the process, and whether the shard's server runs"));
    }
    checks
}

fn audit(last: Option<&Audited>) -> Check {
    let Some(last) = last else {
        return warning("books", "nobody has audited them yet", "run `earmark audit`");
    };
    let found = format!("audited by {} at {}", last.audited_by, cli::moment(last.audited_at));
    if last.differences > 0 {
        let found = format!("{found}: {} differences, {} cents", last.differences, last.difference_cents);
        return failure("books", found, "run `earmark workers pause`, then `earmark audit`, which says where");
    }
    if clock::now_utc().unix_timestamp() - last.audited_at.unix_timestamp() > OLD_AUDIT_SECONDS {
        return warning("books", found, "run `earmark audit`, and set EARMARK_AUDIT_INTERVAL");
    }
    ok("books", format!("{found}: they balance"))
}
