//! Files that take payouts back and settle: each line once, like a payout, whatever breaks.

use super::{Payer, decided, doubtful, email};
use crate::harness::http::Client;
use crate::harness::proxy::{Moment, Protocol, Proxy, Side, Trap};
use crate::harness::scripted::{Scripted, found};
use crate::harness::{App, assert_allocated, eventually};
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

const ID: &str = "0198c0de-0000-7000-8000-00000a11ca7e";

/// Pays `count` users an amount each, and returns the ids of the requests.
async fn pay_each(client: &Client, count: usize, amount: i64) -> Vec<String> {
    let items: Vec<Value> = (0..count).map(|at| json!({"email": email(at), "amount": amount})).collect();
    let results = client.create_all(&json!(items)).await.json();
    let results = results["results"].as_array().expect("results");
    results.iter().map(|result| result["request_id"].as_str().expect("paid").to_owned()).collect()
}

async fn balances(app: &App) -> Vec<i64> {
    let rows = "SELECT balance FROM payout_users ORDER BY length(email), email";
    sqlx::query_scalar(rows).fetch_all(&mut app.database().await).await.expect("balances")
}

#[tokio::test]
async fn a_file_pays_takes_back_and_settles_as_its_lines_say_and_does_so_once() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000), app.start("serve").await);
    let (client, payer) = (app.client(&process, &business), Payer::for_business(&business, &process.url()));
    let paid = pay_each(&client, 3, 200).await;
    let rows = [
        format!("{},100,,,invoice 7,new", email(3)),
        format!(",0150,x,{},,", paid[0]),
        format!(",150,reverse,{},,part", paid[0]),
        format!(",,Reverse,{},invoice 7,", paid[1].to_uppercase()),
        format!("{},50,settle,,transfer 7,", email(2)),
    ];
    let file = |rows: &[String]| format!("Email,Amount,Kind,Target,Reference,Note\n{}\n", rows.join("\n"));
    payer.write("mixed.csv", &file(&rows));
    let run = payer.run("mixed.csv", &["--yes"]).await;
    assert!(run.code() == 2 && run.stderr().contains("line 3: the kind is none of"), "{}", run.stderr());
    assert_eq!(balances(&app).await, [200, 200, 200]);
    let good = [&rows[..1], &rows[2..]].concat();
    payer.write("mixed.csv", &file(&good));
    let summary = payer.send("mixed.csv").await;
    assert_eq!(summary["paid"], json!({"lines": 1, "cents": 100}), "{summary}");
    assert_eq!(summary["reversals"]["done"], json!({"lines": 2, "cents": 350}), "{summary}");
    assert_eq!(summary["settlements"]["done"], json!({"lines": 1, "cents": 50}), "{summary}");
    let expected = [50, 0, 150, 100];
    assert_eq!(balances(&app).await, expected);
    assert_eq!(client.payout_balance().await, 1_000 - 600 + 350 - 100);
    let table = payer.results("mixed.results.csv");
    let columns =
        |row: usize| ["status", "cents", "kind", "target", "reference", "Note"].map(|name| table[row][name].as_str());
    assert_eq!(columns(0), ["paid", "100", "allocate", "", "invoice 7", "new"]);
    assert_eq!(columns(1), ["reversed", "150", "reverse", &paid[0], "", "part"]);
    assert_eq!(columns(2), ["reversed", "200", "reverse", &paid[1], "invoice 7", ""]);
    assert_eq!(columns(3), ["settled", "50", "settle", "", "transfer 7", ""]);
    for (row, state) in table.iter().zip(["allocated", "reversed", "reversed", "settled"]) {
        let shown = client.get(&format!("/payout/requests/{}", row["request_id"])).await.json();
        assert_eq!((&shown["state"], &shown["kind"]), (&json!(state), &json!(row["kind"])), "{row:?}");
    }
    // Again: all of it is in the journal. Without the journal the service repeats its answers.
    let before = decided(&app).await;
    assert_eq!(payer.send("mixed.csv").await, summary);
    assert_eq!(decided(&app).await, before);
    fs::remove_file(payer.path("mixed.csv.journal")).expect("removed");
    let again = payer.send("mixed.csv").await;
    assert_eq!(
        (&again["reversals"], &again["settlements"], &again["replayed_lines"]),
        (&summary["reversals"], &summary["settlements"], &json!(4))
    );
    assert_eq!(balances(&app).await, expected);
    // What is done may not change.
    payer.write("mixed.csv", &file(&good).replace(",150,", ",151,"));
    let run = payer.run("mixed.csv", &["--yes"]).await;
    assert!(run.code() == 2 && run.stderr().contains("could be paid twice: line 3."), "{}", run.stderr());
    let run = payer.run("mixed.csv", &["--yes", "--json", "--dry-run"]).await;
    assert!(run.code() == 2 && run.stderr().contains("could be paid twice: line 3."), "{}", run.stderr());
    app.finish([process]).await;
}

#[tokio::test]
async fn what_cannot_be_taken_back_or_settled_is_refused_with_the_reason_and_asked_again() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000), app.start("serve").await);
    let (client, payer) = (app.client(&process, &business), Payer::for_business(&business, &process.url()));
    let paid = pay_each(&client, 1, 200).await;
    payer.write(
        "back.csv",
        &format!(
            "kind,email,amount,target,reference\nreverse,,201,{},\nreverse,,,{ID},\nsettle,{},201,,t-1\nreverse,,50,{},\n",
            paid[0],
            email(0),
            paid[0]
        ),
    );
    let summary = payer.send("back.csv").await;
    assert_eq!(summary["reversals"]["done"], json!({"lines": 1, "cents": 50}), "{summary}");
    let refused = summary["reversals"]["refused"].as_object().expect("reasons");
    // The two reversals of the same payout are sent together: 150 or 200 are left when the larger one is decided.
    assert!(refused.keys().any(|reason| reason.starts_with("The amount must not be greater than ")), "{summary}");
    assert_eq!((refused.len(), &refused["Not found"]), (2, &json!({"lines": 1, "cents": 0})), "{summary}");
    let short = json!({"Insufficient user balance": {"lines": 1, "cents": 201}});
    assert_eq!(summary["settlements"]["refused"], short, "{summary}");
    // The user is paid more, and the same command settles.
    assert_allocated(&client.create(&email(0), 51).await);
    let summary = payer.send("back.csv").await;
    assert_eq!(summary["settlements"]["done"], json!({"lines": 1, "cents": 201}), "{summary}");
    assert_eq!(balances(&app).await, [0]);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_file_of_reversals_that_is_killed_and_whose_answers_are_lost_takes_each_back_once() {
    const LINES: usize = 200;
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000_000), app.start("serve").await);
    let client = app.client(&process, &business);
    let paid = pay_each(&client, LINES, 10).await;
    let upstream = process.url().trim_start_matches("http://").parse().expect("an address");
    let proxy = Proxy::start(Protocol::Opaque, upstream).await.expect("a proxy");
    let payer = Payer::for_business(&business, &format!("http://{}", proxy.address()));
    // If one were taken back twice, nothing would be left for the settlement.
    let rows: String = paid
        .iter()
        .enumerate()
        .map(|(at, id)| match at % 2 {
            0 => format!("reverse,,6,{id},\n"),
            _ => format!("settle,{},6,,t-{at}\n", email(at)),
        })
        .collect();
    payer.write("back.csv", &format!("kind,email,amount,target,reference\n{rows}"));
    let done = async || app.count("reversed").await + app.count("settled").await;
    for part in 1..=3 {
        let mut run = payer.start("back.csv", &["--concurrency", "4"]);
        eventually("it has done some more", async || done().await >= part * LINES as i64 / 5).await;
        proxy.arm(Trap { at: Moment::Said, side: Side::Before });
        proxy.sprung(part as u64).await;
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..20_000))).await;
        run.kill().await;
    }
    let summary = payer.send("back.csv").await;
    let half = json!({"lines": LINES / 2, "cents": 6 * LINES / 2});
    assert_eq!((&summary["reversals"]["done"], &summary["settlements"]["done"]), (&half, &half), "{summary}");
    assert_eq!(balances(&app).await, vec![4; LINES]);
    assert_eq!(done().await, LINES as i64);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_line_that_is_not_decided_is_sent_again_under_the_same_key() {
    let answer = |status: &str, moved: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nEarmark-Moved: {moved}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let reversed = answer("200 OK", "yes", &format!(r#"{{"request_id":"{ID}","reversed":5,"remaining":0}}"#));
    let settled = answer("200 OK", "yes", &format!(r#"{{"request_id":"{ID}","balance":0}}"#));
    let undecided = [
        answer("503 x", "no", r#"{"error":"x"}"#),
        answer("504 x", "unknown", r#"{"error":"x"}"#),
        String::new(),
        "HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ];
    for (row, path, end, has_key) in [
        (format!("reverse,,5,{ID},"), format!("post /payout/requests/{ID}/reverse http"), reversed, true),
        (format!("settle,{},5,,t-1", email(0)), "post /payout/user/settle http".to_owned(), settled, false),
    ] {
        let before = match has_key {
            // The history is asked for what was reversed, and for settlements that were.
            true => [doubtful::before_it_is_sent(), vec![found(doubtful::HISTORY)]].concat(),
            false => doubtful::before_it_is_sent()[..1].to_vec(),
        };
        let server = Scripted::start([before.as_slice(), &undecided, &[end]].concat()).await;
        let payer = Payer::new(&server.url, "sk_live_x");
        payer.write("back.csv", &format!("kind,email,amount,target,reference\n{row}\n"));
        let run = payer.run("back.csv", &["--yes", "--json"]).await;
        assert_eq!(run.code(), 0, "{}", run.stderr());
        let requests = server.requests().split_off(before.len());
        assert_eq!(requests.len(), undecided.len() + 1);
        assert!(requests.windows(2).all(|pair| pair[0].1 == pair[1].1), "{requests:?}");
        let first = &requests[0].1;
        assert!(first.starts_with(&path) && first.contains("idempotency-key: send-") == has_key, "{first}");
    }
}

#[tokio::test]
async fn the_question_and_the_results_name_the_sums_by_kind() {
    let page = || found(doubtful::HISTORY);
    let before = || vec![found(doubtful::BUSINESS), page(), page(), page()];
    let server = Scripted::start(before()).await;
    let payer = Payer::new(&server.url, "sk_live_x");
    payer.write(
        "mixed.csv",
        &format!(
            "kind,email,amount,target,reference\n,{},2,,\nreverse,,125000,{ID},\nreverse,,,{ID},\nsettle,{},7,,t-1\n",
            email(0),
            email(1)
        ),
    );
    let said = payer.run("mixed.csv", &[]).await.stderr();
    let total = "mixed.csv: 1 lines, 0.02 (2 cents); to take back 2 lines, 1,250.00 (125,000 cents); to settle 1 lines, 0.07 (7 cents)";
    assert!(said.contains(total), "{said}");
    assert!(said.contains("payout balance: 0.05 before, 0.03 after, without what is taken back"), "{said}");
    let payer =
        Payer { url: Scripted::start(before()).await.url, folder: payer.folder.clone(), key: payer.key.clone() };
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: script is not installed");
        return;
    }
    let (asked, _) = payer.run_at_a_terminal("mixed.csv", "no\n").await;
    let question = "Send 1 lines, 0.02 (2 cents); to take back 2 lines, 1,250.00 (125,000 cents), and all that is left with 1 of them; to settle 1 lines";
    assert!(asked.contains(question), "{asked}");
}

#[tokio::test]
async fn what_was_likely_taken_back_before_is_taken_back_again_only_if_that_is_said() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000), app.start("serve").await);
    let (client, payer) = (app.client(&process, &business), Payer::for_business(&business, &process.url()));
    let paid = pay_each(&client, 2, 200).await;
    let file = format!("kind,amount,target,reference\nreverse,50,{},\nreverse,20,{},r-1\n", paid[0], paid[1]);
    payer.write("back.csv", &file);
    assert_eq!(payer.send("back.csv").await["reversals"]["done"]["lines"], 2);
    // The line with a reference is known by it in every file, and the other one is not.
    payer.write("copy.csv", &file);
    let run = payer.run("copy.csv", &["--yes"]).await;
    let expected = "likely done twice: 1 lines, 0.50 (50 cents) or more were taken back from the same requests";
    assert!(run.code() == 2 && run.stderr().contains(expected), "{}", run.stderr());
    assert_eq!(balances(&app).await, [150, 180]);
    let run = payer.run("copy.csv", &["--yes", "--json", "--allow-repeats"]).await;
    assert_eq!((run.code(), &run.json()["replayed_lines"]), (0, &json!(1)), "{}", run.stderr());
    assert_eq!(balances(&app).await, [100, 180]);
    app.finish([process]).await;
}
