//! Connections: early answers, clients that stall or send nothing, and too many connections at once. The tests write
//! HTTP by hand over sockets, because HTTP libraries do not allow most of this.

use crate::harness::http::Answer;
use crate::harness::process::Process;
use crate::harness::raw::parse;
use crate::harness::{App, Business, PATIENCE, eventually};
use crate::history::write_rows;
use serde_json::json;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

/// One connection.
struct Line {
    stream: TcpStream,
    /// Bytes that were read and are not used yet.
    heard: Vec<u8>,
}

impl Line {
    async fn open(url: &str) -> Self {
        Self { stream: TcpStream::connect(address(url)).await.expect("a connection"), heard: vec![] }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it is read");
    }

    async fn hear(&mut self) -> io::Result<Answer> {
        hear(&mut self.stream, &mut self.heard).await
    }

    async fn answer(&mut self) -> Answer {
        self.hear().await.expect("an answer")
    }

    /// Sends a request and returns its answer. `order` says whether it reads after it has written everything, or
    /// meanwhile.
    async fn ask(&mut self, asked: &Asked, order: Order) -> Answer {
        let Self { stream, heard } = self;
        let (mut reading, mut writing) = stream.split();
        let write = async {
            writing.write_all(asked.head.as_bytes()).await?;
            if asked.is_late {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            writing.write_all(&asked.body).await
        };
        let answer = match order {
            Order::WriteThenRead => {
                write.await.expect("all of it is read");
                hear(&mut reading, heard).await
            }
            Order::Both => {
                let (written, answer) = tokio::join!(write, hear(&mut reading, heard));
                written.expect("all of it is read");
                answer
            }
        };
        answer.unwrap_or_else(|error| panic!("{error}: no answer to {} and {} bytes", asked.head, asked.body.len()))
    }

    /// Checks that an answer is right about its connection: either the connection is closed, or the next request on it
    /// is answered. Returns whether it is closed.
    async fn goes_on_as_said(&mut self, business: &Business, answer: &Answer) -> bool {
        if says_close(answer) {
            self.closed().await;
        } else {
            let next = self.ask(&get(business, "/balance"), Order::WriteThenRead).await;
            assert!(next.status == 200 && next.json()["payout_balance"].is_i64(), "{next:?} after {answer:?}");
        }
        says_close(answer)
    }

    /// Waits until the other side has closed properly, and checks that it has sent nothing more.
    async fn closed(&mut self) {
        let end = timeout(PATIENCE, self.hear()).await.expect("it is closed").map(|answer| answer.status);
        assert!(matches!(&end, Err(error) if error.kind() == io::ErrorKind::UnexpectedEof), "{end:?}");
        assert_eq!(String::from_utf8_lossy(&self.heard), "");
    }
}

fn address(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}

async fn hear(stream: &mut (impl AsyncRead + Unpin), heard: &mut Vec<u8>) -> io::Result<Answer> {
    loop {
        if let Some((answer, length)) = parse(heard) {
            heard.drain(..length);
            return Ok(answer);
        }
        if stream.read_buf(heard).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn says_close(answer: &Answer) -> bool {
    answer.header("connection") == Some("close")
}

#[derive(Clone, Copy, Debug)]
enum Order {
    WriteThenRead,
    Both,
}

/// A request as bytes.
#[derive(Clone)]
struct Asked {
    head: String,
    body: Vec<u8>,
    /// Whether the body comes a moment after the head.
    is_late: bool,
}

impl Asked {
    fn new(start: &str, headers: &str, body: &[u8], is_chunked: bool) -> Self {
        let length = if is_chunked {
            "transfer-encoding: chunked".to_owned()
        } else {
            format!("content-length: {}", body.len())
        };
        Self {
            head: format!("{start} HTTP/1.1\r\nhost: earmark\r\n{headers}{length}\r\n\r\n"),
            body: if is_chunked { chunked(body) } else { body.to_vec() },
            is_late: body.len() < 1_000,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), &self.body].concat()
    }
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut chunks: Vec<u8> = body
        .chunks(16_000)
        .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
        .collect();
    chunks.extend(b"0\r\n\r\n");
    chunks
}

fn bearer(business: &Business) -> String {
    format!("authorization: Bearer {}\r\n", business.secret_key)
}

const JSON: &str = "content-type: application/json\r\n";

fn create(business: &Business, email: &str, amount: i64) -> Asked {
    let body = json!({"email": email, "amount": amount}).to_string();
    Asked::new("POST /payout/create", &(bearer(business) + JSON), body.as_bytes(), false)
}

fn get(business: &Business, path: &str) -> Asked {
    Asked {
        head: format!("GET {path} HTTP/1.1\r\nhost: earmark\r\n{}\r\n", bearer(business)),
        body: vec![],
        is_late: false,
    }
}

async fn serving() -> (App, Process, Business) {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let process = app.start("serve").await;
    (app, process, business)
}

const TIMES: usize = 20;
const SIZES: [usize; 5] = [60, 9_000, 200_000, 1_000_000, 5_000_000];

/// Sends a request on a new connection, and checks that the answer arrives and that it is right about the connection:
/// either it is closed, or the next request on it is answered. Returns whether it is closed.
async fn is_closed_by(url: &str, business: &Business, asked: &Asked, order: Order, status: u16) -> bool {
    let mut line = Line::open(url).await;
    let answer = line.ask(asked, order).await;
    let what = || format!("{} and {} bytes, {order:?}: {answer:?}", asked.head, asked.body.len());
    assert_eq!(answer.status, status, "{}", what());
    line.goes_on_as_said(business, &answer).await
}

/// The same many times, with the body in both forms, and with both ways of reading. Returns whether all connections
/// were closed.
async fn are_closed_by(
    url: &str,
    business: &Business,
    (start, headers, status): (&str, &str, u16),
    body: &[u8],
) -> bool {
    let mut are_closed = true;
    for is_chunked in [false, true] {
        let asked = Asked::new(start, headers, body, is_chunked);
        for order in [Order::WriteThenRead, Order::Both] {
            let asking = (0..TIMES).map(|_| is_closed_by(url, business, &asked, order, status));
            let all = timeout(PATIENCE, futures_util::future::join_all(asking)).await.expect("nothing hangs");
            are_closed &= all.into_iter().all(|is_closed| is_closed);
        }
    }
    are_closed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_body_is_read_arrives_and_is_no_trap_for_the_next_request() {
    let (app, process, business) = serving().await;
    let (url, key) = (process.url(), bearer(&business));
    for size in SIZES {
        let body = vec![b'x'; size];
        let rows = [
            ("POST /nowhere", "", 404),
            ("DELETE /payout/create", &key, 405),
            ("PUT /balance", "", 405),
            ("POST /payout/create", JSON, 401),
            ("POST /payout/create/bulk", JSON, 401),
            ("GET /balance", &key, 200),
        ];
        for row in rows {
            let are_closed = are_closed_by(&url, &business, row, &body).await;
            assert!(
                are_closed || size < 100_000,
                "a body as large as this is not read, so the connection must close: {row:?} and {size} bytes"
            );
        }
    }
    app.finish([process]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_about_the_body_arrives_and_is_no_trap_for_the_next_request() {
    let (app, process, business) = serving().await;
    let (url, json) = (process.url(), bearer(&business) + JSON);
    let text = bearer(&business) + "content-type: text/plain\r\n";
    for size in SIZES {
        let body = vec![b'{'; size];
        let unless_too_large = |status, most| if size > most { 413 } else { status };
        let rows = [
            ("POST /payout/create", json.as_str(), unless_too_large(400, 8_192)),
            ("POST /payout/create", &text, unless_too_large(415, 8_192)),
            ("POST /payout/create/bulk", &json, unless_too_large(400, 1_048_576)),
            ("POST /payout/create/bulk", &text, unless_too_large(415, 1_048_576)),
        ];
        for row in rows {
            are_closed_by(&url, &business, row, &body).await;
        }
    }
    app.finish([process]).await;
}

/// The body of a bulk call with `count` allocations.
fn bulk_body(count: usize) -> String {
    let allocations: Vec<_> =
        (0..count).map(|number| json!({"email": format!("user{number}@example.com"), "amount": 1})).collect();
    json!({"allocations": allocations}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_what_is_too_much_arrives_and_is_no_trap_for_the_next_request() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start_with("serve", &[("EARMARK_RATE_LIMIT", "1")]).await;
    let (url, json) = (process.url(), bearer(&business) + JSON);
    let bulk = Asked::new("POST /payout/create/bulk", &json, bulk_body(500).as_bytes(), false);
    let used_up = Line::open(&url).await.ask(&bulk, Order::WriteThenRead).await;
    assert_eq!(used_up.status, 200, "a bulk call may use up 500 seconds of the limit at once: {used_up:?}");
    let one = create(&business, "ann@example.com", 1).body;
    are_closed_by(&url, &business, ("POST /payout/create", &json, 429), &one).await;
    are_closed_by(&url, &business, ("POST /payout/create/bulk", &json, 429), bulk_body(500).as_bytes()).await;
    app.finish([process]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_refuses_in_words_and_ends_each_connection_after_that() {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let mut process = app.start_with("serve", &[("EARMARK_SHUTDOWN_GRACE", "60s")]).await;
    let (url, json) = (process.url(), bearer(&business) + JSON);
    process.signal("TERM");
    process.until_logged("intake drains").await;
    // New requests keep coming, so the process keeps refusing and does not end.
    let client = app.client(&process, &business);
    let coming = tokio::spawn(async move { while client.try_create("ann@example.com", 1).await.is_ok() {} });
    let one = create(&business, "ann@example.com", 1).body;
    assert!(are_closed_by(&url, &business, ("POST /payout/create", &json, 503), &one).await);
    for size in [60, 9_000, 200_000, 1_000_000] {
        let body = vec![b'x'; size];
        assert!(are_closed_by(&url, &business, ("POST /nowhere", "", 404), &body).await);
        assert!(are_closed_by(&url, &business, ("POST /payout/create", "", 401), &body).await);
    }
    coming.abort();
    assert!(process.ended().await.success());
    app.finish([]).await;
}

/// The process goes on to refuse meanwhile, so it does not close the connection because it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_nothing_is_let_go_while_others_are_still_refused() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    // Neither the idle timeout nor the end of the grace period closes them.
    let settings = [("EARMARK_SHUTDOWN_GRACE", "300s"), ("EARMARK_IDLE_TIMEOUT", "1h")];
    let mut process = app.start_with("serve", &settings).await;
    let (mut silent, mut half) = (Line::open(&process.url()).await, Line::open(&process.url()).await);
    half.say(HALF_A_HEAD).await;
    process.signal("TERM");
    process.until_logged("intake drains").await;
    let client = app.client(&process, &business);
    let coming = tokio::spawn(async move { while client.try_create("ann@example.com", 1).await.is_ok() {} });
    silent.closed().await;
    half.closed().await;
    assert_eq!(app.client(&process, &business).create("ann@example.com", 1).await.status, 503, "it still refuses");
    coming.abort();
    assert!(process.ended().await.success());
    app.finish([]).await;
}

/// A body that comes in pieces, each in less than the time for which a silent client is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_still_sends_when_the_service_stops_gets_its_answer() {
    let app = App::new().await;
    let mut process = app.start("serve").await;
    let mut line = Line::open(&process.url()).await;
    let asked = Asked::new("POST /nowhere", "", &vec![b'x'; 400_000], false).bytes();
    let (first, rest) = asked.split_at(1_000);
    line.say(first).await;
    process.signal("TERM");
    process.until_logged("intake drains").await;
    for piece in rest.chunks(20_000) {
        line.say(piece).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = line.answer().await;
    assert_eq!((answer.status, says_close(&answer)), (404, true), "{answer:?}");
    drop(line);
    assert!(process.ended().await.success());
    app.finish([]).await;
}

#[tokio::test]
async fn the_side_listener_ends_its_connections_as_well() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let worker = app.start_with("worker", &[("EARMARK_OPS_TOKEN", "a-token-for-those-who-act")]).await;
    for (start, status) in [("POST /livez", 405), ("POST /workers/pause", 401), ("POST /nowhere", 401)] {
        for size in [200_000, 5_000_000] {
            let row = (start, "", status);
            assert!(are_closed_by(&worker.side_url(), &business, row, &vec![b'x'; size]).await, "{row:?}");
        }
    }
    app.finish([worker]).await;
}

#[tokio::test]
async fn a_client_that_holds_its_body_back_is_answered_and_told_that_the_connection_ends() {
    let (app, process, business) = serving().await;
    let holding_back = async |start: &str, headers: &str, status: u16| {
        let asked = Asked::new(start, headers, &[b'x'; 60], false);
        let mut line = Line::open(&process.url()).await;
        line.say(asked.head.as_bytes()).await;
        let answer = timeout(PATIENCE / 4, line.answer()).await.expect("it waits no longer than for a slow line");
        assert_eq!((answer.status, says_close(&answer)), (status, true), "{answer:?}");
        // The client then sends the body and more bytes. The server must not take them for another request.
        line.say(&[b'x'; 60]).await;
        line.closed().await;
    };
    let key = bearer(&business);
    tokio::join!(
        holding_back("POST /nowhere", "", 404),
        holding_back("POST /payout/create", "", 401),
        holding_back("GET /balance", &key, 200),
    );
    app.finish([process]).await;
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_go_on_gets_the_final_answer_instead() {
    let (app, process, business) = serving().await;
    let expecting = |start: &str, headers: &str, length: usize| {
        format!(
            "{start} HTTP/1.1\r\nhost: earmark\r\n{headers}expect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let (key, json) = (bearer(&business), bearer(&business) + JSON);
    let rows = [
        ("POST /nowhere", "", 60, 404),
        ("DELETE /payout/create", &key, 60, 405),
        ("POST /payout/create", JSON, 60, 401),
        ("POST /payout/create", &json, 9_000, 413),
        ("POST /payout/create/bulk", &json, 5_000_000, 413),
        ("GET /balance", &key, 60, 200),
    ];
    for (start, headers, length, status) in rows {
        for sends_it_anyway in [false, true] {
            let mut line = Line::open(&process.url()).await;
            line.say(expecting(start, headers, length).as_bytes()).await;
            let answer = line.answer().await;
            assert_eq!(answer.status, status, "{start} {length}: {answer:?}");
            assert!(
                says_close(&answer),
                "the body may still come, so the connection must close: {start} {length}: {answer:?}"
            );
            if sends_it_anyway {
                line.say(&vec![b'x'; length]).await;
            }
            line.closed().await;
        }
    }
    // The service asks for a body that may be small enough. If the body then is too large, the service refuses it with
    // a final answer.
    let large = Asked::new("POST /payout/create", &(json.clone() + "expect: 100-continue\r\n"), &[b' '; 9_000], true);
    let mut line = Line::open(&process.url()).await;
    line.say(large.head.as_bytes()).await;
    assert_eq!(line.answer().await.status, 100);
    line.say(&large.body).await;
    let answer = line.answer().await;
    assert_eq!(answer.status, 413, "{answer:?}");
    line.goes_on_as_said(&business, &answer).await;
    let asked = create(&business, "ann@example.com", 7);
    let mut line = Line::open(&process.url()).await;
    line.say(expecting("POST /payout/create", &json, asked.body.len()).as_bytes()).await;
    assert_eq!(line.answer().await.status, 100);
    line.say(&asked.body).await;
    let answer = line.answer().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!line.goes_on_as_said(&business, &answer).await);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_client_that_asks_for_another_protocol_gets_its_answer_in_this_one() {
    let (app, process, business) = serving().await;
    let upgrade = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    for size in SIZES {
        are_closed_by(&process.url(), &business, ("POST /payout/create", upgrade, 401), &vec![b'x'; size]).await;
    }
    // An answer that is larger than the socket buffers arrives whole too, as the last one of its connection.
    write_rows(&app, &business.id, 1_000).await;
    let mut asked = get(&business, "/payout/requests?limit=1000");
    asked.head = asked.head.replace("host:", &format!("{upgrade}connection: close\r\nhost:"));
    let mut reader = open_narrow(&process.url()).await;
    reader.write_all(asked.head.as_bytes()).await.expect("written");
    let answer = hear(&mut reader, &mut vec![]).await.expect("all of it");
    let shown = answer.json();
    assert_eq!((shown["requests"].as_array().map(Vec::len), says_close(&answer)), (Some(1_000), true));
    app.discard_running([process]).await;
}

#[tokio::test]
async fn a_client_that_closes_its_half_after_its_request_is_answered() {
    let (app, process, business) = serving().await;
    let client = app.client(&process, &business);
    let bulk = Asked::new("POST /payout/create/bulk", &(bearer(&business) + JSON), bulk_body(30).as_bytes(), true);
    let unread = Asked::new("POST /payout/create", JSON, &[b'x'; 200_000], true);
    let rows = [
        (create(&business, "ann@example.com", 1), 200),
        (bulk, 200),
        (get(&business, "/balance"), 200),
        (get(&business, "/payout/requests"), 200),
        (get(&business, "/openapi.json"), 200),
        (unread, 401),
    ];
    for (asked, status) in &rows {
        for time in 0..TIMES {
            let mut line = Line::open(&process.url()).await;
            line.say(&asked.bytes()).await;
            line.stream.shutdown().await.expect("closed");
            let answer = line.answer().await;
            assert_eq!(answer.status, *status, "{} for the {time}th time: {answer:?}", asked.head);
            line.closed().await;
        }
    }
    assert_eq!(client.user_balance("ann@example.com").await, TIMES as i64);
    assert_eq!(client.user_balance("user29@example.com").await, TIMES as i64);
    app.finish([process]).await;
}

#[tokio::test]
async fn requests_behind_each_other_are_answered_in_their_order() {
    let (app, process, business) = serving().await;
    let unread = |size| Asked::new("POST /payout/create", JSON, &vec![b'x'; size], false);
    let mut asked: Vec<(Asked, u16)> = (0..50)
        .map(|number| match number % 3 {
            0 => (create(&business, &format!("user{number}@example.com"), 1), 200),
            1 => (get(&business, &format!("/payout/user?email=user{}@example.com", number - 1)), 200),
            _ => (get(&business, &format!("/nowhere/{number}")), 404),
        })
        .collect();
    asked[20] = (unread(60), 401);
    asked[26] = (Asked::new("POST /nowhere", "", &[b'x'; 9_000], true), 404);
    asked[32] = (unread(9_000), 401);
    for closes_its_half in [false, true] {
        let mut line = Line::open(&process.url()).await;
        line.say(&asked.iter().flat_map(|(asked, _)| asked.bytes()).collect::<Vec<_>>()).await;
        if closes_its_half {
            line.stream.shutdown().await.expect("closed");
        }
        for (number, (asked, status)) in asked.iter().enumerate() {
            let answer = line.answer().await;
            assert_eq!(answer.status, *status, "{number} {}: {answer:?}", asked.head);
            if number % 3 == 1 && *status == 200 {
                assert_eq!(answer.json()["email"], format!("user{}@example.com", number - 1));
            }
        }
        if closes_its_half {
            line.closed().await;
        }
    }
    // A request whose body is too large to be discarded is the last one on its connection, and its answer says so.
    let mut line = Line::open(&process.url()).await;
    line.say(&[unread(200_000).bytes(), get(&business, "/balance").bytes()].concat()).await;
    let answer = line.answer().await;
    assert_eq!((answer.status, says_close(&answer)), (401, true), "{answer:?}");
    line.closed().await;
    app.finish([process]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_connect_at_once_while_the_process_does_nothing() {
    rlimit::increase_nofile_limit(4_096).expect("sockets");
    let (app, process, business) = serving().await;
    process.signal("STOP");
    let (url, asked) = (process.url(), get(&business, "/balance"));
    let connecting = futures_util::future::join_all((0..1_000).map(|_| Line::open(&url)));
    let mut lines = timeout(PATIENCE / 4, connecting).await.expect("the kernel keeps all of them");
    for line in &mut lines {
        line.say(&asked.bytes()).await;
    }
    process.signal("CONT");
    let answering = futures_util::future::join_all(lines.iter_mut().map(Line::answer));
    for answer in timeout(PATIENCE, answering).await.expect("all are answered") {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    app.finish([process]).await;
}

const HALF_A_HEAD: &[u8] = b"POST /payout/create HTTP/1.1\r\nhost: ear";

/// Four connections: one sends nothing, one sends half a head, one gets an answer and then sends half a head, and one
/// gets an answer and then sends nothing.
async fn idle_lines(url: &str, business: &Business) -> [Line; 4] {
    let mut lines = [Line::open(url).await, Line::open(url).await, Line::open(url).await, Line::open(url).await];
    for line in &mut lines[2..] {
        assert_eq!(line.ask(&get(business, "/balance"), Order::WriteThenRead).await.status, 200);
    }
    for line in &mut lines[1..3] {
        line.say(HALF_A_HEAD).await;
    }
    lines
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_is_closed_in_time() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let settings = [("EARMARK_IDLE_TIMEOUT", "700ms"), ("EARMARK_REPLY_TIMEOUT", "3s")];
    // No worker runs, so a request waits for longer than a connection may be idle.
    let intake = app.start_with("intake", &settings).await;
    let mut waiting = Line::open(&intake.url()).await;
    waiting.say(&create(&business, "ann@example.com", 1).bytes()).await;
    let begin = Instant::now();
    for url in [intake.url(), intake.side_url()] {
        let mut silent = Line::open(&url).await;
        silent.closed().await;
    }
    for mut line in idle_lines(&intake.url(), &business).await {
        line.closed().await;
    }
    assert!(begin.elapsed() > Duration::from_millis(1_400), "a connection is not closed too early");
    let answer = waiting.answer().await;
    assert_eq!(answer.status, 500, "a client that waits is not idle: {answer:?}");
    waiting.closed().await;
    app.discard_running([intake]).await;
}

#[tokio::test]
async fn connections_on_which_nothing_is_asked_hold_up_no_shutdown() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let settings = [("EARMARK_REPLY_TIMEOUT", "3s")];
    for has_request in [false, true] {
        let mut intake = app.start_with("intake", &settings).await;
        let mut waiting = Line::open(&intake.url()).await;
        if has_request {
            waiting.say(&create(&business, "ann@example.com", 1).bytes()).await;
            eventually("it waits", async || intake.metric("earmark_requests_in_flight").await == Some(1.0)).await;
        }
        let _idle = idle_lines(&intake.url(), &business).await;
        let mut _silent_aside = Line::open(&intake.side_url()).await;
        let begin = Instant::now();
        intake.signal("TERM");
        if has_request {
            let answer = waiting.answer().await;
            assert_eq!((answer.status, says_close(&answer)), (500, true), "{answer:?}");
        }
        assert!(intake.ended().await.success(), "{:#?}", intake.log());
        let most = Duration::from_secs(if has_request { 10 } else { 5 });
        assert!(begin.elapsed() < most, "{:?}", begin.elapsed());
        let over = intake.log().iter().filter(|line| line.to_string().contains("grace period over")).count();
        assert_eq!(over, 0, "{:#?}", intake.log());
    }
    app.discard().await;
}

/// How many connections a process holds at this address. It has accepted them and not closed them.
fn held_at(url: &str) -> usize {
    let port: u16 = url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the sockets of this machine");
    let is_held = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (is_listening, has_owner) = (fields[3] == "0A", fields[9] != "0");
        fields[1].ends_with(&format!(":{port:04X}")) && !is_listening && has_owner
    };
    sockets.lines().skip(1).filter(|line| is_held(line)).count()
}

async fn until_held_at(url: &str, count: usize) {
    eventually(&format!("{count} connections are held"), async || held_at(url) == count).await;
}

/// Connects with a small receive buffer.
async fn open_narrow(url: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(2_048).expect("a small buffer");
    // Small segments make the sender's buffer small as well.
    socket2::SockRef::from(&socket).set_tcp_mss(536).expect("small segments");
    socket.connect(address(url).parse().expect("an address")).await.expect("a connection")
}

#[tokio::test]
async fn a_reader_that_stalls_in_the_middle_of_an_export_loses_its_connection_and_holds_nothing() {
    let app = App::new().await;
    let business = app.create_business(0);
    let settings = [("EARMARK_WRITE_TIMEOUT", "1s"), ("EARMARK_MAX_READS_PER_KEY", "6")];
    let process = app.start_with("serve", &settings).await;
    write_rows(&app, &business.id, 100_000).await;
    let mut asked = get(&business, "/payout/requests");
    asked.head = asked.head.replace("host:", "accept: text/csv\r\nhost:");
    let mut readers = vec![];
    for _ in 0..6 {
        let mut reader = open_narrow(&process.url()).await;
        reader.write_all(asked.head.as_bytes()).await.expect("written");
        let mut status = [0; 12];
        reader.read_exact(&mut status).await.expect("it begins");
        assert_eq!(&status, b"HTTP/1.1 200");
        readers.push(reader);
    }
    until_held_at(&process.url(), 0).await;
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND pid <> pg_backend_pid() AND state <> 'idle'";
    eventually("no statement and no transaction is left of them", async || {
        sqlx::query_scalar::<_, i64>(busy).fetch_one(&mut app.database().await).await.expect("a count") == 0
    })
    .await;
    for mut reader in readers {
        let mut rest = vec![];
        let _ = reader.read_to_end(&mut rest).await;
        assert!(!rest.ends_with(b"\r\n0\r\n\r\n"), "the answer must break off, so that nobody takes it for complete");
    }
    // A client with an equally small buffer gets all of the answer if it keeps reading.
    let mut steady = open_narrow(&process.url()).await;
    steady.write_all(asked.head.replace("host:", "connection: close\r\nhost:").as_bytes()).await.expect("written");
    let mut whole = vec![];
    steady.read_to_end(&mut whole).await.expect("all of it");
    assert!(whole.ends_with(b"\r\n0\r\n\r\n") && whole.len() > 9_000_000, "{} bytes", whole.len());
    app.discard_running([process]).await;
}

#[tokio::test]
async fn a_console_that_stalls_loses_its_connection() {
    let app = App::new().await;
    let worker = app.start_with("worker", &[("EARMARK_WRITE_TIMEOUT", "1s")]).await;
    let url = worker.side_url();
    let mut reader = open_narrow(&url).await;
    reader
        .write_all(format!("GET /live HTTP/1.1\r\nhost: {}\r\n\r\n", address(&url)).as_bytes())
        .await
        .expect("written");
    let mut status = [0; 12];
    reader.read_exact(&mut status).await.expect("it begins");
    assert_eq!(&status, b"HTTP/1.1 200");
    until_held_at(&url, 1).await;
    until_held_at(&url, 0).await;
    assert!(worker.is_ready().await);
    app.finish([worker]).await;
}

#[tokio::test]
async fn there_are_no_more_connections_than_may_be_and_the_next_waits_for_a_place() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start_with("serve", &[("EARMARK_MAX_CONNECTIONS", "3")]).await;
    let url = process.url();
    let mut held = vec![];
    for _ in 0..3 {
        let mut line = Line::open(&url).await;
        assert_eq!(line.ask(&get(&business, "/balance"), Order::WriteThenRead).await.status, 200);
        held.push(line);
    }
    let mut next = Line::open(&url).await;
    next.say(&create(&business, "ann@example.com", 7).bytes()).await;
    assert!(
        timeout(Duration::from_millis(300), next.hear()).await.is_err(),
        "all connections are taken, so this one has to wait"
    );
    assert_eq!(held_at(&url), 3);
    assert!(process.is_ready().await, "the side listener has its own limit of connections");
    assert_eq!(held[1].ask(&get(&business, "/balance"), Order::WriteThenRead).await.status, 200);
    held.pop();
    let answer = next.answer().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    app.finish([process]).await;
}

#[tokio::test]
async fn a_body_that_comes_in_drops_is_too_late_and_its_connection_ends() {
    let (app, process, business) = serving().await;
    let dripping = async |is_chunked: bool| {
        let asked = Asked::new("POST /payout/create", &(bearer(&business) + JSON), &[b' '; 5_000], is_chunked);
        let mut line = Line::open(&process.url()).await;
        line.say(asked.head.as_bytes()).await;
        let Line { stream, heard } = &mut line;
        let (mut reading, mut writing) = stream.split();
        let drip = async {
            for byte in &asked.body {
                writing.write_all(&[*byte]).await.expect("it is read");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let answer = tokio::select! { answer = hear(&mut reading, heard) => answer, () = drip => panic!("no answer") };
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, says_close(&answer)), (408, true), "{answer:?}");
        line.closed().await;
    };
    timeout(PATIENCE, async { tokio::join!(dripping(false), dripping(true)) }).await.expect("in time");
    app.finish([process]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_may_open_few_files_serves_and_can_be_looked_at() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.spawn_limited(700, "serve", &[]);
    process.ready().await;
    let url = process.url();
    let mut lines = vec![];
    for _ in 0..800 {
        let mut line = Line::open(&url).await;
        line.say(&get(&business, "/balance").bytes()).await;
        lines.push(line);
    }
    let answers = async |lines: &mut [Line]| {
        for answer in futures_util::future::join_all(lines.iter_mut().map(Line::answer)).await {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    timeout(PATIENCE, answers(&mut lines[..150])).await.expect("there is a place for them");
    assert!(process.is_ready().await, "at its most connections");
    let held = held_at(&url);
    assert!((150..700).contains(&held), "{held}");
    assert_eq!(process.logged("no connection can be accepted"), 0, "{:#?}", process.log());

    drop(lines);
    let client = app.client(&process, &business);
    assert_eq!(client.create("ann@example.com", 1).await.status, 200);
    app.finish([process]).await;
}

#[tokio::test]
async fn what_is_no_http_is_answered_if_it_can_be_and_its_connection_ends() {
    let (app, process, business) = serving().await;
    let post = |headers: &str, body: &str| {
        format!("POST /payout/create HTTP/1.1\r\nhost: earmark\r\n{}{JSON}{headers}\r\n{body}", bearer(&business))
    };
    let behind = "GET /balance HTTP/1.1\r\nhost: earmark\r\n\r\n";
    let rows = [
        // A proxy may take this for two requests. The service takes it for one, and reads nothing after it.
        (post("content-length: 6\r\ntransfer-encoding: chunked\r\n", &format!("0\r\n\r\n{behind}")), Some(400)),
        (post("transfer-encoding: chunked\r\ncontent-length: 6\r\n", &format!("0\r\n\r\n{behind}")), Some(400)),
        (post("content-length: 5\r\ncontent-length: 6\r\n", behind), Some(400)),
        (post("content-length: +5\r\n", behind), Some(400)),
        (post("content-length: 5, 5\r\n", behind), Some(400)),
        (post("transfer-encoding: gzip\r\n", behind), Some(400)),
        (post("transfer-encoding: chunked, gzip\r\n", behind), Some(400)),
        (post("transfer-encoding: chunked\r\n", "zz\r\nxx\r\n0\r\n\r\n"), Some(400)),
        (post("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\nxx\r\n0\r\n\r\n"), Some(400)),
        (post("transfer-encoding: chunked\r\n", "-1\r\nxx\r\n0\r\n\r\n"), Some(400)),
        (post("transfer-encoding: chunked\r\n", &format!("2;{}\r\nxx\r\n0\r\n\r\n", "x".repeat(20_000))), Some(400)),
        (post("transfer-encoding: chunked\r\n", "2\r\nxxx0\r\n\r\n"), Some(400)),
        (post("content length: 5\r\n", behind), Some(400)),
        (post("x: a\0b\r\n", behind), Some(400)),
        (post(&format!("x: {}\r\n", "x".repeat(1_000_000)), ""), Some(431)),
        (post(&format!("x: {}\r\n", "x".repeat(40_000)), ""), Some(431)),
        (post(&"x: y\r\n".repeat(200), ""), Some(431)),
        (format!("GET /{} HTTP/1.1\r\nhost: earmark\r\n\r\n", "x".repeat(70_000)), Some(431)),
        ("GET /balance HTTP/7.1\r\nhost: earmark\r\n\r\n".to_owned(), Some(400)),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03".to_owned(), Some(400)),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), None),
    ];
    for (asked, status) in rows {
        let mut line = Line::open(&process.url()).await;
        line.say(asked.as_bytes()).await;
        let begin: String = asked.chars().take(300).collect();
        let answer = timeout(PATIENCE, line.hear()).await.expect("nothing hangs");
        match (answer, status) {
            (Ok(answer), Some(status)) => {
                assert_eq!((answer.status, says_close(&answer)), (status, true), "{begin}: {answer:?}");
                line.closed().await;
            }
            (Err(error), None) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{begin}"),
            other => panic!("{begin}: {other:?}"),
        }
    }
    assert_eq!(app.client(&process, &business).payout_balance().await, 1_000_000);
    app.finish([process]).await;
}

#[tokio::test]
async fn times_of_nothing_are_refused() {
    let app = App::new().await;
    for name in ["EARMARK_IDLE_TIMEOUT", "EARMARK_WRITE_TIMEOUT"] {
        let mut intake = app.spawn("intake", &[(name, "0s")]);
        assert!(!intake.ended().await.success());
        let is_said = async || format!("{:?}", intake.log()).contains(&format!("{name} must be above zero"));
        eventually("it says which", is_said).await;
    }
    app.discard().await;
}
