//! `earmark queues`: shows what waits in the queues.

use super::print_json;
use crate::config::{Database, Queues as QueueSettings};
use crate::ops::deployment::{self, join_queues};
use crate::postgres::{PgConnection, Shards};
use crate::rabbit::Broker;
use crate::rabbit::topology::Topology;
use crate::wire::operator::Queues;
use clap::Args;
use std::io::IsTerminal;
use std::time::Duration;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    queues: QueueSettings,
    /// Print one line of JSON instead of text
    #[arg(long)]
    json: bool,
    /// Repeat every second until interrupted
    #[arg(long)]
    watch: bool,
}

const INTERVAL: Duration = Duration::from_secs(1);
/// The escape sequence that moves the cursor to the top left corner and clears the terminal below it.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Prints the queues, once or every second.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let (shards, broker) = (arguments.database.open().await?, arguments.queues.broker()?);
    let prefix = arguments.queues.prefix.name()?;
    loop {
        let shown = look(&shards, &broker, prefix).await?;
        if arguments.json {
            print_json(&shown)?;
        } else {
            if arguments.watch && std::io::stdout().is_terminal() {
                print!("{REDRAW}");
            }
            print(&shown);
        }
        if !arguments.watch {
            return Ok(());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(shards: &Shards, broker: &Broker, prefix: &str) -> anyhow::Result<Queues> {
    shards.look().await?;
    let reading = async |connection: &mut PgConnection| {
        let standing = deployment::find_standing(connection, prefix).await?;
        Ok((standing, deployment::find_processes(connection).await?))
    };
    let (standing, mut processes) = shards.directory().read(reading).await?;
    processes.retain(|process| !process.is_silent());
    let names = Topology::new(prefix).all_queues(&shards.numbers());
    let depths = broker.find_queues(&names).await?;
    let depths = depths.into_iter().map(|depth| depth.map(|depth| (depth.ready, depth.consumers)));
    let queues = join_queues(names.into_iter().zip(depths), processes.iter());
    let intakes = || processes.iter().filter_map(|process| process.state.intake.as_ref());
    Ok(Queues {
        queues,
        oldest_millis: intakes().filter_map(|intake| intake.oldest_millis).max(),
        in_flight: intakes().map(|intake| intake.in_flight).sum(),
        dead_letters: standing.dead_letters.into_iter().map(|(cause, count)| (cause.as_str(), count)).collect(),
        paused: standing.paused.map(Into::into),
    })
}

fn print(shown: &Queues) {
    let number = |number: Option<u32>| number.map_or_else(|| "not there".to_owned(), |number| number.to_string());
    println!("{:<40}  {:>10}  {:>10}  {:>10}", "QUEUE", "READY", "UNACKED", "CONSUMERS");
    for queue in &shown.queues {
        let (ready, consumers) = (number(queue.ready), number(queue.consumers));
        println!("{:<40}  {ready:>10}  {:>10}  {consumers:>10}", queue.name, queue.unacknowledged);
    }
    let oldest = shown.oldest_millis.map_or_else(|| "none".to_owned(), |millis| format!("{millis} ms"));
    println!("oldest request  {oldest}\nin flight       {}", shown.in_flight);
    let dead_letters: Vec<String> =
        shown.dead_letters.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
    println!("dead letters    {}", if dead_letters.is_empty() { "none".to_owned() } else { dead_letters.join(", ") });
    if let Some(paused) = &shown.paused {
        println!("PAUSED by {} since {}", paused.paused_by, super::moment(paused.paused_at));
    }
}
