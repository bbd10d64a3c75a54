//! `earmark send`: pays every line of a file exactly once, however often it is run and whatever fails in between.
//!
//! Three modules keep that promise:
//!
//! - [`identity`]: each line has an `Idempotency-Key` that is computed from the file alone. So the service recognises a
//!   line that was paid, and answers it with the first success. No stored state is needed for this.
//! - [`journal`]: an edited line has another key and would be paid again. So before anything is sent, the journal
//!   records what the lines are, and later refuses a changed file. It also records payments, so that they are not sent
//!   again.
//! - [`client`]: a line is done only when an answer says what was decided. After any other answer it is sent again with
//!   the same key.
//!
//! [`mod@file`] reads and checks the file, [`progress`] shows progress, [`results`] sums up. These modules use the
//! service only over HTTP, and share with it only the rules for an email, an amount and a reference.

pub mod client;
pub mod file;
mod identity;
mod journal;
pub mod progress;
pub mod results;

use crate::retry::Backoff;
use anyhow::anyhow;
use client::{Attempt, Client};
use file::Line;
use futures_util::{StreamExt, future, stream};
use journal::Journal;
use progress::Progress;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The state of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not sent yet, or sent without an answer that says what was decided. The next run sends it.
    Undecided,
    /// It is paid.
    Paid(Receipt),
    /// Refused, and no funds moved. The next run sends it again, because a balance may have been topped up.
    Refused(Refusal),
}

/// What the service answered to a line that is paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The payout user's hash: 64 hexadecimal digits.
    pub hash: String,
    /// The request that paid or refused it.
    pub request_id: String,
}

/// Why a line was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The service's text.
    pub reason: String,
    /// The request that paid or refused it.
    pub request_id: String,
}

/// A checked file, with the state of each line.
pub struct Batch {
    /// The file's name. Keys of lines without a reference depend on it.
    name: String,
    lines: Vec<Line>,
    /// One for each line.
    states: Vec<State>,
    journal: Journal,
    /// See [`Batch::replayed`].
    replayed: u64,
}

/// A line's state after all attempts of a run. `replayed`: the first attempt was answered with an earlier run's
/// success.
struct Delivery {
    state: State,
    replayed: bool,
}

impl Batch {
    /// Opens and locks the journal of a checked file. Fails if another run has it, or if the file was changed since its
    /// first run.
    pub fn open(path: &Path, lines: Vec<Line>) -> anyhow::Result<Self> {
        let name = identity::file_name(path);
        let (journal, mut paid) = Journal::open(path, &name, &lines)?;
        let known = |line| paid.remove(&identity::digest(&name, line)).map_or(State::Undecided, State::Paid);
        let states = lines.iter().map(known).collect();
        Ok(Self { name, lines, states, journal, replayed: 0 })
    }

    /// All lines with their states, in the order of the file.
    pub fn lines(&self) -> impl Iterator<Item = (&Line, &State)> {
        self.lines.iter().zip(&self.states)
    }

    /// The number of lines that were already paid when this run first sent them, although the journal did not say so:
    /// an interrupted run paid them, or another file with the same reference.
    pub fn replayed(&self) -> u64 {
        self.replayed
    }

    /// Any payment in the journal, for checking whether the service knows it.
    pub fn any_receipt(&self) -> Option<&Receipt> {
        self.states.iter().find_map(|state| match state {
            State::Paid(receipt) => Some(receipt),
            State::Undecided | State::Refused(_) => None,
        })
    }

    /// Sends all undecided lines, at most `concurrency` at a time, until each is decided or `stop` is cancelled. After
    /// `stop` it waits for the lines in flight. An error means that no further line can be sent; the states of
    /// the lines stay valid.
    pub async fn send(
        &mut self,
        client: &Client,
        concurrency: usize,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        self.journal.begin(&self.name, &self.lines)?;
        let Self { name, lines, states, journal, replayed } = self;
        let waiting: Vec<usize> = (0..lines.len()).filter(|&at| states[at] == State::Undecided).collect();
        let deliver = |at: usize| {
            let (line, key) = (&lines[at], identity::key(name, &lines[at]));
            async move { (at, deliver(client, &key, line, progress, stop).await) }
        };
        let wanted = stream::iter(waiting).take_while(|_| future::ready(!stop.is_cancelled()));
        // Lines that are decided at about the same time share one write and fsync of the journal.
        let mut delivering = wanted.map(deliver).buffer_unordered(concurrency).ready_chunks(concurrency);
        let mut failure = None;
        while let Some(chunk) = delivering.next().await {
            let (count, mut entries) = (chunk.len(), vec![]);
            for (at, delivered) in chunk {
                match delivered {
                    Ok(delivery) => {
                        *replayed += u64::from(delivery.replayed);
                        states[at] = delivery.state;
                        entries.extend(journal::entry(name, &lines[at], &states[at]));
                    }
                    Err(reason) => {
                        stop.cancel();
                        failure.get_or_insert(anyhow!(reason));
                    }
                }
            }
            journal.append(&entries)?;
            progress.advance(count);
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Sends a line until it is decided or `stop` is cancelled. An error means that no line can be sent; it says why.
async fn deliver(
    client: &Client,
    key: &str,
    line: &Line,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Delivery, String> {
    let mut backoff = for_answers();
    let mut is_first = true;
    loop {
        let state = match client.attempt(key, line).await {
            Attempt::Paid { receipt, replayed } => {
                return Ok(Delivery { state: State::Paid(receipt), replayed: replayed && is_first });
            }
            Attempt::Refused(refusal) => State::Refused(refusal),
            Attempt::Stop(reason) => return Err(reason),
            Attempt::Again { why, after } => {
                progress.trouble(&why);
                is_first = false;
                tokio::select! {
                    () = stop.cancelled() => State::Undecided,
                    () = backoff.wait_at_least(after) => continue,
                }
            }
        };
        return Ok(Delivery { state, replayed: false });
    }
}

/// Asks the service whether it has made this payment for the client's API key. Repeats until there is an answer.
pub async fn knows(client: &Client, receipt: &Receipt, progress: &Progress) -> Result<bool, String> {
    let mut backoff = for_answers();
    loop {
        match client.look_up(&receipt.request_id).await {
            client::Found::Allocated => return Ok(true),
            client::Found::Unknown => return Ok(false),
            client::Found::Stop(reason) => return Err(reason),
            client::Found::Again { why, after } => {
                progress.trouble(&why);
                backoff.wait_at_least(after).await;
            }
        }
    }
}

/// The pauses between attempts: 200 ms at first, because a broken connection can be replaced at once, and 5 s at most,
/// so that a run continues within seconds after the service returns.
fn for_answers() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
}
