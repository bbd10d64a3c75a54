//! The commands. Data goes to stdout, messages to stderr.

use crate::api_key::{self, Kind};
use crate::intake::{self, Intake, submit::Budgets};
use crate::postgres::{self, Postgres, api_keys, businesses, overview};
use crate::rabbit::{Broker, publisher, topology::Topology};
use crate::secret::HashSecret;
use crate::worker::{self, Worker};
use crate::{clock, cut};
use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A queue-backed allocation service: a 500 never debits.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The database: postgres://user:password@host:port/database
    #[arg(
        long,
        env = "DATABASE_URL",
        global = true,
        hide_env_values = true,
        default_value = "postgres://127.0.0.1/earmark"
    )]
    database_url: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Intake and worker in one process.
    Serve(Running),
    /// HTTP to queue.
    Intake(Running),
    /// Queue to ledger.
    Worker(Running),
    /// Bring the schema up to date.
    Migrate,
    /// Businesses and their balances.
    #[command(subcommand)]
    Business(BusinessCommand),
    /// API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Check every balance against the rows.
    Audit {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Running {
    /// Where the intake listens.
    #[arg(long, env = "EARMARK_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The broker: amqp://user:password@host:port/vhost
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// Server-side secret behind payout users' hashes: hexadecimal, at least 32 bytes.
    #[arg(long, env = "EARMARK_HASH_SECRET", hide_env_values = true)]
    hash_secret: HashSecret,
    /// What the names of all queues begin with: several deployments can share one broker.
    #[arg(long, env = "EARMARK_QUEUE_PREFIX", default_value = "earmark")]
    queue_prefix: String,
    /// How long a request waits for its outcome before it is resolved in the database.
    #[arg(long, env = "EARMARK_REPLY_TIMEOUT", default_value = "5s", value_parser = humantime::parse_duration)]
    reply_timeout: Duration,
    /// How long resolving may take before the answer is 504.
    #[arg(long, env = "EARMARK_RESOLVE_TIMEOUT", default_value = "5s", value_parser = humantime::parse_duration)]
    resolve_timeout: Duration,
    /// How long a statement, a lock or a transaction may take.
    #[arg(long, env = "EARMARK_SETTLE_TIMEOUT", default_value = "3s", value_parser = humantime::parse_duration)]
    settle_timeout: Duration,
    /// How long a shutdown may take; longer than a reply and a resolution together.
    #[arg(long, env = "EARMARK_SHUTDOWN_GRACE", default_value = "15s", value_parser = humantime::parse_duration)]
    shutdown_grace: Duration,
    /// Most requests between admission and decision.
    #[arg(long, env = "EARMARK_MAX_IN_FLIGHT", default_value_t = 4096)]
    max_in_flight: usize,
}

#[derive(Debug, Subcommand)]
enum BusinessCommand {
    /// Create a business with a secret and a public key, shown once.
    Create {
        #[arg(long)]
        name: String,
        /// In cents.
        #[arg(long, default_value_t = 0)]
        payout_balance: i64,
        #[arg(long)]
        enable_payouts: bool,
        #[arg(long)]
        json: bool,
    },
    List,
    /// Add to a payout balance, in cents; negative to withdraw.
    Fund {
        business: Uuid,
        #[arg(long, allow_negative_numbers = true)]
        amount: i64,
    },
    EnablePayouts {
        business: Uuid,
    },
    DisablePayouts {
        business: Uuid,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Create a secret key, shown once.
    Create {
        business: Uuid,
    },
    List {
        business: Uuid,
    },
    Revoke {
        key: Uuid,
    },
}

/// Runs the command that was asked for.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let timeout = Duration::from_secs(3);
    let open = |timeout| {
        Postgres::new(&postgres::Settings { url: cli.database_url.clone(), pool_size: 10, timeout }, "earmark")
    };
    match cli.command {
        Command::Serve(running) => run_processes(open(running.settle_timeout)?, running, true, true).await,
        Command::Intake(running) => run_processes(open(running.settle_timeout)?, running, true, false).await,
        Command::Worker(running) => run_processes(open(running.settle_timeout)?, running, false, true).await,
        Command::Migrate => Ok(open(timeout)?.migrate().await?),
        Command::Business(command) => business(&open(timeout)?, command).await,
        Command::Key(command) => key(&open(timeout)?, command).await,
        Command::Audit { json } => audit(&open(timeout)?, json).await,
    }
}

async fn run_processes(postgres: Postgres, running: Running, intake: bool, worker: bool) -> anyhow::Result<()> {
    ensure!(
        running.settle_timeout < running.resolve_timeout,
        "EARMARK_SETTLE_TIMEOUT must be below EARMARK_RESOLVE_TIMEOUT"
    );
    ensure!(
        running.reply_timeout + running.resolve_timeout < running.shutdown_grace,
        "EARMARK_REPLY_TIMEOUT and EARMARK_RESOLVE_TIMEOUT together must be below EARMARK_SHUTDOWN_GRACE"
    );
    if let Ok(text) = std::env::var("EARMARK_CUT") {
        cut::arm(text.parse().map_err(anyhow::Error::msg).context("EARMARK_CUT")?);
    }
    let missing = postgres.missing_migrations().await?;
    ensure!(missing == 0, "the schema lacks {missing} migrations of this program: run `earmark migrate`");
    let broker = Broker::parse(&running.amqp_url)?;
    let topology = Topology::new(&running.queue_prefix);
    let stop = CancellationToken::new();
    let mut tasks = vec![];
    let worker_stop = CancellationToken::new();
    if worker {
        let limits = worker::Limits { prefetch: 256, batch: 1024, clock_tolerance: Duration::from_secs(1) };
        let worker = Worker {
            broker: broker.clone(),
            topology: topology.clone(),
            postgres: postgres.clone(),
            secret: running.hash_secret.clone(),
            limits,
            consuming: Arc::default(),
        };
        tasks.push(tokio::spawn(worker.run(worker_stop.clone())));
    }
    tokio::spawn(on_signal(stop.clone()));
    if intake {
        let listener = tokio::net::TcpListener::bind(running.listen).await.context("EARMARK_LISTEN")?;
        let intake = Intake::start(intake::Settings {
            broker,
            topology,
            postgres,
            secret: running.hash_secret,
            budgets: Budgets { reply: running.reply_timeout, resolve: running.resolve_timeout },
            max_in_flight: running.max_in_flight,
            packing: publisher::Limits { pack: 64, window: 4 },
        });
        intake.run(listener, stop.clone(), running.shutdown_grace).await?;
    }
    stop.cancelled().await;
    worker_stop.cancel();
    for task in tasks {
        task.await?;
    }
    Ok(())
}

/// The first signal stops in good order, the second at once.
async fn on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    stop.cancel();
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    std::process::exit(130);
}

async fn business(postgres: &Postgres, command: BusinessCommand) -> anyhow::Result<()> {
    match command {
        BusinessCommand::Create { name, payout_balance, enable_payouts, json } => {
            let (secret, public) = (api_key::generate(Kind::Secret), api_key::generate(Kind::Public));
            let business = businesses::Business {
                business_id: Uuid::new_v4(),
                name,
                balance: 0,
                payout_balance,
                payouts_enabled: enable_payouts,
                created_at: clock::now_utc(),
            };
            let mut session = postgres.session();
            session
                .run(async |connection| {
                    let mut transaction = postgres::begin(connection).await?;
                    businesses::write_new(&mut transaction, &business).await?;
                    if payout_balance != 0 {
                        let id = business.business_id;
                        businesses::write_deposit(&mut transaction, id, Uuid::new_v4(), payout_balance, "opening")
                            .await?;
                    }
                    for (kind, key) in [(Kind::Secret, &secret), (Kind::Public, &public)] {
                        let row = new_key(business.business_id, kind, key);
                        api_keys::write_new(&mut transaction, &row, &api_key::digest(key)).await?;
                    }
                    postgres::commit(transaction).await
                })
                .await?;
            let shown = serde_json::json!({
                "business_id": business.business_id, "name": business.name, "payout_balance": payout_balance,
                "payouts_enabled": enable_payouts, "secret_key": secret, "public_key": public,
            });
            println!("{}", if json { shown.to_string() } else { format!("{shown:#}") });
        }
        BusinessCommand::List => {
            for row in postgres.read(async |connection| businesses::read_all(connection).await).await? {
                println!("{}  {:>15}  {:<5}  {}", row.business_id, row.payout_balance, row.payouts_enabled, row.name);
            }
        }
        BusinessCommand::Fund { business, amount } => {
            let mut session = postgres.session();
            let balance = session
                .run(async |connection| {
                    let mut transaction = postgres::begin(connection).await?;
                    let balance = businesses::write_payout_balance(&mut transaction, business, amount).await?;
                    if balance.is_some() {
                        businesses::write_deposit(&mut transaction, business, Uuid::new_v4(), amount, "").await?;
                    }
                    postgres::commit(transaction).await?;
                    Ok(balance)
                })
                .await?;
            println!("{}", balance.context("there is no such business: see `earmark business list`")?);
        }
        BusinessCommand::EnablePayouts { business } => switch(postgres, business, true).await?,
        BusinessCommand::DisablePayouts { business } => switch(postgres, business, false).await?,
    }
    Ok(())
}

async fn switch(postgres: &Postgres, business: Uuid, enabled: bool) -> anyhow::Result<()> {
    let writing =
        postgres.read(async |connection| businesses::write_payouts_enabled(connection, business, enabled).await);
    ensure!(writing.await?, "there is no such business: see `earmark business list`");
    Ok(())
}

fn new_key(business_id: Uuid, kind: Kind, key: &str) -> api_keys::ApiKey {
    api_keys::ApiKey {
        key_id: Uuid::new_v4(),
        business_id,
        kind: kind.as_str().to_owned(),
        hint: api_key::hint(key).to_owned(),
        created_at: clock::now_utc(),
        revoked_at: None,
    }
}

async fn key(postgres: &Postgres, command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create { business } => {
            let key = api_key::generate(Kind::Secret);
            let row = new_key(business, Kind::Secret, &key);
            postgres
                .read(async |connection| api_keys::write_new(connection, &row, &api_key::digest(&key)).await)
                .await?;
            println!("{key}");
        }
        KeyCommand::List { business } => {
            for row in postgres.read(async |connection| api_keys::read_all(connection, business).await).await? {
                let state = if row.revoked_at.is_some() { "revoked" } else { "works" };
                println!("{}  {:<6}  …{}  {state}", row.key_id, row.kind, row.hint);
            }
        }
        KeyCommand::Revoke { key } => {
            let revoked = postgres.read(async |connection| api_keys::write_revoked(connection, key).await).await?;
            ensure!(revoked, "there is no such working key: see `earmark key list`");
        }
    }
    Ok(())
}

async fn audit(postgres: &Postgres, json: bool) -> anyhow::Result<()> {
    let audit = overview::audit(postgres).await?;
    let differences: Vec<String> = audit.differences.iter().map(|difference| format!("{difference:?}")).collect();
    if json {
        let shown = serde_json::json!({ "allocations": audit.allocations, "allocated": audit.allocated, "deposited": audit.deposited, "differences": differences });
        println!("{shown}");
    } else {
        println!("{audit:#?}");
    }
    ensure!(differences.is_empty(), "{} differences", differences.len());
    Ok(())
}
