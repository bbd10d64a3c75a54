//! `GET /payout/requests`: what was decided for a business, newest first, as pages of JSON or all of it as CSV.
//!
//! A page begins below the id that the page before it ended with. So requests that are decided meanwhile neither repeat
//! a request nor hide one that was there.

use super::Intake;
use super::auth::Caller;
use super::detached::Detached;
use super::lookup::{self, show_decided};
use super::parameters::{Reading, Wrong, check_time};
use super::problem::{self, Answer};
use super::reads::Failure;
use super::validate::{PLUS_IS_BLANK, check_queried_address};
use crate::ledger::{BusinessId, IdempotencyKey, Outcome, Reference, RequestId};
use crate::postgres::history::{HistoryFilter, Page, read_page};
use crate::secret::first_minted_at;
use crate::wire::answers::{CSV_COLUMNS, HistoryBody, csv_writer};
use axum::body::{Body, Bytes};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Response};
use futures_util::stream::{self, Stream};
use std::sync::Arc;

/// How many requests a page holds if the caller sets no limit.
pub const USUAL_LIMIT: usize = 50;
/// Most requests in a page of JSON. For CSV this many are read at a time.
pub const MOST: usize = 1_000;

/// The message for a limit that is not valid.
pub const WRONG_LIMIT: &str = "The limit must be an integer between 1 and 1000.";

/// The message for a state that no request has.
const WRONG_STATE: &str = "The state must be one of allocated, settled, reversed, settlement_reversed, \
    insufficient_user_balance, insufficient_balance, daily_limit_reached, amount_too_large, nothing_left, not_reversible, \
    payouts_disabled and voided.";

/// The checked parameters of a query.
#[derive(Debug)]
pub struct HistoryQuery {
    filter: HistoryFilter,
    limit: usize,
}

/// Reads the query parameters. The error has a message for each that is not valid. Unknown parameters are ignored.
pub fn read_query(parameters: &[(String, String)]) -> Result<HistoryQuery, Wrong> {
    let mut reading = Reading::new(parameters);
    let limit = reading.one("limit", check_limit);
    let cursor = reading.one("cursor", |text| read_cursor(text).ok_or("The cursor is not valid."));
    let outcome = reading.one("state", |text| Outcome::parse(text).ok_or(WRONG_STATE));
    let email = reading.one("email", check_queried_address);
    let reference = reading.one("reference", |text| match Reference::parse(text) {
        Ok(Some(reference)) => Ok(reference),
        Ok(None) | Err(_) => Err("The reference must be 1 to 255 characters without control characters."),
    });
    let from = reading.one("from", |text| check_moment(text, "The from must be a time by RFC 3339."));
    let to = reading.one("to", |text| check_moment(text, "The to must be a time by RFC 3339."));
    reading.end()?;
    let end = [to, cursor].into_iter().flatten().min();
    let filter = HistoryFilter {
        outcome,
        email,
        reference,
        first: from.unwrap_or(RequestId::from_u128(0)),
        end: end.unwrap_or(RequestId::from_u128(u128::MAX)),
    };
    Ok(HistoryQuery { filter, limit: limit.unwrap_or(USUAL_LIMIT) })
}

/// Reads how many entries a page should have.
pub fn check_limit(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|limit| (1..=MOST).contains(limit)).ok_or(WRONG_LIMIT)
}

/// Writes a cursor: the id that a page ended with.
fn write_cursor(id: RequestId) -> String {
    format!("{:032x}", id.as_u128())
}

fn read_cursor(text: &str) -> Option<RequestId> {
    let is_ours = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| u128::from_str_radix(text, 16).ok())?.map(RequestId::from_u128)
}

/// Reads a time, as a bound of the ids that are minted from then on. `wrong` is the message if it is not a time.
fn check_moment(text: &str, wrong: &'static str) -> Result<RequestId, &'static str> {
    check_time(text, wrong).map(first_minted_at)
}

/// Whether the `Accept` headers name CSV.
pub fn wants_csv(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case("text/csv"))
}

/// Answers with the one success under a key. The other parameters have no effect, but are checked.
pub async fn by_key(intake: &Intake, headers: &HeaderMap, parameters: &[(String, String)]) -> Result<Answer, Failure> {
    let business = intake.business(headers).await?;
    if let Err(errors) = read_query(parameters) {
        return Ok(problem::invalid_parameters(&errors));
    }
    let mut keys = parameters.iter().filter(|(name, _)| name == "idempotency_key").map(|(_, key)| key);
    let text = keys.next().filter(|_| keys.next().is_none()).map_or("", String::as_str);
    let Some(key) = IdempotencyKey::parse(text).or_else(|| IdempotencyKey::from_header(text)) else {
        let is_plus = text.contains(' ');
        let required = "The idempotency_key parameter is required.";
        return Ok(problem::bad_request(if is_plus { PLUS_IS_BLANK } else { required }));
    };
    lookup::request_by_key(intake, business, key).await
}

/// Answers with one page of JSON.
pub async fn page(intake: &Intake, headers: &HeaderMap, parameters: &[(String, String)]) -> Result<Answer, Failure> {
    let caller = intake.caller(headers).await?;
    let query = match read_query(parameters) {
        Ok(query) => query,
        Err(errors) => return Ok(problem::invalid_parameters(&errors)),
    };
    let page = read_first(intake, caller, &query.filter, query.limit).await?;
    let requests = page.requests.into_iter().map(|(id, decided)| show_decided(id, decided)).collect();
    Ok(problem::found(&HistoryBody { requests, next_cursor: page.next.map(write_cursor) }))
}

/// Answers with all matching requests as CSV, read page by page as the caller takes them. The inner `Err` is the answer
/// to parameters that are not valid.
pub async fn all(
    intake: Arc<Intake>,
    headers: &HeaderMap,
    parameters: &[(String, String)],
) -> Result<Result<Response<Body>, Answer>, Failure> {
    let caller = intake.caller(headers).await?;
    let query = match read_query(parameters) {
        Ok(query) => query,
        Err(errors) => return Ok(Err(problem::invalid_parameters(&errors))),
    };
    // The first page is read before the answer begins, so that a database that is down still gives a 503.
    let first = read_first(&intake, caller, &query.filter, MOST).await?;
    Ok(Ok(problem::csv(
        "attachment; filename=\"requests.csv\"",
        lines(Export { intake, caller, filter: query.filter }, first),
    )))
}

/// Reads a page, unless as many pages as allowed are being read for the API key.
async fn read_first(intake: &Intake, caller: Caller, filter: &HistoryFilter, limit: usize) -> Result<Page, Failure> {
    let places = intake.admission().of_keys().reads(caller.key);
    let _place = places.try_acquire().map_err(|_| Failure::TooManyReads)?;
    read(intake, caller.business, filter, limit).await
}

async fn read(intake: &Intake, business: BusinessId, filter: &HistoryFilter, limit: usize) -> Result<Page, Failure> {
    intake.read(business, async |connection| read_page(connection, business, filter, limit).await).await
}

/// An export as CSV, for as long as its caller takes pages.
#[derive(Clone)]
struct Export {
    intake: Arc<Intake>,
    caller: Caller,
    filter: HistoryFilter,
}

impl Export {
    /// Waits for a place among the reads of the API key, and reads the next page. Between two pages an export holds no
    /// place and no connection, however slowly the caller takes them. The read is detached, because the caller may hang
    /// up in the middle of a statement.
    async fn read_next(&self, end: RequestId) -> std::io::Result<Page> {
        let (intake, caller) = (Arc::clone(&self.intake), self.caller);
        let filter = HistoryFilter { end, ..self.filter.clone() };
        let reading = async move {
            let places = intake.admission().of_keys().reads(caller.key);
            let _place = places.acquire().await;
            read(&intake, caller.business, &filter, MOST).await
        };
        let page = Detached::new(self.intake.tracker(), reading).await.map_err(std::io::Error::other)?;
        page.map_err(|_| std::io::Error::other("the rest of the history cannot be read"))
    }
}

/// The lines of an export, in one piece for each page. A page is read when the caller takes it.
fn lines(export: Export, first: Page) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    enum Next {
        First(Page),
        Below(RequestId),
        Nothing,
    }
    stream::try_unfold(Next::First(first), move |next| {
        let export = export.clone();
        async move {
            let (page, has_header) = match next {
                Next::First(page) => (page, true),
                Next::Below(end) => (export.read_next(end).await?, false),
                Next::Nothing => return Ok(None),
            };
            let next = page.next.map_or(Next::Nothing, Next::Below);
            Ok(Some((write_lines(page, has_header)?, next)))
        }
    })
}

fn write_lines(page: Page, has_header: bool) -> std::io::Result<Bytes> {
    let mut csv = csv_writer();
    if has_header {
        csv.write_record(CSV_COLUMNS)?;
    }
    for (id, decided) in page.requests {
        show_decided(id, decided).write_csv(&mut csv)?;
    }
    csv.into_inner().map(Bytes::from).map_err(|error| error.into_error())
}
