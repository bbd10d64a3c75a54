//! The client of platforms: pays every line of a file once, however often it is run and whatever breaks in between.
//!
//! Three things hold that promise:
//!
//! - [`identity`]: each line has an `Idempotency-Key` that follows from the file alone, so that the service itself answers a
//!   line that was paid with its first success. Nothing is remembered that could be lost.
//! - [`journal`]: what keys cannot know. An edited line has another key, so the journal remembers, before anything is sent,
//!   what the lines were, and refuses a file that was changed. It also saves asking again for what is paid.
//! - [`client`]: only an answer that decides ends a line. Everything else is tried again under the same key.
//!
//! [`mod@file`] reads and checks, [`progress`] shows, [`results`] sums up. This room speaks HTTP and knows nothing of the service
//! but the rules for an email and an amount.

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

/// What is known of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not known to be paid: not sent yet, or sent without an answer that decides. Running again goes on with it.
    Undecided,
    Paid(Receipt),
    /// Moved nothing. Running again asks again: a balance may have been topped up.
    Refused(Refusal),
}

/// What the service said to a line that is paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The payout user's: 64 hexadecimal digits.
    pub hash: String,
    pub request_id: String,
}

/// Why a line is not paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In the words of the service.
    pub reason: String,
    pub request_id: String,
}

/// A well-formed file, and what is known of each of its lines.
pub struct Batch {
    /// The file's name, which is a part of the keys.
    name: String,
    lines: Vec<Line>,
    states: Vec<State>,
    journal: Journal,
    replayed: u64,
}

/// A line's state after a run's tries, and whether the first of them was answered with an earlier success.
struct Delivery {
    state: State,
    replayed: bool,
}

impl Batch {
    /// Takes up a checked file: opens its journal, for this run alone, and sees that it is still the file that was begun.
    pub fn open(path: &Path, lines: Vec<Line>) -> anyhow::Result<Self> {
        let name = identity::file_name(path);
        let (journal, mut paid) = Journal::open(path, &name, &lines)?;
        let known = |line| paid.remove(&identity::digest(&name, line)).map_or(State::Undecided, State::Paid);
        let states = lines.iter().map(known).collect();
        Ok(Self { name, lines, states, journal, replayed: 0 })
    }

    /// Every line with what is known of it, in the order of the file.
    pub fn lines(&self) -> impl Iterator<Item = (&Line, &State)> {
        self.lines.iter().zip(&self.states)
    }

    /// How many lines were paid before this run first asked, which the journal did not know: by a run whose end it did not
    /// see, or under the same reference in another file.
    pub fn replayed(&self) -> u64 {
        self.replayed
    }

    /// A payment that is known, to ask the service about.
    pub fn any_receipt(&self) -> Option<&Receipt> {
        self.states.iter().find_map(|state| match state {
            State::Paid(receipt) => Some(receipt),
            State::Undecided | State::Refused(_) => None,
        })
    }

    /// Sends what is not paid, so many lines at a time, until each is decided or `stop` is cancelled; what is in flight then
    /// is waited for. An error says that going on makes no sense. What was decided before it stands.
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
        // What is decided at about the same time shares one write to the disk.
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

/// Asks until the line is decided. An error is a reason to ask for nothing more.
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

/// Asks whether the service at this address has made this payment for the holder of this key, until it says so or not.
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

/// 200 ms at first (a broken connection is replaced at once), 5 s at most, so that the service is found again within seconds
/// of its return.
fn for_answers() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
}
