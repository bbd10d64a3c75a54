use super::print_json;
use crate::config::{Database, Operator, Prefix};
use crate::postgres::{PgConnection, Postgres, partitions};
use anyhow::ensure;
use clap::{Args, Subcommand};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    prefix: Prefix,
    /// Print one line of JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Have all workers finish the batch in hand and take nothing more. Requests that wait meanwhile end in 500, undebited
    Pause {
        #[command(flatten)]
        operator: Operator,
    },
    /// Let them go on
    Resume {
        #[command(flatten)]
        operator: Operator,
    },
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { database, prefix, json, command } = arguments;
    let (postgres, prefix) = (database.open()?, prefix.name()?);
    let pausing = async |connection: &mut PgConnection| match &command {
        Command::Pause { operator } => partitions::write_paused(connection, prefix, &operator.by).await,
        Command::Resume { .. } => partitions::write_resumed(connection, prefix).await,
    };
    let known = postgres.read(pausing).await?;
    ensure!(known, "no process has ever run with EARMARK_QUEUE_PREFIX={prefix}");
    match &command {
        Command::Pause { operator } => tracing::info!(who = operator.by, prefix, "workers paused"),
        Command::Resume { operator } => tracing::info!(who = operator.by, prefix, "workers resumed"),
    }
    show(&postgres, prefix, json).await
}

async fn show(postgres: &Postgres, prefix: &str, json: bool) -> anyhow::Result<()> {
    let paused = postgres.read(async |connection| partitions::find_pause(connection, prefix).await).await?;
    if json {
        return print_json(&serde_json::json!({ "prefix": prefix, "paused": paused }));
    }
    match paused {
        Some(paused) => println!("paused by {} since {}", paused.paused_by, super::moment(paused.paused_at)),
        None => println!("working"),
    }
    Ok(())
}
