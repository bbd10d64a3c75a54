//! The steps of the intakes and of the clients before them.

use crate::Protocol;
use crate::action::Action;
use crate::bounds::{Clients, Promise};
use crate::mutant::Mutant;
use crate::state::{Answer, Attempt, Event, Kind, PUBLICATIONS, Reply, Row, Stage, State, Transaction};

impl Protocol {
    pub(crate) fn intake_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, attempt) in (0..).zip(&state.attempts) {
            match attempt.stage {
                _ if attempt.kind == Kind::Nobody => {}
                Stage::Unsent if self.may_send(state, attempt) => {
                    actions.extend(
                        (0..).take(state.intakes.len()).map(|intake| Action::Receive { attempt: index, intake }),
                    );
                }
                Stage::Received => actions.push(Action::Publish { attempt: index }),
                Stage::Waiting => self.waiting_actions(state, index, attempt, actions),
                Stage::Superseded if !is_in_doubt(attempt) => actions.push(Action::Supersede { attempt: index }),
                Stage::Proved(_) => actions.push(Action::Answer { attempt: index }),
                Stage::Unsent | Stage::Superseded | Stage::Answered(_) | Stage::Done => {}
            }
            if attempt.is_open() && self.clients_matter() {
                actions.push(Action::Vanish { attempt: index });
            }
        }
        for (index, intake) in (0..).zip(&state.intakes) {
            if intake.held.is_none_or(|held| held < state.raises) {
                actions.push(Action::ReadCount { intake: index });
            }
            if intake.held.is_some() {
                actions.push(Action::Forget { intake: index });
            }
        }
        if state.other_raises < self.bounds.other_raises && !raises_in_doubt(state) {
            actions.push(Action::RaiseAnother);
        }
    }

    /// Whether a client sends this now.
    fn may_send(&self, state: &State, attempt: &Attempt) -> bool {
        self.bounds.clients == Clients::Hedge || !attempt.is_keyed() || !state.keyed().any(Attempt::is_open)
    }

    fn waiting_actions(&self, state: &State, index: u8, attempt: &Attempt, actions: &mut Vec<Action>) {
        // A reply `voided` makes the intake give up, which it may do at any time anyway.
        if !matches!(attempt.reply, Reply::None | Reply::Voided) {
            actions.push(Action::Hear { attempt: index });
        }
        if !self.must_wait(state, attempt) {
            actions.push(Action::Resolve { attempt: index, heard: true });
            actions.push(Action::Resolve { attempt: index, heard: false });
        } else if self.bounds.events && is_in_doubt(attempt) && !attempt.waits {
            actions.push(Action::Wait { attempt: index });
        }
        if self.bounds.look_ups && attempt.last().row == Row::None && !is_in_doubt(attempt) {
            actions.push(Action::LookUp { attempt: index });
        }
        if self.mutant == Some(Mutant::CountIsDrawnBeforeTheCommit) && attempt.drawn.is_none() {
            actions.push(Action::DrawCount { attempt: index });
        }
        if self.mutant == Some(Mutant::FiveHundredWithoutAVoid) {
            actions.push(Action::AnswerUnproved { attempt: index });
        }
    }

    /// Whether the void has to wait for another transaction: for the lock of the key, or for the row.
    fn must_wait(&self, state: &State, attempt: &Attempt) -> bool {
        match self.mutant {
            Some(Mutant::VoidDoesNotWait) if !attempt.is_keyed() => false,
            Some(Mutant::KeyIsReadWithoutItsLock) if attempt.is_keyed() => is_in_doubt(attempt),
            _ => is_in_doubt(attempt) || (attempt.is_keyed() && state.key_is_locked()),
        }
    }

    pub(crate) fn receive(&self, state: &mut State, index: usize, intake: u8) {
        let held = state.intakes[usize::from(intake)].held;
        let (after_500, after_503) = (state.seen.told_500, state.seen.told_503);
        let attempt = &mut state.attempts[index];
        (attempt.stage, attempt.intake, attempt.held) = (Stage::Received, intake, held);
        if attempt.is_keyed() {
            (attempt.after_500, attempt.after_503) = (after_500, after_503);
        }
    }

    pub(crate) fn publish(&self, state: &mut State, index: usize) {
        let held = state.intakes[usize::from(state.attempts[index].intake)].held;
        let attempt = &mut state.attempts[index];
        if self.mutant == Some(Mutant::CountIsTakenAtPublication) {
            attempt.held = held;
        }
        (attempt.stage, attempt.published) = (Stage::Waiting, 1);
    }

    pub(crate) fn hear(&self, state: &mut State, index: usize) {
        let attempt = &mut state.attempts[index];
        let reply = std::mem::replace(&mut attempt.reply, Reply::None);
        match reply {
            Reply::Moved | Reply::Replayed => self.tell(state, index, Answer::Success),
            Reply::Refused => self.tell(state, index, Answer::Refused),
            Reply::Stale { current, raise } => {
                if !self.may_use(attempt.held, raise) {
                    attempt.stage = Stage::Superseded;
                } else if usize::from(attempt.published) < PUBLICATIONS {
                    attempt.published += 1;
                    attempt.last_mut().claim = current;
                    self.notice(state, Event::PublishedAnew);
                } else {
                    state.published_again = true;
                }
            }
            Reply::None | Reply::Voided => {}
        }
    }

    /// `Receipt::may_use`: the epoch was raised before the request was received.
    pub fn may_use(&self, held: Option<u8>, raise: Option<u8>) -> bool {
        self.mutant == Some(Mutant::StaleTakesAnyEpoch)
            || matches!((raise, held), (Some(raise), Some(held)) if raise <= held)
    }

    pub(crate) fn resolve(&self, state: &mut State, index: usize, heard: bool) {
        let answer = if state.attempts[index].is_keyed() {
            self.void_keyed(state, index, heard)
        } else {
            self.void_plain(state, index)
        };
        if heard {
            self.prove(state, index, answer);
        }
    }

    fn void_plain(&self, state: &mut State, index: usize) -> Answer {
        if self.mutant == Some(Mutant::VoidDoesNotWait) && is_in_doubt(&state.attempts[index]) {
            return Answer::Unexpected; // It saw no row.
        }
        self.void_row(state, index);
        by_row(state.attempts[index].last().row, Answer::Unexpected)
    }

    /// The transaction of `void_keyed_many`, for one request: what it does for several is the same one after the other.
    fn void_keyed(&self, state: &mut State, index: usize, heard: bool) -> Answer {
        state.key.exists = true;
        self.void_row(state, index);
        let row = state.attempts[index].last().row;
        if state.key.succeeded {
            return by_row(row, Answer::Success);
        }
        if self.mutant != Some(Mutant::ResolutionDoesNotRaise) {
            match state.attempts[index].drawn.take() {
                Some(count) => (state.key.epoch, state.key.raise_count) = (state.key.epoch + 1, count),
                None => self.raise(state),
            }
        }
        let is_promise = match self.bounds.promise {
            Promise::AtEveryVoid => true,
            Promise::AtTheProof => row == Row::Voided,
            Promise::AtTheAnswer => false,
        };
        if is_promise {
            state.fence();
        }
        if heard {
            let held = &mut state.intakes[usize::from(state.attempts[index].intake)].held;
            *held = (*held).max(Some(state.key.raise_count));
        }
        by_row(row, Answer::Unexpected)
    }

    pub(crate) fn void_row(&self, state: &mut State, index: usize) {
        let message = usize::from(state.attempts[index].published) - 1;
        let is_new = state.insert_row(index, message, Row::Voided);
        if !is_new && self.mutant == Some(Mutant::VoidReplacesTheRow) {
            let row = &mut state.attempts[index].messages[message].row;
            state.rewritten |= *row != Row::Voided;
            *row = Row::Voided;
        }
    }

    pub(crate) fn raise(&self, state: &mut State) {
        let (stored, counted) = (state.key.raise_count, state.raises);
        state.raise_key();
        match self.mutant {
            Some(Mutant::RaiseIsNotStored) => state.key.raise_count = stored,
            Some(Mutant::RaiseIsNotCounted) => (state.raises, state.key.raise_count) = (counted, counted),
            _ => {}
        }
    }

    fn prove(&self, state: &mut State, index: usize, answer: Answer) {
        let attempt = &mut state.attempts[index];
        let waited = std::mem::take(&mut attempt.waits);
        match answer {
            Answer::Success | Answer::Refused => {
                let late = if attempt.last().row == Row::Moved { Event::LateSuccess } else { Event::LateReplay };
                if answer == Answer::Success {
                    let after_doubt = waited && late == Event::LateSuccess;
                    self.notice(state, if after_doubt { Event::LateCommitAfterAVoidWaited } else { late });
                }
                self.tell(state, index, answer);
            }
            Answer::Unexpected | Answer::Unavailable => attempt.stage = Stage::Proved(answer),
        }
    }

    pub(crate) fn supersede(&self, state: &mut State, index: usize) {
        if self.mutant != Some(Mutant::SupersededWithoutAVoid) {
            self.void_row(state, index);
        }
        let answer = by_row(state.attempts[index].last().row, Answer::Unavailable);
        self.prove(state, index, answer);
        if answer == Answer::Unavailable {
            self.notice(state, Event::Superseded);
        }
    }

    /// Hands an answer to the client. The promise of a 500 is due from here on at the latest.
    pub(crate) fn tell(&self, state: &mut State, index: usize, answer: Answer) {
        let attempt = &mut state.attempts[index];
        attempt.stage = Stage::Answered(answer);
        if attempt.gone || !attempt.is_keyed() {
            return;
        }
        if answer == Answer::Unexpected && self.bounds.promise == Promise::AtTheAnswer {
            state.fence();
        }
        if self.bounds.events {
            state.seen.told_500 |= answer == Answer::Unexpected;
            state.seen.told_503 |= answer == Answer::Unavailable;
        }
    }

    pub(crate) fn notice(&self, state: &mut State, event: Event) {
        if self.bounds.events {
            state.seen.event = Some(event);
        }
    }
}

/// The answer that the row leads to. `if_void` if the row is a void.
fn by_row(row: Row, if_void: Answer) -> Answer {
    match row {
        Row::Moved => Answer::Success,
        Row::Refused => Answer::Refused,
        Row::Voided | Row::None => if_void,
    }
}

/// A transaction in doubt would write its row.
fn is_in_doubt(attempt: &Attempt) -> bool {
    attempt.published > 0 && attempt.last().late != Row::None
}

/// A transaction in doubt holds the row of the count.
fn raises_in_doubt(state: &State) -> bool {
    matches!(state.transaction, Transaction::InDoubt { raises: true, .. })
}
