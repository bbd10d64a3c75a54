//! `earmark doctor`: checks settings, servers, queues, clocks and processes. It prints a line for each check, and how
//! to fix what is wrong.

mod broker;
mod ledger;
mod processes;

use super::print_json;
use crate::config::Process;
use crate::ledger::ShardId;
use crate::postgres::roles::Role;
use crate::rabbit::management::Management;
use crate::rabbit::topology::Part;
use crate::wire::operator::{Check, Doctor, Level};
use anyhow::anyhow;
use clap::{Args, ValueEnum};
use std::process::ExitCode;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    process: Process,
    /// RabbitMQ's management API: `http://user:password@host:port`. With it the doctor also says on which nodes each queue
    /// is and which leads it, as AMQP does not tell. The user needs the tag `monitoring`
    #[arg(long, env = "RABBITMQ_MANAGEMENT_URL", hide_env_values = true)]
    management_url: Option<String>,
    /// Whose users `AMQP_URL` and `DATABASE_URL` name. With it the doctor also checks that they may do no more, and no less, than
    /// such a process needs
    #[arg(long = "as", value_enum)]
    role: Option<ProcessRole>,
    /// Print one line of JSON instead of text
    #[arg(long)]
    json: bool,
}

/// A kind of process that may have a user of its own at the broker and in Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProcessRole {
    Intake,
    Worker,
    Relay,
}

impl ProcessRole {
    fn in_broker(self) -> Part {
        match self {
            Self::Intake => Part::Intake,
            Self::Worker => Part::Worker,
            Self::Relay => Part::Relay,
        }
    }

    fn in_postgres(self) -> Role {
        match self {
            Self::Intake => Role::Intake,
            Self::Worker => Role::Worker,
            Self::Relay => Role::Relay,
        }
    }
}

fn ok(check: &'static str, found: impl Into<String>) -> Check {
    Check { check, level: Level::Ok, found: found.into(), fix: None }
}

fn warning(check: &'static str, found: impl Into<String>, fix: &'static str) -> Check {
    Check { check, level: Level::Warning, found: found.into(), fix: Some(fix) }
}

fn failure(check: &'static str, found: impl Into<String>, fix: &'static str) -> Check {
    Check { check, level: Level::Failure, found: found.into(), fix: Some(fix) }
}

impl Arguments {
    /// The way to the management API. An empty URL counts as not set.
    fn management(&self) -> anyhow::Result<Option<Management>> {
        let url = self.management_url.as_deref().filter(|url| !url.is_empty());
        url.map(Management::parse).transpose().map_err(|error| anyhow!("RABBITMQ_MANAGEMENT_URL {error}"))
    }
}

/// Runs and prints all checks. Returns exit code 1 if one fails.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let management = arguments.management();
    let process = &arguments.process;
    let mut checks = settings(process, management.as_ref().err());
    let management = management.ok().flatten();
    // Settings that cannot be parsed are reported by `settings`. The checks that need them are skipped.
    if let (Ok(shards), Ok(prefix)) = (process.shards(1), process.queue_prefix()) {
        checks.extend(ledger::check(&shards, arguments.role.map(ProcessRole::in_postgres)).await);
        if let (Ok(broker), Ok(topology)) = (process.broker(), process.topology()) {
            let topology = match arguments.role {
                Some(role) => topology.declared_by_others().seen_by(vec![role.in_broker()]),
                None => topology,
            };
            // If the directory cannot be read, `ledger` has said so, and the first shard's queue is looked at.
            let known = shards.numbers();
            let known = if known.is_empty() { vec![ShardId::FIRST.number()] } else { known };
            checks.extend(broker::check(&broker, management.as_ref(), &known, &topology, arguments.role).await);
        }
        checks.extend(processes::check(&shards, prefix).await);
    }
    let failed = checks.iter().any(|check| check.level == Level::Failure);
    if arguments.json {
        print_json(&Doctor { ok: !failed, checks })?;
    } else {
        checks.iter().for_each(print);
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Checks the settings. `of_management`: what is wrong with that one.
fn settings(process: &Process, of_management: Option<&anyhow::Error>) -> Vec<Check> {
    let results = [
        process.check(),
        process.secret().map(drop),
        process.keys().map(drop),
        process.queue_prefix().map(drop),
        process.broker().map(drop),
        process.shards(1).map(drop),
    ];
    let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    let said = errors.iter().chain(of_management).map(|error| format!("{error:#}"));
    let failures: Vec<Check> = said.map(|error| failure("settings", error, "see `earmark doctor --help`")).collect();
    let mut checks = if failures.is_empty() { vec![ok("settings", "valid")] } else { failures };
    if process.keys().is_ok_and(|keys| keys.knows("")) {
        let found = "what is not signed is believed: the password of the broker is enough to move money";
        let fix = "set EARMARK_ENVELOPE_KEYS, and EARMARK_ACCEPT_UNSIGNED only while you introduce it";
        checks.push(warning("signatures", found, fix));
    }
    checks
}

fn print(check: &Check) {
    let level = match check.level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Failure => "FAILURE",
    };
    println!("{level:<8} {:<14} {}", check.check, check.found);
    if let Some(fix) = check.fix {
        println!("{:<24}{fix}", "");
    }
}
