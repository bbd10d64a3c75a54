//! The whole life of balances, while parts of the service are killed: a platform pays many people from a file, takes some of it
//! back in parts and settles others, from a file too. Meanwhile one consumer reads `/events` and another gets webhooks. Each
//! of them rebuilds every balance from what it got alone.

use super::crashes::Scene;
use super::{Payer, amount, email, sum};
use crate::harness::hook::Hook;
use crate::harness::http::Client;
use crate::harness::process::Process;
use crate::harness::servers::Servers;
use crate::harness::{App, eventually};
use crate::webhooks::{LOCAL, create};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How many people are paid, of how many payouts parts are taken back, and how many people are settled with.
#[derive(Clone, Copy)]
struct Size {
    people: usize,
    reversed: usize,
    settled: usize,
}

/// The balances that follow from events: that of the business, and those of its payout users.
#[derive(Debug, Default, PartialEq)]
struct Balances {
    payout: i64,
    users: BTreeMap<String, i64>,
}

impl Balances {
    /// Events that are known already may come again. None may be missing.
    fn rebuilt(events: &[Value]) -> Self {
        let events: BTreeMap<i64, &Value> =
            events.iter().map(|event| (event["seq"].as_i64().expect("a number"), event)).collect();
        assert!(events.keys().copied().eq(1..=events.len() as i64), "a number is missing");
        let mut balances = Self::default();
        for event in events.values() {
            let (data, kind) = (&event["data"], event["type"].as_str().expect("a type"));
            let cents = data["amount"].as_i64().expect("cents");
            let (payout, user) = match kind {
                "balance.deposited" => (cents, 0),
                "allocation.created" => (-cents, cents),
                "allocation.reversed" => (cents, -cents),
                "user.settled" => (0, -cents),
                other => panic!("nobody asked for {other}"),
            };
            balances.payout += payout;
            if let Some(email) = data["email"].as_str() {
                *balances.users.entry(email.to_owned()).or_default() += user;
            }
            assert_eq!(data["payout_balance_after"], balances.payout, "{event}");
        }
        balances
    }

    /// Those of the ledger.
    async fn of_ledger(app: &App) -> Self {
        let mut database = app.database().await;
        let users = sqlx::query_as("SELECT email, balance FROM payout_users").fetch_all(&mut database).await;
        let users: Vec<(String, i64)> = users.expect("balances");
        let payout = sqlx::query_scalar("SELECT payout_balance FROM businesses").fetch_one(&mut database).await;
        Self { payout: payout.expect("a balance"), users: users.into_iter().collect() }
    }
}

/// Reads `/events` without end, and asks again whatever happens.
async fn read_events(client: Client, seen: Arc<Mutex<Vec<Value>>>) {
    let mut after = 0;
    loop {
        let request = client.authorized(reqwest::Method::GET, &format!("/events?after={after}&limit=1000&wait=5"));
        match Client::send(request).await {
            Ok(answer) if answer.status == 200 => {
                for event in answer.json()["events"].as_array().expect("events") {
                    after += 1;
                    assert_eq!(event["seq"], after);
                    seen.lock().expect("the events").push(event.clone());
                }
            }
            Ok(_) | Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The second file: each of the first payouts is taken back in two parts, and the people behind them are settled with, all that
/// they have or a part of it.
fn corrections(payer: &Payer, size: Size) -> String {
    let paid = payer.results("payouts.results.csv");
    assert_eq!(paid.len(), size.people);
    let mut lines = "kind,email,amount,target,reference\n".to_owned();
    for (at, row) in paid.iter().enumerate().take(size.reversed) {
        let part = (amount(at) / 3).max(1);
        lines += &format!("reverse,,{part},{},return-{at}-a\n", row["request_id"]);
        if amount(at) > 1 {
            lines += &format!("reverse,,{part},{},return-{at}-b\n", row["request_id"]);
        }
    }
    for at in size.reversed..size.reversed + size.settled {
        lines += &format!(
            "settle,{},{},,transfer-{at}\n",
            email(at),
            if at % 2 == 0 { amount(at) } else { (amount(at) + 1) / 2 }
        );
    }
    lines
}

/// Waits until a consumer has all events; fails if no more come for a minute.
async fn until_all(what: &str, count: i64, seen: impl Fn() -> usize) {
    let (mut last, mut since) = (0, Instant::now());
    while (last as i64) < count {
        let now = seen();
        if now > last {
            (last, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < Duration::from_secs(60), "{what} has {last} of {count} events");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn relay(scene: &Scene) -> Process {
    scene.app.start_with("relay", &[LOCAL, ("EARMARK_WEBHOOK_RETRIES", "200ms")]).await
}

async fn unfold(size: Size) {
    let Some(servers) = Servers::alone().await else { return };
    let (mut scene, payer) = Scene::set(servers, size.people, &[LOCAL]).await;
    let hook = Hook::start().await;
    let client = Client::new(payer.url.clone(), &payer.key);
    let webhook = create(&client, &hook.at("/a")).await;
    let seen = Arc::<Mutex<Vec<Value>>>::default();
    let reading = tokio::spawn(read_events(client.clone(), Arc::clone(&seen)));
    let mut relaying = relay(&scene).await;

    payer.write_payouts("payouts.csv", size.people);
    let paying = async { payer.run("payouts.csv", &["--yes", "--json"]).await };
    let breaking = async {
        scene.until_paid(20).await;
        scene.replace_worker().await;
        relaying.kill().await;
        scene.until_paid(50).await;
        scene.replace_intake().await;
        relaying = relay(&scene).await;
        scene.until_paid(80).await;
        scene.stop(&["postgres", "--immediate"]).await;
        scene.start("postgres").await;
    };
    let (run, ()) = tokio::join!(paying, breaking);
    scene.say(&format!("exit code {}: {}", run.code(), run.stdout()));
    assert_eq!((run.code(), &run.json()["paid"]["cents"]), (0, &json!(sum(size.people))), "{}", run.stderr());

    let file = corrections(&payer, size);
    payer.write("corrections.csv", &file);
    let correcting = async { payer.run("corrections.csv", &["--yes", "--json"]).await };
    let breaking = async {
        let half = (size.settled / 2) as i64;
        eventually("half is settled", async || scene.app.count("settled").await >= half).await;
        scene.replace_worker().await;
        relaying.kill().await;
        relaying = relay(&scene).await;
        scene.stop(&["rabbitmq"]).await;
        scene.start("rabbitmq").await;
    };
    let (run, ()) = tokio::join!(correcting, breaking);
    scene.say(&format!("exit code {}: {}", run.code(), run.stdout()));
    assert_eq!(run.code(), 0, "{} {}", run.stdout(), run.stderr());
    let done = |kind: &str| run.json()[kind]["done"]["lines"].as_u64();
    let expected = |kind: &str| Some(file.matches(kind).count() as u64);
    assert_eq!((done("reversals"), done("settlements")), (expected("\nreverse,"), expected("\nsettle,")));

    let last: i64 = sqlx::query_scalar("SELECT seq FROM businesses")
        .fetch_one(&mut scene.app.database().await)
        .await
        .expect("a number");
    until_all("the reader", last, || seen.lock().expect("the events").len()).await;
    let delivered = || BTreeSet::from_iter(hook.seqs("/a")).len();
    until_all("the webhook", last, delivered).await;
    scene.say(&format!("{last} events are read and delivered"));
    reading.abort();
    let (read, got) = (seen.lock().expect("the events").clone(), hook.got("/a"));
    let secret = Webhook::new(webhook["secret"].as_str().expect("a secret")).expect("a key");
    for one in got.iter().rev().take(100) {
        assert!(secret.verify(&one.body, &one.headers).is_ok(), "{one:?}");
    }
    let ledger = Balances::of_ledger(&scene.app).await;
    assert_eq!(ledger.users.len(), size.people + 1, "and the probe");
    assert!(Balances::rebuilt(&read) == ledger, "from the feed");
    assert!(Balances::rebuilt(&got.iter().map(|one| one.json()).collect::<Vec<_>>()) == ledger, "from webhooks");
    scene.app.finish([scene.intake, scene.worker, relaying]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn balances_are_rebuilt_from_the_feed_alone_and_from_webhooks_alone() {
    unfold(Size { people: 1_000, reversed: 50, settled: 300 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute or two: `make big-send`"]
async fn ten_thousand_people_are_paid_500_of_them_in_part_taken_back_and_3000_settled() {
    unfold(Size { people: 10_000, reversed: 500, settled: 3_000 }).await;
}
