//! `earmark send --dry-run` says what would become of each line, and nothing moves.

use super::{Payer, decided, doubtful, email, sum};
use crate::harness::App;
use crate::harness::scripted::{Scripted, found, one_result};
use serde_json::json;
use std::fs;

#[tokio::test]
async fn a_dry_run_says_what_would_become_of_each_line_and_moves_nothing() {
    let app = App::new().await;
    let (business, process) = (app.create_business(100_000), app.start("serve").await);
    let (client, payer) = (app.client(&process, &business), Payer::for_business(&business, &process.url()));
    let paid = client.create(&email(0), 100).await.request_id();
    let rows = [
        format!(",{},50,,r-1", email(0)),
        format!("reverse,,101,{paid},"),
        format!("reverse,,,{paid},"),
        format!("settle,{},101,,t-1", email(0)),
        format!("settle,{},100,,t-2", email(0)),
    ];
    payer.write("mixed.csv", &format!("kind,email,amount,target,reference\n{}\n", rows.join("\n")));
    let before = decided(&app).await;
    // Nobody is asked.
    let run = payer.run("mixed.csv", &["--dry-run", "--json"]).await;
    let summary = run.json();
    assert_eq!(run.code(), 1, "{summary} {}", run.stderr());
    assert_eq!((&summary["possible"]["lines"], &summary["paid"]["lines"]), (&json!(1), &json!(0)), "{summary}");
    assert_eq!(
        (&summary["reversals"]["possible"]["lines"], &summary["settlements"]["possible"]["lines"]),
        (&json!(1), &json!(1))
    );
    assert!(run.stderr().contains("payout balance: 999.00 before, 998.50 after"), "{}", run.stderr());
    let table = payer.results("mixed.dry-run.csv");
    let said: Vec<_> = table.iter().map(|row| (row["status"].as_str(), row["error"].as_str())).collect();
    let too_much = "The amount must not be greater than 100.";
    let short = "Insufficient user balance";
    assert_eq!(said, [("possible", ""), ("refused", too_much), ("possible", ""), ("refused", short), ("possible", "")]);
    assert_eq!((decided(&app).await, client.user_balance(&email(0)).await), (before, 100));
    assert!(!payer.path("mixed.csv.journal").exists() && !payer.path("mixed.results.csv").exists());
    // So the file may still change, and the real run is not hindered.
    payer.write("mixed.csv", &format!("email,amount,reference\n{},50,r-1\n", email(0)));
    assert_eq!(payer.send("mixed.csv").await["paid"]["lines"], 1);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_dry_run_knows_what_is_done_and_compares_the_sum_of_all_with_the_balance() {
    let app = App::new().await;
    let (business, process) = (app.create_business(sum(1_500) + sum(20)), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    payer.write_payouts("payouts.csv", 20);
    payer.send("payouts.csv").await;
    let journal = payer.journal("payouts.csv");
    let run = payer.run("payouts.csv", &["--dry-run", "--json"]).await;
    assert_eq!(
        (run.code(), &run.json()["paid"]["lines"], &run.json()["possible"]["lines"]),
        (0, &json!(20), &json!(0))
    );
    assert_eq!(payer.journal("payouts.csv"), journal);
    // Two calls. The balance covers each of them, and both.
    payer.write_payouts("large.csv", 1_500);
    let run = payer.run("large.csv", &["--dry-run"]).await;
    assert_eq!(run.code(), 0, "{}", run.stderr());
    assert!(run.stdout().contains("possible       1,500 lines"), "{}", run.stdout());
    assert!(run.stderr().contains("this was a dry run: no money moved"), "{}", run.stderr());
    // One cent less, and the balance does not cover both.
    app.run(&["business", "fund", &business.id, "--amount", "-1"]).expect_success();
    let run = payer.run("large.csv", &["--dry-run"]).await;
    assert_eq!(run.code(), 1, "{}", run.stderr());
    assert!(run.stderr().contains("0.01 are missing: some lines will be refused"), "{}", run.stderr());
    assert_eq!(app.count("allocated").await, 20);
    // What another file has paid under a reference is said.
    payer.write("new.csv", &format!("email,amount,reference\n{},50,r-1\n", email(0)));
    app.run(&["business", "fund", &business.id, "--amount", "100"]).expect_success();
    payer.send("new.csv").await;
    fs::rename(payer.path("new.csv"), payer.path("again.csv")).expect("renamed");
    let run = payer.run("again.csv", &["--dry-run", "--json"]).await;
    assert_eq!((run.code(), &run.json()["replayed_lines"]), (0, &json!(1)), "{}", run.stderr());
    app.finish([process]).await;
}

#[tokio::test]
async fn every_call_of_a_dry_run_asks_for_one_and_an_answer_that_money_moved_ends_it() {
    let paid = one_result("yes", super::PAID);
    let server = Scripted::start([doubtful::before_it_is_sent(), vec![paid]].concat()).await;
    let payer = Payer::new(&server.url, "sk_live_x");
    payer.write_payouts("payouts.csv", 1);
    let run = payer.run("payouts.csv", &["--dry-run", "--json"]).await;
    let last = server.requests().pop().expect("a request").1;
    assert!(last.starts_with("post /payout/create/bulk?dry_run=true http"), "{last}");
    assert_eq!((run.code(), &run.json()["undecided"]["lines"]), (2, &json!(1)), "{}", run.stderr());
    assert!(run.stderr().contains("is not one of Earmark's"), "{}", run.stderr());
    let moved = format!(r#"{{"request_id":"{}","balance":7}}"#, "0198c0de-0000-7000-8000-00000a11ca7e");
    let moved = format!("HTTP/1.1 200 OK\r\nEarmark-Moved: yes\r\nContent-Length: {}\r\n\r\n{moved}", moved.len());
    let server = Scripted::start(vec![found(doubtful::BUSINESS), moved]).await;
    let payer = Payer::new(&server.url, "sk_live_x");
    payer.write("settle.csv", &format!("kind,email,amount,reference\nsettle,{},5,t-1\n", email(0)));
    let run = payer.run("settle.csv", &["--dry-run", "--json"]).await;
    let last = server.requests().pop().expect("a request").1;
    assert!(last.starts_with("post /payout/user/settle?dry_run=true http"), "{last}");
    assert_eq!((run.code(), &run.json()["settlements"]["undecided"]["lines"]), (2, &json!(1)), "{}", run.stderr());
}
