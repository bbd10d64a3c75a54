use super::print_json;
use crate::config::{Database, Queues};
use crate::ops::processes::{self, Running};
use crate::postgres::partitions::{self, Paused};
use crate::postgres::{PgConnection, Postgres, dead_letters};
use crate::rabbit::Broker;
use crate::rabbit::depth::Depth;
use crate::rabbit::topology::Topology;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    queues: Queues,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    /// Look again every second, until interrupted
    #[arg(long)]
    watch: bool,
}

const INTERVAL: Duration = Duration::from_secs(1);
/// Puts a terminal's cursor to the top left corner, and clears what is below.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Everything that waits.
#[derive(Debug, Serialize)]
struct Shown {
    queues: Vec<Queue>,
    /// The age of the oldest request that no intake has an answer for yet, in milliseconds.
    oldest_millis: Option<i64>,
    in_flight: u64,
    /// Open dead letters, by cause.
    dead_letters: BTreeMap<&'static str, i64>,
    paused: Option<Paused>,
}

#[derive(Debug, Serialize)]
struct Queue {
    name: String,
    /// Messages that nobody has taken; each holds up to `EARMARK_PACK` requests. Null if the queue is not there.
    ready: Option<u32>,
    /// Messages that workers have taken and not yet acknowledged, as they say.
    unacknowledged: u64,
    /// Those that stand by are among them.
    consumers: Option<u32>,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let (postgres, broker) = (arguments.database.open()?, arguments.queues.broker()?);
    let prefix = arguments.queues.prefix.name()?;
    loop {
        let shown = look(&postgres, &broker, prefix).await?;
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

async fn look(postgres: &Postgres, broker: &Broker, prefix: &str) -> anyhow::Result<Shown> {
    let reading = async |connection: &mut PgConnection| {
        let most = partitions::find_most(connection, prefix).await?;
        let paused = partitions::find_pause(connection, prefix).await?;
        Ok((most, paused, dead_letters::count_open(connection).await?))
    };
    let (most, paused, dead_letters) = postgres.read(reading).await?;
    let running: Vec<Running> =
        processes::list(postgres).await?.into_iter().filter(|process| !process.is_silent).collect();
    let names = Topology::new(prefix, most).all_queues();
    let depths = broker.find_queues(&names).await?;
    let held = |name: &String| {
        running.iter().filter_map(|process| process.state.worker.as_ref()?.unacknowledged.get(name)).sum()
    };
    let shown = |(name, depth): (String, Option<Depth>)| Queue {
        ready: depth.as_ref().map(|depth| depth.ready),
        unacknowledged: held(&name),
        consumers: depth.map(|depth| depth.consumers),
        name,
    };
    let queues = names.into_iter().zip(depths).map(shown).collect();
    let intakes = || running.iter().filter_map(|process| process.state.intake.as_ref());
    Ok(Shown {
        queues,
        oldest_millis: intakes().filter_map(|intake| intake.oldest_millis).max(),
        in_flight: intakes().map(|intake| intake.in_flight).sum(),
        dead_letters: dead_letters.into_iter().map(|(cause, count)| (cause.as_str(), count)).collect(),
        paused,
    })
}

fn print(shown: &Shown) {
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
