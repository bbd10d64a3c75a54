//! Shards: what each state of one lets it take, and which shard a new business goes to.

use super::{ShardId, closed_list};

closed_list! {
    /// What a shard takes.
    ShardState {
        /// Its schema is being made. Nobody uses it yet.
        Preparing = "preparing",
        /// Requests and new businesses.
        Open = "open",
        /// Requests, but no new businesses.
        Full = "full",
        /// Nothing. The requests that it has are still decided.
        Closed = "closed",
    }
}

impl ShardState {
    /// Whether the shard has its schema and its queue.
    pub fn is_ready(self) -> bool {
        match self {
            Self::Preparing => false,
            Self::Open | Self::Full | Self::Closed => true,
        }
    }

    /// Whether new requests of its businesses are taken.
    pub fn takes_requests(self) -> bool {
        match self {
            Self::Open | Self::Full => true,
            Self::Preparing | Self::Closed => false,
        }
    }

    /// Whether new businesses are taken.
    pub fn takes_businesses(self) -> bool {
        match self {
            Self::Open => true,
            Self::Preparing | Self::Full | Self::Closed => false,
        }
    }
}

/// A shard, as the directory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// What it takes.
    pub state: ShardState,
}

/// The shard for a new business: of those that take one, the one with the fewest businesses. `None` if none takes one.
pub fn choose(shards: impl IntoIterator<Item = (Shard, u64)>) -> Option<ShardId> {
    let open = shards.into_iter().filter(|(shard, _)| shard.state.takes_businesses());
    open.min_by_key(|(shard, businesses)| (*businesses, shard.id)).map(|(shard, _)| shard.id)
}

/// The number of a new shard; `None` if there is no more.
pub fn next(shards: &[Shard]) -> Option<ShardId> {
    match shards.iter().map(|shard| shard.id.number()).max() {
        None => Some(ShardId::FIRST),
        Some(last) => last.checked_add(1).map(ShardId::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(number: u8, state: ShardState) -> Shard {
        Shard { id: ShardId::new(number), state }
    }

    #[test]
    fn a_new_business_goes_to_the_open_shard_with_the_fewest() {
        use ShardState::{Closed, Full, Open, Preparing};
        let at = |states: [(ShardState, u64); 4]| {
            let shards = states.into_iter().zip(0..).map(|((state, count), number)| (shard(number, state), count));
            choose(shards).map(ShardId::number)
        };
        assert_eq!(at([(Open, 3), (Open, 1), (Open, 2), (Open, 1)]), Some(1));
        assert_eq!(at([(Open, 3), (Full, 0), (Closed, 0), (Preparing, 0)]), Some(0));
        assert_eq!(at([(Full, 0), (Full, 0), (Closed, 0), (Preparing, 0)]), None);
    }

    #[test]
    fn numbers_are_given_in_order_and_never_again() {
        assert_eq!(next(&[]), Some(ShardId::FIRST));
        assert_eq!(next(&[shard(0, ShardState::Closed), shard(4, ShardState::Open)]), Some(ShardId::new(5)));
        assert_eq!(next(&[shard(255, ShardState::Open)]), None);
    }

    #[test]
    fn a_shard_that_takes_businesses_takes_their_requests() {
        for state in ShardState::ALL {
            assert!(state.is_ready() || !state.takes_requests());
            assert!(state.takes_requests() || !state.takes_businesses());
        }
    }
}
