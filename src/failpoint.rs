//! Failpoints: the moments at which a crash would hurt most, named so that a test can make one happen there.
//!
//! `EARMARK_FAILPOINT=before-commit=abort@3` ends the process the third time it comes by that failpoint; `=panic` panics,
//! `=hold:2s` waits there (and says so in the log, so that a test can do something else meanwhile). Without the variable
//! nothing is armed, and passing a failpoint is one look at an empty cell.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A moment at which a process can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// Intake: the request is validated, nothing is published.
    AfterValidation,
    /// Intake: the waiter is registered, the request is about to be published.
    BeforePublish,
    /// Intake: the request is handed to the publisher.
    AfterPublish,
    /// Intake: the reply has come, the answer is not sent.
    BeforeAnswer,
    /// Intake: it has given up waiting, and is about to void.
    BeforeVoid,
    /// Intake: the void is committed, its answer is not sent.
    AfterVoid,
    /// Worker: a batch is taken.
    AfterGather,
    /// Worker: the businesses are locked.
    AfterLock,
    /// Worker: everything is written.
    AfterWrite,
    /// Worker: it is about to commit.
    BeforeCommit,
    /// Worker: the commit is done, in the moment after.
    AfterCommit,
    /// Worker: the commit is done, nobody is told.
    BeforeReply,
    /// Worker: the replies are sent, nothing is acknowledged.
    BeforeAcknowledge,
}

/// Every failpoint, by its name in `EARMARK_FAILPOINT`.
const NAMES: [(&str, Failpoint); 13] = [
    ("after-validation", Failpoint::AfterValidation),
    ("before-publish", Failpoint::BeforePublish),
    ("after-publish", Failpoint::AfterPublish),
    ("before-answer", Failpoint::BeforeAnswer),
    ("before-void", Failpoint::BeforeVoid),
    ("after-void", Failpoint::AfterVoid),
    ("after-gather", Failpoint::AfterGather),
    ("after-lock", Failpoint::AfterLock),
    ("after-write", Failpoint::AfterWrite),
    ("before-commit", Failpoint::BeforeCommit),
    ("after-commit", Failpoint::AfterCommit),
    ("before-reply", Failpoint::BeforeReply),
    ("before-acknowledge", Failpoint::BeforeAcknowledge),
];

#[derive(Clone, Debug)]
enum Action {
    Abort,
    Panic,
    Hold(Duration),
}

/// What is armed: one action at one failpoint, the nth time that it is passed.
#[derive(Debug)]
pub struct Armed {
    failpoint: Failpoint,
    action: Action,
    nth: u64,
    passed: AtomicU64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

impl FromStr for Armed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is none like `before-commit=abort@3`, `after-publish=panic`, `after-commit=hold:2s`");
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (_, failpoint) = NAMES.into_iter().find(|(known, _)| *known == name).ok_or_else(wrong)?;
        let (action, nth) = rest.split_once('@').unwrap_or((rest, "1"));
        let action = match action.split_once(':') {
            None if action == "abort" => Action::Abort,
            None if action == "panic" => Action::Panic,
            Some(("hold", time)) => Action::Hold(humantime::parse_duration(time).map_err(|_| wrong())?),
            _ => return Err(wrong()),
        };
        let nth = nth.parse().map_err(|_| wrong())?;
        Ok(Self { failpoint, action, nth, passed: AtomicU64::new(0) })
    }
}

/// Arms the process, once, at its start.
pub fn arm(armed: Armed) {
    tracing::warn!(?armed, "a failpoint is armed: this process is under test");
    let _ = ARMED.set(armed);
}

/// Passes a failpoint.
pub async fn pass(failpoint: Failpoint) {
    let Some(armed) = ARMED.get() else { return };
    if armed.failpoint != failpoint || armed.passed.fetch_add(1, Ordering::Relaxed) + 1 != armed.nth {
        return;
    }
    tracing::warn!(?failpoint, "failpoint reached");
    match armed.action {
        Action::Abort => std::process::abort(),
        Action::Panic => panic!("failpoint {failpoint:?}"),
        Action::Hold(time) => tokio::time::sleep(time).await,
    }
}
