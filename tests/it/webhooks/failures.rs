//! Endpoints that fail: retries, pauses, and when one is disabled.

use super::{ANN, create, deliveries, id_of, post, serving, shown, until_seqs};
use crate::harness::eventually;
use crate::harness::hook::{Got, Reply};
use crate::reversals::allocate;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

#[tokio::test]
async fn what_fails_is_tried_again_by_the_schedule_while_later_events_go_on() {
    let (app, process, _, client, hook) = serving(&[("EARMARK_WEBHOOK_RETRIES", "500ms,1s,2s")]).await;
    hook.answers_event("/a", 1, Reply::status(500));
    let webhook = create(&client, &hook.at("/a")).await;
    let id = id_of(&webhook);
    eventually("it fails", async || shown(&client, &id).await["waiting"] == 1).await;
    let failing = shown(&client, &id).await;
    assert_eq!((&failing["state"], &failing["cursor"]), (&json!("failing"), &json!(1)), "{failing}");
    assert!(failing["failing_since"].is_string(), "{failing}");
    for _ in 0..3 {
        allocate(&client, ANN, 1).await;
    }
    let tries = || hook.got("/a").into_iter().filter(|got| got.seq() == 1).collect::<Vec<Got>>();
    eventually("it was tried five times", async || tries().len() >= 5).await;
    hook.answers_event("/a", 1, None);
    eventually("all is delivered", async || {
        let now = shown(&client, &id).await;
        now["waiting"] == 0 && now["cursor"] == 4 && now["state"] == "sound"
    })
    .await;
    let others: Vec<i64> = hook.seqs("/a").into_iter().filter(|seq| *seq > 1).collect();
    assert_eq!(others, [2, 3, 4], "once each, and before the first is delivered");
    let tries = tries();
    let gaps = tries.windows(2).map(|pair| pair[1].at - pair[0].at);
    for (gap, least) in gaps.zip([0.5, 1.0, 2.0, 2.0]) {
        let (least, most) = (Duration::from_secs_f64(least), Duration::from_secs_f64(least + 5.0));
        assert!((least..most).contains(&gap), "{gap:?} for {least:?}");
    }
    let ids: BTreeSet<&str> = tries.iter().map(|got| got.header("webhook-id")).collect();
    assert_eq!(ids.len(), 1, "the same id for every try");
    let times: BTreeSet<&str> = tries.iter().map(|got| got.header("webhook-timestamp")).collect();
    assert!(times.len() > 2, "the time of each try: {times:?}");
    assert!(tries.iter().all(|got| super::verifies(got, &webhook["secret"])));
    app.finish([process]).await;
}

#[tokio::test]
async fn a_pause_that_is_asked_for_is_kept_for_every_event() {
    let (app, process, _, client, hook) = serving(&[("EARMARK_WEBHOOK_RETRIES", "10ms")]).await;
    hook.answers("/a", Reply::status(429).with("retry-after", "3"));
    let id = id_of(&create(&client, &hook.at("/a")).await);
    eventually("it failed", async || shown(&client, &id).await["waiting"] == 1).await;
    hook.answers("/a", None);
    allocate(&client, ANN, 1).await;
    eventually("both came", async || hook.got("/a").len() == 3).await;
    let got = hook.got("/a");
    assert!(got[1].at - got[0].at >= Duration::from_millis(2_900), "{:?}", got[1].at - got[0].at);
    assert_eq!(hook.seqs("/a").into_iter().collect::<BTreeSet<_>>(), [1, 2].into());
    app.finish([process]).await;
}

#[tokio::test]
async fn only_2xx_is_a_success_and_whatever_else_happens_is_named() {
    let settings = [("EARMARK_WEBHOOK_RETRIES", "1h"), ("EARMARK_WEBHOOK_TIMEOUT", "1s")];
    let (app, process, _, client, hook) = serving(&settings).await;
    let long = Reply::status(200).after(Duration::from_secs(3_600));
    for (path, reply) in [
        ("/200", Reply::status(200)),
        ("/299", Reply::status(299)),
        ("/300", Reply::status(300)),
        ("/404", Reply::status(404)),
        ("/503", Reply::status(503)),
        ("/slow", long),
    ] {
        hook.answers(path, reply);
        create(&client, &hook.at(path)).await;
    }
    // Nobody listens on this port.
    create(&client, "http://127.0.0.1:1/").await;
    let results = async || {
        let listed = client.get("/webhooks").await.json();
        let mut results = vec![];
        for webhook in listed["webhooks"].as_array().expect("webhooks") {
            for one in deliveries(&client, &id_of(webhook)).await {
                results.push(one["result"].as_str().expect("a result").to_owned());
            }
        }
        results
    };
    eventually("each was tried", async || results().await.len() == 7).await;
    let expected = ["delivered", "delivered", "refused", "refused", "refused", "timeout", "unreachable"];
    assert_eq!(results().await, expected);
    app.finish([process]).await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_and_goes_on_from_there_when_it_is_enabled() {
    let (app, process, _, client, hook) = serving(&[]).await;
    let id = id_of(&create(&client, &hook.at("/a")).await);
    until_seqs(&hook, "/a", &[1]).await;
    hook.answers("/a", Reply::status(410));
    allocate(&client, ANN, 1).await;
    eventually("it is disabled", async || shown(&client, &id).await["state"] == "disabled").await;
    let gone = shown(&client, &id).await;
    assert_eq!((&gone["disabled_by"], &gone["cursor"], &gone["waiting"]), (&json!("gone"), &json!(1), &json!(0)));
    assert!(gone["disabled_at"].is_string(), "{gone}");
    hook.answers("/a", None);
    for _ in 0..3 {
        allocate(&client, ANN, 1).await;
    }
    eventually("it is counted", async || process.metric(r#"earmark_webhooks{state="disabled"}"#).await == Some(1.0))
        .await;
    assert_eq!(hook.seqs("/a"), [1, 2]);
    let enabled = post(&client, &format!("/webhooks/{id}/enable"), None).await.json();
    assert_eq!((&enabled["state"], enabled.get("disabled_by")), (&json!("sound"), None), "{enabled}");
    until_seqs(&hook, "/a", &[1, 2, 2, 3, 4, 5]).await;
    let disabled = post(&client, &format!("/webhooks/{id}/disable"), None).await.json();
    assert_eq!((&disabled["state"], &disabled["disabled_by"]), (&json!("disabled"), &json!("platform")));
    app.finish([process]).await;
}

#[tokio::test]
async fn an_endpoint_that_fails_for_too_long_is_disabled_and_loses_nothing() {
    let settings = [("EARMARK_WEBHOOK_RETRIES", "200ms"), ("EARMARK_WEBHOOK_PATIENCE", "2s")];
    let (app, process, _, client, hook) = serving(&settings).await;
    hook.answers("/a", Reply::status(500));
    let id = id_of(&create(&client, &hook.at("/a")).await);
    allocate(&client, ANN, 1).await;
    eventually("it is disabled", async || shown(&client, &id).await["state"] == "disabled").await;
    assert_eq!(shown(&client, &id).await["disabled_by"], "failing");
    let count = hook.got("/a").len();
    allocate(&client, ANN, 1).await;
    hook.answers("/a", None);
    eventually("it is counted", async || process.metric(r#"earmark_webhooks{state="disabled"}"#).await == Some(1.0))
        .await;
    assert_eq!(hook.got("/a").len(), count, "nothing more came");
    post(&client, &format!("/webhooks/{id}/enable"), None).await;
    eventually("nothing waits", async || {
        let now = shown(&client, &id).await;
        now["waiting"] == 0 && now["cursor"] == 3 && now["state"] == "sound"
    })
    .await;
    let delivered: BTreeSet<i64> = hook.seqs("/a")[count..].iter().copied().collect();
    assert_eq!(delivered, [1, 2, 3].into());
    app.finish([process]).await;
}

#[tokio::test]
async fn with_a_thousand_events_waiting_the_cursor_stops_and_goes_on_when_there_is_room() {
    let (app, process, _, client, hook) = serving(&[("EARMARK_WEBHOOK_RETRIES", "1h")]).await;
    hook.answers("/a", Reply::status(500));
    let id = id_of(&create(&client, &hook.at("/a")).await);
    eventually("it fails", async || shown(&client, &id).await["waiting"] == 1).await;
    app.execute(
        "INSERT INTO webhook_retries (business_id, webhook_id, seq, failures, due_at)
         SELECT business_id, webhook_id, -n, 1, now() + interval '1 hour' FROM webhooks, generate_series(1, 998) AS n",
    )
    .await;
    allocate(&client, ANN, 1).await;
    eventually("one more fails", async || shown(&client, &id).await["waiting"] == 1_000).await;
    // A relay that has delivered to the other endpoint has looked for work at this one, too.
    let other = id_of(&create(&client, &hook.at("/b")).await);
    for seq in 3..=4 {
        allocate(&client, ANN, 1).await;
        eventually("the other goes on", async || shown(&client, &other).await["cursor"] == seq).await;
    }
    let stopped = shown(&client, &id).await;
    assert_eq!((&stopped["cursor"], &stopped["waiting"]), (&json!(2), &json!(1_000)), "{stopped}");
    let answer = post(&client, &format!("/webhooks/{id}/redeliver"), Some(json!({"seq": 1}))).await;
    assert_eq!(answer.status, 200, "it waits already, and is due now");
    app.execute("UPDATE webhook_retries SET seq = -999 WHERE seq = 2").await;
    let answer = post(&client, &format!("/webhooks/{id}/redeliver"), Some(json!({"seq": 2}))).await;
    assert_eq!((answer.status, answer.json()), (400, json!({"error": "1000 events wait for the webhook already."})));
    hook.answers("/a", None);
    // The first event is delivered, so there is room again.
    eventually("it goes on", async || shown(&client, &id).await["cursor"] == 4).await;
    assert_eq!(hook.seqs("/a").iter().filter(|seq| **seq > 2).collect::<Vec<_>>(), [&3, &4]);
    app.finish([process]).await;
}
