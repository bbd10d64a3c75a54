//! `earmark send`: carries out every line of a file exactly once, however often it is run and whatever fails in between.
//! A line is a payout, or takes one back, or settles.
//!
//! Three modules keep that promise:
//!
//! - [`identity`]: each line has an `Idempotency-Key` that is computed from the file alone. So the service recognises a
//!   line that was carried out, and answers it with the first success. No stored state is needed for this. The key of a
//!   settlement is its reference.
//! - [`journal`]: an edited line has another key and would be carried out again. So before anything is sent, the journal
//!   records what the lines are, and later refuses a changed file. It also records what is done, so that it is not sent
//!   again.
//! - [`client`]: a line is done only when an answer says what was decided. After any other answer it is sent again with
//!   the same key. Payouts are sent in bulk calls, but each under its own key: it does not matter which lines share a
//!   call. Any other line is sent in a request of its own.
//!
//! [`mod@file`] reads the file, with the help of `source`, `text`, `cells`, `columns`, `amounts` and `sheet`. It is read
//! three times: [`checked`] checks it, [`Batch::send`] sends it, [`results`] writes what became of it. So none of it is held
//! in memory but a fingerprint and a state for each line, 84 bytes. [`repeats`] looks for what seems to be done twice.
//! [`progress`] shows progress. These modules use the service only over HTTP, and share with it only the rules for what a
//! request may hold.
//!
//! A dry run goes the same way without a journal, and asks the service for answers without consequences.

pub mod amounts;
mod cells;
pub mod checked;
pub mod client;
mod columns;
pub mod file;
pub mod identity;
mod journal;
pub mod progress;
pub mod repeats;
pub mod results;
mod sheet;
pub mod source;
mod text;

use crate::ledger::Kind;
use crate::retry::Backoff;
use anyhow::{anyhow, ensure};
use checked::{Checked, Item};
use client::{Business, Called, Client, Failure, Run, Sending, Verdict};
use file::{File, Line, Rows};
use identity::{Digest, Fingerprint};
use journal::{Entry, Journal};
use progress::Progress;
use std::mem;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Most lines in a bulk call, as the service allows.
const MOST_IN_CALL: usize = 1_000;
/// Most bytes of a bulk call's body: a little less than the service allows.
const MOST_BYTES: usize = 1_000_000;
/// Most lines that are sent at once in requests of their own, in place of a bulk call.
const MOST_SINGLE: usize = 32;

/// The state of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not sent yet, or sent without an answer that says what was decided. The next run sends it.
    Undecided,
    /// It is done: paid, taken back or settled.
    Done(Receipt),
    /// A dry run says that it would be done.
    Possible,
    /// Refused, and no funds moved. The next run sends it again, because a balance may have been topped up.
    Refused(Refusal),
}

/// What the service answered to a line that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What it said.
    pub told: Told,
    /// The request that did it.
    pub request: Uuid,
}

/// What the service says to a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// To a payout: the payout user's hash.
    Hash([u8; 32]),
    /// To a reversal: how much it took back, in cents. 0 if nothing was left.
    Reversed(u32),
    /// To a settlement.
    Settled,
}

/// Why a line was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The place of the service's text among [`Batch::reasons`].
    reason: u32,
    /// The request that was refused, if it became one.
    pub request: Option<Uuid>,
}

/// A checked file, with the state of each line.
pub struct Batch {
    file: File,
    /// The file's name. Keys of lines without a reference depend on it.
    name: String,
    checked: Checked,
    /// One for each line.
    states: Vec<State>,
    reasons: Vec<String>,
    /// `None` in a dry run.
    journal: Option<Journal>,
    /// See [`Batch::replayed`].
    replayed: u64,
}

impl Batch {
    /// Opens and locks the journal of a checked file. Fails if another run has it, or if the file was changed since its
    /// first run. `name`: the file's name.
    pub fn open(file: File, checked: Checked, name: String, journal: &Path) -> anyhow::Result<Self> {
        let mut batch = Self::new(file, checked, name);
        batch.journal = Some(batch.learn(|name, items, done| Journal::open(journal, name, items, done))?);
        Ok(batch)
    }

    /// A checked file for a dry run. It learns from the journal what is done, and neither makes nor changes one.
    pub fn of_dry_run(file: File, checked: Checked, name: String, journal: &Path) -> anyhow::Result<Self> {
        let mut batch = Self::new(file, checked, name);
        batch.learn(|name, items, done| Journal::read(journal, name, items, done))?;
        Ok(batch)
    }

    fn new(file: File, checked: Checked, name: String) -> Self {
        let states = vec![State::Undecided; checked.items.len()];
        Self { file, name, checked, states, reasons: vec![], journal: None, replayed: 0 }
    }

    /// Reads a journal with the help of `reading`, and notes which lines are done.
    fn learn<T>(
        &mut self,
        reading: impl FnOnce(&str, &[Item], &mut dyn FnMut(Fingerprint, Receipt)) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let Self { name, checked: Checked { items, .. }, states, .. } = self;
        let mut places: Vec<u32> = (0..).take(items.len()).collect();
        places.sort_by_key(|place| items[*place as usize].fingerprint);
        reading(name, items, &mut |fingerprint, receipt| {
            if let Ok(at) = places.binary_search_by_key(&fingerprint, |place| items[*place as usize].fingerprint) {
                states[places[at] as usize] = State::Done(receipt);
            }
        })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What the check of the file found.
    pub fn checked(&self) -> &Checked {
        &self.checked
    }

    /// Whether nothing is done.
    pub fn is_dry_run(&self) -> bool {
        self.journal.is_none()
    }

    /// The kind, the amount in cents and the state of each line, in the order of the file. The amount of a reversal is
    /// what it has taken back, once it is done; until then, 0 stands for all that is left.
    pub fn states(&self) -> impl Iterator<Item = (Kind, i64, &State)> {
        self.checked.items.iter().zip(&self.states).map(|(item, state)| match state {
            State::Done(Receipt { told: Told::Reversed(cents), .. }) => (item.kind(), (*cents).into(), state),
            _ => (item.kind(), item.cents(), state),
        })
    }

    /// The service's text to a refusal.
    pub fn reason(&self, refusal: &Refusal) -> &str {
        &self.reasons[refusal.reason as usize]
    }

    /// The number of lines that were already done when this run first sent them, although the journal did not say so:
    /// by an interrupted run, or by another file with the same reference.
    pub fn replayed(&self) -> u64 {
        self.replayed
    }

    /// Anything in the journal that is done, for checking whether the service knows it.
    pub fn any_receipt(&self) -> Option<&Receipt> {
        self.states.iter().find_map(|state| match state {
            State::Done(receipt) => Some(receipt),
            State::Undecided | State::Possible | State::Refused(_) => None,
        })
    }

    /// Sends all undecided lines, at most `at_once` at a time, until each is decided or `stop` is cancelled. The order of
    /// the file is not kept. After `stop` it waits for the lines in flight. An error means that no further line can be sent; the states of
    /// the lines stay valid.
    pub async fn send(
        &mut self,
        client: &Client,
        at_once: usize,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let is_new = self.journal.as_ref().is_some_and(|journal| !journal.has_begun());
        let run = if self.is_dry_run() { Run::Dry } else { Run::Real };
        let Self { file, name, checked, states, reasons, journal, replayed } = self;
        if let Some(journal) = journal {
            journal.begin(name, &checked.items)?;
        }
        let mut waiting = Waiting::new(file.rows()?, name, &checked.items);
        let (size, most_calls) = (at_once.min(MOST_IN_CALL), at_once.div_ceil(MOST_IN_CALL));
        let (mut calls, mut is_read, mut maybe_done, mut failure) = (JoinSet::new(), false, false, None);
        loop {
            while !is_read && calls.len() < most_calls && !stop.is_cancelled() {
                match waiting.take(size, states) {
                    Ok(lines) if lines.is_empty() => is_read = true,
                    Ok(lines) => drop(calls.spawn(Call::new(lines).make(client.clone(), run, None, stop.clone()))),
                    Err(error) => {
                        failure.get_or_insert(error);
                        stop.cancel();
                    }
                }
            }
            let Some(made) = calls.join_next().await else { break };
            // Calls that end at about the same time share one write and fsync of the journal.
            let (mut made, mut entries, mut decided) = (vec![made?], vec![], 0);
            while let Some(more) = calls.try_join_next() {
                made.push(more?);
            }
            for Made { call, called } in made {
                let Some(Called { verdicts, after, stop: end }) = called else { continue };
                let (all, mut left, mut trouble) = (call.lines.len(), vec![], None);
                for (sent, verdict) in call.lines.into_iter().zip(verdicts) {
                    match verdict {
                        Verdict::Done { receipt, replayed: again } => {
                            maybe_done = true;
                            *replayed += u64::from(again && call.is_first);
                            states[sent.at] = State::Done(receipt);
                            entries.push(Entry::new(sent.line.number, &sent.digest, &receipt));
                        }
                        Verdict::Possible { replayed: again } => {
                            *replayed += u64::from(again);
                            states[sent.at] = State::Possible;
                        }
                        Verdict::Refused { reason, request } => {
                            let reason = place_of(reasons, reason);
                            states[sent.at] = State::Refused(Refusal { reason, request });
                        }
                        Verdict::Again { why, maybe_done: maybe } => {
                            maybe_done |= maybe;
                            trouble = Some(why);
                            left.push(sent);
                        }
                    }
                }
                decided += all - left.len();
                match (end, trouble) {
                    (Some(why), _) => {
                        failure.get_or_insert(anyhow!(why));
                        stop.cancel();
                    }
                    (None, Some(why)) => {
                        progress.trouble(&why);
                        let again = Call { lines: left, backoff: call.backoff, is_first: false };
                        calls.spawn(again.make(client.clone(), run, Some(after), stop.clone()));
                    }
                    (None, None) => {}
                }
            }
            if let Some(journal) = journal {
                journal.append(&entries)?;
            }
            progress.advance(decided as u64);
        }
        if let Some(journal) = journal
            && is_new
            && !maybe_done
        {
            // So the file may be corrected.
            journal.forget()?;
        }
        failure.map_or(Ok(()), Err)
    }
}

/// The place of a text in a list. It is added if it is not there.
fn place_of(list: &mut Vec<String>, text: String) -> u32 {
    let place = list.iter().position(|known| *known == text).unwrap_or_else(|| {
        list.push(text);
        list.len() - 1
    });
    place as u32
}

/// A line to send.
struct Sent {
    /// Its place in the file.
    at: usize,
    line: Line,
    digest: Digest,
}

/// The lines that were not sent yet. They are read from the file as they are needed.
struct Waiting<'a> {
    rows: Rows<'a>,
    name: &'a str,
    items: &'a [Item],
    /// The place of the next row.
    at: usize,
    /// Read for the next bulk call.
    payouts: Vec<Sent>,
    /// How long their part of its body is at most.
    bytes: usize,
    /// Read, and to be sent in requests of their own.
    others: Vec<Sent>,
}

impl<'a> Waiting<'a> {
    fn new(rows: Rows<'a>, name: &'a str, items: &'a [Item]) -> Self {
        Self { rows, name, items, at: 0, payouts: vec![], bytes: 0, others: vec![] }
    }

    /// Takes up to `most` undecided lines that are sent in the same way. None are left if there are none. Fails if the
    /// file is no longer the one that was checked.
    fn take(&mut self, most: usize, states: &[State]) -> anyhow::Result<Vec<Sent>> {
        while let Some(sent) = self.read(states)? {
            if sent.line.kind() != Kind::Allocate {
                self.others.push(sent);
                if self.others.len() == most.min(MOST_SINGLE) {
                    return Ok(mem::take(&mut self.others));
                }
                continue;
            }
            let bytes = most_bytes(&sent.line);
            if self.bytes + bytes > MOST_BYTES {
                self.bytes = bytes;
                return Ok(mem::replace(&mut self.payouts, vec![sent]));
            }
            self.bytes += bytes;
            self.payouts.push(sent);
            if self.payouts.len() == most {
                self.bytes = 0;
                return Ok(mem::take(&mut self.payouts));
            }
        }
        let rest = if self.payouts.is_empty() { &mut self.others } else { &mut self.payouts };
        Ok(mem::take(rest))
    }

    /// Reads on to the next undecided line.
    fn read(&mut self, states: &[State]) -> anyhow::Result<Option<Sent>> {
        loop {
            let (row, item) = match (self.rows.next().transpose()?, self.items.get(self.at)) {
                (None, None) => return Ok(None),
                (Some(Ok(row)), Some(item)) => (row, item),
                _ => return Err(anyhow!(CHANGED)),
            };
            let (at, digest) = (self.at, identity::digest(self.name, &row.line));
            self.at += 1;
            let is_same =
                item.fingerprint == identity::fingerprint(&digest) && u64::from(item.number) == row.line.number;
            ensure!(is_same, CHANGED);
            if states[at] == State::Undecided {
                return Ok(Some(Sent { at, line: row.line, digest }));
            }
        }
    }
}

/// How long a line is in the body of a bulk call, at most. A reference may have to be escaped, which doubles it at most.
fn most_bytes(line: &Line) -> usize {
    const MOST_BUT_TEXTS: usize = 200;
    let email = line.movement.email().map_or(0, |email| email.as_str().len());
    let reference = line.reference.as_ref().map_or(0, |reference| reference.as_str().len());
    MOST_BUT_TEXTS + email + 2 * reference
}

const CHANGED: &str = "the file was changed while it was being sent";

/// Lines that are sent together.
struct Call {
    lines: Vec<Sent>,
    backoff: Backoff,
    /// Whether the lines are sent for the first time in this run.
    is_first: bool,
}

/// A call that was made. `called` is `None` if it was not made any more.
struct Made {
    call: Call,
    called: Option<Called>,
}

impl Call {
    fn new(lines: Vec<Sent>) -> Self {
        Self { lines, backoff: for_answers(), is_first: true }
    }

    /// Makes the call. `after`: first waits, for at least so long.
    async fn make(mut self, client: Client, run: Run, after: Option<Duration>, stop: CancellationToken) -> Made {
        if let Some(least) = after {
            tokio::select! {
                () = stop.cancelled() => return Made { call: self, called: None },
                () = self.backoff.wait_at_least(least) => {}
            }
        }
        let key = |sent: &Sent| identity::key(&sent.line, &sent.digest);
        let lines: Vec<Sending<'_>> =
            self.lines.iter().map(|sent| Sending { line: &sent.line, key: key(sent) }).collect();
        let called = client.send(&lines, run).await;
        drop(lines);
        Made { call: self, called: Some(called) }
    }
}

/// Asks the service who pays, before anything is sent. Fails at once if the service cannot be reached: nobody waits for
/// an address that is wrong.
pub async fn business(client: &Client, progress: &Progress) -> Result<Business, String> {
    const MOST_TRIES: u32 = 3;
    let (mut backoff, mut tries) = (for_answers(), 0);
    loop {
        tries += 1;
        match client.business().await {
            Err(Failure::Again { why, after, is_answer }) if is_answer || tries < MOST_TRIES => {
                progress.trouble(&why);
                backoff.wait_at_least(after).await;
            }
            Err(Failure::Again { why, .. } | Failure::Unreachable(why) | Failure::Stop(why)) => return Err(why),
            Ok(business) => return Ok(business),
        }
    }
}

/// Asks the service whether it has carried out this request for the client's API key. Repeats until there is an answer.
pub async fn knows(client: &Client, receipt: &Receipt, progress: &Progress) -> Result<bool, String> {
    patiently(progress, async || client.knows(receipt.request).await).await
}

/// Asks until there is an answer. The error says why there is none.
async fn patiently<T>(progress: &Progress, ask: impl AsyncFn() -> Result<T, Failure>) -> Result<T, String> {
    let mut backoff = for_answers();
    loop {
        let (why, after) = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Stop(reason)) => return Err(reason),
            Err(Failure::Again { why, after, .. }) => (why, after),
            Err(Failure::Unreachable(why)) => (why, Duration::ZERO),
        };
        progress.trouble(&why);
        backoff.wait_at_least(after).await;
    }
}

/// The pauses between attempts: 200 ms at first, because a broken connection can be replaced at once, and 5 s at most,
/// so that a run continues within seconds after the service returns.
fn for_answers() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
}
