//! Several relays: they share the endpoints, take over from each other, and none undoes what another has done.

use super::{ANN, LOCAL, SECONDS, create, deliveries, id_of, shown, until_seqs};
use crate::harness::hook::{Hook, Reply};
use crate::harness::{App, eventually};
use crate::reversals::allocate;
use earmark::clock;
use earmark::ledger::Delivery;
use earmark::ledger::webhooks::{Change, Next};
use earmark::postgres::webhooks::{self, Tried};
use futures_util::future::join_all;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// An answer that does not come while the test runs.
fn never() -> Reply {
    Reply::status(500).after(Duration::from_secs(3_600))
}

#[tokio::test]
async fn each_endpoint_is_in_one_relays_hands_at_a_time() {
    let app = App::new().await;
    let hook = Hook::start().await;
    let (intake, worker) = (app.start_with("intake", &[LOCAL]).await, app.start("worker").await);
    let mut relays = vec![];
    for _ in 0..3 {
        // Each has so few places that it leaves work to the others.
        relays.push(app.start_with("relay", &[LOCAL, ("EARMARK_RELAY_PLACES", "8")]).await);
    }
    relays.iter().for_each(|relay| relay.signal("STOP"));
    let clients: Vec<_> = (0..4).map(|_| app.client(&intake, &app.create_business(10_000))).collect();
    let mut paths = vec![];
    for (business, client) in clients.iter().enumerate() {
        for number in 0..10 {
            let path = format!("/{business}/{number}");
            create(client, &hook.at(&path)).await;
            paths.push(path);
        }
    }
    // No answer comes until all of them have their hands full.
    hook.hold(true);
    relays.iter().for_each(|relay| relay.signal("CONT"));
    // A quarter of the places is for endpoints that fail.
    eventually("each relay delivers in all its places", async || hook.count() == 3 * 6).await;
    hook.hold(false);
    for _ in 0..15 {
        for client in &clients {
            allocate(client, ANN, 1).await;
        }
    }
    let all: Vec<i64> = (1..=16).collect();
    for path in &paths {
        until_seqs(&hook, path, &all).await;
    }
    let delivered = r#"earmark_webhook_deliveries_total{result="delivered"}"#;
    let counted = async || {
        let shares = relays.iter().map(async |relay| relay.metric(delivered).await.unwrap_or_default());
        join_all(shares).await
    };
    // A delivery is counted after its answer has come.
    eventually("each delivery is counted", async || counted().await.iter().sum::<f64>() >= 40.0 * 16.0).await;
    let shares = counted().await;
    assert_eq!(shares.iter().sum::<f64>(), 40.0 * 16.0, "{shares:?}");
    assert!(shares.iter().all(|share| *share >= 6.0), "all had a share: {shares:?}");
    app.finish(relays.into_iter().chain([intake, worker])).await;
}

#[tokio::test]
async fn what_a_killed_relay_had_in_hand_is_delivered_by_another_within_seconds() {
    let app = App::new().await;
    let business = app.create_business(10_000);
    let hook = Hook::start().await;
    let intake = app.start_with("intake", &[LOCAL]).await;
    let worker = app.start("worker").await;
    let mut first = app.start_with("relay", &[LOCAL]).await;
    let client = app.client(&intake, &business);
    hook.answers("/a", never());
    let id = id_of(&create(&client, &hook.at("/a")).await);
    eventually("the first relay delivers", async || hook.got("/a").len() == 1).await;
    let second = app.start_with("relay", &[LOCAL]).await;
    hook.answers("/a", None);
    let since = Instant::now();
    first.kill().await;
    eventually("the second delivers", async || hook.got("/a").len() == 2).await;
    assert!(since.elapsed() < SECONDS, "{:?}", since.elapsed());
    println!("taken over after {:?}", since.elapsed());
    allocate(&client, ANN, 1).await;
    until_seqs(&hook, "/a", &[1, 1, 2]).await;
    eventually("it is noted", async || shown(&client, &id).await["cursor"] == 2).await;
    app.finish([intake, worker, second]).await;
}

#[tokio::test]
async fn a_relay_that_was_frozen_moves_no_cursor_that_another_holds() {
    let app = App::new().await;
    let business = app.create_business(10_000);
    let hook = Hook::start().await;
    let intake = app.start_with("intake", &[LOCAL]).await;
    let worker = app.start("worker").await;
    let frozen = app.start_with("relay", &[LOCAL]).await;
    let client = app.client(&intake, &business);
    // While the relay is frozen its endpoint answers that it is gone for good, which would disable it.
    hook.answers("/a", Reply::status(410).after(Duration::from_secs(3)));
    let id = id_of(&create(&client, &hook.at("/a")).await);
    eventually("it delivers", async || hook.got("/a").len() == 1).await;
    frozen.signal("STOP");
    hook.answers("/a", None);
    let other = app.start_with("relay", &[LOCAL]).await;
    until_seqs(&hook, "/a", &[1, 1]).await;
    eventually("the cursor moves", async || shown(&client, &id).await["cursor"] == 1).await;
    frozen.signal("CONT");
    eventually("the frozen one has its answer", async || {
        frozen.metric(r#"earmark_webhook_deliveries_total{result="gone"}"#).await == Some(1.0)
    })
    .await;
    for number in 2..6 {
        allocate(&client, ANN, 1).await;
        eventually("the next comes", async || shown(&client, &id).await["cursor"] == number).await;
    }
    until_seqs(&hook, "/a", &[1, 1, 2, 3, 4, 5]).await;
    let now = shown(&client, &id).await;
    assert_eq!((&now["state"], &now["waiting"]), (&json!("sound"), &json!(0)), "{now}");
    let tried = deliveries(&client, &id).await;
    assert!(tried.iter().all(|one| one["result"] == "delivered"), "{tried:?}");
    assert_eq!(tried.len(), 5);
    app.finish([intake, worker, frozen, other]).await;
}

#[tokio::test]
async fn every_event_comes_at_least_once_and_in_order_while_relays_are_killed() {
    let app = App::new().await;
    let business = app.create_business(10_000);
    let hook = Hook::start().await;
    let (intake, worker) = (app.start_with("intake", &[LOCAL]).await, app.start("worker").await);
    let client = app.client(&intake, &business);
    hook.answers("/a", Reply::status(200).after(Duration::from_millis(20)));
    let id = id_of(&create(&client, &hook.at("/a")).await);
    let writing = tokio::spawn({
        let client = client.clone();
        async move {
            for _ in 0..150 {
                allocate(&client, ANN, 1).await;
            }
        }
    });
    for _ in 0..4 {
        let mut relay = app.start_with("relay", &[LOCAL]).await;
        let before = hook.got("/a").len();
        eventually("it delivers", async || hook.got("/a").len() >= before + 5).await;
        relay.kill().await;
    }
    let relay = app.start_with("relay", &[LOCAL]).await;
    writing.await.expect("joined");
    eventually("all is delivered", async || shown(&client, &id).await["cursor"] == 151).await;
    let mut next = 1;
    for seq in hook.seqs("/a") {
        assert!(seq <= next, "{seq} came before {next}");
        next = next.max(seq + 1);
    }
    assert_eq!(next, 152, "none is missing");
    app.finish([intake, worker, relay]).await;
}

#[tokio::test]
async fn a_shard_that_is_added_while_a_relay_runs_is_served_too() {
    let app = App::new().await;
    let hook = Hook::start().await;
    let process = app.start_with("serve", &[LOCAL]).await;
    app.add_shards(1);
    let business = app.create_business_in(app.last_shard(), 10_000);
    let client = app.client(&process, &business);
    eventually("the intake knows the shard", async || client.get("/balance").await.status == 200).await;
    let id = id_of(&create(&client, &hook.at("/a")).await);
    allocate(&client, ANN, 1).await;
    until_seqs(&hook, "/a", &[1, 2]).await;
    eventually("the cursor is there", async || shown(&client, &id).await["cursor"] == 2).await;
    app.finish([process]).await;
}

/// Gives each of many businesses an endpoint, without events that are not delivered yet.
const MANY: &str = "
    INSERT INTO businesses (business_id, name)
    SELECT ('00000000-0000-4' || to_char(n, 'FM000') || '-8000-000000000000')::uuid, 'Many' FROM generate_series(0, 999) AS n;
    INSERT INTO webhooks (business_id, webhook_id, slot, url, cursor)
    SELECT business_id, gen_random_uuid(), 1, '{url}/' || substr(business_id::text, 16, 3), 0 FROM businesses WHERE name = 'Many'";

/// Something happens to all of them at once.
const MOVE: &str = "
    UPDATE businesses SET seq = seq + 1, payout_balance = payout_balance + 1, moved_at = now() WHERE name = 'Many';
    INSERT INTO deposits (business_id, deposit_id, amount, seq, payout_balance_after, moved_at)
    SELECT business_id, gen_random_uuid(), 1, seq, payout_balance, moved_at FROM businesses WHERE name = 'Many'";

/// Lets something happen to a thousand businesses, of which so many have a dead endpoint, and returns how long it took
/// until every other endpoint had its event.
async fn deliver_to_a_thousand(app: &App, hook: &Hook, seq: i64, dead: usize) -> Duration {
    for number in 0..1_000 {
        let path = format!("/{number:03}");
        hook.answers(&path, if number < dead { Some(never()) } else { None });
    }
    let since = Instant::now();
    app.execute(MOVE).await;
    eventually("every endpoint that lives has it", async || {
        (dead..1_000).all(|number| hook.got(&format!("/{number:03}")).iter().any(|got| got.seq() == seq))
    })
    .await;
    let latest = (dead..1_000).flat_map(|number| hook.got(&format!("/{number:03}"))).map(|got| got.at).max();
    latest.expect("deliveries") - since
}

#[tokio::test]
async fn dead_endpoints_among_a_thousand_delay_nobody() {
    let app = App::new().await;
    let hook = Hook::start().await;
    app.execute(&MANY.replace("{url}", &hook.url)).await;
    let relay = app.start_with("relay", &[LOCAL]).await;
    let without = deliver_to_a_thousand(&app, &hook, 1, 0).await;
    let with_one = deliver_to_a_thousand(&app, &hook, 2, 1).await;
    // More than a relay has places. They are known to fail, as after their first failure.
    app.execute("UPDATE webhooks SET failing_since = now() WHERE right(url, 3) < '300'").await;
    let with_many = deliver_to_a_thousand(&app, &hook, 3, 300).await;
    println!(
        "1,000 endpoints had their event after {without:?}; with 1 dead {with_one:?}, with 300 dead {with_many:?}"
    );
    // A dead one holds its place for 15 seconds, and one that is lost for 5.
    for took in [with_one, with_many] {
        assert!(took < without + Duration::from_secs(3), "{took:?}, and {without:?} without");
    }
    relay.signal("KILL");
    app.discard().await;
}

#[tokio::test]
async fn an_endpoint_that_is_given_back_is_free_even_if_its_lease_was_just_being_prolonged() {
    let app = App::new().await;
    app.execute(&MANY.replace("{url}", "https://example.com")).await;
    app.execute(MOVE).await;
    let (mut database, lease) = (app.database().await, Duration::from_secs(5));
    let taken = webhooks::lock_due(&mut database, 2, 0, lease).await.expect("taken");
    let [by_its_last_event, at_once] = taken.try_into().expect("two");
    let tried = Tried {
        number: 1,
        seq: 1,
        tried_at: clock::now_utc(),
        millis: 1,
        result: Delivery::Delivered,
        status: Some(200),
        answer: None,
    };
    let change = Change { next: Next::Done, disabled: None, pause: Duration::ZERO };
    let noted = webhooks::write_tried(&mut database, &by_its_last_event, &tried, change, 0, true).await;
    assert_eq!(noted.expect("noted"), Some(true));
    webhooks::mark_free(&mut database, &at_once).await.expect("free");
    let held = [&by_its_last_event, &at_once].map(|one| (one.business, one.webhook, one.claim));
    assert_eq!(webhooks::mark_held(&mut database, &held, lease).await.expect("an answer"), []);
    app.execute("UPDATE webhooks SET disabled_at = now(), disabled_by = 'operator' WHERE claim = 0").await;
    app.execute(MOVE).await;
    assert_eq!(webhooks::lock_due(&mut database, 9, 0, lease).await.expect("taken").len(), 2);
    app.discard().await;
}

#[tokio::test]
async fn the_doctor_says_that_no_relay_runs_and_that_most_webhooks_fail() {
    let app = App::new().await;
    let business = app.create_business(5);
    let hook = Hook::start().await;
    let intake = app.start_with("intake", &[LOCAL]).await;
    let client = app.client(&intake, &business);
    let says = async |level: &str, words: &str| {
        let what = format!("the doctor says {words}");
        eventually(&what, async || {
            let shown = app.run(&["doctor", "--json"]).json();
            let mut checks = shown["checks"].as_array().expect("checks").iter();
            checks.any(|check| {
                check["check"] == "relays"
                    && check["level"] == level
                    && check["found"].as_str().is_some_and(|found| found.contains(words))
            })
        })
        .await;
    };
    let checks = app.run(&["doctor", "--json"]).stdout();
    assert!(!checks.contains("relays"), "nobody needs one: {checks}");
    create(&client, &hook.at("/a")).await;
    says("warning", "none runs: nothing is delivered to 1 webhooks").await;
    let relay = app.start_with("relay", &[LOCAL, ("EARMARK_WEBHOOK_RETRIES", "1h")]).await;
    says("ok", "1 run; of the webhooks 1 work, 0 fail, 0 are disabled").await;
    hook.answers("/b", Reply::status(500));
    hook.answers("/c", Reply::status(500));
    create(&client, &hook.at("/b")).await;
    create(&client, &hook.at("/c")).await;
    says("warning", "of the webhooks 1 work, 2 fail").await;
    app.finish([intake, relay]).await;
}
