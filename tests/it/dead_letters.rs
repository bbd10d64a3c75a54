//! Dead letters: stored, shown with what a replay would do, replayed, dropped.

use crate::allocate::{message, request};
use crate::harness::{App, assert_allocated, eventually};
use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::types::FieldTable;
use serde_json::{Value, json};
use uuid::Uuid;

/// Publishes a dead letter to the queue that the broker and the workers use for theirs.
async fn put(app: &App, body: &[u8], message_id: &str) {
    let properties = BasicProperties::default().with_message_id(message_id.into());
    app.publish(&app.dead_letter_queue(), body, properties).await;
}

fn id_of(letter: &Value) -> String {
    letter["dead_letter_id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_dead_letter_that_is_delivered_twice_is_stored_once() {
    let app = App::new().await;
    let worker = app.start("worker").await;
    for message_id in ["one", "one", "two"] {
        put(&app, b"no message", message_id).await;
    }
    app.until_queue_holds(&app.dead_letter_queue(), 0).await;
    let dead_letters = app.until_dead_letters(2).await;
    assert!(dead_letters.iter().all(|dead_letter| dead_letter["cause"] == "other"), "{dead_letters:?}");
    app.drop_dead_letters();
    app.finish([worker]).await;
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_stored_waits_with_the_broker_and_holds_up_no_request() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start_with("serve", &[("EARMARK_SETTLE_TIMEOUT", "1s")]).await;
    let mut database = app.database().await;
    sqlx::query("BEGIN").execute(&mut database).await.expect("begun");
    sqlx::query("LOCK TABLE dead_letters").execute(&mut database).await.expect("locked");
    put(&app, b"no message", "one").await;
    process.until_logged("dead letter not stored yet").await;
    assert_allocated(&app.client(&process, &business).create("ann@example.com", 10).await);
    sqlx::query("ROLLBACK").execute(&mut database).await.expect("released");
    app.until_dead_letters(1).await;
    app.drop_dead_letters();
    app.finish([process]).await;
}

/// Takes a message from the work queue and then loses the connection. Every RabbitMQ version counts that as a return.
/// The newest does not count a negative acknowledgement.
async fn take_and_vanish(app: &App) {
    let broker = app.broker().await;
    let channel = broker.create_channel().await.expect("a channel");
    let consuming =
        channel.basic_consume(app.work_queue().into(), "".into(), Default::default(), FieldTable::default());
    consuming.await.expect("a consumer").next().await.expect("a delivery").expect("a message");
    broker.close(200, "done".into()).await.expect("closed");
}

#[tokio::test]
async fn a_message_that_the_broker_gives_up_on_is_a_dead_letter_with_its_queue_and_its_death() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // The worker declares the queues.
    app.start("worker").await.terminate().await;
    let asked = request(&business, "ann@example.com", 10);
    app.publish(&app.work_queue(), &message(&app, &[&asked], &[]), BasicProperties::default()).await;
    for _ in 0..=earmark::rabbit::topology::DELIVERY_LIMIT {
        take_and_vanish(&app).await;
    }
    app.until_queue_holds(&app.dead_letter_queue(), 1).await;
    let worker = app.start("worker").await;
    let dead_letter = app.until_dead_letters(1).await.remove(0);
    assert_eq!((&dead_letter["cause"], &dead_letter["queue"]), (&json!("delivery_limit"), &json!(app.work_queue())));
    assert!(dead_letter["deaths"].as_i64() >= Some(1) && dead_letter["died_at"].is_string(), "{dead_letter}");
    assert_eq!(dead_letter["requests"][0]["on_replay"], "will_be_decided");
    app.run(&["dead-letters", "replay", "--reason", "delivery_limit"]).expect_success();
    eventually("it is applied", async || app.count("allocated").await == 1).await;
    app.finish([worker]).await;
}

#[tokio::test]
async fn a_replay_does_what_was_said_before_it_and_debits_nothing_twice() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    let asked =
        ["done", "void", "refused", "late", "open"].map(|name| request(&business, &format!("{name}@example.com"), 10));
    let [done, void, _, mut late, open] = asked;
    let refused = request(&business, "refused@example.com", 5_000);
    late.deadline -= 3_600_000;
    app.publish(&app.work_queue(), &message(&app, &[&done, &refused], &[]), BasicProperties::default()).await;
    eventually("two are decided", async || app.count("allocated").await + app.count("insufficient_balance").await == 2)
        .await;
    let voiding = "INSERT INTO allocations (business_id, request_id, outcome) VALUES ($1, $2, 'voided')";
    sqlx::query(voiding)
        .bind(Uuid::from_u128(void.business.as_u128()))
        .bind(Uuid::from_u128(void.id.as_u128()))
        .execute(&mut app.database().await)
        .await
        .expect("voided");
    put(&app, &message(&app, &[&done, &void, &refused, &late, &open], &[b"{}"]), "one").await;
    let dead_letter = app.until_dead_letters(1).await.remove(0);
    let said: Vec<&str> = dead_letter["requests"]
        .as_array()
        .expect("requests")
        .iter()
        .filter_map(|one| one["on_replay"].as_str())
        .collect();
    assert_eq!(said, ["stays_allocated", "stays_voided", "stays_refused", "will_be_voided", "will_be_decided"]);
    let replayed = app.run(&["dead-letters", "replay", &id_of(&dead_letter), "--by", "ann", "--json"]).expect_success();
    assert_eq!(replayed.json(), json!({ "replayed": [id_of(&dead_letter)] }));
    // The unreadable part comes back as a dead letter of its own.
    let back = app.until_dead_letters(1).await.remove(0);
    assert_eq!((&back["cause"], &back["requests"]), (&json!("unreadable"), &json!([])));
    assert_ne!(id_of(&back), id_of(&dead_letter));
    eventually("all five are decided", async || app.count("voided").await == 2 && app.count("allocated").await == 2)
        .await;
    assert_eq!((app.count("insufficient_balance").await, client.payout_balance().await), (1, 1_000 - 20));
    for (email, balance) in [("done@example.com", 10), ("open@example.com", 10)] {
        assert_eq!(client.user_balance(email).await, balance, "{email}");
    }
    let shown = app.run(&["dead-letters", "show", &id_of(&dead_letter), "--json"]).expect_success().json();
    assert_eq!((&shown["replays"], &shown["replayed_by"]), (&json!(1), &json!("ann")));
    app.drop_dead_letters();
    app.finish([process]).await;
}

#[tokio::test]
async fn a_dead_letter_is_dropped_only_when_that_is_confirmed_and_even_then_no_row_is_deleted() {
    let app = App::new().await;
    let worker = app.start("worker").await;
    put(&app, b"no message", "one").await;
    let dead_letter = id_of(&app.until_dead_letters(1).await[0]);
    let refused = app.run(&["dead-letters", "drop", &dead_letter]);
    assert_eq!((refused.code(), app.dead_letters().len()), (1, 1));
    assert!(refused.stderr().contains("type `drop 1`"), "{}", refused.stderr());
    app.run(&["dead-letters", "drop", &dead_letter, "--yes", "--by", "ann"]).expect_success();
    assert!(app.dead_letters().is_empty());
    let shown = app.run(&["dead-letters", "show", &dead_letter, "--reveal", "--json"]).expect_success().json();
    assert_eq!((&shown["dropped_by"], &shown["body"]), (&json!("ann"), &json!("no message")));
    // A dropped dead letter can neither be dropped again nor be replayed.
    for verb in ["drop --yes", "replay"] {
        let words: Vec<&str> =
            ["dead-letters"].into_iter().chain(verb.split(' ')).chain([dead_letter.as_str()]).collect();
        let run = app.run(&words);
        assert_eq!(run.code(), 1, "{verb}");
        assert!(run.stderr().contains(&dead_letter), "{}", run.stderr());
    }
    assert_eq!(app.ready_messages(&app.work_queue()).await, 0);
    app.finish([worker]).await;
}

#[tokio::test]
async fn addresses_in_dead_letters_are_masked_until_they_are_revealed() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let worker = app.start("worker").await;
    put(&app, &message(&app, &[&request(&business, "ann.private@example.com", 10)], &[]), "one").await;
    let dead_letter = id_of(&app.until_dead_letters(1).await[0]);
    for command in
        [["list", "--json"].as_slice(), &["list"], &["show", &dead_letter], &["show", &dead_letter, "--json"]]
    {
        let hidden = app.run(&[&["dead-letters"], command].concat()).expect_success().stdout();
        assert!(hidden.contains("a***@example.com") && !hidden.contains("ann.private"), "{command:?}: {hidden}");
        let shown = app.run(&[&["dead-letters", "--reveal"], command].concat()).expect_success().stdout();
        assert!(shown.contains("ann.private@example.com"), "{command:?}: {shown}");
    }
    app.drop_dead_letters();
    app.finish([worker]).await;
}

#[tokio::test]
async fn dead_letters_are_found_by_cause_by_text_and_page_by_page() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let worker = app.start("worker").await;
    let held = request(&business, "ann@example.com", 10);
    app.publish(&app.work_queue(), b"no message", BasicProperties::default()).await;
    app.until_dead_letters(1).await;
    put(&app, &message(&app, &[&held], &[]), "one").await;
    let all = app.until_dead_letters(2).await;
    let list = |more: &[&str]| {
        let run = app.run(&[&["dead-letters", "list", "--json"], more].concat()).expect_success();
        run.json().as_array().expect("a list").iter().map(id_of).collect::<Vec<_>>()
    };
    let (newer, older) = (id_of(&all[0]), id_of(&all[1]));
    assert_eq!(list(&["--reason", "unreadable"]), [older.as_str()]);
    assert_eq!(list(&["--text", "NOT A MESSAGE"]), [older.as_str()]);
    assert_eq!(list(&["--text", &Uuid::from_u128(held.id.as_u128()).to_string()]), [newer.as_str()]);
    assert_eq!((list(&["--limit", "1"]), list(&["--after", &newer])), (vec![newer.clone()], vec![older]));
    assert!(list(&["--text", "100%"]).is_empty());
    app.drop_dead_letters();
    app.finish([worker]).await;
}
