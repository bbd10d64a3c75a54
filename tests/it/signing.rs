//! Who has nothing but the password of the broker: what such a person puts into the queues moves no money and makes no
//! answer false.

use crate::allocate::request;
use crate::harness::process::Process;
use crate::harness::{App, Business, ENVELOPE_KEYS, assert_allocated, eventually};
use earmark::ledger::{Outcome, ShardId, Told, Verdict};
use earmark::wire::messages::{self, Reply, RequestMessage};
use earmark::wire::signing::Keyring;
use futures_util::StreamExt;
use lapin::BasicProperties;
use serde_json::json;

const KEYS: &str = "EARMARK_ENVELOPE_KEYS";
const NEW: &str = "k2:22222222222222222222222222222222222222222222222222222222222222222222";

/// A message that asks for 10 cents for Ann, signed with these keys. Its replies go to a queue of this prefix.
fn message(app: &App, business: &Business, keys: &Keyring, prefix: &str) -> Vec<u8> {
    let item = messages::write_request(&request(business, "ann@example.com", 10));
    let replies = format!("{prefix}.replies.{:032x}", 0);
    messages::pack_requests(keys, ShardId::new(app.last_shard()), &replies, std::iter::once(item.as_slice()))
}

async fn put(app: &App, queue: &str, body: &[u8]) {
    app.publish(queue, body, BasicProperties::default()).await;
}

#[tokio::test]
async fn a_message_that_is_not_signed_by_this_deployment_moves_nothing_and_is_never_replayed() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let worker = app.start("worker").await;
    let ring = |keys: &str, prefix: &str| Keyring::parse(keys, prefix, false).expect("keys");
    let own = message(&app, &business, &app.keys(), &app.prefix);
    let text = String::from_utf8(own).expect("text");
    let forged = [
        message(&app, &business, &Keyring::none(), &app.prefix),
        message(&app, &business, &ring(NEW, &app.prefix), &app.prefix),
        message(&app, &business, &ring(ENVELOPE_KEYS, "another"), &app.prefix),
        text.replace("\"amount\":10", "\"amount\":500").into_bytes(),
        text.replace("ann@", "eve@").into_bytes(),
        text.replace(".replies.0", ".replies.1").into_bytes(),
    ];
    for body in &forged {
        put(&app, &app.work_queue(), body).await;
    }
    // Anybody who can write to the queue of dead letters may claim that the broker gave up on a message.
    put(&app, &app.dead_letter_queue(), &forged[0]).await;
    let found = app.until_dead_letters(forged.len() + 1).await;
    assert!(found.iter().all(|letter| letter["cause"] == "unauthentic"), "{found:?}");
    assert!(
        found.iter().flat_map(|letter| letter["requests"].as_array()).flatten().all(|one| one["on_replay"] == "never")
    );
    let told = worker.metric("earmark_dead_letters_total{reason=\"unauthentic\"}").await;
    assert_eq!(told, Some((forged.len() + 1) as f64), "the alarm goes by this");
    let replayed = app.run(&["dead-letters", "replay", "--all"]);
    assert_eq!(replayed.code(), 1, "{}", replayed.stderr());
    assert_eq!(app.ready_messages(&app.work_queue()).await, 0);
    assert_eq!(app.audit()["allocations"], 0);
    app.drop_dead_letters();
    app.finish([worker]).await;
}

#[tokio::test]
async fn replies_go_to_no_queue_but_those_of_this_deployment() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let worker = app.start("worker").await;
    put(&app, &app.work_queue(), &message(&app, &business, &app.keys(), "elsewhere")).await;
    let found = app.until_dead_letters(1).await;
    assert_eq!(found[0]["reason"], json!("reply_to: no reply queue of this deployment"));
    assert_eq!(app.audit()["allocations"], 0);
    app.drop_dead_letters();
    app.finish([worker]).await;
}

/// Takes a message out of the work queue for good.
async fn intercept(app: &App) -> RequestMessage {
    let broker = app.broker().await;
    let channel = broker.create_channel().await.expect("a channel");
    let consuming = channel.basic_consume(app.work_queue().into(), "".into(), Default::default(), Default::default());
    let message = consuming.await.expect("a consumer").next().await.expect("a message").expect("delivered");
    message.acker.ack(Default::default()).await.expect("acknowledged");
    broker.close(200, "done".into()).await.expect("closed");
    messages::read_requests(&app.keys(), &message.data).expect("a message of ours")
}

#[tokio::test]
async fn a_forged_reply_makes_no_answer() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    app.start("worker").await.terminate().await;
    let intake = app.start_with("intake", &[("EARMARK_REPLY_TIMEOUT", "4s")]).await;
    let client = app.client(&intake, &business);
    let asking = tokio::spawn(async move { client.create("ann@example.com", 10).await });
    let taken = intercept(&app).await;
    let reply = |outcome| Reply { id: taken.requests[0].id, verdict: Verdict::Decided(outcome), told: Told::default() };
    // The last is a true reply to somebody else: its signature is good, and names another queue.
    let elsewhere = messages::write_replies(&app.keys(), "elsewhere", &[reply(Outcome::InsufficientBalance)]);
    let unsigned = messages::write_replies(&Keyring::none(), &taken.reply_to, &[reply(Outcome::Allocated)]);
    for forged in [unsigned, elsewhere] {
        put(&app, &taken.reply_to, &forged).await;
    }
    eventually("the alarm goes by this", async || {
        intake.metric("earmark_unauthentic_replies_total").await == Some(2.0)
    })
    .await;
    let answer = asking.await.expect("an answer");
    assert_eq!((answer.status, answer.header("earmark-debited")), (500, Some("no")), "the ledger decided: {answer:?}");
    assert_eq!(app.count("voided").await, 1);
    app.finish([intake]).await;
}

/// Whether a process of this kind starts with these settings, and allocates together with one that runs already.
async fn allocates(app: &App, intake: &Process, business: &Business) -> bool {
    app.client(intake, business).create("ann@example.com", 1).await.status == 200
}

#[tokio::test]
async fn keys_are_replaced_while_everything_runs() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let (old_and_new, new_and_old) = (format!("{ENVELOPE_KEYS},{NEW}"), format!("{NEW},{ENVELOPE_KEYS}"));
    // In each step some processes have the keys of the step before, and others those of the next.
    let steps = [ENVELOPE_KEYS, &old_and_new, &new_and_old, NEW];
    for pair in steps.windows(2) {
        for (of_intake, of_worker) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            let intake = app.start_with("intake", &[(KEYS, of_intake)]).await;
            let worker = app.start_with("worker", &[(KEYS, of_worker)]).await;
            assert!(allocates(&app, &intake, &business).await);
            intake.terminate().await;
            worker.terminate().await;
        }
    }
    app.finish([]).await;
}

#[tokio::test]
async fn signing_is_introduced_while_everything_runs() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let without: &[(&str, &str)] = &[(KEYS, "")];
    let accepting: &[(&str, &str)] = &[("EARMARK_ACCEPT_UNSIGNED", "true")];
    let steps = [without, accepting, &[]];
    for pair in steps.windows(2) {
        for (of_intake, of_worker) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            let intake = app.start_with("intake", of_intake).await;
            let worker = app.start_with("worker", of_worker).await;
            assert!(allocates(&app, &intake, &business).await, "{of_intake:?} {of_worker:?}");
            intake.terminate().await;
            worker.terminate().await;
        }
    }
    app.finish([]).await;
}

#[tokio::test]
async fn a_key_that_open_dead_letters_need_cannot_be_retired() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let worker = app.start("worker").await;
    put(&app, &app.dead_letter_queue(), &message(&app, &business, &app.keys(), &app.prefix)).await;
    app.until_dead_letters(1).await;
    worker.terminate().await;
    let refused = app.run_with(&["worker"], &[(KEYS, NEW)]);
    assert!(refused.code() != 0 && refused.stderr().contains("lacks the key k1"), "{}", refused.stderr());
    let both = format!("{NEW},{ENVELOPE_KEYS}");
    let serve = app.start_with("serve", &[(KEYS, both.as_str())]).await;
    app.run(&["dead-letters", "replay", "--all"]).expect_success();
    eventually("it is settled", async || app.audit()["allocations"] == 1).await;
    assert_allocated(&app.client(&serve, &business).create("ann@example.com", 1).await);
    serve.terminate().await;
    app.start_with("worker", &[(KEYS, NEW)]).await.terminate().await;
    app.finish([]).await;
}
