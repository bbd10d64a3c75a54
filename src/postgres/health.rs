//! Whether the database can be worked with, as [`super::watch`] finds out. A statement that takes long or finds no free
//! connection does not change it. A statement that finds its connection lost only makes the watcher ask at once.

use super::Error;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long the disk counts as full after Postgres said so. The watcher cannot see that: only a write fails. Workers and
/// intakes that have something to write try again within a second or two.
const FULL: Duration = Duration::from_secs(5);
/// The shortest time between two alarms. A refused statement is tried again and again, and each try would give one.
const ALARM_INTERVAL: Duration = Duration::from_secs(60);

/// The state of the database, as far as this process knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// Nobody has asked yet.
    Unknown,
    Away,
    Silent,
    Up,
    ReadOnly,
    Full,
    Refused,
}

impl State {
    const ALL: [Self; 7] =
        [Self::Unknown, Self::Away, Self::Silent, Self::Up, Self::ReadOnly, Self::Full, Self::Refused];

    /// Why the database cannot be worked with, in words; `None` if it can.
    fn words(self) -> Option<&'static str> {
        match self {
            Self::Up => None,
            Self::Unknown | Self::Away => Some("postgres is not reachable"),
            Self::Silent => Some("postgres does not answer in time, or waits for its standby"),
            Self::ReadOnly => Some("postgres is read-only"),
            Self::Full => Some("postgres has no disk space left"),
            Self::Refused => Some("postgres refuses this program; the log says why"),
        }
    }
}

impl From<&Error> for State {
    fn from(error: &Error) -> Self {
        match error {
            Error::ReadOnly(_) => Self::ReadOnly,
            Error::Full(_) => Self::Full,
            Error::Refused(_) | Error::Constraint { .. } | Error::Data(_) | Error::Fatal(_) => Self::Refused,
            Error::Unknown(_) => Self::Silent,
            Error::Away(_) | Error::Transient(_) | Error::TooSlow(_) => Self::Away,
        }
    }
}

/// The last known state of one schema's database. Clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The name of the schema, for the log.
    schema: String,
    /// A [`State`], by its number. At first it is [`State::Unknown`], until the watcher has asked.
    state: AtomicU8,
    /// How often the database was lost so far.
    losses: AtomicU64,
    /// Notified when the watcher has to ask at once.
    doubt: Notify,
    /// When Postgres last said that its disk is full.
    full_since: Mutex<Option<Instant>>,
    last_alarm: Mutex<Option<Instant>>,
}

impl Health {
    /// Nothing is known yet.
    pub(super) fn unknown(schema: &str) -> Self {
        Self(Arc::new(Inner { schema: schema.to_owned(), ..Inner::default() }))
    }

    /// Whether the database can be worked with.
    pub fn is_up(&self) -> bool {
        self.state() == State::Up
    }

    /// Whether the database is known to be one that cannot be worked with.
    pub fn is_away(&self) -> bool {
        !self.is_up() && !self.is_unknown()
    }

    /// Whether nobody has found out yet.
    pub(super) fn is_unknown(&self) -> bool {
        self.state() == State::Unknown
    }

    /// Why it cannot be worked with, in words; `None` if it can.
    pub fn impediment(&self) -> Option<&'static str> {
        self.state().words()
    }

    fn state(&self) -> State {
        State::ALL[usize::from(self.0.state.load(Ordering::Relaxed))]
    }

    /// How often the database was lost so far. A connection from before the last loss may lead to a server that is gone.
    pub(super) fn losses(&self) -> u64 {
        self.0.losses.load(Ordering::Relaxed)
    }

    /// Notes that the watcher had an answer.
    pub(super) fn answered(&self) {
        let full_since = *self.0.full_since.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = full_since.is_some_and(|since| since.elapsed() < FULL);
        let state = if is_full { State::Full } else { State::Up };
        if self.set(state) != state && state == State::Up {
            tracing::info!(schema = self.0.schema, "postgres answers");
        }
    }

    /// Notes an error that says why the database cannot be worked with.
    pub(super) fn failed(&self, error: &Error) {
        let state = State::from(error);
        let before = self.set(state);
        // Whoever waits for a database that was never there says so.
        if before != state && (before, state) != (State::Unknown, State::Away) {
            tracing::warn!(schema = self.0.schema, %error, "{}", state.words().unwrap_or_default());
        }
    }

    /// Sets the state, and returns the one before.
    fn set(&self, state: State) -> State {
        let before = self.0.state.swap(state as u8, Ordering::Relaxed);
        let before = State::ALL[usize::from(before)];
        if before == State::Up && state != State::Up {
            self.0.losses.fetch_add(1, Ordering::Relaxed);
        }
        before
    }

    /// Notes that a statement failed. If the server takes no writes, that counts at once. If the connection is lost, the
    /// watcher asks at once whether the server is gone.
    pub fn heard(&self, error: &Error) {
        let was_up = self.is_up();
        match error {
            Error::Full(_) => {
                *self.0.full_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                self.failed(error);
            }
            Error::ReadOnly(_) => self.failed(error),
            Error::Away(_) if !was_up => self.failed(error),
            Error::Refused(_) if was_up => self.alarm(error),
            _ => {}
        }
        if was_up && matches!(error, Error::Away(_) | Error::ReadOnly(_)) {
            self.doubt();
        }
    }

    /// Makes the watcher ask at once, over a new connection.
    pub(super) fn doubt(&self) {
        self.0.doubt.notify_one();
    }

    /// Returns when [`Self::doubt`] is called.
    pub(super) async fn doubted(&self) {
        self.0.doubt.notified().await;
    }

    fn alarm(&self, error: &Error) {
        let mut last = self.0.last_alarm.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= ALARM_INTERVAL) {
            *last = Some(Instant::now());
            tracing::error!(schema = self.0.schema, %error, "postgres refuses a statement; it is tried again over a new connection");
        }
    }
}
