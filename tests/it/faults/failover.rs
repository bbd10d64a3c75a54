//! The primary of Postgres is lost, and its synchronous standby takes over. The proxies stand for the address that moves from
//! one server to the other.

use super::load::{Habits, Load};
use super::site::{Role, Site};
use super::told::{Operation, statuses};
use crate::harness::eventually;
use crate::harness::process::Process;
use crate::harness::servers::Servers;
use earmark::clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const CALLERS: u64 = 16;
const HABITS: Habits = Habits {
    keyed: 0.3,
    hang_up: 0.0,
    vanish: 0.0,
    hedge: 0.0,
    onward: 0.3,
    pause: Duration::from_millis(20),
    operations: usize::MAX,
};
/// The first success must come this soon after the promotion (L1).
const RECOVERY: Duration = Duration::from_secs(10);

/// A deployment whose primary has a standby, and callers that go on until the end.
struct Scene {
    site: Site,
    primary_url: String,
    standby_url: String,
    intake: Process,
    worker: Process,
    load: Arc<Load>,
    calling: JoinHandle<Vec<Operation>>,
    /// What this test has asked for itself.
    asked: Vec<Operation>,
}

impl Scene {
    /// `None` if this test run cannot have a standby.
    async fn begin() -> Option<Self> {
        let servers = Servers::pair().await?;
        let (primary_url, standby_url) = (servers.postgres_url.clone(), servers.standby_url.clone()?);
        let site = Site::new(servers).await;
        let (intake, worker) = (site.spawn(Role::Intake, None), site.spawn(Role::Worker, None));
        intake.ready().await;
        worker.ready().await;
        let load = Load::new(site.app.client(&intake, &site.business), vec![intake.url()]);
        let calling = tokio::spawn({
            let load = Arc::clone(&load);
            async move { load.run("user", 1, CALLERS, HABITS).await }
        });
        Some(Self { site, primary_url, standby_url, intake, worker, load, calling, asked: vec![] })
    }

    async fn control(&self, arguments: &[&str]) {
        self.site.app.servers().control(arguments).await;
    }

    /// Makes so many requests one after the other, and returns their statuses.
    async fn ask(&mut self, operations: usize) -> Vec<Option<u16>> {
        let name = format!("asked-{}", self.asked.len());
        let told = self.load.run(&name, 2, 1, Habits { keyed: 0.0, onward: 0.0, operations, ..HABITS }).await;
        let statuses = told.iter().flat_map(|operation| &operation.attempts).map(|attempt| attempt.status).collect();
        self.asked.extend(told);
        statuses
    }

    async fn until_paid(&mut self) {
        let since = Instant::now();
        while self.ask(1).await != [Some(200)] {
            let logs = || [self.intake.log(), self.worker.log()];
            assert!(since.elapsed() < RECOVERY, "no success within {RECOVERY:?}: {:#?}", logs());
        }
    }

    /// Waits until both processes say why they are not ready. From then on every request is refused.
    async fn until_both_say(&mut self, words: &str) {
        until_says(&self.intake, &format!("intake: {words}")).await;
        until_says(&self.worker, &format!("worker: {words}")).await;
        // The directory and the shard are watched apart, so the shard may be some milliseconds behind.
        let since = Instant::now();
        while self.ask(1).await != [Some(503)] {
            assert!(since.elapsed() < RECOVERY, "{:#?}", self.intake.log());
        }
        let told = self.ask(50).await;
        assert!(told.iter().all(|status| *status == Some(503)), "nothing is published: {told:?}");
    }

    /// Ends the load, and checks everything that was told against the ledger of the new primary.
    async fn end(self, promoted: i64) {
        self.load.stop.cancel();
        let mut operations = self.calling.await.expect("the callers");
        operations.extend(self.asked);
        self.intake.terminate().await;
        self.worker.terminate().await;
        let attempts = operations.iter().flat_map(|operation| &operation.attempts);
        let paid: Vec<_> = attempts.filter(|attempt| attempt.status == Some(200)).collect();
        let first =
            paid.iter().filter(|attempt| attempt.ended >= promoted).map(|attempt| attempt.ended - promoted).min();
        eprintln!("first 200 {first:?} ms after the promotion; told: {:?}", statuses(&operations));
        assert!(first.is_some_and(|first| u128::from(first.unsigned_abs()) < RECOVERY.as_millis()), "{first:?}");
        assert!(paid.iter().any(|attempt| attempt.ended < promoted), "somebody was paid by the old primary");
        self.site.verify(&operations).await;
        self.site.app.discard().await;
    }
}

/// Waits until the process says why it is not ready.
async fn until_says(process: &Process, words: &str) {
    let expected = Some((503, format!("{words}\n")));
    eventually(words, async || process.readiness().await == expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_has_all_that_was_answered_and_the_old_primary_is_refused() {
    let Some(mut scene) = Scene::begin().await else { return };
    scene.until_paid().await;
    scene.control(&["stop", "primary", "--immediate"]).await;
    scene.control(&["promote"]).await;
    let promoted = clock::now_millis();
    let (old, new) = (scene.primary_url.clone(), scene.standby_url.clone());
    scene.site.lead_to(&new);
    scene.until_paid().await;
    // The old primary comes back as it was, and the address leads to it.
    scene.control(&["start", "primary"]).await;
    scene.site.lead_to(&old);
    scene.until_both_say("postgres refuses this program; the log says why").await;
    for process in [&scene.intake, &scene.worker] {
        let why = "this Postgres was the primary before another was promoted: it is on timeline 1";
        assert!(process.log().iter().any(|line| line.to_string().contains(why)), "{:#?}", process.log());
    }
    // A process that knows of no other finds that no standby confirms its commits.
    let newcomer = scene.site.spawn(Role::Intake, None);
    until_says(&newcomer, "intake: postgres does not answer in time, or waits for its standby").await;
    newcomer.terminate().await;
    scene.site.lead_to(&new);
    scene.intake.ready().await;
    scene.worker.ready().await;
    scene.until_paid().await;
    scene.end(promoted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_not_promoted_yet_is_refused_at_once_and_used_soon_after_its_promotion() {
    let Some(mut scene) = Scene::begin().await else { return };
    scene.until_paid().await;
    scene.control(&["stop", "primary", "--immediate"]).await;
    let new = scene.standby_url.clone();
    scene.site.lead_to(&new);
    scene.until_both_say("postgres is read-only").await;
    scene.control(&["promote"]).await;
    let promoted = clock::now_millis();
    scene.until_paid().await;
    scene.end(promoted).await;
}
