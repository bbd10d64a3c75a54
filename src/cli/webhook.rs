//! `earmark webhook`: lists the webhooks of a business and what came of their deliveries, and switches them.

use super::{moment, print_json};
use crate::config::Database;
use crate::ledger::{BusinessId, Disabled};
use crate::ops::businesses::{id_of, shard_of};
use crate::postgres::webhooks::{self, Tried, Webhook};
use crate::postgres::{PgConnection, Postgres, Shards};
use crate::wire::operator;
use anyhow::{Context, ensure};
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
    /// List the webhooks of a business
    List { business: Uuid },
    /// List the last deliveries to a webhook, the newest first
    Deliveries {
        business: Uuid,
        webhook: Uuid,
        /// The largest number of deliveries to list. The last 1,000 are kept
        #[arg(long, default_value = "50", value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
    },
    /// Deliver an event to a webhook once more
    Redeliver {
        business: Uuid,
        webhook: Uuid,
        /// The number of the event
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        seq: i64,
    },
    /// Enable a webhook: it goes on where it stopped
    Enable { business: Uuid, webhook: Uuid },
    /// Disable a webhook: nothing is delivered until it is enabled
    Disable { business: Uuid, webhook: Uuid },
}

/// Runs the subcommand.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { database, json, command } = arguments;
    let shards = database.open().await?;
    match command {
        Command::List { business } => list(&shards, business, json).await,
        Command::Deliveries { business, webhook, limit } => deliveries(&shards, business, webhook, limit, json).await,
        Command::Redeliver { business, webhook, seq } => redeliver(&shards, business, webhook, seq).await,
        Command::Enable { business, webhook } => switch(&shards, business, webhook, true).await,
        Command::Disable { business, webhook } => switch(&shards, business, webhook, false).await,
    }
}

fn way(shards: &Shards, business: Uuid) -> anyhow::Result<(Postgres, BusinessId)> {
    let postgres = shard_of(shards, business).with_context(|| super::no_business(business))?;
    Ok((postgres, id_of(business)))
}

/// What is said of a webhook that does not exist.
fn no_webhook(webhook: Uuid) -> String {
    format!("the business has no webhook {webhook}: see `earmark webhook list`")
}

async fn list(shards: &Shards, business: Uuid, json: bool) -> anyhow::Result<()> {
    let (postgres, id) = way(shards, business)?;
    let rows =
        postgres.read(async |connection: &mut PgConnection| webhooks::find_all(connection, id, None).await).await?;
    if json {
        return print_json(&rows.into_iter().map(operator::Webhook::from).collect::<Vec<_>>());
    }
    println!("{:<36}  {:<9}  {:>12}  {:>7}  URL", "WEBHOOK", "STATE", "CURSOR", "WAITING");
    for row in rows {
        println!("{}  {:<9}  {:>12}  {:>7}  {}", row.webhook_id, row.state(), row.cursor, row.waiting, row.url);
    }
    Ok(())
}

async fn deliveries(shards: &Shards, business: Uuid, webhook: Uuid, limit: i64, json: bool) -> anyhow::Result<()> {
    let (postgres, id) = way(shards, business)?;
    let reading = async |connection: &mut PgConnection| {
        let found = webhooks::find_one(connection, id, webhook).await?;
        let tried = webhooks::read_tried(connection, id, webhook, i64::MAX, limit).await?;
        Ok(found.map(|_| tried))
    };
    let rows = postgres.read(reading).await?.with_context(|| no_webhook(webhook))?;
    if json {
        return print_json(&rows.into_iter().map(operator::Delivery::from).collect::<Vec<_>>());
    }
    println!("{:<20}  {:>8}  {:<11}  {:>6}  {:>8}  ANSWER", "WHEN", "EVENT", "RESULT", "STATUS", "MILLIS");
    for row in rows {
        let status = row.status.map(|status| status.to_string()).unwrap_or_default();
        let answer = row.answer.as_deref().unwrap_or_default();
        let answer: String = answer.chars().map(|c| if c.is_control() { ' ' } else { c }).take(40).collect();
        let (when, result) = (moment(row.tried_at), row.result.as_str());
        println!("{when:<20}  {:>8}  {result:<11}  {status:>6}  {:>8}  {answer}", row.seq, row.millis);
    }
    Ok(())
}

async fn redeliver(shards: &Shards, business: Uuid, webhook: Uuid, seq: i64) -> anyhow::Result<()> {
    let (postgres, id) = way(shards, business)?;
    let writing = async |connection: &mut PgConnection| {
        let waits = webhooks::write_again(connection, id, webhook, seq).await?;
        Ok(webhooks::find_one(connection, id, webhook).await?.map(|_| waits))
    };
    let waits = postgres.write_idempotent(writing).await?.with_context(|| no_webhook(webhook))?;
    ensure!(waits, "event {seq} is still to come for this webhook, or 1000 events wait for it already");
    eprintln!("event {seq} is delivered to {webhook} once more");
    Ok(())
}

async fn switch(shards: &Shards, business: Uuid, webhook: Uuid, on: bool) -> anyhow::Result<()> {
    let (postgres, id) = way(shards, business)?;
    let writing = async |connection: &mut PgConnection| match on {
        true => webhooks::write_enabled(connection, id, webhook).await,
        false => webhooks::write_disabled(connection, id, webhook, Disabled::Operator).await,
    };
    ensure!(postgres.write_idempotent(writing).await?, no_webhook(webhook));
    eprintln!("webhook {webhook} is {}", if on { "enabled" } else { "disabled" });
    Ok(())
}

impl From<Webhook> for operator::Webhook {
    fn from(row: Webhook) -> Self {
        Self {
            webhook_id: row.webhook_id,
            state: row.state(),
            url: row.url,
            cursor: row.cursor,
            waiting: row.waiting,
            created_at: row.created_at,
            failing_since: row.failing_since,
            disabled_at: row.disabled_at,
            disabled_by: row.disabled_by.map(Disabled::as_str),
        }
    }
}

impl From<Tried> for operator::Delivery {
    fn from(row: Tried) -> Self {
        let Tried { number, seq, tried_at, millis, result, status, answer } = row;
        Self { number, seq, tried_at, duration_ms: millis, result: result.as_str(), status, answer }
    }
}
