//! Checks a whole file before any of it is sent, and keeps of each line only what is needed to recognise it: 32 bytes.

use super::file::{BadLine, Line, Rows};
use super::identity::{self, Fingerprint};
use crate::ledger::{Kind, Movement, RequestId};
use crate::wire::operator::Tally;
use std::hash::{BuildHasher, Hash, RandomState};
use std::io;

/// Most bad lines that are shown.
const MOST_SHOWN: usize = 20;

/// The bad lines of a file.
#[derive(Debug, Default)]
pub struct BadLines {
    /// The first of them, in order.
    pub first: Vec<BadLine>,
    /// How many there are.
    pub count: u64,
}

impl BadLines {
    fn add(&mut self, bad: BadLine) {
        self.count += 1;
        self.first.push(bad);
        if self.first.len() > 2 * MOST_SHOWN {
            self.keep_first();
        }
    }

    fn keep_first(&mut self) {
        self.first.sort_by_key(|bad| bad.number);
        self.first.truncate(MOST_SHOWN);
    }
}

/// What is kept of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Says which movement it is.
    pub(super) fingerprint: Fingerprint,
    /// See [`Contents`].
    content: u64,
    /// The number of the line in the file.
    pub(super) number: u32,
    cents: u32,
}

impl Item {
    /// The amount. 0 for a reversal of all that is left.
    pub(super) fn cents(&self) -> i64 {
        self.cents.into()
    }

    pub(super) fn has_reference(&self) -> bool {
        self.content & Contents::HAS_REFERENCE != 0
    }

    pub(super) fn kind(&self) -> Kind {
        match self.content & Contents::KIND {
            Contents::REVERSAL => Kind::Reverse,
            Contents::SETTLEMENT => Kind::Settle,
            _ => Kind::Allocate,
        }
    }
}

/// Hashes the content of lines, so that lines which look alike are found. The hash of a line with a reference is that of
/// the reference; that of any other line is the hash of what it asks for. The last bits say which of both it is, and the
/// kind of the line.
#[derive(Debug, Default)]
struct Contents(RandomState);

impl Contents {
    const HAS_REFERENCE: u64 = 0b001;
    const KIND: u64 = 0b110;
    const PAYMENT: u64 = 0b000;
    const REVERSAL: u64 = 0b010;
    const SETTLEMENT: u64 = 0b100;

    fn of(&self, kind: u64, content: impl Hash) -> u64 {
        self.0.hash_one(content) & !(Self::HAS_REFERENCE | Self::KIND) | kind
    }

    fn of_reference(&self, kind: Kind, reference: &str) -> u64 {
        let kind = match kind {
            Kind::Allocate => Self::PAYMENT,
            Kind::Reverse => Self::REVERSAL,
            Kind::Settle => Self::SETTLEMENT,
        };
        self.of(kind, reference) | Self::HAS_REFERENCE
    }

    fn of_payment(&self, email: &str, cents: i64) -> u64 {
        self.of(Self::PAYMENT, (email, cents))
    }

    fn of_reversal(&self, target: RequestId, cents: Option<i64>) -> u64 {
        self.of(Self::REVERSAL, (target, cents))
    }

    fn of_line(&self, line: &Line) -> u64 {
        match (&line.reference, &line.movement) {
            (Some(reference), _) => self.of_reference(line.kind(), reference.as_str()),
            (None, Movement::Allocate { email, amount }) => self.of_payment(email.as_str(), amount.cents()),
            (None, Movement::Reverse { target, amount }) => {
                self.of_reversal(*target, amount.map(|amount| amount.cents()))
            }
            // No settlement is without a reference.
            (None, Movement::Settle { email, amount }) => self.of(Self::SETTLEMENT, (email.as_str(), amount.cents())),
        }
    }
}

/// A file without a bad line.
pub struct Checked {
    pub(super) items: Vec<Item>,
    contents: Contents,
    /// The places of all items, ordered by content.
    by_content: Vec<u32>,
    twins: Twins,
}

/// Lines without a reference that are the same as an earlier one.
#[derive(Debug, Default)]
pub struct Twins {
    /// How many, and for how much.
    pub tally: Tally,
    /// The first of them: the numbers of the line and of the earlier one.
    pub first: Option<(u32, u32)>,
}

/// Checks all rows. `name`: the file's name. `seen` is told how many rows were read. An error means that the file cannot
/// be read.
pub fn check(rows: Rows<'_>, name: &str, mut seen: impl FnMut(u64)) -> io::Result<Result<Checked, BadLines>> {
    const STEP: u64 = 1_000;
    let (contents, mut items, mut bad) = (Contents::default(), vec![], BadLines::default());
    for (count, row) in (1_u64..).zip(rows) {
        match row? {
            Ok(row) => items.push(keep(&row.line, name, &contents)?),
            Err(line) => bad.add(line),
        }
        if count.is_multiple_of(STEP) {
            seen(STEP);
        }
    }
    let mut by_content: Vec<u32> = (0..).take(items.len()).collect();
    by_content.sort_by_key(|place| (items[*place as usize].content, *place));
    let twins = find_twins(&items, &by_content, &mut bad);
    if bad.count > 0 {
        bad.keep_first();
        return Ok(Err(bad));
    }
    Ok(Ok(Checked { items, contents, by_content, twins }))
}

fn keep(line: &Line, name: &str, contents: &Contents) -> io::Result<Item> {
    let number = u32::try_from(line.number).map_err(|_| io::Error::other("the file has too many lines"))?;
    // An amount is at most 100,000,000 cents.
    let cents = u32::try_from(line.cents()).map_err(io::Error::other)?;
    let fingerprint = identity::fingerprint(&identity::digest(name, line));
    Ok(Item { fingerprint, content: contents.of_line(line), number, cents })
}

/// Finds lines without a reference that are the same. Two lines of a kind with the same reference would have the same
/// idempotency key, and only one be carried out, so the later ones are bad.
fn find_twins(items: &[Item], by_content: &[u32], bad: &mut BadLines) -> Twins {
    let mut twins = Twins::default();
    let item = |place: &u32| &items[*place as usize];
    for alike in by_content.chunk_by(|one, other| item(one).content == item(other).content) {
        let (first, others) = (item(&alike[0]), &alike[1..]);
        for other in others.iter().map(item) {
            if other.has_reference() {
                let reason = format!("has the reference of line {}: give each line its own", first.number);
                bad.add(BadLine { number: other.number.into(), reason });
                continue;
            }
            twins.tally.add(other.cents());
            if twins.first.is_none_or(|(number, _)| other.number < number) {
                twins.first = Some((other.number, first.number));
            }
        }
    }
    twins
}

impl Checked {
    /// How many lines the file has.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether the file has no line.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The lines without a reference that are the same as an earlier one.
    pub fn twins(&self) -> &Twins {
        &self.twins
    }

    /// Whether all lines are payouts.
    pub(super) fn are_payouts(&self) -> bool {
        self.items.iter().all(|item| item.kind() == Kind::Allocate)
    }

    /// The places of the lines of this kind with this reference.
    pub(super) fn with_reference(&self, kind: Kind, reference: &str) -> &[u32] {
        self.with(self.contents.of_reference(kind, reference))
    }

    /// The places of the lines without a reference that take this amount of this request back.
    pub(super) fn with_reversal(&self, target: RequestId, cents: i64) -> &[u32] {
        self.with(self.contents.of_reversal(target, Some(cents)))
    }

    /// The places of the lines without a reference that pay this amount to this address.
    pub(super) fn with_payment(&self, email: &str, cents: i64) -> &[u32] {
        self.with(self.contents.of_payment(email, cents))
    }

    fn with(&self, content: u64) -> &[u32] {
        let of = |place: &u32| self.items[*place as usize].content;
        let start = self.by_content.partition_point(|place| of(place) < content);
        let count = self.by_content[start..].partition_point(|place| of(place) == content);
        &self.by_content[start..start + count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::send::amounts::Written;
    use crate::send::file::File;

    fn checked(text: &str) -> Result<Checked, BadLines> {
        let path = std::env::temp_dir().join(format!("earmark-checked-{}", uuid::Uuid::new_v4().simple()));
        std::fs::write(&path, text).unwrap();
        let file = File::open(&path, Written::Cents).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        check(file.rows().unwrap(), "f.csv", |_| ()).unwrap()
    }

    #[test]
    fn the_first_bad_lines_are_shown_and_all_are_counted() {
        let lines: String = (0..1_000).map(|at| format!("a@b.co,{},{}\n", at % 2, at / 4)).collect();
        let bad = checked(&format!("email,amount,reference\n{lines}")).err().unwrap();
        // Of four lines with a reference two have no amount, and of the other two one repeats the reference.
        assert_eq!(bad.count, 500 + 250);
        let numbers: Vec<u64> = bad.first.iter().map(|line| line.number).collect();
        assert_eq!(numbers[..6], [2, 4, 5, 6, 8, 9]);
        assert_eq!(numbers.len(), MOST_SHOWN);
        assert_eq!(bad.first[2].to_string(), "line 5: has the reference of line 3: give each line its own");
    }

    #[test]
    fn lines_that_look_alike_are_found() {
        let text = "email,amount,reference\na@b.co,1,\nb@b.co,1,\nA@b.co,1,\na@b.co,1,\na@b.co,2,\na@b.co,1,r\n";
        let file = checked(text).ok().unwrap();
        assert_eq!((file.twins().tally.lines, file.twins().tally.cents, file.twins().first), (2, 2, Some((4, 2))));
        assert_eq!(file.with_payment("a@b.co", 1), [0, 2, 3]);
        let with_reference = |reference| file.with_reference(Kind::Allocate, reference);
        assert_eq!(with_reference("r"), [5]);
        assert!(file.with_payment("a@b.co", 3).is_empty() && with_reference("a").is_empty());
        assert!(file.with_reference(Kind::Reverse, "r").is_empty() && file.are_payouts());
        assert_eq!(size_of::<Item>(), 32);
    }

    #[test]
    fn lines_of_different_kinds_are_never_alike() {
        let id = "0198c0de-0000-7000-8000-00000a11ca7e";
        let text = format!(
            "kind,email,amount,reference,target\n,a@b.co,1,r,\nsettle,a@b.co,1,r,\nreverse,,1,r,{id}\n\
             reverse,,1,,{id}\nreverse,,,,{id}\nreverse,,1,,{id}\n"
        );
        let file = checked(&text).ok().unwrap();
        assert_eq!((file.twins().tally.lines, file.twins().first), (1, Some((7, 5))));
        let kinds = [Kind::Allocate, Kind::Settle, Kind::Reverse, Kind::Reverse, Kind::Reverse, Kind::Reverse];
        assert_eq!(file.items.iter().map(Item::kind).collect::<Vec<_>>(), kinds);
        assert!(!file.are_payouts());
        for (place, kind) in (0..).zip(&kinds[..3]) {
            assert_eq!(file.with_reference(*kind, "r"), [place]);
        }
        let target = RequestId::from_u128(uuid::Uuid::parse_str(id).unwrap().as_u128());
        assert_eq!(file.with_reversal(target, 1), [3, 5]);
        let twice = checked(&format!("kind,target,reference\nreverse,{id},r\nreverse,{id},r\n")).err().unwrap();
        assert_eq!(twice.first[0].to_string(), "line 3: has the reference of line 2: give each line its own");
    }
}
