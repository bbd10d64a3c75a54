//! `earmark send`: every line of a file is paid once, whatever breaks and however often it is run.

mod crashes;
mod doubtful;
mod dry;
mod files;
mod kinds;
mod story;

use crate::harness::process::{Process, Run};
use crate::harness::proxy::{Moment, Protocol, Proxy, Side, Trap};
use crate::harness::scripted::{Scripted, busy, one_result, read_request};
use crate::harness::{App, Business, eventually};
use earmark::clock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// A result of a bulk call: the item is paid.
const PAID: &str = r#"{"status":200,"debited":"yes","request_id":"0198c0de-0000-7000-8000-00000a11ca7e","hash":"9b2e0c7c1d3f4a5b6c7d8e9f00112233445566778899aabbccddeeff01234567"}"#;

/// A payer with a folder of files to send.
struct Payer {
    folder: PathBuf,
    url: String,
    key: String,
}

impl Payer {
    fn new(url: &str, key: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("send-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&folder).expect("a folder");
        Self { folder, url: url.to_owned(), key: key.to_owned() }
    }

    fn for_business(business: &Business, url: &str) -> Self {
        Self::new(url, &business.secret_key)
    }

    /// The same files with another API key.
    fn with_key(&self, key: &str) -> Self {
        Self { folder: self.folder.clone(), url: self.url.clone(), key: key.to_owned() }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).expect("written");
    }

    /// Writes a file with `count` payouts, numbered from 0.
    fn write_payouts(&self, file: &str, count: usize) {
        let lines: String = (0..count).map(|at| format!("{},{}\n", email(at), amount(at))).collect();
        self.write(file, &format!("email,amount\n{lines}"));
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("EARMARK_URL", self.url.clone()), ("EARMARK_API_KEY", self.key.clone())]
    }

    fn arguments<'a>(path: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["send", path], more].concat()
    }

    /// Sends a file, and waits until the command ends.
    async fn run(&self, file: &str, more: &[&str]) -> Run {
        let (path, environment) = (self.path(file).to_string_lossy().into_owned(), self.environment());
        let more: Vec<String> = more.iter().map(|text| (*text).to_owned()).collect();
        let running = tokio::task::spawn_blocking(move || {
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            Run::new(&Self::arguments(&path, &more), environment)
        });
        running.await.expect("joined")
    }

    /// Sends a file without asking for consent, and returns the summary. Checks that the exit code agrees with it.
    async fn send(&self, file: &str) -> Value {
        let run = self.run(file, &["--yes", "--json"]).await;
        let summary = run.json();
        let kinds = [&summary, &summary["reversals"], &summary["settlements"]];
        let (mut undecided, mut refused) =
            (kinds.iter().map(|sums| &sums["undecided"]["lines"]), kinds.iter().map(|sums| &sums["refused"]));
        let expected = match undecided.any(|lines| lines.as_u64() > Some(0)) {
            true => 2,
            false => i32::from(refused.any(|reasons| reasons.as_object().is_some_and(|all| !all.is_empty()))),
        };
        assert_eq!(run.code(), expected, "{summary} {}", run.stderr());
        summary
    }

    /// Starts to send a file.
    fn start(&self, file: &str, more: &[&str]) -> Process {
        let path = self.path(file).to_string_lossy().into_owned();
        Process::spawn(&Self::arguments(&path, &[&["--yes"], more].concat()), self.environment())
    }

    /// Sends a file at a terminal where somebody types `typed`. Returns the terminal's text and the exit code.
    async fn run_at_a_terminal(&self, file: &str, typed: &'static str) -> (String, Option<i32>) {
        let call = format!("'{}' send '{}'", env!("CARGO_BIN_EXE_earmark"), self.path(file).display());
        let mut command = Command::new("script");
        command.args(["-qec", &call, "/dev/null"]).envs(self.environment()).env("TERM", "xterm");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let running = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().expect("it starts");
            child.stdin.as_mut().expect("a keyboard").write_all(typed.as_bytes()).expect("typed");
            child.wait_with_output().expect("its end")
        });
        let output = running.await.expect("joined");
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
    }

    /// The table of results: each line's columns by name.
    fn results(&self, file: &str) -> Vec<BTreeMap<String, String>> {
        let mut table = csv::Reader::from_path(self.path(file)).expect("a table");
        table.deserialize().map(|row| row.expect("a row")).collect()
    }

    fn journal(&self, file: &str) -> String {
        fs::read_to_string(self.path(&format!("{file}.journal"))).unwrap_or_default()
    }
}

impl Drop for Payer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn email(at: usize) -> String {
    format!("user{at}@example.com")
}

fn amount(at: usize) -> i64 {
    at as i64 % 97 + 1
}

fn sum(count: usize) -> i64 {
    (0..count).map(amount).sum()
}

/// Checks in the database that the first `count` users were each paid once, and that nobody else but `others` has a
/// balance.
async fn assert_each_paid_once(app: &App, count: usize, others: impl IntoIterator<Item = (String, i64)>) {
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT email, balance FROM payout_users")
        .fetch_all(&mut app.database().await)
        .await
        .expect("balances");
    let found: BTreeMap<String, i64> = rows.into_iter().collect();
    let expected: BTreeMap<String, i64> = (0..count).map(|at| (email(at), amount(at))).chain(others).collect();
    let wrong: Vec<_> = found.iter().filter(|(email, balance)| expected.get(*email) != Some(balance)).collect();
    assert!(wrong.is_empty() && found.len() == expected.len(), "{} of {}: {wrong:?}", found.len(), expected.len());
    assert_eq!(app.count("allocated").await, expected.len() as i64);
}

/// The number of requests that were decided in any way.
async fn decided(app: &App) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM allocations").fetch_one(&mut app.database().await).await.expect("a count")
}

#[tokio::test]
async fn every_bad_line_is_named_and_nothing_is_sent() {
    let payer = Payer::new("http://127.0.0.1:1", "sk_live_x");
    payer.write(
        "bad.csv",
        "amount,email,reference\n5,ann@example.com,a\n12.50,nope,b\n5,bob@example.com,a\n0,carl@example.com,\n",
    );
    let run = payer.run("bad.csv", &["--yes"]).await;
    assert_eq!((run.code(), run.stdout().as_str()), (2, ""));
    let said = run.stderr();
    for expected in [
        "line 3: the email is not one valid address; the amount is not a whole number of cents",
        "line 4: has the reference of line 2",
        "line 5: the amount is below 1 cent",
        "bad.csv has 3 bad lines, and nothing was sent",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("\nline 2: ") && !said.starts_with("line 2: ") && !said.contains('@'), "{said}");
    assert!(!payer.path("bad.csv.journal").exists() && !payer.path("bad.results.csv").exists());
}

#[tokio::test]
async fn nothing_is_sent_without_consent() {
    let server = Scripted::start(doubtful::before_it_is_sent()).await;
    let payer = Payer::new(&server.url, "sk_live_x");
    payer.write_payouts("payouts.csv", 3);
    let run = payer.run("payouts.csv", &[]).await;
    assert_eq!((run.code(), run.stdout().as_str()), (2, ""));
    assert!(run.stderr().contains("3 lines, 0.06 (6 cents)") && run.stderr().contains("--yes"), "{}", run.stderr());
    assert!(server.requests().iter().all(|(_, request)| request.starts_with("get ")));
    assert_eq!((server.requests().len(), payer.journal("payouts.csv").as_str()), (2, ""));
    for (url, key) in [("ftp://x", "sk"), ("nowhere", "sk"), (server.url.as_str(), "s\nk")] {
        let refused = Payer::new(url, key);
        refused.write_payouts("payouts.csv", 1);
        assert_eq!(refused.run("payouts.csv", &["--yes"]).await.code(), 2, "{url} {key:?}");
    }
}

#[tokio::test]
async fn a_person_at_a_terminal_is_asked_and_shown_how_far_it_is() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: script is not installed");
        return;
    }
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    payer.write_payouts("payouts.csv", 5);
    for (answer, code, paid) in [("y\n", 2, 0), ("yes\n", 0, 5)] {
        let (said, status) = payer.run_at_a_terminal("payouts.csv", answer).await;
        assert!(said.contains("Send 5 lines, 0.15 (15 cents) for Acme? Type yes:"), "{said}");
        assert_eq!((status, app.count("allocated").await), (Some(code), paid), "{said}");
        assert_eq!(said.contains("5/5 lines"), paid == 5, "{said}");
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn a_file_is_paid_once_however_often_it_is_sent() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000_000), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    payer.write_payouts("payouts.csv", 200);
    let all = json!({"lines": 200, "cents": sum(200)});
    let summary = payer.send("payouts.csv").await;
    assert_eq!((&summary["total"], &summary["paid"], &summary["replayed_lines"]), (&all, &all, &json!(0)), "{summary}");
    assert_each_paid_once(&app, 200, []).await;
    let client = app.client(&process, &business);
    for (at, row) in payer.results("payouts.results.csv").iter().enumerate() {
        let (line, amount) = ((at + 2).to_string(), amount(at).to_string());
        assert_eq!((&row["line"], &row["email"], &row["cents"]), (&line, &email(at), &amount));
        assert_eq!((row["status"].as_str(), row["hash"].len(), row["error"].as_str()), ("paid", 64, ""));
        if at % 50 == 0 {
            let shown = client.get(&format!("/payout/requests/{}", row["request_id"])).await.json();
            assert_eq!((&shown["state"], &shown["email"]), (&json!("allocated"), &json!(email(at))));
        }
    }
    // A second run finds everything in the journal and asks the service nothing. Without the journal the service
    // repeats its answers.
    let before = decided(&app).await;
    assert_eq!(payer.send("payouts.csv").await["paid"], all);
    assert_eq!(decided(&app).await, before);
    fs::remove_file(payer.path("payouts.csv.journal")).expect("removed");
    let summary = payer.send("payouts.csv").await;
    assert_eq!((&summary["paid"], &summary["replayed_lines"]), (&all, &json!(200)));
    assert_each_paid_once(&app, 200, []).await;
    // The output for people has the sums. Neither the output nor the journal contains an email address.
    let run = payer.run("payouts.csv", &[]).await;
    assert_eq!(run.code(), 0, "nothing is left to ask about: {}", run.stderr());
    assert!(run.stdout().contains("paid             200 lines"), "{}", run.stdout());
    assert!(!format!("{}{}{}", run.stdout(), run.stderr(), payer.journal("payouts.csv")).contains('@'));
    app.finish([process]).await;
}

#[tokio::test]
async fn a_file_that_was_changed_after_it_was_begun_is_refused_with_the_line_named() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000_000), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    payer.write_payouts("payouts.csv", 3);
    payer.send("payouts.csv").await;
    let text = fs::read_to_string(payer.path("payouts.csv")).expect("the file");
    for (changed, named) in [
        (text.replace("user1@", "user9@"), "line 3."),
        (text.replace("user0@example.com,1\n", ""), "line 2, 3, 4."),
        (format!("{text}{},4\n", email(3)), "line 5."),
    ] {
        payer.write("payouts.csv", &changed);
        let run = payer.run("payouts.csv", &["--yes"]).await;
        assert_eq!(run.code(), 2);
        assert!(run.stderr().contains("could be paid twice") && run.stderr().contains(named), "{}", run.stderr());
    }
    assert_each_paid_once(&app, 3, []).await;
    // With another business's key the run is refused. It must not report that business's lines as paid.
    payer.write("payouts.csv", &text);
    let stranger = payer.with_key(&app.create_business(1_000).secret_key);
    let run = stranger.run("payouts.csv", &["--yes"]).await;
    assert_eq!(run.code(), 2);
    assert!(run.stderr().contains("does not know for this key"), "{}", run.stderr());
    app.finish([process]).await;
}

#[tokio::test]
async fn lines_with_references_may_move_and_be_corrected_and_are_paid_once() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000_000), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    let line = |at: usize| format!(r#"{{"email":"{}","amount":{},"reference":"r-{at}"}}"#, email(at), amount(at));
    let lines = |range: &mut dyn Iterator<Item = usize>| range.map(|at| line(at) + "\n").collect::<String>();
    payer.write("payouts.jsonl", &lines(&mut (0..20)));
    assert_eq!(payer.send("payouts.jsonl").await["paid"]["lines"], 20);
    // The lines come in another order with new ones among them, and then in another file.
    payer.write("payouts.jsonl", &lines(&mut (0..30).rev()));
    let summary = payer.send("payouts.jsonl").await;
    assert_eq!((&summary["paid"]["lines"], &summary["replayed_lines"]), (&json!(30), &json!(0)));
    payer.write("again.jsonl", &lines(&mut (0..30)));
    let summary = payer.send("again.jsonl").await;
    assert_eq!((&summary["paid"]["lines"], &summary["replayed_lines"]), (&json!(30), &json!(30)));
    // A paid line cannot be corrected any more: the service refuses it. The other lines stay paid.
    payer.write("payouts.jsonl", &lines(&mut (0..30)).replace(r#""amount":1,"#, r#""amount":1000,"#));
    let summary = payer.send("payouts.jsonl").await;
    let shown = app.client(&process, &business).get("/payout/requests?state=allocated&reference=r-0").await.json();
    assert_eq!(shown["requests"].as_array().map(Vec::len), Some(1), "{shown}");
    let reused = "This Idempotency-Key was used before with another email or amount.";
    assert_eq!(summary["refused"], json!({reused: {"lines": 1, "cents": 1000}}), "{summary}");
    let row = &payer.results("payouts.results.csv")[0];
    assert_eq!((row["status"].as_str(), row["error"].as_str(), row["reference"].as_str()), ("refused", reused, "r-0"));
    assert_each_paid_once(&app, 30, []).await;
    app.finish([process]).await;
}

#[tokio::test]
async fn a_run_that_is_killed_at_any_moment_is_gone_on_with_and_pays_each_line_once() {
    const LINES: usize = 300;
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000_000), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    payer.write_payouts("payouts.csv", LINES);
    let mut kills = 0;
    for tenth in 0..8 {
        let mut run = payer.start("payouts.csv", &["--concurrency", "2"]);
        let some_more = tenth * (LINES as i64 / 10);
        eventually("it has paid some more", async || app.count("allocated").await > some_more).await;
        // The kill comes at a random moment: before, during or after a write to the journal.
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..20_000))).await;
        kills += usize::from(run.has_ended().is_none());
        run.kill().await;
        // The journal ends in half a line, as if the machine had crashed during a write.
        let torn = format!("{}{{\"line\":3,\"dige", payer.journal("payouts.csv"));
        payer.write("payouts.csv.journal", &torn);
    }
    assert!(kills >= 3, "too quick to be killed: {kills}");
    let summary = payer.send("payouts.csv").await;
    assert_eq!(summary["paid"], json!({"lines": LINES, "cents": sum(LINES)}), "{summary}");
    // Two lines can be in flight at a kill, and the results of two more can be missing in the journal. So the run asks
    // again about four lines at most.
    assert!(summary["replayed_lines"].as_u64() <= Some(4), "{summary}");
    assert_each_paid_once(&app, LINES, []).await;
    app.finish([process]).await;
}

#[tokio::test]
async fn an_interrupted_run_finishes_what_is_in_flight_and_says_how_to_go_on() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    // The intake holds the third answer back.
    let process = app.start_with("serve", &[("EARMARK_FAILPOINT", "before-answer=hold:3s@3")]).await;
    let payer = Payer::for_business(&business, &process.url());
    payer.write_payouts("payouts.csv", 50);
    let mut run = payer.start("payouts.csv", &["--concurrency", "1"]);
    process.until_logged("failpoint reached").await;
    let second = payer.run("payouts.csv", &["--yes"]).await;
    assert_eq!(second.code(), 2);
    assert!(second.stderr().contains("another run is sending this file"), "{}", second.stderr());
    run.signal("INT");
    assert_eq!(run.ended().await.code(), Some(2));
    eventually("it says how to go on", async || {
        run.log().iter().any(|line| line.to_string().contains("run the same command again"))
    })
    .await;
    let rows = payer.results("payouts.results.csv");
    let count = |status: &str| rows.iter().filter(|row| row["status"] == status).count();
    assert_eq!((count("paid"), count("undecided")), (3, 47));
    assert_eq!(app.count("allocated").await, 3, "only the paid lines were sent");
    assert_eq!(payer.send("payouts.csv").await["paid"]["lines"], 50);
    assert_each_paid_once(&app, 50, []).await;
    app.finish([process]).await;
}

#[tokio::test]
async fn a_key_that_is_refused_stops_everything() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000_000), app.start("serve").await);
    let payer = Payer::new(&process.url(), &business.public_key);
    payer.write_payouts("payouts.csv", 500);
    let run = payer.run("payouts.csv", &["--yes", "--json", "--concurrency", "2"]).await;
    assert_eq!((run.code(), run.stdout().as_str()), (2, ""));
    assert!(run.stderr().contains("EARMARK_API_KEY"), "{}", run.stderr());
    assert_eq!((decided(&app).await, payer.journal("payouts.csv").as_str()), (0, ""));
    // With the right key the run goes on, also with a file that was corrected meanwhile.
    payer.write_payouts("payouts.csv", 400);
    assert_eq!(payer.with_key(&business.secret_key).send("payouts.csv").await["paid"]["lines"], 400);
    app.finish([process]).await;
}

#[tokio::test]
async fn what_the_balance_did_not_cover_is_paid_after_a_top_up() {
    let app = App::new().await;
    let (business, process) = (app.create_business(sum(40) - 100), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    payer.write_payouts("payouts.csv", 40);
    let summary = payer.send("payouts.csv").await;
    let refused = &summary["refused"]["Insufficient payout balance"];
    let total = summary["paid"]["lines"].as_u64().zip(refused["lines"].as_u64()).map(|(paid, refused)| paid + refused);
    assert_eq!((total, refused["lines"].as_u64() > Some(0)), (Some(40), true), "{summary}");
    app.run(&["business", "fund", &business.id, "--amount", "100"]).expect_success();
    assert_eq!(payer.send("payouts.csv").await["paid"], json!({"lines": 40, "cents": sum(40)}));
    assert_each_paid_once(&app, 40, []).await;
    app.finish([process]).await;
}

#[tokio::test]
async fn a_service_that_is_busy_is_given_the_time_it_asks_for() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let process = app.start_with("serve", &[("EARMARK_MAX_IN_FLIGHT", "1")]).await;
    let payer = Payer::for_business(&business, &process.url());
    payer.write_payouts("payouts.csv", 30);
    assert_eq!(payer.send("payouts.csv").await["paid"]["lines"], 30);
    assert_each_paid_once(&app, 30, []).await;
    app.finish([process]).await;
}

#[tokio::test]
async fn an_answer_that_decides_nothing_is_followed_by_the_same_request() {
    // An HTTP date is exact to the second.
    let (earliest, date) = (Instant::now() + Duration::from_secs(2), clock::now() + Duration::from_secs(3));
    let (two_seconds, until, past, nonsense) =
        (busy("2"), busy(&httpdate::fmt_http_date(date)), busy("Wed, 21 Oct 2015 07:28:00 GMT"), busy("inf"));
    let paid = one_result("yes", PAID);
    let [unavailable, unknown] = [("no", 503), ("unknown", 504)].map(|(debited, status)| {
        one_result(debited, &format!(r#"{{"status":{status},"debited":"{debited}","error":"x"}}"#))
    });
    let answers = [
        &until,
        &two_seconds,
        &past,
        &nonsense,
        &unavailable,
        &unknown,
        "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 504 x\r\nContent-Length: 0\r\n\r\n",
        // The connection breaks before the answer, and in the middle of it.
        "",
        "HTTP/1.1 200 OK\r\nEarmark-Debited: yes\r\nContent-Length: 100\r\n\r\n{",
        "HTTP/1.1 429 x\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
        &paid,
    ];
    let server = Scripted::start([doubtful::before_it_is_sent(), answers.map(str::to_owned).to_vec()].concat()).await;
    let payer = Payer::new(&server.url, "sk_live_x");
    payer.write_payouts("payouts.csv", 1);
    assert_eq!(payer.send("payouts.csv").await["paid"]["lines"], 1);
    let requests = server.requests().split_off(doubtful::before_it_is_sent().len());
    assert_eq!(requests.len(), answers.len());
    assert!(requests.windows(2).all(|pair| pair[0].1 == pair[1].1), "{requests:?}");
    let first = &requests[0].1;
    assert!(first.contains(r#""idempotency_key":"send-"#) && first.contains(r#""email":"user0@example.com""#));
    assert!(requests[1].0 >= earliest, "asked again before the date that was told");
    for (refused, seconds) in [(1, 2), (10, 3)] {
        let waited = requests[refused + 1].0 - requests[refused].0;
        assert!(waited >= Duration::from_secs(seconds), "asked again after {waited:?}, told {seconds} s");
    }
}

#[tokio::test]
async fn an_answer_of_something_that_is_not_earmark_pays_nothing() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"results\":[]}",
        "HTTP/1.1 302 x\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 403 x\r\nContent-Length: 4\r\n\r\nGo.\n",
    ] {
        for before in [vec![], doubtful::before_it_is_sent()] {
            let is_sent = !before.is_empty();
            let server = Scripted::start([before, vec![answer.to_owned()]].concat()).await;
            let payer = Payer::new(&server.url, "sk_live_x");
            payer.write_payouts("payouts.csv", 1);
            let run = payer.run("payouts.csv", &["--yes", "--json"]).await;
            assert_eq!(run.code(), 2, "{answer}");
            assert!(run.stderr().contains("is EARMARK_URL its address"), "{}", run.stderr());
            if is_sent {
                assert_eq!(run.json()["undecided"]["lines"], 1, "{answer}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        read_request(&mut stream).await.expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("written");
        while stream.write_all(&[b' '; 64 * 1024]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let payer = Payer::new(&url, "sk_live_x");
    payer.write_payouts("payouts.csv", 1);
    let run = payer.run("payouts.csv", &["--yes", "--timeout", "366d"]).await;
    assert_eq!(run.code(), 2);
    assert!(run.stderr().contains("is EARMARK_URL its address"), "{}", run.stderr());
}

#[tokio::test]
async fn answers_that_are_lost_after_the_debit_make_nobody_paid_twice() {
    const LOST: u64 = 12;
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000_000), app.start("serve").await);
    let upstream = process.url().trim_start_matches("http://").parse().expect("an address");
    let proxy = Proxy::start(Protocol::Opaque, upstream).await.expect("a proxy");
    let payer = Payer::for_business(&business, &format!("http://{}", proxy.address()));
    payer.write_payouts("payouts.csv", 300);
    let mut run = payer.start("payouts.csv", &["--concurrency", "2"]);
    eventually("it has begun", async || app.count("allocated").await > 0).await;
    for lost in 1..=LOST {
        // The service answers, but the answer never reaches the client. Every fourth time all connections are reset
        // too.
        proxy.arm(Trap { at: Moment::Said, side: Side::Before });
        proxy.sprung(lost).await;
        if lost % 4 == 0 {
            proxy.reset_all();
        }
    }
    assert_eq!(run.ended().await.code(), Some(0), "{:#?}", run.log());
    let rows = payer.results("payouts.results.csv");
    assert_eq!(rows.iter().filter(|row| row["status"] == "paid").count(), 300);
    assert_each_paid_once(&app, 300, []).await;
    app.finish([process]).await;
}
