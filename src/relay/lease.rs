//! The endpoints that this relay has in hand, and until when each is its own.
//!
//! A lease is counted from before the statement that takes or prolongs it. So it ends here before it ends in the
//! database, also if the process was frozen in between, and no delivery begins after another relay may have begun.

use crate::ledger::BusinessId;
use crate::postgres::webhooks::Taken;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How long an endpoint belongs to a relay that says nothing more: the time after which another takes over from a dead
/// one.
pub(super) const LEASE: Duration = Duration::from_secs(5);

type Claim = (BusinessId, Uuid, i64);

/// The time until which an endpoint belongs to this relay.
#[derive(Debug)]
pub(super) struct Lease(Mutex<Instant>);

impl Lease {
    /// Whether it still belongs to this relay.
    pub(super) fn holds(&self) -> bool {
        Instant::now() < *self.until()
    }

    fn until(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All leases of this relay in one shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases(Arc<Mutex<HashMap<Claim, Arc<Lease>>>>);

/// An endpoint in hand. Its lease is prolonged until this is dropped, also by a panic.
#[derive(Debug)]
pub(super) struct InHand {
    leases: Leases,
    claim: Claim,
    pub lease: Arc<Lease>,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.leases.all().remove(&self.claim);
    }
}

impl Leases {
    fn all(&self) -> MutexGuard<'_, HashMap<Claim, Arc<Lease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an endpoint that was taken by a statement that was sent at `since`.
    pub(super) fn add(&self, taken: &Taken, since: Instant) -> InHand {
        let (claim, lease) = ((taken.business, taken.webhook, taken.claim), Arc::new(Lease(Mutex::new(since + LEASE))));
        self.all().insert(claim, Arc::clone(&lease));
        InHand { leases: self.clone(), claim, lease }
    }

    /// The claims that are to be prolonged.
    pub(super) fn claims(&self) -> Vec<Claim> {
        self.all().keys().copied().collect()
    }

    /// Prolongs those of the `asked` claims that still `hold`, by a statement that was sent at `since`; the others end
    /// now.
    pub(super) fn prolong(&self, asked: &[Claim], hold: &[Claim], since: Instant) {
        let all = self.all();
        for claim in asked {
            if let Some(lease) = all.get(claim) {
                *lease.until() = if hold.contains(claim) { since + LEASE } else { since };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::ShardId;

    fn taken(claim: i64) -> Taken {
        Taken {
            business: BusinessId::new(ShardId::FIRST, 1),
            webhook: Uuid::nil(),
            claim,
            url: String::new(),
            secret_version: 1,
            signs_twice: false,
            cursor: 0,
            last: 0,
            waiting: 0,
            tries: 0,
            failing_millis: None,
        }
    }

    #[test]
    fn a_lease_ends_by_itself_unless_it_is_prolonged_and_at_once_if_another_has_it() {
        let (leases, now) = (Leases::default(), Instant::now());
        let long_ago = now - LEASE;
        let (one, other) = (leases.add(&taken(1), long_ago), leases.add(&taken(2), now));
        assert!(!one.lease.holds() && other.lease.holds(), "it is counted from the statement");
        let asked = leases.claims();
        let hold: Vec<Claim> = asked.iter().copied().filter(|(_, _, claim)| *claim == 1).collect();
        leases.prolong(&asked, &hold, now);
        assert!(one.lease.holds() && !other.lease.holds());
        leases.prolong(&asked, &asked, long_ago);
        assert!(!one.lease.holds());
        drop(one);
        assert_eq!(leases.claims().len(), 1, "what is dropped is not prolonged");
    }
}
