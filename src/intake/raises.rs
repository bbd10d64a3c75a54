//! Keeps what this intake knows of the raises of epochs: for each shard the largest count that it has read, or that a
//! commit of its own has made. What was known when a request was received decides which epochs the request may use
//! ([`Receipt`]).

use crate::ledger::{RaiseCount, Receipt, ShardId};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The largest count that is known of each shard. None is known at the start, nor after the shard's database was lost:
/// another database may be there next.
#[derive(Debug, Default)]
pub struct Raises(RwLock<Arc<Counts>>);

type Counts = BTreeMap<ShardId, RaiseCount>;

/// What was known of all shards when a request was received.
#[derive(Clone, Debug)]
pub struct Received(Arc<Counts>);

impl Received {
    /// What was known of the shard of the request.
    pub fn of(&self, shard: ShardId) -> Receipt {
        Receipt::new(self.0.get(&shard).copied())
    }
}

impl Raises {
    /// Returns what is known now, for a request that has just arrived. To be called before anything else is done for
    /// it. Whatever is done for it later, even after the process was frozen for a minute, must go by what is known now.
    pub fn receive(&self) -> Received {
        Received(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Notes that every raise of the shard up to this count is committed. The known count never goes back: two readers
    /// may report in another order than they read.
    pub fn saw(&self, shard: ShardId, count: RaiseCount) {
        if self.receive().0.get(&shard).is_none_or(|held| *held < count) {
            self.change(|counts| {
                let held = counts.entry(shard).or_insert(count);
                *held = count.max(*held);
            });
        }
    }

    /// Forgets the count of a shard, because its database was lost.
    pub fn forget(&self, shard: ShardId) {
        self.change(|counts| {
            counts.remove(&shard);
        });
    }

    /// Changes the counts. Who has received them before keeps them as they were.
    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(Arc::make_mut(&mut self.0.write().unwrap_or_else(PoisonError::into_inner)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ShardId = ShardId::new(1);

    fn uses(received: &Received, count: i64) -> bool {
        received.of(ONE).may_use(Some(RaiseCount(count)))
    }

    #[test]
    fn a_request_goes_by_what_was_known_when_it_was_received() {
        let raises = Raises::default();
        assert!(!uses(&raises.receive(), 0), "nothing is known yet");
        raises.saw(ONE, RaiseCount(5));
        let received = raises.receive();
        raises.saw(ONE, RaiseCount(6));
        assert!(uses(&received, 5) && !uses(&received, 6), "what was seen later does not count");
        raises.saw(ONE, RaiseCount(4));
        assert!(uses(&raises.receive(), 6), "an older count takes nothing back");
        raises.forget(ONE);
        assert!(!uses(&raises.receive(), 0));
    }

    #[test]
    fn what_is_known_of_one_shard_says_nothing_of_another() {
        let raises = Raises::default();
        raises.saw(ShardId::FIRST, RaiseCount(9));
        assert!(!uses(&raises.receive(), 1));
        raises.saw(ONE, RaiseCount(1));
        raises.forget(ShardId::FIRST);
        assert!(uses(&raises.receive(), 1));
    }
}
