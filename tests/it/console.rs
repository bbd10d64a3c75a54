//! The console: who may sign in, what its forms must contain, and what people see and do there. The tests of the pages
//! use a real browser if there is one.

use crate::allocate::{message, request};
use crate::harness::browser::Browser;
use crate::harness::hook::{Hook, Reply};
use crate::harness::http::http_builder;
use crate::harness::process::Process;
use crate::harness::{App, assert_allocated, eventually};
use lapin::BasicProperties;
use reqwest::header::{COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::{RequestBuilder, Response, StatusCode};

const TOKEN: &str = "a-token-for-those-who-act";
const READ_TOKEN: &str = "a-token-for-those-who-look";
const TOKENS: [(&str, &str); 2] = [("EARMARK_OPS_TOKEN", TOKEN), ("EARMARK_OPS_READ_TOKEN", READ_TOKEN)];
/// Long enough for requests to outlast a pause.
const PATIENT: [(&str, &str); 2] = [("EARMARK_REPLY_TIMEOUT", "40s"), ("EARMARK_SHUTDOWN_GRACE", "60s")];

/// Stands in for a browser: keeps the session's cookie and sends forms as the pages do.
struct Visitor {
    url: String,
    cookie: String,
    http: reqwest::Client,
}

impl Visitor {
    fn new(process: &Process) -> Self {
        let http = http_builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        Self { url: process.side_url(), cookie: String::new(), http }
    }

    async fn signed_in(process: &Process, token: &str) -> Self {
        let mut visitor = Self::new(process);
        let entered = visitor.sign_in(token).await;
        assert_eq!(entered.status(), StatusCode::SEE_OTHER);
        visitor.cookie = session_of(&entered);
        visitor
    }

    async fn sign_in(&self, token: &str) -> Response {
        self.form("/sign-in", &[("name", "ann"), ("token", token)]).send().await.expect("an answer")
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url)).header(COOKIE, &self.cookie)
    }

    async fn page(&self, path: &str) -> String {
        self.get(path).send().await.expect("an answer").text().await.expect("a page")
    }

    /// The CSRF token that each form of this session contains.
    async fn csrf(&self) -> String {
        let page = self.page("/").await;
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").expect("a form");
        rest.split('"').next().expect("a token").to_owned()
    }

    fn form(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.http
            .post(format!("{}{path}", self.url))
            .header(COOKIE, &self.cookie)
            .header(ORIGIN, &self.url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"))
    }

    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> (StatusCode, String) {
        let answer = self.form(path, fields).send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("a page"))
    }
}

fn session_of(answer: &Response) -> String {
    let cookie = answer.headers()[SET_COOKIE].to_str().expect("a cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    cookie.split(';').next().expect("a cookie").to_owned()
}

#[tokio::test]
async fn without_a_session_there_is_no_page_and_no_action_and_the_checks_of_the_process_need_none() {
    let app = App::new().await;
    let worker = app.start_with("worker", &TOKENS).await;
    let stranger = Visitor::new(&worker);
    for path in ["/", "/dead-letters", "/businesses", "/requests", "/nothing-here"] {
        let answer = stranger.get(path).send().await.expect("an answer");
        assert_eq!(
            (answer.status(), &answer.headers()[LOCATION]),
            (StatusCode::SEE_OTHER, &"/sign-in".parse().unwrap())
        );
    }
    assert_eq!(stranger.get("/live").send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    for path in ["/workers/pause", "/dead-letters/drop", "/audit"] {
        assert_eq!(stranger.send(path, &[("confirmed", "yes")]).await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(stranger.get(path).send().await.expect("an answer").status(), StatusCode::OK, "{path}");
    }
    app.finish([worker]).await;
}

#[tokio::test]
async fn a_token_opens_a_session_that_holds_at_every_process() {
    let app = App::new().await;
    let (intake, worker) = (app.start_with("intake", &TOKENS).await, app.start_with("worker", &TOKENS).await);
    let visitor = Visitor::signed_in(&intake, TOKEN).await;
    assert!(visitor.page("/").await.contains("ann"));
    let elsewhere = Visitor { cookie: visitor.cookie.clone(), ..Visitor::new(&worker) };
    assert!(elsewhere.page("/").await.contains("ann"));
    let mut cookie = visitor.cookie.clone();
    let last = cookie.pop();
    cookie.push(if last == Some('0') { '1' } else { '0' });
    let forged = Visitor { cookie, ..Visitor::new(&worker) };
    assert_eq!(forged.get("/").send().await.expect("an answer").status(), StatusCode::SEE_OTHER);
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn wrong_tokens_are_refused_and_after_ten_all_of_that_address_for_a_while() {
    let app = App::new().await;
    let worker = app.start_with("worker", &TOKENS).await;
    let visitor = Visitor::new(&worker);
    for _ in 0..10 {
        assert_eq!(visitor.sign_in("a-token-of-nobody").await.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(visitor.sign_in(TOKEN).await.status(), StatusCode::TOO_MANY_REQUESTS);
    let bearer = visitor.get("/").bearer_auth(TOKEN).send().await.expect("an answer");
    assert_eq!(bearer.status(), StatusCode::TOO_MANY_REQUESTS);
    app.finish([worker]).await;
}

#[tokio::test]
async fn an_action_needs_the_role_the_form_of_the_session_and_a_page_of_the_console() {
    let app = App::new().await;
    let worker = app.start_with("worker", &TOKENS).await;
    let (ann, reader) = (Visitor::signed_in(&worker, TOKEN).await, Visitor::signed_in(&worker, READ_TOKEN).await);
    let csrf = ann.csrf().await;
    let (path, fields) = ("/workers/pause", [("csrf", csrf.as_str()), ("confirmed", "yes")]);
    // A form is refused without the session's CSRF token, with another session's token, from another site, and without
    // an origin.
    assert_eq!(ann.send(path, &fields[1..]).await.0, StatusCode::FORBIDDEN);
    let other = Visitor::signed_in(&worker, TOKEN).await.csrf().await;
    assert_eq!(ann.send(path, &[("csrf", &other), fields[1]]).await.0, StatusCode::FORBIDDEN);
    for origin in ["http://elsewhere.example", "null"] {
        let mut sent = ann.form(path, &fields).build().expect("a request");
        sent.headers_mut().insert(ORIGIN, origin.parse().expect("a value"));
        assert_eq!(ann.http.execute(sent).await.expect("an answer").status(), StatusCode::FORBIDDEN, "{origin}");
    }
    let mut sent = ann.form(path, &fields).build().expect("a request");
    sent.headers_mut().remove(ORIGIN);
    assert_eq!(ann.http.execute(sent).await.expect("an answer").status(), StatusCode::FORBIDDEN);
    // The read-only token permits no action, whichever form is sent.
    let page = reader.page("/").await;
    assert!(page.contains("read-only") && !page.contains("/workers/pause"), "{page}");
    assert_eq!(reader.send(path, &fields).await.0, StatusCode::FORBIDDEN);
    let bearer = reader.form(path, &fields[1..]).header(COOKIE, "").bearer_auth(READ_TOKEN).send().await;
    assert_eq!(bearer.expect("an answer").status(), StatusCode::FORBIDDEN);
    assert!(worker.is_ready().await, "nobody has paused anything");
    // A program sends its token as a bearer token instead. The log names who did each action.
    let program = Visitor::new(&worker);
    let paused = program.form(path, &fields[1..]).bearer_auth(TOKEN).send().await.expect("an answer");
    assert_eq!(paused.status(), StatusCode::SEE_OTHER);
    eventually("the worker is paused", async || !worker.is_ready().await).await;
    assert_eq!(ann.send("/workers/resume", &fields[..1]).await.0, StatusCode::SEE_OTHER);
    worker.ready().await;
    let acts = worker.log().into_iter().filter(|entry| entry["fields"]["message"] == "console action");
    let acts: Vec<String> =
        acts.map(|entry| format!("{} {}", entry["fields"]["who"], entry["fields"]["action"])).collect();
    assert_eq!(acts, [r#""a program" "workers paused""#, r#""ann" "workers resumed""#]);
    app.finish([worker]).await;
}

#[tokio::test]
async fn every_answer_forbids_what_pages_do_not_need() {
    let app = App::new().await;
    let worker = app.start_with("worker", &TOKENS).await;
    let ann = Visitor::signed_in(&worker, TOKEN).await;
    for path in ["/", "/sign-in", "/dead-letters", "/businesses", "/requests", "/nothing-here", "/assets/console.js"] {
        let answer = ann.get(path).send().await.expect("an answer");
        let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(
            (header("x-content-type-options"), header("referrer-policy")),
            ("nosniff".into(), "same-origin".into())
        );
        if !path.starts_with("/assets") {
            assert_eq!(header("cache-control"), "no-store", "{path}");
        }
        let text = answer.text().await.expect("text");
        if text.starts_with("<!doctype") {
            assert!(!text.contains("<script>") && !text.contains(" style=") && !text.contains(" onclick="), "{path}");
        }
    }
    app.finish([worker]).await;
}

#[tokio::test]
async fn without_a_token_only_this_machine_by_its_own_name_may_use_the_console() {
    let app = App::new().await;
    let worker = app.start("worker").await;
    let somebody = Visitor::new(&worker);
    assert!(somebody.page("/").await.contains("No token is set"));
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example"] {
        let answer = somebody.get("/").header(HOST, host).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{host}");
    }
    for (settings, complaint) in [
        (vec![("EARMARK_OPS_LISTEN", "0.0.0.0:0")], "set EARMARK_OPS_TOKEN"),
        (vec![("EARMARK_OPS_LISTEN", "0.0.0.0:0"), ("EARMARK_OPS_TOKEN", "")], "set EARMARK_OPS_TOKEN"),
        (vec![("EARMARK_OPS_TOKEN", "short")], "EARMARK_OPS_TOKEN must have"),
        (vec![("EARMARK_OPS_TOKEN", TOKEN), ("EARMARK_OPS_READ_TOKEN", TOKEN)], "must differ"),
    ] {
        let mut refused = app.spawn("worker", &settings);
        assert!(!refused.ended().await.success(), "{settings:?}");
        eventually("it says why", async || format!("{:?}", refused.log()).contains(complaint)).await;
    }
    let open = app.start_with("worker", &[("EARMARK_OPS_LISTEN", "0.0.0.0:0"), TOKENS[0]]).await;
    app.finish([worker, open]).await;
}

#[tokio::test]
async fn a_deposit_that_is_sent_twice_is_entered_once_and_to_the_cent() {
    let app = App::new().await;
    let (business, worker) = (app.create_business(1_000), app.start_with("worker", &TOKENS).await);
    let ann = Visitor::signed_in(&worker, TOKEN).await;
    let (csrf, path) = (ann.csrf().await, format!("/businesses/{}/funds", business.id));
    let deposit = uuid::Uuid::new_v4().to_string();
    let fields = |amount| [("csrf", csrf.as_str()), ("amount", amount), ("deposit", &deposit), ("confirmed", "yes")];
    let (status, asked) = ann.send(&path, &fields("0.10")[..3]).await;
    assert!(status.is_success() && asked.contains("goes from 10.00 to 10.10"), "{asked}");
    for _ in 0..2 {
        assert_eq!(ann.send(&path, &fields("0.10")).await.0, StatusCode::SEE_OTHER);
    }
    assert!(ann.page(&format!("/businesses/{}", business.id)).await.contains("10.10"));
    for amount in ["1,50", "0", "-99.00", "nonsense"] {
        assert_eq!(ann.send(&path, &fields(amount)).await.0, StatusCode::BAD_REQUEST, "{amount}");
    }
    assert!(ann.page(&format!("/businesses?q={}", business.id)).await.contains("10.10"));
    app.finish([worker]).await;
}

#[tokio::test]
async fn a_webhook_has_a_page_where_people_see_its_deliveries_and_switch_it() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start_with("serve", &[&TOKENS[..], &[crate::webhooks::LOCAL]].concat()).await;
    let hook = Hook::start().await;
    hook.answers("/a", Reply::status(410).saying("<b>gone</b>"));
    let client = app.client(&process, &business);
    let webhook = crate::webhooks::id_of(&crate::webhooks::create(&client, &hook.at("/a")).await);
    let ann = Visitor::signed_in(&process, TOKEN).await;
    let path = format!("/businesses/{}/webhooks/{webhook}", business.id);
    eventually("it is disabled", async || ann.page(&path).await.contains("it answered 410")).await;
    let page = ann.page(&path).await;
    assert!(page.contains("gone (410)") && page.contains("&#60;b&#62;gone") && !page.contains("<b>gone"), "{page}");
    assert!(ann.page(&format!("/businesses/{}", business.id)).await.contains(&path));
    let csrf = ann.csrf().await;
    hook.answers("/a", None);
    let (status, page) = ann.send(&format!("{path}/switch"), &[("csrf", &csrf), ("webhook", "on")]).await;
    assert!(status == StatusCode::OK && page.contains("Enable this webhook of Acme?"), "{page}");
    assert_eq!(hook.got("/a").len(), 1, "nothing happens before it is confirmed");
    let fields = [("csrf", csrf.as_str()), ("webhook", "on"), ("confirmed", "yes")];
    assert_eq!(ann.send(&format!("{path}/switch"), &fields).await.0, StatusCode::SEE_OTHER);
    eventually("it is delivered", async || hook.got("/a").len() == 2).await;
    eventually("and shown", async || ann.page(&path).await.contains("delivered (200)")).await;
    let (status, _) = ann.send(&format!("{path}/redeliver"), &[("csrf", &csrf), ("seq", "1")]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    eventually("it comes again", async || hook.got("/a").len() == 3).await;
    assert_eq!(
        ann.send(&format!("{path}/redeliver"), &[("csrf", &csrf), ("seq", "7")]).await.0,
        StatusCode::BAD_REQUEST
    );
    let bob = Visitor::signed_in(&process, READ_TOKEN).await;
    assert!(!bob.page(&path).await.contains("<form method=\"post\" action=\"/businesses"), "nothing to act with");
    assert_eq!(bob.send(&format!("{path}/redeliver"), &[("csrf", &csrf), ("seq", "1")]).await.0, StatusCode::FORBIDDEN);
    let nowhere = format!("/businesses/{}/webhooks/{}", business.id, uuid::Uuid::nil());
    assert_eq!(ann.get(&nowhere).send().await.expect("an answer").status(), StatusCode::NOT_FOUND);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_dead_letter_is_dropped_only_with_the_typed_word() {
    let app = App::new().await;
    let worker = app.start_with("worker", &TOKENS).await;
    app.publish(&app.dead_letter_queue(), b"no message", BasicProperties::default()).await;
    let letter = app.until_dead_letters(1).await[0]["dead_letter_id"].as_str().expect("an id").to_owned();
    let ann = Visitor::signed_in(&worker, TOKEN).await;
    let csrf = ann.csrf().await;
    for typed in ["", "yes", "DROP"] {
        let fields = [("csrf", csrf.as_str()), ("letter", &letter), ("confirmed", "yes"), ("typed", typed)];
        assert_eq!(ann.send("/dead-letters/drop", &fields).await.0, StatusCode::BAD_REQUEST, "{typed}");
    }
    assert_eq!(app.dead_letters().len(), 1);
    app.drop_dead_letters();
    app.finish([worker]).await;
}

/// Takes screenshots of the open page: light and dark, at the width of a desktop and of a phone.
async fn pictures(browser: &Browser, name: &str) {
    for (scheme, width, suffix) in
        [("light", 1280, "light"), ("dark", 1280, "dark"), ("light", 390, "phone"), ("dark", 390, "phone-dark")]
    {
        browser.prefer(scheme).await;
        browser.resize(width, 900).await;
        // Charts are redrawn when the width or the colours change.
        browser.script("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))").await;
        browser.picture(&format!("{name}-{suffix}")).await;
        assert!(browser.fits().await, "{name} at {width}");
    }
    browser.prefer("light").await;
    browser.resize(1280, 900).await;
}

async fn sign_in(browser: &Browser, process: &Process, token: &str) {
    browser.go(&process.side_url()).await;
    browser.until_shown("Each action is logged").await;
    browser.fill("#name", "ann").await;
    browser.fill("#token", token).await;
    browser.press("Sign in").await;
    browser.until_shown("Sign out").await;
}

#[tokio::test]
async fn the_page_shows_the_depth_rise_while_workers_are_paused_and_fall_when_they_go_on() {
    let Some(browser) = Browser::open().await else { return };
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let settings: Vec<_> = TOKENS.into_iter().chain(PATIENT).collect();
    let intake = app.start_with("intake", &settings).await;
    let worker = app.start_with("worker", &TOKENS).await;
    let client = app.client(&intake, &business);
    sign_in(&browser, &intake, TOKEN).await;
    for number in 0..60 {
        assert_allocated(&client.create(&format!("user{number}@example.com"), 100).await);
    }
    browser.until_shown("All is well").await;
    browser.until("it is live", "document.getElementById('link').textContent === 'Live'").await;
    browser.until("there are charts", "document.querySelectorAll('.chart canvas').length === 4").await;
    browser.until("latencies are known", "/ms/.test(document.querySelector('#tile-latency .big').textContent)").await;
    pictures(&browser, "overview").await;
    browser.press("Pause the workers").await;
    browser.until_shown("Pause all workers?").await;
    pictures(&browser, "confirm").await;
    browser.press("Pause the workers").await;
    browser.until_shown("Workers are paused by ann since").await;
    eventually("the worker has heard of it", async || !worker.is_ready().await).await;
    // From here on the page is not reloaded. It updates itself.
    browser.script("window.sameLoad = true").await;
    let asking: Vec<_> = (0..5)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.create(&format!("user{number}@example.com"), 1).await })
        })
        .collect();
    browser
        .until("the depth has risen", "window.sameLoad && Number(document.getElementById('depth').textContent) > 0")
        .await;
    browser.until_shown("The oldest request has waited").await;
    browser.until_shown("RabbitMQ paused").await;
    pictures(&browser, "paused").await;
    browser.press("Resume the workers").await;
    browser.until_shown("The workers are resuming").await;
    browser.until("the depth has fallen", "document.getElementById('depth').textContent === '0'").await;
    browser.until_shown("All is well").await;
    for asked in asking {
        assert_allocated(&asked.await.expect("joined"));
    }
    browser.press("Audit now").await;
    browser.until_shown("The books balance").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    drop(browser);
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn in_the_browser_a_dead_letter_is_replayed_and_another_dropped() {
    let Some(browser) = Browser::open().await else { return };
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start_with("serve", &TOKENS).await;
    let asked = request(&business, "ann.secret@example.com", 250);
    for body in [message(&app, &[&asked], &[]), b"no message at all".to_vec()] {
        app.publish(&app.dead_letter_queue(), &body, BasicProperties::default()).await;
    }
    app.until_dead_letters(2).await;
    sign_in(&browser, &process, TOKEN).await;
    browser.until_shown("2 dead letters wait for a person").await;
    browser.go(&format!("{}/dead-letters", process.side_url())).await;
    browser.until_shown("a***@example.com, 2.50, undecided").await;
    assert!(!browser.shows("ann.secret").await);
    pictures(&browser, "dead-letters").await;
    // The page says what a replay would do before anybody replays. It shows whole addresses only on request.
    browser.click("tr:has(strong) a").await;
    browser.until_shown("The ledger says").await;
    browser.press("Show addresses and message").await;
    browser.until_shown("ann.secret@example.com").await;
    pictures(&browser, "dead-letter").await;
    browser.press("Replay").await;
    browser.until_shown("it will be decided on its merits").await;
    browser.press("Replay 1 dead letter").await;
    browser.until_shown("1 dead letter put back into the work queue").await;
    eventually("it is allocated", async || app.count("allocated").await == 1).await;
    browser.go(&format!("{}/requests", process.side_url())).await;
    browser.until_shown("Look up a request").await;
    browser.fill("#id", &uuid::Uuid::from_u128(asked.id.as_u128()).to_string()).await;
    browser.press("Look up").await;
    browser.until_shown("The amount was debited and credited, once.").await;
    browser.until_shown("Replayed by ann").await;
    assert!(!browser.shows("ann.secret").await);
    pictures(&browser, "request").await;
    browser.go(&format!("{}/dead-letters", process.side_url())).await;
    browser.until_shown("not a message").await;
    browser.click("input[name=dead_letter]").await;
    browser.press("Drop selected").await;
    browser.until_shown("Type drop to go on").await;
    browser.fill("#typed", "drop").await;
    browser.press("Drop 1 dead letter").await;
    browser.until_shown("No dead letter waits for anybody").await;
    assert_eq!(app.dead_letters().len(), 0);
    assert_eq!(process.logged("console action"), 3);
    assert!(!format!("{:?}", process.log()).contains("ann.secret"), "no address in the log");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    drop(browser);
    app.finish([process]).await;
}

#[tokio::test]
async fn in_the_browser_the_switch_turns_a_200_into_a_403_and_funds_are_added() {
    let Some(browser) = Browser::open().await else { return };
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start_with("serve", &TOKENS).await;
    let client = app.client(&process, &business);
    assert_allocated(&client.create("ann@example.com", 1).await);
    sign_in(&browser, &process, TOKEN).await;
    browser.go(&format!("{}/businesses?q=acm", process.side_url())).await;
    browser.until_shown("9.99").await;
    pictures(&browser, "businesses").await;
    browser.click("td a").await;
    browser.until_shown("Latest deposits").await;
    pictures(&browser, "business").await;
    browser.press("Switch payouts off").await;
    browser.until_shown("Every request of this business is refused with 403").await;
    browser.press("Switch payouts off").await;
    browser.until_shown("Payouts of Acme are off.").await;
    assert_eq!(client.create("ann@example.com", 1).await.status, 403);
    browser.press("Switch payouts on").await;
    browser.until_shown("are decided as usual again").await;
    browser.press("Switch payouts on").await;
    browser.until_shown("Payouts of Acme are on.").await;
    assert_allocated(&client.create("ann@example.com", 1).await);
    browser.fill("#amount", "1234.56").await;
    browser.fill("#note", "for the tests").await;
    browser.press("Look at it first").await;
    browser.until_shown("The payout balance goes from 9.98 to 1,244.54.").await;
    browser.press("Add 1,234.56").await;
    browser.until_shown("1,234.56 added to Acme").await;
    assert_eq!(client.payout_balance().await, 124_454);
    // Somebody who signs in with the read-only token sees no buttons.
    browser.press("Sign out").await;
    // Wait for the sign-in page. Otherwise the next page could load before the session has ended.
    browser.until_shown("Each action is logged").await;
    sign_in(&browser, &process, READ_TOKEN).await;
    browser.go(&format!("{}/businesses/{}", process.side_url(), business.id)).await;
    browser.until_shown("Latest deposits").await;
    assert_eq!(browser.script("return document.querySelectorAll('main button').length").await, 0);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    drop(browser);
    app.finish([process]).await;
}
