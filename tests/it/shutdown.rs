//! How processes stop when they receive a signal.

use crate::harness::{App, assert_allocated, eventually, shard};
use std::collections::BTreeMap;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_resets_nobody_and_leaves_nothing_undecided() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let mut process = app.start("serve").await;
    let client = app.client(&process, &business);
    let loading = (0..20).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut statuses = BTreeMap::<u16, i64>::new();
            // 503 means that this process is stopping. A real client would then use another process, so this client
            // ends.
            while !statuses.contains_key(&503) {
                let answer = client.create(&format!("user{number}@example.com"), 1).await;
                *statuses.entry(answer.status).or_default() += 1;
            }
            statuses
        })
    });
    let loading: Vec<_> = loading.collect();
    eventually("it is at work", async || app.count("allocated").await > 200).await;
    process.signal("TERM");
    let mut statuses = BTreeMap::<u16, i64>::new();
    for client in loading {
        for (status, count) in client.await.expect("every request was answered") {
            *statuses.entry(status).or_default() += count;
        }
    }
    assert!(process.ended().await.success(), "{:#?}", process.log());
    assert!(statuses.keys().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert!(statuses[&200] > 0, "{statuses:?}");
    assert_eq!(app.count("allocated").await, statuses[&200]);
    app.finish([]).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // No worker runs, so the request waits until its reply timeout.
    let mut intake =
        app.start_with("intake", &[("EARMARK_REPLY_TIMEOUT", "50s"), ("EARMARK_SHUTDOWN_GRACE", "60s")]).await;
    let client = app.client(&intake, &business);
    let asking = tokio::spawn(async move { client.try_create("ann@example.com", 1).await });
    app.until_queue_holds(&app.work_queue(), 1).await;
    intake.signal("TERM");
    intake.until_logged("intake drains").await;
    assert!(intake.has_ended().is_none(), "it waits for the request");
    intake.signal("TERM");
    assert_eq!(intake.ended().await.code(), Some(130));
    assert!(asking.await.expect("joined").is_err());
    app.discard().await;
}

#[tokio::test]
async fn a_worker_that_stops_answers_what_it_has_in_hand_while_its_other_queues_are_idle() {
    let app = App::new().await;
    app.add_shards(3 - shard());
    let business = app.create_business(1_000);
    let patient = [("EARMARK_REPLY_TIMEOUT", "40s"), ("EARMARK_SHUTDOWN_GRACE", "60s")];
    let intake = app.start_with("intake", &patient).await;
    let client = app.client(&intake, &business);
    // A worker that closes its connection too early loses about every other reply. Five rounds make that visible.
    for _ in 0..5 {
        let held = [patient.as_slice(), &[("EARMARK_FAILPOINT", "after-lock=hold:300ms")]].concat();
        let mut worker = app.start_with("worker", &held).await;
        let client = client.clone();
        let asking = tokio::spawn(async move { client.create("ann@example.com", 10).await });
        worker.until_logged("failpoint reached").await;
        worker.signal("TERM");
        assert!(worker.ended().await.success(), "{:#?}", worker.log());
        for shard in 0..4 {
            assert_eq!(app.ready_messages(&app.work_queue_of(shard)).await, 0, "shard {shard}");
        }
        assert_allocated(&asking.await.expect("joined"));
    }
    app.finish([intake]).await;
}
