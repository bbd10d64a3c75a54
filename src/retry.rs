//! Waits between tries: exponential, with jitter and without an end, and at least as long as the other side asks for.
//!
//! This is the only file that uses the `backoff` crate, and it uses only its intervals. The crate's own retry loop
//! would treat every error as temporary, a commit with an unknown outcome too, and would stop after fifteen minutes.

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use std::time::{Duration, SystemTime};

/// Longest wait of `earmark send` that a `Retry-After` can ask for. A server that is busy for longer can ask again.
const MOST_ASKED: Duration = Duration::from_secs(300);

/// The wait that a `Retry-After` header asks for, in whole seconds or as a date: at most five minutes. A date in the
/// past, and text that is neither, give zero; the usual wait then applies.
pub fn asked_for(retry_after: &str, now: SystemTime) -> Duration {
    asked_for_at_most(MOST_ASKED, retry_after, now)
}

/// The same, with another bound than five minutes.
pub fn asked_for_at_most(most: Duration, retry_after: &str, now: SystemTime) -> Duration {
    let text = retry_after.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let wait = match httpdate::parse_http_date(text) {
        // A number that does not fit is above the maximum anyway.
        _ if is_number => Duration::from_secs(text.parse().unwrap_or(u64::MAX)),
        Ok(date) => date.duration_since(now).unwrap_or_default(),
        Err(_) => Duration::ZERO,
    };
    wait.min(most)
}

/// The waits between tries: each is longer than the one before, with jitter.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// The first wait is about `first`, each next one 1.5 times as long, up to about `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let mut policy = ExponentialBackoff {
            initial_interval: first,
            max_interval: longest,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        policy.reset();
        Self(policy)
    }

    /// For connections: 100 ms at first, 2 s at most, so that a server is found again within seconds of its return.
    pub fn for_connections() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(2))
    }

    /// For transactions: 5 ms at first (a deadlock is over at once), 1 s at most.
    pub fn for_transactions() -> Self {
        Self::new(Duration::from_millis(5), Duration::from_secs(1))
    }

    /// Waits. The next wait is longer.
    pub async fn wait(&mut self) {
        self.wait_at_least(Duration::ZERO).await;
    }

    /// Like [`Self::wait`], but for at least `least`: what the other side has asked for.
    pub async fn wait_at_least(&mut self, least: Duration) {
        let longest = self.0.max_interval;
        tokio::time::sleep(self.0.next_backoff().unwrap_or(longest).max(least)).await;
    }

    /// Makes the next wait the first one again.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_wait_is_a_number_of_seconds_or_a_date_within_five_minutes() {
        // Wed, 21 Oct 2026 07:28:00 GMT
        let now = UNIX_EPOCH + Duration::from_secs(1_792_567_680);
        for (text, seconds) in [
            ("0", 0),
            ("1", 1),
            (" 120 ", 120),
            ("0120", 120),
            ("300", 300),
            ("301", 300),
            ("99999999999", 300),
            ("99999999999999999999999999", 300),
            ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
            ("Wednesday, 21-Oct-26 07:28:30 GMT", 30),
            ("Wed Oct 21 07:28:30 2026", 30),
            ("Wed, 21 Oct 2026 09:00:00 GMT", 300),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 300),
            ("Wed, 21 Oct 2026 07:28:00 GMT", 0),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
            ("Wed, 21 Oct 2026 07:28:30", 0),
            ("Wed, 99 Oct 2026 07:28:30 GMT", 0),
            ("", 0),
            ("-5", 0),
            ("+5", 0),
            ("1.5", 0),
            ("1e9", 0),
            ("0x10", 0),
            ("inf", 0),
            ("nan", 0),
            ("soon", 0),
            ("٣", 0),
        ] {
            assert_eq!(asked_for(text, now), Duration::from_secs(seconds), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_the_wait_has_its_bound(text in any::<String>(), digits in "[0-9]{1,25}", year in 1970..9999) {
            for text in [text, digits, format!("Wed, 21 Oct {year} 07:28:00 GMT")] {
                prop_assert!(asked_for(&text, UNIX_EPOCH) <= MOST_ASKED);
            }
        }
    }
}
