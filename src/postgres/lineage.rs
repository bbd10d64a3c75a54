//! Which server is the primary. After a failover the old primary may come back as it was, and take writes that no other server
//! has. Each promotion of a standby begins a new timeline, so the old primary is known by its lower one.
//!
//! A process only knows what it has met itself. One that starts when the old primary is all that it can reach takes it for the
//! primary. It is the synchronous standby that protects then: without one, the old primary answers no COMMIT.

use super::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A server that takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Primary {
    /// The system identifier: all standbys of a primary have the same, also after they are promoted.
    pub system: i64,
    /// The timeline: higher by at least one after each promotion.
    pub timeline: u32,
}

/// The newest primary that this process has met. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Lineage(Arc<Mutex<Option<Primary>>>);

impl Lineage {
    /// Notes the primary that a session leads to. [`Error::Refused`] if it is an older one, or not of the same family.
    pub(super) fn admit(&self, met: Primary) -> Result<(), Error> {
        let mut newest = self.newest();
        match *newest {
            Some(known) if known.system != met.system => Err(Error::Refused(format!(
                "another Postgres than before: its system identifier is {}, and was {}. If that is meant, restart this process",
                met.system, known.system
            ))),
            Some(known) if known.timeline > met.timeline => Err(Error::Refused(format!(
                "this Postgres was the primary before another was promoted: it is on timeline {}, and timeline {} has begun. \
                 Keep DATABASE_URL away from it, and make it a standby of the new primary",
                met.timeline, known.timeline
            ))),
            _ => {
                *newest = Some(met);
                Ok(())
            }
        }
    }

    /// [`Error::Unknown`] if a session led to a primary, and there is a newer one by now.
    pub(super) fn confirm(&self, of_session: Option<Primary>) -> Result<(), Error> {
        if of_session.is_none() || of_session == *self.newest() {
            return Ok(());
        }
        Err(Error::Unknown("a standby was promoted meanwhile, and this was done on the old primary".to_owned()))
    }

    fn newest(&self) -> MutexGuard<'_, Option<Primary>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Primary = Primary { system: 7, timeline: 1 };
    const PROMOTED: Primary = Primary { timeline: 2, ..FIRST };

    #[test]
    fn a_primary_of_before_the_last_promotion_is_refused() {
        let lineage = Lineage::default();
        for met in [FIRST, FIRST, PROMOTED] {
            lineage.admit(met).expect("the newest so far");
        }
        let refused = lineage.clone().admit(FIRST).expect_err("the old primary");
        assert!(matches!(&refused, Error::Refused(text) if text.contains("timeline 1")), "{refused}");
        let other = lineage.admit(Primary { system: 8, timeline: 3 }).expect_err("another family");
        assert!(matches!(&other, Error::Refused(text) if text.contains("system identifier")), "{other}");
        lineage.admit(PROMOTED).expect("still the newest");
    }

    #[test]
    fn work_on_a_primary_that_is_no_longer_the_newest_is_unknown() {
        let lineage = Lineage::default();
        lineage.admit(FIRST).expect("the first");
        lineage.confirm(Some(FIRST)).expect("the newest");
        lineage.admit(PROMOTED).expect("the newest");
        assert!(matches!(lineage.confirm(Some(FIRST)), Err(Error::Unknown(_))));
        lineage.confirm(None).expect("it led to a standby, where nothing is committed");
    }
}
