//! Every answer that the intake gives, byte for byte.
//!
//! An answer that says "no funds were debited" although no worker decided so needs a proof. Only the places that have a
//! proof can make one: a 503 takes [`NeverPublished`] (`publication.rs`) or [`VoidedAttempt`], a 500 takes [`Voided`]
//! (both `postgres/allocations.rs`). There is no other way to build a 500 or a 503, and a test reads the sources to
//! keep it so.
//!
//! Work that panics before anything was published is answered with 503, not 500: a 500 speaks for everything that was
//! sent under its `Idempotency-Key`, and the key was not looked at.

use super::page;
use super::publication::NeverPublished;
use crate::ledger::{Kind, Refusal, RequestId, UserHash};
use crate::metrics::METRICS;
use crate::postgres::allocations::{Voided, VoidedAttempt};
use crate::wire;
use crate::wire::answers::{
    AllocatedBody, BulkBody, BulkErrors, BulkResult, ErrorBody, FieldErrors, ReversedBody, SettledBody,
};
use axum::body::{Body, Bytes};
use axum::http::header::{
    ALLOW, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Response, StatusCode};
use futures_util::Stream;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const DEBITED: HeaderName = HeaderName::from_static("earmark-debited");
const MOVED: HeaderName = HeaderName::from_static("earmark-moved");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The texts of errors, for the answers and for the document that describes them.
pub mod said {
    /// 401.
    pub const UNAUTHORIZED: &str = "Unauthorized";
    /// 403.
    pub const PAYOUTS_DISABLED: &str = "Payouts are currently disabled. Please enable them in Settings.";
    /// 404.
    pub const NOT_FOUND: &str = "Not found";
    /// 405.
    pub const METHOD_NOT_ALLOWED: &str = "Method not allowed";
    /// 408.
    pub const BODY_TOO_LATE: &str = "The request body did not arrive in time.";
    /// 415.
    pub const UNSUPPORTED_MEDIA_TYPE: &str = "The Content-Type must be application/json.";
    /// 400.
    pub const NOT_REVERSIBLE: &str = "Only an allocation can be reversed";
    /// 400.
    pub const INSUFFICIENT_USER_BALANCE: &str = "Insufficient user balance";
    /// 400.
    pub const DAILY_LIMIT_REACHED: &str = "Daily payout limit reached";
    /// 422.
    pub const KEY_REUSED: &str = "This Idempotency-Key was used before with another email or amount.";
    /// 422 of a reversal.
    pub const KEY_OF_ANOTHER: &str = "This Idempotency-Key was used before for something else or another amount.";
    /// 422 of a settlement.
    pub const REFERENCE_REUSED: &str = "This reference was used before with another email or amount.";
    /// 500.
    pub const UNEXPECTED: &str = "An unexpected error occurred. No funds were debited.";
    /// 503.
    pub const UNAVAILABLE: &str = "Service temporarily unavailable. No funds were debited by this request.";
    /// 429.
    pub const TOO_MANY: &str = "Too many requests. No funds were debited by this request.";
    /// 400: the business has as many webhooks as it may have.
    pub const TOO_MANY_WEBHOOKS: &str = "A business may have at most 10 webhooks.";
    /// 400, for `after`: there is no event of this number yet. Those until then would be missed.
    pub const BEYOND_LAST: &str = "The after must not be greater than the number of the last event.";
    /// 400: the event cannot be delivered again, because it comes by itself.
    pub const NOT_YET_DELIVERED: &str =
        "The event is beyond the cursor of the webhook: it is delivered without asking.";
    /// 400: the event cannot be delivered again, because too many wait.
    pub const TOO_MANY_WAIT: &str = "1000 events wait for the webhook already.";
    /// 504.
    pub const UNKNOWN: &str = "The outcome is not known yet.";
}

/// Whether money was moved, as far as this answer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    Yes,
    No,
    /// Some items of a bulk call were, others were not.
    Partial,
    Unknown,
}

impl Moved {
    fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Partial => "partial",
            Self::Unknown => "unknown",
        }
    }

    /// What holds for a whole bulk call: unknown as soon as one item is unknown.
    fn of_all(items: impl Iterator<Item = Self>) -> Self {
        items
            .reduce(|all, item| match (all, item) {
                (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
                _ if all == item => all,
                _ => Self::Partial,
            })
            .unwrap_or(Self::No)
    }
}

/// The body of an answer.
#[derive(Debug)]
enum Said {
    Allocated(AllocatedBody),
    Reversed(ReversedBody),
    Settled(SettledBody),
    Error(&'static str),
    /// The outcome of this request is not known yet.
    Unknown(Uuid),
    Fields(Box<FieldErrors>),
    Json(Vec<u8>),
}

/// An answer, ready but for the headers that depend on the endpoint.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    said: Said,
    moved: Moved,
    is_dry_run: bool,
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

impl Answer {
    fn new(status: StatusCode, said: Said) -> Self {
        Self { status, said, moved: Moved::No, is_dry_run: false, header: None }
    }

    fn json<T: Serialize>(status: StatusCode, shape: &T) -> Self {
        Self::new(status, Said::Json(wire::to_json(shape)))
    }

    fn error(status: StatusCode, error: &'static str) -> Self {
        Self::new(status, Said::Error(error))
    }

    fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }

    /// The same answer to a dry run: it says so, and nothing moved.
    pub fn of_a_dry_run(self) -> Self {
        Self { moved: Moved::No, is_dry_run: true, ..self }
    }

    fn has_header(&self, wanted: &HeaderName) -> bool {
        self.header.as_ref().is_some_and(|header| header.0 == wanted)
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The HTTP response of an endpoint that moves no money.
    pub fn into_response(self) -> Response<Body> {
        let body = match self.said {
            Said::Allocated(body) => wire::to_json(&body),
            Said::Reversed(body) => wire::to_json(&body),
            Said::Settled(body) => wire::to_json(&body),
            Said::Error(error) => wire::to_json(&ErrorBody { error, request_id: None }),
            Said::Unknown(id) => wire::to_json(&ErrorBody { error: said::UNKNOWN, request_id: Some(id) }),
            Said::Fields(body) => wire::to_json(body.as_ref()),
            Said::Json(body) => body,
        };
        let body = if self.is_dry_run { wire::of_a_dry_run(body) } else { body };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(self.header.map(|header| *header));
        response
    }

    /// The HTTP response of an endpoint that moves money. Its headers say which request it was and whether money moved.
    pub fn into_moving_response(self, request: Uuid) -> Response<Body> {
        let moved = self.moved.as_str();
        let mut response = self.into_response();
        response.headers_mut().insert(MOVED, HeaderValue::from_static(moved));
        if let Ok(id) = HeaderValue::from_str(&request.to_string()) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }

    /// The HTTP response of an endpoint that allocates: money that moves is debited.
    pub fn into_create_response(self, request: Uuid) -> Response<Body> {
        let debited = self.moved.as_str();
        let mut response = self.into_moving_response(request);
        response.headers_mut().insert(DEBITED, HeaderValue::from_static(debited));
        response
    }

    /// The answer as one of the results of a bulk call.
    fn into_result(self, request: Option<RequestId>) -> BulkResult {
        let mut result = BulkResult {
            status: self.status.as_u16(),
            debited: self.moved.as_str(),
            request_id: request.map(|id| Uuid::from_u128(id.as_u128())),
            replayed: self.has_header(&REPLAYED),
            hash: None,
            error: None,
            errors: None,
        };
        match self.said {
            Said::Allocated(body) => result.hash = Some(body.hash),
            Said::Error(error) => result.error = Some(error),
            Said::Unknown(_) => result.error = Some(said::UNKNOWN),
            Said::Fields(errors) => result.errors = Some(*errors),
            Said::Reversed(_) | Said::Settled(_) | Said::Json(_) => {}
        }
        result
    }
}

/// Makes one answer of the answers to all items of a bulk call. 200 if every outcome is known, else 504. If every item
/// was refused before it was published and may be sent again, the whole call gets that refusal.
pub fn bulk(mut items: Vec<(Answer, Option<RequestId>)>) -> Answer {
    if items.iter().all(|(answer, _)| answer.has_header(&RETRY_AFTER))
        && let Some((refused, _)) = items.pop()
    {
        return refused;
    }
    let moved = Moved::of_all(items.iter().map(|(answer, _)| answer.moved));
    let status = if moved == Moved::Unknown { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::OK };
    let results = items.into_iter().map(|(answer, request)| answer.into_result(request)).collect();
    Answer { moved, ..Answer::json(status, &BulkBody { results }) }
}

/// 200 with a document that is the same for all callers. `kind`: its content type.
pub fn document(kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// 200 with a read that is streamed as CSV. `disposition`: what its file is called. An error in the middle breaks the body off, so that it is not taken for
/// complete.
pub fn csv(
    disposition: &'static str,
    lines: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static(disposition));
    response
}

/// 200 with the result of a read.
pub fn found<T: Serialize>(shape: &T) -> Answer {
    Answer::json(StatusCode::OK, shape)
}

/// 200: debited once. `replayed`: by an earlier request under the same key.
pub fn allocated(hash: UserHash, replayed: bool) -> Answer {
    let body = AllocatedBody { hash: hex::encode(hash.0) };
    moved(Said::Allocated(body), replayed)
}

/// 200: `reversed` cents were taken back, and `remaining` are left of what is reversed. With nothing left nothing moved.
/// `replayed`: by an earlier request under the same key.
pub fn reversed(request: Option<RequestId>, reversed: i64, remaining: i64, replayed: bool) -> Answer {
    let answer =
        moved(Said::Reversed(ReversedBody { request_id: request.map(uuid_of), reversed, remaining }), replayed);
    if reversed == 0 { Answer { moved: Moved::No, ..answer } } else { answer }
}

/// 200: settled, which left `balance` cents. `replayed`: by an earlier request with the same reference.
pub fn settled(request: Option<RequestId>, balance: i64, replayed: bool) -> Answer {
    moved(Said::Settled(SettledBody { request_id: request.map(uuid_of), balance }), replayed)
}

fn moved(said: Said, replayed: bool) -> Answer {
    let answer = Answer { moved: Moved::Yes, ..Answer::new(StatusCode::OK, said) };
    if replayed { answer.with_header(REPLAYED, HeaderValue::from_static("true")) } else { answer }
}

fn uuid_of(request: RequestId) -> Uuid {
    Uuid::from_u128(request.as_u128())
}

/// 400: a message for each field that failed.
pub fn invalid_fields(errors: FieldErrors) -> Answer {
    Answer::new(StatusCode::BAD_REQUEST, Said::Fields(Box::new(errors)))
}

/// 400 for a bulk call whose items cannot be read, with this message.
pub fn invalid_bulk(message: &'static str) -> Answer {
    Answer::json(StatusCode::BAD_REQUEST, &BulkErrors { allocations: [message] })
}

/// 400 for query parameters, with a message for each that is not valid.
pub fn invalid_parameters(errors: &BTreeMap<&'static str, [&'static str; 1]>) -> Answer {
    Answer::json(StatusCode::BAD_REQUEST, errors)
}

/// 400: the body is no JSON object.
pub fn not_an_object() -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, "The request body must be a JSON object.")
}

/// 400 for one item of a bulk call.
pub fn item_not_an_object() -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, "The allocation must be a JSON object.")
}

/// 400 for something other than the body, with this message.
pub fn bad_request(message: &'static str) -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, message)
}

/// 400: the payout balance does not cover the amount.
pub fn insufficient_balance() -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, "Insufficient payout balance")
}

/// 400: the payout user's balance does not cover the amount.
pub fn insufficient_user_balance() -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, said::INSUFFICIENT_USER_BALANCE)
}

/// 400: what should be reversed is neither an allocation nor a settlement.
pub fn not_reversible() -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, said::NOT_REVERSIBLE)
}

/// 400: the amount is larger than what is left, or than what the business allows itself.
pub fn amount_too_large(most: i64) -> Answer {
    let amount = Some([Cow::from(format!("The amount must not be greater than {most}."))]);
    invalid_fields(FieldErrors { amount, ..FieldErrors::default() })
}

/// 400: the business has allocated as much today as it allows itself.
pub fn daily_limit_reached() -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, said::DAILY_LIMIT_REACHED)
}

/// 401: no working secret key.
pub fn unauthorized() -> Answer {
    Answer::error(StatusCode::UNAUTHORIZED, said::UNAUTHORIZED)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// 403: payouts of the business are switched off.
pub fn payouts_disabled() -> Answer {
    Answer::error(StatusCode::FORBIDDEN, said::PAYOUTS_DISABLED)
}

/// 404.
pub fn not_found() -> Answer {
    Answer::error(StatusCode::NOT_FOUND, said::NOT_FOUND)
}

/// 405. `allow`: the methods that the endpoint has.
pub fn method_not_allowed(allow: &'static str) -> Answer {
    Answer::error(StatusCode::METHOD_NOT_ALLOWED, said::METHOD_NOT_ALLOWED)
        .with_header(ALLOW, HeaderValue::from_static(allow))
}

/// 408: the body did not arrive in time.
pub fn body_too_late() -> Answer {
    Answer::error(StatusCode::REQUEST_TIMEOUT, said::BODY_TOO_LATE)
}

/// 413. `message`: names the limit.
pub fn body_too_large(message: &'static str) -> Answer {
    Answer::error(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// 415: the body is not declared as JSON.
pub fn unsupported_media_type() -> Answer {
    Answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, said::UNSUPPORTED_MEDIA_TYPE)
}

/// 422: the key of this request of this kind belongs to one that asked for something else.
pub fn key_reused(kind: Kind) -> Answer {
    let said = match kind {
        Kind::Allocate => said::KEY_REUSED,
        Kind::Reverse => said::KEY_OF_ANOTHER,
        Kind::Settle => said::REFERENCE_REUSED,
    };
    Answer::error(StatusCode::UNPROCESSABLE_ENTITY, said)
}

/// 500: this request never debits, nor does anything that was received under its key before.
pub fn unexpected(proof: Voided) -> Answer {
    METRICS.unexpected.inc(proof.proof());
    Answer::error(StatusCode::INTERNAL_SERVER_ERROR, said::UNEXPECTED)
}

/// 503: refused before anything was published.
pub fn unavailable(proof: NeverPublished) -> Answer {
    try_again(proof.why())
}

/// 503: this attempt never debits. After it was received, another request under its key was answered with 500, so it
/// must not use the epoch that was raised then. An attempt that is received from now on may use it.
pub fn superseded(_proof: VoidedAttempt) -> Answer {
    try_again(Refusal::Superseded)
}

fn try_again(why: Refusal) -> Answer {
    METRICS.unavailable.inc(why);
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, said::UNAVAILABLE)
        .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
}

/// 429: the caller's API key is beyond its limits. `wait`: how long until it may try again, rounded up to whole
/// seconds.
pub fn too_many(proof: NeverPublished, wait: Duration) -> Answer {
    METRICS.unavailable.inc(proof.why());
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Answer::error(StatusCode::TOO_MANY_REQUESTS, said::TOO_MANY)
        .with_header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
}

/// 504: the one answer that does not say whether funds moved. `GET /payout/requests/{request_id}` says it.
pub fn unknown(request: RequestId) -> Answer {
    METRICS.unknown.inc();
    let said = Said::Unknown(uuid_of(request));
    Answer { moved: Moved::Unknown, ..Answer::new(StatusCode::GATEWAY_TIMEOUT, said) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bulk_call_was_debited_in_part_unless_all_of_it_is_the_same_and_unknown_as_soon_as_one_item_is() {
        let of_all = |items: &[Moved]| Moved::of_all(items.iter().copied());
        let (yes, no, unknown) = (Moved::Yes, Moved::No, Moved::Unknown);
        assert_eq!(of_all(&[yes, yes]), yes);
        assert_eq!(of_all(&[no, no]), no);
        assert_eq!(of_all(&[yes, no]), Moved::Partial);
        assert_eq!(of_all(&[no, yes, yes]), Moved::Partial);
        assert_eq!(of_all(&[yes, no, unknown, yes]), unknown);
        assert_eq!(of_all(&[unknown, yes]), unknown);
    }

    #[test]
    fn a_bulk_call_with_one_unknown_outcome_is_never_a_200() {
        let (one, two) = (RequestId::from_u128(1), RequestId::from_u128(2));
        let hash = UserHash([7; 32]);
        let answer = bulk(vec![(allocated(hash, false), Some(one)), (unknown(two), Some(two))]);
        assert_eq!((answer.status, answer.moved), (StatusCode::GATEWAY_TIMEOUT, Moved::Unknown));
        let answer = bulk(vec![(allocated(hash, true), Some(one)), (insufficient_balance(), Some(two))]);
        assert_eq!((answer.status, answer.moved), (StatusCode::OK, Moved::Partial));
    }
}
