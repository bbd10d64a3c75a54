//! A ghost is an attempt under a key whose client has vanished without its intake noticing.
//!
//! An intake with a long timeout receives the ghost. Then another intake answers 500 to the client's retry under the
//! same key. When a worker finds the ghost later, the ghost must be voided and the key must stay as it is.

use crate::harness::http::{Answer, Client};
use crate::harness::process::Process;
use crate::harness::proxy::{Protocol, Proxy};
use crate::harness::raw::{Line, Vanishing, Written};
use crate::harness::{App, Business, PATIENCE, assert_allocated, authority, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// This intake waits longer than a test takes to start a worker.
const SLOW: [(&str, &str); 4] = [
    ("EARMARK_REPLY_TIMEOUT", "20s"),
    ("EARMARK_SETTLE_TIMEOUT", "1s"),
    ("EARMARK_RESOLVE_TIMEOUT", "2s"),
    ("EARMARK_SHUTDOWN_GRACE", "25s"),
];
const QUICK: [(&str, &str); 4] = [
    ("EARMARK_REPLY_TIMEOUT", "1s"),
    ("EARMARK_SETTLE_TIMEOUT", "1s"),
    ("EARMARK_RESOLVE_TIMEOUT", "2s"),
    ("EARMARK_SHUTDOWN_GRACE", "5s"),
];

/// Two intakes and no worker. Each key has its own payout user, who is to get 10 cents.
struct Scene {
    app: App,
    business: Business,
    slow: Process,
    quick: Process,
}

fn email(key: &str) -> String {
    format!("{key}@example.com")
}

async fn send(request: &Written, vanishing: Option<Vanishing>) -> Line {
    let mut line = Line::open(request, vanishing).await.expect("connected");
    line.send(request).await.expect("sent");
    line
}

/// Sends a request's head alone, and waits until its intake asks for the body.
async fn announce(request: &Written) -> Line {
    let mut line = Line::open(request, None).await.expect("connected");
    line.announce(request, PATIENCE).await.expect("announced");
    assert!(line.received.is_some(), "the intake asks for the body");
    line
}

impl Scene {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same, with more settings for the slow intake.
    async fn with(more: &[(&'static str, &str)]) -> Self {
        let app = App::new().await;
        let business = app.create_business(1_000_000);
        // The worker declares the queue.
        app.start("worker").await.terminate().await;
        let slow = app.start_with("intake", &[&SLOW, more].concat()).await;
        let quick = app.start_with("intake", &QUICK).await;
        Self { app, business, slow, quick }
    }

    fn client(&self, intake: &Process) -> Client {
        self.app.client(intake, &self.business)
    }

    fn request(&self, intake: &Process, key: &str) -> Written {
        let request = self.client(intake).create_request(&email(key), 10);
        Written::new(request.header("Idempotency-Key", key))
    }

    async fn create(&self, intake: &Process, key: &str) -> Answer {
        self.client(intake).create_with_key(key, &email(key), 10).await
    }

    async fn send(&self, intake: &Process, key: &str) -> Line {
        send(&self.request(intake, key), None).await
    }

    /// Sends one attempt for each key to the slow intake, and waits until each is published.
    async fn attempts(&self, keys: &[&str], vanishing: Option<Vanishing>) -> Vec<Line> {
        let mut lines = vec![];
        for key in keys {
            lines.push(send(&self.request(&self.slow, key), vanishing).await);
            self.app.until_queue_holds(&self.app.work_queue(), lines.len() as u32).await;
        }
        lines
    }

    /// The client tries again at the quick intake, and is told that nothing was debited under the key.
    async fn deny(&self, key: &str) {
        let denied = self.create(&self.quick, key).await;
        assert_eq!((denied.status, denied.header("earmark-debited")), (500, Some("no")), "{denied:?}");
    }

    async fn deny_all(&self, keys: &[&str]) {
        join_all(keys.iter().map(|key| self.deny(key))).await;
    }

    async fn epoch(&self, key: &str) -> i64 {
        sqlx::query_scalar("SELECT epoch FROM idempotency_keys WHERE key = $1")
            .bind(key)
            .fetch_one(&mut self.app.database().await)
            .await
            .expect("the key")
    }

    /// Checks that every ghost is found and voided, and that no key changes. A worker must be running.
    async fn assert_laid(&self, keys: &[&str]) {
        let (app, slow) = (&self.app, &self.slow);
        let done = || slow.logged("superseded") + slow.logged("resolving");
        eventually("each ghost is voided, or one was applied", async || {
            done() >= keys.len() || app.count("allocated").await > 0
        })
        .await;
        assert_eq!(app.count("allocated").await, 0, "A1k: applied after a 500 under its key");
        assert_eq!(slow.logged("superseded"), keys.len());
        for key in keys {
            assert_eq!(self.client(&self.quick).user_balance(&email(key)).await, 0, "A1k: {key}");
            assert_eq!(self.epoch(key).await, 1, "the void of the ghost must not raise the key: {key}");
        }
    }

    /// Checks that a retry succeeds: at once at the intake that answered 500, and at the slow intake as soon as that
    /// one knows of the key's new epoch.
    async fn assert_retry(&self, intake: &Process, key: &str) {
        let end = Instant::now() + PATIENCE;
        let mut answer = self.create(intake, key).await;
        while answer.status == 503 && std::ptr::eq(intake, &self.slow) {
            assert_superseded(&answer);
            assert!(Instant::now() < end, "the retry is not let through");
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer = self.create(intake, key).await;
        }
        assert_allocated(&answer);
        assert_eq!(answer.header("idempotent-replayed"), None, "{answer:?}");
        assert_eq!(self.client(intake).user_balance(&email(key)).await, 10);
    }

    /// Waits until the slow intake knows every raise of an epoch so far. The key `probe` was raised last, so the intake
    /// knows them all when it accepts a retry of `probe`.
    async fn refreshed(&self) {
        self.assert_retry(&self.slow, "probe").await;
    }

    async fn finish(self, worker: Process) {
        self.app.finish([self.slow, self.quick, worker]).await;
    }
}

fn assert_superseded(answer: &Answer) {
    let header = |name| answer.header(name);
    let told = (answer.status, header("earmark-debited"), header("retry-after"));
    assert_eq!(told, (503, Some("no"), Some("1")), "{answer:?}");
    assert_eq!(
        answer.json(),
        json!({"error": "Service temporarily unavailable. No funds were debited by this request."})
    );
}

/// Two clients vanish in this way. One retries at the intake that answered 500, the other at the intake that has its
/// ghost.
async fn vanish_and_be_denied(how: Vanishing) {
    let scene = Scene::new().await;
    let mut ghosts = vec![];
    for line in scene.attempts(&["ann", "bob"], Some(how)).await {
        ghosts.push(line.vanish(how).await);
    }
    scene.deny_all(&["ann", "bob"]).await;
    let worker = scene.app.start("worker").await;
    scene.assert_laid(&["ann", "bob"]).await;
    scene.assert_retry(&scene.quick, "ann").await;
    scene.assert_retry(&scene.slow, "bob").await;
    drop(ghosts);
    scene.finish(worker).await;
}

#[tokio::test]
async fn a_client_that_falls_silent_is_not_paid_after_a_500_under_its_key() {
    vanish_and_be_denied(Vanishing::Silence).await;
}

#[tokio::test]
async fn a_client_that_closes_behind_a_line_break_is_not_paid_after_a_500_under_its_key() {
    vanish_and_be_denied(Vanishing::ByteBehind).await;
}

#[tokio::test]
async fn a_client_that_closes_behind_a_second_request_is_not_paid_after_a_500_under_its_key() {
    vanish_and_be_denied(Vanishing::RequestBehind).await;
}

#[tokio::test]
async fn a_client_that_closes_its_half_is_not_paid_after_a_500_under_its_key() {
    vanish_and_be_denied(Vanishing::HalfClose).await;
}

#[tokio::test]
async fn a_client_behind_a_partition_is_not_paid_after_a_500_under_its_key() {
    vanish_and_be_denied(Vanishing::Partition).await;
}

#[tokio::test]
async fn an_intake_that_reads_the_reply_before_it_sees_its_client_gone_pays_nobody_after_a_500() {
    let scene = Scene::new().await;
    // Some clients close while the intake is frozen, and some just after it continues. So the intake may see the reply
    // first or the close first.
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut lines = scene.attempts(&keys, None).await;
    scene.slow.signal("STOP");
    scene.deny_all(&keys).await;
    let worker = scene.app.start("worker").await;
    eventually("both attempts of each are decided", async || scene.app.count("voided").await == 16).await;
    let later = lines.split_off(4);
    drop(lines);
    scene.slow.signal("CONT");
    for line in later {
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(line);
    }
    scene.assert_laid(&keys).await;
    scene.assert_retry(&scene.quick, "a").await;
    scene.assert_retry(&scene.slow, "b").await;
    scene.finish(worker).await;
}

#[tokio::test]
async fn of_two_attempts_at_once_none_is_paid_once_the_other_was_told_500() {
    let scene = Scene::new().await;
    let mut first = scene.attempts(&["ann"], None).await.remove(0);
    scene.deny("ann").await;
    let worker = scene.app.start("worker").await;
    scene.assert_laid(&["ann"]).await;
    let superseded = first.hear().await.expect("an answer");
    assert_superseded(&superseded);
    let shown = scene.client(&scene.quick).get(&format!("/payout/requests/{}", superseded.request_id())).await.json();
    assert_eq!((&shown["state"], &shown["email"]), (&json!("voided"), &json!("ann@example.com")));
    scene.assert_retry(&scene.quick, "ann").await;
    scene.finish(worker).await;
}

#[tokio::test]
async fn of_two_attempts_at_once_none_is_told_500_once_the_other_was_paid() {
    let scene = Scene::new().await;
    let mut first = scene.attempts(&["ann"], None).await.remove(0);
    // The third intake is frozen when it has given up waiting and has not voided anything yet.
    let held = [
        ("EARMARK_FAILPOINT", "before-void=hold:1s"),
        ("EARMARK_REPLY_TIMEOUT", "1s"),
        ("EARMARK_RESOLVE_TIMEOUT", "20s"),
    ];
    let third = scene.app.start_with("intake", &[&SLOW[..], &held].concat()).await;
    let mut second = scene.send(&third, "ann").await;
    third.until_logged("failpoint reached").await;
    third.signal("STOP");
    let worker = scene.app.start("worker").await;
    assert_allocated(&first.hear().await.expect("an answer"));
    third.signal("CONT");
    let replayed = second.hear().await.expect("an answer");
    assert_allocated(&replayed);
    assert_eq!(replayed.header("idempotent-replayed"), Some("true"));
    assert_eq!(scene.client(&scene.slow).user_balance("ann@example.com").await, 10);
    scene.app.finish([scene.slow, scene.quick, third, worker]).await;
}

/// Delays an attempt between its receipt and its publication. With `is_frozen`, the whole intake is stopped meanwhile.
async fn publish_late(is_frozen: bool) {
    let scene = Scene::with(&[("EARMARK_FAILPOINT", "after-validation=hold:3s")]).await;
    let mut line = scene.send(&scene.slow, "ann").await;
    scene.slow.until_logged("failpoint reached").await;
    if is_frozen {
        scene.slow.signal("STOP");
    }
    scene.deny("ann").await;
    let worker = scene.app.start("worker").await;
    scene.slow.signal("CONT");
    scene.assert_laid(&["ann"]).await;
    assert_superseded(&line.hear().await.expect("an answer"));
    scene.assert_retry(&scene.slow, "ann").await;
    scene.finish(worker).await;
}

#[tokio::test]
async fn an_attempt_that_is_published_late_comes_to_nothing() {
    publish_late(false).await;
}

#[tokio::test]
async fn an_attempt_in_an_intake_that_freezes_before_it_publishes_comes_to_nothing() {
    publish_late(true).await;
}

#[tokio::test]
async fn an_attempt_is_received_when_its_head_is_however_late_its_body() {
    let scene = Scene::new().await;
    let request = scene.request(&scene.slow, "ann");
    let mut line = announce(&request).await;
    scene.deny("ann").await;
    scene.deny("probe").await;
    let worker = scene.app.start("worker").await;
    scene.refreshed().await;
    line.say_body(&request).await.expect("sent");
    let answer = line.hear().await.expect("an answer");
    assert_superseded(&answer);
    assert_eq!((scene.client(&scene.slow).user_balance("ann@example.com").await, scene.epoch("ann").await), (0, 1));
    scene.assert_retry(&scene.slow, "ann").await;
    scene.finish(worker).await;
}

#[tokio::test]
async fn a_ghost_leaves_its_owners_next_attempt_alone() {
    let scene = Scene::new().await;
    let broker = authority(&scene.app.amqp_url).parse().expect("an address");
    let proxy = Proxy::start(Protocol::Amqp, broker).await.expect("a proxy");
    let through = scene.app.amqp_url.replace(authority(&scene.app.amqp_url), &proxy.address().to_string());
    // The third intake waits as long as the slow one. Its wait ends because it loses its broker.
    let third = scene.app.start_with("intake", &[&SLOW[..], &[("AMQP_URL", through.as_str())]].concat()).await;
    let ghosts = scene.attempts(&["ann"], None).await;
    let mut denied = scene.send(&third, "ann").await;
    scene.app.until_queue_holds(&scene.app.work_queue(), 2).await;
    proxy.reset_all();
    assert_eq!(denied.hear().await.expect("an answer").status, 500);
    eventually("it is back", async || third.is_ready().await).await;
    let mut retry = scene.send(&third, "ann").await;
    scene.app.until_queue_holds(&scene.app.work_queue(), 3).await;
    // The worker finds the ghost and the retry together.
    let worker = scene.app.start("worker").await;
    let answer = retry.hear().await.expect("an answer");
    assert_allocated(&answer);
    assert_eq!(answer.header("idempotent-replayed"), None);
    eventually("the ghost is voided", async || scene.slow.logged("superseded") == 1).await;
    assert_eq!((scene.client(&third).user_balance("ann@example.com").await, scene.epoch("ann").await), (10, 1));
    drop(ghosts);
    scene.app.finish([scene.slow, scene.quick, third, worker]).await;
}

#[tokio::test]
async fn a_retry_succeeds_at_once_at_the_intake_that_said_500() {
    let scene = Scene::new().await;
    let worker = scene.app.start("worker").await;
    worker.signal("STOP");
    let keys = ["a", "b", "c", "d", "e"];
    scene.deny_all(&keys).await;
    worker.signal("CONT");
    join_all(keys.iter().map(|key| scene.assert_retry(&scene.quick, key))).await;
    scene.finish(worker).await;
}

fn items() -> Value {
    json!([{"email": "ann@example.com", "amount": 10}, {"email": "bob@example.com", "amount": 10}])
}

fn statuses(answer: &Answer) -> Vec<u64> {
    let shown = answer.json();
    let results = shown["results"].as_array().unwrap_or_else(|| panic!("no results: {answer:?}"));
    results.iter().map(|result| result["status"].as_u64().expect("a status")).collect()
}

impl Scene {
    fn bulk_request(&self, intake: &Process) -> Written {
        Written::new(self.client(intake).bulk_request(&items()).header("Idempotency-Key", "friday"))
    }

    async fn create_all(&self, intake: &Process) -> Vec<u64> {
        statuses(&self.client(intake).create_all_with_key("friday", &items()).await)
    }
}

#[tokio::test]
async fn the_items_of_a_bulk_call_whose_client_is_silent_are_not_paid_after_a_500_under_its_key() {
    let scene = Scene::new().await;
    let mut line = send(&scene.bulk_request(&scene.slow), None).await;
    eventually("it is published", async || scene.app.ready_messages(&scene.app.work_queue()).await > 0).await;
    assert_eq!(scene.create_all(&scene.quick).await, [500, 500]);
    let worker = scene.app.start("worker").await;
    assert_superseded(&line.hear().await.expect("an answer"));
    assert_eq!((scene.app.count("voided").await, scene.app.count("allocated").await), (4, 0), "A1k");
    assert_eq!((scene.epoch("friday 0").await, scene.epoch("friday 1").await), (1, 1));
    assert_eq!(scene.create_all(&scene.quick).await, [200, 200]);
    scene.finish(worker).await;
}

#[tokio::test]
async fn the_items_of_a_bulk_call_are_received_when_its_head_is() {
    let scene = Scene::new().await;
    let request = scene.bulk_request(&scene.slow);
    let mut line = announce(&request).await;
    assert_eq!(scene.create_all(&scene.quick).await, [500, 500]);
    scene.deny("probe").await;
    let worker = scene.app.start("worker").await;
    scene.refreshed().await;
    line.say_body(&request).await.expect("sent");
    assert_superseded(&line.hear().await.expect("an answer"));
    assert_eq!(scene.create_all(&scene.slow).await, [200, 200]);
    scene.finish(worker).await;
}

#[tokio::test]
async fn an_item_of_a_bulk_call_that_waits_for_room_was_received_with_the_call() {
    // The intake works on one item at a time. The answer to the first item is held back, so the second one waits.
    let scene = Scene::with(&[("EARMARK_MAX_IN_FLIGHT", "2"), ("EARMARK_FAILPOINT", "before-answer=hold:8s")]).await;
    let worker = scene.app.start("worker").await;
    let mut line = send(&scene.bulk_request(&scene.slow), None).await;
    scene.slow.until_logged("failpoint reached").await;
    worker.signal("STOP");
    // Either item may be the first.
    let told = scene.create_all(&scene.quick).await;
    assert!([[200, 500], [500, 200]].contains(&[told[0], told[1]]), "{told:?}");
    scene.deny("probe").await;
    worker.signal("CONT");
    scene.refreshed().await;
    let answer = line.hear().await.expect("an answer");
    let expected: Vec<u64> = told.iter().map(|status| if *status == 500 { 503 } else { 200 }).collect();
    assert_eq!(statuses(&answer), expected, "{answer:?}");
    let denied = if told[0] == 500 { "ann@example.com" } else { "bob@example.com" };
    assert_eq!(scene.client(&scene.slow).user_balance(denied).await, 0, "A1k");
    assert_eq!(scene.create_all(&scene.quick).await, [200, 200]);
    scene.finish(worker).await;
}
