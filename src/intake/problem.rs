//! Every answer that the intake gives, byte for byte.
//!
//! The answers that say "no funds were debited" while nobody decided anything take a proof, which only the places that
//! have one can make: a 503 takes [`NeverPublished`] (`submit.rs`), a 500 takes [`Voided`] (`postgres/allocations.rs`).
//! There is no other way to build a 500 or a 503, and a test reads the sources to keep it so.
//!
//! What dies before anything was published is a 503 and not a 500: a 500 speaks for all that was sent under its
//! `Idempotency-Key`, and nobody has looked at the key.

use super::submit::NeverPublished;
use crate::ledger::{RequestId, UserHash};
use crate::metrics::METRICS;
use crate::postgres::allocations::Voided;
use crate::wire::{self, AllocatedBody, FieldErrors};
use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use serde::Serialize;
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const DEBITED: HeaderName = HeaderName::from_static("earmark-debited");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Whether funds were debited, as far as this answer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Debited {
    Yes,
    No,
    Unknown,
}

/// An answer, ready but for the headers that depend on the endpoint.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    body: Vec<u8>,
    debited: Debited,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Answer {
    fn json<T: Serialize>(status: StatusCode, shape: &T) -> Self {
        Self { status, body: wire::to_json(shape), debited: Debited::No, header: None }
    }

    fn error(status: StatusCode, message: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error": message }))
    }

    fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer of an endpoint that moves no money.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(self.header);
        response
    }

    /// The answer of `POST /payout/create`, which says on every response which request it was and whether it debited.
    pub fn into_create_response(self, request: Uuid) -> Response<Body> {
        let debited = match self.debited {
            Debited::Yes => "yes",
            Debited::No => "no",
            Debited::Unknown => "unknown",
        };
        let mut response = self.into_response();
        response.headers_mut().insert(DEBITED, HeaderValue::from_static(debited));
        if let Ok(id) = HeaderValue::from_str(&request.to_string()) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }
}

/// 200 of a read.
pub fn found<T: Serialize>(shape: &T) -> Answer {
    Answer::json(StatusCode::OK, shape)
}

/// 200: debited once. `replayed`: by an earlier request under the same key.
pub fn allocated(hash: UserHash, replayed: bool) -> Answer {
    let body = AllocatedBody { hash: hex::encode(hash.0) };
    let answer = Answer { debited: Debited::Yes, ..Answer::json(StatusCode::OK, &body) };
    if replayed { answer.with_header(REPLAYED, HeaderValue::from_static("true")) } else { answer }
}

pub fn invalid_fields(errors: &FieldErrors) -> Answer {
    Answer::json(StatusCode::BAD_REQUEST, errors)
}

pub fn not_an_object() -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, "The request body must be a JSON object.")
}

/// 400 of something other than the body, in words.
pub fn bad_request(message: &str) -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, message)
}

pub fn insufficient_balance() -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, "Insufficient payout balance")
}

pub fn unauthorized() -> Answer {
    Answer::error(StatusCode::UNAUTHORIZED, "Unauthorized")
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

pub fn payouts_disabled() -> Answer {
    Answer::error(StatusCode::FORBIDDEN, "Payouts are currently disabled. Please enable them in Settings.")
}

pub fn not_found() -> Answer {
    Answer::error(StatusCode::NOT_FOUND, "Not found")
}

pub fn method_not_allowed(allow: &'static str) -> Answer {
    Answer::error(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
        .with_header(ALLOW, HeaderValue::from_static(allow))
}

pub fn body_too_late() -> Answer {
    Answer::error(StatusCode::REQUEST_TIMEOUT, "The request body did not arrive in time.")
}

pub fn body_too_large() -> Answer {
    Answer::error(StatusCode::PAYLOAD_TOO_LARGE, "The request body must not be larger than 8192 bytes.")
}

pub fn unsupported_media_type() -> Answer {
    Answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "The Content-Type must be application/json.")
}

pub fn key_reused() -> Answer {
    let message = "This Idempotency-Key was used before with another email or amount.";
    Answer::error(StatusCode::UNPROCESSABLE_ENTITY, message)
}

/// 500: this never debits, for ever.
pub fn unexpected(proof: Voided) -> Answer {
    METRICS.unexpected.inc(proof.proof());
    Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred. No funds were debited.")
}

/// 503: refused before anything was published.
pub fn unavailable(proof: NeverPublished) -> Answer {
    METRICS.unavailable.inc(proof.why());
    let message = "Service temporarily unavailable. No funds were debited by this request.";
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, message).with_header(RETRY_AFTER, HeaderValue::from_static("1"))
}

/// 504: the one answer that does not say whether funds moved. `GET /payout/requests/{request_id}` does.
pub fn unknown(request: RequestId) -> Answer {
    METRICS.unknown.inc();
    let id = Uuid::from_u128(request.as_u128());
    let body = serde_json::json!({ "error": "The outcome is not known yet.", "request_id": id });
    Answer { debited: Debited::Unknown, ..Answer::json(StatusCode::GATEWAY_TIMEOUT, &body) }
}
