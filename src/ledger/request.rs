//! A validated request for one movement, and what its intake knew when it received it.

use super::{BusinessId, IdempotencyKey, Movement, Reference, RequestId};

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// One request to move money of one business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its own id.
    pub id: RequestId,
    /// The business.
    pub business: BusinessId,
    /// What it asks for.
    pub movement: Movement,
    /// After this moment the intake no longer waits for the outcome, and the request is voided instead of applied.
    pub deadline: Millis,
    /// The idempotency key.
    pub key: Option<KeyClaim>,
    /// The client's own name for it. It has no influence on the decision.
    pub reference: Option<Reference>,
}

/// The idempotency key that a request was sent under, and the epoch its sender believed the key to be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyClaim {
    /// The idempotency key.
    pub key: IdempotencyKey,
    /// Counts the voids under this key, from 0. A request that claims another epoch than the key's never debits.
    pub epoch: i64,
}

/// Numbers a transaction that raised epochs: how many such transactions the ledger has had, this one included. They
/// commit in the order of their counts, so a reader of a count has seen every raise up to it. 0 stands for a key that
/// was never raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RaiseCount(pub i64);

/// Which raises of epochs an intake knew of when it received an HTTP request: all up to a count that it had read
/// before.
///
/// Everything that is published for that request may only use epochs that were raised by then. The reason: a 500 under
/// a key promises that nothing which was received before it ever debits, and it is answered after the key's epoch was
/// raised. An attempt that uses an epoch was therefore received after the raise, and no earlier 500 speaks of it, even
/// if its caller is long gone.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    held: Option<RaiseCount>,
}

impl Receipt {
    /// `held`: the count that was read before; `None` if none was read.
    pub fn new(held: Option<RaiseCount>) -> Self {
        Self { held }
    }

    /// Whether the request may use the epoch that was brought by `raise`. `None` stands for a raise that is later than
    /// any receipt.
    pub fn may_use(self, raise: Option<RaiseCount>) -> bool {
        matches!((raise, self.held), (Some(raise), Some(held)) if raise <= held)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_use_an_epoch_that_was_raised_before_it_was_received_and_no_other() {
        let (three, four) = (RaiseCount(3), RaiseCount(4));
        let rows = [
            (Some(three), Some(three), true),
            (Some(four), Some(three), true),
            (Some(three), Some(four), false),
            (None, Some(three), false),
            (None, Some(RaiseCount(0)), false),
            (Some(three), None, false),
            (None, None, false),
        ];
        for (held, raise, expected) in rows {
            assert_eq!(Receipt::new(held).may_use(raise), expected, "{held:?} {raise:?}");
        }
    }
}
