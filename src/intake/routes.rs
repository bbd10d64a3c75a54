//! The endpoints, in the order in which their checks run:
//! `405/404 → 401 → 413 → 415 → 400 body → 400 fields → admission and everything after it`.
//!
//! Allocations and look-ups are [`Detached`] work: a client that hangs up cancels nothing half-way, and after a panic the
//! answer is still true. The pages of the documentation, 404 and 405 are answered directly.

use super::Intake;
use super::bulk::{self, BulkSubmission};
use super::detached::Detached;
use super::history;
use super::lookup;
use super::openapi;
use super::page;
use super::problem::{self, Answer};
use super::publication::Unpublished;
use super::raises::Received;
use super::reads::Failure;
use super::submit::{self, Submission};
use super::validate::{
    ALLOCATION_LIMIT, BULK_LIMIT, BodyLimit, Invalid, InvalidBulk, NewAllocation, read_allocation, read_bulk,
};
use crate::ledger::{IdempotencyKey, Refusal, RequestId};
use crate::metrics::{METRICS, labels::Route};
use crate::trace;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::Uri;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long a request body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The endpoints of an intake.
pub fn router(intake: Arc<Intake>) -> Router {
    Router::new()
        .route("/payout/create", post(create).fallback(create_not_allowed))
        .route("/payout/create/bulk", post(create_bulk).fallback(create_bulk_not_allowed))
        .route("/balance", get(balance).fallback(read_not_allowed))
        .route("/payout/user", get(payout_user).fallback(read_not_allowed))
        .route("/payout/requests", get(requests).fallback(read_not_allowed))
        .route("/payout/requests/{request_id}", get(request_by_id).fallback(read_not_allowed))
        .route("/openapi.json", get(openapi).fallback(read_not_allowed))
        .route("/docs", get(docs).fallback(read_not_allowed))
        .route("/docs/style.css", get(style).fallback(read_not_allowed))
        .fallback(not_found)
        .with_state(intake)
}

/// `POST /payout/create`
async fn create(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    let received = intake.raises().receive();
    let started = submit::start(&intake, async move |intake, unpublished| {
        read_and_submit(&intake, unpublished, request, received).await
    });
    let (answer, id) = started.finish(&intake).await;
    let id = id.map_or_else(Uuid::new_v4, |id| Uuid::from_u128(id.as_u128()));
    finish(&intake, Route::Create, answer.into_create_response(id))
}

async fn read_and_submit(
    intake: &Intake,
    unpublished: Unpublished,
    request: Request,
    received: Received,
) -> submit::Submitted {
    let (parts, body) = request.into_parts();
    let caller = match intake.caller(&parts.headers).await {
        Ok(caller) => caller,
        Err(failure) => return (failed(unpublished, &failure), None),
    };
    match read_submission(&parts.headers, body).await {
        Ok((allocation, key)) => match intake.admission().of_keys().pass(caller.key, 1) {
            Ok(()) => {
                let (receipt, trace) = (received.of(caller.business.shard()), read_trace(&parts.headers));
                submit::submit(intake, unpublished, Submission { caller, allocation, key, receipt, trace }).await
            }
            Err(wait) => (problem::too_many(unpublished.never(Refusal::KeyRate), wait), None),
        },
        Err(answer) => (answer, None),
    }
}

/// The trace context of the caller's span. One that is not valid is ignored, as the standard says.
fn read_trace(headers: &HeaderMap) -> Option<trace::Context> {
    let mut values = headers.get_all(trace::HEADER).iter();
    let value = values.next()?.to_str().ok()?;
    trace::Context::parse(value).filter(|_| values.next().is_none())
}

async fn read_submission(headers: &HeaderMap, body: Body) -> Result<(NewAllocation, Option<IdempotencyKey>), Answer> {
    let body = read_json(headers, body, &ALLOCATION_LIMIT).await?;
    let allocation = read_allocation(&body).map_err(|invalid| match invalid {
        Invalid::NotAnObject => problem::not_an_object(),
        Invalid::Fields(errors) => problem::invalid_fields(errors),
    })?;
    Ok((allocation, read_key(headers)?))
}

/// `POST /payout/create/bulk`. Nothing is published until the whole call is read; then each item is work of its own.
async fn create_bulk(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    let received = intake.raises().receive();
    let reading = look(&intake, async move |intake: Arc<Intake>| read_bulk_call(&intake, request, received).await);
    let answer = match reading.await.flatten() {
        Ok(bulk) => bulk::submit_all(&intake, bulk).await,
        Err(answer) => answer,
    };
    finish(&intake, Route::CreateBulk, answer.into_create_response(Uuid::new_v4()))
}

async fn read_bulk_call(
    intake: &Intake,
    request: Request,
    received: Received,
) -> Result<Result<BulkSubmission, Answer>, Failure> {
    let (parts, body) = request.into_parts();
    let caller = intake.caller(&parts.headers).await?;
    let body = match read_json(&parts.headers, body, &BULK_LIMIT).await {
        Ok(body) => body,
        Err(answer) => return Ok(Err(answer)),
    };
    let items = read_bulk(&body).map_err(|invalid| match invalid {
        InvalidBulk::NotAnObject => problem::not_an_object(),
        InvalidBulk::Items(message) => problem::invalid_bulk(message),
    });
    Ok(items.and_then(|items| {
        let (key, receipt) = (read_key(&parts.headers)?, received.of(caller.business.shard()));
        Ok(BulkSubmission { caller, items, key, receipt, trace: read_trace(&parts.headers) })
    }))
}

async fn read_json(headers: &HeaderMap, body: Body, limit: &BodyLimit) -> Result<Bytes, Answer> {
    let body = read_body(headers, body, limit).await?;
    if is_json(headers) { Ok(body) } else { Err(problem::unsupported_media_type()) }
}

async fn read_body(headers: &HeaderMap, body: Body, limit: &BodyLimit) -> Result<Bytes, Answer> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit.bytes as u64) {
        return Err(problem::body_too_large(limit.message));
    }
    let collecting = async {
        let mut chunks = body.into_data_stream();
        let mut whole = vec![];
        while let Some(chunk) = chunks.next().await {
            // A body that breaks off is not a JSON object; its sender will hardly read this.
            whole.extend_from_slice(&chunk.map_err(|_| problem::not_an_object())?);
            if whole.len() > limit.bytes {
                return Err(problem::body_too_large(limit.message));
            }
        }
        Ok(Bytes::from(whole))
    };
    tokio::time::timeout(BODY_TIMEOUT, collecting).await.unwrap_or_else(|_| Err(problem::body_too_late()))
}

/// Whether the content is `application/json`, with no charset or with UTF-8.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let mut parts = value.split(';').map(str::trim);
    parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            _ => true,
        })
}

fn read_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Answer> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().and_then(IdempotencyKey::from_header);
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key)),
        _ => Err(problem::bad_request("The Idempotency-Key must be one header of 1 to 255 visible ASCII characters.")),
    }
}

/// `GET /balance`
async fn balance(State(intake): State<Arc<Intake>>, headers: HeaderMap) -> Response {
    read(&intake, Route::Balance, async move |intake: Arc<Intake>| lookup::balance(&intake, &headers).await).await
}

/// `GET /payout/user`: by email for the business, by hash for the payout user.
async fn payout_user(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    if headers.contains_key(lookup::PAYOUT_HASH) {
        return read(&intake, Route::PayoutUser, async move |intake: Arc<Intake>| {
            lookup::user_by_hash(&intake, &headers).await
        })
        .await;
    }
    let email = query(&uri, "email");
    read(&intake, Route::PayoutUser, async move |intake: Arc<Intake>| {
        lookup::user_by_email(&intake, &headers, email.as_deref()).await
    })
    .await
}

/// `GET /payout/requests/{request_id}`
async fn request_by_id(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    let text = uri.path().rsplit('/').next().unwrap_or_default();
    // An id is valid only in the spelling that the service writes, in small or capital letters.
    let id = Uuid::try_parse(text).ok().filter(|id| id.to_string() == text.to_ascii_lowercase());
    let id = id.map(|id| RequestId::from_u128(id.as_u128()));
    read(&intake, Route::RequestById, async move |intake: Arc<Intake>| {
        lookup::request_by_id(&intake, &headers, id).await
    })
    .await
}

/// `GET /payout/requests`: with `idempotency_key` the allocation under it, else the history.
async fn requests(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    let parameters = parameters(&uri);
    if parameters.iter().any(|(name, _)| name == "idempotency_key") {
        return read(&intake, Route::Requests, async move |intake: Arc<Intake>| {
            history::by_key(&intake, &headers, &parameters).await
        })
        .await;
    }
    if !history::wants_csv(&headers) {
        return read(&intake, Route::Requests, async move |intake: Arc<Intake>| {
            history::page(&intake, &headers, &parameters).await
        })
        .await;
    }
    let all = look(&intake, async move |intake: Arc<Intake>| history::all(intake, &headers, &parameters).await);
    finish(&intake, Route::Requests, all.await.flatten().unwrap_or_else(Answer::into_response))
}

fn parameters(uri: &Uri) -> Vec<(String, String)> {
    Query::try_from_uri(uri).map(|Query(parameters)| parameters).unwrap_or_default()
}

/// The value of a query parameter; `None` if it is missing or given twice.
fn query(uri: &Uri, name: &str) -> Option<String> {
    let mut values = parameters(uri).into_iter().filter(|(key, _)| key == name).map(|(_, value)| value);
    values.next().filter(|_| values.next().is_none())
}

/// Answers a read.
async fn read<F>(intake: &Arc<Intake>, route: Route, work: impl FnOnce(Arc<Intake>) -> F) -> Response
where
    F: Future<Output = Result<Answer, Failure>> + Send + 'static,
{
    let answer = look(intake, work).await.unwrap_or_else(|answer| answer);
    finish(intake, route, answer.into_response())
}

/// Runs work that publishes nothing. If it fails or panics, `Err` is the answer to that.
async fn look<T, F>(intake: &Arc<Intake>, work: impl FnOnce(Arc<Intake>) -> F) -> Result<T, Answer>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let (unpublished, _) = Unpublished::for_one_request();
    let looking = work(Arc::clone(intake));
    match Detached::new(intake.tracker(), looking).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(failure)) => Err(failed(unpublished, &failure)),
        Err(died) => {
            tracing::error!(%died, "a request's work ended by a panic");
            Err(problem::unavailable(unpublished.never(Refusal::Died)))
        }
    }
}

/// The answer to a read that failed.
fn failed(unpublished: Unpublished, failure: &Failure) -> Answer {
    match failure {
        Failure::Unauthorized => problem::unauthorized(),
        Failure::Unavailable(why) => problem::unavailable(unpublished.never(*why)),
        Failure::TooManyReads => problem::too_many(unpublished.never(Refusal::KeyReads), submit::FULL_WAIT),
    }
}

/// `GET /openapi.json`, without a key.
async fn openapi(State(intake): State<Arc<Intake>>) -> Response {
    let document = openapi::document().to_string();
    finish(&intake, Route::Other, problem::document("application/json", document))
}

/// `GET /docs`, without a key.
async fn docs(State(intake): State<Arc<Intake>>) -> Response {
    let page = page::render(&openapi::document());
    finish(&intake, Route::Other, problem::document("text/html; charset=utf-8", page))
}

async fn style(State(intake): State<Arc<Intake>>) -> Response {
    finish(&intake, Route::Other, problem::document("text/css; charset=utf-8", page::STYLE.to_owned()))
}

async fn not_found(State(intake): State<Arc<Intake>>) -> Response {
    finish(&intake, Route::Other, problem::not_found().into_response())
}

async fn create_not_allowed(State(intake): State<Arc<Intake>>) -> Response {
    finish(&intake, Route::Create, problem::method_not_allowed("POST").into_create_response(Uuid::new_v4()))
}

async fn create_bulk_not_allowed(State(intake): State<Arc<Intake>>) -> Response {
    finish(&intake, Route::CreateBulk, problem::method_not_allowed("POST").into_create_response(Uuid::new_v4()))
}

async fn read_not_allowed(State(intake): State<Arc<Intake>>) -> Response {
    finish(&intake, Route::Other, problem::method_not_allowed("GET, HEAD").into_response())
}

/// Counts an answer. While the intake drains, every answer asks its client to use another connection for the next
/// request.
fn finish(intake: &Intake, route: Route, mut response: Response) -> Response {
    METRICS.requests.inc(route, response.status().as_u16());
    if intake.admission().draining().is_cancelled() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
