//! Every setting: a flag and its environment variable, its unit, its default and the reason for it. `--help` prints these
//! texts.

use crate::connections;
use crate::intake::admission;
use crate::intake::limits::Bounds;
use crate::intake::submit::Budgets;
use crate::ops::console::auth::{Access, MIN_TOKEN_LEN};
use crate::postgres::{self, Postgres};
use crate::rabbit::Broker;
use crate::rabbit::publisher::Limits as Packing;
use crate::secret::HashSecret;
use crate::worker::Limits;
use anyhow::{anyhow, ensure};
use clap::Args;
use std::net::SocketAddr;
use std::time::Duration;

/// Where the ledger is. Every command needs it.
#[derive(Args)]
pub struct Database {
    /// The database: `postgres://user:password@host:port/database`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

impl Database {
    /// For commands that a person waits for: 3 s are long enough for a database that is there.
    pub fn open(&self) -> anyhow::Result<Postgres> {
        self.open_with(1, Duration::from_secs(3))
    }

    fn open_with(&self, pool_size: u32, timeout: Duration) -> anyhow::Result<Postgres> {
        let settings = postgres::Settings { url: self.database_url.clone(), pool_size, timeout };
        Ok(Postgres::new(&settings, "earmark")?)
    }
}

/// Where the queues are.
#[derive(Args)]
pub struct Queues {
    /// The broker: `amqp://user:password@host:port/vhost`
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    #[command(flatten)]
    pub prefix: Prefix,
}

impl Queues {
    pub fn broker(&self) -> anyhow::Result<Broker> {
        Broker::parse(&self.amqp_url).map_err(named("AMQP_URL"))
    }
}

/// Which deployment.
#[derive(Args)]
pub struct Prefix {
    /// What the names of all queues begin with: several deployments can share one broker
    #[arg(long, env = "EARMARK_QUEUE_PREFIX", default_value = "earmark")]
    queue_prefix: String,
}

impl Prefix {
    pub fn name(&self) -> anyhow::Result<&str> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        ensure!(
            (1..=100).contains(&self.queue_prefix.len()) && self.queue_prefix.chars().all(fits),
            "EARMARK_QUEUE_PREFIX must be 1 to 100 letters, digits, dots, dashes or underscores"
        );
        Ok(&self.queue_prefix)
    }
}

/// Who acts, for the record.
#[derive(Args)]
pub struct Operator {
    /// Who does this: noted beside what is done
    #[arg(long, env = "USER", default_value = "unknown", value_name = "NAME")]
    pub by: String,
}

/// What intake and worker share.
#[derive(Args)]
pub struct Process {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    queues: Queues,
    /// The secret behind payout users' hashes and request ids: hexadecimal, at least 32 bytes (`openssl rand -hex 32`).
    /// The same in every process, for ever: with another secret new users get hashes of another kind, and the ids of
    /// earlier requests are not known any more
    #[arg(long, env = "EARMARK_HASH_SECRET", hide_env_values = true)]
    hash_secret: String,
    /// How many work queues the businesses are spread over; each has one worker at a time, and is settled on its own. The
    /// same in every process. Workers also empty the queues of the largest number there ever was; to raise it, restart the
    /// workers before the intakes
    #[arg(long, env = "EARMARK_PARTITIONS", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub partitions: u16,
    /// Where /livez, /readyz, /metrics and the console are served: address:port. Without it there is no side listener.
    /// Beyond loopback only with a token
    #[arg(long, env = "EARMARK_OPS_LISTEN")]
    pub ops_listen: Option<SocketAddr>,
    /// What people and programs show to the console to look and to act: at least 16 characters (`openssl rand -hex 24`).
    /// Without any token the console is open to everybody on this machine, and to nobody else. The same in every process,
    /// so that a session opened at one holds at all
    #[arg(long, env = "EARMARK_OPS_TOKEN", hide_env_values = true)]
    ops_token: Option<String>,
    /// The same for those who only look
    #[arg(long, env = "EARMARK_OPS_READ_TOKEN", hide_env_values = true)]
    ops_read_token: Option<String>,
    /// Where spans go by OTLP over HTTP, without its path: `http://localhost:4318`. If it is not given,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` is taken; without either nothing is exported, and a trace context that a client sends is
    /// passed on all the same
    #[arg(long, env = "EARMARK_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// The share of requests without a trace context for which a trace begins, from 0 to 1. One with a context is sampled
    /// as that says. At thousands of requests a second a few in a thousand tell enough
    #[arg(long, env = "EARMARK_OTLP_SAMPLE", default_value = "1", value_parser = parse_share)]
    pub otlp_sample: f64,
    /// How long a request waits for its outcome before it is resolved in the database. Also its deadline: a worker voids
    /// what it finds later than that
    #[arg(long, env = "EARMARK_REPLY_TIMEOUT", default_value = "5s", value_parser = parse_duration)]
    reply_timeout: Duration,
    /// How long resolving may take before the answer is 504. Longer than one transaction, so that a lock held by a worker
    /// that hangs is gone within it
    #[arg(long, env = "EARMARK_RESOLVE_TIMEOUT", default_value = "5s", value_parser = parse_duration)]
    resolve_timeout: Duration,
    /// How long connecting to Postgres, a statement, a lock or a whole transaction may take before it is given up
    #[arg(long, env = "EARMARK_SETTLE_TIMEOUT", default_value = "3s", value_parser = parse_duration)]
    settle_timeout: Duration,
    /// How long a shutdown may take. Longer than a reply and a resolution together, so that whatever is in flight is
    /// answered within it
    #[arg(long, env = "EARMARK_SHUTDOWN_GRACE", default_value = "15s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
    /// How long a client may take to send the head of its next request, from the last answer or from connecting. Longer
    /// than the clients and proxies before it keep an idle connection, so that they close it and no request crosses the
    /// closing
    #[arg(long, env = "EARMARK_IDLE_TIMEOUT", default_value = "75s", value_parser = parse_duration)]
    idle_timeout: Duration,
    /// How long a client may take to accept the next piece of an answer. One that stalls for longer loses its connection
    #[arg(long, env = "EARMARK_WRITE_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    write_timeout: Duration,
}

/// A time, and none that the sums of times and dates could not hold.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > LONGEST { Err("must be at most 366 days".to_owned()) } else { Ok(time) }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be from 0 to 1".to_owned())
}

/// A bad setting, by the name of its variable.
fn named(name: &'static str) -> impl FnOnce(String) -> anyhow::Error {
    move |error| anyhow!("{name} {error}")
}

impl Process {
    /// Refuses budgets that contradict each other.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.settle_timeout < self.resolve_timeout,
            "EARMARK_SETTLE_TIMEOUT ({:?}) must be below EARMARK_RESOLVE_TIMEOUT ({:?})",
            self.settle_timeout,
            self.resolve_timeout
        );
        ensure!(
            self.reply_timeout + self.resolve_timeout < self.shutdown_grace,
            "EARMARK_REPLY_TIMEOUT ({:?}) and EARMARK_RESOLVE_TIMEOUT ({:?}) together must be below \
             EARMARK_SHUTDOWN_GRACE ({:?})",
            self.reply_timeout,
            self.resolve_timeout,
            self.shutdown_grace
        );
        self.check_ops()?;
        for (name, time) in [
            ("REPLY", self.reply_timeout),
            ("SETTLE", self.settle_timeout),
            ("IDLE", self.idle_timeout),
            ("WRITE", self.write_timeout),
        ] {
            ensure!(!time.is_zero(), "EARMARK_{name}_TIMEOUT must be above zero");
        }
        Ok(())
    }

    /// Refuses a console that others could reach without a token, and tokens that can be guessed or told apart by nobody.
    fn check_ops(&self) -> anyhow::Result<()> {
        let (full, read) = self.ops_tokens();
        for (name, token) in [("EARMARK_OPS_TOKEN", full), ("EARMARK_OPS_READ_TOKEN", read)] {
            let is_long = token.is_none_or(|token| token.chars().count() >= MIN_TOKEN_LEN);
            ensure!(is_long, "{name} must have at least {MIN_TOKEN_LEN} characters (`openssl rand -hex 24`)");
        }
        ensure!(full.is_none() || full != read, "EARMARK_OPS_TOKEN and EARMARK_OPS_READ_TOKEN must differ");
        let is_reachable = self.ops_listen.is_some_and(|address| !address.ip().is_loopback());
        ensure!(
            !is_reachable || full.is_some() || read.is_some(),
            "EARMARK_OPS_LISTEN is not on loopback, so the console needs a token: set EARMARK_OPS_TOKEN (`openssl rand -hex 24`)"
        );
        Ok(())
    }

    /// Both tokens; an empty one is none, as in files that leave a value open.
    fn ops_tokens(&self) -> (Option<&str>, Option<&str>) {
        let is_set = |token: &&str| !token.is_empty();
        (self.ops_token.as_deref().filter(is_set), self.ops_read_token.as_deref().filter(is_set))
    }

    /// Who may use the console.
    pub fn access(&self) -> anyhow::Result<Access> {
        let (full, read) = self.ops_tokens();
        Ok(Access::new(&self.secret()?, full, read))
    }

    /// `pool_size`: for the reads of an intake; a worker settles over a connection of its own.
    pub fn postgres(&self, pool_size: u32) -> anyhow::Result<Postgres> {
        self.database.open_with(pool_size, self.settle_timeout)
    }

    pub fn broker(&self) -> anyhow::Result<Broker> {
        self.queues.broker()
    }

    pub fn queue_prefix(&self) -> anyhow::Result<&str> {
        self.queues.prefix.name()
    }

    /// Parsed here and not by the command line, whose error would print the secret.
    pub fn secret(&self) -> anyhow::Result<HashSecret> {
        self.hash_secret.parse().map_err(named("EARMARK_HASH_SECRET"))
    }

    pub fn otlp_endpoint(&self) -> Option<String> {
        let standard = || std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok();
        self.otlp_endpoint.clone().or_else(standard).filter(|endpoint| !endpoint.is_empty())
    }

    /// The bounds of a listener with at most so many connections.
    pub fn connections(&self, most: usize) -> connections::Limits {
        connections::Limits { connections: most, idle: self.idle_timeout, write: self.write_timeout }
    }

    pub fn budgets(&self) -> Budgets {
        Budgets { reply: self.reply_timeout, resolve: self.resolve_timeout }
    }
}

/// What only an intake needs.
#[derive(Args)]
pub struct IntakeSettings {
    /// Where requests are taken: address:port
    #[arg(long, env = "EARMARK_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Most requests between admission and answer; the next is refused with 503 at once. Bulk has at most half of that, and
    /// waits for it. About four times what is in flight at full throughput, so that a stall of a moment refuses nobody
    #[arg(long, env = "EARMARK_MAX_IN_FLIGHT", default_value = "4096", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: u32,
    /// Most calls of bulk that are worked on or wait for their turn; the next is refused with 503 at once. More than could
    /// be answered within EARMARK_REPLY_TIMEOUT help nobody, and each holds what it was sent, up to 1 MiB
    #[arg(long, env = "EARMARK_MAX_BULK_CALLS", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    max_bulk_calls: u32,
    /// Most allocations a second for one API key, in bulk too; a second's worth may come at once. Beyond it the answer is
    /// 429. Each intake counts for itself. No bound unless it is set
    #[arg(long, env = "EARMARK_RATE_LIMIT", value_parser = clap::value_parser!(u32).range(1..))]
    rate_limit: Option<u32>,
    /// Most allocations of one API key between admission and answer; the next is a 429. Bulk has at most half of that, and
    /// waits for it. Well below EARMARK_MAX_IN_FLIGHT it keeps one platform from taking all of that. Each intake counts for
    /// itself. No bound unless it is set
    #[arg(long, env = "EARMARK_MAX_IN_FLIGHT_PER_KEY", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight_per_key: Option<u32>,
    /// Most requests in one message: enough for all that gather at full throughput while one message is confirmed. A message
    /// also ends at 128 KiB
    #[arg(long, env = "EARMARK_PACK", default_value = "512", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pack: u16,
    /// Most messages to one queue that the broker has not confirmed yet; while they are under way, requests gather for the
    /// next. Two gave no more throughput, and twice the p99 at half of it: more and smaller messages for everybody
    #[arg(long, env = "EARMARK_PUBLISH_WINDOW", default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    publish_window: u16,
    /// Most messages to one queue that no worker has answered yet; while they are under way, requests gather for the next,
    /// for 20 ms at most. One more is smaller messages under load, one less makes few clients wait for each other
    #[arg(long, env = "EARMARK_ANSWER_WINDOW", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    answer_window: u16,
    /// Most connections of clients at once; more wait until one is closed. A connection costs some 20 KiB. Fewer if the
    /// process may not open that many files
    #[arg(long, env = "EARMARK_MAX_CONNECTIONS", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// Most connections to Postgres for reads (balances, look-ups, the history). API keys are looked up over two others, so
    /// that slow reads refuse nobody
    #[arg(long, env = "EARMARK_READ_CONNECTIONS", default_value = "4", value_parser = clap::value_parser!(u32).range(1..))]
    pub read_connections: u32,
    /// Most pages of the history, of exports too, that are read at once for one API key; the next is a 429, and an export
    /// waits between its pages. Below EARMARK_READ_CONNECTIONS it leaves connections for the other keys. Each intake counts
    /// for itself
    #[arg(long, env = "EARMARK_MAX_READS_PER_KEY", default_value = "2", value_parser = clap::value_parser!(u32).range(1..))]
    max_reads_per_key: u32,
}

impl IntakeSettings {
    pub fn admission(&self) -> admission::Limits {
        admission::Limits {
            in_flight: self.max_in_flight as usize,
            bulk_calls: self.max_bulk_calls as usize,
            of_key: Bounds {
                rate: self.rate_limit,
                in_flight: self.max_in_flight_per_key,
                reads: self.max_reads_per_key,
            },
        }
    }

    pub fn packing(&self) -> Packing {
        Packing {
            pack: usize::from(self.pack),
            window: usize::from(self.publish_window),
            answer_window: usize::from(self.answer_window),
        }
    }
}

/// What only a worker needs.
#[derive(Args)]
pub struct WorkerSettings {
    /// Most messages taken from the queues and not yet acknowledged: enough to fill the next batch while one commits. Each
    /// queue has an equal share of it, and one message at least. A message has up to 128 KiB, so this bounds the memory
    /// that waiting requests take
    #[arg(long, env = "EARMARK_PREFETCH", default_value = "128", value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: u16,
    /// Most requests of these messages that are read before their transaction begins: several large batches. Each queue has
    /// an equal share of it, and one message at least. A request that is read takes some 500 bytes
    #[arg(long, env = "EARMARK_READ_AHEAD", default_value = "8192", value_parser = clap::value_parser!(u32).range(1..))]
    read_ahead: u32,
    /// Most requests in one transaction. From here on a larger batch saves little and holds its locks for longer
    #[arg(long, env = "EARMARK_BATCH", default_value = "1024", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// How far the clocks of intake and worker may differ: a request is still applied this long after its deadline.
    /// With clocks further apart requests are voided that could have been applied; money is safe whatever the clocks say
    #[arg(long, env = "EARMARK_CLOCK_TOLERANCE", default_value = "1s", value_parser = parse_duration)]
    clock_tolerance: Duration,
    /// How old the last audit of the ledger may be before a worker makes one: one worker at a time, in one snapshot. It
    /// reads every row, so not much more often than this. `0s`: workers make none
    #[arg(long, env = "EARMARK_AUDIT_INTERVAL", default_value = "1h", value_parser = parse_duration)]
    pub audit_interval: Duration,
}

impl WorkerSettings {
    pub fn limits(&self) -> Limits {
        Limits {
            prefetch: self.prefetch,
            read_ahead: self.read_ahead,
            batch: usize::from(self.batch),
            clock_tolerance: self.clock_tolerance,
        }
    }
}
