//! Decides a batch of requests in memory, in order of arrival, against the balances that they would debit. The worker has
//! two ways to settle a batch (`worker/attempt.rs`). At once, it decides on the balances that it remembers, and writes with
//! one statement. The table shows the other way, step by step:
//!
//! | phase | where | statements |
//! |---|---|---|
//! | lock the businesses, sorted, and read them | `postgres::businesses::lock_many` | 1 |
//! | lock the keys, sorted, and read them (only if a request has one) | `postgres::keys::lock_many` | 0 or 1 |
//! | decide | here | none |
//! | write balances, users and rows in one statement | `postgres::batches::write` | 1 |
//! | note allocations on keys, raise epochs (only if there are any) | `postgres::keys` | 0 to 2 |
//!
//! Each request is decided against what the ones before it left. So a batch gives exactly what its requests give one by
//! one; a test checks this for thousands of random batches.

use super::{Amount, BusinessId, Email, IdempotencyKey, Millis, Outcome, RaiseCount, Request, RequestId, Verdict};
use std::collections::BTreeMap;

#[cfg(test)]
mod tests;

/// What the decision needs to know of a business, read under its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// What can still be allocated, in cents. Never negative.
    pub payout_balance: i64,
    /// Whether payouts are switched on. If not, requests are refused.
    pub payouts_enabled: bool,
}

/// What the decision needs to know of an idempotency key, read under its lock. A key without a row has the default
/// state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// How many voids there were under the key.
    pub epoch: i64,
    /// The raise that brought the key into this epoch; `None` if it is raised by the batch that is being decided.
    pub raise: Option<RaiseCount>,
    /// The one allocation under the key. It is never replaced.
    pub allocated: Option<(RequestId, Email, Amount)>,
}

impl Default for KeyState {
    fn default() -> Self {
        Self { epoch: 0, raise: Some(RaiseCount(0)), allocated: None }
    }
}

/// The new state of a key that the batch changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The business.
    pub business: BusinessId,
    /// The key.
    pub key: IdempotencyKey,
    /// Its state from now on.
    pub state: KeyState,
}

impl KeyChange {
    /// Whether the batch has raised the key's epoch.
    pub fn is_raised(&self) -> bool {
        self.state.raise.is_none()
    }
}

/// What one payout user gains in the batch, in cents: one entry for each user, however often it was credited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credit {
    /// The business.
    pub business: BusinessId,
    /// The payout user.
    pub email: Email,
    /// The sum of what the batch credits, in cents.
    pub cents: i64,
}

/// Everything that one transaction writes, each list sorted by its key so that locks are taken in one order everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// One for each request, in the order of the requests.
    pub verdicts: Vec<Verdict>,
    /// The new payout balance, in cents, of each business that was debited.
    pub balances: Vec<(BusinessId, i64)>,
    /// What each payout user is credited, sorted by business and email.
    pub credits: Vec<Credit>,
    /// The keys that change, sorted by business and key.
    pub keys: Vec<KeyChange>,
}

/// Businesses by their ids.
pub type Accounts = BTreeMap<BusinessId, Account>;
/// The states of idempotency keys.
pub type Keys = BTreeMap<(BusinessId, IdempotencyKey), KeyState>;

/// Decides each request in turn.
///
/// `accounts` holds every business that `requests` names; a request of any other business is voided, because there is
/// no balance to debit. `keys` holds the keys that have a row. No request id may appear twice.
pub fn decide(accounts: &Accounts, keys: &Keys, requests: &[Request], now: Millis) -> Decision {
    let mut copy = WorkingCopy {
        accounts: accounts.clone(),
        debited: BTreeMap::new(),
        credits: BTreeMap::new(),
        keys: BTreeMap::new(),
    };
    let verdicts = requests.iter().map(|request| copy.decide_one(keys, request, now)).collect();
    copy.close(verdicts)
}

/// The batch's working copy of everything it may change.
struct WorkingCopy {
    accounts: Accounts,
    debited: BTreeMap<BusinessId, i64>,
    credits: BTreeMap<(BusinessId, Email), i64>,
    keys: Keys,
}

impl WorkingCopy {
    fn decide_one(&mut self, stored: &Keys, request: &Request, now: Millis) -> Verdict {
        let Some(claim) = &request.key else {
            return Verdict::Decided(self.apply(request, now));
        };
        let name = (request.business, claim.key.clone());
        let state = self.keys.get(&name).or_else(|| stored.get(&name)).cloned().unwrap_or_default();
        if let Some((original, email, amount)) = &state.allocated {
            let same = *email == request.email && *amount == request.amount;
            return if same { Verdict::Replayed { original: *original } } else { Verdict::KeyReused };
        }
        if claim.epoch != state.epoch {
            return Verdict::StaleEpoch { current: state.epoch, raise: state.raise };
        }
        let outcome = self.apply(request, now);
        if let Some(next) = next_key_state(&state, outcome, request) {
            self.keys.insert(name, next);
        }
        Verdict::Decided(outcome)
    }

    /// Decides a request on its own merits, and moves the money if it is allocated.
    fn apply(&mut self, request: &Request, now: Millis) -> Outcome {
        let Some(account) = self.accounts.get_mut(&request.business) else {
            return Outcome::Voided;
        };
        if now > request.deadline {
            return Outcome::Voided;
        }
        if !account.payouts_enabled {
            return Outcome::PayoutsDisabled;
        }
        let cents = request.amount.cents();
        if account.payout_balance < cents {
            return Outcome::InsufficientBalance;
        }
        account.payout_balance -= cents;
        self.debited.insert(request.business, account.payout_balance);
        *self.credits.entry((request.business, request.email.clone())).or_default() += cents;
        Outcome::Allocated
    }

    fn close(self, verdicts: Vec<Verdict>) -> Decision {
        let credit = |((business, email), cents)| Credit { business, email, cents };
        let change = |((business, key), state)| KeyChange { business, key, state };
        Decision {
            verdicts,
            balances: self.debited.into_iter().collect(),
            credits: self.credits.into_iter().map(credit).collect(),
            keys: self.keys.into_iter().map(change).collect(),
        }
    }
}

/// The new state of the request's key; `None` if it does not change. A void raises the epoch, so that no attempt sent
/// before can debit after a caller was told that none did. A refusal promises nothing, and leaves the key as it is.
fn next_key_state(state: &KeyState, outcome: Outcome, request: &Request) -> Option<KeyState> {
    match outcome {
        Outcome::Allocated => {
            let allocated = Some((request.id, request.email.clone(), request.amount));
            Some(KeyState { allocated, ..state.clone() })
        }
        Outcome::Voided => Some(KeyState { epoch: state.epoch + 1, raise: None, allocated: None }),
        Outcome::PayoutsDisabled | Outcome::InsufficientBalance => None,
    }
}
