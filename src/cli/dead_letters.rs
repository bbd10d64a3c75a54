//! `earmark dead-letters`: lists, shows, replays and drops messages that could not be applied.

use super::{moment, print_json};
use crate::config::{Database, Operator, Queues};
use crate::ledger::Cause;
use crate::ops::dead_letters;
use crate::postgres::Postgres;
use crate::postgres::dead_letters::{DeadLetterFilter, find_open_ids};
use crate::wire::operator::{self, DeadLetter, DeadLetterRequest};
use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use uuid::Uuid;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    /// Print one line of JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Show whole email addresses, idempotency keys and message bodies
    #[arg(long, global = true)]
    reveal: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List open dead letters, newest first, with what a replay would do
    List {
        /// Only dead letters with this cause: unreadable, unauthentic, rejected, wrong_shard, delivery_limit, other
        #[arg(long, value_parser = parse_cause)]
        reason: Option<Cause>,
        /// Only dead letters with this text in their reason, or with a request of this id
        #[arg(long)]
        text: Option<String>,
        /// Continue after this dead letter, the last one of the page before
        #[arg(long)]
        after: Option<Uuid>,
        /// The largest number of dead letters to list
        #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show one dead letter, open or not
    Show { dead_letter: Uuid },
    /// Publish dead letters to their work queues again. Safe: decided requests keep their decision, and undecided ones
    /// past their deadline are voided
    Replay {
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        queues: Queues,
        #[command(flatten)]
        operator: Operator,
    },
    /// Mark dead letters as dropped; their rows stay in the database
    Drop {
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        operator: Operator,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

/// The dead letters that a replay or drop is for.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Selection {
    /// The ids of the dead letters
    dead_letters: Vec<Uuid>,
    /// All open dead letters
    #[arg(long)]
    all: bool,
    /// All open dead letters with this cause: unreadable, unauthentic, rejected, wrong_shard, delivery_limit, other
    #[arg(long, value_parser = parse_cause)]
    reason: Option<Cause>,
}

fn parse_cause(text: &str) -> Result<Cause, String> {
    let names = || Cause::ALL.iter().map(|cause| cause.as_str()).collect::<Vec<_>>().join(", ");
    Cause::parse(text).ok_or_else(|| format!("must be one of {}", names()))
}

impl Selection {
    async fn find(&self, postgres: &Postgres) -> anyhow::Result<Vec<Uuid>> {
        if !self.dead_letters.is_empty() {
            return Ok(self.dead_letters.clone());
        }
        Ok(postgres.read(async |connection| find_open_ids(connection, self.reason).await).await?)
    }
}

/// Runs the subcommand. Returns exit code 1 if some of the chosen dead letters could not be replayed or dropped.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { database, json, reveal, command } = arguments;
    let shards = database.open().await?;
    match command {
        Command::List { reason, text, after, limit } => {
            let filter = DeadLetterFilter { cause: reason, text, until: None, after };
            let dead_letters = dead_letters::list(&shards, &filter, limit, reveal).await?;
            if json { print_json(&dead_letters)? } else { print_list(&dead_letters) }
        }
        Command::Show { dead_letter } => {
            let shown = dead_letters::show(&shards, dead_letter, reveal).await?;
            let shown = shown.with_context(|| format!("there is no dead letter {dead_letter}"))?;
            if json { print_json(&shown)? } else { print_one(&shown) }
        }
        Command::Replay { selection, queues, operator } => {
            let chosen = selection.find(shards.directory()).await?;
            let (broker, topology) = (queues.broker()?, queues.topology()?);
            let done = dead_letters::replay(&shards, &broker, &topology, &chosen, &operator.by).await?;
            return report("replayed", &chosen, &done, json);
        }
        Command::Drop { selection, operator, yes } => {
            let chosen = selection.find(shards.directory()).await?;
            if !yes && !chosen.is_empty() {
                confirm(chosen.len())?;
            }
            let done = dead_letters::drop(&shards, &chosen, &operator.by).await?;
            return report("dropped", &chosen, &done, json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what was done and, to stderr, which of the chosen dead letters were left out. Those make the exit code 1.
fn report(done_what: &'static str, chosen: &[Uuid], done: &[Uuid], json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&operator::DeadLettersDone::from([(done_what, done.to_vec())]))?;
    } else {
        println!("{} {done_what}", done.len());
    }
    for left in chosen.iter().filter(|dead_letter| !done.contains(dead_letter)) {
        eprintln!("not {done_what}: {left} does not exist, or is not open");
    }
    Ok(if chosen.len() == done.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks for a typed confirmation, because a drop cannot be undone.
fn confirm(count: usize) -> anyhow::Result<()> {
    let expected = format!("drop {count}");
    eprint!("type `{expected}` to drop {count} dead letters permanently: ");
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed)?;
    ensure!(typed.trim() == expected, "nothing was dropped");
    Ok(())
}

fn print_list(dead_letters: &[DeadLetter]) {
    println!("{:<36}  {:<20}  {:<14}  REQUESTS", "DEAD LETTER", "ARRIVED", "CAUSE");
    for dead_letter in dead_letters {
        let (count, unreadable) = (dead_letter.requests.len(), dead_letter.unreadable.len());
        println!(
            "{}  {:<20}  {:<14}  {count}",
            dead_letter.dead_letter_id,
            moment(dead_letter.arrived_at),
            dead_letter.cause
        );
        println!("    {}", dead_letter.reason);
        dead_letter.requests.iter().for_each(print_request);
        if unreadable > 0 {
            println!("    {unreadable} unreadable: would come back as a dead letter");
        }
    }
}

fn print_request(request: &DeadLetterRequest) {
    println!("    {}  {}", request.request_id, request.in_words());
    println!("        {}", request.on_replay_in_words);
}

fn print_one(dead_letter: &DeadLetter) {
    println!(
        "id        {}\ncause     {}\nreason    {}",
        dead_letter.dead_letter_id, dead_letter.cause, dead_letter.reason
    );
    println!("queue     {}", dead_letter.queue.as_deref().unwrap_or("not known"));
    println!("arrived   {}", moment(dead_letter.arrived_at));
    if let Some(died) = dead_letter.died_at {
        println!("deaths    {}, first at {}", dead_letter.deaths, moment(died));
    }
    if let (Some(at), Some(by)) = (dead_letter.replayed_at, &dead_letter.replayed_by) {
        println!("replayed  {} times, last at {} by {by}", dead_letter.replays, moment(at));
    }
    if let (Some(at), Some(by)) = (dead_letter.dropped_at, &dead_letter.dropped_by) {
        println!("dropped   {} by {by}", moment(at));
    }
    for request in &dead_letter.requests {
        println!("request   {} of business {}", request.request_id, request.business_id);
        println!("          {}, deadline {}", request.in_words(), moment(request.deadline));
        println!("          {}", request.on_replay_in_words);
    }
    for reason in &dead_letter.unreadable {
        println!("unreadable {reason}");
    }
    if let Some(body) = &dead_letter.body {
        println!("body      {body}");
    }
}
