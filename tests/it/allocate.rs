//! Allocations under concurrency, repetition and bad messages.

use crate::harness::{App, Business, assert_allocated, eventually, shard};
use crate::recovery::is_waited_for;
use earmark::ledger::{Amount, BusinessId, Email, Movement, Request};
use earmark::secret::{HashSecret, RequestIds};
use earmark::wire::messages;
use lapin::BasicProperties;
use serde_json::json;
use std::collections::BTreeMap;

#[tokio::test]
async fn of_200_concurrent_requests_as_many_are_allocated_as_the_balance_covers() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    let sending = (0..200).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.create(&format!("user{}@example.com", number % 50), 10).await.status })
    });
    let mut statuses = BTreeMap::<u16, u32>::new();
    for sent in sending.collect::<Vec<_>>() {
        *statuses.entry(sent.await.expect("joined")).or_default() += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 100), (400, 100)]));
    assert_eq!(client.payout_balance().await, 0);
    assert_eq!((app.count("allocated").await, app.count("insufficient_balance").await), (100, 100));
    app.finish([process]).await;
}

#[tokio::test]
async fn a_payout_user_keeps_its_hash_when_the_secret_becomes_another() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let first = app.client(&process, &business).create("ann@example.com", 10).await;
    process.terminate().await;
    let process = app.start_with("serve", &[("EARMARK_HASH_SECRET", &"5e".repeat(32))]).await;
    let client = app.client(&process, &business);
    // The worker does not know the balance yet, so it settles the first request step by step. It settles the second in
    // one statement.
    for _ in 0..2 {
        let again = client.create("ann@example.com", 10).await;
        assert_allocated(&again);
        assert_eq!(again.body, first.body);
        assert_ne!(client.create("bob@example.com", 10).await.body, first.body);
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn two_workers_on_one_business_apply_every_request_once() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    // A queue has one active worker, so each worker here has its own queue. Both work on one ledger. With one request
    // per batch they compete for the business's row as often as possible.
    let other = format!("{}-other", app.prefix);
    let single = [("EARMARK_BATCH", "1"), ("EARMARK_PREFETCH", "1")];
    let patient = [("EARMARK_REPLY_TIMEOUT", "40s"), ("EARMARK_SHUTDOWN_GRACE", "60s")];
    let at_other = [("EARMARK_QUEUE_PREFIX", other.as_str())];
    let processes = [
        app.start_with("worker", &single).await,
        app.start_with("worker", &[&single[..], &at_other].concat()).await,
        app.start_with("intake", &patient).await,
        app.start_with("intake", &[&patient[..], &at_other].concat()).await,
    ];
    let clients = [app.client(&processes[2], &business), app.client(&processes[3], &business)];
    let sending = (0..200).map(|number| {
        let client = clients[number % 2].clone();
        tokio::spawn(async move { assert_allocated(&client.create(&format!("user{number}@example.com"), 3).await) })
    });
    for sent in sending.collect::<Vec<_>>() {
        sent.await.expect("allocated");
    }
    assert_eq!(clients[0].payout_balance().await, 1_000_000 - 600);
    for number in 0..200 {
        assert_eq!(clients[0].user_balance(&format!("user{number}@example.com")).await, 3, "user {number}");
    }
    app.delete_queues(&other).await;
    app.finish(processes).await;
}

#[tokio::test]
async fn a_standby_worker_takes_over_when_the_working_one_is_killed() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let (intake, mut first, standby) =
        (app.start("intake").await, app.start("worker").await, app.start("worker").await);
    let client = app.client(&intake, &business);
    for number in 0..20 {
        if number == 10 {
            first.kill().await;
        }
        assert_allocated(&client.create(&format!("user{number}@example.com"), 1).await);
    }
    app.finish([intake, standby]).await;
}

#[tokio::test]
async fn what_no_worker_answers_stands_in_the_queue_and_is_answered_later() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let patient = [("EARMARK_REPLY_TIMEOUT", "40s"), ("EARMARK_SHUTDOWN_GRACE", "60s"), ("EARMARK_ANSWER_WINDOW", "1")];
    let intake = app.start_with("intake", &patient).await;
    let mut asking = vec![];
    for waiting in 1..=4 {
        let client = app.client(&intake, &business);
        asking.push(tokio::spawn(async move { client.create(&format!("user{waiting}@example.com"), 10).await }));
        app.until_queue_holds(&app.work_queue(), waiting).await;
    }
    let worker = app.start("worker").await;
    for asked in asking {
        assert_allocated(&asked.await.expect("joined"));
    }
    app.finish([intake, worker]).await;
}

/// A request as an intake publishes it. Its deadline is a minute away.
pub fn request(business: &Business, email: &str, cents: i64) -> Request {
    let secret: HashSecret = crate::harness::SECRET.parse().expect("a secret");
    let business = BusinessId::from_u128(uuid::Uuid::parse_str(&business.id).expect("an id").as_u128());
    Request {
        id: RequestIds::new(secret).mint(business),
        business,
        movement: Movement::Allocate {
            email: Email::parse(email).expect("an address"),
            amount: Amount::from_cents(cents).expect("an amount"),
        },
        deadline: earmark::clock::now_millis() + 60_000,
        key: None,
        reference: None,
    }
}

pub async fn publish(app: &App, body: &[u8]) {
    app.publish(&app.work_queue(), body, BasicProperties::default()).await;
}

pub fn message(app: &App, requests: &[&Request], strays: &[&[u8]]) -> Vec<u8> {
    let items: Vec<Vec<u8>> = requests.iter().map(|request| messages::write_request(request)).collect();
    let items = items.iter().map(Vec::as_slice).chain(strays.iter().copied());
    app.pack(shard(), items)
}

#[tokio::test]
async fn a_message_that_comes_twice_debits_once() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    let asked = request(&business, "ann@example.com", 10);
    // The message holds the request twice, and the message is published twice.
    let body = message(&app, &[&asked, &asked], &[]);
    publish(&app, &body).await;
    publish(&app, &body).await;
    app.until_queue_holds(&app.work_queue(), 0).await;
    // The worker settles messages in order. Once this request is answered, both messages are settled.
    assert_allocated(&client.create("bob@example.com", 1).await);
    assert_eq!((client.user_balance("ann@example.com").await, client.payout_balance().await), (10, 1_000 - 11));
    app.finish([process]).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_dead_lettered_with_its_reason_and_its_neighbours_are_applied() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    let (ann, bob) = (request(&business, "ann@example.com", 10), request(&business, "bob@example.com", 20));
    publish(&app, b"no message at all").await;
    publish(&app, &message(&app, &[&ann, &bob], &[br#"{"id":"not an id"}"#])).await;
    let dead_letters = app.until_dead_letters(2).await;
    assert_allocated(&client.create("carl@example.com", 1).await);
    assert_eq!((client.user_balance("ann@example.com").await, client.user_balance("bob@example.com").await), (10, 20));
    let reasons: Vec<&str> =
        dead_letters.iter().rev().map(|dead_letter| dead_letter["reason"].as_str().expect("a reason")).collect();
    assert!(reasons[0].contains("not a message"), "{reasons:?}");
    assert!(reasons[1].contains("not a request"), "{reasons:?}");
    for dead_letter in &dead_letters {
        assert_eq!(
            (&dead_letter["cause"], &dead_letter["queue"]),
            (&json!("unreadable"), &json!(app.work_queue())),
            "{dead_letter}"
        );
    }
    app.drop_dead_letters();
    app.finish([process]).await;
}

#[tokio::test]
async fn what_cannot_be_stored_is_split_off_dead_lettered_and_voided_and_its_neighbours_are_applied() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    // A user whose balance has no room for another cent.
    let full = "INSERT INTO payout_users (business_id, email, hash, balance)
        SELECT business_id, 'full@example.com', sha256('full'), 9223372036854775807 FROM businesses";
    let mut database = app.database().await;
    sqlx::query(full).execute(&mut database).await.expect("a full user");
    let emails = ["ann@example.com", "bob@example.com", "full@example.com", "carl@example.com"];
    let requests = emails.map(|email| request(&business, email, 10));
    publish(&app, &message(&app, &requests.each_ref(), &[])).await;
    let dead_letters = app.until_dead_letters(1).await;
    assert_allocated(&client.create("dora@example.com", 1).await);
    for email in ["ann@example.com", "bob@example.com", "carl@example.com"] {
        assert_eq!(client.user_balance(email).await, 10, "{email}");
    }
    assert!(dead_letters[0]["reason"].as_str().expect("a reason").contains("out of range"), "{dead_letters:?}");
    assert_eq!(
        (&dead_letters[0]["cause"], &dead_letters[0]["requests"][0]["on_replay"]),
        (&json!("rejected"), &json!("stays_voided"))
    );
    app.drop_dead_letters();
    let shown = client.get(&format!("/payout/requests/{}", uuid::Uuid::from_u128(requests[2].id.as_u128()))).await;
    assert_eq!(shown.json()["state"], "voided");
    assert!(process.logged("batch split: one of its requests cannot be stored") > 0);
    sqlx::query("DELETE FROM payout_users WHERE email LIKE 'full%'").execute(&mut database).await.expect("deleted");
    app.finish([process]).await;
}

#[tokio::test]
async fn a_worker_that_dies_between_taking_a_batch_and_acknowledging_it_debits_once() {
    for failpoint in ["after-gather=abort", "before-commit=abort", "before-reply=abort", "before-acknowledge=abort"] {
        let app = App::new().await;
        let business = app.create_business(1_000);
        let intake = app.start("intake").await;
        let client = app.client(&intake, &business);
        let mut doomed = app.start_with("worker", &[("EARMARK_FAILPOINT", failpoint)]).await;
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.create("ann@example.com", 10).await }
        });
        doomed.ended().await;
        let heir = app.start("worker").await;
        heir.until_logged("message redelivered").await;
        assert_allocated(&asking.await.expect("joined"));
        assert_eq!(client.user_balance("ann@example.com").await, 10, "{failpoint}");
        app.finish([intake, heir]).await;
    }
}

#[tokio::test]
async fn a_message_that_kills_its_worker_takes_no_neighbour_with_it() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let requests: Vec<Request> = (0..4).map(|n| request(&business, &format!("user{n}@example.com"), 10)).collect();
    // The worker declares the queues.
    app.start("worker").await.terminate().await;
    for request in &requests {
        publish(&app, &message(&app, &[request], &[])).await;
    }
    // Three workers in a row die on their first batch. Each holds all four messages at that moment.
    for _ in 0..3 {
        let mut doomed = app.spawn("worker", &[("EARMARK_FAILPOINT", "after-gather=abort")]);
        doomed.ended().await;
    }
    let worker = app.start("worker").await;
    eventually("all four are applied", async || app.count("allocated").await == 4).await;
    app.finish([worker]).await;
}

#[tokio::test]
async fn a_message_that_kills_every_worker_is_given_up_on_and_none_of_its_neighbours_with_it() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let mut database = app.database().await;
    // The trigger makes a worker wait when it settles this one request. The test then kills that worker.
    let trap = "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
        CREATE TRIGGER trap BEFORE INSERT ON allocations FOR EACH ROW
            WHEN (NEW.email = 'killer@example.com') EXECUTE FUNCTION trap();
        SELECT pg_advisory_lock(1)";
    sqlx::raw_sql(trap).execute(&mut database).await.expect("a trap");
    // The worker declares the queues.
    app.start("worker").await.terminate().await;
    for name in ["killer", "ann", "bob", "carl"] {
        publish(&app, &message(&app, &[&request(&business, &format!("{name}@example.com"), 10)], &[])).await;
    }
    let mut worker = app.spawn("worker", &[]);
    loop {
        eventually("a worker waits in the trigger, or the request is a dead letter", async || {
            is_waited_for(&app).await || !app.dead_letters().is_empty()
        })
        .await;
        if !app.dead_letters().is_empty() {
            break;
        }
        worker.kill().await;
        worker = app.spawn("worker", &[]);
    }
    eventually("the others are applied", async || app.count("allocated").await == 3).await;
    let dead_letters = app.until_dead_letters(1).await;
    assert_eq!(
        (&dead_letters[0]["cause"], dead_letters[0]["requests"].as_array().map(Vec::len)),
        (&json!("delivery_limit"), Some(1))
    );
    app.drop_dead_letters();
    app.finish([worker]).await;
}

#[tokio::test]
async fn a_message_that_is_settled_in_parts_comes_again_until_its_last_part_is_done() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // The worker declares the queues.
    app.start("worker").await.terminate().await;
    let requests: [Request; 8] = std::array::from_fn(|n| request(&business, &format!("user{n}@example.com"), 10));
    publish(&app, &message(&app, &requests.each_ref(), &[])).await;
    // The second part is settled and answered, and then the worker dies.
    let mut doomed =
        app.spawn("worker", &[("EARMARK_BATCH", "1"), ("EARMARK_FAILPOINT", "before-acknowledge=abort@2")]);
    doomed.ended().await;
    let worker = app.start("worker").await;
    eventually("all eight are applied", async || app.count("allocated").await == 8).await;
    app.finish([worker]).await;
}
