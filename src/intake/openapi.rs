//! Describes the API as an OpenAPI 3.1 document. The shapes come from the types of [`wire`](crate::wire), the bounds
//! from the ledger and the checks; the endpoints are written here. A test compares the document with the committed
//! `docs/openapi.json` and with the routes.

use super::events::MOST_SECONDS;
use super::history::{MOST, USUAL_LIMIT, WRONG_LIMIT};
use super::lookup::NOT_PAST;
use super::problem::said;
use super::validate::{
    AMOUNT_TOO_SMALL, BULK_LIMIT, BodyLimit, MOST_ITEMS, NO_ALLOCATIONS, NO_EMAIL, NO_REFERENCE, ONE_LIMIT,
};
use crate::ledger::webhooks::MOST_URL_CHARS;
use crate::ledger::{Amount, Email, IdempotencyKey, Outcome, Reference};
use crate::wire::answers::{
    AllocatedBody, BalanceBody, BulkBody, BulkErrors, BusinessBody, DeliveriesBody, ErrorBody, EventsBody, FieldErrors,
    HistoryBody, PayoutUserBody, RequestBody, ReversedBody, SettledBody, StatementBody, WebhookBody, WebhooksBody,
};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const HASH: &str = "9b2e0c7c1d3f4a5b6c7d8e9f00112233445566778899aabbccddeeff01234567";
const BUSINESS: &str = "0198c0de-0000-8000-8000-00000a11ca7e";
const REQUEST: &str = "0198c0de-0000-7000-8000-00000a11ca7e";

/// The document. It is the same for every deployment.
pub fn document() -> Value {
    let mut shapes = Shapes::new();
    let paths = json!({
        "/payout/create": { "post": create(&mut shapes) },
        "/payout/create/bulk": { "post": create_bulk(&mut shapes) },
        "/balance": { "get": balance(&mut shapes) },
        "/business": { "get": business(&mut shapes) },
        "/payout/user": { "get": payout_user(&mut shapes) },
        "/payout/user/settle": { "post": settle(&mut shapes) },
        "/payout/user/statement": { "get": statement(&mut shapes) },
        "/payout/requests": { "get": requests(&mut shapes) },
        "/payout/requests/{request_id}": { "get": request_by_id(&mut shapes) },
        "/payout/requests/{request_id}/reverse": { "post": reverse(&mut shapes) },
        "/events": { "get": events(&mut shapes) },
        "/webhooks": { "get": list_webhooks(&mut shapes), "post": create_webhook(&mut shapes) },
        "/webhooks/{webhook_id}": {
            "get": on_webhook(&mut shapes, "getWebhook", "A webhook", "", "As it is."),
            "delete": on_webhook(&mut shapes, "deleteWebhook", "Delete a webhook",
                "Nothing more is delivered, and what waited is forgotten.", "As it was."),
        },
        "/webhooks/{webhook_id}/deliveries": { "get": deliveries(&mut shapes) },
        "/webhooks/{webhook_id}/redeliver": { "post": redeliver(&mut shapes) },
        "/webhooks/{webhook_id}/rotate": { "post": on_webhook(&mut shapes, "rotateWebhook", "Replace the secret of a webhook",
            "Deliveries are signed with the new secret and, for 24 hours, also with the one before.", "With its new `secret`.") },
        "/webhooks/{webhook_id}/enable": { "post": on_webhook(&mut shapes, "enableWebhook", "Enable a webhook",
            "It goes on where it stopped: first with what waits, and with what came meanwhile.", "As it is.") },
        "/webhooks/{webhook_id}/disable": { "post": on_webhook(&mut shapes, "disableWebhook", "Disable a webhook",
            "Nothing is delivered until it is enabled. Its cursor and what waits stay.", "As it is.") },
        "/openapi.json": { "get": open("This document", "application/json", json!({ "type": "object" })) },
        "/docs": { "get": open("This document, as a page for people", "text/html", json!({ "type": "string" })) },
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Earmark",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Sets money aside for people: each allocation debits the payout balance of the calling business \
                and credits one payout user, can be reversed, and can be settled. All amounts are whole cents. Every answer of \
                an endpoint that moves money says in `Earmark-Moved` whether funds moved; a 500 or 503 says that they never \
                will.",
            "license": { "name": "All rights reserved", "identifier": "LicenseRef-proprietary" },
        },
        "security": [{ "secretKey": [] }],
        "paths": paths,
        "components": {
            "schemas": shapes.finish(),
            "securitySchemes": {
                "secretKey": { "type": "http", "scheme": "bearer", "description": "A secret API key: `sk_live_…`." },
                "payoutHash": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Payout-Hash",
                    "description": "The hash of a payout user, who sees only the own balance with it.",
                },
            },
        },
    })
}

/// Collects the schemas of the shapes that answers have.
struct Shapes(SchemaGenerator);

impl Shapes {
    fn new() -> Self {
        let path = |settings: &mut SchemaSettings| settings.definitions_path = "/components/schemas".into();
        Self(SchemaSettings::draft2020_12().for_serialize().with(path).into_generator())
    }

    fn schema<T: schemars::JsonSchema>(&mut self) -> Value {
        self.0.subschema_for::<T>().to_value()
    }

    /// The schema of an answer that has one of two shapes.
    fn either<A: schemars::JsonSchema, B: schemars::JsonSchema>(&mut self) -> Value {
        json!({ "anyOf": [self.schema::<A>(), self.schema::<B>()] })
    }

    /// The schemas by name. A field that is not required is left out when it is unknown, and is never null, so its type
    /// loses `null`.
    fn finish(mut self) -> Map<String, Value> {
        let mut schemas = self.0.take_definitions(true);
        for schema in schemas.values_mut() {
            let required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
            let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
            for (name, property) in properties.into_iter().flatten() {
                if !required.contains(&json!(name)) {
                    forget_null(property);
                }
            }
        }
        schemas
    }
}

fn forget_null(property: &mut Value) {
    if let Some(types) = property.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|kind| kind != "null");
        let left = types.clone();
        if let [only] = left.as_slice() {
            property["type"] = only.clone();
        }
    }
    let others = property.get("anyOf").and_then(Value::as_array).cloned().unwrap_or_default();
    let others: Vec<Value> = others.into_iter().filter(|other| other["type"] != "null").collect();
    if let [only] = others.as_slice() {
        let mut only = only.clone();
        if let (Some(only), Some(description)) = (only.as_object_mut(), property.get("description")) {
            only.insert("description".to_owned(), description.clone());
        }
        *property = only;
    }
}

/// Which headers the answers of an endpoint have.
#[derive(Clone, Copy)]
enum Headers {
    /// Whether funds were debited, and which request it was.
    Allocating,
    /// Whether funds moved, and which request it was.
    Moving,
    Reading,
}

/// The answers of one endpoint.
struct Answers {
    headers: Headers,
    by_status: Map<String, Value>,
}

impl Answers {
    fn new(headers: Headers) -> Self {
        Self { headers, by_status: Map::new() }
    }

    fn with(mut self, status: u16, says: &str, schema: Value, example: Value) -> Self {
        let mut headers = match self.headers {
            Headers::Allocating => allocating_headers(),
            Headers::Moving => moving_headers(),
            Headers::Reading => Map::new(),
        };
        headers.extend(headers_of(status));
        let content = json!({ "application/json": { "schema": schema, "example": example } });
        let answer = json!({ "description": says, "headers": headers, "content": content });
        self.by_status.insert(status.to_string(), answer);
        self
    }

    fn error(self, shapes: &mut Shapes, status: u16, says: &str, error: &str) -> Self {
        self.with(status, says, shapes.schema::<ErrorBody>(), json!({ "error": error }))
    }

    /// Adds the answers that every endpoint may give.
    fn usual(self, shapes: &mut Shapes) -> Self {
        self.error(shapes, 401, "No working secret key, or more than one.", said::UNAUTHORIZED)
            .error(shapes, 405, "Another method is needed.", said::METHOD_NOT_ALLOWED)
            .error(shapes, 503, "Refused, and nothing happened. Try again after `Retry-After`.", said::UNAVAILABLE)
    }

    /// Adds the answers of an endpoint whose pages are read a few at a time.
    fn of_pages(self, shapes: &mut Shapes) -> Self {
        let meaning = "Too many pages are being read for the API key. Try again after `Retry-After`.";
        self.error(shapes, 429, meaning, said::TOO_MANY)
    }

    /// Adds the answers of an endpoint that takes a body.
    fn of_a_body(self, shapes: &mut Shapes, limit: &BodyLimit) -> Self {
        self.error(shapes, 408, "The body took too long to arrive.", said::BODY_TOO_LATE)
            .error(shapes, 413, "The body is too large.", limit.message)
            .error(shapes, 415, "The body is not `application/json` in UTF-8.", said::UNSUPPORTED_MEDIA_TYPE)
            .error(shapes, 429, "The API key is beyond its limits. Try again after `Retry-After`.", said::TOO_MANY)
    }
}

fn header(says: &str, schema: Value) -> Value {
    json!({ "description": says, "required": true, "schema": schema })
}

fn moving_headers() -> Map<String, Value> {
    let moved = json!({ "type": "string", "enum": ["yes", "no", "partial", "unknown"] });
    let moved = header("Whether funds moved. `partial`: some items of a bulk call.", moved);
    let request = header("Which request this was.", json!({ "type": "string", "format": "uuid" }));
    Map::from_iter([("Earmark-Moved".to_owned(), moved), ("X-Request-Id".to_owned(), request)])
}

fn allocating_headers() -> Map<String, Value> {
    let debited = json!({ "type": "string", "enum": ["yes", "no", "partial", "unknown"] });
    let debited = header("Whether funds were debited: the same as `Earmark-Moved`.", debited);
    let mut headers = moving_headers();
    headers.insert("Earmark-Debited".to_owned(), debited);
    headers
}

fn headers_of(status: u16) -> Option<(String, Value)> {
    let (name, says, schema) = match status {
        401 => ("WWW-Authenticate", "How to authenticate.", json!({ "type": "string", "const": "Bearer" })),
        405 => ("Allow", "The methods that are allowed.", json!({ "type": "string" })),
        429 | 503 => ("Retry-After", "Seconds to wait.", json!({ "type": "integer", "minimum": 1 })),
        _ => return None,
    };
    Some((name.to_owned(), header(says, schema)))
}

fn email() -> Value {
    json!({
        "type": "string",
        "format": "email",
        "maxLength": Email::MAX_CHARS,
        "description": "The payout user: one address, in any of its spellings. Case, blanks around it, composed letters, and a \
            domain in letters or in Punycode make no difference.",
    })
}

fn amount() -> Value {
    json!({
        "type": "integer",
        "minimum": Amount::MIN_CENTS,
        "maximum": Amount::MAX_CENTS,
        "description": "In cents, as a JSON integer: `100`, not `100.0`.",
    })
}

fn reference() -> Value {
    json!({
        "type": ["string", "null"],
        "maxLength": Reference::MAX_CHARS,
        "pattern": NO_CONTROL,
        "description": "Your own name for it, kept with the request and searched by. Not unique.",
    })
}

fn allocation() -> Value {
    json!({
        "type": "object",
        "required": ["email", "amount"],
        "properties": { "email": email(), "amount": amount(), "reference": reference() },
        "example": { "email": "ann@example.com", "amount": 10_000, "reference": "Invoice 7" },
    })
}

fn dry_run() -> Value {
    let says = "Asks what the answer would be now, and does nothing. The answer has `\"dry_run\": true`. Any other value, and any \
        other parameter, is a 400.";
    parameter("dry_run", says, json!({ "type": "string", "enum": ["true"] }))
}

/// The pattern of texts without control characters.
const NO_CONTROL: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";

fn idempotency_key() -> Value {
    json!({
        "name": "Idempotency-Key",
        "in": "header",
        "required": false,
        "description": "Your name for the operation: however often it is sent, funds move once. With or without double \
            quotes around it.",
        "schema": { "type": "string", "minLength": 1, "maxLength": IdempotencyKey::MAX_LEN, "pattern": "^[!-~]+$" },
    })
}

fn json_body(schema: Value) -> Value {
    json!({ "required": true, "content": { "application/json": { "schema": schema } } })
}

fn create(shapes: &mut Shapes) -> Value {
    let invalid = json!({ "amount": [AMOUNT_TOO_SMALL] });
    let unknown = json!({ "error": said::UNKNOWN, "request_id": REQUEST });
    let answers = Answers::new(Headers::Allocating)
        .with(200, "Debited, once.", shapes.schema::<AllocatedBody>(), json!({ "hash": HASH }))
        .with(
            400,
            "Not debited: fields that failed, or `error`, such as a payout balance that does not cover the amount.",
            shapes.either::<FieldErrors, ErrorBody>(),
            invalid,
        )
        .error(shapes, 403, "Not debited: payouts are switched off.", said::PAYOUTS_DISABLED)
        .error(shapes, 422, "Not debited: the key belongs to another email or amount.", said::KEY_REUSED)
        .error(shapes, 500, "Never debited, and never will be. Send it again, under the same key.", said::UNEXPECTED)
        .with(504, "Not known yet. Ask about the request.", shapes.schema::<ErrorBody>(), unknown)
        .of_a_body(shapes, &ONE_LIMIT)
        .usual(shapes);
    let mut answers = answers.by_status;
    if let Some(allocated) = answers.get_mut("200") {
        let parameters = json!({ "request_id": "$response.header.X-Request-Id" });
        allocated["links"] = json!({ "request": { "operationId": "getRequest", "parameters": parameters } });
    }
    json!({
        "operationId": "createPayout",
        "summary": "Allocate an amount to a payout user",
        "description": "Creates the payout user if it is new. Without an `Idempotency-Key` the same body twice adds the \
            amount twice. A retry under a key is answered with the first success, and `Idempotent-Replayed: true`.",
        "parameters": [idempotency_key(), dry_run()],
        "requestBody": json_body(allocation()),
        "responses": answers,
    })
}

fn create_bulk(shapes: &mut Shapes) -> Value {
    let results = json!({ "results": [
        { "status": 200, "debited": "yes", "request_id": REQUEST, "hash": HASH },
        { "status": 400, "debited": "no", "errors": { "amount": [AMOUNT_TOO_SMALL] } },
    ]});
    let unknown = json!({ "results": [
        { "status": 504, "debited": "unknown", "request_id": REQUEST, "error": said::UNKNOWN },
    ]});
    let invalid = json!({ "allocations": [NO_ALLOCATIONS] });
    let answers = Answers::new(Headers::Allocating)
        .with(200, "The outcome of every item is known: see `results`.", shapes.schema::<BulkBody>(), results)
        .with(400, "No allocations that can be read.", shapes.either::<BulkErrors, ErrorBody>(), invalid)
        .with(504, "The outcome of an item is not known yet: see `results`.", shapes.schema::<BulkBody>(), unknown)
        .of_a_body(shapes, &BULK_LIMIT)
        .usual(shapes);
    let call = json!({
        "type": "object",
        "required": ["allocations"],
        "properties": {
            "allocations": { "type": "array", "minItems": 1, "maxItems": MOST_ITEMS, "items": {
                "description": "Like the body of `POST /payout/create`. One that is not valid fails alone. It may have an \
                    `idempotency_key`: a string like the header of that name of a single call, and with the same meaning.",
            } },
        },
        "example": { "allocations": [{ "email": "ann@example.com", "amount": 10_000, "reference": "Invoice 7" }] },
    });
    json!({
        "operationId": "createPayouts",
        "summary": "Allocate to many payout users in one call",
        "description": "Each item is decided on its own, exactly as if it were posted alone, and answered in order. Under \
            an `Idempotency-Key` each place in the call has a key of its own: a repeat of the call finishes what is \
            missing and repeats nothing. An item that brings an `idempotency_key` is known by that instead, in any call.",
        "parameters": [idempotency_key(), dry_run()],
        "requestBody": json_body(call),
        "responses": answers.by_status,
    })
}

fn balance(shapes: &mut Shapes) -> Value {
    let example = json!({ "balance": 1_500_000, "payout_balance": 500_000 });
    let invalid = json!({ "at": [NOT_PAST] });
    let answers = Answers::new(Headers::Reading)
        .with(200, "In cents.", shapes.schema::<BalanceBody>(), example)
        .with(400, "The time is not valid, or not over.", shapes.schema::<BTreeMap<String, [String; 1]>>(), invalid)
        .usual(shapes);
    json!({
        "operationId": "getBalance",
        "summary": "The balances of the business, now or at a time",
        "parameters": [at("Only the payout balance depends on it.")],
        "responses": answers.by_status,
    })
}

fn at(says: &str) -> Value {
    let says = format!("The balance after every movement up to then. A `+` in a query is written `%2B`. {says}");
    parameter("at", &says, json!({ "type": "string", "format": "date-time" }))
}

fn business(shapes: &mut Shapes) -> Value {
    let example = json!({
        "business_id": BUSINESS, "name": "Acme", "payout_balance": 500_000, "payouts_enabled": true,
    });
    let answers = Answers::new(Headers::Reading)
        .with(200, "The business.", shapes.schema::<BusinessBody>(), example)
        .usual(shapes);
    json!({ "operationId": "getBusiness", "summary": "The business of the API key", "responses": answers.by_status })
}

fn payout_user(shapes: &mut Shapes) -> Value {
    let example = json!({
        "email": "ann@example.com", "hash": HASH, "balance": 10_000, "status": "active",
        "created_at": "2026-01-01T12:00:00Z",
    });
    let invalid = json!({ "email": [NO_EMAIL] });
    let answers = Answers::new(Headers::Reading)
        .with(200, "The payout user.", shapes.schema::<PayoutUserBody>(), example)
        .with(
            400,
            "The email is missing or not valid, or the time is not.",
            shapes.either::<FieldErrors, BTreeMap<String, [String; 1]>>(),
            invalid,
        )
        .error(shapes, 404, "The business has no such payout user, or had none then.", said::NOT_FOUND)
        .usual(shapes);
    let email = json!({ "type": "string", "format": "email", "maxLength": Email::MAX_CHARS });
    json!({
        "operationId": "getPayoutUser",
        "summary": "A payout user",
        "description": "For the business by `email`; for the payout user by the own hash.",
        "security": [{ "secretKey": [] }, { "payoutHash": [] }],
        "parameters": [parameter("email", "Needed with a secret key.", email), at("Only with a secret key.")],
        "responses": answers.by_status,
    })
}

fn reverse(shapes: &mut Shapes) -> Value {
    let reversed = json!({ "request_id": REQUEST, "reversed": 10_000, "remaining": 0 });
    let invalid = json!({ "amount": ["The amount must not be greater than 2500."] });
    let unknown = json!({ "error": said::UNKNOWN, "request_id": REQUEST });
    let answers = Answers::new(Headers::Moving)
        .with(
            200,
            "Taken back, once. `reversed` is 0, and nothing moved, if nothing was left.",
            shapes.schema::<ReversedBody>(),
            reversed,
        )
        .with(
            400,
            "Nothing moved: fields that failed, more than is left, or `error`, such as a user's balance that does not cover it.",
            shapes.either::<FieldErrors, ErrorBody>(),
            invalid,
        )
        .error(shapes, 404, "The business has made no such request.", said::NOT_FOUND)
        .error(shapes, 422, "Nothing moved: the key belongs to something else.", said::KEY_OF_ANOTHER)
        .error(shapes, 500, "Nothing moved, and never will. Send it again, under the same key.", said::UNEXPECTED)
        .with(504, "Not known yet. Ask about the request.", shapes.schema::<ErrorBody>(), unknown)
        .of_a_body(shapes, &ONE_LIMIT)
        .usual(shapes);
    let mut part = amount();
    part["type"] = json!(["integer", "null"]);
    let body = json!({
        "type": "object",
        "properties": { "amount": part, "reference": reference() },
        "additionalProperties": false,
        "example": { "reference": "Invoice 7 was cancelled" },
    });
    json!({
        "operationId": "reverseRequest",
        "summary": "Take an allocation back, or a settlement",
        "description": "Without `amount`: all that is left of it. Parts may be reversed one after the other; then an \
            `Idempotency-Key` is needed. The money of an allocation goes back to the payout balance, and the payout user's \
            balance must cover it. The money of a settlement goes back to the payout user.",
        "parameters": [
            { "name": "request_id", "in": "path", "required": true, "schema": { "type": "string", "format": "uuid" } },
            idempotency_key(),
            dry_run(),
        ],
        "requestBody": json_body(body),
        "responses": answers.by_status,
    })
}

fn settle(shapes: &mut Shapes) -> Value {
    let unknown = json!({ "error": said::UNKNOWN, "request_id": REQUEST });
    let answers = Answers::new(Headers::Moving)
        .with(
            200,
            "Taken out of the payout user's balance, once. `balance` is what was left then.",
            shapes.schema::<SettledBody>(),
            json!({ "request_id": REQUEST, "balance": 0 }),
        )
        .with(
            400,
            "Nothing moved: fields that failed, or `error`, such as a balance that does not cover it.",
            shapes.either::<FieldErrors, ErrorBody>(),
            json!({ "reference": [NO_REFERENCE] }),
        )
        .error(shapes, 422, "Nothing moved: the reference belongs to another email or amount.", said::REFERENCE_REUSED)
        .error(shapes, 500, "Nothing moved, and never will. Send it again, with the same reference.", said::UNEXPECTED)
        .with(504, "Not known yet. Ask about the request.", shapes.schema::<ErrorBody>(), unknown)
        .of_a_body(shapes, &ONE_LIMIT)
        .usual(shapes);
    let reference = json!({
        "type": "string",
        "minLength": 1,
        "maxLength": Reference::MAX_CHARS,
        "pattern": NO_CONTROL,
        "description": "Your own name for the payment. It is the key of the settlement: however often it is sent, funds move \
            once.",
    });
    let body = json!({
        "type": "object",
        "required": ["email", "amount", "reference"],
        "properties": { "email": email(), "amount": amount(), "reference": reference },
        "example": { "email": "ann@example.com", "amount": 10_000, "reference": "Transfer 7" },
    });
    json!({
        "operationId": "settleUser",
        "summary": "Note that a payout user was paid elsewhere",
        "description": "Takes the amount out of the payout user's balance. A repeat of the same reference is answered with the \
            first success, and `Idempotent-Replayed: true`. An `Idempotency-Key` is a 400.",
        "parameters": [dry_run()],
        "requestBody": json_body(body),
        "responses": answers.by_status,
    })
}

fn statement(shapes: &mut Shapes) -> Value {
    let page = json!({
        "movements": [{
            "seq": 7, "moved_at": "2026-01-01T12:00:00Z", "kind": "allocate", "request_id": REQUEST, "amount": 10_000,
            "balance": 10_000, "reference": "Invoice 7",
        }],
        "next_cursor": null,
    });
    let time = || json!({ "type": "string", "format": "date-time" });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL_LIMIT });
    let mut answers = Answers::new(Headers::Reading)
        .with(200, "A page, the oldest movement first.", shapes.schema::<StatementBody>(), page)
        .with(
            400,
            "A parameter failed.",
            shapes.schema::<BTreeMap<String, [String; 1]>>(),
            json!({ "email": [NO_EMAIL] }),
        )
        .error(shapes, 404, "The business has no such payout user.", said::NOT_FOUND)
        .of_pages(shapes)
        .usual(shapes);
    if let Some(found) = answers.by_status.get_mut("200") {
        found["content"]["text/csv"] = json!({ "schema": { "type": "string" } });
    }
    json!({
        "operationId": "getStatement",
        "summary": "Every movement of a payout user, with the balance after each",
        "description": "With `Accept: text/csv` all of it comes as one stream, whatever `limit` says.",
        "parameters": [
            required_parameter("email", "The payout user.",
                json!({ "type": "string", "format": "email", "maxLength": Email::MAX_CHARS })),
            parameter("from", "Only movements from then on. A `+` in a query is written `%2B`.", time()),
            parameter("to", "Only movements before then.", time()),
            parameter("limit", "Most movements in the page.", limit),
            parameter("cursor", "`next_cursor` of the page before, with the same parameters.",
                json!({ "type": "string", "pattern": "^[0-9]{1,18}$" })),
        ],
        "responses": answers.by_status,
    })
}

fn required_parameter(name: &str, says: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "required": true, "description": says, "schema": schema })
}

fn parameter(name: &str, says: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "required": false, "description": says, "schema": schema })
}

fn request_example() -> Value {
    json!({
        "request_id": REQUEST, "kind": "allocate", "state": "allocated", "email": "ann@example.com", "amount": 10_000,
        "hash": HASH, "reference": "Invoice 7", "seq": 7, "payout_balance_after": 490_000,
        "decided_at": "2026-01-01T12:00:00Z",
    })
}

fn requests(shapes: &mut Shapes) -> Value {
    let time = || json!({ "type": "string", "format": "date-time" });
    let email = json!({ "type": "string", "format": "email", "maxLength": Email::MAX_CHARS });
    let reference = json!({
        "type": "string", "minLength": 1, "maxLength": Reference::MAX_CHARS, "pattern": NO_CONTROL,
    });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL_LIMIT });
    let page = json!({ "requests": [request_example()], "next_cursor": null });
    let invalid = json!({ "limit": [WRONG_LIMIT] });
    let mut answers = Answers::new(Headers::Reading)
        .with(
            200,
            "A page, newest first; with `idempotency_key` the one request. A page may hold fewer than `limit`, even none, \
             and still have a `next_cursor`.",
            shapes.either::<HistoryBody, RequestBody>(),
            page,
        )
        .with(400, "A parameter failed.", shapes.either::<BTreeMap<String, [String; 1]>, ErrorBody>(), invalid)
        .error(shapes, 404, "No allocation under the key.", said::NOT_FOUND)
        .of_pages(shapes)
        .usual(shapes);
    if let Some(found) = answers.by_status.get_mut("200") {
        found["content"]["text/csv"] = json!({ "schema": { "type": "string" } });
    }
    json!({
        "operationId": "listRequests",
        "summary": "What was decided for the business, newest first",
        "description": "Filters are combined. With `Accept: text/csv` all of it comes as one stream, whatever `limit` says. \
            Requests that are not decided yet are not in it.",
        "parameters": [
            parameter("limit", "Most requests in the page.", limit),
            parameter("cursor", "`next_cursor` of the page before, with the same filters.",
                json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" })),
            parameter("state", "Only requests with this outcome.",
                json!({ "type": "string", "enum": Outcome::ALL.map(Outcome::as_str) })),
            parameter("email", "Only requests to this payout user.", email),
            parameter("reference", "Only requests with this reference.", reference),
            parameter("from", "Only requests that were made then or later. A `+` in a query is written `%2B`.", time()),
            parameter("to", "Only requests that were made before.", time()),
            parameter("idempotency_key", "The allocation under this key, and nothing else. For an item of a bulk call: the \
                key of the call, a blank, and the place, counted from 0.",
                json!({ "type": "string", "pattern": "^[!-~]{1,255}( [0-9]{1,3})?$" })),
        ],
        "responses": answers.by_status,
    })
}

fn events(shapes: &mut Shapes) -> Value {
    let page = json!({ "events": [{
        "seq": 7, "type": "allocation.created", "created_at": "2026-01-01T12:00:00Z", "data": {
            "request_id": REQUEST, "amount": 10_000, "email": "ann@example.com", "reference": "Invoice 7",
            "payout_balance_after": 490_000,
        },
    }]});
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL_LIMIT });
    let answers = Answers::new(Headers::Reading)
        .with(200, "The events after `after`, in order. None if there is none.", shapes.schema::<EventsBody>(), page)
        .with(
            400,
            "A parameter failed.",
            shapes.schema::<BTreeMap<String, [String; 1]>>(),
            json!({ "limit": [WRONG_LIMIT] }),
        )
        .usual(shapes);
    json!({
        "operationId": "listEvents",
        "summary": "What happened to the money of the business, in the order of the commits",
        "description": "A `seq` is a cursor: whoever keeps that of the last event worked through, and asks for what comes after it, \
            misses nothing and sees nothing twice.",
        "parameters": [
            parameter("after", "The `seq` of the last event that was worked through.",
                json!({ "type": "integer", "format": "int64", "minimum": 0, "default": 0 })),
            parameter("limit", "Most events in the answer.", limit),
            parameter("wait", "How many seconds to wait for the next event, if there is none yet.",
                json!({ "type": "integer", "minimum": 0, "maximum": MOST_SECONDS, "default": 0 })),
        ],
        "responses": answers.by_status,
    })
}

const WEBHOOK: &str = "7d3f1c52-9a3e-4b61-8f3a-2f0c5d1e9b77";

fn webhook_example() -> Value {
    json!({
        "webhook_id": WEBHOOK, "url": "https://example.com/hooks", "state": "sound", "cursor": 7, "waiting": 0,
        "created_at": "2026-01-01T12:00:00Z",
    })
}

fn with_secret(mut webhook: Value) -> Value {
    webhook["secret"] = json!("whsec_Vyl1zSsOCxDkgjxhPHBZ2/x0ynUmIRQUJXVVHVRZ5lE=");
    webhook
}

fn webhook_id() -> Value {
    json!({ "name": "webhook_id", "in": "path", "required": true, "schema": { "type": "string", "format": "uuid" } })
}

fn create_webhook(shapes: &mut Shapes) -> Value {
    let invalid = json!({ "url": ["The url must be a valid https URL."] });
    let answers = Answers::new(Headers::Reading)
        .with(200, "The webhook, with its `secret`.", shapes.schema::<WebhookBody>(), with_secret(webhook_example()))
        .with(
            400,
            "Fields that failed, or `error`: the business has ten webhooks already.",
            shapes.either::<BTreeMap<String, [String; 1]>, ErrorBody>(),
            invalid,
        )
        .of_a_body(shapes, &ONE_LIMIT)
        .usual(shapes);
    let url = json!({
        "type": "string",
        "format": "uri",
        "maxLength": MOST_URL_CHARS,
        "description": "Where events are posted: `https`, at a public address.",
    });
    let after = json!({
        "type": ["integer", "null"],
        "format": "int64",
        "minimum": 0,
        "description": "Deliver the events after this `seq`. Without it: those that happen from now on.",
    });
    let body = json!({
        "type": "object",
        "required": ["url"],
        "properties": { "url": url, "after": after },
        "example": { "url": "https://example.com/hooks" },
    });
    json!({
        "operationId": "createWebhook",
        "summary": "Have events delivered to a URL",
        "description": "Every event of `GET /events` is posted to the URL, signed by Standard Webhooks 1.0. Events come in order \
            until one fails, and each at least once.",
        "requestBody": json_body(body),
        "responses": answers.by_status,
    })
}

fn list_webhooks(shapes: &mut Shapes) -> Value {
    let answers = Answers::new(Headers::Reading)
        .with(
            200,
            "The webhooks, the oldest first.",
            shapes.schema::<WebhooksBody>(),
            json!({ "webhooks": [webhook_example()] }),
        )
        .usual(shapes);
    json!({
        "operationId": "listWebhooks",
        "summary": "The webhooks of the business",
        "responses": answers.by_status,
    })
}

/// An operation on one webhook that takes no body and is answered with the webhook.
fn on_webhook(shapes: &mut Shapes, operation: &str, summary: &str, says: &str, answer: &str) -> Value {
    let example = if operation == "rotateWebhook" { with_secret(webhook_example()) } else { webhook_example() };
    let answers = Answers::new(Headers::Reading)
        .with(200, answer, shapes.schema::<WebhookBody>(), example)
        .error(shapes, 404, "The business has no such webhook.", said::NOT_FOUND)
        .usual(shapes);
    json!({
        "operationId": operation,
        "summary": summary,
        "description": says,
        "parameters": [webhook_id()],
        "responses": answers.by_status,
    })
}

fn deliveries(shapes: &mut Shapes) -> Value {
    let page = json!({
        "deliveries": [{
            "number": 9, "seq": 7, "tried_at": "2026-01-01T12:00:01Z", "duration_ms": 31, "result": "refused", "status": 500,
            "answer": "out of order",
        }],
        "next_cursor": null,
    });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL_LIMIT });
    let answers = Answers::new(Headers::Reading)
        .with(200, "A page, the newest try first.", shapes.schema::<DeliveriesBody>(), page)
        .with(
            400,
            "A parameter failed.",
            shapes.schema::<BTreeMap<String, [String; 1]>>(),
            json!({ "limit": [WRONG_LIMIT] }),
        )
        .error(shapes, 404, "The business has no such webhook.", said::NOT_FOUND)
        .of_pages(shapes)
        .usual(shapes);
    json!({
        "operationId": "listDeliveries",
        "summary": "The last tries to deliver to a webhook",
        "description": "The last 1,000 are kept.",
        "parameters": [
            webhook_id(),
            parameter("limit", "Most tries in the page.", limit),
            parameter("cursor", "`next_cursor` of the page before.",
                json!({ "type": "string", "pattern": "^[1-9][0-9]{0,17}$" })),
        ],
        "responses": answers.by_status,
    })
}

fn redeliver(shapes: &mut Shapes) -> Value {
    let mut example = webhook_example();
    example["waiting"] = json!(1);
    let answers = Answers::new(Headers::Reading)
        .with(200, "The event waits, and is delivered soon.", shapes.schema::<WebhookBody>(), example)
        .with(
            400,
            "The `seq` failed, or `error`: the event is still to come anyway, or too many wait.",
            shapes.either::<BTreeMap<String, [String; 1]>, ErrorBody>(),
            json!({ "seq": ["The seq must be the number of an event."] }),
        )
        .error(shapes, 404, "The business has no such webhook.", said::NOT_FOUND)
        .of_a_body(shapes, &ONE_LIMIT)
        .usual(shapes);
    let body = json!({
        "type": "object",
        "required": ["seq"],
        "properties": { "seq": { "type": "integer", "format": "int64", "minimum": 1, "description": "The number of the event." } },
        "example": { "seq": 7 },
    });
    json!({
        "operationId": "redeliver",
        "summary": "Deliver an event to a webhook once more",
        "description": "If the webhook is disabled, the event waits until it is enabled.",
        "parameters": [webhook_id()],
        "requestBody": json_body(body),
        "responses": answers.by_status,
    })
}

fn request_by_id(shapes: &mut Shapes) -> Value {
    let answers = Answers::new(Headers::Reading)
        .with(200, "The request.", shapes.schema::<RequestBody>(), request_example())
        .error(shapes, 404, "The business has made no such request.", said::NOT_FOUND)
        .usual(shapes);
    json!({
        "operationId": "getRequest",
        "summary": "What became of a request",
        "description": "Asking about a request that is undecided past its deadline voids it there and then, so that the \
            answer is final.",
        "parameters": [{
            "name": "request_id", "in": "path", "required": true, "schema": { "type": "string", "format": "uuid" },
        }],
        "responses": answers.by_status,
    })
}

/// A `GET` endpoint that needs no API key.
fn open(summary: &str, kind: &str, schema: Value) -> Value {
    json!({
        "summary": summary,
        "security": [],
        "responses": {
            "200": { "description": summary, "content": { kind: { "schema": schema } } },
        },
    })
}
