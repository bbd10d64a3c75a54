//! Finds payout users by their hashes. A hash does not say its shard, so all shards are asked at once. Where one was found
//! is remembered, because people look at their balance again and again.

use crate::ledger::{ShardId, UserHash};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use moka::future::Cache;
use tokio::sync::Semaphore;

/// How many hashes are remembered with their shards, some 100 bytes each.
const MOST_REMEMBERED: u64 = 100_000;
/// Most searches of all shards at the same time. Anybody can make up hashes, and each costs a statement in every shard.
const MOST_SEARCHES: usize = 16;

/// Finds payout users by their hashes.
pub(super) struct UserFinder {
    remembered: Cache<UserHash, ShardId>,
    searches: Semaphore,
}

impl UserFinder {
    /// A finder that remembers nothing yet.
    pub(super) fn new() -> Self {
        Self { remembered: Cache::new(MOST_REMEMBERED), searches: Semaphore::new(MOST_SEARCHES) }
    }

    /// Asks the shard where the hash was found last, then all shards. `None` if no shard knows it. If a shard cannot be
    /// asked and no other has the user, that is a failure: the user may be there.
    pub(super) async fn find<T, E, F: Future<Output = Result<Option<T>, E>>>(
        &self,
        hash: UserHash,
        shards: Vec<ShardId>,
        ask: impl Fn(ShardId) -> F,
    ) -> Result<Option<T>, E> {
        if let Some(shard) = self.remembered.get(&hash).await
            && let Some(found) = ask(shard).await?
        {
            return Ok(Some(found));
        }
        let _place = self.searches.acquire().await;
        let (mut asking, mut failure) = (FuturesUnordered::new(), None);
        for shard in shards {
            asking.push(ask(shard).map(move |answer| (shard, answer)));
        }
        while let Some((shard, answer)) = asking.next().await {
            match answer {
                Ok(Some(found)) => {
                    self.remembered.insert(hash, shard).await;
                    return Ok(Some(found));
                }
                Ok(None) => {}
                Err(failed) => failure = Some(failed),
            }
        }
        failure.map_or(Ok(None), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::future::ready;

    const ANN: UserHash = UserHash([1; 32]);

    #[tokio::test]
    async fn a_hash_is_looked_for_everywhere_once_and_then_where_it_was() {
        let (finder, asked) = (UserFinder::new(), RefCell::new(vec![]));
        let shards = || (0..4).map(ShardId::new).collect();
        let ask = |shard: ShardId| {
            asked.borrow_mut().push(shard.number());
            ready(Ok::<_, ()>((shard.number() == 2).then_some("ann")))
        };
        assert_eq!(finder.find(ANN, shards(), &ask).await, Ok(Some("ann")));
        assert!(asked.take().contains(&2));
        assert_eq!(finder.find(ANN, shards(), ask).await, Ok(Some("ann")));
        assert_eq!(asked.take(), [2]);
        let nobody = |shard: ShardId| {
            asked.borrow_mut().push(shard.number());
            ready(Ok::<Option<()>, ()>(None))
        };
        assert_eq!(finder.find(UserHash([2; 32]), shards(), nobody).await, Ok(None));
        let mut all = asked.take();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn a_shard_that_cannot_be_asked_hides_nobody_of_another() {
        let finder = UserFinder::new();
        let shards = || (0..4).map(ShardId::new).collect();
        let ask = |shard: ShardId| match shard.number() {
            1 => ready(Err("away")),
            number => ready(Ok((number == 3).then_some("ann"))),
        };
        assert_eq!(finder.find(ANN, shards(), ask).await, Ok(Some("ann")));
        let ask = |shard: ShardId| ready(if shard.number() == 1 { Err("away") } else { Ok(None::<()>) });
        assert_eq!(finder.find(UserHash([2; 32]), shards(), ask).await, Err("away"), "the user may be there");
    }
}
