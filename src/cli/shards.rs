//! `earmark shards`: lists, adds and closes shards.

use super::{moment, print_json};
use crate::config::Database;
use crate::ledger::{ShardId, ShardState, shards as numbers};
use crate::postgres::{Shards, businesses, shards};
use crate::wire::operator;
use anyhow::{Context, ensure};
use clap::{Args, Subcommand};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    /// Print one line of JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the shards, with what they take and how many businesses they have
    List,
    /// Add a shard: its schema is made, and within a second every process uses it
    Add,
    /// Open a shard again, for requests and new businesses
    Open { shard: u8 },
    /// Mark a shard as full: it takes requests, but no new businesses
    Full { shard: u8 },
    /// Close a shard: every new request of its businesses is refused with 503. Those that it has are still decided
    Close { shard: u8 },
}

/// Runs the subcommand, then prints the shards.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shards = arguments.database.open().await?;
    match arguments.command {
        Command::List => {}
        Command::Add => add(&shards).await?,
        Command::Open { shard } => set(&shards, shard, ShardState::Open).await?,
        Command::Full { shard } => set(&shards, shard, ShardState::Full).await?,
        Command::Close { shard } => set(&shards, shard, ShardState::Closed).await?,
    }
    print(&shards, arguments.json).await
}

async fn add(ledger: &Shards) -> anyhow::Result<()> {
    let listed: Vec<_> = ledger.directory().read(shards::read_all).await?.iter().map(|row| row.shard).collect();
    let shard = numbers::next(&listed).context("there are 256 shards, and no number is left")?;
    shards::add(ledger, shard).await?;
    eprintln!("shard {shard} is open");
    Ok(())
}

async fn set(ledger: &Shards, shard: u8, state: ShardState) -> anyhow::Result<()> {
    // One whose schema is not made yet is not known, and stays as it is: `earmark migrate` completes it.
    let shard = ShardId::new(shard);
    ensure!(ledger.known().contains_key(&shard), "there is no shard {shard}: see `earmark shards list`");
    ledger.directory().write(async |connection| shards::write_state(connection, shard, state).await).await?;
    eprintln!("shard {shard} is {}", state.as_str());
    Ok(())
}

async fn print(ledger: &Shards, json: bool) -> anyhow::Result<()> {
    ledger.look().await?;
    let mut shown = vec![];
    for row in ledger.directory().read(shards::read_all).await? {
        let businesses = match ledger.get(row.shard.id) {
            Ok(postgres) => Some(postgres.read(businesses::count).await?),
            Err(_) => None,
        };
        shown.push(operator::Shard {
            shard: row.shard.id.number(),
            state: row.shard.state.as_str(),
            businesses,
            changed_at: row.changed_at,
        });
    }
    if json {
        return print_json(&shown);
    }
    println!("{:>5}  {:<9}  {:>10}  SINCE", "SHARD", "STATE", "BUSINESSES");
    for operator::Shard { shard, state, businesses, changed_at } in shown {
        let businesses = businesses.map_or_else(|| "no schema".to_owned(), |count| count.to_string());
        println!("{shard:>5}  {state:<9}  {businesses:>10}  {}", moment(changed_at));
    }
    Ok(())
}
