//! The results of `earmark send`: sums for people and programs, and a CSV table with one row for each line of the file.

use super::file::Row;
use super::{Batch, CHANGED, Receipt, State, Told};
use crate::ledger::{Email, Kind, Reference};
use crate::wire::operator::{KindSummary, Summary, Tally};
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The sums of the lines of one kind. Each line counts in `total` and in one of the others.
#[derive(Debug, Default)]
pub struct Sums {
    /// All lines.
    pub total: Tally,
    /// The lines that are done.
    pub done: Tally,
    /// The lines that would be done, as a dry run says.
    pub possible: Tally,
    /// Refused lines by the reason, which is the service's text.
    pub refused: BTreeMap<String, Tally>,
    /// The lines whose outcome is not known yet.
    pub undecided: Tally,
    /// How many of these take back all that is left, which counts as 0 until it is known.
    pub of_all_that_is_left: u64,
}

/// Sums up the states of all lines, for each kind that there is.
pub fn sum_up(batch: &Batch) -> BTreeMap<Kind, Sums> {
    let mut kinds = BTreeMap::new();
    for (kind, cents, state) in batch.states() {
        let sums: &mut Sums = kinds.entry(kind).or_default();
        sums.total.add(cents);
        match state {
            State::Done(_) => sums.done.add(cents),
            State::Possible => sums.possible.add(cents),
            State::Undecided => {
                sums.undecided.add(cents);
                sums.of_all_that_is_left += u64::from(cents == 0);
            }
            State::Refused(refusal) => {
                let reason = batch.reason(refusal);
                match sums.refused.get_mut(reason) {
                    Some(tally) => tally.add(cents),
                    None => sums.refused.entry(reason.to_owned()).or_default().add(cents),
                }
            }
        }
    }
    kinds
}

/// The sums for programs.
pub fn summary(batch: &Batch, mut kinds: BTreeMap<Kind, Sums>) -> Summary {
    let is_dry_run = batch.is_dry_run();
    let mut of = |kind| {
        let Sums { total, done, possible, refused, undecided, .. } = kinds.remove(&kind)?;
        Some(KindSummary { total, done, possible: is_dry_run.then_some(possible), refused, undecided })
    };
    let (payouts, reversals, settlements) = (of(Kind::Allocate), of(Kind::Reverse), of(Kind::Settle));
    let KindSummary { total, done, possible, refused, undecided } = payouts.unwrap_or_default();
    let replayed_lines = batch.replayed();
    Summary { total, paid: done, possible, refused, undecided, reversals, settlements, replayed_lines }
}

/// The path of the table: `payouts.results.csv` for the journal `payouts.csv.journal`, or `payouts.dry-run.csv`.
pub fn path_of(journal: &Path, is_dry_run: bool) -> PathBuf {
    journal.with_extension("").with_extension(if is_dry_run { "dry-run.csv" } else { "results.csv" })
}

/// Writes the table, with a row for each line in the order of the file. It replaces an earlier table only when it is
/// complete. Its hashes give access to balances, so only the owner may read it.
pub fn write(batch: &Batch, path: &Path) -> anyhow::Result<()> {
    let new = path.with_extension("csv.new");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
    let file = BufWriter::new(file.with_context(|| new.display().to_string())?);
    let written = write_rows(batch, csv::Writer::from_writer(file));
    written.and_then(|()| Ok(fs::rename(&new, path)?)).with_context(|| format!("{} cannot be written", path.display()))
}

/// The columns of the table. The other columns of the file follow.
const COLUMNS: [&str; 8] = ["line", "email", "cents", "reference", "status", "hash", "request_id", "error"];
/// Further columns, if a line of the file is no payout.
const COLUMNS_OF_KINDS: [&str; 2] = ["kind", "target"];

fn write_rows<W: Write>(batch: &Batch, mut table: csv::Writer<W>) -> anyhow::Result<()> {
    let kept = batch.file.kept_names().iter().map(String::as_str);
    let of_kinds = if batch.checked.are_payouts() { &[] as &[&str] } else { &COLUMNS_OF_KINDS };
    table.write_record(COLUMNS.into_iter().chain(of_kinds.iter().copied()).chain(kept))?;
    let mut rows = batch.file.rows()?;
    for (item, (kind, cents, state)) in batch.checked.items.iter().zip(batch.states()) {
        let Some(Ok(Row { line, kept })) = rows.next().transpose()? else { anyhow::bail!(CHANGED) };
        let is_same = line.number == u64::from(item.number) && line.cents() == item.cents() && line.kind() == kind;
        ensure!(is_same, CHANGED);
        let (status, hash, request, error) = match state {
            State::Undecided => ("undecided", None, None, ""),
            State::Possible => ("possible", None, None, ""),
            State::Done(Receipt { told, request }) => match told {
                Told::Hash(hash) => ("paid", Some(hash), Some(*request), ""),
                Told::Reversed(_) => ("reversed", None, Some(*request), ""),
                Told::Settled => ("settled", None, Some(*request), ""),
            },
            State::Refused(refusal) => ("refused", None, refusal.request, batch.reason(refusal)),
        };
        let is_known = line.movement.amount().is_some() || matches!(state, State::Done(_));
        let cents = if is_known { cents.to_string() } else { String::new() };
        let (number, target) = (line.number.to_string(), line.movement.target().map(|target| target.to_string()));
        let (hash, request) = (hash.map(hex::encode), request.map(|id| id.to_string()));
        let (hash, request) = (hash.unwrap_or_default(), request.unwrap_or_default());
        let reference = line.reference.as_ref().map_or("", Reference::as_str);
        let email = line.movement.email().map_or("", Email::as_str);
        let own = [&number, email, &cents, reference, status, &hash, &request, error];
        let of_kinds = [kind.as_str(), target.as_deref().unwrap_or_default()].into_iter().take(of_kinds.len());
        table.write_record(own.into_iter().chain(of_kinds).chain(kept.iter().map(String::as_str)))?;
    }
    Ok(table.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_beside_the_journal() {
        let table = |journal: &str| path_of(Path::new(journal), false).display().to_string();
        assert_eq!(table("/a/payouts.csv.journal"), "/a/payouts.results.csv");
        assert_eq!(table("payouts.xlsx.journal"), "payouts.results.csv");
        assert_eq!(table("november.journal"), "november.results.csv");
        assert_eq!(path_of(Path::new("payouts.csv.journal"), true), Path::new("payouts.dry-run.csv"));
    }

    #[test]
    fn a_line_takes_little_memory() {
        assert_eq!(size_of::<super::super::checked::Item>() + size_of::<State>(), 84);
    }
}
