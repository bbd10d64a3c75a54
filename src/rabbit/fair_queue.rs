//! A queue that serves its owners in turn. An owner that sends a flood waits behind its own items, and hardly delays
//! the others.

use std::collections::{HashMap, VecDeque};

/// Waiting items, each with an owner. Those of one owner stay in order.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    waiting: HashMap<u128, VecDeque<T>>,
    /// The owners that have items, the next one to be served in front.
    next: VecDeque<u128>,
}

impl<T> FairQueue<T> {
    pub(super) fn new() -> Self {
        Self { waiting: HashMap::new(), next: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    pub(super) fn push(&mut self, owner: u128, item: T) {
        let own = self.waiting.entry(owner).or_default();
        if own.is_empty() {
            self.next.push_back(owner);
        }
        own.push_back(item);
    }

    /// Moves items to `taken`: one of each owner in turn, again and again, up to and including the first item for which
    /// `fills` is true.
    pub(super) fn take(&mut self, taken: &mut Vec<T>, mut fills: impl FnMut(&T) -> bool) {
        while let Some(owner) = self.next.pop_front()
            && let Some(own) = self.waiting.get_mut(&owner)
            && let Some(item) = own.pop_front()
        {
            if own.is_empty() {
                self.waiting.remove(&owner);
            } else {
                self.next.push_back(owner);
            }
            let is_last = fills(&item);
            taken.push(item);
            if is_last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(queue: &mut FairQueue<u32>, most: usize) -> Vec<u32> {
        let (mut taken, mut left) = (vec![], most);
        queue.take(&mut taken, |_| {
            left -= 1;
            left == 0
        });
        taken
    }

    #[test]
    fn a_flood_of_one_owner_delays_the_others_by_one_item_each() {
        let mut queue = FairQueue::new();
        (0..100).for_each(|item| queue.push(1, item));
        queue.push(2, 1_000);
        queue.push(2, 1_001);
        queue.push(3, 2_000);
        assert_eq!(taken(&mut queue, 5), [0, 1_000, 2_000, 1, 1_001]);
        queue.push(3, 2_001);
        assert_eq!(taken(&mut queue, 3), [2, 2_001, 3]);
    }

    #[test]
    fn all_that_was_put_in_comes_out_once_and_in_order_for_each_owner() {
        let mut queue = FairQueue::new();
        let mut left: Vec<(u128, u32)> = (0..1_000).map(|item| (u128::from(item * item % 7), item)).collect();
        left.iter().for_each(|&(owner, item)| queue.push(owner, item));
        let mut seen = HashMap::<u32, u32>::new();
        while !queue.is_empty() {
            for item in taken(&mut queue, 64) {
                let owner = item * item % 7;
                assert!(seen.insert(owner, item).is_none_or(|before| before < item));
                left.retain(|&(_, other)| other != item);
            }
        }
        assert!(left.is_empty() && queue.waiting.is_empty());
    }
}
