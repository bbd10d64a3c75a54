//! What is asked: one allocation, once validated.

use super::{Amount, BusinessId, Email, IdempotencyKey, Reference, RequestId};

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// One request to allocate: `amount` from the payout balance of `business` to its payout user `email`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: RequestId,
    pub business: BusinessId,
    pub email: Email,
    pub amount: Amount,
    /// After this moment nobody waits for the outcome any more, and the request is voided instead of applied.
    pub deadline: Millis,
    pub key: Option<KeyClaim>,
    /// The client's own name for it. Decides nothing.
    pub reference: Option<Reference>,
}

/// The idempotency key that a request was sent under, and the epoch its sender believed the key to be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyClaim {
    pub key: IdempotencyKey,
    /// Counts the voids under this key, from 0. A request of another epoch than the key's is dead.
    pub epoch: i64,
}

/// Most ids in one log line.
const MOST_LISTED: usize = 20;

/// The ids of requests, for a log line about all of them: the first few, and how many more.
pub fn list_ids<'a>(requests: impl IntoIterator<Item = &'a Request>) -> String {
    let ids: Vec<String> = requests.into_iter().map(|request| request.id.to_string()).collect();
    let (listed, more) = ids.split_at(ids.len().min(MOST_LISTED));
    match more.len() {
        0 => listed.join(" "),
        count => format!("{} and {count} more", listed.join(" ")),
    }
}
