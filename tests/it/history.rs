//! The history of a business, as pages and as CSV.

use crate::harness::App;
use crate::harness::http::{Answer, Client};
use crate::harness::process::Process;
use earmark::wire::answers::{CSV_COLUMNS, RequestBody, csv_writer};
use proptest::option;
use proptest::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn serving() -> (App, Process, Client) {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    (app, process, client)
}

async fn post(client: &Client, email: &str, amount: i64, reference: Option<&str>) -> String {
    let body = json!({"email": email, "amount": amount, "reference": reference});
    Client::send(client.create_request("", 0).json(&body)).await.expect("an answer").request_id()
}

/// The ids of a page, and its cursor.
fn ids(answer: &Answer) -> (Vec<String>, Option<String>) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let shown = answer.json();
    let ids = shown["requests"].as_array().expect("requests").iter();
    let ids = ids.map(|request| request["request_id"].as_str().expect("an id").to_owned()).collect();
    (ids, shown["next_cursor"].as_str().map(str::to_owned))
}

/// The ids on all pages of a query.
async fn all(client: &Client, question: &str) -> Vec<String> {
    let (mut found, mut cursor) = (vec![], String::new());
    loop {
        let (ids, next) = ids(&client.get(&format!("/payout/requests?{question}{cursor}")).await);
        found.extend(ids);
        let Some(next) = next else { return found };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn the_history_is_newest_first_and_every_filter_shows_what_has_it() {
    let (app, process, client) = serving().await;
    let other = app.client(&process, &app.create_business(1_000));
    post(&other, "ann@example.com", 1, Some("r")).await;
    let a = post(&client, "ann@example.com", 10, Some("r")).await;
    let b = post(&client, "bob@example.com", 20, None).await;
    let c = post(&client, "ann@example.com", 10_000, Some("r")).await;
    let between = earmark::clock::now_millis();
    let d = post(&client, "bob@example.com", 30, Some("r")).await;
    let e = post(&client, "ann@example.com", 40, Some("R")).await;
    let (a, b, c, d, e) = (a.as_str(), b.as_str(), c.as_str(), d.as_str(), e.as_str());
    let moment = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(between) * 1_000_000).expect("a moment");
    let moment = moment.format(&time::format_description::well_known::Rfc3339).expect("text");
    let rows: Vec<(String, Vec<&str>)> = vec![
        (String::new(), vec![e, d, c, b, a]),
        ("state=allocated".to_owned(), vec![e, d, b, a]),
        ("state=insufficient_balance".to_owned(), vec![c]),
        ("state=voided".to_owned(), vec![]),
        ("email=Ann@Example.com".to_owned(), vec![e, c, a]),
        ("email=ann@example.com&state=allocated".to_owned(), vec![e, a]),
        ("reference=r".to_owned(), vec![d, c, a]),
        ("reference=r&email=ann@example.com".to_owned(), vec![c, a]),
        ("reference=r&email=ann@example.com&state=allocated".to_owned(), vec![a]),
        ("reference=nobody".to_owned(), vec![]),
        (format!("from={moment}"), vec![e, d]),
        (format!("to={moment}"), vec![c, b, a]),
        (format!("to={moment}&email=bob@example.com"), vec![b]),
        (format!("from={moment}&to={moment}"), vec![]),
    ];
    for (question, expected) in rows {
        assert_eq!(all(&client, &question).await, expected, "{question}");
        let one_by_one = format!("{question}&limit=1");
        assert_eq!(all(&client, &one_by_one).await, expected, "{one_by_one}");
    }
    let page = client.get("/payout/requests?limit=2").await.json();
    let looked_up = client.get(&format!("/payout/requests/{e}")).await.json();
    assert_eq!(page["requests"][0], looked_up, "a request looks the same wherever it is shown");
    assert_eq!((&looked_up["reference"], &looked_up["amount"]), (&json!("R"), &json!(40)));
    app.finish([process]).await;
}

#[tokio::test]
async fn what_is_decided_meanwhile_neither_repeats_nor_hides_a_request() {
    let (app, process, client) = serving().await;
    let mut before = vec![];
    for amount in 1..=7 {
        before.push(post(&client, "ann@example.com", amount, None).await);
    }
    before.reverse();
    let (mut seen, mut cursor) = (vec![], String::new());
    loop {
        let (ids, next) = ids(&client.get(&format!("/payout/requests?limit=2{cursor}")).await);
        seen.extend(ids);
        post(&client, "ann@example.com", 1, None).await;
        let Some(next) = next else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, before);
    app.finish([process]).await;
}

/// Writes `count` rows, as if the requests had been decided a millisecond apart. Every hundredth was refused.
pub async fn write_rows(app: &App, business: &str, count: i32) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome, seq, payout_balance_after, moved_at)
         SELECT '{business}', (lpad(to_hex(1700000000000 + n), 12, '0') || '700080000000' || lpad(to_hex(n), 8, '0'))::uuid,
                'allocate', 'user' || n % 7 || '@example.com', 5, CASE WHEN n % 100 = 0 THEN 'allocated' ELSE 'voided' END,
                CASE WHEN n % 100 = 0 THEN 1000000 + n END, CASE WHEN n % 100 = 0 THEN 5 END, CASE WHEN n % 100 = 0 THEN now() END
         FROM generate_series(1, {count}) AS n"
    )))
    .execute(&mut app.database().await)
    .await
    .expect("rows");
}

#[tokio::test]
async fn a_search_for_what_is_rare_ends_a_page_early_and_still_finds_all() {
    let app = App::new().await;
    let business = app.create_business(0);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    write_rows(&app, &business.id, 25_000).await;
    let (first, next) = ids(&client.get("/payout/requests?state=allocated&limit=1000").await);
    assert_eq!((first.len(), next.is_some()), (100, true), "a page looks at ten thousand rows at most");
    let found = all(&client, "state=allocated&limit=1000").await;
    assert_eq!(found.len(), 250);
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 250);
    assert_eq!(all(&client, "state=allocated&limit=7").await, found);
    assert_eq!(all(&client, "state=voided&email=user3@example.com&limit=1000").await.len(), 25_000 / 7 + 1 - 36);
    app.discard_running([process]).await;
}

proptest! {
    #[test]
    fn a_program_reads_from_csv_what_was_sent(email in "['=+@-]?.*", reference in option::of("['=＝,\"\r\n-]*.+")) {
        let request = RequestBody {
            request_id: uuid::Uuid::nil(),
            kind: Some("allocate"),
            state: "allocated",
            email: Some(email),
            amount: Some(7),
            target: None,
            hash: None,
            reference,
            seq: Some(1),
            payout_balance_after: Some(7),
            decided_at: None,
        };
        let mut written = csv_writer();
        written.write_record(CSV_COLUMNS).expect("a line");
        request.write_csv(&mut written).expect("a line");
        let written = written.into_inner().expect("text");
        let mut table = csv::Reader::from_reader(written.as_slice());
        let row = table.records().next().expect("a row").expect("CSV");
        // docs/api.md describes this quoting.
        let cell = |at: usize| row[at].strip_prefix('\'').unwrap_or(&row[at]).to_owned();
        prop_assert_eq!((Some(cell(2)), Some(cell(5))), (request.email, request.reference.or(Some(String::new()))));
        prop_assert!(!row.iter().any(|cell| cell.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠'])));
    }
}

async fn csv(client: &Client, question: &str) -> (Answer, Vec<Vec<String>>) {
    let request = client.authorized(Method::GET, &format!("/payout/requests?{question}"));
    let answer = Client::send(request.header("accept", "text/csv")).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = String::from_utf8(answer.body.clone()).expect("UTF-8");
    assert!(text.ends_with("\r\n"));
    let lines = text.trim_end().split("\r\n").map(|line| line.split(',').map(str::to_owned).collect()).collect();
    (answer, lines)
}

#[tokio::test]
async fn all_of_the_history_comes_as_csv() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    write_rows(&app, &business.id, 2_500).await;
    for reference in ["'=1+1", "＝1", "'"] {
        post(&client, "ann@example.com", 7, Some(reference)).await;
    }
    let id = post(&client, "+ann@example.com", 7, Some("=1+1")).await;
    let (answer, lines) = csv(&client, "limit=3").await;
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/csv")), "{answer:?}");
    assert_eq!(
        lines[0].join(","),
        "request_id,state,email,amount,hash,reference,decided_at,kind,target,seq,payout_balance_after"
    );
    assert_eq!((lines.len(), lines.iter().all(|line| line.len() == 11)), (1 + 2_504, true));
    assert_eq!(lines[1][..4], [id.as_str(), "allocated", "'+ann@example.com", "7"]);
    assert_eq!(lines[1][4].len(), 64);
    assert_eq!([&lines[1][5], &lines[2][5], &lines[3][5], &lines[4][5]], ["'=1+1", "''", "'＝1", "''=1+1"]);
    let ids: Vec<&String> = lines[1..].iter().map(|line| &line[0]).collect();
    assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "newest first, each once");
    assert_eq!(csv(&client, "state=allocated").await.1.len(), 1 + 29);
    app.discard_running([process]).await;
}

#[tokio::test]
async fn a_csv_that_cannot_be_finished_breaks_off() {
    let app = App::new().await;
    let business = app.create_business(0);
    let process = app.start_with("serve", &[("EARMARK_SETTLE_TIMEOUT", "300ms")]).await;
    let client = app.client(&process, &business);
    // The export is much larger than the socket buffers, so the service is in the middle of it when the table goes
    // away.
    write_rows(&app, &business.id, 120_000).await;
    let request = client.authorized(Method::GET, "/payout/requests").header("accept", "text/csv");
    let mut response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert!(response.chunk().await.expect("the first piece").is_some());
    let mut database = app.database().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE allocations IN ACCESS EXCLUSIVE MODE")
        .execute(&mut database)
        .await
        .expect("locked");
    let rest = loop {
        match response.chunk().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(rest.is_err(), "the export must break off, so that nobody takes it for complete");
    sqlx::raw_sql("ROLLBACK").execute(&mut database).await.expect("unlocked");
    app.discard_running([process]).await;
}

#[tokio::test]
async fn a_question_that_is_not_understood_is_a_400_that_says_why() {
    let (app, process, client) = serving().await;
    let limit = "The limit must be an integer between 1 and 1000.";
    let plus = "In a query + means a blank: write it as %2B.";
    let rows: [(&str, Value); 18] = [
        ("limit=0", json!({"limit": [limit]})),
        ("limit=1001", json!({"limit": [limit]})),
        ("limit=x&cursor=x", json!({"limit": [limit], "cursor": ["The cursor is not valid."]})),
        ("cursor=+0000000000000000000000000000000", json!({"cursor": ["The cursor is not valid."]})),
        (
            "state=pending",
            json!({"state": ["The state must be one of allocated, settled, reversed, settlement_reversed, insufficient_user_balance, insufficient_balance, daily_limit_reached, amount_too_large, nothing_left, not_reversible, payouts_disabled and voided."]}),
        ),
        ("email=nope", json!({"email": ["The email must be a valid email address."]})),
        ("email=", json!({"email": ["The email field is required."]})),
        ("reference=", json!({"reference": ["The reference must be 1 to 255 characters without control characters."]})),
        ("from=yesterday", json!({"from": ["The from must be a time by RFC 3339."]})),
        ("from=2026-01-01T00:00:00+10:00", json!({"from": [plus]})),
        ("to=2026-01-01T00:00:00+10:00", json!({"to": [plus]})),
        ("from=2026-01-01+00:00:00", json!({"from": ["The from must be a time by RFC 3339."]})),
        ("email=ann+tag@example.com", json!({"email": [plus]})),
        ("idempotency_key=a+b", json!({"error": plus})),
        ("to=2026-01-01", json!({"to": ["The to must be a time by RFC 3339."]})),
        ("state=voided&state=allocated", json!({"state": ["Each parameter may be given once."]})),
        ("idempotency_key=k&limit=0", json!({"limit": [limit]})),
        ("idempotency_key=", json!({"error": "The idempotency_key parameter is required."})),
    ];
    for (question, expected) in rows {
        let answer = client.get(&format!("/payout/requests?{question}")).await;
        assert_eq!((answer.status, answer.json()), (400, expected), "{question}");
    }
    assert_eq!(client.get("/payout/user?email=ann+tag@example.com").await.json(), json!({"email": [plus]}));
    assert_eq!(client.get("/payout/user?email=ann%2Btag@example.com").await.status, 404);
    for extreme in [
        "from=2026-01-01T00:00:00%2B10:00",
        "from=0001-01-01T00:00:00Z",
        "to=9999-12-31T23:59:59.999999999Z",
        "from=1969-12-31T23:59:59Z&color=red",
    ] {
        assert_eq!(client.get(&format!("/payout/requests?{extreme}")).await.status, 200, "{extreme}");
    }
    let unknown = Client::send(client.request(Method::GET, "/payout/requests")).await.expect("an answer");
    assert_eq!(unknown.status, 401);
    app.finish([process]).await;
}
