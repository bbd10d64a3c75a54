//! Whether the database can be worked with.
//!
//! One task asks it, over a connection of its own, and only its answer counts: that somebody's statement takes long, or
//! finds no free connection, is the trouble of that one and of nobody else. Whoever meets a connection that is gone makes it
//! ask at once, over a new one.

use super::{Error, Postgres, Session, keys};
use crate::ledger::RaiseCount;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often the database is asked. Whatever fails on the way says so at once. A retry under a key may need the count of
/// a raise that another intake made, so within the second after which a client that is told `Retry-After: 1` comes again.
const PING_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is asked at once before it counts as gone. If it is gone, each time takes a moment.
const LOOKS: u32 = 3;
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

    /// Asks again and again, until `stop`. Over a connection of its own, so that it waits for nobody.
    ///
    /// On the way it reads the count of the last raise. `tell` is told each that is read, and `None` whenever the
    /// connection is another one: it may lead to another database.
    pub async fn watch(self, postgres: Postgres, stop: CancellationToken, tell: impl Fn(Option<RaiseCount>)) {
        let mut session = postgres.session();
        let (mut before, mut looks) = (None, 0);
        while !stop.is_cancelled() {
            if !session.is_open() {
                tell(None);
            }
            let since = Instant::now();
            looks += 1;
            match ask(&mut session).await {
                Ok(count) => {
                    tell(count);
                    self.answered();
                }
                // That a connection was lost says nothing of the server, nor that the next was lost while it was made.
                Err(error)
                    if self.is_up()
                        && looks < LOOKS
                        && error.may_be_the_connection()
                        && since.elapsed() < PING_INTERVAL =>
                {
                    continue;
                }
                Err(error) => {
                    tell(None);
                    self.failed(&error);
                }
            }
            looks = 0;
            drop(before.take());
            tokio::select! {
                () = tokio::time::sleep(PING_INTERVAL) => {}
                () = stop.cancelled() => {}
                // The connection of before is kept until the new one is there: where there is room for no other one, its
                // place would be the one that is found.
                () = self.0.doubt.notified() => before = Some(std::mem::replace(&mut session, postgres.session())),
            }
        }
    }

    fn answered(&self) {
        let full_since = *self.0.full_since.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = full_since.is_some_and(|since| since.elapsed() < FULL);
        let state = if is_full { State::Full } else { State::Up };
        if self.set(state) != state && state == State::Up {
            tracing::info!("postgres answers");
        }
    }

    /// What was asked by the one who watches.
    fn failed(&self, error: &Error) {
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

    /// Somebody's statement failed. That the server takes no writes counts at once, whoever says so; that it is gone, the one
    /// who watches finds out.
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

    /// Lets the one who watches ask at once, over a new connection.
    pub(super) fn doubt(&self) {
        self.0.doubt.notify_one();
    }

    fn alarm(&self, error: &Error) {
        let mut last = self.0.last_alarm.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= ALARM_INTERVAL) {
            *last = Some(Instant::now());
            tracing::error!(%error, "postgres refuses a statement; it is tried again over a new connection");
        }
    }
}

/// Whether the session is what it has to be, and the count of the last raise. That this cannot be read is no reason to
/// refuse everybody. It is read once, as a connection that is lost is just what is asked for here.
async fn ask(session: &mut Session) -> Result<Option<RaiseCount>, Error> {
    session.prove().await?;
    match session.run(keys::read_raises).await {
        Ok(count) => Ok(Some(count)),
        Err(error @ Error::Away(_)) => Err(error),
        Err(_) => Ok(None),
    }
}
