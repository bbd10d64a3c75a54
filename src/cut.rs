//! Cut points: the moments at which a crash would hurt most, named so that a test can make one happen there.
//!
//! `EARMARK_CUT=W4=abort@3` ends the process the third time it comes by W4; `=panic` panics, `=hold:2s` waits there (and
//! says so in the log, so that a test can do something else meanwhile). Without the variable nothing is armed, and a cut
//! point is one look at an empty cell.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where one can cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Intake: validated, nothing published.
    I1,
    /// Intake: waiter registered, about to publish.
    I2,
    /// Intake: handed to the publisher.
    I3,
    /// Intake: reply in, answer not sent.
    I5,
    /// Intake: given up waiting, about to void.
    I6,
    /// Intake: void committed, its answer not sent.
    I7,
    /// Worker: batch taken.
    W1,
    /// Worker: businesses locked.
    W2,
    /// Worker: everything written.
    W3,
    /// Worker: about to commit.
    W4,
    /// Worker: committed, in the moment after.
    W5,
    /// Worker: committed, nobody told.
    W6,
    /// Worker: replied, not acknowledged.
    W7,
}

const ALL: [Cut; 13] = [
    Cut::I1,
    Cut::I2,
    Cut::I3,
    Cut::I5,
    Cut::I6,
    Cut::I7,
    Cut::W1,
    Cut::W2,
    Cut::W3,
    Cut::W4,
    Cut::W5,
    Cut::W6,
    Cut::W7,
];

#[derive(Clone, Debug)]
enum Action {
    Abort,
    Panic,
    Hold(Duration),
}

/// What is armed: one action at one point, on its nth passing.
#[derive(Debug)]
pub struct Armed {
    cut: Cut,
    action: Action,
    nth: u64,
    passed: AtomicU64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

impl FromStr for Armed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a cut point like `W4=abort@3`, `I3=panic`, `W5=hold:2s`");
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let cut = ALL.into_iter().find(|cut| format!("{cut:?}") == name).ok_or_else(wrong)?;
        let (action, nth) = rest.split_once('@').unwrap_or((rest, "1"));
        let action = match action.split_once(':') {
            None if action == "abort" => Action::Abort,
            None if action == "panic" => Action::Panic,
            Some(("hold", time)) => Action::Hold(humantime::parse_duration(time).map_err(|_| wrong())?),
            _ => return Err(wrong()),
        };
        let nth = nth.parse().map_err(|_| wrong())?;
        Ok(Self { cut, action, nth, passed: AtomicU64::new(0) })
    }
}

/// Arms the process, once, at its start.
pub fn arm(armed: Armed) {
    tracing::warn!(?armed, "a cut point is armed: this process is under test");
    let _ = ARMED.set(armed);
}

/// Passes a cut point.
pub async fn at(cut: Cut) {
    let Some(armed) = ARMED.get() else { return };
    if armed.cut != cut || armed.passed.fetch_add(1, Ordering::Relaxed) + 1 != armed.nth {
        return;
    }
    tracing::warn!(?cut, "cut point reached");
    match armed.action {
        Action::Abort => std::process::abort(),
        Action::Panic => panic!("cut point {cut:?}"),
        Action::Hold(time) => tokio::time::sleep(time).await,
    }
}
