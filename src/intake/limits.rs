//! Limits for each API key, so that no platform starves another: a rate, a number in flight, and a number of pages of
//! the history that are read at once. The first two are off unless they are set. Each intake counts for itself.

use super::auth::KeyDigest;
use super::room::Room;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How much of its rate a key saves up while it is idle: one second's worth, which it may then use at once.
const BURST: Duration = Duration::from_secs(1);

/// The limits of each API key. `None`: no limit.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Allocations per second.
    pub rate: Option<u32>,
    /// Allocations between admission and decision.
    pub in_flight: Option<u32>,
    /// Pages of the history that are read at once.
    pub reads: u32,
}

/// The counts of each API key. Only keys that work come here, so there are never more than were issued.
#[derive(Debug)]
pub struct KeyLimits {
    bounds: Bounds,
    keys: Mutex<HashMap<KeyDigest, Count>>,
}

#[derive(Debug)]
struct Count {
    /// When all allocations that were let through so far would have arrived, had they come at exactly the allowed rate.
    paid_until: Instant,
    /// `None` if the number in flight is not limited.
    room: Option<Arc<Room>>,
    reads: Arc<Semaphore>,
}

impl KeyLimits {
    /// Limits under which nothing has been counted yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, keys: Mutex::default() }
    }

    /// Counts `allocations` against the key's rate. `Err` if that is too many now: how long to wait. Nothing is counted
    /// then.
    pub fn pass(&self, key: KeyDigest, allocations: usize) -> Result<(), Duration> {
        let Some(rate) = self.bounds.rate else { return Ok(()) };
        self.with(key, |count| pass(&mut count.paid_until, Instant::now(), rate, allocations))
    }

    /// The places in flight of a key; `None` if they are not limited.
    pub fn room(&self, key: KeyDigest) -> Option<Arc<Room>> {
        self.bounds.in_flight?;
        self.with(key, |count| count.room.clone())
    }

    /// The places for pages of the history that may be read at once for the key.
    pub fn reads(&self, key: KeyDigest) -> Arc<Semaphore> {
        self.with(key, |count| Arc::clone(&count.reads))
    }

    fn with<T>(&self, key: KeyDigest, work: impl FnOnce(&mut Count) -> T) -> T {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        work(keys.entry(key).or_insert_with(|| Count {
            paid_until: Instant::now(),
            room: self.bounds.in_flight.map(|most| Arc::new(Room::new(most as usize))),
            reads: Arc::new(Semaphore::new(self.bounds.reads as usize)),
        }))
    }
}

/// Moves `paid_until` on by what the allocations take of the rate, or says how long to wait. A bulk call of more than
/// one second's worth passes when a whole second is saved up, and the rest is charged to the time after it; otherwise
/// it would never pass.
fn pass(paid_until: &mut Instant, now: Instant, rate: u32, allocations: usize) -> Result<(), Duration> {
    let cost = |count: usize| BURST.mul_f64(count as f64 / f64::from(rate));
    let from = now.max(*paid_until);
    let at_once = cost(allocations.min(rate as usize));
    match (from + at_once).checked_duration_since(now + BURST) {
        Some(wait) if !wait.is_zero() => Err(wait),
        _ => {
            *paid_until = from + cost(allocations);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_second_s_worth_passes_at_once_and_then_as_many_as_the_rate_allows() {
        let now = Instant::now();
        let mut paid = now;
        for _ in 0..10 {
            assert!(pass(&mut paid, now, 10, 1).is_ok());
        }
        let wait = pass(&mut paid, now, 10, 1).unwrap_err();
        assert_eq!(wait.as_millis(), 100);
        assert!(pass(&mut paid, now + wait, 10, 1).is_ok());
        assert!(pass(&mut paid, now + wait, 10, 1).is_err());
        // No more than a second's worth is ever saved up.
        let later = now + 60 * SECOND;
        assert_eq!((0..99).take_while(|_| pass(&mut paid, later, 10, 1).is_ok()).count(), 10);
    }

    #[test]
    fn a_long_call_of_bulk_passes_when_a_second_is_saved_up_and_is_paid_for_afterwards() {
        let now = Instant::now();
        let mut paid = now;
        assert!(pass(&mut paid, now, 10, 1).is_ok());
        assert_eq!(pass(&mut paid, now, 10, 1_000).unwrap_err().as_millis(), 100, "one of the ten is used");
        let then = now + SECOND;
        assert!(pass(&mut paid, then, 10, 1_000).is_ok());
        let wait = pass(&mut paid, then, 10, 1).unwrap_err();
        assert_eq!(wait.as_millis(), 99_100);
        assert!(pass(&mut paid, then + wait, 10, 1).is_ok());
    }

    #[test]
    fn what_is_refused_costs_nothing_and_each_key_has_its_own() {
        let limits = KeyLimits::new(Bounds { rate: Some(5), in_flight: Some(1), reads: 1 });
        let (one, two) = ([1; 32], [2; 32]);
        assert!(limits.pass(one, 5).is_ok());
        for _ in 0..1_000 {
            assert!(limits.pass(one, 5).is_err_and(|wait| wait <= SECOND));
        }
        assert!(limits.pass(two, 5).is_ok());
        let enter = |key| limits.room(key).unwrap().enter();
        let held = enter(one);
        assert!(held.is_ok() && enter(one).is_err() && enter(two).is_ok());
        drop(held);
        assert!(enter(one).is_ok());
    }
}
