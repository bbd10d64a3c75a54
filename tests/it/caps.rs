//! What a business allows itself: the largest allocation, and the total of a day.

use crate::reversals::{allocate, serving};
use serde_json::{Value, json};

const ANN: &str = "ann@example.com";

#[tokio::test]
async fn caps_refuse_after_the_switch_and_before_the_balance_and_are_off_unless_set() {
    let (app, process, business, client) = serving(1_000).await;
    let id = allocate(&client, ANN, 100).await;
    app.run(&["business", "limit", &business.id, "--largest", "50", "--daily", "200"]).expect_success();
    let told = client.create(ANN, 2_000).await;
    let large = json!({"amount": ["The amount must not be greater than 50."]});
    assert_eq!((told.status, told.json(), told.header("earmark-debited")), (400, large, Some("no")));
    allocate(&client, ANN, 50).await;
    allocate(&client, ANN, 49).await;
    let told = client.create(ANN, 2).await;
    let daily = json!({"error": "Daily payout limit reached"});
    assert_eq!((told.status, told.json(), told.header("earmark-moved")), (400, daily.clone(), Some("no")));
    // What is reversed still counts.
    assert_eq!(client.reverse(&id).await.status, 200);
    assert_eq!(client.create(ANN, 2).await.json(), daily);
    allocate(&client, ANN, 1).await;
    app.run(&["business", "disable-payouts", &business.id]).expect_success();
    assert_eq!(client.create(ANN, 51).await.status, 403);
    app.run(&["business", "enable-payouts", &business.id]).expect_success();
    // What is not given stays, and is shown.
    let shown = || {
        let listed: Value = serde_json::from_str(&app.run(&["business", "list", "--json"]).stdout()).expect("JSON");
        [&listed[0]["largest_allocation"], &listed[0]["daily_limit"]].map(Value::as_i64)
    };
    assert_eq!(app.run(&["business", "limit", &business.id]).code(), 2, "which limit?");
    assert_eq!(shown(), [Some(50), Some(200)]);
    app.run(&["business", "limit", &business.id, "--daily", "none"]).expect_success();
    assert_eq!(shown(), [Some(50), None]);
    assert!(app.run(&["business", "list"]).stdout().contains(" 50 "));
    app.run(&["business", "limit", &business.id, "--largest", "none"]).expect_success();
    assert_eq!(shown(), [None, None]);
    for wrong in ["0", "-1", "some", "1.5"] {
        assert_eq!(app.run(&["business", "limit", &business.id, &format!("--daily={wrong}")]).code(), 2, "{wrong}");
    }
    allocate(&client, ANN, 500).await;
    // The audit, which `finish` asks for, judges by the limits only what came after them.
    app.run(&["business", "limit", &business.id, "--largest", "50", "--daily", "200"]).expect_success();
    app.finish([process]).await;
}

#[tokio::test]
async fn a_day_s_total_is_never_exceeded_however_many_ask_at_once() {
    let (app, process, business, client) = serving(10_000).await;
    app.run(&["business", "limit", &business.id, "--daily", "100"]).expect_success();
    let asking = (0..60).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.create(&format!("user{number}@example.com"), 7).await.status })
    });
    let mut allocated = 0;
    for asked in asking.collect::<Vec<_>>() {
        allocated += i64::from(asked.await.expect("joined") == 200);
    }
    assert_eq!((allocated, client.payout_balance().await), (14, 10_000 - 98));
    app.finish([process]).await;
}
