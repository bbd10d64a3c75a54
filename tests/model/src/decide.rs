//! The decision on a batch. It copies `ledger::decide`, and a test compares the two for every small batch.

use crate::Mutant;

/// What a message asks for. The amount is always one cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CentRequest {
    /// The epoch that it claims, if it has a key.
    pub claim: Option<u8>,
    /// The worker's clock is past its deadline.
    pub late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allocated,
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
    pub allocated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkingCopy {
    pub balance: i8,
    pub key: KeyState,
    /// The void of a stale attempt has raised the key: only a mutant does that.
    pub ghost_raised: bool,
}

impl WorkingCopy {
    pub fn new(balance: i8, key: KeyState) -> Self {
        Self { balance, key, ghost_raised: false }
    }

    pub fn decide(&mut self, ask: CentRequest, mutant: Option<Mutant>) -> Verdict {
        let Some(claim) = ask.claim else { return self.apply(ask.late) };
        if self.key.allocated {
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
        let verdict = self.apply(ask.late);
        match verdict {
            Verdict::Allocated => self.key.allocated = true,
            Verdict::Voided if mutant != Some(Mutant::DeadlineVoidDoesNotRaise) => self.raise(),
            _ => {}
        }
        verdict
    }

    fn apply(&mut self, late: bool) -> Verdict {
        if late {
            return Verdict::Voided;
        }
        if self.balance < 1 {
            return Verdict::Refused;
        }
        self.balance -= 1;
        Verdict::Allocated
    }

    fn raise(&mut self) {
        self.key.epoch += 1;
        self.key.raise = None;
    }
}
