//! Failpoints: named moments at which a test can make the process crash, panic or wait. They are the moments at which a
//! crash would hurt most.
//!
//! `EARMARK_FAILPOINT=before-commit=abort@3` aborts the process the third time it passes that failpoint. `=panic`
//! panics there; `=hold:2s` waits there. Reaching it is logged, so that a test can act while the process waits. Without
//! the variable nothing is armed, and passing a failpoint costs one look at an empty cell.

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
    /// Intake: it no longer waits for the reply, and is about to void the request.
    BeforeVoid,
    /// Intake: the void is committed, its answer is not sent.
    AfterVoid,
    /// Worker: a batch is gathered, and nothing is done with it yet.
    AfterGather,
    /// Worker, only step by step: the businesses are locked.
    AfterLock,
    /// Worker, only step by step: rows, balances and users are written, keys are not. Nothing is committed.
    AfterWrite,
    /// Worker: it is about to commit. At once, nothing is written yet, as one statement writes and commits.
    BeforeCommit,
    /// Worker: the commit has just returned. At once, it also passes this if the statement was refused and wrote nothing.
    AfterCommit,
    /// Worker: the batch is settled, no reply is sent.
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

/// What happens at an armed failpoint.
#[derive(Clone, Debug)]
enum Action {
    Abort,
    Panic,
    Hold(Duration),
}

/// What is armed: one action, taken the nth time that one failpoint is passed.
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
            || format!("`{text}` is not like `before-commit=abort@3`, `after-publish=panic` or `after-commit=hold:2s`");
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

/// Arms the process. To be called once, at its start.
pub fn arm(armed: Armed) {
    tracing::warn!(?armed, "a failpoint is armed: this process is under test");
    let _ = ARMED.set(armed);
}

/// Passes a failpoint: does what is armed there, if it is the nth time, and nothing otherwise.
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
