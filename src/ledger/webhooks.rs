//! What the result of a delivery does to a webhook: when the event is tried again, and when the endpoint is disabled.

use super::closed_list;
use std::time::Duration;

/// Most endpoints of a business. The table bounds them too.
pub const MOST_ENDPOINTS: i16 = 10;
/// Most events that wait for one endpoint behind its cursor. With so many the cursor stops.
pub const MOST_WAITING: i64 = 1_000;
/// Most deliveries that are kept for an endpoint.
pub const MOST_DELIVERIES: i64 = 1_000;
/// The longest URL, in characters.
pub const MOST_URL_CHARS: usize = 2_000;

/// How an endpoint stands: its last delivery was a success, or failed, or nothing is delivered.
pub const STATES: [&str; 3] = ["sound", "failing", "disabled"];

closed_list! {
    /// How a try to deliver ended.
    Delivery {
        /// With a status from 200 to 299.
        Delivered = "delivered",
        /// With any other status.
        Refused = "refused",
        /// With 410: the endpoint wants nothing more.
        Gone = "gone",
        /// Without an answer in time.
        Timeout = "timeout",
        /// Without a connection, or with one that broke.
        Unreachable = "unreachable",
        /// With nothing sent: the URL leads to an address that is not public, or is not allowed for another reason.
        Forbidden = "forbidden",
    }
}

closed_list! {
    /// Why an endpoint is disabled.
    Disabled {
        /// It answered 410.
        Gone = "gone",
        /// It failed for too long.
        Failing = "failing",
        /// Its business asked for it.
        Platform = "platform",
        /// A person did it, with the command or the console.
        Operator = "operator",
    }
}

/// How an event and its endpoint stand before a try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How often the event has failed.
    pub failures: u32,
    /// For how long the endpoint has failed; `None` if its last delivery was a success.
    pub failing_for: Option<Duration>,
}

/// What becomes of an event after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is delivered.
    Done,
    /// It waits so long, and later events go on.
    Again(Duration),
    /// It stays where it is, because the endpoint is disabled now.
    Stays,
}

/// What a try does to its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What becomes of the event.
    pub next: Next,
    /// Why the endpoint is disabled from now on; `None` if it goes on.
    pub disabled: Option<Disabled>,
    /// How long the endpoint has asked to be left alone, whatever the event.
    pub pause: Duration,
}

/// When a delivery that failed is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The pauses after the first failure, the second, and so on. The last one repeats.
    pub delays: Vec<Duration>,
    /// For how long an endpoint may fail before it is disabled.
    pub patience: Duration,
}

impl Schedule {
    /// What a try does. `asked`: the pause that the answer asked for (`Retry-After`), zero if it asked for none.
    pub fn judge(&self, delivery: Delivery, asked: Duration, standing: Standing) -> Change {
        match delivery {
            Delivery::Delivered => Change { next: Next::Done, disabled: None, pause: Duration::ZERO },
            Delivery::Gone => Change { next: Next::Stays, disabled: Some(Disabled::Gone), pause: Duration::ZERO },
            Delivery::Refused | Delivery::Timeout | Delivery::Unreachable | Delivery::Forbidden => {
                let next = Next::Again(self.delay(standing.failures).max(asked));
                let is_over = standing.failing_for.is_some_and(|time| time >= self.patience);
                Change { next, disabled: is_over.then_some(Disabled::Failing), pause: asked }
            }
        }
    }

    /// The pause after a failure that had so many before it.
    fn delay(&self, failures: u32) -> Duration {
        let place = usize::try_from(failures).unwrap_or(usize::MAX);
        self.delays.get(place).or(self.delays.last()).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn usual() -> Schedule {
        let hours = [2, 5, 10, 14, 20, 24].map(|hours| hours * HOUR);
        let first = [5, 5 * 60, 30 * 60].map(Duration::from_secs);
        Schedule { delays: [&first[..], &hours[..]].concat(), patience: 5 * 24 * HOUR }
    }

    #[test]
    fn a_failure_waits_longer_each_time_and_in_the_end_a_day() {
        let waits =
            |failures| usual().judge(Delivery::Refused, Duration::ZERO, Standing { failures, failing_for: None }).next;
        let seconds = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400, 86_400];
        for (failures, seconds) in (0..).zip(seconds) {
            assert_eq!(waits(failures), Next::Again(Duration::from_secs(seconds)), "{failures}");
        }
        assert_eq!(waits(u32::MAX), Next::Again(24 * HOUR));
    }

    #[test]
    fn each_result_does_what_it_should() {
        let (day, none) = (24 * HOUR, Duration::ZERO);
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let again = |wait| Next::Again(wait);
        for (delivery, asked, failing_for, next, disabled) in [
            (Delivery::Delivered, none, None, Next::Done, None),
            (Delivery::Delivered, none, Some(9 * day), Next::Done, None),
            (Delivery::Delivered, minute, None, Next::Done, None),
            (Delivery::Gone, minute, None, Next::Stays, Some(Disabled::Gone)),
            (Delivery::Refused, none, None, again(5 * second), None),
            (Delivery::Refused, second, None, again(5 * second), None),
            (Delivery::Refused, minute, None, again(minute), None),
            (Delivery::Timeout, none, Some(5 * day - second), again(5 * second), None),
            (Delivery::Timeout, none, Some(5 * day), again(5 * second), Some(Disabled::Failing)),
            (Delivery::Unreachable, none, Some(6 * day), again(5 * second), Some(Disabled::Failing)),
            (Delivery::Forbidden, none, None, again(5 * second), None),
        ] {
            let change = usual().judge(delivery, asked, Standing { failures: 0, failing_for });
            let pause = if matches!(next, Next::Again(_)) { asked } else { none };
            assert_eq!(change, Change { next, disabled, pause }, "{delivery:?} {asked:?} {failing_for:?}");
        }
    }

    #[test]
    fn without_delays_it_is_tried_at_once() {
        let schedule = Schedule { delays: vec![], patience: HOUR };
        let change = schedule.judge(Delivery::Timeout, Duration::ZERO, Standing::default());
        assert_eq!(change.next, Next::Again(Duration::ZERO));
    }
}
