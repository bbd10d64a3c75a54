//! The journal: a file next to the file that is sent (`payouts.csv.journal`) that records what earlier runs have done.
//!
//! Its opening is on the disk before anything is sent. It records the number and fingerprint of each line without a
//! reference. The idempotency key of such a line depends on its number and content, so a changed line would be carried out a
//! second time. Therefore these lines must not change after the first run. An opening without its last line was never
//! acted upon, and is written again.
//!
//! Then follows one line for each line that is done, written in groups with one fsync each. If some are lost in a crash, the next
//! run sends their lines again, and the service recognises them by their keys. So an incomplete end of the journal is
//! cut off.
//!
//! The journal consists of JSON lines without email addresses. Its hashes give access to balances, so only the owner
//! may read it. It is read and written line by line.

use super::checked::Item;
use super::identity::{Digest, Fingerprint, fingerprint};
use super::{Receipt, Told};
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// An open journal. It is locked, so that only one run at a time uses it; the lock ends with the process.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Whether the opening is written.
    has_begun: bool,
}

/// A line of the opening.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Opening {
    /// The first: the name of the file of payouts.
    File(String),
    /// Number and fingerprint of some lines without a reference, in order.
    Numbered(Vec<(u32, String)>),
    /// The last: how many lines without a reference there are.
    Begun(u64),
}

/// How many lines without a reference a line of the opening has.
const AT_ONCE: usize = 1_000;

/// Any further line of a journal: one line that is done. A payment has a hash, a reversal the cents that it took back, and
/// a settlement neither.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    /// The line's number, for people. A line with a reference may have moved since.
    line: u64,
    digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reversed: Option<u32>,
    request_id: String,
}

impl Entry {
    /// The entry for a line that is done.
    pub(super) fn new(line: u64, digest: &Digest, receipt: &Receipt) -> Self {
        let (hash, reversed) = match receipt.told {
            Told::Hash(hash) => (Some(hex::encode(hash)), None),
            Told::Reversed(cents) => (None, Some(cents)),
            Told::Settled => (None, None),
        };
        Self { line, digest: hex::encode(digest), hash, reversed, request_id: receipt.request.to_string() }
    }

    fn read(line: &[u8]) -> Option<(Fingerprint, Receipt)> {
        let Self { digest, hash, reversed, request_id, .. } = serde_json::from_slice(line).ok()?;
        let digest: Digest = hex::decode(digest).ok()?.try_into().ok()?;
        let told = match (hash, reversed) {
            (Some(hash), _) => Told::Hash(hex::decode(hash).ok()?.try_into().ok()?),
            (None, Some(cents)) => Told::Reversed(cents),
            (None, None) => Told::Settled,
        };
        Some((fingerprint(&digest), Receipt { told, request: request_id.parse().ok()? }))
    }
}

impl Journal {
    /// Opens a journal, or creates an empty one. `name`: the name of the file that is sent. `done` is given each line that
    /// is done. Fails if another run has it open, or if the file was changed since its first run.
    pub(super) fn open(
        path: &Path,
        name: &str,
        items: &[Item],
        done: impl FnMut(Fingerprint, Receipt),
    ) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another run is sending this file"),
            Err(TryLockError::Error(error)) => return Err(error).context(path.display().to_string()),
        }
        let mut journal = Self { file, path: path.to_owned(), has_begun: false };
        journal.load(name, items, done).with_context(|| path.display().to_string())?;
        Ok(journal)
    }

    /// Reads a journal without a change to it, as [`Journal::open`] would. There may be none.
    pub(super) fn read(
        path: &Path,
        name: &str,
        items: &[Item],
        done: impl FnMut(Fingerprint, Receipt),
    ) -> anyhow::Result<()> {
        match File::open(path) {
            Ok(file) => read_all(&file, name, items, done).map(drop).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("{} cannot be opened", path.display())),
        }
    }

    /// Whether an earlier run has begun to send.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Reads the journal up to the first incomplete line, and cuts it off there.
    fn load(&mut self, name: &str, items: &[Item], done: impl FnMut(Fingerprint, Receipt)) -> anyhow::Result<()> {
        let whole = read_all(&self.file, name, items, done)?;
        self.has_begun = whole.is_some();
        self.file.set_len(whole.unwrap_or(0))?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }

    /// Writes the opening, unless an earlier run did. It is on the disk when this returns.
    pub(super) fn begin(&mut self, name: &str, items: &[Item]) -> anyhow::Result<()> {
        if self.has_begun {
            return Ok(());
        }
        self.write_opening(name, items).with_context(|| format!("{} cannot be written", self.path.display()))?;
        // A new file's name is on the disk only after its folder is synced.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| folder.display().to_string())?;
        self.has_begun = true;
        Ok(())
    }

    fn write_opening(&self, name: &str, items: &[Item]) -> anyhow::Result<()> {
        let mut text = BufWriter::new(&self.file);
        let mut numbered: Vec<(u32, String)> = vec![];
        let mut count = 0;
        write_line(&mut text, &Opening::File(name.to_owned()))?;
        for item in items.iter().filter(|item| !item.has_reference()) {
            numbered.push((item.number, hex::encode(item.fingerprint)));
            count += 1;
            if numbered.len() == AT_ONCE {
                write_line(&mut text, &Opening::Numbered(std::mem::take(&mut numbered)))?;
            }
        }
        write_line(&mut text, &Opening::Numbered(numbered))?;
        write_line(&mut text, &Opening::Begun(count))?;
        text.flush()?;
        drop(text);
        Ok(self.file.sync_data()?)
    }

    /// Appends lines that are done. They are on the disk when this returns.
    pub(super) fn append(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut text = vec![];
        for entry in entries {
            write_line(&mut text, entry)?;
        }
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("{} cannot be written", self.path.display()))
    }

    /// Forgets that anything was begun. Only right if no money can have moved.
    pub(super) fn forget(&mut self) -> anyhow::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.sync_data()?;
        self.has_begun = false;
        Ok(())
    }
}

/// Reads a journal up to the first incomplete line. Returns how many bytes that are; `None` if the opening is not whole.
fn read_all(
    file: &File,
    name: &str,
    items: &[Item],
    mut done: impl FnMut(Fingerprint, Receipt),
) -> anyhow::Result<Option<u64>> {
    let mut comparison = Comparison::new(items);
    let (mut lines, mut line, mut whole, mut has_begun) = (BufReader::new(file), vec![], 0, false);
    while lines.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        if has_begun {
            let Some((fingerprint, receipt)) = Entry::read(&line) else { break };
            done(fingerprint, receipt);
        } else {
            let opening = serde_json::from_slice(&line)
                .context("it is no journal of this program. If nothing of the file was sent, remove it")?;
            has_begun = comparison.admit(opening, name)?;
        }
        whole += line.len() as u64;
        line.clear();
    }
    Ok(has_begun.then_some(whole))
}

fn write_line<T: Serialize>(text: &mut impl Write, line: &T) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    Ok(text.write_all(b"\n")?)
}

/// Compares the lines without a reference of a file with those in the opening of its journal.
struct Comparison<'a> {
    /// The lines of the file that were not compared yet.
    rest: &'a [Item],
    /// The numbers of the first lines that differ.
    changed: Vec<u32>,
    count: u64,
    /// How many lines the opening had so far.
    compared: u64,
}

impl<'a> Comparison<'a> {
    fn new(items: &'a [Item]) -> Self {
        Self { rest: items, changed: vec![], count: 0, compared: 0 }
    }

    /// Compares with a line of the opening. Returns whether it was the last.
    fn admit(&mut self, opening: Opening, name: &str) -> anyhow::Result<bool> {
        match opening {
            Opening::File(file) => {
                ensure!(
                    file == name,
                    "it belongs to a file named {file}: give the file that name again, because idempotency keys depend \
                     on it"
                );
                return Ok(false);
            }
            Opening::Numbered(lines) => {
                for (number, fingerprint) in &lines {
                    self.compare(*number, fingerprint);
                }
                self.compared += lines.len() as u64;
                return Ok(false);
            }
            Opening::Begun(count) => ensure!(count == self.compared, "its opening is damaged"),
        }
        while let Some(item) = self.next_up_to(u32::MAX) {
            self.note(item.number);
        }
        ensure!(self.count == 0, "{}", self.complain());
        Ok(true)
    }

    fn compare(&mut self, number: u32, fingerprint: &str) {
        while let Some(item) = self.next_up_to(number) {
            if item.number == number {
                if hex::encode(item.fingerprint) != fingerprint {
                    self.note(number);
                }
                return;
            }
            self.note(item.number);
        }
        self.note(number);
    }

    /// The next line without a reference, if its number is not above this one.
    fn next_up_to(&mut self, number: u32) -> Option<&'a Item> {
        let place = self.rest.iter().position(|item| !item.has_reference())?;
        let item = &self.rest[place];
        self.rest = &self.rest[if item.number > number { place } else { place + 1 }..];
        (item.number <= number).then_some(item)
    }

    fn note(&mut self, number: u32) {
        const MOST_NAMED: usize = 20;
        self.count += 1;
        if self.changed.len() < MOST_NAMED {
            self.changed.push(number);
        }
    }

    fn complain(&self) -> String {
        let named: Vec<String> = self.changed.iter().map(u32::to_string).collect();
        let more = match self.count - self.changed.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "the file was changed after its first run, and could be paid twice: line {}{more}. Restore it, and put new \
             lines into another file. (Only lines with a reference may change.)",
            named.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::send::amounts::Written;
    use crate::send::checked::check;
    use crate::send::file;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("earmark-journal-{}", uuid::Uuid::new_v4().simple()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn items(&self, rows: &[&str]) -> Vec<Item> {
            let path = self.0.join("f.csv");
            std::fs::write(&path, format!("email,amount,reference\n{}\n", rows.join("\n"))).unwrap();
            let file = file::File::open(&path, Written::Cents).unwrap().unwrap();
            check(file.rows().unwrap(), "f.csv", |_| ()).unwrap().ok().unwrap().items
        }

        fn path(&self) -> PathBuf {
            self.0.join("f.csv.journal")
        }

        fn open(&self, name: &str, rows: &[&str]) -> Result<(Journal, usize), String> {
            let mut paid = 0;
            let journal = Journal::open(&self.path(), name, &self.items(rows), |_, _| paid += 1);
            journal.map(|journal| (journal, paid)).map_err(|error| format!("{error:#}"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const BEGUN: [&str; 4] = ["a@b.co,5,", "a@b.co,6,", "a@b.co,7,a", "a@b.co,8,b"];

    fn begun() -> Folder {
        let folder = Folder::new();
        let (mut journal, _) = folder.open("f.csv", &BEGUN).unwrap();
        assert!(!journal.has_begun());
        journal.begin("f.csv", &folder.items(&BEGUN)).unwrap();
        folder
    }

    #[test]
    fn lines_with_references_may_change_and_others_may_not() {
        let folder = begun();
        assert!(folder.open("f.csv", &BEGUN).unwrap().0.has_begun());
        assert!(folder.open("f.csv", &["a@b.co,5,", "a@b.co,6,", "a@b.co,9,b", "a@b.co,1,c"]).is_ok());
        let changes: [(&[&str], &str); 6] = [
            (&["a@b.co,4,", "a@b.co,6,"], "line 2."),
            (&["a@b.co,6,", "a@b.co,5,"], "line 2, 3."),
            (&["a@b.co,5,"], "line 3."),
            (&["a@b.co,5,", "a@b.co,6,", "a@b.co,7,"], "line 4."),
            (&["a@b.co,5,c", "a@b.co,6,"], "line 2."),
            (&[], "line 2, 3."),
        ];
        for (after, named) in changes {
            let said = folder.open("f.csv", after).err().unwrap();
            assert!(said.contains(named), "{said}");
        }
        let many = vec!["a@b.co,5,"; 1_500];
        let said = folder.open("f.csv", &many).err().unwrap();
        assert!(said.contains("line 3, 4, 5,") && said.contains(" and 1479 more."), "{said}");
        assert!(folder.open("g.csv", &BEGUN).err().unwrap().contains("named f.csv"));
    }

    #[test]
    fn an_incomplete_end_is_cut_off_and_an_incomplete_opening_never_began() {
        let folder = begun();
        let receipt = Receipt { told: Told::Hash([7; 32]), request: uuid::Uuid::from_u128(5) };
        let (mut journal, _) = folder.open("f.csv", &BEGUN).unwrap();
        let opening = std::fs::metadata(folder.path()).unwrap().len() as usize;
        journal.append(&[Entry::new(2, &[1; 32], &receipt), Entry::new(3, &[2; 32], &receipt)]).unwrap();
        drop(journal);
        let whole = std::fs::read(folder.path()).unwrap();
        for length in (0..whole.len()).rev() {
            std::fs::write(folder.path(), &whole[..length]).unwrap();
            let (journal, paid) = folder.open("f.csv", &BEGUN).unwrap();
            let complete = whole[opening..length.max(opening)].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!((journal.has_begun(), paid), (length >= opening, complete), "{length} of {}", whole.len());
            let kept = std::fs::metadata(folder.path()).unwrap().len() as usize;
            assert!(kept <= length && (kept == 0 || whole[..kept].ends_with(b"\n")));
        }
        std::fs::write(folder.path(), "{\"file\":\"f.csv\",\"numbered\":[]}\n").unwrap();
        assert!(folder.open("f.csv", &BEGUN).err().unwrap().contains("no journal of this program"));
    }

    #[test]
    fn what_a_dry_run_reads_is_what_a_run_reads_and_it_changes_nothing() {
        let folder = begun();
        let told = [Told::Hash([7; 32]), Told::Reversed(5), Told::Reversed(0), Told::Settled];
        let receipts = told.map(|told| Receipt { told, request: uuid::Uuid::from_u128(5) });
        let (mut journal, _) = folder.open("f.csv", &BEGUN).unwrap();
        let entries: Vec<Entry> = receipts.iter().map(|receipt| Entry::new(2, &[1; 32], receipt)).collect();
        journal.append(&entries).unwrap();
        drop(journal);
        let torn = [std::fs::read(folder.path()).unwrap().as_slice(), b"{\"line\":3,\"dige"].concat();
        std::fs::write(folder.path(), &torn).unwrap();
        let read = |rows: &[&str]| {
            let mut found = vec![];
            let reading = Journal::read(&folder.path(), "f.csv", &folder.items(rows), |_, receipt| found.push(receipt));
            reading.map(|()| found).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read(&BEGUN).unwrap(), receipts);
        assert_eq!(std::fs::read(folder.path()).unwrap(), torn);
        assert!(read(&["a@b.co,4,"]).unwrap_err().contains("could be paid twice"));
        std::fs::remove_file(folder.path()).unwrap();
        assert_eq!(read(&BEGUN).unwrap(), []);
        assert!(!folder.path().exists());
    }

    #[test]
    fn what_was_forgotten_may_be_changed() {
        let folder = begun();
        let (mut journal, _) = folder.open("f.csv", &BEGUN).unwrap();
        journal.forget().unwrap();
        drop(journal);
        let (mut journal, _) = folder.open("f.csv", &["a@b.co,1,"]).unwrap();
        assert!(!journal.has_begun());
        journal.begin("f.csv", &folder.items(&["a@b.co,1,"])).unwrap();
        drop(journal);
        assert!(folder.open("f.csv", &["a@b.co,1,"]).is_ok() && folder.open("f.csv", &BEGUN).is_err());
    }
}
