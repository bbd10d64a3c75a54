//! The endpoints, in the order in which their checks run:
//! `405/404 → 401 → 413 → 415 → 400 body → 400 fields → admission and everything after it`.
//!
//! Movements and look-ups are [`Detached`] work: a client that hangs up cancels nothing half-way, and after a panic the
//! answer is still true. The pages of the documentation, 404 and 405 are answered directly.

use super::Intake;
use super::bulk::{self, BulkSubmission};
use super::detached::Detached;
use super::dry_run::{self, Trial};
use super::events;
use super::history;
use super::lookup;
use super::openapi;
use super::page;
use super::parameters::parameters;
use super::problem::{self, Answer};
use super::publication::Unpublished;
use super::raises::Received;
use super::reads::Failure;
use super::statement;
use super::submit::{self, Submission};
use super::validate::{
    Asked, BULK_LIMIT, BodyLimit, Invalid, InvalidBulk, ONE_LIMIT, read_allocation, read_bulk, read_reversal,
    read_settlement,
};
use super::webhooks;
use crate::ledger::{BusinessId, IdempotencyKey, Kind, Refusal, RequestId};
use crate::metrics::{METRICS, labels::Route};
use crate::trace;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// The header of an idempotency key.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// How long a request body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The endpoints of an intake.
pub fn router(intake: Arc<Intake>) -> Router {
    Router::new()
        .route("/payout/create", post(create).fallback(create_not_allowed))
        .route("/payout/create/bulk", post(create_bulk).fallback(create_bulk_not_allowed))
        .route("/balance", get(balance).fallback(read_not_allowed))
        .route("/business", get(business).fallback(read_not_allowed))
        .route("/payout/user", get(payout_user).fallback(read_not_allowed))
        .route("/payout/user/statement", get(statement).fallback(read_not_allowed))
        .route("/payout/user/settle", post(settle).fallback(settle_not_allowed))
        .route("/payout/requests", get(requests).fallback(read_not_allowed))
        .route("/payout/requests/{request_id}", get(request_by_id).fallback(read_not_allowed))
        .route("/payout/requests/{request_id}/reverse", post(reverse).fallback(reverse_not_allowed))
        .route("/events", get(events).fallback(read_not_allowed))
        .route("/webhooks", post(create_webhook).get(list_webhooks).fallback(webhooks_not_allowed))
        .route("/webhooks/{webhook_id}", get(show_webhook).delete(delete_webhook).fallback(webhook_not_allowed))
        .route("/webhooks/{webhook_id}/deliveries", get(webhook_deliveries).fallback(read_not_allowed))
        .route("/webhooks/{webhook_id}/redeliver", post(redeliver).fallback(post_not_allowed))
        .route("/webhooks/{webhook_id}/rotate", post(rotate_webhook).fallback(post_not_allowed))
        .route("/webhooks/{webhook_id}/enable", post(enable_webhook).fallback(post_not_allowed))
        .route("/webhooks/{webhook_id}/disable", post(disable_webhook).fallback(post_not_allowed))
        .route("/openapi.json", get(openapi).fallback(read_not_allowed))
        .route("/docs", get(docs).fallback(read_not_allowed))
        .route("/docs/style.css", get(style).fallback(read_not_allowed))
        .fallback(not_found)
        .with_state(intake)
}

/// `POST /payout/create`
async fn create(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    let received = intake.raises().receive();
    move_money(&intake, Kind::Allocate, request, received).await
}

/// `POST /payout/requests/{request_id}/reverse`
async fn reverse(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    let received = intake.raises().receive();
    move_money(&intake, Kind::Reverse, request, received).await
}

/// `POST /payout/user/settle`
async fn settle(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    let received = intake.raises().receive();
    move_money(&intake, Kind::Settle, request, received).await
}

async fn move_money(intake: &Arc<Intake>, kind: Kind, request: Request, received: Received) -> Response {
    let dry_run = is_dry_run(request.uri());
    let is_dry = matches!(dry_run, Ok(true));
    let started = submit::start(intake, async move |intake, unpublished| {
        read_and_submit(&intake, unpublished, kind, request, dry_run, received).await
    });
    let (answer, id) = started.finish(intake).await;
    let answer = if is_dry { answer.of_a_dry_run() } else { answer };
    let id = id.map_or_else(Uuid::new_v4, |id| Uuid::from_u128(id.as_u128()));
    finish_moving(intake, kind, answer, id)
}

/// `GET /events`
async fn events(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    let parameters = parameters(&uri);
    read(&intake, Route::Events, async move |intake: Arc<Intake>| events::page(&intake, &headers, &parameters).await)
        .await
}

fn finish_moving(intake: &Intake, kind: Kind, answer: Answer, id: Uuid) -> Response {
    match kind {
        Kind::Allocate => finish(intake, Route::Create, answer.into_create_response(id)),
        Kind::Reverse => finish(intake, Route::Reverse, answer.into_moving_response(id)),
        Kind::Settle => finish(intake, Route::Settle, answer.into_moving_response(id)),
    }
}

async fn read_and_submit(
    intake: &Intake,
    unpublished: Unpublished,
    kind: Kind,
    request: Request,
    dry_run: Result<bool, Answer>,
    received: Received,
) -> submit::Submitted {
    let (parts, body) = request.into_parts();
    let caller = match intake.caller(&parts.headers).await {
        Ok(caller) => caller,
        Err(failure) => return (failed(unpublished, &failure), None),
    };
    let (asked, key, is_dry) = match read_call(intake, caller.business, kind, &parts, body, dry_run).await {
        Ok(call) => call,
        Err(answer) => return (answer, None),
    };
    if let Err(wait) = intake.admission().of_keys().pass(caller.key, 1) {
        return (problem::too_many(unpublished.never(Refusal::KeyRate), wait), None);
    }
    if is_dry {
        let tried = dry_run::answer(intake, caller, Trial { asked, key }).await;
        return (tried.unwrap_or_else(|failure| failed(unpublished, &failure)), None);
    }
    let (receipt, trace) = (received.of(caller.business.shard()), read_trace(&parts.headers));
    submit::submit(intake, unpublished, Submission { caller, asked, key, receipt, trace }).await
}

/// Reads what a call asks for, its key, and whether it is a dry run, of which its query was read before.
async fn read_call(
    intake: &Intake,
    business: BusinessId,
    kind: Kind,
    parts: &Parts,
    body: Body,
    dry_run: Result<bool, Answer>,
) -> Result<(Asked, Option<IdempotencyKey>, bool), Answer> {
    // The id alone shows whether this service issued it to this business.
    let target = || request_id(parts.uri.path().rsplit('/').nth(1)).filter(|id| intake.secret().issued(business, *id));
    let target = if kind == Kind::Reverse { Some(target().ok_or_else(problem::not_found)?) } else { None };
    let body = match kind {
        Kind::Reverse => read_json_or_nothing(&parts.headers, body, &ONE_LIMIT).await?,
        Kind::Allocate | Kind::Settle => read_json(&parts.headers, body, &ONE_LIMIT).await?,
    };
    let is_dry = dry_run?;
    let asked = match (kind, target) {
        (Kind::Settle, _) => read_settlement(&body),
        (_, Some(target)) => read_reversal(&body, target),
        (_, None) => read_allocation(&body),
    };
    let asked = asked.map_err(|invalid| match invalid {
        Invalid::NotAnObject => problem::not_an_object(),
        Invalid::Fields(errors) => problem::invalid_fields(errors),
    })?;
    let key = key_for(&asked, &parts.headers)?;
    Ok((asked, key, is_dry))
}

/// The key of a call.
fn key_for(asked: &Asked, headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Answer> {
    if asked.movement.kind() == Kind::Settle {
        return match headers.contains_key(IDEMPOTENCY_KEY) {
            true => Err(problem::bad_request("A settlement takes no Idempotency-Key: its reference is its key.")),
            false => Ok(asked.reference.as_ref().map(IdempotencyKey::of_settlement)),
        };
    }
    let key = read_key(headers)?;
    // Two partial reversals alike could not be told from one that is sent again.
    if asked.movement.kind() == Kind::Reverse && asked.movement.amount().is_some() && key.is_none() {
        return Err(problem::bad_request("An Idempotency-Key is required with an amount."));
    }
    Ok(key)
}

/// Whether the query asks for a dry run. Anything else in it is refused: a dry run that is misspelt must not pay.
fn is_dry_run(uri: &Uri) -> Result<bool, Answer> {
    match parameters(uri).as_slice() {
        [] => Ok(false),
        [(name, value)] if name == "dry_run" && value == "true" => Ok(true),
        all if all.iter().all(|(name, _)| name == "dry_run") => {
            Err(problem::bad_request("The dry_run parameter must be true, once, or left out."))
        }
        _ => Err(problem::bad_request("The query may have nothing but dry_run.")),
    }
}

/// The trace context of the caller's span. One that is not valid is ignored, as the standard says.
fn read_trace(headers: &HeaderMap) -> Option<trace::Context> {
    let mut values = headers.get_all(trace::HEADER).iter();
    let value = values.next()?.to_str().ok()?;
    trace::Context::parse(value).filter(|_| values.next().is_none())
}

/// `POST /payout/create/bulk`. Nothing is published until the whole call is read; then each item is work of its own.
async fn create_bulk(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    let received = intake.raises().receive();
    let dry_run = is_dry_run(request.uri());
    let is_dry = matches!(dry_run, Ok(true));
    let reading =
        look(&intake, async move |intake: Arc<Intake>| read_bulk_call(&intake, request, dry_run, received).await);
    let answer = match reading.await.flatten() {
        Ok(bulk) if !is_dry => bulk::submit_all(&intake, bulk).await,
        Ok(bulk) => look(&intake, async move |intake: Arc<Intake>| bulk::try_all(&intake, bulk).await)
            .await
            .unwrap_or_else(|answer| answer),
        Err(answer) => answer,
    };
    let answer = if is_dry { answer.of_a_dry_run() } else { answer };
    finish(&intake, Route::CreateBulk, answer.into_create_response(Uuid::new_v4()))
}

async fn read_bulk_call(
    intake: &Intake,
    request: Request,
    dry_run: Result<bool, Answer>,
    received: Received,
) -> Result<Result<BulkSubmission, Answer>, Failure> {
    let (parts, body) = request.into_parts();
    let caller = intake.caller(&parts.headers).await?;
    let body = match read_json(&parts.headers, body, &BULK_LIMIT).await {
        Ok(body) => body,
        Err(answer) => return Ok(Err(answer)),
    };
    if let Err(answer) = dry_run {
        return Ok(Err(answer));
    }
    let items = read_bulk(&body).map_err(|invalid| match invalid {
        InvalidBulk::NotAnObject => problem::not_an_object(),
        InvalidBulk::Items(message) => problem::invalid_bulk(message),
    });
    Ok(items.and_then(|items| {
        let (key, receipt) = (read_key(&parts.headers)?, received.of(caller.business.shard()));
        Ok(BulkSubmission { caller, items, key, receipt, trace: read_trace(&parts.headers) })
    }))
}

/// `POST /webhooks`
async fn create_webhook(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    read(&intake, Route::Webhooks, async move |intake: Arc<Intake>| {
        let (parts, body) = request.into_parts();
        let caller = intake.caller(&parts.headers).await?;
        match read_json(&parts.headers, body, &ONE_LIMIT).await {
            Ok(body) => webhooks::create(&intake, caller, &body).await,
            Err(answer) => Ok(answer),
        }
    })
    .await
}

/// `GET /webhooks`
async fn list_webhooks(State(intake): State<Arc<Intake>>, headers: HeaderMap) -> Response {
    read(&intake, Route::Webhooks, async move |intake: Arc<Intake>| webhooks::list(&intake, &headers).await).await
}

/// `GET /webhooks/{webhook_id}`
async fn show_webhook(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    let id = uuid(uri.path().rsplit('/').next());
    read(&intake, Route::Webhooks, async move |intake: Arc<Intake>| webhooks::show(&intake, &headers, id).await).await
}

/// `DELETE /webhooks/{webhook_id}`
async fn delete_webhook(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    let id = uuid(uri.path().rsplit('/').next());
    read(&intake, Route::Webhooks, async move |intake: Arc<Intake>| webhooks::delete(&intake, &headers, id).await).await
}

/// `GET /webhooks/{webhook_id}/deliveries`
async fn webhook_deliveries(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    let (id, parameters) = (uuid(uri.path().rsplit('/').nth(1)), parameters(&uri));
    read(&intake, Route::Webhooks, async move |intake: Arc<Intake>| {
        webhooks::deliveries(&intake, &headers, id, &parameters).await
    })
    .await
}

/// `POST /webhooks/{webhook_id}/redeliver`
async fn redeliver(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    let id = uuid(request.uri().path().rsplit('/').nth(1));
    read(&intake, Route::Webhooks, async move |intake: Arc<Intake>| {
        let (parts, body) = request.into_parts();
        let caller = intake.caller(&parts.headers).await?;
        match read_json(&parts.headers, body, &ONE_LIMIT).await {
            Ok(body) => webhooks::redeliver(&intake, caller, id, &body).await,
            Err(answer) => Ok(answer),
        }
    })
    .await
}

/// `POST /webhooks/{webhook_id}/rotate`
async fn rotate_webhook(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    let id = uuid(uri.path().rsplit('/').nth(1));
    read(&intake, Route::Webhooks, async move |intake: Arc<Intake>| webhooks::rotate(&intake, &headers, id).await).await
}

/// `POST /webhooks/{webhook_id}/enable`
async fn enable_webhook(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    switch_webhook(&intake, headers, &uri, true).await
}

/// `POST /webhooks/{webhook_id}/disable`
async fn disable_webhook(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    switch_webhook(&intake, headers, &uri, false).await
}

async fn switch_webhook(intake: &Arc<Intake>, headers: HeaderMap, uri: &Uri, on: bool) -> Response {
    let id = uuid(uri.path().rsplit('/').nth(1));
    read(intake, Route::Webhooks, async move |intake: Arc<Intake>| webhooks::switch(&intake, &headers, id, on).await)
        .await
}

async fn read_json(headers: &HeaderMap, body: Body, limit: &BodyLimit) -> Result<Bytes, Answer> {
    let body = read_body(headers, body, limit).await?;
    if is_json(headers) { Ok(body) } else { Err(problem::unsupported_media_type()) }
}

/// The same, but a body that is empty needs no type.
async fn read_json_or_nothing(headers: &HeaderMap, body: Body, limit: &BodyLimit) -> Result<Bytes, Answer> {
    let body = read_body(headers, body, limit).await?;
    let has_type = headers.contains_key(CONTENT_TYPE);
    if is_json(headers) || body.is_empty() && !has_type { Ok(body) } else { Err(problem::unsupported_media_type()) }
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
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().and_then(IdempotencyKey::from_header);
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key)),
        _ => Err(problem::bad_request("The Idempotency-Key must be one header of 1 to 255 visible ASCII characters.")),
    }
}

/// `GET /balance`
async fn balance(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    let parameters = parameters(&uri);
    read(&intake, Route::Balance, async move |intake: Arc<Intake>| {
        lookup::balance(&intake, &headers, &parameters).await
    })
    .await
}

/// `GET /business`
async fn business(State(intake): State<Arc<Intake>>, headers: HeaderMap) -> Response {
    read(&intake, Route::Business, async move |intake: Arc<Intake>| lookup::own_business(&intake, &headers).await).await
}

/// `GET /payout/user`: by email for the business, by hash for the payout user.
async fn payout_user(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    if headers.contains_key(lookup::PAYOUT_HASH) {
        return read(&intake, Route::PayoutUser, async move |intake: Arc<Intake>| {
            lookup::user_by_hash(&intake, &headers).await
        })
        .await;
    }
    let parameters = parameters(&uri);
    read(&intake, Route::PayoutUser, async move |intake: Arc<Intake>| {
        lookup::user_by_email(&intake, &headers, &parameters).await
    })
    .await
}

/// `GET /payout/user/statement`
async fn statement(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    let parameters = parameters(&uri);
    if !history::wants_csv(&headers) {
        return read(&intake, Route::Statement, async move |intake: Arc<Intake>| {
            statement::page(&intake, &headers, &parameters).await
        })
        .await;
    }
    let all = look(&intake, async move |intake: Arc<Intake>| statement::all(intake, &headers, &parameters).await);
    finish(&intake, Route::Statement, all.await.flatten().unwrap_or_else(Answer::into_response))
}

/// `GET /payout/requests/{request_id}`
async fn request_by_id(State(intake): State<Arc<Intake>>, headers: HeaderMap, uri: Uri) -> Response {
    let id = request_id(uri.path().rsplit('/').next());
    read(&intake, Route::RequestById, async move |intake: Arc<Intake>| {
        lookup::request_by_id(&intake, &headers, id).await
    })
    .await
}

/// Reads the id of a request. It is valid only in the spelling that the service writes, in small or capital letters.
fn request_id(text: Option<&str>) -> Option<RequestId> {
    uuid(text).map(|id| RequestId::from_u128(id.as_u128()))
}

fn uuid(text: Option<&str>) -> Option<Uuid> {
    let text = text?;
    Uuid::try_parse(text).ok().filter(|id| id.to_string() == text.to_ascii_lowercase())
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
    finish_moving(&intake, Kind::Allocate, problem::method_not_allowed("POST"), Uuid::new_v4())
}

async fn reverse_not_allowed(State(intake): State<Arc<Intake>>) -> Response {
    finish_moving(&intake, Kind::Reverse, problem::method_not_allowed("POST"), Uuid::new_v4())
}

async fn settle_not_allowed(State(intake): State<Arc<Intake>>) -> Response {
    finish_moving(&intake, Kind::Settle, problem::method_not_allowed("POST"), Uuid::new_v4())
}

async fn create_bulk_not_allowed(State(intake): State<Arc<Intake>>) -> Response {
    finish(&intake, Route::CreateBulk, problem::method_not_allowed("POST").into_create_response(Uuid::new_v4()))
}

async fn read_not_allowed(State(intake): State<Arc<Intake>>) -> Response {
    finish(&intake, Route::Other, problem::method_not_allowed("GET, HEAD").into_response())
}

async fn webhooks_not_allowed(State(intake): State<Arc<Intake>>) -> Response {
    finish(&intake, Route::Webhooks, problem::method_not_allowed("GET, HEAD, POST").into_response())
}

async fn webhook_not_allowed(State(intake): State<Arc<Intake>>) -> Response {
    finish(&intake, Route::Webhooks, problem::method_not_allowed("GET, HEAD, DELETE").into_response())
}

async fn post_not_allowed(State(intake): State<Arc<Intake>>) -> Response {
    finish(&intake, Route::Webhooks, problem::method_not_allowed("POST").into_response())
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
