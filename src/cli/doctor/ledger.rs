//! The doctor's checks of Postgres: reachable, durable, with the schema, rights, free connections and clock that the
//! program needs.

use super::{failure, ok, warning};
use crate::clock;
use crate::postgres::inspection::{self, Server, Standby};
use crate::postgres::roles::{self, Role, Standing};
use crate::postgres::{Error, PgConnection, Shards, citus, shards};
use crate::wire::operator::Check;

/// The oldest Postgres version that the program is tested with.
const OLDEST: i32 = 150_000;
/// The difference of two clocks that is a warning, in milliseconds: half of what workers tolerate by default.
const CLOCK_MILLIS: i64 = 500;
/// The number of free connections below which there is a warning. An intake opens about a dozen, a worker fewer, so
/// with fewer than this another process may not get all that it needs.
const FEW_CONNECTIONS: i64 = 15;

/// All checks of the database. If it cannot be reached, there is only that failure.
pub(super) async fn check(shards: &Shards, needed: Option<Role>) -> Vec<Check> {
    let postgres = shards.directory();
    // Refuses a read-only server and a pooler that shares sessions. Nothing else can be checked over those.
    let writable = postgres.refuse_shared_sessions().await;
    if let Err(error @ Error::Refused(_)) = &writable {
        return vec![unreachable(error)];
    }
    let before = clock::now_millis();
    let reading = async |connection: &mut PgConnection| {
        Ok((inspection::read_server(&mut *connection).await?, inspection::find_standbys(connection).await?))
    };
    let (server, following) = match postgres.session().read(reading).await {
        Ok(found) => found,
        Err(error) => return vec![unreachable(&error)],
    };
    let (now, took) = (clock::now_millis(), clock::now_millis() - before);
    let mut checks = vec![
        ok("postgres", format!("{} answers, connecting took {took} ms", server.version)),
        version(&server),
        durability(&server),
        connections(&server),
        postgres_clock(&server, now),
    ];
    checks.extend(standbys(&server, &following));
    checks.extend(writable.err().iter().map(unreachable));
    let is_citus = postgres.session().read(citus::find).await;
    if let Ok(true) = is_citus {
        checks.push(nodes(shards).await);
    }
    checks.extend(schema(shards, is_citus.unwrap_or_default(), needed).await);
    checks
}

/// Citus: a statement is executed on its node, with the settings of that node.
async fn nodes(ledger: &Shards) -> Check {
    let fix = "start the node, or switch these settings on there: otherwise a committed debit may be lost in a crash";
    match ledger.directory().session().read(citus::find_careless).await {
        Ok(careless) if careless.is_empty() => ok("nodes", "all answer, and keep what they commit"),
        Ok(careless) => failure("nodes", careless.join("; "), fix),
        Err(error) => failure("nodes", error.to_string(), fix),
    }
}

fn unreachable(error: &Error) -> Check {
    let fix = match error {
        Error::Refused(_) => {
            "fix what the error names: the password, the rights, the server's settings, or a pooler or proxy before it"
        }
        Error::ReadOnly(_) => "point DATABASE_URL at a server that accepts writes",
        Error::Full(_) => "free disk space on the server",
        Error::Away(_)
        | Error::Transient(_)
        | Error::TooSlow(_)
        | Error::Unknown(_)
        | Error::Constraint { .. }
        | Error::Data(_)
        | Error::Fatal(_) => "start the server, or correct DATABASE_URL",
    };
    failure("postgres", error.to_string(), fix)
}

fn version(server: &Server) -> Check {
    if server.version_number < OLDEST {
        return warning("postgres", format!("{} is older than 15", server.version), "upgrade the server");
    }
    ok("postgres", "the program is tested with this version")
}

fn durability(server: &Server) -> Check {
    let found = format!(
        "fsync {}, full_page_writes {}, synchronous_commit {}",
        server.fsync, server.full_page_writes, server.synchronous_commit
    );
    if server.fsync == "on" && server.full_page_writes == "on" && server.synchronous_commit != "off" {
        return ok("durability", found);
    }
    failure("durability", found, "switch all three on: otherwise a committed debit may be lost in a crash")
}

fn standbys(server: &Server, following: &[Standby]) -> Vec<Check> {
    let names = |states: &[&str]| {
        let is_in = |state: &String| states.contains(&state.as_str());
        let found = following.iter().filter(|one| one.sync_state.as_ref().is_some_and(is_in));
        found.map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (waited_for, confirming) = (&server.synchronous_standby_names, names(&["sync", "quorum"]));
    let is_hidden = following.iter().any(|one| one.sync_state.is_none());
    let mut checks = vec![match (waited_for.is_empty(), confirming.is_empty()) {
        (true, _) if following.is_empty() => ok("standbys", "none"),
        (true, _) if is_hidden => {
            let found = format!("{} follow, and confirm no commit", following.len());
            warning("standbys", found, NEVER_PROMOTE)
        }
        (true, _) => ok("standbys", "none confirms commits"),
        (false, false) => ok("standbys", format!("{confirming} confirm commits")),
        (false, true) if is_hidden => {
            ok("standbys", format!("commits wait for {waited_for}; which of them are there, only pg_monitor may see"))
        }
        (false, true) => {
            let fix = "start the standby, or shorten synchronous_standby_names: until then nothing is decided";
            failure("standbys", format!("commits wait for {waited_for}, and none of them is there"), fix)
        }
    }];
    let asynchronous = names(&["async"]);
    if !asynchronous.is_empty() {
        checks.push(warning("standbys", format!("{asynchronous} confirm no commit"), NEVER_PROMOTE));
    }
    checks
}

/// What to do about standbys that confirm no commit.
const NEVER_PROMOTE: &str =
    "never promote them, as they may lack commits that were answered; or name them in synchronous_standby_names";

fn connections(server: &Server) -> Check {
    let found = format!("{} connections can still be opened", server.connections_left);
    if server.connections_left < FEW_CONNECTIONS {
        return warning("connections", found, "raise max_connections, or lower EARMARK_READ_CONNECTIONS");
    }
    ok("connections", found)
}

fn postgres_clock(server: &Server, now: i64) -> Check {
    let clock = time("clock", "ours", server.clock.unix_timestamp_nanos() / 1_000_000 - i128::from(now));
    Check { found: format!("postgres: {}", clock.found), ..clock }
}

/// Checks a clock that is `ahead` milliseconds ahead of the clock that `of` names.
pub(super) fn time(check: &'static str, of: &str, ahead: i128) -> Check {
    let found = format!("{} ms {} {of}", ahead.abs(), if ahead < 0 { "behind" } else { "ahead of" });
    if ahead.abs() > i128::from(CLOCK_MILLIS) {
        return warning(check, found, "synchronise the clocks (NTP): with wrong clocks requests are voided");
    }
    ok(check, found)
}

async fn schema(ledger: &Shards, is_citus: bool, needed: Option<Role>) -> Vec<Check> {
    match shards::missing_migrations(ledger).await {
        Ok(0) => {}
        Ok(missing) => {
            let found = format!("{missing} migrations of this program are missing");
            return vec![failure("schema", found, "run `earmark migrate`")];
        }
        Err(error) => return vec![failure("schema", error.to_string(), "run the newest release of earmark")],
    }
    let mut checks = vec![ok("schema", "up to date")];
    match rights_and_guards(ledger, is_citus, needed).await {
        Ok(found) => checks.extend(found),
        Err(error) => checks.push(unreachable(&error)),
    }
    checks
}

/// Checks the rights of the user in the directory and the shards, and what guards the tables. `needed`: whose user it should be.
/// Without it, it should have the rights of the roles that it has, and all of them if nobody uses roles.
async fn rights_and_guards(ledger: &Shards, is_citus: bool, needed: Option<Role>) -> Result<Vec<Check>, Error> {
    let directory = ledger.directory();
    let standing = directory.session().read(async |connection| roles::read_standing(connection).await).await?;
    let needed = match needed {
        Some(role) => vec![role],
        None if standing.has_roles && !standing.roles.is_empty() => standing.roles.clone(),
        None => Role::ALL.to_vec(),
    };
    let (mut missing, mut unguarded) = (vec![], vec![]);
    for postgres in std::iter::once(directory).chain(ledger.known().values().map(|open| &open.postgres)) {
        let mut session = postgres.session();
        let reading = async |connection: &mut PgConnection| {
            Ok((
                inspection::find_missing_privileges(&mut *connection, &needed).await?,
                inspection::find_unguarded(connection).await?,
            ))
        };
        let (of_rights, of_guards) = session.read(reading).await?;
        missing.extend(of_rights);
        unguarded.extend(of_guards);
    }
    for open in ledger.known().values() {
        let mut session = open.postgres.session();
        if is_citus {
            unguarded.extend(session.read(citus::find_unguarded).await?);
        }
    }
    Ok([rights(&missing), guards(&unguarded)].into_iter().chain(roles_of(&standing, &needed)).collect())
}

/// Whether the user may do more than it should.
fn roles_of(standing: &Standing, needed: &[Role]) -> Vec<Check> {
    let fix = "make the roles, as docs/operations.md says, and give each program a user of its own with one of them";
    if !standing.has_roles {
        return vec![warning("roles", "one user does everything: its password is enough to move money", fix)];
    }
    let excess = standing.excess(needed);
    match excess.is_empty() {
        true => vec![ok("roles", "this user has no more rights than it needs")],
        false => excess.into_iter().map(|found| warning("roles", format!("this user: {found}"), fix)).collect(),
    }
}

fn rights(missing: &[String]) -> Check {
    if missing.is_empty() {
        return ok("permissions", "all that the program needs");
    }
    let found = format!("missing: {}", missing.join(", "));
    failure(
        "permissions",
        found,
        "GRANT them to the user in DATABASE_URL; if the roles are in use, run `earmark migrate`",
    )
}

fn guards(unguarded: &[String]) -> Check {
    if unguarded.is_empty() {
        return ok("append-only", "triggers guard decisions, deposits, audits and keys");
    }
    let found = format!("nothing guards {}", unguarded.join(" and "));
    failure("append-only", found, "ALTER TABLE … ENABLE ALWAYS TRIGGER …, then run `earmark audit`")
}
