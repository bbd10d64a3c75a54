//! `earmark request`: looks up one request by its id.

use super::{moment, print_json};
use crate::config::{Database, parse_duration};
use crate::ledger::RequestId;
use crate::ops::requests;
use crate::wire::operator::RequestTimeline;
use anyhow::ensure;
use clap::Args;
use std::time::Duration;
use uuid::Uuid;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    /// The request's id, as in `X-Request-Id` or in a log
    request: Uuid,
    /// The intakes' setting: the deadline is computed with it
    #[arg(long, env = "EARMARK_REPLY_TIMEOUT", default_value = "5s", value_parser = parse_duration)]
    reply_timeout: Duration,
    /// Show the whole email address and the idempotency key
    #[arg(long)]
    reveal: bool,
    /// Print one line of JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Looks up the request and prints it.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { database, request, reply_timeout, reveal, json } = arguments;
    ensure!(request.get_version_num() == 7, "{request} is not the id of a request: request ids are UUIDs of version 7");
    let id = RequestId::from_u128(request.as_u128());
    let timeline = requests::timeline(&database.open().await?, id, reply_timeout, reveal).await?;
    if json {
        return print_json(&timeline);
    }
    print(&timeline);
    Ok(())
}

fn print(timeline: &RequestTimeline) {
    println!("request   {}", timeline.request_id);
    if let Some(business) = timeline.business_id {
        println!("business  {business} {}", timeline.business_name.as_deref().unwrap_or_default());
    }
    if let (Some(amount), Some(email)) = (timeline.amount, &timeline.email) {
        println!("{:<10}{amount} cents, {email}", timeline.kind.unwrap_or("payout"));
    }
    if let Some(target) = timeline.target {
        println!("reverses  {target}");
    }
    if let (Some(seq), Some(balance)) = (timeline.seq, timeline.payout_balance_after) {
        println!("movement  {seq}, payout balance after it {balance} cents");
    }
    if let Some(epoch) = timeline.epoch {
        println!("key       {}, epoch {epoch}", timeline.key.as_deref().unwrap_or("(hidden)"));
    }
    println!("{}  minted", moment(timeline.minted_at));
    println!("{}  deadline", moment(timeline.deadline));
    for dead_letter in &timeline.dead_letters {
        println!(
            "{}  dead letter {} ({}): {}",
            moment(dead_letter.arrived_at),
            dead_letter.dead_letter_id,
            dead_letter.cause,
            dead_letter.reason
        );
        if let (Some(at), Some(by)) = (dead_letter.replayed_at, &dead_letter.replayed_by) {
            println!("{}  replayed by {by}", moment(at));
        }
        if let (Some(at), Some(by)) = (dead_letter.dropped_at, &dead_letter.dropped_by) {
            println!("{}  dropped by {by}", moment(at));
        }
    }
    match timeline.decided_at {
        Some(at) => println!("{}  {}", moment(at), timeline.state),
        None => println!("{:<20}  undecided: it waits, was never published, or there is no request with this id", ""),
    }
}
