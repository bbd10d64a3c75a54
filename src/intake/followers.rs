//! Who waits for the next movement of which business.

use crate::ledger::{BusinessId, ShardId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The numbers of the last movements of the businesses that somebody waits for, by shard.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<BTreeMap<ShardId, Followed>>);

type Followed = BTreeMap<BusinessId, watch::Sender<i64>>;

impl Followers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Followed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the last movement of a business, which changes when [`Self::tell`] says so; and whether nobody waited
    /// for its shard before. Then somebody has to begin to look.
    pub(super) fn follow(&self, business: BusinessId) -> (watch::Receiver<i64>, bool) {
        let mut shards = self.lock();
        let is_first = !shards.contains_key(&business.shard());
        let followed = shards.entry(business.shard()).or_default();
        let last = followed.entry(business).or_insert_with(|| watch::Sender::new(0));
        (last.subscribe(), is_first)
    }

    /// The businesses of a shard that are still waited for. `None`, and the shard is forgotten, if there is none.
    pub(super) fn businesses(&self, shard: ShardId) -> Option<Vec<BusinessId>> {
        let mut shards = self.lock();
        let followed = shards.get_mut(&shard)?;
        followed.retain(|_, last| last.receiver_count() > 0);
        let businesses: Vec<BusinessId> = followed.keys().copied().collect();
        if businesses.is_empty() {
            shards.remove(&shard);
            return None;
        }
        Some(businesses)
    }

    /// Tells those who wait the number of the last movement of a business.
    pub(super) fn tell(&self, business: BusinessId, seq: i64) {
        if let Some(last) = self.lock().get(&business.shard()).and_then(|followed| followed.get(&business)) {
            last.send_if_modified(|known| std::mem::replace(known, seq) != seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_and_nobody_is_remembered_who_does_not() {
        let (followers, shard) = (Followers::default(), ShardId::new(3));
        let business = BusinessId::new(shard, 7);
        assert_eq!(followers.businesses(shard), None);
        let (last, is_first) = followers.follow(business);
        let (other, is_next) = followers.follow(business);
        assert_eq!((is_first, is_next, followers.businesses(shard)), (true, false, Some(vec![business])));
        followers.tell(business, 5);
        assert_eq!((*last.borrow(), *other.borrow()), (5, 5));
        drop((last, other));
        assert_eq!(followers.businesses(shard), None);
        assert!(followers.follow(business).1, "it begins anew");
    }
}
