//! The bodies of the HTTP answers. Their doc comments become descriptions in `docs/openapi.json`.

use crate::ledger::webhooks::STATES;
use crate::ledger::{Delivery, Disabled, Kind, Outcome};
use schemars::JsonSchema;
use serde::Serialize;
use std::borrow::Cow;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// 200 of `POST /payout/create`: the payout user's hash, in hexadecimal.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AllocatedBody {
    /// The payout user's hash, in hexadecimal.
    pub hash: String,
}

/// 200 of `POST /payout/requests/{request_id}/reverse`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReversedBody {
    /// The request that has reversed. Absent in the answer to a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// How much it took back, in cents. 0 if nothing was left.
    pub reversed: i64,
    /// How much is left of what was reversed, in cents.
    pub remaining: i64,
}

/// 200 of `POST /payout/user/settle`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SettledBody {
    /// The request that has settled. Absent in the answer to a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// The payout user's balance after it, in cents.
    pub balance: i64,
}

/// Most answers other than success: what is wrong, as text.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorBody {
    /// What is wrong, in words.
    pub error: &'static str,
    /// Only with 504: the id of the request, for looking up its outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
}

/// `POST /payout/create/bulk`: what became of each item, in the order of the items.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BulkBody {
    /// One result for each item, in the order of the items.
    pub results: Vec<BulkResult>,
}

/// One item's answer: the status, headers and body that `POST /payout/create` would have answered with.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BulkResult {
    /// The HTTP status.
    pub status: u16,
    /// Whether funds were debited.
    #[schemars(extend("enum" = ["yes", "no", "unknown"]))]
    pub debited: &'static str,
    /// Absent if the item never became a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// Whether the debit was made by an earlier call with the same key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
    /// The payout user's hash, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// What is wrong, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// The messages of each field that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<FieldErrors>,
}

/// `GET /balance`: the balances of the business.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BalanceBody {
    /// The main balance, in cents. Allocations never change it.
    pub balance: i64,
    /// What can still be allocated, in cents.
    pub payout_balance: i64,
}

/// `GET /business`: the business of the API key.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BusinessBody {
    /// The business.
    pub business_id: Uuid,
    /// What people call it.
    pub name: String,
    /// What can still be allocated, in cents.
    pub payout_balance: i64,
    /// Whether payouts are switched on. While they are not, allocations are refused.
    pub payouts_enabled: bool,
}

/// `GET /payout/user`. Balance in cents, hash in hexadecimal.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PayoutUserBody {
    /// The address of the payout user.
    pub email: String,
    /// The payout user's hash, in hexadecimal.
    pub hash: String,
    /// The balance in cents: the sum of the user's allocations that is neither reversed nor settled.
    pub balance: i64,
    /// An inactive user still receives allocations, but cannot see the balance by hash.
    #[schemars(extend("enum" = ["active", "inactive"]))]
    pub status: String,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: time::OffsetDateTime,
}

/// `GET /payout/requests/{request_id}`. Amount in cents. Unknown fields are left out.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RequestBody {
    /// The request.
    pub request_id: Uuid,
    /// What it asked for. Absent if it was voided by its id alone, and while it is undecided.
    #[schemars(extend("enum" = kinds()))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// The outcome, or `pending`.
    #[schemars(extend("enum" = states()))]
    pub state: &'static str,
    /// The address of the payout user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// In cents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// What a reversal reverses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// The payout user's hash, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// The caller's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The number of the movement among those of the business: 1, 2, 3, … without a gap. Absent if no money moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<i64>,
    /// The payout balance after it, in cents. Absent if no money moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payout_balance_after: Option<i64>,
    /// When its row was written; absent while it is undecided.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub decided_at: Option<time::OffsetDateTime>,
}

fn kinds() -> Vec<&'static str> {
    Kind::ALL.map(Kind::as_str).to_vec()
}

/// The outcomes, and what is said of a request without one.
fn states() -> Vec<&'static str> {
    Outcome::ALL.iter().rev().map(|outcome| outcome.as_str()).chain([PENDING]).collect()
}

/// The state of a request that is not decided.
pub const PENDING: &str = "pending";

/// `GET /payout/requests`: a page of the history.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HistoryBody {
    /// The requests of the page, newest first.
    pub requests: Vec<RequestBody>,
    /// The cursor of the next page; null if this is the last.
    pub next_cursor: Option<String>,
}

/// The columns of the history as CSV.
pub const CSV_COLUMNS: [&str; 11] = [
    "request_id",
    "state",
    "email",
    "amount",
    "hash",
    "reference",
    "decided_at",
    "kind",
    "target",
    "seq",
    "payout_balance_after",
];

impl RequestBody {
    /// Writes the request as a line of CSV. Unknown fields are empty.
    pub fn write_csv(&self, csv: &mut csv::Writer<Vec<u8>>) -> csv::Result<()> {
        let decided_at = self.decided_at.and_then(|time| time.format(&Rfc3339).ok());
        let text = |text: Option<&str>| guarded(text.unwrap_or_default()).into_owned();
        let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
        csv.write_record([
            self.request_id.to_string(),
            self.state.to_owned(),
            text(self.email.as_deref()),
            number(self.amount),
            text(self.hash.as_deref()),
            text(self.reference.as_deref()),
            decided_at.unwrap_or_default(),
            text(self.kind),
            self.target.map(|target| target.to_string()).unwrap_or_default(),
            number(self.seq),
            number(self.payout_balance_after),
        ])
    }
}

/// `GET /payout/user/statement`: a page of the movements of a payout user.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StatementBody {
    /// The movements of the page, the oldest first.
    pub movements: Vec<MovementBody>,
    /// The cursor of the next page; null if this is the last.
    pub next_cursor: Option<String>,
}

/// One movement of a payout user's money.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MovementBody {
    /// Its number among the movements of the business.
    pub seq: i64,
    /// When it was. Never before one with a smaller number.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub moved_at: time::OffsetDateTime,
    /// What the request asked for.
    #[schemars(extend("enum" = kinds()))]
    pub kind: &'static str,
    /// The request.
    pub request_id: Uuid,
    /// By how much the balance changed, in cents: below zero if the user has less than before.
    pub amount: i64,
    /// The balance after it, in cents.
    pub balance: i64,
    /// What a reversal reverses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// The caller's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// The columns of a statement as CSV.
pub const MOVEMENT_COLUMNS: [&str; 8] =
    ["seq", "moved_at", "kind", "request_id", "amount", "balance", "target", "reference"];

impl MovementBody {
    /// Writes the movement as a line of CSV. Unknown fields are empty.
    pub fn write_csv(&self, csv: &mut csv::Writer<Vec<u8>>) -> csv::Result<()> {
        csv.write_record([
            self.seq.to_string(),
            self.moved_at.format(&Rfc3339).unwrap_or_default(),
            self.kind.to_owned(),
            self.request_id.to_string(),
            self.amount.to_string(),
            self.balance.to_string(),
            self.target.map(|target| target.to_string()).unwrap_or_default(),
            guarded(self.reference.as_deref().unwrap_or_default()).into_owned(),
        ])
    }
}

/// `GET /events`: what happened, in the order of the commits.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EventsBody {
    /// The events after the one that was asked for. None of a business is ever left out.
    pub events: Vec<EventBody>,
}

/// One event.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EventBody {
    /// The number of the movement, which is the cursor: 1, 2, 3, … without a gap.
    pub seq: i64,
    /// What happened.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = EVENT_TYPES))]
    pub kind: &'static str,
    /// When it was.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: time::OffsetDateTime,
    /// What moved.
    pub data: EventData,
}

/// The types of events.
pub const EVENT_TYPES: [&str; 6] = [
    "allocation.created",
    "allocation.reversed",
    "user.settled",
    "settlement.reversed",
    "balance.deposited",
    "balance.withdrawn",
];

/// What moved. Amounts are in cents, and never below zero. Unknown fields are left out.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EventData {
    /// The request. Absent for deposits and withdrawals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// The deposit or withdrawal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deposit_id: Option<Uuid>,
    /// How much.
    pub amount: i64,
    /// The payout user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// What was reversed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// How much was left of it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<i64>,
    /// The caller's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The payout balance after it.
    pub payout_balance_after: i64,
}

/// A webhook: an endpoint that gets the events of the business.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WebhookBody {
    /// The webhook.
    pub webhook_id: Uuid,
    /// Where events are posted.
    pub url: String,
    /// The secret that deliveries are signed with. Only in the answers to creating a webhook and to replacing its secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Until when deliveries are also signed with the secret before this one. Absent if they are not.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub former_secret_until: Option<time::OffsetDateTime>,
    /// `sound`: the last delivery was a success. `failing`: it failed. `disabled`: nothing is delivered.
    #[schemars(extend("enum" = STATES))]
    pub state: &'static str,
    /// The `seq` of the last event that was delivered, or that failed and waits.
    pub cursor: i64,
    /// How many events up to the cursor wait to be delivered again.
    pub waiting: i64,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: time::OffsetDateTime,
    /// The first failure since the last success. Absent if the last delivery was a success.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub failing_since: Option<time::OffsetDateTime>,
    /// Since when nothing is delivered. Absent while it is enabled.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub disabled_at: Option<time::OffsetDateTime>,
    /// Why: `gone` (it answered 410), `failing` (for too long), `platform` (asked over the API), `operator` (a person of the
    /// service).
    #[schemars(extend("enum" = disabled_by()))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_by: Option<&'static str>,
}

fn disabled_by() -> Vec<&'static str> {
    Disabled::ALL.iter().map(|why| why.as_str()).collect()
}

/// `GET /webhooks`: the webhooks of the business.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WebhooksBody {
    /// The webhooks, the oldest first.
    pub webhooks: Vec<WebhookBody>,
}

/// `GET /webhooks/{webhook_id}/deliveries`: a page of the last tries to deliver.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeliveriesBody {
    /// The tries of the page, the newest first.
    pub deliveries: Vec<DeliveryBody>,
    /// The cursor of the next page; null if this is the last.
    pub next_cursor: Option<String>,
}

/// A try to deliver an event.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeliveryBody {
    /// Counts the tries of the webhook from 1.
    pub number: i64,
    /// The number of the event.
    pub seq: i64,
    /// When the try had ended.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub tried_at: time::OffsetDateTime,
    /// How long it took, in milliseconds.
    pub duration_ms: i64,
    /// How it ended: `delivered` (a status from 200 to 299), `refused` (another status), `gone` (410), `timeout`, `unreachable`
    /// (no connection, or one that broke), `forbidden` (the URL leads to an address that is not public; nothing was sent).
    #[schemars(extend("enum" = delivery_results()))]
    pub result: &'static str,
    /// The status of the answer. Absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// The first kilobyte of the answer. Absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

fn delivery_results() -> Vec<&'static str> {
    Delivery::ALL.iter().map(|result| result.as_str()).collect()
}

/// A writer for CSV. Lines end with CR LF, as RFC 4180 demands.
pub fn csv_writer() -> csv::Writer<Vec<u8>> {
    csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(vec![])
}

/// The characters that get an apostrophe before them: those that begin a formula, also in full width, and the
/// apostrophe.
const FORMULA_STARTS: [char; 9] = ['=', '+', '-', '@', '＝', '＋', '－', '＠', '\''];

/// Puts an apostrophe before a text that a spreadsheet would take for a formula. Clients choose emails and references,
/// and other people open the file. A text that begins with an apostrophe gets one too, so that removing one apostrophe
/// always restores the original text.
fn guarded(text: &str) -> Cow<'_, str> {
    if text.starts_with(FORMULA_STARTS) { Cow::from(format!("'{text}")) } else { Cow::from(text) }
}

/// What is wrong with the items of `POST /payout/create/bulk` itself.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BulkErrors {
    /// What is wrong, in words.
    pub allocations: [&'static str; 1],
}

/// The messages of each field that is not valid.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FieldErrors {
    /// What is wrong with the email.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<[&'static str; 1]>,
    /// What is wrong with the amount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<[Cow<'static, str>; 1]>,
    /// What is wrong with the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<[&'static str; 1]>,
    /// What is wrong with the idempotency key of an item of a bulk call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<[&'static str; 1]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_csv_is_quoted_and_no_formula() {
        let cell = |text: &str| {
            let mut csv = csv_writer();
            csv.write_record(["", guarded(text).as_ref()]).unwrap();
            String::from_utf8(csv.into_inner().unwrap()).unwrap()
        };
        assert_eq!(cell("plain text"), ",plain text\r\n");
        assert_eq!(cell("a,\"b\""), ",\"a,\"\"b\"\"\"\r\n");
        assert_eq!(cell("=1+1"), ",'=1+1\r\n");
        assert_eq!(cell("@SUM(A1,A2)"), ",\"'@SUM(A1,A2)\"\r\n");
        assert_eq!(cell("'=1+1"), ",''=1+1\r\n");
        assert_eq!(cell("o'neil"), ",o'neil\r\n");
        let (request_id, decided_at) = (Uuid::nil(), Some(time::OffsetDateTime::UNIX_EPOCH));
        let body = RequestBody {
            request_id,
            kind: Some("allocate"),
            state: "voided",
            email: None,
            amount: Some(5),
            target: None,
            hash: None,
            reference: Some("-7".to_owned()),
            seq: None,
            payout_balance_after: None,
            decided_at,
        };
        let mut csv = csv_writer();
        body.write_csv(&mut csv).unwrap();
        let line = String::from_utf8(csv.into_inner().unwrap()).unwrap();
        assert_eq!(line, "00000000-0000-0000-0000-000000000000,voided,,5,,'-7,1970-01-01T00:00:00Z,allocate,,,\r\n");
        assert_eq!(line.split(',').count(), CSV_COLUMNS.len());
    }
}
