//! `earmark workers`: lists, pauses and resumes workers.

use super::print_json;
use crate::config::{Database, Operator, Prefix};
use crate::ops::deployment;
use crate::postgres::processes::Present;
use crate::postgres::{PgConnection, Postgres, deployments};
use crate::wire::operator;
use anyhow::ensure;
use clap::{Args, Subcommand};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    prefix: Prefix,
    /// Print one line of JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the workers with the state that they report
    List,
    /// Pause all workers: each finishes its current batch and takes no more messages. Requests that wait past their
    /// deadline end in 500, and nothing is debited
    Pause {
        #[command(flatten)]
        operator: Operator,
    },
    /// Resume all workers
    Resume {
        #[command(flatten)]
        operator: Operator,
    },
}

/// Runs the subcommand, then prints the workers. Fails if no process ever ran with this queue prefix.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { database, prefix, json, command } = arguments;
    let (shards, prefix) = (database.open().await?, prefix.name()?);
    let postgres = shards.directory();
    let known = match &command {
        Command::List => true,
        Command::Pause { operator } => {
            tracing::info!(who = operator.by, prefix, "pausing all workers");
            postgres.write(async |connection| deployments::write_paused(connection, prefix, &operator.by).await).await?
        }
        Command::Resume { operator } => {
            tracing::info!(who = operator.by, prefix, "resuming all workers");
            postgres.write(async |connection| deployments::write_resumed(connection, prefix).await).await?
        }
    };
    ensure!(known, "no process has ever run with EARMARK_QUEUE_PREFIX={prefix}");
    show(postgres, prefix, json).await
}

async fn show(postgres: &Postgres, prefix: &str, json: bool) -> anyhow::Result<()> {
    let reading = async |connection: &mut PgConnection| {
        Ok((deployments::find_pause(connection, prefix).await?, deployment::find_processes(connection).await?))
    };
    let (paused, mut workers) = postgres.read(reading).await?;
    workers.retain(|process| process.state.worker.is_some());
    if json {
        let workers = workers.into_iter().map(operator::Process::from).collect();
        return print_json(&operator::Workers { prefix: prefix.to_owned(), paused: paused.map(Into::into), workers });
    }
    match paused {
        Some(paused) => println!("paused by {} since {}", paused.paused_by, super::moment(paused.paused_at)),
        None => println!("not paused"),
    }
    println!("{:<7}  {:<24}  {:>8}  {:<9}  {:<20}  STATE", "KIND", "HOST", "PID", "VERSION", "STARTED");
    for worker in workers {
        let Present { kind, host, pid, version, started_at, .. } = &worker.row;
        let (started, state) = (super::moment(*started_at), worker.in_words());
        println!("{kind:<7}  {host:<24}  {pid:>8}  {version:<9}  {started:<20}  {state}");
    }
    Ok(())
}
