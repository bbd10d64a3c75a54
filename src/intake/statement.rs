//! `GET /payout/user/statement`: every movement of one payout user in the order of their commits with the balance after
//! each, as pages of JSON or all of it as CSV.

use super::Intake;
use super::auth::Caller;
use super::detached::Detached;
use super::history::{MOST, USUAL_LIMIT, check_limit};
use super::parameters::{Reading, Wrong, check_time};
use super::problem::{self, Answer};
use super::reads::Failure;
use super::validate::{NO_EMAIL, check_queried_address};
use crate::ledger::{Kind, Millis, RequestId};
use crate::postgres::movements::{StatementFilter, UserMovement, read_statement};
use crate::postgres::users;
use crate::wire::answers::{MOVEMENT_COLUMNS, MovementBody, StatementBody, csv_writer};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response};
use futures_util::stream::{self, Stream};
use std::sync::Arc;
use uuid::Uuid;

/// Reads the query parameters. Unknown parameters are ignored.
fn read_query(parameters: &[(String, String)]) -> Result<(StatementFilter, usize), Wrong> {
    let mut reading = Reading::new(parameters);
    let email = reading.one("email", check_queried_address);
    let limit = reading.one("limit", check_limit);
    let after = reading.one("cursor", |text| text.parse().map_err(|_| "The cursor is not valid."));
    let from = reading.one("from", |text| check_time(text, "The from must be a time by RFC 3339."));
    let to = reading.one("to", |text| check_time(text, "The to must be a time by RFC 3339."));
    reading.end()?;
    let email = email.ok_or_else(|| Wrong::from([("email", [NO_EMAIL])]))?;
    let (from, to) = (from.unwrap_or(0), to.unwrap_or(Millis::MAX));
    Ok((StatementFilter { email, after: after.unwrap_or(0), from, to }, limit.unwrap_or(USUAL_LIMIT)))
}

/// Answers with one page of JSON.
pub async fn page(intake: &Intake, headers: &HeaderMap, parameters: &[(String, String)]) -> Result<Answer, Failure> {
    let caller = intake.caller(headers).await?;
    let (filter, limit) = match read_query(parameters) {
        Ok(query) => query,
        Err(wrong) => return Ok(problem::invalid_parameters(&wrong)),
    };
    let Some(page) = read_first(intake, caller, &filter, limit).await? else { return Ok(problem::not_found()) };
    let next_cursor = page.next.map(|after| after.to_string());
    Ok(problem::found(&StatementBody { movements: page.movements.into_iter().map(show).collect(), next_cursor }))
}

/// Answers with the whole statement as CSV, read page by page as the caller takes them. The inner `Err` is the answer to
/// parameters that are not valid.
pub async fn all(
    intake: Arc<Intake>,
    headers: &HeaderMap,
    parameters: &[(String, String)],
) -> Result<Result<Response<Body>, Answer>, Failure> {
    let caller = intake.caller(headers).await?;
    let (filter, _) = match read_query(parameters) {
        Ok(query) => query,
        Err(wrong) => return Ok(Err(problem::invalid_parameters(&wrong))),
    };
    // The first page is read before the answer begins, so that a database that is down still gives a 503.
    let Some(first) = read_first(&intake, caller, &filter, MOST).await? else { return Ok(Err(problem::not_found())) };
    Ok(Ok(problem::csv("attachment; filename=\"statement.csv\"", lines(intake, caller, filter, first))))
}

/// Movements, and the number of the last of them if there are more.
struct Page {
    movements: Vec<UserMovement>,
    next: Option<i64>,
}

/// Reads a page, unless as many as allowed are being read for the API key. `None` if there is no such payout user.
async fn read_first(
    intake: &Intake,
    caller: Caller,
    filter: &StatementFilter,
    limit: usize,
) -> Result<Option<Page>, Failure> {
    let places = intake.admission().of_keys().reads(caller.key);
    let _place = places.try_acquire().map_err(|_| Failure::TooManyReads)?;
    let finding = intake.read(caller.business, async |connection| {
        users::find_by_email(connection, caller.business, &filter.email).await
    });
    if finding.await?.is_none() {
        return Ok(None);
    }
    read(intake, caller, filter, limit).await.map(Some)
}

async fn read(intake: &Intake, caller: Caller, filter: &StatementFilter, limit: usize) -> Result<Page, Failure> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let reading = intake
        .read(caller.business, async |connection| read_statement(connection, caller.business, filter, most).await);
    let mut movements = reading.await?;
    let is_last = movements.len() <= limit;
    movements.truncate(limit);
    let next = movements.last().filter(|_| !is_last).map(|movement| movement.seq);
    Ok(Page { movements, next })
}

/// The lines of a statement, in one piece for each page. A page is read when the caller takes it; between two pages it holds
/// no place among the reads of the API key and no connection.
fn lines(
    intake: Arc<Intake>,
    caller: Caller,
    filter: StatementFilter,
    first: Page,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(Some(Err(first)), move |next: Option<Result<i64, Page>>| {
        let (intake, filter) = (Arc::clone(&intake), filter.clone());
        async move {
            let (page, has_header) = match next {
                None => return Ok(None),
                Some(Err(first)) => (first, true),
                Some(Ok(after)) => (read_next(intake, caller, StatementFilter { after, ..filter }).await?, false),
            };
            let next = page.next.map(Ok);
            Ok(Some((write_lines(page, has_header)?, next)))
        }
    })
}

/// Waits for a place among the reads of the API key, and reads the next page. The read is detached, because the caller may
/// hang up in the middle of a statement.
async fn read_next(intake: Arc<Intake>, caller: Caller, filter: StatementFilter) -> std::io::Result<Page> {
    let working = Arc::clone(&intake);
    let reading = async move {
        let places = working.admission().of_keys().reads(caller.key);
        let _place = places.acquire().await;
        read(&working, caller, &filter, MOST).await
    };
    let page = Detached::new(intake.tracker(), reading).await.map_err(std::io::Error::other)?;
    page.map_err(|_| std::io::Error::other("the rest of the statement cannot be read"))
}

fn write_lines(page: Page, has_header: bool) -> std::io::Result<Bytes> {
    let mut csv = csv_writer();
    if has_header {
        csv.write_record(MOVEMENT_COLUMNS)?;
    }
    for movement in page.movements {
        show(movement).write_csv(&mut csv)?;
    }
    csv.into_inner().map(Bytes::from).map_err(|error| std::io::Error::other(error.to_string()))
}

fn show(movement: UserMovement) -> MovementBody {
    let uuid = |id: RequestId| Uuid::from_u128(id.as_u128());
    MovementBody {
        seq: movement.seq,
        moved_at: movement.moved_at,
        kind: Kind::as_str(movement.kind),
        request_id: uuid(movement.request),
        amount: movement.cents,
        balance: movement.balance,
        target: movement.target.map(uuid),
        reference: movement.reference.map(|reference| reference.as_str().to_owned()),
    }
}
