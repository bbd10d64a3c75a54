//! The sequence of movements, and what is read off it: balances at a time, and statements.

use crate::harness::http::Client;
use crate::harness::{App, assert_allocated};
use crate::reversals::{allocate, serving};
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const ANN: &str = "ann@example.com";

/// Every movement of every business in order: business, number, balance after it.
async fn sequence(app: &App) -> Vec<(String, i64, i64)> {
    sqlx::query_as(
        "SELECT business_id::text, seq, payout_balance_after FROM (
             SELECT business_id, seq, payout_balance_after FROM allocations WHERE seq IS NOT NULL
             UNION ALL SELECT business_id, seq, payout_balance_after FROM deposits) AS m ORDER BY 1, 2",
    )
    .fetch_all(&mut app.database().await)
    .await
    .expect("movements")
}

#[tokio::test]
async fn each_row_that_moved_money_has_the_next_number_and_the_balance_after_it() {
    let (app, process, business, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    assert_eq!(client.create(ANN, 5_000).await.status, 400);
    app.run(&["business", "fund", &business.id, "--amount", "-50"]).expect_success();
    assert_eq!(client.settle(ANN, 30, "t").await.status, 200);
    assert_eq!(client.reverse_part("k", &id, 20).await.status, 200);
    app.run(&["business", "fund", &business.id, "--amount", "7"]).expect_success();
    allocate(&client, ANN, 1).await;
    let balances: Vec<(i64, i64)> = sequence(&app).await.into_iter().map(|(_, seq, balance)| (seq, balance)).collect();
    assert_eq!(balances, [(1, 1_000), (2, 900), (3, 850), (4, 850), (5, 870), (6, 877), (7, 876)]);
    let shown = client.get(&format!("/payout/requests/{id}")).await.json();
    assert_eq!(
        (&shown["kind"], &shown["seq"], &shown["payout_balance_after"]),
        (&json!("allocate"), &json!(2), &json!(900))
    );
    let history = client.get("/payout/requests").await.json();
    let seqs: Vec<&Value> = history["requests"].as_array().expect("requests").iter().map(|one| &one["seq"]).collect();
    assert_eq!(seqs, [&json!(7), &json!(5), &json!(4), &Value::Null, &json!(2)]);
    app.finish([process]).await;
}

#[tokio::test]
async fn numbers_have_no_gap_under_concurrent_callers_deposits_and_batches_of_both_ways() {
    let app = App::new().await;
    let businesses = [app.create_business(100_000), app.create_business(100_000)];
    let process = app.start("serve").await;
    let clients = businesses.each_ref().map(|business| app.client(&process, business));
    let asking = (0..200).map(|number| {
        let client = clients[number % 2].clone();
        tokio::spawn(async move {
            let email = format!("user{}@example.com", number % 10);
            match number % 5 {
                0 => client.create_with_key(&format!("k{number}"), &email, 10).await.status,
                1 => client.settle(&email, 1, &format!("t{number}")).await.status,
                2 => {
                    let id = client.create(&email, 10).await.request_id();
                    client.reverse(&id).await.status
                }
                _ => client.create(&email, 10).await.status,
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    for _ in 0..5 {
        app.run(&["business", "fund", &businesses[0].id, "--amount", "5"]).expect_success();
    }
    for asked in asking {
        assert!([200, 400].contains(&asked.await.expect("joined")));
    }
    let movements = sequence(&app).await;
    for business in &businesses {
        let seqs: Vec<i64> = movements.iter().filter(|(of, ..)| *of == business.id).map(|(_, seq, _)| *seq).collect();
        assert!(seqs.len() > 60);
        assert_eq!(seqs, (1..=seqs.len() as i64).collect::<Vec<_>>());
    }
    app.finish([process]).await;
}

async fn balance_at(client: &Client, at: OffsetDateTime) -> Value {
    let at = at.format(&Rfc3339).expect("a time");
    let answer = client.get(&format!("/balance?at={at}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["payout_balance"].clone()
}

#[tokio::test]
async fn the_balance_at_a_time_is_that_after_every_movement_up_to_then() {
    let (app, process, business, client) = serving(1_000).await;
    let mut moments = vec![(OffsetDateTime::UNIX_EPOCH, 0, None)];
    let later = async || {
        // At least two milliseconds, so that each moment is between two movements.
        let end = earmark::clock::now_millis() + 2;
        while earmark::clock::now_millis() < end {
            tokio::task::yield_now().await;
        }
        earmark::clock::utc(end - 1)
    };
    moments.push((later().await, 1_000, None));
    let id = allocate(&client, ANN, 100).await;
    moments.push((later().await, 900, Some(100)));
    app.run(&["business", "fund", &business.id, "--amount", "50"]).expect_success();
    moments.push((later().await, 950, Some(100)));
    assert_eq!(client.settle(ANN, 30, "t").await.status, 200);
    moments.push((later().await, 950, Some(70)));
    assert_eq!(client.reverse_part("k", &id, 20).await.status, 200);
    moments.push((later().await, 970, Some(50)));
    for _ in 0..2 {
        for (at, payout, user) in &moments {
            assert_eq!(balance_at(&client, *at).await, json!(payout), "{at}");
            let at = at.format(&Rfc3339).expect("a time");
            let shown = client.get(&format!("/payout/user?email={ANN}&at={at}")).await;
            let balance = (shown.status == 200).then(|| shown.json()["balance"].as_i64().expect("cents"));
            assert_eq!(balance, *user, "{at}");
        }
        allocate(&client, ANN, 1).await;
    }
    for wrong in ["at=yesterday", "at=2999-01-01T00:00:00Z", "at=2026-01-01T00:00:00Z&at=2026-01-01T00:00:00Z"] {
        let answer = client.get(&format!("/balance?{wrong}")).await;
        assert!(answer.status == 400 && answer.json()["at"].is_array(), "{wrong}: {answer:?}");
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn what_was_answered_for_a_moment_ago_stays_true_while_money_moves() {
    let (app, process, _, client) = serving(1_000_000).await;
    let moving = {
        let client = client.clone();
        tokio::spawn(async move {
            for number in 0..300 {
                assert_allocated(&client.create(&format!("user{number}@example.com"), 1).await);
            }
        })
    };
    let mut answered = vec![];
    while !moving.is_finished() {
        let at = earmark::clock::now_utc() - time::Duration::MILLISECOND;
        answered.push((at, balance_at(&client, at).await));
    }
    moving.await.expect("joined");
    assert!(answered.len() > 10);
    for (at, balance) in answered {
        assert_eq!(balance_at(&client, at).await, balance, "{at}");
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn a_statement_has_every_movement_of_a_user_with_the_balance_after_each() {
    let (app, process, _, client) = serving(10_000).await;
    let id = allocate(&client, ANN, 100).await;
    allocate(&client, "bob@example.com", 7).await;
    let settled = client.settle(ANN, 30, "=t").await.request_id();
    assert_eq!(client.create(ANN, 50_000).await.status, 400);
    assert_eq!(client.reverse_part("k", &id, 20).await.status, 200);
    let middle = earmark::clock::now_utc().format(&Rfc3339).expect("a time");
    assert_eq!(client.reverse(&settled).await.status, 200);
    let expected = [("allocate", 100, 100), ("settle", -30, 70), ("reverse", -20, 50), ("reverse", 30, 80)];
    let shown = |movements: &Value| -> Vec<(String, i64, i64)> {
        let of = |one: &Value| {
            let cents = |name: &str| one[name].as_i64().expect("cents");
            (one["kind"].as_str().expect("a kind").to_owned(), cents("amount"), cents("balance"))
        };
        movements.as_array().expect("movements").iter().map(of).collect()
    };
    let expected = expected.map(|(kind, amount, balance)| (kind.to_owned(), amount, balance));
    let path = format!("/payout/user/statement?email={ANN}");
    let all = client.get(&path).await;
    assert_eq!((all.status, shown(&all.json()["movements"])), (200, expected.to_vec()), "{all:?}");
    assert_eq!(all.json()["movements"][3]["target"], json!(settled));
    let (mut paged, mut cursor) = (vec![], String::new());
    loop {
        let page = client.get(&format!("{path}&limit=1{cursor}")).await.json();
        paged.extend(shown(&page["movements"]));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, expected);
    let first = client.get(&format!("{path}&to={middle}")).await.json();
    let rest = client.get(&format!("{path}&from={middle}")).await.json();
    assert_eq!([shown(&first["movements"]), shown(&rest["movements"])].concat(), expected);
    let csv = client.authorized(Method::GET, &format!("{path}&limit=1")).header("accept", "text/csv");
    let csv = Client::send(csv).await.expect("an answer");
    let text = String::from_utf8(csv.body.clone()).expect("UTF-8");
    assert_eq!(text.lines().next(), Some("seq,moved_at,kind,request_id,amount,balance,target,reference"));
    assert_eq!((csv.status, text.lines().count()), (200, 5), "{text}");
    assert!(text.contains(",settle,") && text.contains(",-30,70,,'=t"), "{text}");
    assert_eq!(client.get("/payout/user/statement?email=nobody@example.com").await.status, 404);
    assert_eq!(client.get("/payout/user/statement").await.json(), json!({"email": ["The email field is required."]}));
    app.finish([process]).await;
}
