//! What workers do when somebody pauses or stops them, and what they do by themselves.

use crate::allocate::{message, publish, request};
use crate::harness::proxy::{Mode, Protocol, Proxy};
use crate::harness::{App, assert_allocated, authority, eventually, shard};
use serde_json::json;

/// Long enough for a request to outlast a pause.
const PATIENT: [(&str, &str); 2] = [("EARMARK_REPLY_TIMEOUT", "40s"), ("EARMARK_SHUTDOWN_GRACE", "60s")];

#[tokio::test]
async fn paused_workers_take_nothing_and_resumed_ones_go_on_with_everything_that_waits() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let intake = app.start_with("intake", &PATIENT).await;
    let workers = [app.start("worker").await, app.start("worker").await];
    let paused = app.run(&["workers", "pause", "--by", "ann", "--json"]).expect_success().json();
    assert_eq!(paused["paused"]["paused_by"], "ann");
    for worker in &workers {
        eventually("it is paused", async || worker.readiness().await == Some((503, "worker: paused\n".to_owned())))
            .await;
    }
    // A worker that starts during the pause is paused too.
    let late = app.spawn("worker", &[]);
    eventually("it is paused", async || late.readiness().await == Some((503, "worker: paused\n".to_owned()))).await;
    let client = app.client(&intake, &business);
    let asking: Vec<_> = (0..5)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.create(&format!("user{number}@example.com"), 1).await })
        })
        .collect();
    eventually("they wait", async || app.ready_messages(&app.work_queue()).await > 0).await;
    assert_eq!(app.count("allocated").await, 0);
    app.run(&["workers", "resume"]).expect_success();
    for asked in asking {
        assert_allocated(&asked.await.expect("joined"));
    }
    for worker in &workers {
        worker.ready().await;
    }
    app.finish(workers.into_iter().chain([late, intake])).await;
}

#[tokio::test]
async fn a_pause_and_a_shutdown_finish_the_batch_in_hand() {
    for end in ["pause", "terminate"] {
        let app = App::new().await;
        let business = app.create_business(1_000);
        let intake = app.start_with("intake", &PATIENT).await;
        let worker = app.start_with("worker", &[("EARMARK_FAILPOINT", "before-reply=hold:2s")]).await;
        let client = app.client(&intake, &business);
        let asking = tokio::spawn(async move { client.create("ann@example.com", 10).await });
        eventually("it is committed", async || app.count("allocated").await == 1).await;
        let heir = if end == "pause" {
            app.run(&["workers", "pause"]).expect_success();
            eventually("it is paused", async || worker.readiness().await.is_some_and(|(status, _)| status == 503))
                .await;
            assert_allocated(&asking.await.expect("joined"));
            app.run(&["workers", "resume"]).expect_success();
            worker.ready().await;
            worker
        } else {
            worker.terminate().await;
            assert_allocated(&asking.await.expect("joined"));
            app.start("worker").await
        };
        // The message was acknowledged, so no worker gets it again.
        assert_allocated(&app.client(&intake, &business).create("bob@example.com", 10).await);
        assert_eq!(heir.logged("message redelivered"), 0, "{end}: {:#?}", heir.log());
        app.finish([intake, heir]).await;
    }
}

#[tokio::test]
async fn pausing_a_deployment_that_never_ran_is_refused() {
    let app = App::new().await;
    let refused = app.run(&["workers", "--queue-prefix", "nobody", "pause"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr().contains("EARMARK_QUEUE_PREFIX=nobody"), "{}", refused.stderr());
    app.start("worker").await.terminate().await;
    app.finish([]).await;
}

#[tokio::test]
async fn every_audit_is_noted_with_who_made_it_and_what_it_found() {
    let app = App::new().await;
    app.create_business(1_000);
    app.run(&["audit", "--by", "ann"]).expect_success();
    let mut database = app.database().await;
    sqlx::query("UPDATE businesses SET payout_balance = payout_balance + 7")
        .execute(&mut database)
        .await
        .expect("tampered");
    assert_eq!(app.run(&["audit", "--by", "bob"]).code(), 1);
    sqlx::query("UPDATE businesses SET payout_balance = payout_balance - 7")
        .execute(&mut database)
        .await
        .expect("fixed");
    let noted: Vec<(String, i64, i64, i64)> = sqlx::query_as(
        "SELECT audited_by, businesses, differences, difference_cents FROM audits WHERE shard = $1 ORDER BY audited_at",
    )
    .bind(i16::from(shard()))
    .fetch_all(&mut database)
    .await
    .expect("audits");
    assert_eq!(json!(noted), json!([["ann", 1, 0, 0], ["bob", 1, 1, 7]]));
    app.start("worker").await.terminate().await;
    app.finish([]).await;
}

#[tokio::test]
async fn a_worker_gives_back_what_it_cannot_settle_and_takes_it_again_once_it_can() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let address = authority(&app.database_url);
    let proxy = Proxy::start(Protocol::Postgres, address.parse().expect("an address")).await.expect("a proxy");
    let through = app.database_url.replace(address, &proxy.address().to_string());
    let worker = app.start_with("worker", &[("DATABASE_URL", &through), ("EARMARK_HOLD_TIMEOUT", "3s")]).await;
    proxy.set(Mode::Refuse);
    for number in 0..3 {
        publish(&app, &message(&app, &[&request(&business, &format!("user{number}@example.com"), 1)], &[])).await;
    }
    app.until_queue_holds(&app.work_queue(), 0).await;
    app.until_queue_holds(&app.work_queue(), 3).await;
    proxy.set(Mode::Pass);
    eventually("all are allocated", async || app.count("allocated").await == 3).await;
    assert_eq!(worker.metric("earmark_redeliveries_total").await, Some(3.0), "each came back once");
    app.finish([worker]).await;
}

#[tokio::test]
async fn workers_audit_by_themselves_one_at_a_time_and_say_so_when_the_books_do_not_balance() {
    let app = App::new().await;
    app.create_business(1_000);
    let mut database = app.database().await;
    sqlx::query("UPDATE businesses SET payout_balance = payout_balance + 7")
        .execute(&mut database)
        .await
        .expect("tampered");
    let settings = [("EARMARK_AUDIT_INTERVAL", "1s")];
    let workers = [app.start_with("worker", &settings).await, app.start_with("worker", &settings).await];
    let alarm = "the books do not balance: this needs a person";
    eventually("one says so", async || workers.iter().any(|worker| worker.logged(alarm) > 0)).await;
    sqlx::query("UPDATE businesses SET payout_balance = payout_balance - 7")
        .execute(&mut database)
        .await
        .expect("fixed");
    eventually("one says so", async || workers.iter().any(|worker| worker.logged("the books balance") > 0)).await;
    let gaps = "SELECT count(*) FROM (SELECT audited_at - lag(audited_at) OVER (PARTITION BY shard ORDER BY audited_at) AS gap FROM audits) AS a WHERE gap < '1s'";
    let too_close: i64 = sqlx::query_scalar(gaps).fetch_one(&mut database).await.expect("a count");
    assert_eq!(too_close, 0, "two audits must be an interval apart");
    for (series, least) in [("earmark_audit_timestamp_seconds", 1.0), ("earmark_audit_difference_cents", 0.0)] {
        let shown = async || workers[0].metric(series).await.is_some_and(|value| value >= least);
        eventually(series, shown).await;
    }
    app.finish(workers).await;
}
