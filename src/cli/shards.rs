//! `earmark shards`: lists, adds, closes and moves shards.

use super::{declare, moment, print_json};
use crate::config::{Database, Declared};
use crate::ledger::{ShardId, ShardState, shards as numbers};
use crate::postgres::{Postgres, Shards, businesses, citus, shards};
use crate::wire::operator;
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    declared: Declared,
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
    /// Move a shard to another node of a Citus cluster, while it is used
    Move {
        shard: u8,
        /// The node, as `shards list` shows it
        #[arg(long, value_name = "HOST:PORT")]
        to: String,
    },
}

/// Runs the subcommand, then prints the shards.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shards = arguments.database.open().await?;
    match arguments.command {
        Command::List => {}
        Command::Add => add(&shards, &arguments.declared).await?,
        Command::Open { shard } => set(&shards, shard, ShardState::Open).await?,
        Command::Full { shard } => set(&shards, shard, ShardState::Full).await?,
        Command::Close { shard } => set(&shards, shard, ShardState::Closed).await?,
        Command::Move { shard, to } => relocate(&shards, shard, &to).await?,
    }
    print(&shards, arguments.json).await
}

async fn add(ledger: &Shards, declared: &Declared) -> anyhow::Result<()> {
    let listed: Vec<_> = ledger.directory().read(shards::read_all).await?.iter().map(|row| row.shard).collect();
    let shard = numbers::next(&listed).context("there are 256 shards, and no number is left")?;
    // Its queue first: a process that hears of the shard may not declare it, and loses its connection if it is not there.
    declare(declared, &[shard.number()]).await?;
    shards::add(ledger, shard).await?;
    eprintln!("shard {shard} is open");
    Ok(())
}

async fn set(ledger: &Shards, shard: u8, state: ShardState) -> anyhow::Result<()> {
    // One whose schema is not made yet is not known, and stays as it is: `earmark migrate` completes it.
    find(ledger, shard)?;
    let shard = ShardId::new(shard);
    ledger.directory().write(async |connection| shards::write_state(connection, shard, state).await).await?;
    eprintln!("shard {shard} is {}", state.as_str());
    Ok(())
}

fn find(ledger: &Shards, shard: u8) -> anyhow::Result<Postgres> {
    let known = ledger.known();
    let open = known.get(&ShardId::new(shard)).map(|open| open.postgres.clone());
    open.with_context(|| format!("there is no shard {shard}: see `earmark shards list`"))
}

async fn relocate(ledger: &Shards, shard: u8, to: &str) -> anyhow::Result<()> {
    let (host, port) = to.rsplit_once(':').context("--to takes host:port")?;
    let port: u16 = port.parse().context("--to takes host:port")?;
    let postgres = find(ledger, shard)?;
    let directory = ledger.directory();
    ensure!(
        directory.read(citus::find).await?,
        "this Postgres is no Citus cluster: there is no node to move a shard to"
    );
    let nodes = directory.read(citus::find_nodes).await?;
    ensure!(nodes.iter().any(|node| node == to), "there is no node {to}, only {}", nodes.join(" and "));
    let read_place = async || anyhow::Ok(directory.read(citus::read_places).await?.remove(postgres.schema()));
    let Some(from) = read_place().await? else { bail!("shard {shard} is not distributed yet: run `earmark migrate`") };
    if from == to {
        eprintln!("shard {shard} is on {to} already");
        return Ok(());
    }
    let moved = citus::relocate(&postgres, host, port, |progress| eprintln!("{progress}")).await;
    let place = read_place().await?.unwrap_or_default();
    moved.with_context(|| format!("shard {shard} is on {place}, and was to move to {to}"))?;
    eprintln!("shard {shard} is on {place}");
    Ok(())
}

async fn print(ledger: &Shards, json: bool) -> anyhow::Result<()> {
    ledger.look().await?;
    let mut places = shards::read_places(ledger).await?;
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
            node: places.remove(&row.shard.id),
            changed_at: row.changed_at,
        });
    }
    if json {
        return print_json(&shown);
    }
    println!("{:>5}  {:<9}  {:>10}  {:<20}  NODE", "SHARD", "STATE", "BUSINESSES", "SINCE");
    for operator::Shard { shard, state, businesses, node, changed_at } in shown {
        let businesses = businesses.map_or_else(|| "no schema".to_owned(), |count| count.to_string());
        let node = node.as_deref().unwrap_or("-");
        println!("{shard:>5}  {state:<9}  {businesses:>10}  {}  {node}", moment(changed_at));
    }
    Ok(())
}
