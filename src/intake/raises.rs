//! Keeps what this intake knows of the raises of epochs: the largest count that it has read, or that a commit of its
//! own has made. What was known when a request was received decides which epochs the request may use ([`Receipt`]).

use crate::ledger::{RaiseCount, Receipt};
use std::sync::atomic::{AtomicI64, Ordering};

/// The largest count that is known. None is known at the start, nor after the database was lost: another database may
/// be there next.
#[derive(Debug)]
pub struct Raises(AtomicI64);

/// Stands for no known count.
const NONE: i64 = -1;

impl Raises {
    /// Knows no count yet.
    pub fn unknown() -> Self {
        Self(AtomicI64::new(NONE))
    }

    /// Returns what is known now, for a request that has just arrived. To be called before anything else is done for
    /// it. Whatever is done for it later, even after the process was frozen for a minute, must go by what is known now.
    pub fn receive(&self) -> Receipt {
        let held = self.0.load(Ordering::SeqCst);
        Receipt::new((held != NONE).then_some(RaiseCount(held)))
    }

    /// Notes that every raise up to this count is committed. The known count never goes back: two readers may report in
    /// another order than they read.
    pub fn saw(&self, count: RaiseCount) {
        self.0.fetch_max(count.0, Ordering::SeqCst);
    }

    /// Forgets the count, because the database was lost.
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
