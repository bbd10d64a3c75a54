//! Decides a batch of requests in memory, in order of arrival, against the balances that they would change. The worker has
//! two ways to settle a batch (`worker/attempt.rs`). At once, it decides on the balances that it remembers, and writes with
//! one statement. The table shows the other way, step by step:
//!
//! | phase | where | statements |
//! |---|---|---|
//! | lock the businesses, sorted, and read them | `postgres::businesses::lock_many` | 1 |
//! | lock the keys, sorted, and read them (only if a request has one) | `postgres::keys::lock_many` | 0 or 1 |
//! | read what is reversed, and the users who lose money (only if there are any) | `postgres::books` | 0 to 2 |
//! | decide | here | none |
//! | write balances, users and rows in one statement | `postgres::batches::write` | 1 |
//! | note successes on keys, raise epochs (only if there are any) | `postgres::keys` | 0 to 2 |
//!
//! Each request is decided against what the ones before it left. So a batch gives exactly what its requests give one by
//! one; a test checks this for thousands of random batches.

use super::{
    Amount, BusinessId, Email, IdempotencyKey, Millis, Movement, Outcome, RaiseCount, Request, RequestId, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};

#[cfg(test)]
mod tests;

/// What the decision needs to know of a business, read under its lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// What can still be allocated, in cents. Never negative.
    pub payout_balance: i64,
    /// Whether payouts are switched on. If not, allocations are refused.
    pub payouts_enabled: bool,
    /// What it allows itself.
    pub caps: Caps,
    /// How many movements there were, deposits included. The next one has the next number.
    pub seq: i64,
    /// No later movement has an earlier time.
    pub moved_at: Millis,
    /// What was allocated on the last day on which something was.
    pub allocated: DayTotal,
}

/// What a business allows itself. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// The largest amount of one allocation, in cents.
    pub largest: Option<i64>,
    /// The largest sum of the allocations of one day, in cents.
    pub daily: Option<i64>,
}

/// The sum of the allocations of one day. What is reversed later still counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DayTotal {
    /// The day (UTC), counted from 1970-01-01.
    pub day: i32,
    /// In cents.
    pub cents: i64,
}

impl DayTotal {
    /// The sum with another allocation.
    fn with(self, at: Millis, cents: i64) -> Self {
        const DAY: Millis = 24 * 60 * 60 * 1_000;
        let day = i32::try_from(at.div_euclid(DAY)).unwrap_or(i32::MAX);
        let before = if day == self.day { self.cents } else { 0 };
        Self { day, cents: before.saturating_add(cents) }
    }
}

/// What the decision needs to know of an idempotency key, read under its lock. A key without a row has the default
/// state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// How many voids there were under the key.
    pub epoch: i64,
    /// The raise that brought the key into this epoch; `None` if it is raised by the batch that is being decided.
    pub raise: Option<RaiseCount>,
    /// The one success under the key. It is never replaced.
    pub success: Option<Success>,
}

/// A request that moved money, and what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Success {
    /// The request.
    pub request: RequestId,
    /// What it asked for.
    pub movement: Movement,
}

impl Default for KeyState {
    fn default() -> Self {
        Self { epoch: 0, raise: Some(RaiseCount(0)), success: None }
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

/// An allocation or a settlement that can be reversed, read under its business's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The payout user.
    pub email: Email,
    /// Whether it is a settlement, whose money goes back to the user. An allocation's goes back to the business.
    pub is_settlement: bool,
    /// How much of it is not reversed yet, in cents.
    pub remaining: i64,
}

/// What one payout user gains or loses in the batch, in cents: one entry for each user, however often the balance changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credit {
    /// The business.
    pub business: BusinessId,
    /// The payout user.
    pub email: Email,
    /// The sum of what the batch credits less what it takes, in cents.
    pub cents: i64,
}

/// What the row of one request says beside the outcome and what the request asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The payout user of a reversal.
    pub email: Option<Email>,
    /// The amount of a reversal, in cents, if it is known.
    pub cents: Option<i64>,
    /// What is left after the decision, in cents. Of a reversal: of what it reverses. Of a settlement: of the payout
    /// user's balance. Of an allocation that is too large: the largest that is allowed.
    pub remaining: Option<i64>,
    /// The number of the movement, if money was moved.
    pub moved: Option<Moved>,
}

/// The place of a movement among those of its business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its number: 1, 2, 3, … without a gap.
    pub seq: i64,
    /// The payout balance after it, in cents.
    pub payout_balance_after: i64,
    /// When it was. Never before the last one.
    pub at: Millis,
}

/// Everything that one transaction writes, each list sorted by its key so that locks are taken in one order everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// One for each request, in the order of the requests.
    pub verdicts: Vec<Verdict>,
    /// One for each request, in the order of the requests.
    pub entries: Vec<Entry>,
    /// Each business that moved money, as it is afterwards.
    pub accounts: Vec<(BusinessId, Account)>,
    /// What each payout user gains or loses, sorted by business and email.
    pub credits: Vec<Credit>,
    /// The keys that change, sorted by business and key.
    pub keys: Vec<KeyChange>,
}

/// Businesses by their ids.
pub type Accounts = BTreeMap<BusinessId, Account>;
/// The states of idempotency keys.
pub type Keys = BTreeMap<(BusinessId, IdempotencyKey), KeyState>;
/// The balances of payout users, in cents.
pub type Users = BTreeMap<(BusinessId, Email), i64>;
/// What can be reversed.
pub type Targets = BTreeMap<(BusinessId, RequestId), Target>;

/// Everything that a decision is based on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Every business that a request names.
    pub accounts: Accounts,
    /// The keys that have a row.
    pub keys: Keys,
    /// The balances of the payout users whose money is settled or whose allocations are reversed. Users of allocations
    /// are not needed.
    pub users: Users,
    /// What the reversals name, as far as it can be reversed.
    pub targets: Targets,
}

/// When a decision is made.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The clock.
    pub clock: Millis,
    /// How much later than its deadline a request is still applied.
    pub tolerance: Millis,
}

/// Decides each request in turn.
///
/// A request of a business that is not in `books` is voided, because there is no balance to debit. No request id may
/// appear twice.
pub fn decide(books: &Books, requests: &[Request], moment: Moment) -> Decision {
    let reversed = |request: &Request| Some((request.business, request.movement.target()?));
    let mut copy = WorkingCopy {
        books,
        moment,
        accounts: books.accounts.clone(),
        moved: BTreeSet::new(),
        credits: BTreeMap::new(),
        keys: BTreeMap::new(),
        targets: BTreeMap::new(),
        reversed: requests.iter().filter_map(reversed).collect(),
    };
    let (verdicts, entries) = requests.iter().map(|request| copy.decide_one(request)).unzip();
    copy.close(verdicts, entries)
}

/// The batch's working copy of everything it may change.
struct WorkingCopy<'a> {
    books: &'a Books,
    moment: Moment,
    accounts: Accounts,
    /// The businesses that moved money.
    moved: BTreeSet<BusinessId>,
    credits: BTreeMap<(BusinessId, Email), i64>,
    keys: Keys,
    targets: Targets,
    /// What the reversals of the batch name. Only these of its own movements are noted in `targets`.
    reversed: BTreeSet<(BusinessId, RequestId)>,
}

/// What one request comes to on its own merits.
type Applied = (Outcome, Entry);

impl WorkingCopy<'_> {
    fn decide_one(&mut self, request: &Request) -> (Verdict, Entry) {
        let Some(claim) = &request.key else {
            let (outcome, entry) = self.apply(request);
            return (Verdict::Decided(outcome), entry);
        };
        let name = (request.business, claim.key.clone());
        let state = self.keys.get(&name).or_else(|| self.books.keys.get(&name)).cloned().unwrap_or_default();
        if let Some(success) = &state.success {
            let same = success.movement == request.movement;
            let verdict = if same { Verdict::Replayed { original: success.request } } else { Verdict::KeyReused };
            return (verdict, Entry::default());
        }
        if claim.epoch != state.epoch {
            return (Verdict::StaleEpoch { current: state.epoch, raise: state.raise }, Entry::default());
        }
        let (outcome, entry) = self.apply(request);
        if let Some(next) = next_key_state(&state, outcome, request) {
            self.keys.insert(name, next);
        }
        (Verdict::Decided(outcome), entry)
    }

    /// Decides a request on its own merits, and moves the money if nothing stands against it.
    fn apply(&mut self, request: &Request) -> Applied {
        let Some(account) = self.accounts.get(&request.business).copied() else { return refused(Outcome::Voided) };
        if self.moment.clock.saturating_sub(self.moment.tolerance) > request.deadline {
            return refused(Outcome::Voided);
        }
        match &request.movement {
            Movement::Allocate { email, amount } => self.allocate(request, account, email, amount.cents()),
            Movement::Settle { email, amount } => self.settle(request, account, email, amount.cents()),
            Movement::Reverse { target, amount } => self.reverse(request, account, *target, *amount),
        }
    }

    fn allocate(&mut self, request: &Request, mut account: Account, email: &Email, cents: i64) -> Applied {
        if !account.payouts_enabled {
            return refused(Outcome::PayoutsDisabled);
        }
        if let Some(largest) = account.caps.largest.filter(|largest| cents > *largest) {
            return (Outcome::AmountTooLarge, Entry { remaining: Some(largest), ..Entry::default() });
        }
        let allocated = account.allocated.with(self.time_of(&account), cents);
        if account.caps.daily.is_some_and(|daily| allocated.cents > daily) {
            return refused(Outcome::DailyLimitReached);
        }
        if account.payout_balance < cents {
            return refused(Outcome::InsufficientBalance);
        }
        account.payout_balance -= cents;
        account.allocated = allocated;
        self.credit(request.business, email, cents);
        self.note_target(request, email, false, cents);
        (Outcome::Allocated, Entry { moved: Some(self.move_on(request.business, account)), ..Entry::default() })
    }

    fn settle(&mut self, request: &Request, account: Account, email: &Email, cents: i64) -> Applied {
        let balance = self.balance_of(request.business, email);
        if balance < cents {
            return refused(Outcome::InsufficientUserBalance);
        }
        self.credit(request.business, email, -cents);
        self.note_target(request, email, true, cents);
        let (remaining, moved) = (Some(balance - cents), Some(self.move_on(request.business, account)));
        (Outcome::Settled, Entry { remaining, moved, ..Entry::default() })
    }

    fn reverse(
        &mut self,
        request: &Request,
        mut account: Account,
        target: RequestId,
        amount: Option<Amount>,
    ) -> Applied {
        let name = (request.business, target);
        let Some(found) = self.targets.get(&name).or_else(|| self.books.targets.get(&name)).cloned() else {
            return (Outcome::NotReversible, Entry { cents: amount.map(Amount::cents), ..Entry::default() });
        };
        let Target { email, is_settlement, remaining } = found;
        let cents = amount.map_or(remaining, Amount::cents);
        let entry = |cents, remaining, moved| Entry {
            email: Some(email.clone()),
            cents: Some(cents),
            remaining: Some(remaining),
            moved,
        };
        if remaining == 0 {
            return (Outcome::NothingLeft, entry(0, 0, None));
        }
        if cents > remaining {
            return (Outcome::AmountTooLarge, entry(cents, remaining, None));
        }
        let outcome = if is_settlement {
            self.credit(request.business, &email, cents);
            Outcome::SettlementReversed
        } else {
            // A payout balance beyond all numbers takes nothing back.
            let Some(balance) = account.payout_balance.checked_add(cents) else { return refused(Outcome::Voided) };
            if self.balance_of(request.business, &email) < cents {
                return (Outcome::InsufficientUserBalance, entry(cents, remaining, None));
            }
            account.payout_balance = balance;
            self.credit(request.business, &email, -cents);
            Outcome::Reversed
        };
        let remaining = remaining - cents;
        self.targets.insert(name, Target { email: email.clone(), is_settlement, remaining });
        (outcome, entry(cents, remaining, Some(self.move_on(request.business, account))))
    }

    /// The time of the next movement of a business.
    fn time_of(&self, account: &Account) -> Millis {
        self.moment.clock.max(account.moved_at)
    }

    /// Numbers a movement that leaves the business like this.
    fn move_on(&mut self, business: BusinessId, mut account: Account) -> Moved {
        account.seq += 1;
        account.moved_at = self.time_of(&account);
        self.accounts.insert(business, account);
        self.moved.insert(business);
        Moved { seq: account.seq, payout_balance_after: account.payout_balance, at: account.moved_at }
    }

    fn balance_of(&self, business: BusinessId, email: &Email) -> i64 {
        let name = (business, email.clone());
        let stored = self.books.users.get(&name).copied().unwrap_or_default();
        stored.saturating_add(self.credits.get(&name).copied().unwrap_or_default())
    }

    fn credit(&mut self, business: BusinessId, email: &Email, cents: i64) {
        *self.credits.entry((business, email.clone())).or_default() += cents;
    }

    /// Notes a movement that another request of the batch reverses.
    fn note_target(&mut self, request: &Request, email: &Email, is_settlement: bool, remaining: i64) {
        let name = (request.business, request.id);
        if self.reversed.contains(&name) {
            self.targets.insert(name, Target { email: email.clone(), is_settlement, remaining });
        }
    }

    fn close(mut self, verdicts: Vec<Verdict>, entries: Vec<Entry>) -> Decision {
        let credit = |((business, email), cents)| Credit { business, email, cents };
        let change = |((business, key), state)| KeyChange { business, key, state };
        self.accounts.retain(|business, _| self.moved.contains(business));
        Decision {
            verdicts,
            entries,
            accounts: self.accounts.into_iter().collect(),
            credits: self.credits.into_iter().map(credit).collect(),
            keys: self.keys.into_iter().map(change).collect(),
        }
    }
}

fn refused(outcome: Outcome) -> Applied {
    (outcome, Entry::default())
}

/// The new state of the request's key; `None` if it does not change. A void raises the epoch, so that no attempt sent
/// before can move money after a caller was told that none did. A refusal promises nothing, and leaves the key as it is.
fn next_key_state(state: &KeyState, outcome: Outcome, request: &Request) -> Option<KeyState> {
    if outcome.moves() {
        let success = Some(Success { request: request.id, movement: request.movement.clone() });
        return Some(KeyState { success, ..state.clone() });
    }
    (outcome == Outcome::Voided).then(|| KeyState { epoch: state.epoch + 1, raise: None, success: None })
}
