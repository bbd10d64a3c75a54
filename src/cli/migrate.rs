//! `earmark migrate`: brings the schema up to date.

use crate::config::Database;
use crate::postgres::shards;

/// Applies all migrations that the directory and the shards lack.
pub(super) async fn run(database: &Database) -> anyhow::Result<()> {
    shards::migrate(&database.way()?).await?;
    eprintln!("the schema is up to date");
    Ok(())
}
