//! `earmark migrate`: brings the schema up to date.

use crate::config::Database;

/// Applies all migrations that the schema lacks.
pub(super) async fn run(database: &Database) -> anyhow::Result<()> {
    database.open()?.migrate().await?;
    eprintln!("the schema is up to date");
    Ok(())
}
