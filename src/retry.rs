//! Waiting between tries: exponential, with jitter, without end. The only place that knows the `backoff` crate, and only
//! its intervals: its own retry loop would take every error for a passing one, an unknown commit among them, and would
//! stop after fifteen minutes.

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use std::time::Duration;

/// The wait before the next try.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// Waits of about `first`, then half as long again each time, up to about `longest`.
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

    pub async fn wait(&mut self) {
        self.wait_at_least(Duration::ZERO).await;
    }

    /// The same, if the other side has asked for a longer wait.
    pub async fn wait_at_least(&mut self, least: Duration) {
        let longest = self.0.max_interval;
        tokio::time::sleep(self.0.next_backoff().unwrap_or(longest).max(least)).await;
    }

    pub fn reset(&mut self) {
        self.0.reset();
    }
}
