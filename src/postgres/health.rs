//! Whether the database can be worked with, as [`super::watch`] finds it. A statement that takes long, or finds no free
//! connection, does not change it; a statement that finds its connection gone only makes the watcher ask at once.

use super::Error;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// For how long after it said so the disk counts as full. A look at the server does not tell, only the next write does; those
/// who have something to write try again within a second or two.
const FULL: Duration = Duration::from_secs(5);
/// The least time between two alarms. What is refused is asked for again and again.
const ALARM_INTERVAL: Duration = Duration::from_secs(60);

/// How the database is, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Away,
    Up,
    ReadOnly,
    Full,
    Refused,
}

impl State {
    const ALL: [Self; 5] = [Self::Away, Self::Up, Self::ReadOnly, Self::Full, Self::Refused];

    /// What it keeps this program from, in words.
    fn words(self) -> Option<&'static str> {
        match self {
            Self::Up => None,
            Self::Away => Some("postgres is not reachable"),
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
            Error::Away(_) | Error::Transient(_) | Error::TooSlow(_) | Error::Unknown(_) => Self::Away,
        }
    }
}

/// How the database was when last heard of. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// A [`State`], by its number. Nothing is known at first, which is as good as away.
    state: AtomicU8,
    /// How often it was lost so far.
    losses: AtomicU64,
    /// Somebody has met a connection that is gone.
    doubt: Notify,
    /// When somebody last said that the disk is full.
    full_since: Mutex<Option<Instant>>,
    last_alarm: Mutex<Option<Instant>>,
}

impl Health {
    /// Whether the database can be worked with.
    pub fn is_up(&self) -> bool {
        self.state() == State::Up
    }

    /// Why it cannot be worked with, in words; `None` if it can.
    pub fn impediment(&self) -> Option<&'static str> {
        self.state().words()
    }

    fn state(&self) -> State {
        State::ALL[usize::from(self.0.state.load(Ordering::Relaxed))]
    }

    /// How often the database was lost so far. A connection of before the last time may lead to what is not there any more.
    pub(super) fn losses(&self) -> u64 {
        self.0.losses.load(Ordering::Relaxed)
    }

    /// The watcher has had an answer.
    pub(super) fn answered(&self) {
        let full_since = *self.0.full_since.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = full_since.is_some_and(|since| since.elapsed() < FULL);
        let state = if is_full { State::Full } else { State::Up };
        if self.set(state) != state && state == State::Up {
            tracing::info!("postgres answers");
        }
    }

    /// The watcher has had no answer, or one that says why the database cannot be worked with.
    pub(super) fn failed(&self, error: &Error) {
        let state = State::from(error);
        if self.set(state) != state {
            tracing::warn!(%error, "{}", state.words().unwrap_or_default());
        }
    }

    /// The state of before.
    fn set(&self, state: State) -> State {
        let before = self.0.state.swap(state as u8, Ordering::Relaxed);
        let before = State::ALL[usize::from(before)];
        if before == State::Up && state != State::Up {
            self.0.losses.fetch_add(1, Ordering::Relaxed);
        }
        before
    }

    /// A statement failed. If it says that the server takes no writes, that counts at once; if it says that the server is gone,
    /// the watcher finds out.
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
            tracing::error!(%error, "postgres refuses a statement; it is tried again over a new connection");
        }
    }
}
