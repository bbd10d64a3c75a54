//! `GET /events`: gapless and in order, also under concurrent writers and across restarts, and a long poll that costs no polling
//! a reader.

use crate::harness::http::Client;
use crate::harness::{App, assert_allocated};
use crate::reversals::{allocate, serving};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const ANN: &str = "ann@example.com";

async fn events(client: &Client, query: &str) -> Vec<Value> {
    let answer = client.get(&format!("/events?{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["events"].as_array().expect("events").clone()
}

#[tokio::test]
async fn every_movement_is_an_event_of_its_type_in_the_order_of_the_commits() {
    let (app, process, business, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    assert_eq!(client.create(ANN, 5_000).await.status, 400);
    let settled = client.settle(ANN, 30, "t").await.request_id();
    assert_eq!(client.reverse_part("k", &id, 20).await.status, 200);
    assert_eq!(client.reverse(&settled).await.status, 200);
    app.run(&["business", "fund", &business.id, "--amount", "-50"]).expect_success();
    let all = events(&client, "").await;
    let types: Vec<(i64, &str, i64)> = all
        .iter()
        .map(|event| {
            let kind = event["type"].as_str().expect("a type");
            (event["seq"].as_i64().expect("a number"), kind, event["data"]["amount"].as_i64().expect("cents"))
        })
        .collect();
    let expected = [
        (1, "balance.deposited", 1_000),
        (2, "allocation.created", 100),
        (3, "user.settled", 30),
        (4, "allocation.reversed", 20),
        (5, "settlement.reversed", 30),
        (6, "balance.withdrawn", 50),
    ];
    assert_eq!(types, expected);
    let reversed = &all[3]["data"];
    assert_eq!(
        (&reversed["target"], &reversed["remaining"], &reversed["email"]),
        (&json!(id), &json!(80), &json!(ANN))
    );
    assert_eq!(events(&client, "after=2&limit=2").await, all[2..4]);
    assert_eq!(events(&client, "after=6").await, [] as [Value; 0]);
    for wrong in ["after=-1", "after=x", "limit=0", "wait=21", "wait=1&wait=1"] {
        assert_eq!(client.get(&format!("/events?{wrong}")).await.status, 400, "{wrong}");
    }
    let other = app.client(&process, &app.create_business(5));
    assert_eq!(events(&other, "").await.len(), 1, "only the business's own");
    app.finish([process]).await;
}

#[tokio::test]
async fn whoever_waits_is_told_of_the_next_event_soon_and_nobody_of_another_businesss() {
    let (app, process, _, client) = serving(1_000).await;
    let other = app.client(&process, &app.create_business(1_000));
    let waiting: Vec<_> = (0..200)
        .map(|number| {
            let client = if number % 2 == 0 { client.clone() } else { other.clone() };
            tokio::spawn(async move {
                events(&client, if number % 2 == 0 { "after=1&wait=20" } else { "after=1&wait=2" }).await
            })
        })
        .collect();
    let since = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    allocate(&client, ANN, 1).await;
    for (number, told) in waiting.into_iter().enumerate() {
        let told = told.await.expect("joined");
        assert_eq!(told.len(), if number % 2 == 0 { 1 } else { 0 }, "{told:?}");
    }
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    app.finish([process]).await;
}

#[tokio::test]
async fn a_reader_sees_1_to_n_while_four_write_and_processes_die_and_can_rebuild_every_balance() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let reader = app.start("intake").await;
    let (intake, mut worker) = (app.start("intake").await, app.start("worker").await);
    let (client, reading) = (app.client(&intake, &business), app.client(&reader, &business));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                for number in 0..60 {
                    let email = format!("user{}@example.com", number % 7);
                    let created = client.create(&email, 10).await;
                    match number % 3 {
                        0 => drop(client.settle(&email, 3, &format!("t{writer}-{number}")).await),
                        1 if created.status == 200 => drop(client.reverse(&created.request_id()).await),
                        _ => {}
                    }
                }
            })
        })
        .collect();
    let mut seen = vec![];
    let mut end = None;
    loop {
        if seen.len() == 100 {
            worker.kill().await;
            worker = app.start("worker").await;
        }
        let page = events(&reading, &format!("after={}&limit=20&wait=1", seen.len())).await;
        if page.is_empty() && writers.iter().all(tokio::task::JoinHandle::is_finished) {
            if end.is_some() {
                break;
            }
            end = Some(());
        }
        for event in page {
            seen.push(event.clone());
            assert_eq!(event["seq"].as_u64(), Some(seen.len() as u64), "{event}");
            if seen.len() == 100 {
                break;
            }
        }
    }
    for writer in writers {
        writer.await.expect("joined");
    }
    assert!(seen.len() > 100, "{}", seen.len());
    let mut users = BTreeMap::<String, i64>::new();
    for event in &seen {
        let (data, kind) = (&event["data"], event["type"].as_str().expect("a type"));
        let sign = if ["allocation.created", "settlement.reversed"].contains(&kind) { 1 } else { -1 };
        if let Some(email) = data["email"].as_str() {
            *users.entry(email.to_owned()).or_default() += sign * data["amount"].as_i64().expect("cents");
        }
    }
    for (email, cents) in users {
        assert_eq!(client.user_balance(&email).await, cents, "{email}");
    }
    let last = &seen.last().expect("events")["data"]["payout_balance_after"];
    assert_eq!(json!(client.payout_balance().await), *last);
    assert_allocated(&client.create(ANN, 1).await);
    app.finish([reader, intake, worker]).await;
}
