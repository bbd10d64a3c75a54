//! The bodies of the HTTP answers. Their doc comments become descriptions in `docs/openapi.json`.

use crate::ledger::Outcome;
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

/// `GET /payout/user`. Balance in cents, hash in hexadecimal.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PayoutUserBody {
    /// The address of the payout user.
    pub email: String,
    /// The payout user's hash, in hexadecimal.
    pub hash: String,
    /// The balance in cents: the sum of the user's allocations.
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
    /// The outcome, or `pending`.
    #[schemars(extend("enum" = states()))]
    pub state: &'static str,
    /// The address of the payout user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// In cents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// The payout user's hash, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// The caller's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// When its row was written; absent while it is undecided.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub decided_at: Option<time::OffsetDateTime>,
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
pub const CSV_COLUMNS: [&str; 7] = ["request_id", "state", "email", "amount", "hash", "reference", "decided_at"];

impl RequestBody {
    /// Writes the request as a line of CSV. Unknown fields are empty.
    pub fn write_csv(&self, csv: &mut csv::Writer<Vec<u8>>) -> csv::Result<()> {
        let decided_at = self.decided_at.and_then(|time| time.format(&Rfc3339).ok());
        let text = |text: Option<&str>| guarded(text.unwrap_or_default()).into_owned();
        csv.write_record([
            self.request_id.to_string(),
            self.state.to_owned(),
            text(self.email.as_deref()),
            self.amount.map(|cents| cents.to_string()).unwrap_or_default(),
            text(self.hash.as_deref()),
            text(self.reference.as_deref()),
            decided_at.unwrap_or_default(),
        ])
    }
}

/// A writer for the history as CSV. Lines end with CR LF, as RFC 4180 demands.
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
    pub amount: Option<[&'static str; 1]>,
    /// What is wrong with the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<[&'static str; 1]>,
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
            state: "voided",
            email: None,
            amount: Some(5),
            hash: None,
            reference: Some("-7".to_owned()),
            decided_at,
        };
        let mut csv = csv_writer();
        body.write_csv(&mut csv).unwrap();
        let line = String::from_utf8(csv.into_inner().unwrap()).unwrap();
        assert_eq!(line, "00000000-0000-0000-0000-000000000000,voided,,5,,'-7,1970-01-01T00:00:00Z\r\n");
        assert_eq!(line.split(',').count(), CSV_COLUMNS.len());
    }
}
