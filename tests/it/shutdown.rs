//! Stopping in good order.

use crate::harness::App;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_resets_nobody_and_leaves_nothing_undecided() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    let stopping = Arc::new(AtomicBool::new(false));
    let loading = (0..20).map(|number| {
        let (client, stopping) = (client.clone(), Arc::clone(&stopping));
        tokio::spawn(async move {
            let mut statuses = BTreeMap::<u16, i64>::new();
            loop {
                let begun_before = !stopping.load(Ordering::SeqCst);
                match client.try_create(&format!("user{number}@example.com"), 1).await {
                    Ok(answer) => *statuses.entry(answer.status).or_default() += 1,
                    // Once it has stopped, nobody listens any more; before that, nobody may be left without an answer.
                    Err(error) => {
                        assert!(!begun_before && error.is_connect(), "{error:?}");
                        return statuses;
                    }
                }
            }
        })
    });
    let loading: Vec<_> = loading.collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    process.signal("TERM");
    // Requests that were under way at the signal have begun before this is set.
    stopping.store(true, Ordering::SeqCst);
    let mut statuses = BTreeMap::<u16, i64>::new();
    for client in loading {
        for (status, count) in client.await.expect("every request was answered") {
            *statuses.entry(status).or_default() += count;
        }
    }
    process.terminate().await;
    assert!(statuses.keys().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert!(statuses[&200] > 0, "{statuses:?}");
    assert_eq!(app.count("allocated").await, statuses[&200]);
    app.finish([]).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // No worker: the request waits for as long as it may.
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
