//! The HTTP client of `earmark send`: makes a call for some lines, and judges what the answer means for each.

use super::file::Line;
use super::{Receipt, Told};
use crate::ledger::{Amount, Email, Kind, Movement, Outcome, Reference};
use crate::{clock, https, retry};
use anyhow::{Context, ensure};
use futures_util::future::join_all;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// The service's address and the API key to use.
pub struct Settings {
    /// Where the service is.
    pub url: String,
    /// The secret key.
    pub api_key: String,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// Sends requests to one service with one API key.
#[derive(Clone)]
pub struct Client {
    url: String,
    http: reqwest::Client,
}

/// Whether money moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// It does.
    Real,
    /// The service only says what its answer would be.
    Dry,
}

/// A line to send, and its idempotency key. A settlement has none.
pub(super) struct Sending<'a> {
    pub(super) line: &'a Line,
    pub(super) key: Option<String>,
}

/// What a call came to.
#[derive(Debug)]
pub(super) struct Called {
    /// What is known of each line, in the order of the call.
    pub(super) verdicts: Vec<Verdict>,
    /// How long to wait at least before lines are sent again.
    pub(super) after: Duration,
    /// Why no line can be sent with these settings, in words.
    pub(super) stop: Option<String>,
}

impl Called {
    /// The same is known of all lines.
    fn all(lines: usize, verdict: &Verdict, after: Duration) -> Self {
        Self { verdicts: vec![verdict.clone(); lines], after, stop: None }
    }

    /// Nothing is known of the lines, and no more can be sent.
    fn stop(lines: usize, why: String, maybe_done: bool) -> Self {
        let stop = Some(why.clone());
        Self { stop, ..Self::all(lines, &Verdict::Again { why, maybe_done }, Duration::ZERO) }
    }
}

/// What is known of a line after a call.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// It is done. `replayed`: by an earlier attempt under the same idempotency key.
    Done {
        /// What the service said to it.
        receipt: Receipt,
        /// Whether that was an earlier attempt under the same key.
        replayed: bool,
    },
    /// A dry run says that it would be done.
    Possible {
        /// Whether it was done by an earlier attempt under the same key.
        replayed: bool,
    },
    /// It is refused, and no funds moved.
    Refused {
        /// The service's text.
        reason: String,
        /// The request that was refused, if it became one.
        request: Option<Uuid>,
    },
    /// Send it again, under the same key.
    Again {
        /// Why, in words.
        why: String,
        /// Whether it can have been done all the same.
        maybe_done: bool,
    },
}

/// Why something that was asked for is not known.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no connection: the address, the network or TLS does not work.
    Unreachable(String),
    /// Ask again, after waiting at least `after`.
    Again {
        /// Why, in words.
        why: String,
        /// How long to wait.
        after: Duration,
        /// Whether the service answered so. Otherwise the connection broke.
        is_answer: bool,
    },
    /// Asking again is of no use.
    Stop(String),
}

/// The business that pays.
#[derive(Clone, Debug, Deserialize)]
pub struct Business {
    /// What people call it.
    pub name: String,
    /// What it can still allocate, in cents.
    pub payout_balance: i64,
    /// Whether payouts are switched on.
    pub payouts_enabled: bool,
}

/// A payment or a reversal of the history.
#[derive(Debug, Deserialize)]
pub(super) struct Past {
    pub(super) request_id: Uuid,
    pub(super) email: Option<String>,
    pub(super) amount: i64,
    pub(super) target: Option<Uuid>,
    pub(super) reference: Option<String>,
}

/// A page of the history.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) requests: Vec<Past>,
    pub(super) next_cursor: Option<String>,
}

/// A complete HTTP answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Why there is no answer.
struct NoAnswer {
    why: String,
    /// Whether there was not even a connection.
    is_unreachable: bool,
}

impl NoAnswer {
    fn into_verdict(self) -> Verdict {
        Verdict::Again { why: self.why, maybe_done: !self.is_unreachable }
    }
}

impl Client {
    /// Creates a client. Fails if the URL or the key cannot be used.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let url = Url::parse(&settings.url).context("EARMARK_URL is not a URL")?;
        ensure!(
            ["http", "https"].contains(&url.scheme()) && url.has_host(),
            "EARMARK_URL must begin with https:// or http://"
        );
        let key = HeaderValue::from_str(&format!("Bearer {}", settings.api_key.trim()));
        let mut key = key.ok().context("EARMARK_API_KEY has characters that no API key has")?;
        key.set_sensitive(true);
        let http = https::client()?
            .timeout(settings.timeout)
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, key)]))
            // A redirect could send the API key to another server.
            .redirect(Policy::none())
            .build()?;
        Ok(Self { url: settings.url.trim().trim_end_matches('/').to_owned(), http })
    }

    /// Makes one attempt to send some lines of one kind.
    pub(super) async fn send(&self, lines: &[Sending<'_>], run: Run) -> Called {
        match lines.first().map(|sending| sending.line.kind()) {
            Some(Kind::Allocate) => self.pay(lines, run).await,
            _ => self.move_each(lines, run).await,
        }
    }

    /// Pays some lines, in one bulk call. Each line has an idempotency key of its own, so that it does not matter which
    /// lines are sent together.
    async fn pay(&self, lines: &[Sending<'_>], run: Run) -> Called {
        #[derive(Serialize)]
        struct Item<'a> {
            email: Option<&'a str>,
            amount: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reference: Option<&'a str>,
            idempotency_key: Option<&'a str>,
        }
        #[derive(Serialize)]
        struct Call<'a> {
            allocations: Vec<Item<'a>>,
        }
        let items = lines.iter().map(|Sending { line, key }| Item {
            email: line.movement.email().map(Email::as_str),
            amount: line.movement.amount().map(Amount::cents),
            reference: line.reference.as_ref().map(Reference::as_str),
            idempotency_key: key.as_deref(),
        });
        let call = Call { allocations: items.collect() };
        match ask(self.post("/payout/create/bulk", run).json(&call)).await {
            Ok(answer) => answer.judge(lines.len(), run),
            Err(no_answer) => Called::all(lines.len(), &no_answer.into_verdict(), Duration::ZERO),
        }
    }

    /// Sends each line in a request of its own, all at once.
    async fn move_each(&self, lines: &[Sending<'_>], run: Run) -> Called {
        let all = join_all(lines.iter().map(|sending| self.move_one(sending, run))).await;
        let mut called = Called { verdicts: vec![], after: Duration::ZERO, stop: None };
        for one in all {
            called.verdicts.extend(one.verdicts);
            called.after = called.after.max(one.after);
            called.stop = called.stop.or(one.stop);
        }
        called
    }

    async fn move_one(&self, Sending { line, key }: &Sending<'_>, run: Run) -> Called {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            email: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            amount: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reference: Option<&'a str>,
        }
        let body = Body {
            email: line.movement.email().map(Email::as_str),
            amount: line.movement.amount().map(Amount::cents),
            reference: line.reference.as_ref().map(Reference::as_str),
        };
        let path = match &line.movement {
            Movement::Allocate { .. } => "/payout/create".to_owned(),
            Movement::Reverse { target, .. } => format!("/payout/requests/{target}/reverse"),
            Movement::Settle { .. } => "/payout/user/settle".to_owned(),
        };
        let mut request = self.post(&path, run).json(&body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        match ask(request).await {
            Ok(answer) => answer.judge_one(run),
            Err(no_answer) => Called::all(1, &no_answer.into_verdict(), Duration::ZERO),
        }
    }

    fn post(&self, path: &str, run: Run) -> RequestBuilder {
        let query = match run {
            Run::Real => "",
            Run::Dry => "?dry_run=true",
        };
        self.http.post(format!("{}{path}{query}", self.url))
    }

    /// The business of the API key. A service that knows this question also knows dry runs: it does not pay by mistake.
    pub(super) async fn business(&self) -> Result<Business, Failure> {
        let found = self.find("/business", &[]).await?;
        found.ok_or_else(|| {
            Failure::Stop(
                "the service has no `GET /business`: is EARMARK_URL its address, and is it of this release?".to_owned(),
            )
        })
    }

    /// Whether the service has carried out this request for the API key.
    pub(super) async fn knows(&self, request: Uuid) -> Result<bool, Failure> {
        #[derive(Deserialize)]
        struct Body {
            state: String,
        }
        let found: Option<Body> = self.find(&format!("/payout/requests/{request}"), &[]).await?;
        let is_done = |outcome: Outcome| outcome.moves() || outcome == Outcome::NothingLeft;
        Ok(found.is_some_and(|body| Outcome::parse(&body.state).is_some_and(is_done)))
    }

    /// The request that moved money under an idempotency key.
    pub(super) async fn done_under(&self, key: &str) -> Result<Option<Uuid>, Failure> {
        #[derive(Deserialize)]
        struct Body {
            request_id: Uuid,
        }
        let found: Option<Body> = self.find("/payout/requests", &[("idempotency_key", key)]).await?;
        Ok(found.map(|body| body.request_id))
    }

    /// A page of the requests with this outcome since a moment, the latest first.
    pub(super) async fn history(&self, outcome: Outcome, moment: &str, cursor: Option<&str>) -> Result<Page, Failure> {
        let mut query = vec![("state", outcome.as_str()), ("limit", "1000"), ("from", moment)];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let found = self.find("/payout/requests", &query).await?;
        found.ok_or_else(|| Failure::Stop("the service has no history".to_owned()))
    }

    /// Reads something. `None` if the service does not have it.
    async fn find<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<Option<T>, Failure> {
        let mut url = Url::parse(&format!("{}{path}", self.url))
            .map_err(|error| Failure::Stop(format!("EARMARK_URL: {error}")))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        match ask(self.http.get(url)).await {
            Ok(answer) => answer.judge_found(),
            Err(NoAnswer { why, is_unreachable: true }) => Err(Failure::Unreachable(why)),
            Err(NoAnswer { why, .. }) => Err(Failure::Again { why, after: Duration::ZERO, is_answer: false }),
        }
    }
}

/// The longest answer body that is read, in bytes: twice that of a full bulk call, or of a full page of the history.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

/// Sends a request and reads the answer.
async fn ask(request: RequestBuilder) -> Result<Answer, NoAnswer> {
    let asking = async {
        let mut response = request.send().await?;
        let (status, headers, mut body) = (response.status(), response.headers().clone(), vec![]);
        while body.len() <= LONGEST_ANSWER
            && let Some(chunk) = response.chunk().await?
        {
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body })
    };
    asking.await.map_err(|error: reqwest::Error| NoAnswer {
        why: format!("no answer: {}", innermost(&error)),
        is_unreachable: error.is_connect(),
    })
}

/// The text of the innermost cause of an error. It does not contain the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

/// An item of the answer to a bulk call.
#[derive(Deserialize)]
struct Item {
    status: u16,
    debited: String,
    request_id: Option<Uuid>,
    #[serde(default)]
    replayed: bool,
    hash: Option<String>,
    error: Option<String>,
    errors: Option<BTreeMap<String, Value>>,
}

impl Item {
    /// Judges a line by its status. The service promises what each status means for the money; see `docs/clients.md`.
    /// `None` if it is no answer of the service.
    fn judge(self, run: Run) -> Option<Verdict> {
        match (self.status, self.debited.as_str(), run) {
            (200, "yes", Run::Real) => {
                let hash = hex::decode(self.hash?).ok()?.try_into().ok()?;
                let receipt = Receipt { told: Told::Hash(hash), request: self.request_id? };
                Some(Verdict::Done { receipt, replayed: self.replayed })
            }
            (200, "no", Run::Dry) => Some(Verdict::Possible { replayed: self.replayed }),
            (400 | 403 | 422, "no", _) => {
                let reason = Wrong { error: self.error, errors: self.errors.unwrap_or_default() }.into_reason()?;
                Some(Verdict::Refused { reason, request: self.request_id })
            }
            (429 | 500..=599, debited @ ("no" | "unknown"), _) => {
                Some(Verdict::Again { why: format!("answered {}", self.status), maybe_done: debited != "no" })
            }
            _ => None,
        }
    }
}

/// What the service says to a refusal.
#[derive(Default, Deserialize)]
struct Wrong {
    error: Option<String>,
    /// The messages of each field that failed, among what else is said.
    #[serde(flatten)]
    errors: BTreeMap<String, Value>,
}

impl Wrong {
    fn into_reason(self) -> Option<String> {
        let messages = self.errors.values().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
        let reason = self.error.unwrap_or_else(|| messages.collect::<Vec<_>>().join(" "));
        Some(reason).filter(|reason| !reason.is_empty())
    }
}

impl Answer {
    /// Judges the answer to a bulk call of so many lines.
    fn judge(self, lines: usize, run: Run) -> Called {
        #[derive(Deserialize)]
        struct Body {
            results: Vec<Item>,
        }
        // Only Earmark says so, and only of a call that moved nothing.
        let maybe_done = self.header("earmark-debited") != Some("no");
        let again = || Called::all(lines, &self.again(maybe_done), self.retry_after());
        match self.status.as_u16() {
            401 => Called::stop(lines, unauthorized(), maybe_done),
            200 | 504 => {
                let items = self.json::<Body>().map(|body| body.results).filter(|items| items.len() == lines);
                let verdicts = items.and_then(|items| items.into_iter().map(|item| item.judge(run)).collect());
                match verdicts {
                    Some(verdicts) => Called { verdicts, after: Duration::ZERO, stop: None },
                    // A proxy's.
                    None if self.status == StatusCode::GATEWAY_TIMEOUT => again(),
                    None => Called::stop(lines, self.not_earmark(), true),
                }
            }
            408 | 429 | 500..=599 => again(),
            413 => {
                let why =
                    "the service or a proxy before it refuses calls of this size (413): use a smaller --concurrency";
                Called::stop(lines, why.to_owned(), maybe_done)
            }
            _ => Called::stop(lines, self.not_earmark(), maybe_done),
        }
    }

    /// Judges the answer to a reversal or a settlement.
    fn judge_one(self, run: Run) -> Called {
        let moved = self.header("earmark-moved");
        let maybe_done = moved != Some("no");
        let known = |verdict| Called::all(1, &verdict, Duration::ZERO);
        match (self.status.as_u16(), moved) {
            (401, _) => Called::stop(1, unauthorized(), maybe_done),
            (200, Some(moved)) => match self.judge_moved(moved, run) {
                Some(verdict) => known(verdict),
                None => Called::stop(1, self.not_earmark(), true),
            },
            (400 | 403 | 404 | 422, Some("no")) => match self.json::<Wrong>().and_then(Wrong::into_reason) {
                Some(reason) => known(Verdict::Refused { reason, request: None }),
                None => Called::stop(1, self.not_earmark(), true),
            },
            (408 | 429 | 500..=599, _) => Called::all(1, &self.again(maybe_done), self.retry_after()),
            _ => Called::stop(1, self.not_earmark(), maybe_done),
        }
    }

    /// Judges a success, of which the service says whether money moved. `None` if it is no answer of the service.
    fn judge_moved(&self, moved: &str, run: Run) -> Option<Verdict> {
        #[derive(Deserialize)]
        struct Body {
            request_id: Option<Uuid>,
            /// Of a reversal, in cents.
            reversed: Option<u32>,
            /// Of a settlement: what is left, in cents.
            balance: Option<i64>,
        }
        let Body { request_id, reversed, balance } = self.json()?;
        let told = reversed.map(Told::Reversed).or(balance.map(|_| Told::Settled))?;
        let replayed = self.header("idempotent-replayed") == Some("true");
        match (run, moved) {
            (Run::Dry, "no") => Some(Verdict::Possible { replayed }),
            // Nothing was left to reverse.
            (Run::Real, "no") if told != Told::Reversed(0) => None,
            (Run::Real, "yes" | "no") => {
                Some(Verdict::Done { receipt: Receipt { told, request: request_id? }, replayed })
            }
            _ => None,
        }
    }

    fn again(&self, maybe_done: bool) -> Verdict {
        Verdict::Again { why: self.trouble(), maybe_done }
    }

    /// Judges the answer to a read.
    fn judge_found<T: DeserializeOwned>(self) -> Result<Option<T>, Failure> {
        match self.status.as_u16() {
            200 => self.json().map(Some).ok_or_else(|| Failure::Stop(self.not_earmark())),
            404 => Ok(None),
            401 => Err(Failure::Stop(unauthorized())),
            408 | 429 | 500..=599 => {
                Err(Failure::Again { why: self.trouble(), after: self.retry_after(), is_answer: true })
            }
            _ => Err(Failure::Stop(self.not_earmark())),
        }
    }

    fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn retry_after(&self) -> Duration {
        self.header(RETRY_AFTER.as_str()).map_or(Duration::ZERO, |text| retry::asked_for(text, clock::now()))
    }

    fn trouble(&self) -> String {
        format!("answered {}", self.status)
    }

    fn not_earmark(&self) -> String {
        format!("the answer ({}) is not one of Earmark's: is EARMARK_URL its address?", self.status)
    }
}

fn unauthorized() -> String {
    "the service refuses the key (401): set EARMARK_API_KEY to a secret key that works".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "9b2e0c7c1d3f4a5b6c7d8e9f00112233445566778899aabbccddeeff01234567";
    const REQUEST: &str = "0198c0de-0000-7000-8000-00000a11ca7e";

    fn answer(status: u16, debited: Option<&str>, body: &str) -> Answer {
        let debited = debited.map(|debited| ("earmark-debited".parse().unwrap(), debited.parse().unwrap()));
        let headers = HeaderMap::from_iter(debited);
        Answer { status: StatusCode::try_from(status).unwrap(), headers, body: body.as_bytes().to_vec() }
    }

    /// Judges the answer to a bulk call of one item. `None` if it is no answer of the service.
    fn item(run: Run, text: &str) -> Option<Verdict> {
        let text = text.replace("HASH", HASH).replace("REQUEST", REQUEST);
        let mut called = answer(200, Some("partial"), &format!("{{\"results\":[{text}]}}")).judge(1, run);
        assert_eq!(called.verdicts.len(), 1);
        called.verdicts.pop().filter(|_| called.stop.is_none())
    }

    fn real(text: &str) -> Option<Verdict> {
        item(Run::Real, text)
    }

    #[test]
    fn a_line_is_paid_or_refused_only_by_an_answer_that_says_so() {
        let paid = real(r#"{"status":200,"debited":"yes","request_id":"REQUEST","hash":"HASH","replayed":true}"#);
        let Some(Verdict::Done { replayed: true, receipt: Receipt { told: Told::Hash(hash), .. } }) = paid else {
            panic!("{paid:?}")
        };
        assert_eq!(hex::encode(hash), HASH);
        let refused = real(r#"{"status":400,"debited":"no","errors":{"email":["One."],"amount":["Two."]}}"#);
        assert!(matches!(refused, Some(Verdict::Refused { reason, request: None }) if reason == "Two. One."));
        let refused = real(r#"{"status":403,"debited":"no","request_id":"REQUEST","error":"Off."}"#);
        assert!(matches!(refused, Some(Verdict::Refused { reason, request: Some(_) }) if reason == "Off."));
        for (text, maybe) in [
            (r#"{"status":504,"debited":"unknown","request_id":"REQUEST","error":"?"}"#, true),
            (r#"{"status":503,"debited":"no","error":"?"}"#, false),
            (r#"{"status":500,"debited":"no","request_id":"REQUEST","error":"?"}"#, false),
            (r#"{"status":429,"debited":"no","error":"?"}"#, false),
        ] {
            assert!(matches!(real(text), Some(Verdict::Again { maybe_done, .. }) if maybe_done == maybe), "{text}");
        }
        for nothing in [
            r#"{"status":200,"debited":"no","request_id":"REQUEST","hash":"HASH"}"#,
            r#"{"status":200,"debited":"yes","request_id":"REQUEST","hash":"00"}"#,
            r#"{"status":200,"debited":"yes","hash":"HASH"}"#,
            r#"{"status":400,"debited":"yes","error":"?"}"#,
            r#"{"status":400,"debited":"no"}"#,
            r#"{"status":404,"debited":"no","error":"?"}"#,
            r#"{"status":503,"debited":"yes","error":"?"}"#,
            "{}",
            r#"{"status":503,"debited":"no"},{"status":503,"debited":"no"}"#,
        ] {
            assert!(real(nothing).is_none(), "{nothing}");
        }
    }

    #[test]
    fn a_dry_run_pays_nothing_and_an_answer_that_something_was_paid_is_none_to_it() {
        let dry = |text| item(Run::Dry, text);
        let possible = dry(r#"{"status":200,"debited":"no","hash":"HASH"}"#);
        assert!(matches!(possible, Some(Verdict::Possible { replayed: false })), "{possible:?}");
        let again = dry(r#"{"status":200,"debited":"no","hash":"HASH","replayed":true}"#);
        assert!(matches!(again, Some(Verdict::Possible { replayed: true })), "{again:?}");
        assert!(dry(r#"{"status":200,"debited":"yes","request_id":"REQUEST","hash":"HASH"}"#).is_none());
        let refused = dry(r#"{"status":400,"debited":"no","error":"Insufficient payout balance"}"#);
        assert!(matches!(refused, Some(Verdict::Refused { .. })), "{refused:?}");
    }

    /// Judges the answer to a reversal or a settlement, and says whether the run goes on.
    fn one(run: Run, status: u16, moved: Option<&str>, body: &str) -> (Verdict, bool) {
        let mut answer = answer(status, None, &body.replace("REQUEST", REQUEST));
        if let Some(moved) = moved {
            answer.headers.insert("earmark-moved", moved.parse().unwrap());
        }
        let mut called = answer.judge_one(run);
        assert_eq!(called.verdicts.len(), 1);
        (called.verdicts.remove(0), called.stop.is_none())
    }

    #[test]
    fn a_reversal_or_settlement_is_done_or_refused_only_by_an_answer_that_says_so() {
        const REVERSED: &str = r#"{"request_id":"REQUEST","reversed":5,"remaining":0}"#;
        const NOTHING: &str = r#"{"request_id":"REQUEST","reversed":0,"remaining":0}"#;
        const SETTLED: &str = r#"{"request_id":"REQUEST","balance":7}"#;
        for (moved, body, expected) in
            [("yes", REVERSED, Told::Reversed(5)), ("no", NOTHING, Told::Reversed(0)), ("yes", SETTLED, Told::Settled)]
        {
            let (verdict, goes_on) = one(Run::Real, 200, Some(moved), body);
            assert!(goes_on && matches!(verdict, Verdict::Done { receipt, .. } if receipt.told == expected), "{body}");
            let (verdict, goes_on) = one(Run::Dry, 200, Some("no"), body);
            assert!(goes_on && matches!(verdict, Verdict::Possible { .. }), "{body}");
        }
        for (status, body, said) in [
            (400, r#"{"error":"Insufficient user balance"}"#, "Insufficient user balance"),
            (400, r#"{"amount":["Too much."],"dry_run":true}"#, "Too much."),
            (404, r#"{"error":"Not found"}"#, "Not found"),
            (422, r#"{"error":"Used."}"#, "Used."),
        ] {
            let (verdict, goes_on) = one(Run::Real, status, Some("no"), body);
            assert!(goes_on && matches!(verdict, Verdict::Refused { reason, .. } if reason == said), "{body}");
        }
        for (status, moved, goes, maybe) in [
            (503, Some("no"), true, false),
            (504, Some("unknown"), true, true),
            (502, None, true, true),
            (401, Some("no"), false, false),
            (404, None, false, true),
            (302, None, false, true),
        ] {
            let (verdict, goes_on) = one(Run::Real, status, moved, "{}");
            let is_expected = matches!(verdict, Verdict::Again { maybe_done, .. } if maybe_done == maybe);
            assert!(is_expected && goes_on == goes, "{status} {moved:?}");
        }
        for (run, moved, body) in [
            (Run::Real, Some("no"), REVERSED),
            (Run::Real, Some("no"), SETTLED),
            (Run::Real, Some("yes"), "{}"),
            (Run::Real, Some("yes"), r#"{"reversed":5,"remaining":0}"#),
            (Run::Real, None, REVERSED),
            (Run::Dry, Some("yes"), REVERSED),
        ] {
            assert!(!one(run, 200, moved, body).1, "{run:?} {moved:?} {body}");
        }
    }

    #[test]
    fn a_call_without_results_was_not_debited_only_if_earmark_says_so() {
        for (status, debited, again, maybe) in [
            (503, Some("no"), true, false),
            (429, Some("no"), true, false),
            (503, None, true, true),
            (502, None, true, true),
            (504, None, true, true),
            (408, Some("no"), true, false),
            (401, Some("no"), false, false),
            (401, None, false, true),
            (413, Some("no"), false, false),
            (413, None, false, true),
            (404, None, false, true),
            (302, None, false, true),
            (200, Some("no"), false, true),
            (400, Some("no"), false, false),
        ] {
            let Called { verdicts, stop, .. } = answer(status, debited, "{}").judge(2, Run::Real);
            let is_expected =
                |verdict: &Verdict| matches!(verdict, Verdict::Again { maybe_done, .. } if *maybe_done == maybe);
            assert!(verdicts.len() == 2 && verdicts.iter().all(is_expected), "{status} {verdicts:?}");
            assert_eq!(stop.is_none(), again, "{status}");
        }
    }
}
