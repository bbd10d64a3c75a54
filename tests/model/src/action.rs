//! What can happen, one step at a time, and which functions of the code do it.

use std::fmt;

/// The functions whose steps the model takes, by their paths below `src/`. A test finds each of them there.
pub const FUNCTIONS: &[&str] = &[
    "intake::raises::receive",
    "intake::raises::saw",
    "intake::raises::forget",
    "intake::submit::submit",
    "intake::submit::resolve",
    "intake::submit::supersede",
    "intake::resolve::resolve",
    "intake::resolve::resolve_attempt",
    "ledger::decide::decide",
    "ledger::request::may_use",
    "postgres::allocations::find_decided",
    "postgres::allocations::void_attempts",
    "postgres::allocations::void_by_id",
    "postgres::allocations::void_keyed_many",
    "postgres::batches::settle",
    "postgres::batches::write",
    "postgres::businesses::lock_many",
    "postgres::keys::lock_many",
    "postgres::keys::raise",
    "postgres::keys::read_raises",
    "worker::disposition::perform_all",
    "worker::attempt::at_once",
    "worker::settle::from_row",
    "worker::attempt::step_by_step",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A client sends a request, and an intake receives it and takes down the count that it holds:
    /// `intake::raises::receive`.
    Receive { attempt: u8, intake: u8 },
    /// The intake publishes it for the first time, with epoch 0: `intake::submit::submit`.
    Publish { attempt: u8 },
    /// The client has gone. Its intake does not learn of it.
    Vanish { attempt: u8 },
    /// The intake reads the count: `postgres::keys::read_raises`, `intake::raises::saw`.
    ReadCount { intake: u8 },
    /// The intake starts again or has a new connection to the database: `intake::raises::forget`. What it had in hand is
    /// left where it is. That it ends there is one of the things that can happen to it.
    Forget { intake: u8 },
    /// A reply arrives: an answer, or the news that the key is in another epoch. Then the request is published again, if
    /// `ledger::request::may_use` allows it: `intake::submit::submit`.
    Hear { attempt: u8 },
    /// The intake gives up, as the time is up, the connection lost, or the reply said `voided`: `intake::submit::resolve`,
    /// `intake::resolve::resolve`. Its transaction commits: `postgres::allocations::void_keyed_many` with
    /// `postgres::keys::lock_many` and `postgres::keys::raise`, or, without a key, `postgres::allocations::void_attempts`.
    /// Unless it is `heard`, the answer to COMMIT is lost, or the intake does not live to see it.
    Resolve { attempt: u8, heard: bool },
    /// Only in mutants: the intake draws the count of a raise that it is about to commit.
    DrawCount { attempt: u8 },
    /// The intake has sent its void, which waits for the transaction in doubt.
    Wait { attempt: u8 },
    /// The intake voids a superseded attempt alone: `intake::submit::supersede`, `intake::resolve::resolve_attempt`,
    /// `postgres::allocations::void_attempts`.
    Supersede { attempt: u8 },
    /// The intake answers with what it has a proof for.
    Answer { attempt: u8 },
    /// Only in mutants: the intake answers 500 although it has no proof.
    AnswerUnproved { attempt: u8 },
    /// A worker takes messages and settles them at once, on the account that it remembers: `worker::attempt::at_once`,
    /// `ledger::decide::decide`, `postgres::batches::settle`; then it replies: `worker::disposition::perform_all`. If it is
    /// in `doubt`, the answer to the commit does not come.
    SettleAtOnce { worker: u8, batch: Batch, doubt: bool },
    /// A worker locks the business, and the key if a message has one: `worker::attempt::step_by_step`,
    /// `postgres::businesses::lock_many`, `postgres::keys::lock_many`.
    Lock { worker: u8, keyed: bool },
    /// It decides, writes, commits and replies: `worker::attempt::step_by_step`, `ledger::decide::decide`,
    /// `postgres::batches::write`, `postgres::keys::raise`, `worker::disposition::perform_all`. If it is in `doubt`, the
    /// answer to the commit does not come.
    Settle { batch: Batch, doubt: bool },
    /// Only in mutants: it replies before it commits.
    ReplyEarly { batch: Batch },
    /// The transaction ends without a trace: the worker died, Postgres undid it, or a row was there already.
    RollBack,
    /// A commit in doubt takes effect.
    LateCommit,
    /// A commit in doubt never happened.
    LateRollBack,
    /// A message that was decided before is delivered once more and answered from its row:
    /// `postgres::allocations::find_decided`, `worker::settle::from_row`.
    Redeliver { attempt: u8, message: u8 },
    /// Somebody asks what became of a request, which decides it: `postgres::allocations::void_by_id`.
    LookUp { attempt: u8 },
    /// A worker starts again, or at once did not work: it remembers nothing.
    ForgetAccount { worker: u8 },
    /// A cent is paid in.
    Deposit,
    /// Another key is raised, which counts too.
    RaiseAnother,
}

/// One or two messages that are settled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Batch {
    pub first: Pick,
    pub second: Option<Pick>,
}

/// A message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pick {
    pub attempt: u8,
    pub message: u8,
    /// The worker's clock is past its deadline. No other clock is consulted, so any message may be late at any time.
    pub late: bool,
}

impl Batch {
    pub fn picks(self) -> impl Iterator<Item = Pick> {
        std::iter::once(self.first).chain(self.second)
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.message > 0 { ", published anew" } else { "" };
        let late = if self.late { ", past its deadline" } else { "" };
        write!(f, "attempt {}{again}{late}", self.attempt)
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.second.map_or(Ok(()), |second| write!(f, " and {second}"))
    }
}

fn in_doubt(doubt: bool) -> &'static str {
    if doubt { "; COMMIT is not answered" } else { "" }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Receive { attempt, intake } => write!(f, "intake {intake} receives attempt {attempt}"),
            Self::Publish { attempt } => write!(f, "attempt {attempt} is published"),
            Self::Vanish { attempt } => write!(f, "the client of attempt {attempt} vanishes unseen"),
            Self::ReadCount { intake } => write!(f, "intake {intake} reads the count"),
            Self::Forget { intake } => write!(f, "intake {intake} forgets the count"),
            Self::Hear { attempt } => write!(f, "attempt {attempt} hears its reply"),
            Self::Resolve { attempt, heard: true } => write!(f, "attempt {attempt} is resolved"),
            Self::Resolve { attempt, heard: false } => {
                write!(f, "attempt {attempt} is resolved; COMMIT is not answered")
            }
            Self::DrawCount { attempt } => write!(f, "the count for the raise by attempt {attempt} is drawn"),
            Self::Wait { attempt } => write!(f, "the void of attempt {attempt} waits for the transaction in doubt"),
            Self::Supersede { attempt } => write!(f, "attempt {attempt} is voided alone"),
            Self::Answer { attempt } => write!(f, "attempt {attempt} is answered"),
            Self::AnswerUnproved { attempt } => write!(f, "attempt {attempt} is answered 500 without a proof"),
            Self::SettleAtOnce { worker, batch, doubt } => {
                write!(f, "worker {worker} settles {batch} at once{}", in_doubt(doubt))
            }
            Self::Lock { worker, keyed: false } => write!(f, "worker {worker} locks the business"),
            Self::Lock { worker, keyed: true } => write!(f, "worker {worker} locks the business and the key"),
            Self::Settle { batch, doubt } => write!(f, "it settles {batch}{}", in_doubt(doubt)),
            Self::ReplyEarly { batch } => write!(f, "it replies to {batch} before it commits"),
            Self::RollBack => write!(f, "it is rolled back"),
            Self::LateCommit => write!(f, "the commit in doubt takes effect"),
            Self::LateRollBack => write!(f, "the commit in doubt is undone"),
            Self::Redeliver { attempt, message } => {
                write!(f, "message {message} of attempt {attempt} comes again and is answered from its row")
            }
            Self::LookUp { attempt } => write!(f, "attempt {attempt} is voided by a look-up"),
            Self::ForgetAccount { worker } => write!(f, "worker {worker} forgets the account"),
            Self::Deposit => write!(f, "a cent is paid in"),
            Self::RaiseAnother => write!(f, "another key is raised"),
        }
    }
}
