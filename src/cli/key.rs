//! `earmark key`: creates, lists and revokes API keys.

use super::print_json;
use crate::api_key::{self, Kind};
use crate::clock;
use crate::config::Database;
use crate::ops;
use crate::postgres::{Postgres, Shards, api_keys};
use crate::wire::operator;
use anyhow::ensure;
use clap::{Args, Subcommand};
use uuid::Uuid;

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
    /// Create an API key. It is shown only now
    Create {
        business: Uuid,
        /// The kind of key: a `secret` one may do everything, a `public` one nothing
        #[arg(long, default_value = "secret")]
        kind: Kind,
    },
    /// List a business's API keys
    List { business: Uuid },
    /// Revoke an API key by its id; running intakes refuse it within seconds
    Revoke { key: Uuid },
}

/// Runs the subcommand.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shards = arguments.database.open().await?;
    match arguments.command {
        Command::Create { business, kind } => create(&shards, business, kind, arguments.json).await,
        Command::List { business } => list(shards.directory(), business, arguments.json).await,
        Command::Revoke { key } => revoke(shards.directory(), key).await,
    }
}

async fn create(shards: &Shards, business: Uuid, kind: Kind, json: bool) -> anyhow::Result<()> {
    // A business is never deleted, so it is still there when the key is written.
    ensure!(ops::businesses::find(shards, business).await?.is_some(), super::no_business(business));
    let key = api_key::generate(kind);
    let row = new_row(business, kind, &key);
    let directory = shards.directory();
    directory.write(async |connection| api_keys::write_new(connection, &row, &api_key::digest(&key)).await).await?;
    if json {
        let api_keys::ApiKey { key_id, kind, .. } = row;
        return print_json(&operator::NewApiKey { key_id, business_id: business, kind, key });
    }
    println!("{key}");
    eprintln!("key {}: copy it now, it is not stored and cannot be shown again", row.key_id);
    Ok(())
}

/// The row of a new key.
pub(super) fn new_row(business_id: Uuid, kind: Kind, key: &str) -> api_keys::ApiKey {
    api_keys::ApiKey {
        key_id: Uuid::new_v4(),
        business_id,
        kind: kind.as_str().to_owned(),
        hint: api_key::hint(key).to_owned(),
        created_at: clock::now_utc(),
        revoked_at: None,
    }
}

async fn list(postgres: &Postgres, business: Uuid, json: bool) -> anyhow::Result<()> {
    let rows = postgres.read(async |connection| api_keys::read_all(connection, business).await).await?;
    if json {
        return print_json(&rows.into_iter().map(operator::ApiKey::from).collect::<Vec<_>>());
    }
    println!("{:<36}  {:<6}  {:<5}  STATE", "KEY", "KIND", "ENDS");
    for row in rows {
        let state = if row.revoked_at.is_some() { "revoked" } else { "works" };
        println!("{}  {:<6}  …{}  {state}", row.key_id, row.kind, row.hint);
    }
    Ok(())
}

async fn revoke(postgres: &Postgres, key: Uuid) -> anyhow::Result<()> {
    let revoked = postgres.write(async |connection| api_keys::write_revoked(connection, key).await).await?;
    ensure!(revoked, "there is no working key {key}: see `earmark key list`");
    eprintln!("key {key} is revoked");
    Ok(())
}

impl From<api_keys::ApiKey> for operator::ApiKey {
    fn from(row: api_keys::ApiKey) -> Self {
        let api_keys::ApiKey { key_id, business_id, kind, hint, created_at, revoked_at } = row;
        Self { key_id, business_id, kind, hint, created_at, revoked_at }
    }
}
