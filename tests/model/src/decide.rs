//! The decision on a batch. It copies `ledger::decide`, and a test compares the two for every small batch.

use crate::{Asked, Mutant};

/// What a message asks for. The amount is always one cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CentRequest {
    pub asked: Asked,
    /// The epoch that it claims, if it has a key.
    pub claim: Option<u8>,
    /// The worker's clock is past its deadline.
    pub late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The cent was moved.
    Moved,
    /// A balance is too small, or nothing is left that could be reversed.
    Refused,
    /// Its deadline has passed.
    Voided,
    Replayed,
    Stale {
        current: u8,
        raise: Option<u8>,
    },
}

/// The key as the batch reads it and then changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyState {
    pub epoch: u8,
    /// The count of the raise that brought it there; none if this batch raises it.
    pub raise: Option<u8>,
    pub succeeded: bool,
}

/// The cents of the one business, of its one payout user, and of the allocation that reversals take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cents {
    /// The payout balance.
    pub balance: i8,
    /// The payout user's balance.
    pub user: i8,
    /// What is left of an allocation that was made before the start.
    pub left: i8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkingCopy {
    pub cents: Cents,
    pub key: KeyState,
    /// The void of a stale attempt has raised the key: only a mutant does that.
    pub ghost_raised: bool,
}

impl Cents {
    /// Moves one cent.
    pub fn change(&mut self, asked: Asked) {
        match asked {
            Asked::Allocate => (self.balance, self.user) = (self.balance - 1, self.user + 1),
            Asked::Settle => self.user -= 1,
            Asked::Reverse => {
                *self = Self { balance: self.balance + 1, user: self.user - 1, left: self.left - 1 };
            }
        }
    }
}

impl WorkingCopy {
    pub fn new(cents: Cents, key: KeyState) -> Self {
        Self { cents, key, ghost_raised: false }
    }

    pub fn decide(&mut self, ask: CentRequest, mutant: Option<Mutant>) -> Verdict {
        let Some(claim) = ask.claim else { return self.apply(ask, mutant) };
        if self.key.succeeded {
            return Verdict::Replayed;
        }
        if claim != self.key.epoch {
            let verdict = Verdict::Stale { current: self.key.epoch, raise: self.key.raise };
            if mutant == Some(Mutant::StaleVoidRaises) {
                self.raise();
                self.ghost_raised = true;
            }
            return verdict;
        }
        let verdict = self.apply(ask, mutant);
        match verdict {
            Verdict::Moved => self.key.succeeded = true,
            Verdict::Voided if mutant != Some(Mutant::DeadlineVoidDoesNotRaise) => self.raise(),
            _ => {}
        }
        verdict
    }

    fn apply(&mut self, ask: CentRequest, mutant: Option<Mutant>) -> Verdict {
        if ask.late {
            return Verdict::Voided;
        }
        let Cents { balance, user, left } = self.cents;
        let is_covered = match ask.asked {
            Asked::Allocate => balance > 0,
            Asked::Settle => user > 0,
            Asked::Reverse => {
                (left > 0 || mutant == Some(Mutant::ReversalIgnoresWhatIsLeft))
                    && (user > 0 || mutant == Some(Mutant::ReversalIgnoresTheUser))
            }
        };
        if !is_covered {
            return Verdict::Refused;
        }
        self.cents.change(ask.asked);
        Verdict::Moved
    }

    fn raise(&mut self) {
        self.key.epoch += 1;
        self.key.raise = None;
    }
}
