//! The deployment: who runs, by which clock, and what waits for a person.

use super::Check;
use super::ledger::time;
use crate::ops::processes::{self, Running};
use crate::postgres::audits::{Audited, find_last_audit};
use crate::postgres::partitions::{Paused, find_pause};
use crate::postgres::{PgConnection, Postgres, dead_letters};
use crate::{cli, clock};

/// An audit a day is little.
const OLD_AUDIT_SECONDS: i64 = 24 * 60 * 60;

pub async fn check(postgres: &Postgres, prefix: &str) -> Vec<Check> {
    let reading = async |connection: &mut PgConnection| {
        let (paused, dead_letters) =
            (find_pause(connection, prefix).await?, dead_letters::count_open(connection).await?);
        Ok((paused, dead_letters, find_last_audit(connection).await?))
    };
    let Ok((paused, dead_letters, audited)) = postgres.session().read(reading).await else { return vec![] };
    let running = processes::list(postgres).await.unwrap_or_default();
    let heard_of: Vec<&Running> = running.iter().filter(|process| !process.is_silent).collect();
    let mut checks = vec![intakes(&heard_of), workers(&heard_of, paused.as_ref())];
    checks.extend(running.iter().filter(|process| process.is_silent).map(silent));
    checks.extend(heard_of.iter().flat_map(|process| of_one(process)));
    let waiting: i64 = dead_letters.iter().map(|(_, count)| count).sum();
    checks.push(match waiting {
        0 => Check::ok("dead letters", "none"),
        count => Check::warning("dead letters", format!("{count} wait for a person"), "`earmark dead-letters list`"),
    });
    checks.push(audit(audited.as_ref()));
    checks
}

fn intakes(running: &[&Running]) -> Check {
    match running.iter().filter(|process| process.state.intake.is_some()).count() {
        0 => Check::warning("intakes", "none runs", "start `earmark intake`"),
        count => Check::ok("intakes", format!("{count} run")),
    }
}

fn workers(running: &[&Running], paused: Option<&Paused>) -> Check {
    let is_working = |process: &&&Running| process.state.worker.as_ref().is_some_and(|worker| worker.consuming);
    let (working, asking) =
        (running.iter().filter(is_working).count(), running.iter().any(|one| one.state.intake.is_some()));
    if let Some(paused) = paused {
        let found = format!("paused by {} since {}", paused.paused_by, cli::moment(paused.paused_at));
        return Check::warning("workers", found, "`earmark workers resume`");
    }
    match working {
        0 if asking => Check::failure("workers", "none works: every request ends in 500", "start `earmark worker`"),
        0 => Check::warning("workers", "none works", "start `earmark worker`"),
        1 => Check::warning("workers", "one works, and nobody takes over when it is gone", "start a second one"),
        count => Check::ok("workers", format!("{count} work or stand by")),
    }
}

fn silent(process: &Running) -> Check {
    let found = format!("{} {} on {} is silent", process.kind, process.pid, process.host);
    Check::warning("process", found, "look whether it runs and reaches Postgres; if it was killed, all is well")
}

/// Its version, its clock, and what keeps it from working.
fn of_one(process: &Running) -> Vec<Check> {
    let name = format!("{} {} on {}", process.kind, process.pid, process.host);
    let clock = time("clock", "Postgres'", process.clock_ahead().into());
    let mut checks = vec![Check { found: format!("{name}: {}", clock.found), ..clock }];
    if process.version != env!("CARGO_PKG_VERSION") {
        let found = format!("{name} is version {}", process.version);
        checks.push(Check::warning("version", found, "let all processes be of one version, except while upgrading"));
    }
    for impediment in &process.state.impediments {
        let found = format!("{name}: {impediment}");
        checks.push(Check::warning("process", found, "see its log, and the other lines here"));
    }
    checks
}

fn audit(last: Option<&Audited>) -> Check {
    let Some(last) = last else {
        return Check::warning("books", "nobody has audited them yet", "`earmark audit`");
    };
    let found = format!("audited by {} at {}", last.audited_by, cli::moment(last.audited_at));
    if last.differences > 0 {
        let found = format!("{found}: {} differences, {} cents", last.differences, last.difference_cents);
        return Check::failure("books", found, "`earmark workers pause`, then `earmark audit` says where");
    }
    if clock::now_utc().unix_timestamp() - last.audited_at.unix_timestamp() > OLD_AUDIT_SECONDS {
        return Check::warning("books", found, "`earmark audit`, and set EARMARK_AUDIT_INTERVAL");
    }
    Check::ok("books", format!("{found}: they balance"))
}
