//! The settings of the program: flag, environment variable, unit, default, and the reason for the default. The doc
//! comments of the fields are the texts of `--help`. The settings of the log are in `telemetry.rs`, those of `earmark send`
//! in `cli/send.rs`, and that of `earmark doctor` alone in `cli/doctor/mod.rs`.

use crate::connections;
use crate::intake::Budgets;
use crate::intake::admission;
use crate::intake::limits::Bounds;
use crate::ledger::webhooks::Schedule;
use crate::ops::console::auth::{Access, MIN_TOKEN_LEN};
use crate::postgres::{self, Shards};
use crate::rabbit::Broker;
use crate::rabbit::publisher::Limits as Packing;
use crate::rabbit::topology::Topology;
use crate::secret::HashSecret;
use crate::webhook::target::Exceptions;
use crate::wire::signing::Keyring;
use crate::worker::Limits;
use anyhow::{Context, anyhow, ensure};
use clap::{ArgAction, Args, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Where the ledger is.
#[derive(Args)]
pub struct Database {
    /// The database: `postgres://user:password@host:port/database`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Whether a Postgres is refused on which no standby has to confirm commits (its `synchronous_standby_names` is empty). By
    /// default it is not: a single server has no standby, and some providers replicate below Postgres. With `required`, a
    /// standby that is promoted is refused until it has a standby of its own
    #[arg(long, env = "EARMARK_SYNCHRONOUS_STANDBY", default_value = "off")]
    synchronous_standby: SynchronousStandby,
}

/// Whether a standby has to confirm commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SynchronousStandby {
    Off,
    Required,
}

impl Database {
    /// Opens the ledger for a command, and reads which shards there are.
    pub async fn open(&self) -> anyhow::Result<Shards> {
        let shards = self.way()?;
        shards.look().await.context("the ledger cannot be read; if it is new, run `earmark migrate`")?;
        Ok(shards)
    }

    /// The way to the database for a command, with one connection for each schema. A person waits for the answer, so each
    /// step has 3 s.
    pub fn way(&self) -> anyhow::Result<Shards> {
        self.way_with(1, Duration::from_secs(3))
    }

    fn way_with(&self, pool_size: u32, timeout: Duration) -> anyhow::Result<Shards> {
        let needs_standby = self.synchronous_standby == SynchronousStandby::Required;
        let settings = postgres::Settings { url: self.database_url.clone(), pool_size, timeout, needs_standby };
        Ok(Shards::new(&settings, "earmark")?)
    }
}

/// Where the broker is, and which of its queues are ours.
#[derive(Args)]
pub struct Queues {
    /// The broker: `amqp://user:password@host:port/vhost`. Several nodes of a cluster are named with commas between their
    /// URLs; each connection goes to one of them, and to another when that one is away
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// The prefix of all queues.
    #[command(flatten)]
    pub prefix: Prefix,
    /// Whether exchanges and queues that are not there are declared. `false` for a user of RabbitMQ who may not: then
    /// `earmark migrate` declares them with another one
    #[arg(long, env = "EARMARK_DECLARE", default_value = "true", action = ArgAction::Set)]
    declare: bool,
}

impl Queues {
    /// The exchanges and queues.
    pub fn topology(&self) -> anyhow::Result<Topology> {
        let topology = Topology::new(self.prefix.name()?);
        Ok(if self.declare { topology } else { topology.declared_by_others() })
    }

    /// The broker at `AMQP_URL`. Does not connect yet; the error says what is wrong with the URL.
    pub fn broker(&self) -> anyhow::Result<Broker> {
        Broker::parse(&self.amqp_url).map_err(named("AMQP_URL"))
    }
}

/// Where exchanges and queues are to be declared.
#[derive(Args)]
pub struct Declared {
    /// The broker on which exchanges and queues are declared: `amqp://user:password@host:port/vhost`. Processes declare them too,
    /// if their users may. Not given: nothing is declared
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: Option<String>,
    /// The prefix of all queues.
    #[command(flatten)]
    pub prefix: Prefix,
}

impl Declared {
    /// The broker at `AMQP_URL`; `None` if it is not set. Like [`Queues::broker`].
    pub fn broker(&self) -> anyhow::Result<Option<Broker>> {
        let url = self.amqp_url.as_deref().filter(|url| !url.is_empty());
        url.map(Broker::parse).transpose().map_err(named("AMQP_URL"))
    }
}

/// Which of several deployments on one broker is meant.
#[derive(Args)]
pub struct Prefix {
    /// The prefix of all queue names. Deployments that share a broker need different prefixes
    #[arg(long, env = "EARMARK_QUEUE_PREFIX", default_value = "earmark")]
    queue_prefix: String,
}

impl Prefix {
    /// The prefix, or an error if it has characters that a queue name should not have.
    pub fn name(&self) -> anyhow::Result<&str> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        ensure!(
            (1..=100).contains(&self.queue_prefix.len()) && self.queue_prefix.chars().all(fits),
            "EARMARK_QUEUE_PREFIX must be 1 to 100 letters, digits, dots, dashes or underscores"
        );
        Ok(&self.queue_prefix)
    }
}

/// The person who runs a command that changes something.
#[derive(Args)]
pub struct Operator {
    /// Who does this. The name is recorded with the change
    #[arg(long, env = "USER", default_value = "unknown", value_name = "NAME")]
    pub by: String,
}

/// The settings that intake, worker and relay share.
#[derive(Args)]
pub struct Process {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    queues: Queues,
    /// The secret that payout users' hashes and request ids are made with: hexadecimal, at least 32 bytes
    /// (`openssl rand -hex 32`). It must be the same in every process, permanently: with another secret, new users get
    /// hashes of another kind, and the ids of earlier requests are no longer recognised
    #[arg(long, env = "EARMARK_HASH_SECRET", hide_env_values = true)]
    hash_secret: String,
    /// The keys that sign what intakes and workers send each other: `NAME:HEX,NAME:HEX`, each of at least 32 bytes
    /// (`openssl rand -hex 32`). The first one signs, and what any of them has signed is believed, so keys can be replaced
    /// while everything runs. Without keys nothing is signed, and whoever can put a message into a queue can move money
    #[arg(long, env = "EARMARK_ENVELOPE_KEYS", hide_env_values = true)]
    envelope_keys: Option<String>,
    /// Also believe what is not signed. Only for the time in which some processes have EARMARK_ENVELOPE_KEYS and others do
    /// not yet
    #[arg(long, env = "EARMARK_ACCEPT_UNSIGNED")]
    accept_unsigned: bool,
    /// Where /livez, /readyz, /metrics and the console are served: address:port. Without it there is no side listener.
    /// An address other than loopback needs a token (EARMARK_OPS_TOKEN or EARMARK_OPS_READ_TOKEN)
    #[arg(long, env = "EARMARK_OPS_LISTEN")]
    pub ops_listen: Option<SocketAddr>,
    /// The database, with the user of the console, whose role is `earmark_console`. Without it the console works with the user of
    /// DATABASE_URL, and can do what that one may do
    #[arg(long, env = "EARMARK_CONSOLE_DATABASE_URL", hide_env_values = true)]
    console_database_url: Option<String>,
    /// The token that lets people and programs read and act in the console: at least 16 characters
    /// (`openssl rand -hex 24`). Without any token the console is open to everybody on this machine, and to nobody
    /// else. The token must be the same in every process, so that a session opened at one is valid at all
    #[arg(long, env = "EARMARK_OPS_TOKEN", hide_env_values = true)]
    ops_token: Option<String>,
    /// The token that lets people and programs read in the console, but not act: at least 16 characters
    #[arg(long, env = "EARMARK_OPS_READ_TOKEN", hide_env_values = true)]
    ops_read_token: Option<String>,
    /// Where spans are sent by OTLP over HTTP, without the path: `http://localhost:4318`. If it is not given,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` is used. Without either nothing is exported, but a client's trace context is still
    /// passed on
    #[arg(long, env = "EARMARK_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// The share of requests without a trace context for which a new trace begins, from 0 to 1. A request with a trace
    /// context is sampled as the context says. At thousands of requests a second, a few in a thousand are enough
    #[arg(long, env = "EARMARK_OTLP_SAMPLE", default_value = "1", value_parser = parse_share)]
    pub otlp_sample: f64,
    /// Addresses that webhooks may lead to although they are not public, also over plain HTTP if the URL names the address:
    /// `10.0.0.5,10.0.0.6`. Without it only public addresses are allowed: otherwise whoever has an API key could make the relay
    /// call servers that only this network can reach
    #[arg(long, env = "EARMARK_WEBHOOK_EXCEPTIONS", value_delimiter = ',')]
    webhook_exceptions: Vec<IpAddr>,
    /// How long an intake waits for a worker's reply before it resolves the request in the database. Also the request's
    /// deadline: a worker voids a request that it finds later than that. Even under full load most requests take well
    /// under a second; the default also leaves time for another worker to take over
    #[arg(long, env = "EARMARK_REPLY_TIMEOUT", default_value = "5s", value_parser = parse_duration)]
    reply_timeout: Duration,
    /// How long resolving a request may take before the answer is 504. It must be longer than EARMARK_SETTLE_TIMEOUT,
    /// so that a hanging worker's locks are released within it. With the defaults, 2 s are left after that
    #[arg(long, env = "EARMARK_RESOLVE_TIMEOUT", default_value = "5s", value_parser = parse_duration)]
    resolve_timeout: Duration,
    /// How long connecting to Postgres, a statement, waiting for a lock, or a whole transaction may take before it
    /// fails. All of these take milliseconds; the default leaves time for a slow disk or network
    #[arg(long, env = "EARMARK_SETTLE_TIMEOUT", default_value = "3s", value_parser = parse_duration)]
    settle_timeout: Duration,
    /// How long a shutdown may take. It must be longer than EARMARK_REPLY_TIMEOUT and EARMARK_RESOLVE_TIMEOUT together,
    /// so that every request in flight is answered within it
    #[arg(long, env = "EARMARK_SHUTDOWN_GRACE", default_value = "15s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
    /// How long a client may take to send the head of its next request, counted from the last answer or from
    /// connecting. It should be longer than clients and proxies keep idle connections, so that they close first and no
    /// request is sent on a connection that is being closed here
    #[arg(long, env = "EARMARK_IDLE_TIMEOUT", default_value = "75s", value_parser = parse_duration)]
    idle_timeout: Duration,
    /// How long a client may take to accept the next part of an answer. A client that stalls longer is disconnected.
    /// The default is long enough for a slow or interrupted network, and frees a connection whose client is gone
    #[arg(long, env = "EARMARK_WRITE_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    write_timeout: Duration,
}

/// Parses a duration such as `5s` or `250ms`, of at most 366 days: sums of longer ones and dates could overflow.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > LONGEST { Err("must be at most 366 days".to_owned()) } else { Ok(time) }
}

/// Parses a number from 0 to 1.
fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be from 0 to 1".to_owned())
}

/// Puts the name of a setting's variable before an error about its value.
fn named(name: &'static str) -> impl FnOnce(String) -> anyhow::Error {
    move |error| anyhow!("{name} {error}")
}

impl Process {
    /// Refuses settings that contradict each other.
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

    /// Refuses a console that other machines could reach without a token, tokens that are too short, and equal tokens.
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

    /// The console's full and read-only token. An empty one counts as not set: some files set variables to nothing.
    fn ops_tokens(&self) -> (Option<&str>, Option<&str>) {
        let is_set = |token: &&str| !token.is_empty();
        (self.ops_token.as_deref().filter(is_set), self.ops_read_token.as_deref().filter(is_set))
    }

    /// The console's access rules, with the tokens and the secret.
    pub fn access(&self) -> anyhow::Result<Access> {
        let (full, read) = self.ops_tokens();
        Ok(Access::new(&self.secret()?, full, read))
    }

    /// The way to the database. `pool_size`: the number of connections to each schema that reads share. Workers settle over
    /// connections of their own.
    pub fn shards(&self, pool_size: u32) -> anyhow::Result<Shards> {
        self.database.way_with(pool_size, self.settle_timeout)
    }

    /// The way to the database for the console, with its user. An empty URL counts as not set.
    pub fn console_shards(&self, pool_size: u32) -> anyhow::Result<Shards> {
        let Some(url) = self.console_database_url.as_ref().filter(|url| !url.is_empty()) else {
            return self.shards(pool_size);
        };
        let database = Database { database_url: url.clone(), ..self.database };
        database.way_with(pool_size, self.settle_timeout).context("EARMARK_CONSOLE_DATABASE_URL")
    }

    /// The way to RabbitMQ; an error if the URL is wrong.
    pub fn broker(&self) -> anyhow::Result<Broker> {
        self.queues.broker()
    }

    /// The exchanges and queues.
    pub fn topology(&self) -> anyhow::Result<Topology> {
        self.queues.topology()
    }

    /// The checked prefix of all queues.
    pub fn queue_prefix(&self) -> anyhow::Result<&str> {
        self.queues.prefix.name()
    }

    /// The secret. It is parsed here because clap's error would print it.
    pub fn secret(&self) -> anyhow::Result<HashSecret> {
        self.hash_secret.parse().map_err(named("EARMARK_HASH_SECRET"))
    }

    /// The keys that sign messages and replies. Like the secret they are parsed here. An empty value counts as not set.
    pub fn keys(&self) -> anyhow::Result<Keyring> {
        let Some(keys) = self.envelope_keys.as_deref().filter(|keys| !keys.is_empty()) else {
            return Ok(Keyring::none());
        };
        let prefix = self.queue_prefix()?;
        Keyring::parse(keys, prefix, self.accept_unsigned).map_err(named("EARMARK_ENVELOPE_KEYS"))
    }

    /// The addresses that webhooks may lead to although they are not public.
    pub fn exceptions(&self) -> Exceptions {
        Exceptions::new(self.webhook_exceptions.iter().copied())
    }

    /// The OTLP endpoint, from either variable. An empty value counts as not set.
    pub fn otlp_endpoint(&self) -> Option<String> {
        let standard = || std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok();
        self.otlp_endpoint.clone().or_else(standard).filter(|endpoint| !endpoint.is_empty())
    }

    /// The limits of a listener with at most `most` connections.
    pub fn connections(&self, most: usize) -> connections::Limits {
        connections::Limits { connections: most, idle: self.idle_timeout, write: self.write_timeout }
    }

    /// How long a request may wait for a reply, and how long resolving it may take.
    pub fn budgets(&self) -> Budgets {
        Budgets { reply: self.reply_timeout, resolve: self.resolve_timeout }
    }
}

/// The settings that only an intake has.
#[derive(Args)]
pub struct IntakeSettings {
    /// Where the intake accepts requests: address:port. The default accepts them from this machine only, because the
    /// intake has no TLS of its own
    #[arg(long, env = "EARMARK_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The largest number of requests of a shard between admission and decision; further ones are refused with 503 at once. Bulk
    /// calls use at most half of it, and wait for room. The default is about four times what is in flight at full
    /// throughput, so that a short stall refuses nobody
    #[arg(long, env = "EARMARK_MAX_IN_FLIGHT", default_value = "4096", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: u32,
    /// The largest number of bulk calls that are worked on or wait; further ones are refused with 503 at once. More
    /// than can be answered within EARMARK_REPLY_TIMEOUT are of no use, and each holds its body in memory, up to 1 MiB
    #[arg(long, env = "EARMARK_MAX_BULK_CALLS", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    max_bulk_calls: u32,
    /// The largest number of allocations a second for one API key, those in bulk calls included. A key may use the
    /// allocations of one second at once. Beyond the limit the answer is 429. Each intake counts on its own. Not
    /// limited unless it is set
    #[arg(long, env = "EARMARK_RATE_LIMIT", value_parser = clap::value_parser!(u32).range(1..))]
    rate_limit: Option<u32>,
    /// The largest number of one API key's allocations between admission and decision; further ones are answered with
    /// 429. Bulk calls use at most half of it, and wait for room. Set well below EARMARK_MAX_IN_FLIGHT, it keeps one
    /// platform from using all of that. Each intake counts on its own. Not limited unless it is set
    #[arg(long, env = "EARMARK_MAX_IN_FLIGHT_PER_KEY", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight_per_key: Option<u32>,
    /// The largest number of requests in one message: enough for those that arrive at full throughput while one message
    /// is confirmed. A message also ends at 128 KiB
    #[arg(long, env = "EARMARK_PACK", default_value = "512", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pack: u16,
    /// The largest number of messages to one queue that the broker has not confirmed yet. Until it confirms one,
    /// further requests are gathered for the next message. With 2, measured throughput was the same, and p99 at half of
    /// that throughput was twice as high: the messages are smaller, and there are more of them
    #[arg(long, env = "EARMARK_PUBLISH_WINDOW", default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    publish_window: u16,
    /// The largest number of messages to one queue that no worker has answered yet. Until one is answered, further
    /// requests are gathered for the next message, for 20 ms at most. A larger number makes messages smaller under
    /// load; with 1, clients wait for each other even when they are few
    #[arg(long, env = "EARMARK_ANSWER_WINDOW", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    answer_window: u16,
    /// The largest number of open client connections; further ones wait until one is closed. A connection takes about
    /// 20 KiB of memory. The number is lowered if the process may not open that many files
    #[arg(long, env = "EARMARK_MAX_CONNECTIONS", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// The largest number of connections to each shard, and to the directory, for reads (balances, look-ups, the history).
    /// API keys are looked up over two further connections, so that slow reads do not hold up authentication
    #[arg(long, env = "EARMARK_READ_CONNECTIONS", default_value = "4", value_parser = clap::value_parser!(u32).range(1..))]
    pub read_connections: u32,
    /// The largest number of pages (of the history, of statements, of deliveries) and dry runs that are read at the same
    /// time for one API key, those of exports included. A further page is answered with 429; an export and a dry run wait
    /// instead. Set below EARMARK_READ_CONNECTIONS, it leaves connections for other keys. Each intake counts on its own
    #[arg(long, env = "EARMARK_MAX_READS_PER_KEY", default_value = "2", value_parser = clap::value_parser!(u32).range(1..))]
    max_reads_per_key: u32,
}

impl IntakeSettings {
    /// The limits of requests in flight, bulk calls, and each API key.
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

    /// The limits of messages to the work queues.
    pub fn packing(&self) -> Packing {
        Packing {
            pack: usize::from(self.pack),
            window: usize::from(self.publish_window),
            answer_window: usize::from(self.answer_window),
        }
    }
}

/// The settings that only a worker has.
#[derive(Args)]
pub struct WorkerSettings {
    /// The largest number of messages that a worker has taken and not yet acknowledged: enough to fill the next batch
    /// while one commits. Each queue has an equal share of it, and at least one message. A message has up to 128 KiB,
    /// so this limits the memory of waiting requests
    #[arg(long, env = "EARMARK_PREFETCH", default_value = "128", value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: u16,
    /// The largest number of requests that a worker has parsed from its messages before their transaction begins:
    /// several large batches. Each queue has an equal share of it, and at least one message. A parsed request takes
    /// about 500 bytes
    #[arg(long, env = "EARMARK_READ_AHEAD", default_value = "8192", value_parser = clap::value_parser!(u32).range(1..))]
    read_ahead: u32,
    /// The largest number of requests in one transaction. A batch larger than the default saves little, and holds its
    /// locks longer
    #[arg(long, env = "EARMARK_BATCH", default_value = "1024", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// How far the clocks of intake and worker may differ: a worker still applies a request this long after its
    /// deadline. If they differ by more, requests are voided that could have been applied. Money is safe however wrong
    /// the clocks are
    #[arg(long, env = "EARMARK_CLOCK_TOLERANCE", default_value = "1s", value_parser = parse_duration)]
    clock_tolerance: Duration,
    /// How long a worker holds a message that it cannot settle because the database is away. Then it gives back all messages
    /// that it holds, and takes none for that database until it is there again. Much less than RabbitMQ's
    /// `consumer_timeout` (30 minutes), after which the broker takes the worker for stuck. Not much shorter than the
    /// default, as a message that comes back often is settled with few others, and is a dead letter after 20 times
    #[arg(long, env = "EARMARK_HOLD_TIMEOUT", default_value = "5m", value_parser = parse_duration)]
    hold_timeout: Duration,
    /// How old the last audit of the ledger may be before a worker makes a new one. One worker at a time audits, in one
    /// snapshot. An audit reads every row, so the interval should not be much shorter. `0s`: workers make no audits
    #[arg(long, env = "EARMARK_AUDIT_INTERVAL", default_value = "1h", value_parser = parse_duration)]
    pub audit_interval: Duration,
}

impl WorkerSettings {
    /// The limits of a worker's messages and batches.
    pub fn limits(&self) -> Limits {
        Limits {
            prefetch: self.prefetch,
            read_ahead: self.read_ahead,
            batch: usize::from(self.batch),
            clock_tolerance: self.clock_tolerance,
            hold: self.hold_timeout,
        }
    }
}

/// The settings that only a relay has.
#[derive(Args)]
pub struct RelaySettings {
    /// The largest number of webhooks that a relay delivers to at the same time, one event each. A quarter of it is for webhooks
    /// whose last delivery failed, so that however many are dead, the others do not wait. A delivery takes a connection, and
    /// about 50 KiB of memory
    #[arg(long, env = "EARMARK_RELAY_PLACES", default_value = "256", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub relay_places: u32,
    /// How long a webhook may take to answer: connecting, sending and the first kilobyte of the answer. A webhook that has more
    /// to do should answer first
    #[arg(long, env = "EARMARK_WEBHOOK_TIMEOUT", default_value = "15s", value_parser = parse_duration)]
    pub webhook_timeout: Duration,
    /// How long a delivery that failed waits before it is tried again: after the first failure, the second, and so on. The last
    /// pause repeats. Short at first, for a restart; long in the end, for a webhook that people have to mend
    #[arg(long, env = "EARMARK_WEBHOOK_RETRIES", default_value = "5s,5m,30m,2h,5h,10h,14h,20h,24h", value_delimiter = ',', value_parser = parse_duration)]
    webhook_retries: Vec<Duration>,
    /// Whether all events are also published to the topic exchange `<EARMARK_QUEUE_PREFIX>.events` of the broker, with their
    /// types as routing keys, for consumers in the house. It begins with the first event of each business. The same in every
    /// relay
    #[arg(long, env = "EARMARK_EVENT_EXCHANGE")]
    pub event_exchange: bool,
    /// How long a webhook may fail, without one success, before it is disabled. Long enough for a weekend and the days around it
    #[arg(long, env = "EARMARK_WEBHOOK_PATIENCE", default_value = "5d", value_parser = parse_duration)]
    webhook_patience: Duration,
}

impl RelaySettings {
    /// When deliveries that fail are tried again.
    pub fn schedule(&self) -> Schedule {
        Schedule { delays: self.webhook_retries.clone(), patience: self.webhook_patience }
    }
}
