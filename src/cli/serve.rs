//! `earmark serve`, `intake`, `worker` and `relay`: runs an intake, a worker and a relay, each alone or all in one process.

use super::describe;
use crate::config::{IntakeSettings, Process, RelaySettings, WorkerSettings};
use crate::intake::{self, Intake};
use crate::ops::console::Console;
use crate::ops::queues::Depths;
use crate::ops::{self, console};
use crate::postgres::roles::{Role, Standing, read_standing};
use crate::postgres::{Error, Shards, dead_letters, deployments, shards};
use crate::rabbit::topology::{Part, Topology};
use crate::relay::{self, Exchange, Relay};
use crate::retry::Backoff;
use crate::wire::signing::Keyring;
use crate::worker::{self, Worker};
use crate::{connections, failpoint, shutdown, trace};
use anyhow::{Context, bail};
use clap::Args;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    intake: IntakeSettings,
    #[command(flatten)]
    worker: WorkerSettings,
    #[command(flatten)]
    relay: RelaySettings,
}

#[derive(Args)]
pub struct IntakeOnly {
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    intake: IntakeSettings,
}

#[derive(Args)]
pub struct WorkerOnly {
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    worker: WorkerSettings,
}

#[derive(Args)]
pub struct RelayOnly {
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    relay: RelaySettings,
}

/// The settings of the parts that a process runs.
#[derive(Default)]
struct Roles {
    intake: Option<IntakeSettings>,
    worker: Option<WorkerSettings>,
    relay: Option<RelaySettings>,
}

/// Runs intake, worker and relay until a signal.
pub(super) async fn serve(arguments: Serve) -> anyhow::Result<()> {
    let Serve { process, intake, worker, relay } = arguments;
    run("serve", process, Roles { intake: Some(intake), worker: Some(worker), relay: Some(relay) }).await
}

/// Runs an intake until a signal.
pub(super) async fn intake(arguments: IntakeOnly) -> anyhow::Result<()> {
    run("intake", arguments.process, Roles { intake: Some(arguments.intake), ..Roles::default() }).await
}

/// Runs a worker until a signal.
pub(super) async fn worker(arguments: WorkerOnly) -> anyhow::Result<()> {
    run("worker", arguments.process, Roles { worker: Some(arguments.worker), ..Roles::default() }).await
}

/// Runs a relay until a signal.
pub(super) async fn relay(arguments: RelayOnly) -> anyhow::Result<()> {
    run("relay", arguments.process, Roles { relay: Some(arguments.relay), ..Roles::default() }).await
}

/// How long a process may take at its end to export its last spans.
const FLUSH: Duration = Duration::from_secs(2);

/// Runs the parts whose settings are given, until a signal. At the end the intake drains first, so that the worker in
/// the same process can still reply to it.
async fn run(kind: &'static str, process: Process, roles: Roles) -> anyhow::Result<()> {
    process.check()?;
    arm_failpoint()?;
    if let Some(endpoint) = process.otlp_endpoint() {
        trace::start(&endpoint, process.otlp_sample, "earmark")
            .map_err(anyhow::Error::msg)
            .context("EARMARK_OTLP_ENDPOINT")?;
    }
    let stop = shutdown::on_signal()?;
    // Each part has a way to Postgres of its own, and watches its health itself.
    let mut ways = vec![];
    let mut way = |connections| -> anyhow::Result<Shards> {
        ways.push(process.shards(connections)?);
        Ok(ways[ways.len() - 1].clone())
    };
    let (needed, in_broker): (Vec<Role>, Vec<Part>) = [
        roles.intake.as_ref().map(|_| (Role::Intake, Part::Intake)),
        roles.worker.as_ref().map(|_| (Role::Worker, Part::Worker)),
        roles.relay.as_ref().map(|_| (Role::Relay, Part::Relay)),
    ]
    .into_iter()
    .flatten()
    .unzip();
    let topology = process.topology()?.seen_by(in_broker);
    let intake = match roles.intake {
        Some(settings) => Some(open_intake(&process, &topology, way(settings.read_connections)?, settings)?),
        None => None,
    };
    let worker = match roles.worker {
        Some(settings) => Some(open_worker(&process, settings, way(1)?)?),
        None => None,
    };
    let relay = match roles.relay {
        Some(settings) => Some(open_relay(&process, &topology, &settings, way(relay::CONNECTIONS)?)?),
        None => None,
    };
    let depths = Depths::default();
    let parts = describe::Parts {
        intake: intake.as_ref().map(|(intake, _)| Arc::clone(intake)),
        worker: worker.clone(),
        relay: relay.clone(),
    };
    let describe = describe::describe(parts, ways.clone(), depths.clone());
    let stopped = CancellationToken::new();
    if let Some(address) = process.ops_listen {
        let listener = bind(address, "EARMARK_OPS_LISTEN")?;
        let console = open_console(&process)?;
        tokio::spawn(Arc::clone(&console).watch(stopped.clone()));
        let limits = process.connections(ops::CONNECTIONS);
        tokio::spawn(ops::serve(listener, Arc::clone(&describe), console, limits, stopped.clone()));
    }
    let Some(shards) = wait_for_ledger(&process, &needed, &ways, &stop).await? else { return Ok(()) };
    let watching = tokio::spawn(depths.watch(process.broker()?, topology.clone(), shards.clone(), stopped.clone()));
    let directory = shards.directory().clone();
    let present = tokio::spawn(ops::presence::keep(directory, describe::presence(kind), describe, stopped.clone()));
    let listener = match &intake {
        Some((_, settings)) => Some(bind(settings.listen, "EARMARK_LISTEN")?),
        None => None,
    };
    let worker_stop = CancellationToken::new();
    let working = worker.map(|worker| tokio::spawn(worker.run(topology, worker_stop.clone())));
    let relaying = relay.map(|relay| tokio::spawn(relay.run(stop.clone())));
    if let (Some((intake, _)), Some(listener)) = (intake, listener) {
        intake.run(listener, stop.clone(), process.shutdown_grace).await?;
    }
    stop.cancelled().await;
    worker_stop.cancel();
    let ending = async {
        for (what, part) in [("worker", working), ("relay", relaying)] {
            if let Some(part) = part {
                part.await.with_context(|| format!("the {what} has ended by a panic"))?;
            }
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(process.shutdown_grace, ending).await {
        Ok(ended) => ended?,
        Err(_) => tracing::warn!("grace period over: what is in hand is left to another process"),
    }
    stopped.cancel();
    let _ = tokio::join!(present, watching);
    trace::flush(FLUSH).await;
    Ok(())
}

/// Arms the failpoint in `EARMARK_FAILPOINT`. It is for tests, so it is not a setting and not in `--help`.
fn arm_failpoint() -> anyhow::Result<()> {
    if let Ok(text) = std::env::var("EARMARK_FAILPOINT") {
        failpoint::arm(text.parse().map_err(anyhow::Error::msg).context("EARMARK_FAILPOINT")?);
    }
    Ok(())
}

/// Opens a listening socket. `name`: the setting with the address.
fn bind(address: std::net::SocketAddr, name: &'static str) -> anyhow::Result<TcpListener> {
    let listener = connections::listen(address).with_context(|| format!("{name}: cannot listen on {address}"))?;
    tracing::info!(setting = name, address = %listener.local_addr()?, "listening");
    Ok(listener)
}

fn open_intake(
    process: &Process,
    topology: &Topology,
    shards: Shards,
    settings: IntakeSettings,
) -> anyhow::Result<(Arc<Intake>, IntakeSettings)> {
    let intake = Intake::start(intake::Settings {
        broker: process.broker()?,
        topology: topology.clone(),
        shards,
        secret: process.secret()?,
        keys: process.keys()?,
        exceptions: process.exceptions(),
        budgets: process.budgets(),
        admission: settings.admission(),
        packing: settings.packing(),
        connections: process.connections(most_connections(&settings)?),
    });
    Ok((intake, settings))
}

/// How many clients may be connected at the same time: EARMARK_MAX_CONNECTIONS, or fewer if the process may not open so
/// many files. Raises the process's limit of open files as far as allowed.
fn most_connections(settings: &IntakeSettings) -> anyhow::Result<usize> {
    let files =
        rlimit::increase_nofile_limit(u64::MAX).context("cannot find out how many files this process may open")?;
    let files = usize::try_from(files)?;
    let (wanted, most) = (settings.max_connections as usize, files - OTHER_FILES.min(files / 2));
    if wanted > most {
        tracing::info!(connections = most, files, "fewer connections than EARMARK_MAX_CONNECTIONS: `ulimit -n` is low");
    }
    Ok(wanted.min(most))
}

/// The number of files kept for other uses than clients: the side listener, Postgres and RabbitMQ.
const OTHER_FILES: usize = 512;

fn open_worker(process: &Process, settings: WorkerSettings, shards: Shards) -> anyhow::Result<Arc<Worker>> {
    Ok(Worker::new(worker::Settings {
        broker: process.broker()?,
        shards,
        secret: process.secret()?,
        keys: process.keys()?,
        limits: settings.limits(),
        audit_interval: settings.audit_interval,
    }))
}

fn open_relay(
    process: &Process,
    topology: &Topology,
    settings: &RelaySettings,
    shards: Shards,
) -> anyhow::Result<Arc<Relay>> {
    let exchange = match settings.event_exchange {
        true => Some(Exchange::new(process.broker()?, topology.clone())),
        false => None,
    };
    let opened = Relay::new(relay::Settings {
        shards,
        secret: process.secret()?,
        schedule: settings.schedule(),
        timeout: settings.webhook_timeout,
        exceptions: process.exceptions(),
        places: settings.relay_places as usize,
        exchange,
    });
    opened.map_err(anyhow::Error::msg).context("the relay has no HTTP client")
}

/// Creates the console. It has its own connections to Postgres, so that it takes none from requests.
fn open_console(process: &Process) -> anyhow::Result<Arc<Console>> {
    Ok(Console::new(console::Settings {
        shards: process.console_shards(CONSOLE_CONNECTIONS)?,
        broker: process.broker()?,
        topology: process.topology()?,
        reply_timeout: process.budgets().reply,
        access: process.access()?,
    }))
}

/// The console's connections to Postgres: enough for a few people at the same time.
const CONSOLE_CONNECTIONS: u32 = 2;

/// Waits until the ledger can be read, and notes the deployment there. Fails if a schema lacks a migration. Returns the
/// first way, or nothing if `stop` comes first. `ways`: those whose health is updated here, because nothing else
/// watches them yet.
async fn wait_for_ledger<'a>(
    process: &Process,
    needed: &[Role],
    ways: &'a [Shards],
    stop: &CancellationToken,
) -> anyhow::Result<Option<&'a Shards>> {
    let Some((first, others)) = ways.split_first() else { return Ok(None) };
    let prefix = process.queue_prefix()?;
    let mut backoff = Backoff::for_connections();
    while !stop.is_cancelled() {
        match read_ledger(prefix, first, others).await {
            Ok(Ledger::Lacks(missing)) => {
                bail!("the schema lacks {missing} migrations of this program: run `earmark migrate`")
            }
            Ok(Ledger::IsReady { signed_with, standing }) => {
                refuse_retired_keys(&process.keys()?, &signed_with)?;
                check_standing(&standing, needed)?;
                return Ok(Some(first));
            }
            Err(error @ (Error::Refused(_) | Error::Constraint { .. } | Error::Data(_) | Error::Fatal(_))) => {
                return Err(error.into());
            }
            Err(error) => {
                tracing::warn!(%error, "waiting for postgres");
                ways.iter().for_each(|way| way.directory().health().heard(&error));
            }
        }
        tokio::select! { () = backoff.wait() => {}, () = stop.cancelled() => {} }
    }
    Ok(None)
}

/// What a process finds in the ledger when it starts.
enum Ledger {
    /// So many migrations are missing.
    Lacks(usize),
    /// Nothing is missing.
    IsReady {
        /// The names of the keys that open dead letters are signed with.
        signed_with: Vec<String>,
        /// Who the user in Postgres is.
        standing: Standing,
    },
}

/// Reads the ledger. If it lacks nothing, the deployment is noted, and all ways know the shards.
async fn read_ledger(prefix: &str, one: &Shards, others: &[Shards]) -> Result<Ledger, Error> {
    one.directory().refuse_shared_sessions().await?;
    let missing = shards::missing_migrations(one).await?;
    if missing > 0 {
        return Ok(Ledger::Lacks(missing));
    }
    one.directory().write(async |connection| deployments::write_new(connection, prefix).await).await?;
    for other in others {
        other.look().await?;
    }
    let signed_with = one.directory().read(dead_letters::find_open_key_ids).await?;
    Ok(Ledger::IsReady { signed_with, standing: one.directory().read(read_standing).await? })
}

/// Says it if the user in Postgres may do more than it should, and refuses to start if it may do less.
fn check_standing(standing: &Standing, needed: &[Role]) -> anyhow::Result<()> {
    if let Some(role) = standing.lacks(needed).first() {
        bail!("the user in DATABASE_URL lacks the role {0}: GRANT {0} TO it", role.as_str());
    }
    if !standing.has_roles {
        tracing::info!("one user of Postgres does everything; docs/operations.md says how each process gets its own");
        return Ok(());
    }
    for why in standing.excess(needed) {
        tracing::warn!(why, "the user in DATABASE_URL may do more than this process needs");
    }
    Ok(())
}

/// Refuses to start without a key that open dead letters are signed with: they could not be replayed any more.
fn refuse_retired_keys(keys: &Keyring, signed_with: &[String]) -> anyhow::Result<()> {
    match signed_with.iter().find(|id| !keys.knows(id)).map(String::as_str) {
        None => Ok(()),
        Some("") => bail!(
            "some open dead letters are not signed: set EARMARK_ACCEPT_UNSIGNED=true until they are replayed or dropped \
             (`earmark dead-letters list`)"
        ),
        Some(id) => bail!(
            "EARMARK_ENVELOPE_KEYS lacks the key {id}, with which some open dead letters are signed: add it behind the \
             first one until they are replayed or dropped (`earmark dead-letters list`)"
        ),
    }
}
