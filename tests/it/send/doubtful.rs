//! What may not be meant so is asked about, or refused, before anything is sent.

use super::{Payer, amount, decided, email};
use crate::harness::scripted::{Scripted, found, one_result};
use crate::harness::{App, eventually};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

pub(super) const BUSINESS: &str = r#"{"business_id":"0198c0de-0000-8000-8000-00000a11ca7e","name":"Acme\u001b[2J","payout_balance":5,"payouts_enabled":true}"#;
pub(super) const HISTORY: &str = r#"{"requests":[],"next_cursor":null}"#;

/// What a service answers before it is sent anything.
pub(super) fn before_it_is_sent() -> Vec<String> {
    vec![found(BUSINESS), found(HISTORY)]
}

#[tokio::test]
async fn the_question_says_who_pays_how_much_where_and_what_is_left() {
    let server = Scripted::start(before_it_is_sent()).await;
    let payer = Payer::new(&server.url, "sk_live_x");
    payer.write("payouts.csv", "Note;Email;Amount\nx;ann@example.com;1250\n;bob@example.com;100000000\n");
    let run = payer.run("payouts.csv", &[]).await;
    let said = run.stderr();
    for expected in [
        "payouts.csv: 2 lines, 1,000,012.50 (100,001,250 cents)",
        "columns that are only kept for the results: Note",
        "amounts are read so that 1250 is 12.50",
        &format!("Acme[2J pays, at {}", server.url),
        "payout balance: 0.05. 1,000,012.45 are missing: some lines will be refused",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!((run.code(), payer.journal("payouts.csv").as_str()), (2, ""));
}

#[tokio::test]
async fn an_address_that_does_not_work_ends_the_run_at_once_with_its_cause() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed = silent.local_addr().expect("an address");
    drop(silent);
    // A server that speaks no TLS.
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let without_tls = plain.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    for (url, cause) in [
        (format!("http://{closed}"), "Connection refused"),
        ("http://nowhere.invalid".to_owned(), "failed to lookup address"),
        (format!("https://{without_tls}"), "corrupt message"),
    ] {
        let payer = Payer::new(&url, "sk_live_x");
        payer.write_payouts("payouts.csv", 1);
        let run = payer.run("payouts.csv", &["--yes"]).await;
        assert_eq!((run.code(), payer.journal("payouts.csv").as_str()), (2, ""), "{url}");
        assert!(run.stderr().contains(cause) && run.stderr().contains(&url), "{url}: {}", run.stderr());
    }
}

#[tokio::test]
async fn a_file_of_which_nothing_was_sent_may_be_corrected() {
    let refused = "HTTP/1.1 401 x\r\nEarmark-Debited: no\r\nContent-Length: 0\r\n\r\n";
    let strange = "HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n";
    let invalid = one_result("no", r#"{"status":400,"debited":"no","error":"Insufficient payout balance"}"#);
    for (answer, code, may_change) in [(refused, 2, true), (&invalid, 1, true), (strange, 2, false)] {
        let server = Scripted::start([before_it_is_sent(), vec![answer.to_owned()]].concat()).await;
        let payer = Payer::new(&server.url, "sk_live_x");
        payer.write_payouts("payouts.csv", 1);
        let run = payer.run("payouts.csv", &["--yes"]).await;
        assert_eq!((run.code(), server.requests().len()), (code, 3), "{answer}: {}", run.stderr());
        payer.write("payouts.csv", "email,amount\ncorrected@example.com,7\n");
        let again = Payer {
            url: Scripted::start(before_it_is_sent()).await.url,
            folder: payer.folder.clone(),
            key: payer.key.clone(),
        };
        let said = again.run("payouts.csv", &[]).await.stderr();
        assert_eq!(said.contains("nobody can be asked"), may_change, "{answer}: {said}");
        assert_eq!(said.contains("could be paid twice: line 2."), !may_change, "{answer}: {said}");
    }
}

#[tokio::test]
async fn what_was_likely_paid_before_is_paid_again_only_if_that_is_said() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000_000), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    payer.write_payouts("payouts.csv", 20);
    assert_eq!(payer.send("payouts.csv").await["paid"]["lines"], 20);
    // The same content under another name, with one new line.
    payer.write(
        "copy.csv",
        &format!("{}{},5\n", std::fs::read_to_string(payer.path("payouts.csv")).expect("read"), email(99)),
    );
    let run = payer.run("copy.csv", &["--yes"]).await;
    assert_eq!((run.code(), decided(&app).await), (2, 20));
    assert!(
        run.stderr().contains("likely done twice: 20 lines") && run.stderr().contains("--allow-repeats"),
        "{}",
        run.stderr()
    );
    // A line that is there twice.
    payer.write("twins.csv", "email,amount\nann@example.com,5\nAnn@example.com,5\nbob@example.com,5\n");
    let run = payer.run("twins.csv", &["--yes"]).await;
    assert_eq!((run.code(), decided(&app).await), (2, 20));
    assert!(
        run.stderr().contains("1 lines, 0.05 (5 cents) are the same as an earlier line, such as line 3 as line 2"),
        "{}",
        run.stderr()
    );
    let run = payer.run("twins.csv", &["--yes", "--allow-repeats", "--json"]).await;
    assert_eq!((run.code(), &run.json()["paid"]["lines"]), (0, &json!(3)), "{}", run.stderr());
    // A reference that another program has paid.
    let body = json!([{"email": "carl@example.com", "amount": 7, "reference": "r-7"}]);
    assert_eq!(app.client(&process, &business).create_all(&body).await.status, 200);
    payer.write("references.csv", "email,amount,reference\ncarl@example.com,7,r-7\ncarl@example.com,8,r-8\n");
    let run = payer.run("references.csv", &["--yes"]).await;
    assert!(
        run.stderr().contains("likely done twice: 1 lines, 0.07 (7 cents) or more were done under their reference"),
        "{}",
        run.stderr()
    );
    assert_eq!(run.code(), 2);
    // What a file has paid under a reference is not asked about: it is not paid again.
    payer.write("new.csv", "email,amount,reference\ncarl@example.com,9,r-9\n");
    payer.send("new.csv").await;
    payer.write("again.csv", "email,amount,reference\ncarl@example.com,9,r-9\ndora@example.com,1,r-10\n");
    assert_eq!(payer.send("again.csv").await["replayed_lines"], 1);
    // Lines that are alike by chance are not asked about.
    let others: String = (200..210).map(|at| format!("{},{}\n", email(at), amount(at))).collect();
    payer.write("chance.csv", &format!("email,amount\n{},{}\n{others}", email(0), amount(0)));
    assert_eq!(payer.send("chance.csv").await["paid"]["lines"], 11);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_run_that_was_killed_before_it_heard_an_answer_leaves_a_file_that_may_not_change() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start_with("serve", &[("EARMARK_FAILPOINT", "before-answer=hold:5s@1")]).await;
    let payer = Payer::for_business(&business, &process.url());
    payer.write_payouts("payouts.csv", 1);
    let mut run = payer.start("payouts.csv", &[]);
    process.until_logged("failpoint reached").await;
    run.kill().await;
    payer.write("payouts.csv", "email,amount\ncorrected@example.com,7\n");
    let run = payer.run("payouts.csv", &["--yes"]).await;
    assert!(run.stderr().contains("could be paid twice: line 2."), "{}", run.stderr());
    eventually("it is paid", async || app.count("allocated").await == 1).await;
    app.finish([process]).await;
}
