//! `earmark migrate`: brings the schema up to date.

use crate::config::Database;
use crate::postgres::shards;

/// Applies all migrations that the directory and the shards lack.
pub(super) async fn run(database: &Database) -> anyhow::Result<()> {
    let ledger = database.way()?;
    shards::migrate(&ledger).await?;
    eprintln!("the schema is up to date");
    ledger.look().await?;
    for (shard, node) in shards::read_places(&ledger).await? {
        eprintln!("shard {shard} is on {node}");
    }
    Ok(())
}
