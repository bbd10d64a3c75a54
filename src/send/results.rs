//! The results of `earmark send`: sums for people and programs, and a CSV table with one row for each line of the file.

use super::{Batch, State};
use crate::ledger::Reference;
use crate::wire::operator::{Summary, Tally};
use anyhow::Context;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Sums up the states of all lines.
pub fn sum_up(batch: &Batch) -> Summary {
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
    Summary { total, paid, refused, undecided, replayed_lines: batch.replayed() }
}

/// The path of the table: `payouts.results.csv` for `payouts.csv`.
pub fn path_of(file: &Path) -> PathBuf {
    file.with_extension("results.csv")
}

/// Writes the table, with a row for each line in the order of the file. It replaces an earlier table only when it is
/// complete. Its hashes give access to balances, so only the owner may read it.
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
