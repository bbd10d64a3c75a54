//! The database: there, set as it must be, with our schema, our rights and our time.

use super::Check;
use crate::clock;
use crate::postgres::inspection::{self, Server};
use crate::postgres::{Error, PgConnection, Postgres};

/// The oldest Postgres that this program is tried with.
const OLDEST: i32 = 150_000;
/// How far two clocks may be apart before somebody should look: half of what workers tolerate by default.
const CLOCK_MILLIS: i64 = 500;
/// An intake takes about a dozen connections, a worker fewer: with less than this the next process may find too few.
const FEW_CONNECTIONS: i64 = 15;

pub async fn check(postgres: &Postgres) -> Vec<Check> {
    // Whether it takes writes, and whether each session is one's own: nothing else can be said of it otherwise.
    let writable = postgres.refuse_shared_sessions().await;
    if let Err(error @ Error::Refused(_)) = &writable {
        return vec![unreachable(error)];
    }
    let before = clock::now_millis();
    let server = match postgres.session().read(async |connection| inspection::read_server(connection).await).await {
        Ok(server) => server,
        Err(error) => return vec![unreachable(&error)],
    };
    let (now, took) = (clock::now_millis(), clock::now_millis() - before);
    let mut checks = vec![
        Check::ok("postgres", format!("{} answers, connecting took {took} ms", server.version)),
        version(&server),
        durability(&server),
        connections(&server),
        postgres_clock(&server, now),
    ];
    checks.extend(writable.err().iter().map(unreachable));
    checks.extend(schema(postgres).await);
    checks
}

fn unreachable(error: &Error) -> Check {
    let mend = match error {
        Error::Refused(_) => {
            "mend what it says: the password, the rights, the server's settings, or what stands in between"
        }
        Error::ReadOnly(_) => "let DATABASE_URL lead to a server that takes writes",
        Error::Full(_) => "give the server disk space",
        Error::Away(_)
        | Error::Transient(_)
        | Error::TooSlow(_)
        | Error::Unknown(_)
        | Error::Constraint { .. }
        | Error::Data(_)
        | Error::Fatal(_) => "start the server, or correct DATABASE_URL",
    };
    Check::failure("postgres", error.to_string(), mend)
}

fn version(server: &Server) -> Check {
    if server.version_number < OLDEST {
        return Check::warning("postgres", format!("{} is older than 15", server.version), "upgrade the server");
    }
    Check::ok("postgres", "the version is one that is tested")
}

fn durability(server: &Server) -> Check {
    let found = format!(
        "fsync {}, full_page_writes {}, synchronous_commit {}",
        server.fsync, server.full_page_writes, server.synchronous_commit
    );
    if server.fsync == "on" && server.full_page_writes == "on" && server.synchronous_commit != "off" {
        return Check::ok("durability", found);
    }
    Check::failure("durability", found, "switch all three on, else a committed debit may be forgotten")
}

fn connections(server: &Server) -> Check {
    let found = format!("{} connections can still be opened", server.connections_left);
    if server.connections_left < FEW_CONNECTIONS {
        return Check::warning("connections", found, "raise max_connections, or lower EARMARK_READ_CONNECTIONS");
    }
    Check::ok("connections", found)
}

fn postgres_clock(server: &Server, now: i64) -> Check {
    let clock = time("clock", "ours", server.clock.unix_timestamp_nanos() / 1_000_000 - i128::from(now));
    Check { found: format!("postgres: {}", clock.found), ..clock }
}

/// `ahead`: of whose, in milliseconds.
pub fn time(check: &'static str, of: &str, ahead: i128) -> Check {
    let found = format!("{} ms {} {of}", ahead.abs(), if ahead < 0 { "behind" } else { "ahead of" });
    if ahead.abs() > i128::from(CLOCK_MILLIS) {
        return Check::warning(check, found, "synchronise the clocks (NTP): with wrong ones requests are voided");
    }
    Check::ok(check, found)
}

async fn schema(postgres: &Postgres) -> Vec<Check> {
    match postgres.missing_migrations().await {
        Ok(0) => {}
        Ok(missing) => {
            let found = format!("{missing} migrations of this program are missing");
            return vec![Check::failure("schema", found, "run `earmark migrate`")];
        }
        Err(error) => return vec![Check::failure("schema", error.to_string(), "run the newest earmark")],
    }
    let mut checks = vec![Check::ok("schema", "up to date")];
    let looking = async |connection: &mut PgConnection| {
        Ok((inspection::find_missing_privileges(connection).await?, inspection::find_unguarded(connection).await?))
    };
    match postgres.session().read(looking).await {
        Ok((missing, unguarded)) => checks.extend([rights(&missing), guards(&unguarded)]),
        Err(error) => checks.push(unreachable(&error)),
    }
    checks
}

fn rights(missing: &[String]) -> Check {
    if missing.is_empty() {
        return Check::ok("permissions", "everything that the program does");
    }
    let found = format!("missing: {}", missing.join(", "));
    Check::failure("permissions", found, "GRANT them to the user in DATABASE_URL")
}

fn guards(unguarded: &[String]) -> Check {
    if unguarded.is_empty() {
        return Check::ok("append-only", "decisions and deposits are guarded");
    }
    let found = format!("nothing guards {}", unguarded.join(" and "));
    Check::failure("append-only", found, "ALTER TABLE … ENABLE TRIGGER …_append_only, then run `earmark audit`")
}
