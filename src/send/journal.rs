//! The journal: a file next to the file of payouts (`payouts.csv.journal`) that records what earlier runs paid.
//!
//! Its first line is on the disk before anything is sent. It records the number and digest of each line without a
//! reference. The idempotency key of such a line depends on its number and content, so a changed line would be paid a
//! second time. Therefore these lines must not change after the first run.
//!
//! Then follows one line for each payment, written in groups with one fsync each. If some are lost in a crash, the next
//! run sends their lines again, and the service recognises them by their keys. So an incomplete end of the journal is
//! cut off.
//!
//! The journal consists of JSON lines without email addresses. Its hashes give access to balances, so only the owner
//! may read it.

use super::file::Line;
use super::identity::{Digest, digest};
use super::{Receipt, State};
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// An open journal. It is locked, so that only one run at a time uses it; the lock ends with the process.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Whether the first line is written.
    has_begun: bool,
}

/// The first line of a journal.
#[derive(Serialize, Deserialize)]
struct Opening {
    /// The name of the file of payouts.
    file: String,
    /// Number and digest of every line without a reference, in order.
    numbered: Vec<(u64, String)>,
}

impl Opening {
    fn new(name: &str, lines: &[Line]) -> Self {
        let numbered = lines.iter().filter(|line| line.reference.is_none());
        let numbered = numbered.map(|line| (line.number, hex::encode(digest(name, line)))).collect();
        Self { file: name.to_owned(), numbered }
    }

    /// Checks that the file still has the name and the lines without a reference that it had at its first run.
    fn admits(&self, now: &Self) -> anyhow::Result<()> {
        ensure!(
            self.file == now.file,
            "it belongs to a file named {}: give the file that name again, because idempotency keys depend on it",
            self.file
        );
        let (before, after): (HashMap<_, _>, HashMap<_, _>) =
            (self.numbered.iter().cloned().collect(), now.numbered.iter().cloned().collect());
        let mut numbers: Vec<&u64> = before.keys().chain(after.keys()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let changed = numbers.into_iter().filter(|number| before.get(number) != after.get(number));
        let named: Vec<String> = changed.map(u64::to_string).collect();
        if !named.is_empty() {
            bail!(
                "the file was changed after its first run, and could be paid twice: line {}. Restore it, and put new lines \
                 into another file. (Only lines with a reference may change.)",
                named.join(", ")
            );
        }
        Ok(())
    }
}

/// Any further line of a journal: one payment.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    /// The line's number, for people. A line with a reference may have moved since.
    line: u64,
    digest: String,
    hash: String,
    request_id: String,
}

/// The journal's entry for a line; `None` if it is not paid. `name`: the name of the file of payouts.
pub(super) fn entry(name: &str, line: &Line, state: &State) -> Option<Entry> {
    let State::Paid(Receipt { hash, request_id }) = state else { return None };
    let (hash, request_id) = (hash.clone(), request_id.clone());
    Some(Entry { line: line.number, digest: hex::encode(digest(name, line)), hash, request_id })
}

impl Journal {
    /// Opens the journal of the file `of`, or creates an empty one. Returns it with the lines that are paid, by digest.
    /// Fails if another run has it open, or if the file was changed since its first run.
    pub(super) fn open(of: &Path, name: &str, lines: &[Line]) -> anyhow::Result<(Self, HashMap<Digest, Receipt>)> {
        let path = of.with_file_name(format!("{name}.journal"));
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).with_context(|| format!("{} cannot be opened", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another run is sending this file"),
            Err(TryLockError::Error(error)) => return Err(error).context(path.display().to_string()),
        }
        let mut journal = Self { file, path, has_begun: false };
        let paid = journal.load(&Opening::new(name, lines)).with_context(|| journal.path.display().to_string())?;
        Ok((journal, paid))
    }

    /// Reads the journal up to the first incomplete line, and cuts it off there.
    fn load(&mut self, now: &Opening) -> anyhow::Result<HashMap<Digest, Receipt>> {
        let (mut bytes, mut paid, mut read) = (vec![], HashMap::new(), 0);
        self.file.read_to_end(&mut bytes)?;
        for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            if self.has_begun {
                let Some((digest, receipt)) = read_entry(line) else { break };
                paid.insert(digest, receipt);
            } else {
                let Ok(opening) = serde_json::from_slice::<Opening>(line) else { break };
                opening.admits(now)?;
                self.has_begun = true;
            }
            read += line.len() as u64;
        }
        self.file.set_len(read)?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(paid)
    }

    /// Writes the first line, unless an earlier run did. It is on the disk when this returns.
    pub(super) fn begin(&mut self, name: &str, lines: &[Line]) -> anyhow::Result<()> {
        if self.has_begun {
            return Ok(());
        }
        self.write(&[Opening::new(name, lines)])?;
        // A new file's name is on the disk only after its folder is synced.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| folder.display().to_string())?;
        self.has_begun = true;
        Ok(())
    }

    /// Appends payments. They are on the disk when this returns.
    pub(super) fn append(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        if entries.is_empty() { Ok(()) } else { self.write(entries) }
    }

    fn write<T: Serialize>(&mut self, lines: &[T]) -> anyhow::Result<()> {
        let mut text = vec![];
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

fn read_entry(line: &[u8]) -> Option<(Digest, Receipt)> {
    let Entry { digest, hash, request_id, .. } = serde_json::from_slice(line).ok()?;
    Some((hex::decode(digest).ok()?.try_into().ok()?, Receipt { hash, request_id }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Amount, Email, Reference};

    fn line(number: u64, cents: i64, reference: Option<&str>) -> Line {
        let (email, amount) = (Email::parse("ann@example.com").unwrap(), Amount::from_cents(cents).unwrap());
        Line { number, email, amount, reference: reference.and_then(|text| Reference::parse(text).unwrap()) }
    }

    fn admitted(before: &[Line], after: &[Line]) -> Result<(), String> {
        Opening::new("f.csv", before).admits(&Opening::new("f.csv", after)).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_with_references_may_change_and_others_may_not() {
        let begun = [line(2, 5, None), line(3, 6, None), line(4, 7, Some("a")), line(5, 8, Some("b"))];
        assert_eq!(admitted(&begun, &begun), Ok(()));
        let fixed = [line(2, 5, None), line(3, 6, None), line(4, 9, Some("b")), line(5, 1, Some("c"))];
        assert_eq!(admitted(&begun, &fixed), Ok(()));
        let changes: [(&[Line], &str); 5] = [
            (&[line(2, 4, None), line(3, 6, None)], "line 2."),
            (&[line(2, 6, None), line(3, 5, None)], "line 2, 3."),
            (&[line(2, 5, None)], "line 3."),
            (&[line(2, 5, None), line(3, 6, None), line(4, 7, None)], "line 4."),
            (&[line(2, 5, Some("c")), line(3, 6, None)], "line 2."),
        ];
        for (after, named) in changes {
            let said = admitted(&begun, after).unwrap_err();
            assert!(said.contains(named), "{said}");
        }
        let renamed = Opening::new("g.csv", &begun);
        assert!(Opening::new("f.csv", &begun).admits(&renamed).unwrap_err().to_string().contains("named f.csv"));
    }
}
