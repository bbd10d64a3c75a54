//! Each failpoint and each decisive message, on a deployment of its own with a little load.

use super::load::{Habits, Load};
use super::site::{Role, Site, Way};
use crate::harness::process::Process;
use crate::harness::proxy::{Moment, Protocol, Side, Trap};
use crate::harness::servers::Servers;
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;

const FEW: Habits = Habits {
    keyed: 0.5,
    hang_up: 0.0,
    vanish: 0.2,
    hedge: 0.2,
    onward: 0.0,
    pause: Duration::from_millis(10),
    operations: 3,
};
/// After the mishap: what an ordinary client does.
const PLAIN: Habits = Habits { keyed: 0.0, vanish: 0.0, hedge: 0.0, operations: 1, ..FEW };
const CLIENTS: u64 = 6;
/// How many deployments run at once.
const SIDE_BY_SIDE: usize = 4;

/// What goes wrong, once.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    /// A process passes an armed failpoint.
    Failpoint(Role, &'static str),
    /// A connection is cut at a decisive message.
    Trap(Way, Trap),
}

/// The result of a scene.
struct Scene {
    successes: usize,
    log: Vec<serde_json::Value>,
}

impl Scene {
    fn logged(&self, message: &str) -> usize {
        self.log.iter().filter(|entry| entry["fields"]["message"] == message).count()
    }
}

/// Plays a scene in which something goes wrong once, and checks that every promise was kept.
async fn play(mishap: Mishap) -> Scene {
    let site = Site::new(Servers::shared()).await;
    let failpoint_of = |role| match mishap {
        Mishap::Failpoint(of, failpoint) if of == role => Some(failpoint),
        _ => None,
    };
    let mut intake = site.spawn(Role::Intake, failpoint_of(Role::Intake));
    let mut worker = site.spawn(Role::Worker, failpoint_of(Role::Worker));
    intake.ready().await;
    worker.ready().await;
    if let Mishap::Trap(way, trap) = mishap {
        site.proxy(way).arm(trap);
    }
    let load = Load::new(site.app.client(&intake, &site.business), vec![intake.url()]);
    let playing = tokio::spawn({
        let load = Arc::clone(&load);
        async move { load.run("user", 1, CLIENTS, FEW).await }
    });
    let mut log = happens(&site, mishap, &mut intake, &mut worker).await;
    *load.urls.write().expect("the addresses") = vec![intake.url()];
    let mut operations = playing.await.expect("played");
    // On a busy machine all of these may have been made before a dead process was replaced.
    operations.extend(load.run("later", 2, 1, PLAIN).await);
    log.extend(intake.terminate().await);
    log.extend(worker.terminate().await);
    site.verify(&operations).await;
    site.app.discard().await;
    let attempts = operations.iter().flat_map(|operation| &operation.attempts);
    Scene { successes: attempts.filter(|attempt| attempt.status == Some(200)).count(), log }
}

/// Waits until the mishap has happened. If a process died of it, replaces that process and returns the log of the dead
/// one.
async fn happens(site: &Site, mishap: Mishap, intake: &mut Process, worker: &mut Process) -> Vec<serde_json::Value> {
    let (role, process) = match mishap {
        Mishap::Trap(way, _) => {
            site.proxy(way).sprung(1).await;
            return vec![];
        }
        Mishap::Failpoint(Role::Intake, failpoint) if failpoint.contains("abort") => (Role::Intake, intake),
        Mishap::Failpoint(Role::Worker, failpoint) if failpoint.contains("abort") => (Role::Worker, worker),
        Mishap::Failpoint(role, _) => {
            let process = if role == Role::Intake { intake } else { worker };
            process.until_logged("failpoint reached").await;
            return vec![];
        }
    };
    process.ended().await;
    let heir = site.spawn(role, None);
    heir.ready().await;
    std::mem::replace(process, heir).log()
}

async fn play_all(mishaps: Vec<Mishap>) -> Vec<(Mishap, Scene)> {
    let scenes = stream::iter(mishaps).map(|mishap| async move {
        let scene = tokio::time::timeout(crate::harness::PATIENCE * 2, play(mishap)).await;
        (mishap, scene.unwrap_or_else(|_| panic!("{mishap:?} did not come to an end")))
    });
    scenes.buffer_unordered(SIDE_BY_SIDE).collect().await
}

fn failpoints(role: Role, points: &[&'static str]) -> Vec<Mishap> {
    points.iter().map(|point| Mishap::Failpoint(role, point)).collect()
}

fn trap(role: Role, protocol: Protocol, at: Moment, side: Side) -> Mishap {
    Mishap::Trap(Way(role, protocol), Trap { at, side })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intake_may_die_or_panic_at_each_of_these_failpoints() {
    // before-void and after-void are missing here: an intake passes them only when it gives up on a request. The last
    // test in this file has them.
    let points = [
        "after-validation=abort@3",
        "before-publish=abort@3",
        "after-publish=abort@3",
        "before-answer=abort@3",
        "after-validation=panic@3",
        "before-publish=panic@3",
        "after-publish=panic@3",
        "before-answer=panic@3",
    ];
    for (mishap, scene) in play_all(failpoints(Role::Intake, &points)).await {
        assert!(scene.successes > 0, "{mishap:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_die_or_panic_at_each_of_these_failpoints() {
    let points = [
        "after-gather=abort",
        "after-lock=abort",
        "after-write=abort",
        "before-commit=abort@2",
        "after-commit=abort@2",
        "before-reply=abort@2",
        "before-acknowledge=abort@2",
        "after-gather=panic@2",
        "after-lock=panic",
        "before-commit=panic@2",
        "after-commit=panic@2",
        "before-reply=panic@2",
        "before-acknowledge=panic@2",
    ];
    for (mishap, scene) in play_all(failpoints(Role::Worker, &points)).await {
        assert!(scene.successes > 0, "{mishap:?}");
        assert!(scene.logged("message redelivered") > 0, "{mishap:?}: no message came again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_hang_at_each_of_these_failpoints_for_longer_than_anybody_waits() {
    let points = [
        "after-gather=hold:2500ms@2",
        "after-lock=hold:2500ms",
        "before-commit=hold:2500ms@2",
        "before-reply=hold:2500ms@2",
        "before-acknowledge=hold:2500ms@2",
    ];
    for (mishap, scene) in play_all(failpoints(Role::Worker, &points)).await {
        let resolved = scene.logged("voided") + scene.logged("late success") + scene.logged("late replay");
        assert!(resolved > 0, "{mishap:?}: no intake gave up and resolved a request");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_one_debit_whether_it_arrived_or_not() {
    // The first batch is settled step by step, the others in one statement that commits by itself.
    let at = |moment, side| trap(Role::Worker, Protocol::Postgres, moment, side);
    let moments = [Moment::Commit, Moment::Statement("settle_batch")];
    let mishaps = moments.into_iter().flat_map(|moment| [at(moment, Side::Before), at(moment, Side::After)]);
    for (mishap, scene) in play_all(mishaps.collect()).await {
        assert!(scene.logged("commit in doubt") > 0, "{mishap:?}");
        assert!(scene.successes > 0, "{mishap:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_is_a_late_success() {
    let at = |moment, side| trap(Role::Worker, Protocol::Amqp, moment, side);
    let replies = Moment::Publish(".replies.");
    for (mishap, scene) in play_all(vec![at(replies, Side::Before)]).await {
        assert!(scene.logged("late success") + scene.logged("late replay") > 0, "{mishap:?}");
    }
    let others = vec![
        at(replies, Side::After),
        at(Moment::Ack, Side::Before),
        at(Moment::Ack, Side::After),
        at(Moment::Deliver, Side::Before),
    ];
    for (mishap, scene) in play_all(others).await {
        assert!(scene.successes > 0, "{mishap:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_publish_is_never_taken_for_one_that_did_not_happen() {
    let at = |moment, side| trap(Role::Intake, Protocol::Amqp, moment, side);
    let publish = Moment::Publish(".allocations");
    for (mishap, scene) in
        play_all(vec![at(publish, Side::Before), at(publish, Side::After), at(Moment::Deliver, Side::Before)]).await
    {
        assert!(scene.logged("resolving") > 0, "{mishap:?}");
        assert!(scene.successes > 0, "{mishap:?}");
    }
}

/// Makes the intake give up on every request, because no worker runs. Then a failpoint or a trap hits the intake while
/// it gives up.
async fn play_resolution(failpoint: Option<&'static str>, at: Option<Trap>) {
    let site = Site::new(Servers::shared()).await;
    // No worker runs later, so the intake gives up on every request.
    let mut intake = site.spawn(Role::Intake, failpoint);
    // The worker only declares the queues. Without them, requests would be returned as unroutable and given up on at
    // once.
    let worker = site.spawn(Role::Worker, None);
    intake.ready().await;
    worker.ready().await;
    worker.terminate().await;
    if let Some(trap) = at {
        site.proxy(Way(Role::Intake, Protocol::Postgres)).arm(trap);
    }
    let load = Load::new(site.app.client(&intake, &site.business), vec![intake.url()]);
    let habits = Habits { operations: 1, ..FEW };
    let playing = tokio::spawn({
        let load = Arc::clone(&load);
        async move { load.run("user", 2, CLIENTS, habits).await }
    });
    if let Some(trap) = at {
        site.proxy(Way(Role::Intake, Protocol::Postgres)).sprung(1).await;
        assert!(!site.proxy(Way(Role::Intake, Protocol::Postgres)).is_armed(), "{trap:?}");
    }
    if failpoint.is_some_and(|failpoint| failpoint.contains("abort")) {
        intake.ended().await;
        intake = site.spawn(Role::Intake, None);
        intake.ready().await;
        *load.urls.write().expect("the addresses") = vec![intake.url()];
    } else if failpoint.is_some() {
        intake.until_logged("failpoint reached").await;
    }
    let operations = playing.await.expect("played");
    intake.terminate().await;
    // A request that was answered 500 must not be debited when a worker finds its message later.
    site.verify(&operations).await;
    site.app.discard().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_up_may_be_cut_off_at_every_point() {
    let before = |at| Some(Trap { at, side: Side::Before });
    let after = |at| Some(Trap { at, side: Side::After });
    let void = Moment::Statement("write_voids");
    let scenes = [
        (Some("before-void=abort"), None),
        (Some("before-void=panic"), None),
        (Some("after-void=abort"), None),
        (Some("after-void=panic"), None),
        (Some("before-void=hold:2500ms"), None),
        (None, before(void)),
        (None, after(void)),
        (None, before(Moment::Commit)),
        (None, after(Moment::Commit)),
    ];
    let playing = stream::iter(scenes).map(|(failpoint, at)| async move {
        let playing = tokio::time::timeout(crate::harness::PATIENCE * 2, play_resolution(failpoint, at)).await;
        playing.unwrap_or_else(|_| panic!("{failpoint:?} {at:?} did not come to an end"));
    });
    playing.buffer_unordered(SIDE_BY_SIDE).collect::<Vec<()>>().await;
}
