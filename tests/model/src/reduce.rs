//! The reductions. States that behave alike from here on count as one state.
//!
//! | what is left out | why it makes no difference |
//! |---|---|
//! | the numbers of epochs | a claim is only compared with the key's epoch, and every raise gives a new epoch. So a claim is either current or never valid again |
//! | the numbers of raises | a count is only compared with the count of the key's last raise, and every raise gets a larger one. So a count is either large enough or too small, and no count at all is too small too |
//! | a reply that repeats the row | any message can be delivered again, and is then answered from its row |
//! | a reply `voided` | it makes the intake give up, which it may do at any time |
//! | a remembered account that has changed | the statement checks its number, and does nothing if it has changed. Numbers only grow, so it stays wrong |
//! | whether a client is still there, and when its answer is handed over | only the steps of clients and a promise that begins with the answer depend on it. Walks with neither leave it out |
//! | what was answered, once its rows say the same | rows do not change, and a property of its own checks that |
//! | which attempt, intake or worker is which | they are alike |

use crate::Protocol;
use crate::bounds::{Clients, Promise, States};
use crate::mutant::Mutant;
use crate::state::{Answer, Attempt, Kind, Message, Reply, Row, Stage, State, Transaction};

impl Protocol {
    pub(crate) fn reduce(&self, state: State) -> State {
        match self.bounds.states {
            States::Reduced => sort(self.representative(state)),
            States::Named => self.representative(state),
            States::AsTheyAre { .. } => state,
        }
    }

    /// Maps all states that behave alike to the same state. Attempts, intakes and workers keep their names.
    fn representative(&self, mut state: State) -> State {
        let raised = state.key.raise_count;
        let is_fresh = |held: Option<u8>| held.filter(|held| raised > 0 && *held >= raised).map(|_| 1);
        let current = u8::from(state.key.epoch > 0);
        let epoch = state.key.epoch;
        let claim = |claim: u8| if claim == epoch { current } else { 0 };
        let key_succeeded = state.key.succeeded;
        for attempt in &mut state.attempts {
            for message in &mut attempt.messages {
                message.claim = if message.row == Row::None { claim(message.claim) } else { 0 };
            }
            self.reduce_reply(attempt, claim);
            let may_go_on = matches!(attempt.reply, Reply::Stale { raise: Some(_), .. });
            attempt.held = is_fresh(attempt.held).or(may_go_on.then_some(0));
            attempt.gone &= self.clients_matter();
            self.reduce_attempt(attempt, key_succeeded);
        }
        for intake in &mut state.intakes {
            intake.held = is_fresh(intake.held);
        }
        let ignores = [Mutant::AtOnceIgnoresTheAccount, Mutant::AtOnceComparesTheBalance];
        if self.mutant.is_none_or(|mutant| !ignores.contains(&mutant)) {
            let account = state.account();
            for worker in &mut state.workers {
                worker.remembered = worker.remembered.filter(|remembered| *remembered == account);
            }
        }
        state.key.epoch = current;
        state.key.raise_count = u8::from(raised > 0);
        state.raises = state.raises.min(state.key.raise_count);
        state
    }

    fn reduce_reply(&self, attempt: &mut Attempt, claim: impl Fn(u8) -> u8) {
        if attempt.stage != Stage::Waiting {
            attempt.reply = Reply::None;
            return;
        }
        let row = attempt.last().row;
        attempt.reply = match attempt.reply {
            Reply::Stale { current, raise } if self.may_use(attempt.held, raise) => {
                return attempt.reply = Reply::Stale { current: claim(current), raise: Some(0) };
            }
            Reply::Stale { .. } => Reply::Stale { current: 0, raise: None },
            Reply::Voided => Reply::None,
            Reply::None if row == Row::Moved => Reply::Moved,
            Reply::None if row == Row::Refused => Reply::Refused,
            other => other,
        };
    }

    fn reduce_attempt(&self, attempt: &mut Attempt, key_succeeded: bool) {
        match attempt.stage {
            Stage::Unsent | Stage::Received => {}
            Stage::Waiting => {
                if attempt.last().row != Row::None && !matches!(attempt.reply, Reply::Stale { raise: Some(_), .. }) {
                    attempt.held = None;
                }
            }
            Stage::Superseded | Stage::Proved(_) => (attempt.intake, attempt.held) = (0, None),
            Stage::Answered(_) | Stage::Done => (attempt.intake, attempt.held, attempt.gone) = (0, None, false),
        }
        let is_over = match attempt.stage {
            Stage::Answered(answer) => is_true(attempt, answer, key_succeeded),
            Stage::Proved(answer) => !self.clients_matter() && is_true(attempt, answer, key_succeeded),
            Stage::Done => true,
            _ => false,
        };
        if is_over {
            *attempt = done(attempt);
        }
    }

    /// Whether the walk depends on which clients are still there, and on when answers are handed over.
    pub(crate) fn clients_matter(&self) -> bool {
        matches!(self.bounds.states, States::AsTheyAre { .. })
            || self.bounds.clients != Clients::Hedge
            || self.bounds.promise == Promise::AtTheAnswer
            || self.bounds.events
    }
}

/// Whether the rows agree with the answer, and none of them is undecided.
fn is_true(attempt: &Attempt, answer: Answer, key_succeeded: bool) -> bool {
    let rows = || attempt.sent().iter().map(|message| message.row);
    let success = if attempt.is_keyed() { key_succeeded } else { attempt.moves() == 1 };
    let agrees = match answer {
        Answer::Success => success,
        Answer::Refused | Answer::Unexpected | Answer::Unavailable => attempt.moves() == 0,
    };
    agrees && rows().all(|row| row != Row::None)
}

/// What is kept of an attempt that is over: whether it was applied.
fn done(attempt: &Attempt) -> Attempt {
    let mut done = Attempt::new(attempt.kind, attempt.asked);
    (done.stage, done.published) = (Stage::Done, 1);
    let moves = attempt.moves();
    done.messages[0] = Message { row: if moves > 0 { Row::Moved } else { Row::Voided }, moves, ..done.messages[0] };
    done.fenced = attempt.fenced && moves > 0;
    done
}

fn sort(mut state: State) -> State {
    state.workers.sort_unstable();
    if let Transaction::Open { worker, .. } = &mut state.transaction {
        *worker = 0; // It remembers nothing, and so it comes first.
    }
    let [one, other] = state.intakes;
    if one > other {
        exchange_intakes(&mut state);
    }
    state.attempts.sort_unstable();
    if one == other {
        let mut exchanged = state;
        exchange_intakes(&mut exchanged);
        exchanged.attempts.sort_unstable();
        state.attempts = state.attempts.min(exchanged.attempts);
    }
    state
}

fn exchange_intakes(state: &mut State) {
    let [one, other] = state.intakes;
    state.intakes = [other, one];
    for attempt in state.attempts.iter_mut().filter(|attempt| has_intake(attempt)) {
        attempt.intake = 1 - attempt.intake;
    }
}

fn has_intake(attempt: &Attempt) -> bool {
    attempt.kind != Kind::Nobody && matches!(attempt.stage, Stage::Received | Stage::Waiting)
}
