//! `earmark migrate`: brings the schema up to date, and declares what the broker needs.

use super::declare;
use crate::config::{Database, Declared};
use crate::postgres::shards;
use clap::Args;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    declared: Declared,
}

/// Applies all migrations that the directory and the shards lack, and declares exchanges and queues.
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let ledger = arguments.database.way()?;
    shards::migrate(&ledger).await?;
    eprintln!("the schema is up to date");
    ledger.look().await?;
    for (shard, node) in shards::read_places(&ledger).await? {
        eprintln!("shard {shard} is on {node}");
    }
    declare(&arguments.declared, &ledger.numbers()).await
}
