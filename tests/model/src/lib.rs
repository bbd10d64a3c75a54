//! The protocol as a model: two intakes, two workers, one business with one payout user, and up to five attempts, with and
//! without one key, to allocate, reverse or settle. Every state that it can reach is looked at, and must keep every promise
//! ([`property`]). `docs/model.md` says what came out.
//!
//! **What can happen** is in [`Action`]: one step each, with the functions of the code that take it. Between any two steps
//! anything else can happen. Anybody can be frozen or stop permanently, so a step that can be taken need not be taken.
//!
//! | in the world | in the model |
//! |---|---|
//! | a message or a reply is lost, late, overtaken by another | it can arrive at any time or never |
//! | a message is repeated or delivered again | it can arrive any number of times |
//! | an intake is frozen, crashes, starts again | each attempt may stop at any step; `Forget` |
//! | a worker crashes, starts again | `RollBack`, `ForgetAccount`, or `doubt` in the middle of a commit; its messages come again |
//! | the answer to a worker's COMMIT is lost | `doubt`, then `LateCommit` or `LateRollBack` at any time. Until then it holds its locks |
//! | the answer to a void's COMMIT is lost | `Resolve` that is not `heard`. While it holds its locks it only makes others wait, and to wait is the same as to come later. So it takes effect at once |
//! | a client vanishes | `Vanish`. No step of an intake asks for it |
//! | a deadline passes | any message can be late or not, whenever a worker decides it: no clock is trusted |
//!
//! **What is one step.** Some things happen in one step here, because nobody can see the difference:
//!
//! - A request is sent and received. Until it is received, only its client knows of it, so a request that is held up on the
//!   way is the same as one that is sent later.
//! - A reply arrives and the request is published again. One task does both, from what it has.
//! - A worker takes messages and locks.
//! - A worker writes and commits. What it wrote is locked, and waiting for a lock is the same as coming later.
//! - A worker commits and replies. A reply can be late or lost anyway.
//!
//! A batch is chosen when it is decided, not when the locks are taken. So the model also has batches that the code cannot
//! form, and misses none. Acknowledgements are not steps, because a message can come again whether it was acknowledged or
//! not.
//!
//! **What is bounded**: the attempts, the messages of a batch (two), and the cents that are paid in. Crashes, repeats,
//! commits in doubt, raises and look-ups are not bounded, unless `States::AsTheyAre` says so.
//!
//! **What counts as one state** is in `reduce`. A test walks with and without the reductions, and reaches the same
//! states.

mod action;
mod bounds;
mod decide;
mod intake;
mod mutant;
mod properties;
mod reduce;
mod state;
mod walk;
mod worker;

pub use action::{Action, Batch, FUNCTIONS, Pick};
pub use bounds::{Asks, Bounds, Clients, Promise, States};
pub use decide::{CentRequest, Cents, KeyState, Verdict, WorkingCopy};
pub use mutant::Mutant;
pub use properties::property;
pub use state::*;
pub use walk::{Compared, Walked};

use stateright::{Model, Property};

/// The protocol within bounds, possibly with a mistake in it. Each attempt asks for one cent.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub bounds: Bounds,
    pub mutant: Option<Mutant>,
}

impl Protocol {
    fn start(&self) -> State {
        let Asks { keyed, plain } = self.bounds.asks;
        let attempt = |index| match index {
            index if index < self.bounds.keyed => Attempt::new(Kind::Keyed, keyed),
            index if index < self.bounds.keyed + self.bounds.plain => Attempt::new(Kind::Plain, plain),
            _ => Attempt::new(Kind::Nobody, Asked::Allocate),
        };
        assert!(self.bounds.keyed + self.bounds.plain <= MOST_ATTEMPTS);
        let (balance, given) = (self.bounds.balance, self.bounds.given);
        State {
            attempts: std::array::from_fn(attempt),
            intakes: [Intake { held: None }; INTAKES],
            // The workers have settled something before.
            workers: [Worker { remembered: Some(Account { balance, seq: 0 }) }; WORKERS],
            key: Key { exists: false, epoch: 0, raise_count: 0, succeeded: false },
            raises: 0,
            cents: Cents { balance, user: given, left: given },
            deposited: 0,
            other_raises: 0,
            transaction: Transaction::None,
            misnumbered: false,
            rewritten: false,
            ghost_raised: false,
            published_again: false,
            seen: Seen::default(),
        }
    }

    /// The state that an action leads to.
    pub fn step(&self, state: &State, action: Action) -> State {
        let mut next = *state;
        next.seen.event = None;
        let at = usize::from;
        match action {
            Action::Receive { attempt, intake } => self.receive(&mut next, at(attempt), intake),
            Action::Publish { attempt } => self.publish(&mut next, at(attempt)),
            Action::Vanish { attempt } => next.attempts[at(attempt)].gone = true,
            Action::ReadCount { intake } => next.intakes[at(intake)].held = Some(next.raises),
            Action::Forget { intake } => next.intakes[at(intake)].held = None,
            Action::Hear { attempt } => self.hear(&mut next, at(attempt)),
            Action::Resolve { attempt, heard } => self.resolve(&mut next, at(attempt), heard),
            Action::DrawCount { attempt } => {
                next.raises += 1;
                next.attempts[at(attempt)].drawn = Some(next.raises);
            }
            Action::Wait { attempt } => next.attempts[at(attempt)].waits = true,
            Action::Supersede { attempt } => self.supersede(&mut next, at(attempt)),
            Action::Answer { attempt } => {
                if let Stage::Proved(answer) = next.attempts[at(attempt)].stage {
                    self.tell(&mut next, at(attempt), answer);
                }
            }
            Action::AnswerUnproved { attempt } => self.tell(&mut next, at(attempt), Answer::Unexpected),
            Action::SettleAtOnce { worker, batch, doubt } => self.settle_at_once(&mut next, at(worker), batch, doubt),
            Action::Lock { worker, keyed } => {
                next.workers[at(worker)].remembered = None;
                next.transaction = Transaction::Open { worker, keyed };
            }
            Action::Settle { batch, doubt } => self.settle(&mut next, batch, doubt),
            Action::ReplyEarly { batch } => self.reply_early(&mut next, batch),
            Action::RollBack => next.transaction = Transaction::None,
            Action::LateCommit => self.late_commit(&mut next),
            Action::LateRollBack => self.late_roll_back(&mut next),
            Action::Redeliver { attempt, message } => self.redeliver(&mut next, attempt, message),
            Action::LookUp { attempt } => self.void_row(&mut next, at(attempt)),
            Action::ForgetAccount { worker } => next.workers[at(worker)].remembered = None,
            Action::Deposit => {
                next.cents.balance += 1;
                next.deposited += 1;
            }
            Action::RaiseAnother => {
                next.raises += 1;
                next.other_raises += 1;
            }
        }
        next
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.reduce(self.start())]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.intake_actions(state, actions);
        self.worker_actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let next = self.reduce(self.step(state, action));
        (next != *state).then_some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        match self.bounds.states {
            States::Reduced | States::Named => true,
            States::AsTheyAre { most_raises } => state.raises <= most_raises + state.other_raises,
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(self)
    }
}
