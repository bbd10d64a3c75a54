//! What came of a file: sums for people and programs, and a table with a row a line.

use super::{Batch, State};
use crate::ledger::Reference;
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// So many lines, and so many cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub lines: u64,
    /// A file may ask for more than fits into 64 bits.
    pub cents: i128,
}

impl Tally {
    fn add(&mut self, cents: i64) {
        self.lines += 1;
        self.cents += i128::from(cents);
    }
}

/// Every line is counted in the whole, and in one of the others.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub total: Tally,
    pub paid: Tally,
    /// By reason, in the words of the service.
    pub refused: BTreeMap<String, Tally>,
    pub undecided: Tally,
    /// Of the paid ones, those that this run found paid and the journal did not know.
    pub replayed_lines: u64,
}

impl Summary {
    pub fn new(batch: &Batch) -> Self {
        let (mut total, mut paid, mut undecided) = (Tally::default(), Tally::default(), Tally::default());
        let mut refused: BTreeMap<String, Tally> = BTreeMap::new();
        for (line, state) in batch.lines() {
            let cents = line.amount.cents();
            total.add(cents);
            match state {
                State::Paid(_) => paid.add(cents),
                State::Refused(refusal) => refused.entry(refusal.reason.clone()).or_default().add(cents),
                State::Undecided => undecided.add(cents),
            }
        }
        Self { total, paid, refused, undecided, replayed_lines: batch.replayed() }
    }
}

/// `payouts.results.csv` for `payouts.csv`.
pub fn path_of(file: &Path) -> PathBuf {
    file.with_extension("results.csv")
}

/// Writes a row for every line, in the order of the file. Takes the place of an earlier table when it is complete. The hashes
/// in it show balances, so only the owner may read it.
pub fn write(batch: &Batch, path: &Path) -> anyhow::Result<()> {
    let new = path.with_extension("csv.new");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = write_rows(batch, csv::Writer::from_writer(file.with_context(|| new.display().to_string())?));
    written.and_then(|()| Ok(fs::rename(&new, path)?)).with_context(|| format!("{} cannot be written", path.display()))
}

fn write_rows<W: std::io::Write>(batch: &Batch, mut table: csv::Writer<W>) -> anyhow::Result<()> {
    table.write_record(["line", "email", "amount", "reference", "status", "hash", "request_id", "error"])?;
    for (line, state) in batch.lines() {
        let (status, hash, request_id, error) = match state {
            State::Undecided => ("undecided", "", "", ""),
            State::Paid(receipt) => ("paid", receipt.hash.as_str(), receipt.request_id.as_str(), ""),
            State::Refused(refusal) => ("refused", "", refusal.request_id.as_str(), refusal.reason.as_str()),
        };
        let (number, amount) = (line.number.to_string(), line.amount.cents().to_string());
        let reference = line.reference.as_ref().map_or("", Reference::as_str);
        table.write_record([&number, line.email.as_str(), &amount, reference, status, hash, request_id, error])?;
    }
    Ok(table.flush()?)
}
