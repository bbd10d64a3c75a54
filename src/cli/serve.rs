//! The processes: an intake, a worker, or both in one.

use super::describe;
use crate::config::{IntakeSettings, Process, WorkerSettings};
use crate::intake::{self, Intake};
use crate::ops::console::Console;
use crate::ops::queues::Depths;
use crate::ops::{self, console};
use crate::postgres::{Error, Postgres, partitions};
use crate::rabbit::topology::Topology;
use crate::retry::Backoff;
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

pub async fn serve(arguments: Serve) -> anyhow::Result<()> {
    run("serve", arguments.process, Some(arguments.intake), Some(arguments.worker)).await
}

pub async fn intake(arguments: IntakeOnly) -> anyhow::Result<()> {
    run("intake", arguments.process, Some(arguments.intake), None).await
}

pub async fn worker(arguments: WorkerOnly) -> anyhow::Result<()> {
    run("worker", arguments.process, None, Some(arguments.worker)).await
}

/// How long a process that ends takes to export its last spans.
const FLUSH: Duration = Duration::from_secs(2);

/// Runs what there are settings for, until a signal. The intake drains first, so that the worker can still answer it.
async fn run(
    kind: &'static str,
    process: Process,
    intake_settings: Option<IntakeSettings>,
    worker_settings: Option<WorkerSettings>,
) -> anyhow::Result<()> {
    process.check()?;
    arm_failpoint()?;
    if let Some(endpoint) = process.otlp_endpoint() {
        trace::start(&endpoint, process.otlp_sample, "earmark")
            .map_err(anyhow::Error::msg)
            .context("EARMARK_OTLP_ENDPOINT")?;
    }
    let stop = shutdown::on_signal()?;
    let postgres = process.postgres(intake_settings.as_ref().map_or(1, |settings| settings.read_connections))?;
    let topology = Topology::new(process.queue_prefix()?, process.partitions);
    let intake = intake_settings.map(|settings| open_intake(&process, settings, topology, &postgres)).transpose()?;
    // Each has somebody who watches its way to Postgres.
    let for_worker = if intake.is_some() { process.postgres(1)? } else { postgres.clone() };
    let worker = worker_settings.map(|settings| open_worker(&process, settings, &for_worker)).transpose()?;
    let depths = Depths::default();
    let describe =
        describe::describe(intake.as_ref().map(|(intake, _)| Arc::clone(intake)), worker.clone(), depths.clone());
    let stopped = CancellationToken::new();
    if let Some(address) = process.ops_listen {
        let listener = bind(address, "EARMARK_OPS_LISTEN")?;
        let console = open_console(&process)?;
        tokio::spawn(Arc::clone(&console).watch(stopped.clone()));
        let limits = process.connections(ops::CONNECTIONS);
        tokio::spawn(ops::serve(listener, Arc::clone(&describe), console, limits, stopped.clone()));
    }
    let Some(all_queues) = wait_for_ledger(&process, [&postgres, &for_worker], &stop).await? else { return Ok(()) };
    let watching = tokio::spawn(depths.watch(process.broker()?, all_queues.clone(), stopped.clone()));
    let present =
        tokio::spawn(ops::presence::keep(postgres.clone(), describe::presence(kind), describe, stopped.clone()));
    let listener = match &intake {
        Some((_, settings)) => Some(bind(settings.listen, "EARMARK_LISTEN")?),
        None => None,
    };
    let worker_stop = CancellationToken::new();
    let working = worker.map(|worker| tokio::spawn(worker.run(all_queues, worker_stop.clone())));
    if let (Some((intake, _)), Some(listener)) = (intake, listener) {
        intake.run(listener, stop.clone(), process.shutdown_grace).await?;
    }
    stop.cancelled().await;
    worker_stop.cancel();
    if let Some(working) = working {
        match tokio::time::timeout(process.shutdown_grace, working).await {
            Ok(worked) => worked?,
            Err(_) => tracing::warn!("grace period over: the batch in hand comes again to another worker"),
        }
    }
    stopped.cancel();
    let _ = tokio::join!(present, watching);
    trace::flush(FLUSH).await;
    Ok(())
}

/// `EARMARK_FAILPOINT` is for tests of failures, and so is not in the list of settings.
fn arm_failpoint() -> anyhow::Result<()> {
    if let Ok(text) = std::env::var("EARMARK_FAILPOINT") {
        failpoint::arm(text.parse().map_err(anyhow::Error::msg).context("EARMARK_FAILPOINT")?);
    }
    Ok(())
}

fn bind(address: std::net::SocketAddr, name: &'static str) -> anyhow::Result<TcpListener> {
    let listener = connections::listen(address).with_context(|| format!("{name}: cannot listen on {address}"))?;
    tracing::info!(setting = name, address = %listener.local_addr()?, "listening");
    Ok(listener)
}

fn open_intake(
    process: &Process,
    settings: IntakeSettings,
    topology: Topology,
    postgres: &Postgres,
) -> anyhow::Result<(Arc<Intake>, IntakeSettings)> {
    let intake = Intake::start(intake::Settings {
        broker: process.broker()?,
        topology,
        postgres: postgres.clone(),
        secret: process.secret()?,
        budgets: process.budgets(),
        admission: settings.admission(),
        packing: settings.packing(),
        connections: process.connections(most_connections(&settings)?),
    });
    Ok((intake, settings))
}

/// How many clients may be connected at once. What the kernel allows is raised as far as it may be, and the side listener,
/// Postgres and RabbitMQ need some of it.
fn most_connections(settings: &IntakeSettings) -> anyhow::Result<usize> {
    let files = rlimit::increase_nofile_limit(u64::MAX).context("how many files this process may open")?;
    let files = usize::try_from(files)?;
    let (wanted, most) = (settings.max_connections as usize, files - OTHER_FILES.min(files / 2));
    if wanted > most {
        tracing::info!(connections = most, files, "fewer connections than EARMARK_MAX_CONNECTIONS: `ulimit -n` is low");
    }
    Ok(wanted.min(most))
}

/// Files that a process needs for anything but its clients.
const OTHER_FILES: usize = 512;

fn open_worker(process: &Process, settings: WorkerSettings, postgres: &Postgres) -> anyhow::Result<Arc<Worker>> {
    Ok(Worker::new(worker::Settings {
        broker: process.broker()?,
        postgres: postgres.clone(),
        secret: process.secret()?,
        limits: settings.limits(),
        audit_interval: settings.audit_interval,
    }))
}

/// With connections of its own, so that whoever looks at the process takes none from its requests.
fn open_console(process: &Process) -> anyhow::Result<Arc<Console>> {
    Ok(Console::new(console::Settings {
        postgres: process.postgres(CONSOLE_CONNECTIONS)?,
        broker: process.broker()?,
        topology: Topology::new(process.queue_prefix()?, process.partitions),
        reply_timeout: process.budgets().reply,
        access: process.access()?,
    }))
}

/// Enough for a few people at a time.
const CONSOLE_CONNECTIONS: u32 = 2;

/// Waits for the database to be there, refuses one whose schema is older than this program, and notes the number of
/// partitions. Answers with all work queues that may hold messages: those of now, and those of a larger number in the past.
/// `None` if stopped first. Until then nobody watches the `ways`, so they are told here what there is to wait for.
async fn wait_for_ledger(
    process: &Process,
    ways: [&Postgres; 2],
    stop: &CancellationToken,
) -> anyhow::Result<Option<Topology>> {
    let prefix = process.queue_prefix()?;
    let mut backoff = Backoff::for_connections();
    while !stop.is_cancelled() {
        match read_ledger(prefix, process.partitions, ways[0]).await {
            Ok((0, most)) => return Ok(Some(Topology::new(prefix, most))),
            Ok((missing, _)) => bail!("the schema lacks {missing} migrations of this program: run `earmark migrate`"),
            Err(error @ (Error::Refused(_) | Error::Constraint { .. } | Error::Data(_) | Error::Fatal(_))) => {
                return Err(error.into());
            }
            Err(error) => {
                tracing::warn!(%error, "waiting for postgres");
                ways.iter().for_each(|way| way.health().heard(&error));
            }
        }
        tokio::select! { () = backoff.wait() => {}, () = stop.cancelled() => {} }
    }
    Ok(None)
}

/// How many migrations the schema lacks and, if none, the largest number of partitions there ever was.
async fn read_ledger(prefix: &str, partitions: u16, postgres: &Postgres) -> Result<(usize, u16), Error> {
    postgres.refuse_shared_sessions().await?;
    let missing = postgres.missing_migrations().await?;
    if missing > 0 {
        return Ok((missing, partitions));
    }
    let noting = async |connection: &mut _| partitions::write_most(connection, prefix, partitions).await;
    Ok((0, postgres.write(noting).await?))
}
