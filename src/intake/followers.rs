//! Who waits for the next movement of which business. When it comes, thousands may want the same page of events at the same
//! moment: it is read once for all of them.

use crate::ledger::{BusinessId, ShardId};
use crate::postgres::movements::Event;
use moka::future::Cache;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a page is kept for those who want the same one. Later nobody is left who was told of the same movement.
const PAGE_IS_KEPT: Duration = Duration::from_secs(1);
/// Most events in the pages that are kept, some 300 bytes each.
const MOST_KEPT: u64 = 50_000;

/// A page of events, as those want it who were told of the same movement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Page {
    /// Whose events.
    pub(super) business: BusinessId,
    /// Only those after this number.
    pub(super) after: i64,
    /// Most events in the page.
    pub(super) limit: usize,
    /// The number of the movement that they were told of.
    pub(super) told: i64,
}

/// The numbers of the last movements of the businesses that somebody waits for, by shard.
#[derive(Debug)]
pub(super) struct Followers {
    waiting: Mutex<BTreeMap<ShardId, Followed>>,
    pages: Cache<Page, Arc<Vec<Event>>>,
}

type Followed = BTreeMap<BusinessId, watch::Sender<i64>>;

impl Followers {
    /// Nobody waits yet.
    pub(super) fn new() -> Self {
        let weigh = |_: &Page, events: &Arc<Vec<Event>>| u32::try_from(events.len()).unwrap_or(u32::MAX);
        let pages = Cache::builder().time_to_live(PAGE_IS_KEPT).weigher(weigh).max_capacity(MOST_KEPT).build();
        Self { waiting: Mutex::default(), pages }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Followed>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events of a page. All who ask at the same moment share one reading, and its failure.
    pub(super) async fn share<E: Clone + Send + Sync + 'static>(
        &self,
        page: Page,
        reading: impl Future<Output = Result<Vec<Event>, E>>,
    ) -> Result<Arc<Vec<Event>>, E> {
        let shared = self.pages.try_get_with(page, async { Ok(Arc::new(reading.await?)) }).await;
        shared.map_err(|failure: Arc<E>| E::clone(&failure))
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
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn who_waits_is_told_and_nobody_is_remembered_who_does_not() {
        let (followers, shard) = (Followers::new(), ShardId::new(3));
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

    #[tokio::test]
    async fn a_page_is_read_once_for_all_who_want_it_at_the_same_moment() {
        let (followers, read) = (Followers::new(), AtomicUsize::new(0));
        let page = Page { business: BusinessId::new(ShardId::FIRST, 7), after: 4, limit: 50, told: 5 };
        let reading = async || {
            read.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok::<_, ()>(vec![])
        };
        let share = |page| followers.share(page, reading());
        let told = join_all((0..100).map(|_| share(page))).await;
        assert!(told.iter().all(|events| events.as_ref().is_ok_and(|events| events.is_empty())));
        assert_eq!(read.load(Ordering::Relaxed), 1);
        share(Page { told: 6, ..page }).await.unwrap();
        assert_eq!(read.load(Ordering::Relaxed), 2, "there is more since");
        let failed = followers.share(Page { told: 7, ..page }, async { Err("away") }).await;
        assert_eq!(failed.err(), Some("away"));
        share(Page { told: 7, ..page }).await.unwrap();
        assert_eq!(read.load(Ordering::Relaxed), 3, "a failure is not kept");
    }
}
