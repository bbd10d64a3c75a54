//! The only file that reads the wall clock. Everything else calls it, or is given the time as a value.

use crate::ledger::Millis;
use std::time::{SystemTime, UNIX_EPOCH};

/// The time of this machine.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Nanoseconds since 1970.
pub fn now_nanos() -> u128 {
    now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// Milliseconds since 1970.
pub fn now_millis() -> Millis {
    i64::try_from(now_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// The present moment as a date.
pub fn now_utc() -> time::OffsetDateTime {
    utc(now_millis())
}

/// Milliseconds since 1970 as a date. A moment beyond all dates gives the first or the last date.
pub fn utc(millis: Millis) -> time::OffsetDateTime {
    let since = time::Duration::milliseconds(millis);
    time::OffsetDateTime::UNIX_EPOCH.saturating_add(since)
}
