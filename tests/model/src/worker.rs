//! The steps of the workers: they settle batches at once or step by step, and commits can be in doubt.

use crate::Protocol;
use crate::action::{Action, Batch, Pick};
use crate::bounds::Promise;
use crate::decide::{CentRequest, Cents, KeyState, Verdict, WorkingCopy};
use crate::mutant::Mutant;
use crate::state::{Asked, Event, Key, Message, Reply, Row, Stage, State, Transaction};

/// Names a message: the number of its attempt, and its place among that attempt's messages.
type Name = (u8, u8);

impl Protocol {
    pub(crate) fn worker_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.transaction {
            Transaction::None => self.idle_actions(state, actions),
            Transaction::Open { keyed, .. } => {
                for batch in self.batches(state, self.mutant == Some(Mutant::StepByStepIgnoresTheRows)) {
                    if has_key(state, batch) != keyed {
                        continue;
                    }
                    actions.extend(self.doubts().map(|doubt| Action::Settle { batch, doubt }));
                    if self.mutant == Some(Mutant::ReplyBeforeTheCommit) {
                        actions.push(Action::ReplyEarly { batch });
                    }
                }
                actions.push(Action::RollBack);
            }
            Transaction::InDoubt { .. } => actions.extend([Action::LateCommit, Action::LateRollBack]),
        }
        for (index, worker) in (0..).zip(&state.workers) {
            if worker.remembered.is_some() {
                actions.push(Action::ForgetAccount { worker: index });
            }
        }
    }

    /// The steps that are possible while nobody has locked the business.
    fn idle_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let batches = self.batches(state, self.mutant == Some(Mutant::AtOnceIgnoresTheRows));
        for (index, worker) in (0..).zip(&state.workers) {
            let Some(remembered) = worker.remembered else { continue };
            let account = state.account();
            let may_be_used = match self.mutant {
                Some(Mutant::AtOnceIgnoresTheAccount) => true,
                Some(Mutant::AtOnceComparesTheBalance) => remembered.balance == account.balance,
                _ => remembered == account,
            };
            if !may_be_used {
                continue;
            }
            for &batch in batches.iter().filter(|batch| self.fits_at_once(state, remembered.balance, **batch)) {
                actions.extend(self.doubts().map(|doubt| Action::SettleAtOnce { worker: index, batch, doubt }));
            }
        }
        for worker in (0..).take(state.workers.len()) {
            for keyed in [false, true] {
                let is_undecided = |message: &Message| message.row == Row::None;
                if state.attempts.iter().any(|it| it.is_keyed() == keyed && it.sent().iter().any(is_undecided)) {
                    actions.push(Action::Lock { worker, keyed });
                }
            }
        }
        for (index, attempt) in (0..).zip(&state.attempts) {
            if attempt.stage == Stage::Waiting && attempt.reply == Reply::None && attempt.last().row != Row::None {
                actions.push(Action::Redeliver { attempt: index, message: attempt.published - 1 });
            }
        }
        if state.deposited < self.bounds.deposits {
            actions.push(Action::Deposit);
        }
    }

    fn doubts(&self) -> impl Iterator<Item = bool> {
        [false, true].into_iter().take(if self.bounds.doubts { 2 } else { 1 })
    }

    /// Every batch of undecided messages. If a batch has a decided message, the real worker rolls back, answers that
    /// message from its row, and settles the rest again. So such batches are left out here.
    fn batches(&self, state: &State, decided_too: bool) -> Vec<Batch> {
        let mut names: Vec<Name> = vec![];
        for (attempt, content) in (0..).zip(&state.attempts) {
            let open = (0..).zip(content.sent()).filter(|(_, message)| decided_too || message.row == Row::None);
            names.extend(open.map(|(message, _)| (attempt, message)));
        }
        let mut batches = vec![];
        for &first in &names {
            for first in picks(first) {
                batches.push(Batch { first, second: None });
                if self.bounds.batch < 2 {
                    continue;
                }
                let others = names.iter().filter(|other| **other != (first.attempt, first.message));
                batches
                    .extend(others.flat_map(|&name| picks(name)).map(|second| Batch { first, second: Some(second) }));
            }
        }
        batches
    }

    /// Whether `at_once` settles this batch: allocations alone. A keyed batch must create the row of its key, so that an
    /// existing row is noticed.
    fn fits_at_once(&self, state: &State, balance: i8, batch: Batch) -> bool {
        if batch.picks().any(|pick| asked_of(state, pick) != Asked::Allocate) {
            return false;
        }
        if !has_key(state, batch) {
            return true;
        }
        if state.key.exists && self.mutant != Some(Mutant::AtOnceIgnoresTheKey) {
            return false;
        }
        let claims_zero = batch.picks().all(|pick| claim_of(state, pick).is_none_or(|claim| claim == 0));
        let key = KeyState { epoch: 0, raise: Some(0), succeeded: false };
        let (_, copy) = self.decide(state, Cents { balance, ..state.cents }, key, batch);
        claims_zero && copy.key.succeeded && copy.key.epoch == 0
    }

    fn decide(&self, state: &State, cents: Cents, key: KeyState, batch: Batch) -> (Vec<(Pick, Verdict)>, WorkingCopy) {
        let mut copy = WorkingCopy::new(cents, key);
        let verdict = |pick: Pick| {
            let ask = CentRequest { asked: asked_of(state, pick), claim: claim_of(state, pick), late: pick.late };
            (pick, copy.decide(ask, self.mutant))
        };
        let verdicts = batch.picks().map(verdict).collect();
        (verdicts, copy)
    }

    pub(crate) fn settle_at_once(&self, state: &mut State, worker: usize, batch: Batch, doubt: bool) {
        let Some(remembered) = state.workers[worker].remembered.take() else { return };
        let key = KeyState { epoch: 0, raise: Some(0), succeeded: false };
        let cents = Cents { balance: remembered.balance, ..state.cents };
        let (verdicts, copy) = self.decide(state, cents, key, batch);
        let moves = verdicts.iter().any(|(_, verdict)| *verdict == Verdict::Moved);
        state.misnumbered |= moves && remembered.seq != state.account().seq;
        self.notice(state, Event::SettledAtOnce);
        self.commit(state, worker, &verdicts, &copy, doubt);
    }

    pub(crate) fn settle(&self, state: &mut State, batch: Batch, doubt: bool) {
        let Transaction::Open { worker, .. } = state.transaction else { return };
        let Key { epoch, raise_count, succeeded, .. } = state.key;
        let key = KeyState { epoch, raise: Some(raise_count), succeeded };
        let (verdicts, copy) = self.decide(state, state.cents, key, batch);
        self.commit(state, usize::from(worker), &verdicts, &copy, doubt);
    }

    fn commit(&self, state: &mut State, worker: usize, verdicts: &[(Pick, Verdict)], copy: &WorkingCopy, doubt: bool) {
        let keyed = verdicts.iter().any(|(pick, _)| claim_of(state, *pick).is_some());
        let raises = keyed && copy.key.raise.is_none();
        if doubt {
            for (pick, verdict) in verdicts {
                state.attempts[usize::from(pick.attempt)].messages[usize::from(pick.message)].late = row_of(*verdict);
                if self.mutant == Some(Mutant::FailedCommitIsTakenForARollback) {
                    self.reply(state, *pick, Reply::Refused);
                }
            }
            state.transaction = Transaction::InDoubt { keyed, raises };
            return;
        }
        self.write(state, verdicts.iter().map(|(pick, verdict)| (*pick, row_of(*verdict))), keyed, raises);
        let gives_up =
            |(pick, verdict): &(Pick, Verdict)| *verdict == Verdict::Voided && claim_of(state, *pick).is_some();
        if self.bounds.promise == Promise::AtEveryVoid && verdicts.iter().any(gives_up) {
            state.fence();
        }
        if self.mutant == Some(Mutant::AtOnceIgnoresTheAccount) {
            state.cents.balance = copy.cents.balance;
        }
        state.ghost_raised |= copy.ghost_raised;
        state.transaction = Transaction::None;
        state.workers[worker].remembered = Some(state.account());
        for (pick, verdict) in verdicts {
            self.reply(state, *pick, reply_of(*verdict));
        }
        self.notice_verdicts(state, verdicts);
    }

    /// Does what a commit does to the state.
    fn write(&self, state: &mut State, rows: impl Iterator<Item = (Pick, Row)>, keyed: bool, raises: bool) {
        state.key.exists |= keyed;
        for (pick, row) in rows {
            let (attempt, message) = (usize::from(pick.attempt), usize::from(pick.message));
            state.insert_row(attempt, message, row);
            if row == Row::Moved {
                state.cents.change(state.attempts[attempt].asked);
                state.attempts[attempt].messages[message].moves += 1;
                state.key.succeeded |= state.attempts[attempt].is_keyed();
            }
        }
        if raises {
            self.raise(state);
            if self.bounds.promise == Promise::AtEveryVoid {
                state.fence();
            }
        }
    }

    /// Delivers a worker's reply. Only an attempt that waits for this message receives it, and only once.
    fn reply(&self, state: &mut State, pick: Pick, reply: Reply) {
        let attempt = &mut state.attempts[usize::from(pick.attempt)];
        let waits_for_it = attempt.stage == Stage::Waiting && attempt.published == pick.message + 1;
        if waits_for_it && attempt.reply == Reply::None {
            attempt.reply = reply;
        }
    }

    pub(crate) fn reply_early(&self, state: &mut State, batch: Batch) {
        let Key { epoch, raise_count, succeeded, .. } = state.key;
        let (verdicts, _) =
            self.decide(state, state.cents, KeyState { epoch, raise: Some(raise_count), succeeded }, batch);
        for (pick, verdict) in verdicts {
            self.reply(state, pick, reply_of(verdict));
        }
    }

    pub(crate) fn late_commit(&self, state: &mut State) {
        let Transaction::InDoubt { keyed, raises } = state.transaction else { return };
        let late = take_late(state);
        self.write(state, late.into_iter(), keyed, raises);
        state.transaction = Transaction::None;
    }

    pub(crate) fn late_roll_back(&self, state: &mut State) {
        take_late(state);
        state.transaction = Transaction::None;
    }

    pub(crate) fn redeliver(&self, state: &mut State, attempt: u8, message: u8) {
        let reply = match state.attempts[usize::from(attempt)].messages[usize::from(message)].row {
            Row::Moved => Reply::Moved,
            Row::Refused => Reply::Refused,
            Row::Voided => Reply::Voided,
            Row::None => return,
        };
        self.reply(state, Pick { attempt, message, late: false }, reply);
        self.notice(state, Event::AnsweredFromItsRow);
    }

    fn notice_verdicts(&self, state: &mut State, verdicts: &[(Pick, Verdict)]) {
        for (pick, verdict) in verdicts {
            let attempt = &state.attempts[usize::from(pick.attempt)];
            let event = match verdict {
                Verdict::Moved if attempt.gone => Event::GhostIsAllocated,
                Verdict::Moved if attempt.after_500 => Event::RetryAfter500Allocated,
                Verdict::Moved if attempt.after_503 => Event::RetryAfter503Allocated,
                Verdict::Stale { .. } if attempt.gone => Event::GhostIsStale,
                Verdict::Voided if attempt.is_keyed() => Event::RaisedByTheWorker,
                _ => continue,
            };
            self.notice(state, event);
        }
    }
}

/// The message before its deadline and past it.
fn picks((attempt, message): Name) -> [Pick; 2] {
    [false, true].map(|late| Pick { attempt, message, late })
}

fn asked_of(state: &State, pick: Pick) -> Asked {
    state.attempts[usize::from(pick.attempt)].asked
}

fn claim_of(state: &State, pick: Pick) -> Option<u8> {
    let attempt = &state.attempts[usize::from(pick.attempt)];
    attempt.is_keyed().then(|| attempt.messages[usize::from(pick.message)].claim)
}

fn has_key(state: &State, batch: Batch) -> bool {
    batch.picks().any(|pick| claim_of(state, pick).is_some())
}

fn row_of(verdict: Verdict) -> Row {
    match verdict {
        Verdict::Moved => Row::Moved,
        Verdict::Refused => Row::Refused,
        Verdict::Voided | Verdict::Replayed | Verdict::Stale { .. } => Row::Voided,
    }
}

fn reply_of(verdict: Verdict) -> Reply {
    match verdict {
        Verdict::Moved => Reply::Moved,
        Verdict::Refused => Reply::Refused,
        Verdict::Voided => Reply::Voided,
        Verdict::Replayed => Reply::Replayed,
        Verdict::Stale { current, raise } => Reply::Stale { current, raise },
    }
}

/// Takes the rows that the transaction in doubt would write. The transaction is over then.
fn take_late(state: &mut State) -> Vec<(Pick, Row)> {
    let mut late = vec![];
    for (index, attempt) in (0..).zip(&mut state.attempts) {
        for (message, content) in (0..).zip(&mut attempt.messages) {
            let row = std::mem::replace(&mut content.late, Row::None);
            if row != Row::None {
                late.push((Pick { attempt: index, message, late: false }, row));
            }
        }
    }
    late
}
