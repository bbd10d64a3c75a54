//! A campaign runs everything at once, from a random seed: two intakes, two workers, and clients with and without keys.
//! Clients hang up, or vanish unnoticed and retry elsewhere. Faults of every kind come one after the other or several
//! together.
//!
//! `make chaos` runs it for as long as you like. Each run writes what its clients saw to a file of JSON lines.

use super::load::{Habits, Load, Plan};
use super::site::{Role, Site, Way};
use super::told::{Asked, Attempt, Ledger, Operation, statuses};
use crate::harness::process::Process;
use crate::harness::proxy::{Mode, Moment, Protocol, Side, Trap};
use crate::harness::raw::Vanishing;
use crate::harness::servers::Servers;
use crate::harness::shard;
use earmark::ledger::ShardId;
use earmark::postgres::{self, Postgres, audits};
use futures_util::future::join_all;
use lapin::options::QueueDeleteOptions;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const HABITS: Habits = Habits {
    keyed: 0.5,
    hang_up: 0.08,
    vanish: 0.15,
    hedge: 0.15,
    onward: 0.4,
    pause: Duration::from_millis(60),
    operations: usize::MAX,
};
const CLIENTS: u64 = 24;
/// L1: how soon the first success must come after the last fault has ended. `make chaos` has the machine to itself.
const RECOVERY: Duration = Duration::from_secs(10);
/// The same for a test of the suite, which may share the machine with a build. Shorter than a minute: a broker may keep a
/// consumer that is gone for so long, and that must be noticed.
const RECOVERY_ON_A_BUSY_MACHINE: Duration = Duration::from_secs(40);
/// How many intakes and how many workers.
const EACH: usize = 2;
/// The last intake waits longer than the first. So an attempt can still be open at the last one when the first one
/// answers 500 under the same key.
const PATIENT: [(&str, &str); 1] = [("EARMARK_REPLY_TIMEOUT", "4s")];
/// How many times a run tries to provoke a ghost. A ghost is an attempt whose client has vanished unnoticed, and which
/// a worker finds after a 500 under its key.
const SEANCES: usize = 8;
/// The intake logs this when a worker found an attempt with an old epoch of its key, and the attempt may not use the
/// new one.
const SUPERSEDED: &str = "superseded";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill(Role),
    /// SIGSTOP, and later SIGCONT.
    Freeze(Role),
    Terminate(Role),
    /// SIGSTOP for all workers. Nobody works, and RabbitMQ gives the messages that they hold to nobody else.
    FreezeWorkers,
    /// A process is replaced by one with an armed failpoint.
    Failpoint(Role, &'static str),
    Reset(Way),
    BlackHole(Way),
    Delay(Way),
    Refuse(Way),
    Trap(Way, Trap),
    RestartRabbit,
    CrashRabbit,
    MemoryAlarm,
    FullQueue,
    DeleteQueue,
    CloseConnections,
    RestartPostgres,
    CrashPostgres,
    TerminateBackends,
    LockHotRow,
}

const FAILPOINTS: [(Role, &str); 24] = [
    (Role::Intake, "after-validation=abort@20"),
    (Role::Intake, "before-publish=abort@20"),
    (Role::Intake, "after-publish=abort@20"),
    (Role::Intake, "before-answer=abort@20"),
    (Role::Intake, "before-void=abort"),
    (Role::Intake, "after-void=abort"),
    (Role::Intake, "after-publish=panic@10"),
    (Role::Intake, "before-answer=panic@10"),
    (Role::Intake, "before-void=panic"),
    (Role::Intake, "after-void=panic"),
    (Role::Intake, "before-void=hold:1500ms"),
    (Role::Worker, "after-gather=abort@5"),
    (Role::Worker, "after-lock=abort@5"),
    (Role::Worker, "after-write=abort@5"),
    (Role::Worker, "before-commit=abort@5"),
    (Role::Worker, "after-commit=abort@5"),
    (Role::Worker, "before-reply=abort@5"),
    (Role::Worker, "before-acknowledge=abort@5"),
    (Role::Worker, "after-lock=panic@5"),
    (Role::Worker, "after-commit=panic@5"),
    (Role::Worker, "before-reply=panic@5"),
    (Role::Worker, "after-gather=hold:2500ms@5"),
    (Role::Worker, "before-commit=hold:1500ms@5"),
    (Role::Worker, "before-reply=hold:2500ms@5"),
];

/// A worker settles a batch in this one statement, which commits by itself, or step by step with a COMMIT at the end.
const AT_ONCE: Moment = Moment::Statement("settle_batch");
const COMMITS_LOST_ON_THE_WAY: [Trap; 2] =
    [Trap { at: Moment::Commit, side: Side::Before }, Trap { at: AT_ONCE, side: Side::Before }];
const COMMIT_ANSWERS_LOST: [Trap; 2] =
    [Trap { at: Moment::Commit, side: Side::After }, Trap { at: AT_ONCE, side: Side::After }];
const REPLY_LOST: Trap = Trap { at: Moment::Publish(".replies."), side: Side::Before };

fn traps() -> Vec<Fault> {
    let (void, publish) = (Moment::Statement("write_voids"), Moment::Publish(".allocations"));
    let worker_amqp = Way(Role::Worker, Protocol::Amqp);
    let intake_amqp = Way(Role::Intake, Protocol::Amqp);
    let intake_postgres = Way(Role::Intake, Protocol::Postgres);
    let mut traps = vec![
        Fault::Trap(worker_amqp, REPLY_LOST),
        Fault::Trap(worker_amqp, Trap { at: Moment::Ack, side: Side::Before }),
        Fault::Trap(intake_amqp, Trap { at: Moment::Deliver, side: Side::Before }),
    ];
    let commits = COMMITS_LOST_ON_THE_WAY.into_iter().chain(COMMIT_ANSWERS_LOST);
    traps.extend(commits.map(|trap| Fault::Trap(Way(Role::Worker, Protocol::Postgres), trap)));
    for side in [Side::Before, Side::After] {
        traps.push(Fault::Trap(intake_amqp, Trap { at: publish, side }));
        traps.push(Fault::Trap(intake_postgres, Trap { at: void, side }));
        traps.push(Fault::Trap(intake_postgres, Trap { at: Moment::Commit, side }));
    }
    traps
}

/// Every fault there is.
fn all_faults() -> Vec<Fault> {
    let mut all = vec![
        Fault::FreezeWorkers,
        Fault::RestartRabbit,
        Fault::CrashRabbit,
        Fault::MemoryAlarm,
        Fault::FullQueue,
        Fault::DeleteQueue,
        Fault::CloseConnections,
        Fault::RestartPostgres,
        Fault::CrashPostgres,
        Fault::TerminateBackends,
        Fault::LockHotRow,
    ];
    for role in [Role::Intake, Role::Worker] {
        all.extend([Fault::Kill(role), Fault::Freeze(role), Fault::Terminate(role)]);
    }
    for way in Way::ALL {
        all.extend([Fault::Reset(way), Fault::BlackHole(way), Fault::Delay(way), Fault::Refuse(way)]);
    }
    all.extend(traps());
    all.extend(FAILPOINTS.map(|(role, failpoint)| Fault::Failpoint(role, failpoint)));
    all
}

impl Fault {
    /// The part that the fault affects. Two faults of the same part cannot run together.
    fn subject(self) -> String {
        match self {
            Self::Kill(role) | Self::Freeze(role) | Self::Terminate(role) | Self::Failpoint(role, _) => {
                format!("{role:?}")
            }
            Self::FreezeWorkers => format!("{:?}", Role::Worker),
            Self::Reset(way) | Self::BlackHole(way) | Self::Delay(way) | Self::Refuse(way) | Self::Trap(way, _) => {
                format!("{way:?}")
            }
            Self::RestartRabbit
            | Self::CrashRabbit
            | Self::MemoryAlarm
            | Self::FullQueue
            | Self::DeleteQueue
            | Self::CloseConnections => "RabbitMQ".to_owned(),
            Self::RestartPostgres | Self::CrashPostgres | Self::TerminateBackends | Self::LockHotRow => {
                "Postgres".to_owned()
            }
        }
    }

    fn kind(self) -> String {
        let shown = format!("{self:?}");
        shown.split(['(', ' ']).next().unwrap_or_default().to_owned()
    }
}

/// A running campaign.
struct Campaign {
    /// L1: how soon the first success must come after the last fault has ended.
    recovery: Duration,
    site: Site,
    load: Arc<Load>,
    rng: StdRng,
    processes: BTreeMap<(usize, usize), Process>,
    /// How often the processes that have ended logged each message.
    logged: BTreeMap<String, u64>,
    /// The ids of the requests that had an old epoch of their key and could not use the new one.
    superseded: Vec<String>,
    counts: BTreeMap<String, u64>,
    /// How many times the run has checked that the service works again.
    probes: u64,
    locker: Option<PgConnection>,
}

fn slot(role: Role, number: usize) -> (usize, usize) {
    (if role == Role::Intake { 0 } else { 1 }, number)
}

fn spawn(site: &Site, role: Role, number: usize, failpoint: Option<&str>) -> Process {
    let is_patient = role == Role::Intake && number + 1 == EACH;
    site.spawn_with(role, failpoint, if is_patient { &PATIENT } else { &[] })
}

impl Campaign {
    async fn start(seed: u64, servers: Servers, recovery: Duration) -> Self {
        let site = Site::new(servers).await;
        let mut processes = BTreeMap::new();
        for role in [Role::Intake, Role::Worker] {
            for number in 0..EACH {
                let process = spawn(&site, role, number, None);
                process.ready().await;
                processes.insert(slot(role, number), process);
            }
        }
        let first = &processes[&slot(Role::Intake, 0)];
        let load = Load::new(site.app.client(first, &site.business), vec![first.url()]);
        let mut campaign = Self {
            recovery,
            site,
            load,
            rng: StdRng::seed_from_u64(seed),
            processes,
            logged: BTreeMap::new(),
            superseded: vec![],
            counts: BTreeMap::new(),
            probes: 0,
            locker: None,
        };
        campaign.tell_addresses();
        campaign
    }

    fn tell_addresses(&mut self) {
        let intakes = (0..EACH).map(|number| &self.processes[&slot(Role::Intake, number)]);
        let urls: Vec<String> = intakes.filter(|process| process.listens()).map(Process::url).collect();
        if !urls.is_empty() {
            *self.load.urls.write().expect("the addresses") = urls;
        }
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    /// Starts a process in the place of one that has ended.
    fn replace(&mut self, role: Role, number: usize, failpoint: Option<&str>) {
        let process = spawn(&self.site, role, number, failpoint);
        if let Some(old) = self.processes.insert(slot(role, number), process) {
            self.remember(&old);
        }
    }

    fn remember(&mut self, process: &Process) {
        for entry in process.log() {
            let fields = &entry["fields"];
            if let Some(message) = fields["message"].as_str() {
                *self.logged.entry(message.to_owned()).or_default() += 1;
            }
            if fields["message"] == SUPERSEDED {
                self.superseded.push(fields["request_id"].as_str().expect("an id").to_owned());
            }
        }
    }

    fn process(&mut self, role: Role, number: usize) -> &mut Process {
        self.processes.get_mut(&slot(role, number)).expect("every place is taken")
    }

    fn signal_workers(&mut self, signal: &str) {
        (0..EACH).for_each(|number| self.process(Role::Worker, number).signal(signal));
    }

    async fn control(&self, arguments: &[&str]) {
        self.site.app.servers().control(arguments).await;
    }

    async fn begin(&mut self, fault: Fault, number: usize) {
        match fault {
            Fault::Kill(role) => self.process(role, number).kill().await,
            Fault::Freeze(role) => self.process(role, number).signal("STOP"),
            Fault::Terminate(role) => self.process(role, number).signal("TERM"),
            Fault::FreezeWorkers => self.signal_workers("STOP"),
            Fault::Failpoint(role, failpoint) => {
                self.process(role, number).kill().await;
                self.replace(role, number, Some(failpoint));
            }
            Fault::Reset(way) => self.site.proxy(way).reset_all(),
            Fault::BlackHole(way) => self.site.proxy(way).set(Mode::BlackHole),
            Fault::Delay(way) => self.site.proxy(way).set(Mode::Delay(Duration::from_millis(40))),
            Fault::Refuse(way) => self.site.proxy(way).set(Mode::Refuse),
            Fault::Trap(way, trap) => self.site.proxy(way).arm(trap),
            Fault::RestartRabbit => self.control(&["stop", "rabbitmq"]).await,
            Fault::CrashRabbit => self.control(&["stop", "rabbitmq", "--immediate"]).await,
            Fault::MemoryAlarm => {
                self.control(&["rabbitmqctl", "set_vm_memory_high_watermark", "absolute", "1"]).await;
            }
            Fault::FullQueue => {
                let pattern = format!("^{}$", self.site.app.work_queue().replace('.', "\\."));
                let policy =
                    ["rabbitmqctl", "set_policy", "full", &pattern, "{\"max-length\":0}", "--apply-to", "queues"];
                self.control(&policy).await;
            }
            Fault::DeleteQueue => self.delete_queue().await,
            Fault::CloseConnections => self.control(&["rabbitmqctl", "close_all_connections", "a test"]).await,
            Fault::RestartPostgres => self.control(&["stop", "postgres"]).await,
            Fault::CrashPostgres => self.control(&["stop", "postgres", "--immediate"]).await,
            Fault::TerminateBackends => self.terminate_backends().await,
            Fault::LockHotRow => self.lock_hot_row().await,
        }
    }

    async fn end(&mut self, fault: Fault, number: usize) {
        match fault {
            Fault::Kill(role) => self.replace(role, number, None),
            Fault::Freeze(role) => self.process(role, number).signal("CONT"),
            Fault::FreezeWorkers => self.signal_workers("CONT"),
            Fault::Terminate(role) => {
                let status = self.process(role, number).ended().await;
                assert!(status.success(), "L3: {status}: {:#?}", self.process(role, number).log());
                self.replace(role, number, None);
            }
            Fault::Failpoint(role, failpoint) => {
                if self.process(role, number).logged("failpoint reached") > 0 {
                    self.count(format!("failpoint {failpoint}"));
                }
                self.process(role, number).kill().await;
                self.replace(role, number, None);
            }
            Fault::Trap(way, trap) => {
                if !self.site.proxy(way).is_armed() {
                    self.count(format!("trap {way:?} {trap:?}"));
                }
                self.site.proxy(way).disarm();
            }
            Fault::Reset(way) | Fault::BlackHole(way) | Fault::Delay(way) | Fault::Refuse(way) => {
                self.site.proxy(way).set(Mode::Pass);
            }
            Fault::RestartRabbit | Fault::CrashRabbit => self.control(&["start", "rabbitmq"]).await,
            Fault::MemoryAlarm => {
                self.control(&["rabbitmqctl", "set_vm_memory_high_watermark", "absolute", "1GB"]).await;
            }
            Fault::FullQueue => self.control(&["rabbitmqctl", "clear_policy", "full"]).await,
            Fault::RestartPostgres | Fault::CrashPostgres => self.control(&["start", "postgres"]).await,
            Fault::LockHotRow => self.locker = None,
            Fault::DeleteQueue | Fault::CloseConnections | Fault::TerminateBackends => {}
        }
    }

    async fn delete_queue(&self) {
        let broker = self.site.app.broker().await;
        let channel = broker.create_channel().await.expect("a channel");
        let queue = self.site.app.work_queue();
        let _ = channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await;
        let _ = broker.close(200, "done".into()).await;
    }

    async fn terminate_backends(&self) {
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'earmark'",
        )
        .execute(&mut self.site.app.database().await)
        .await
        .expect("terminated");
    }

    async fn lock_hot_row(&mut self) {
        let mut connection = self.site.app.database().await;
        sqlx::raw_sql("BEGIN; SELECT 1 FROM businesses FOR UPDATE").execute(&mut connection).await.expect("locked");
        self.locker = Some(connection);
    }

    /// Causes some faults of different parts at once, and ends them after a while.
    async fn strike(&mut self, faults: &[Fault], longest: Duration) {
        let numbers: Vec<usize> = faults.iter().map(|_| self.rng.random_range(0..EACH)).collect();
        for (&fault, &number) in faults.iter().zip(&numbers) {
            self.count(fault.kind());
            self.begin(fault, number).await;
        }
        let lasting = longest.mul_f64(self.rng.random_range(0.2..1.0));
        let end = Instant::now() + lasting;
        while Instant::now() < end {
            self.tell_addresses();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (&fault, &number) in faults.iter().zip(&numbers) {
            self.end(fault, number).await;
        }
    }

    /// L1: a request succeeds again soon.
    async fn recover(&mut self) {
        let healed = Instant::now();
        let client = self.load.client.clone();
        self.probes += 1;
        let mut number = 0;
        loop {
            self.tell_addresses();
            let url = self.load.urls.read().expect("the addresses")[0].clone();
            let (client, email) = (client.at(url), format!("probe-{}-{number}@example.com", self.probes));
            number += 1;
            let sending = tokio::time::timeout(Duration::from_secs(4), client.try_create(&email, 1));
            if matches!(sending.await, Ok(Ok(answer)) if answer.status == 200) {
                break;
            }
            let limit = self.recovery;
            assert!(healed.elapsed() < limit, "L1: no success within {limit:?} of the last fault's end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Campaign {
    /// Tries to provoke ghosts. All workers are stopped. For each way of vanishing, a client sends to the patient
    /// intake, vanishes, and retries at the other intake until it is told 500. Then the workers continue and find the
    /// messages of the vanished clients. This repeats until an intake logs that it voided a ghost.
    async fn raise_ghosts(&mut self) -> Vec<Operation> {
        let mut operations = vec![];
        for seance in 0..SEANCES {
            self.signal_workers("STOP");
            let email = |how: Vanishing| format!("ghost-{seance}-{how:?}@example.com").to_lowercase();
            let haunting = join_all(Vanishing::UNSEEN.map(|how| self.haunt(email(how), how))).await;
            let is_haunted = haunting.iter().any(|operation| operation.has_ghost(&Ledger::default()));
            operations.extend(haunting);
            let (before, end) = (self.laid(), Instant::now() + Duration::from_secs(4));
            self.signal_workers("CONT");
            while is_haunted && self.laid() == before && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if is_haunted && self.laid() > before {
                break;
            }
        }
        operations
    }

    /// How many ghosts the patient intake has voided.
    fn laid(&self) -> usize {
        self.processes[&slot(Role::Intake, EACH - 1)].logged(SUPERSEDED)
    }

    async fn haunt(&self, email: String, how: Vanishing) -> Operation {
        let url = |number| self.processes[&slot(Role::Intake, number)].url();
        let (name, key) = (email.clone(), Some(email.clone()));
        let mut operation = Operation { name, asked: Asked::Allocate, email, amount: 7, key, attempts: vec![] };
        let vanishing = Some((Duration::from_millis(50), how));
        for plan in [
            Plan { url: url(EACH - 1), after: Duration::ZERO, vanishing },
            Plan { url: url(0), after: Duration::ZERO, vanishing: None },
        ] {
            operation.attempts.push(self.load.attempt(&operation, plan).await);
        }
        operation
    }
}

/// Counts the ghosts: attempts whose client vanished unnoticed, and which a worker found after a 500 under their key
/// and which were then voided.
fn count_ghosts(superseded: &[String], operations: &[Operation], ledger: &Ledger) -> u64 {
    let haunted: HashSet<&str> = operations
        .iter()
        .filter(|operation| operation.has_ghost(ledger))
        .map(|operation| operation.email.as_str())
        .collect();
    let attempts = operations.iter().flat_map(|operation| &operation.attempts);
    let told: HashSet<&str> = attempts.filter_map(|attempt| attempt.request_id.as_deref()).collect();
    let is_ghost = |id: &&String| {
        let email = ledger.rows.get(*id).and_then(|row| row.email.as_deref());
        !told.contains(id.as_str()) && email.is_some_and(|email| haunted.contains(email))
    };
    superseded.iter().filter(is_ghost).count() as u64
}

/// A5: the books balance in every snapshot, also during the run.
async fn watch_books(database_url: String, stop: CancellationToken, snapshots: Arc<AtomicU64>) {
    let settings =
        postgres::Settings { url: database_url, pool_size: 1, timeout: Duration::from_secs(2), needs_standby: false };
    let postgres = Postgres::new(&settings, "audit").expect("a URL").of_shard(ShardId::new(shard()));
    while !stop.is_cancelled() {
        if let Ok(audit) = audits::audit(&postgres).await {
            assert!(audit.differences.is_empty(), "A5: {audit:#?}");
            snapshots.fetch_add(1, Ordering::Relaxed);
        }
        tokio::select! { () = tokio::time::sleep(Duration::from_millis(500)) => {}, () = stop.cancelled() => {} }
    }
}

/// The faults of a campaign, in order: each once, then as many more as there is time for.
struct Schedule {
    once: Vec<Fault>,
    rng: StdRng,
    end: Instant,
}

impl Schedule {
    fn new(seed: u64, faults: Vec<Fault>, end: Instant) -> Self {
        let (mut rng, mut once) = (StdRng::seed_from_u64(seed.wrapping_add(1)), faults);
        once.shuffle(&mut rng);
        Self { once, rng, end }
    }

    fn next(&mut self, all: &[Fault]) -> Option<Vec<Fault>> {
        let mut chosen = match self.once.pop() {
            Some(fault) => vec![fault],
            None if Instant::now() < self.end => vec![*all.choose(&mut self.rng)?],
            None => return None,
        };
        let more = if self.rng.random_bool(0.3) { self.rng.random_range(1..=2) } else { 0 };
        for _ in 0..more {
            let another = *all.choose(&mut self.rng)?;
            if chosen.iter().all(|fault| fault.subject() != another.subject()) {
                chosen.push(another);
            }
        }
        Some(chosen)
    }
}

fn write_history(seed: u64, operations: &[Operation]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("history-{seed}.jsonl"));
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("a file"));
    for operation in operations {
        serde_json::to_writer(&mut file, operation).expect("written");
        file.write_all(b"\n").expect("written");
    }
    path
}

async fn run(seed: u64, duration: Duration, faults: Vec<Fault>, longest: Duration, recovery: Duration) {
    let Some(servers) = Servers::alone().await else { return };
    println!("seed {seed}");
    let mut campaign = Campaign::start(seed, servers, recovery).await;
    // A crash can make RabbitMQ lose the leader of a new queue. A clean restart first prevents that.
    campaign.control(&["stop", "rabbitmq"]).await;
    campaign.control(&["start", "rabbitmq"]).await;
    campaign.recover().await;
    let (stop, snapshots) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let watching =
        tokio::spawn(watch_books(campaign.site.app.database_url.clone(), stop.clone(), Arc::clone(&snapshots)));
    let loading = tokio::spawn({
        let load = Arc::clone(&campaign.load);
        async move { load.run("user", seed, CLIENTS, HABITS).await }
    });
    let mut schedule = Schedule::new(seed, faults.clone(), Instant::now() + duration);
    while let Some(chosen) = schedule.next(&faults) {
        println!("{:>6} ms  {chosen:?}", campaign.load.start.elapsed().as_millis());
        campaign.strike(&chosen, longest).await;
        campaign.recover().await;
    }
    let ghosts = campaign.raise_ghosts().await;
    campaign.recover().await;
    campaign.load.stop.cancel();
    let mut operations = loading.await.expect("the clients");
    operations.extend(ghosts);
    stop.cancel();
    watching.await.expect("the books balanced all the time");
    let history = write_history(seed, &operations);
    finish(campaign, &mut operations, snapshots.load(Ordering::Relaxed)).await;
    println!("history: {}", history.display());
}

async fn finish(mut campaign: Campaign, operations: &mut Vec<Operation>, snapshots: u64) {
    for (_, process) in std::mem::take(&mut campaign.processes) {
        process.signal("TERM");
        let mut process = process;
        let status = process.ended().await;
        assert!(status.success(), "L3: {status}: {:#?}", process.log());
        campaign.remember(&process);
    }
    // The harness itself sent the probes. They are added here, because the clients' history does not have them.
    let moved = campaign.site.ledger().await.moved;
    operations.extend(moved.keys().filter(|name| name.starts_with("probe-")).map(|name| Operation {
        name: name.clone(),
        amount: 1,
        attempts: vec![Attempt::default()],
        ..Operation::default()
    }));
    let dead_letters = campaign.site.verify(operations).await;
    let ghosts = count_ghosts(&campaign.superseded, operations, &campaign.site.ledger().await);
    println!("operations: {}, answers: {:?}", operations.len(), statuses(operations));
    println!("faults: {:#?}", campaign.counts);
    let seen = |message: &str| campaign.logged.get(message).copied().unwrap_or(0);
    let trapped = |traps: [Trap; 2]| -> u64 {
        let names = traps.map(|trap| format!("{:?} {trap:?}", Way(Role::Worker, Protocol::Postgres)));
        let is_one = |what: &str| names.iter().any(|name| what.contains(name));
        campaign.counts.iter().filter(|(what, _)| is_one(what)).map(|(_, count)| count).sum()
    };
    let ledger = campaign.site.ledger().await;
    let decided = |outcome: &str| ledger.rows.values().filter(|row| row.outcome == outcome).count() as u64;
    let evidence = [
        ("reversals", decided("reversed")),
        ("settlements", decided("settled")),
        ("reversed settlements", decided("settlement_reversed")),
        ("reversals of what was gone", decided("nothing_left") + decided("insufficient_user_balance")),
        ("reversals of voids", decided("not_reversible")),
        ("late successes", seen("late success") + seen("late replay")),
        ("voids", seen("voided")),
        ("voids that beat their message", seen("voided before it arrived")),
        ("messages redelivered", seen("message redelivered")),
        ("commits in doubt", seen("commit in doubt")),
        ("commits lost on the way", trapped(COMMITS_LOST_ON_THE_WAY)),
        ("commits whose answer was lost", trapped(COMMIT_ANSWERS_LOST)),
        ("ghosts that came back to life", ghosts),
        ("snapshots that balanced", snapshots),
    ];
    for (what, count) in evidence {
        println!("{what}: {count}");
    }
    println!("dead letters: {dead_letters}");
    for (what, count) in evidence {
        assert!(count > 0, "a campaign without {what} has proved nothing");
    }
    campaign.site.app.discard().await;
}

/// Runs a selection of the faults that is enough to see each kind of evidence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_campaign_of_faults_breaks_no_promise() {
    let mut faults = all_faults();
    // The failpoints and most traps have tests of their own, and the servers' restarts too.
    faults.retain(|fault| match fault {
        Fault::Failpoint(..) | Fault::RestartRabbit | Fault::CrashRabbit | Fault::RestartPostgres => false,
        Fault::Trap(_, trap) => {
            *trap == REPLY_LOST || COMMITS_LOST_ON_THE_WAY.contains(trap) || COMMIT_ANSWERS_LOST.contains(trap)
        }
        _ => true,
    });
    run(20_261_123, Duration::ZERO, faults, Duration::from_secs(2), RECOVERY_ON_A_BUSY_MACHINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for as long as EARMARK_CHAOS_TIME says: `make chaos`"]
async fn chaos() {
    let time = std::env::var("EARMARK_CHAOS_TIME").unwrap_or_else(|_| "20m".to_owned());
    let duration = humantime::parse_duration(&time).expect("EARMARK_CHAOS_TIME, like 20m");
    let seed = std::env::var("EARMARK_CHAOS_SEED").ok().map(|seed| seed.parse().expect("EARMARK_CHAOS_SEED, a number"));
    run(seed.unwrap_or_else(rand::random), duration, all_faults(), Duration::from_secs(6), RECOVERY).await;
}
