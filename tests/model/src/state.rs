//! What the model remembers: everything that anybody in the protocol knows or has stored.

use crate::decide::Cents;

/// Most attempts of a walk.
pub const MOST_ATTEMPTS: usize = 5;
pub const INTAKES: usize = 2;
pub const WORKERS: usize = 2;
/// How often an attempt can be published. A property checks that twice is enough.
pub const PUBLICATIONS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    pub attempts: [Attempt; MOST_ATTEMPTS],
    pub intakes: [Intake; INTAKES],
    pub workers: [Worker; WORKERS],
    /// The row of the one key in `idempotency_keys`.
    pub key: Key,
    /// The committed row of `key_raises`.
    pub raises: u8,
    /// The committed balances.
    pub cents: Cents,
    /// The cents that were paid in since the start.
    pub deposited: u8,
    /// How often another key was raised.
    pub other_raises: u8,
    /// The transaction of a worker that has locked the business.
    pub transaction: Transaction,
    /// A movement got another number than the next one.
    pub misnumbered: bool,
    /// A row of `allocations` was written a second time.
    pub rewritten: bool,
    /// The void of a stale attempt has raised its key's epoch.
    pub ghost_raised: bool,
    /// An attempt would have had to be published once more than `PUBLICATIONS`.
    pub published_again: bool,
    /// What has happened, for the properties that say that something does.
    pub seen: Seen,
}

/// One HTTP request: its client, the intake that received it, its messages and their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt {
    pub kind: Kind,
    pub asked: Asked,
    pub stage: Stage,
    /// Which intake received it.
    pub intake: u8,
    /// Its client has vanished. No intake ever asks for this.
    pub gone: bool,
    /// The count that its intake held when it was received.
    pub held: Option<u8>,
    pub published: u8,
    pub messages: [Message; PUBLICATIONS],
    /// The reply that is on its way to it.
    pub reply: Reply,
    /// Somebody was promised that this attempt is never applied.
    pub fenced: bool,
    /// Its void waits for a transaction in doubt.
    pub waits: bool,
    /// The count that its raise will have: only a mutant knows it before the commit.
    pub drawn: Option<u8>,
    /// Somebody was told 500, or 503, under the key before it was received.
    pub after_500: bool,
    pub after_503: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An unused place in the array.
    Nobody,
    Plain,
    Keyed,
}

/// What an attempt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Asked {
    /// A cent for the payout user.
    Allocate,
    /// A cent back of the allocation that was made before the start.
    Reverse,
    /// A cent out of the payout user's balance.
    Settle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    Unsent,
    /// Its intake has it, and has published nothing yet.
    Received,
    /// Its last message is published.
    Waiting,
    /// It was told that its key is in an epoch that it may not use.
    Superseded,
    /// Its intake has a proof, and has not answered yet.
    Proved(Answer),
    Answered(Answer),
    /// Answered, and nothing can come of it any more. Used by the reductions.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// 200
    Success,
    /// 400, a balance is too small; or 200, nothing is left that could be reversed. Neither moves anything.
    Refused,
    /// 500
    Unexpected,
    /// 503 for a stale attempt.
    Unavailable,
}

/// One message, and the row of `allocations` with its request id.
///
/// A message that was published can be delivered at any time, any number of times, in any order, or never: so nothing
/// has to be stored of where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    /// The epoch that it claims, if it has a key.
    pub claim: u8,
    pub row: Row,
    /// The row that the transaction in doubt would write.
    pub late: Row,
    /// How often it moved its cent.
    pub moves: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Row {
    None,
    Moved,
    Refused,
    Voided,
}

/// A reply of a worker. Like a message it may never arrive; a second one is thrown away, as nobody waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reply {
    None,
    Moved,
    Refused,
    Voided,
    Replayed,
    /// `raise` is none if the key was raised by the batch that says so.
    Stale {
        current: u8,
        raise: Option<u8>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Intake {
    /// The count that it holds.
    pub held: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Worker {
    /// The account that it remembers of its last commit.
    pub remembered: Option<Account>,
}

/// A business as a worker remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    pub balance: i8,
    /// The number of its last movement.
    pub seq: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub exists: bool,
    pub epoch: u8,
    /// The count with which it came into its epoch.
    pub raise_count: u8,
    /// A request under it has moved money.
    pub succeeded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transaction {
    None,
    /// A worker has locked the business, and the key if `keyed`.
    Open {
        worker: u8,
        keyed: bool,
    },
    /// COMMIT was sent and not answered. The transaction holds its locks until it takes effect or is undone.
    /// `Message::late` has what it would write. `raises`: it would raise the key too.
    InDoubt {
        keyed: bool,
        raises: bool,
    },
}

/// What the last step has done, and which answers were ever given. Only walks that ask for it fill this in, because it
/// multiplies the states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seen {
    pub told_500: bool,
    pub told_503: bool,
    pub event: Option<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    RetryAfter500Allocated,
    RetryAfter503Allocated,
    GhostIsStale,
    GhostIsAllocated,
    LateCommitAfterAVoidWaited,
    LateSuccess,
    LateReplay,
    SettledAtOnce,
    AnsweredFromItsRow,
    RaisedByTheWorker,
    Superseded,
    PublishedAnew,
}

impl Attempt {
    pub const fn new(kind: Kind, asked: Asked) -> Self {
        let message = Message { claim: 0, row: Row::None, late: Row::None, moves: 0 };
        Self {
            kind,
            asked,
            stage: Stage::Unsent,
            intake: 0,
            gone: false,
            held: None,
            published: 0,
            messages: [message; PUBLICATIONS],
            reply: Reply::None,
            fenced: false,
            waits: false,
            drawn: None,
            after_500: false,
            after_503: false,
        }
    }

    pub fn is_keyed(&self) -> bool {
        self.kind == Kind::Keyed
    }

    pub fn is_received(&self) -> bool {
        self.kind != Kind::Nobody && self.stage != Stage::Unsent
    }

    /// Its client would still hear an answer.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Received | Stage::Waiting | Stage::Superseded | Stage::Proved(_)) && !self.gone
    }

    /// The messages that were published.
    pub fn sent(&self) -> &[Message] {
        &self.messages[..usize::from(self.published)]
    }

    /// The message that it waits for.
    pub fn last(&self) -> &Message {
        &self.messages[usize::from(self.published) - 1]
    }

    pub fn last_mut(&mut self) -> &mut Message {
        &mut self.messages[usize::from(self.published) - 1]
    }

    /// How many cents all its messages together moved.
    pub fn moves(&self) -> u8 {
        self.messages.iter().map(|message| message.moves).sum()
    }
}

impl State {
    /// The account that is committed. Each movement and each deposit has a number.
    pub fn account(&self) -> Account {
        let moves: u8 = self.attempts.iter().map(Attempt::moves).sum();
        Account { balance: self.cents.balance, seq: self.deposited + moves }
    }

    pub fn keyed(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.is_keyed())
    }

    /// Writes a row as `INSERT … ON CONFLICT DO NOTHING` does: the first one stays.
    pub fn insert_row(&mut self, attempt: usize, message: usize, row: Row) -> bool {
        let stored = &mut self.attempts[attempt].messages[message].row;
        let is_new = *stored == Row::None;
        if is_new {
            *stored = row;
        }
        is_new
    }

    /// Raises the key's epoch, as `postgres::keys::raise` does.
    pub fn raise_key(&mut self) {
        self.key.epoch += 1;
        self.raises += 1;
        self.key.raise_count = self.raises;
    }

    /// Whether the key is locked by a transaction of a worker.
    pub fn key_is_locked(&self) -> bool {
        matches!(self.transaction, Transaction::Open { keyed: true, .. } | Transaction::InDoubt { keyed: true, .. })
    }

    /// Promises that no attempt under the key which was received until now is ever applied.
    pub fn fence(&mut self) {
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.is_keyed() && attempt.is_received()) {
            attempt.fenced = true;
        }
    }
}
