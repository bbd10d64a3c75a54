//! What this intake knows of the raises of epochs: the largest count that it has read, or that a commit of its own has
//! made. A request is bound by what was known when it was received ([`Receipt`]).

use crate::ledger::{RaiseCount, Receipt};
use std::sync::atomic::{AtomicI64, Ordering};

/// The count that is held. None is held at the start, and whenever the database was lost: another one may be there next.
#[derive(Debug)]
pub struct Raises(AtomicI64);

/// No count is held.
const NONE: i64 = -1;

impl Raises {
    pub fn unknown() -> Self {
        Self(AtomicI64::new(NONE))
    }

    /// To be called before anything else is done for a request. What comes later, and be it after the process was frozen
    /// for a minute, must go by what is known now.
    pub fn receive(&self) -> Receipt {
        let held = self.0.load(Ordering::SeqCst);
        Receipt::new((held != NONE).then_some(RaiseCount(held)))
    }

    /// Every raise up to this one is committed. Never goes back: two who read may tell in another order than they read.
    pub fn saw(&self, count: RaiseCount) {
        self.0.fetch_max(count.0, Ordering::SeqCst);
    }

    pub fn forget(&self) {
        self.0.store(NONE, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_by_what_was_known_when_it_was_received() {
        let raises = Raises::unknown();
        let uses = |receipt: Receipt, count| receipt.may_use(Some(RaiseCount(count)));
        assert!(!uses(raises.receive(), 0), "nothing is known yet");
        raises.saw(RaiseCount(5));
        let receipt = raises.receive();
        raises.saw(RaiseCount(6));
        assert!(uses(receipt, 5) && !uses(receipt, 6), "what was seen later does not count");
        raises.saw(RaiseCount(4));
        assert!(uses(raises.receive(), 6), "an older count takes nothing back");
        raises.forget();
        assert!(!uses(raises.receive(), 0));
    }
}
