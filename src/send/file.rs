//! Reads the file: CSV with a header, JSON lines, or a workbook. What it is, is seen from its content. It is
//! checked by the service's rules, row by row.

use super::amounts::{Evidence, Mark, Notation, Written};
use super::cells::{self, Records};
use super::columns::{Cell, Columns, Fields};
use super::sheet::{self, Sheet};
use super::{source, text};
use crate::ledger::email::EmailError;
use crate::ledger::reference::ReferenceError;
use crate::ledger::{Amount, Email, Kind, Movement, Reference, RequestId};
use anyhow::Context;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::slice;
use uuid::Uuid;

/// One line of the file: a payout, a reversal or a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line's number in the file, from 1.
    pub number: u64,
    /// What it asks for.
    pub movement: Movement,
    /// The line's reference, if it has one. A settlement has one.
    pub reference: Option<Reference>,
}

impl Line {
    /// What kind of movement it asks for.
    pub fn kind(&self) -> Kind {
        self.movement.kind()
    }

    /// The amount. 0 for a reversal of all that is left.
    pub fn cents(&self) -> i64 {
        self.movement.amount().map_or(0, Amount::cents)
    }
}

/// A row of the file: a line, and the cells of the columns that mean nothing to the service.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// What to send.
    pub line: Line,
    /// The other cells, in the order of [`File::kept_names`].
    pub kept: Vec<String>,
}

/// A line that cannot be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The number of the line in the file, from 1.
    pub number: u64,
    /// What is wrong and how to fix it, without the line's content.
    pub reason: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.number, self.reason)
    }
}

/// An open file whose header and notation are known. It can be read as often as needed.
pub struct File {
    input: Input,
    notation: Notation,
    kept_names: Vec<String>,
}

enum Input {
    Text(fs::File),
    Sheet(Sheet),
}

/// Why a file cannot be used.
#[derive(Debug)]
pub enum Unusable {
    /// A line that all others depend on is wrong.
    BadLine(BadLine),
    /// Amounts contradict each other, or could mean two things.
    Amounts(String),
}

impl File {
    /// Opens a file. An error means that it cannot be read.
    pub fn open(path: &Path, written: Written) -> anyhow::Result<Result<Self, Unusable>> {
        let input = Input::open(path).with_context(|| path.display().to_string())?;
        let kept_names = match input.rows()? {
            Ok(rows) => rows.kept_names().to_vec(),
            Err(bad) => return Ok(Err(Unusable::BadLine(bad))),
        };
        Ok(match find_notation(written, || input.rows())? {
            Ok(notation) => Ok(Self { input, notation, kept_names }),
            Err(wrong) => Err(Unusable::Amounts(wrong)),
        })
    }

    /// How its amounts are read.
    pub fn notation(&self) -> Notation {
        self.notation
    }

    /// The names of the columns that are only kept for the results.
    pub fn kept_names(&self) -> &[String] {
        &self.kept_names
    }

    /// The name of the sheet that is read, if it is a workbook.
    pub fn sheet(&self) -> Option<&str> {
        match &self.input {
            Input::Text(_) => None,
            Input::Sheet(sheet) => Some(&sheet.name),
        }
    }

    /// Reads the file from its beginning. Only one reading can go on at a time.
    pub fn rows(&self) -> io::Result<Rows<'_>> {
        let fields = self.input.rows()?.map_err(|bad| io::Error::other(bad.to_string()))?;
        Ok(Rows { fields, notation: self.notation })
    }
}

impl Input {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = source::open(path)?;
        let mut start = vec![];
        (&file).take(sheet::START.len() as u64).read_to_end(&mut start)?;
        (&file).rewind()?;
        if start == sheet::START {
            return Ok(Self::Sheet(sheet::read(BufReader::new(&file))?));
        }
        Ok(Self::Text(file))
    }

    fn rows(&self) -> io::Result<Result<RawRows<'_>, BadLine>> {
        match self {
            Self::Text(file) => {
                let mut file = file;
                file.rewind()?;
                RawRows::of_text(BufReader::with_capacity(64 * 1024, file))
            }
            Self::Sheet(sheet) => Ok(RawRows::of_sheet(sheet)),
        }
    }
}

/// Finds out how amounts are written. If that depends on the amounts, it reads them all.
fn find_notation<'a>(
    written: Written,
    rows: impl Fn() -> io::Result<Result<RawRows<'a>, BadLine>>,
) -> io::Result<Result<Notation, String>> {
    let mut evidence = Evidence::default();
    match written {
        Written::Cents => return Ok(Ok(Notation::Cents)),
        Written::DecimalPoint => return Ok(Ok(Notation::Decimal(Mark::Point))),
        Written::DecimalComma => return Ok(Ok(Notation::Decimal(Mark::Comma))),
        Written::Decimal => {}
    }
    if let Ok(mut rows) = rows()? {
        while let Some((number, fields)) = rows.read()? {
            if let Ok(fields) = fields {
                evidence.note(number, &fields.amount);
            }
        }
    }
    Ok(evidence.conclude().map(Notation::Decimal))
}

/// Rows that are not checked yet.
enum RawRows<'a> {
    Cells { records: Records<Box<dyn BufRead + Send + 'a>>, separator: char, columns: Columns },
    Objects(Records<Box<dyn BufRead + Send + 'a>>),
    Sheet { rows: slice::Iter<'a, (u64, Vec<Cell>)>, columns: Columns, width: usize },
}

impl<'a> RawRows<'a> {
    /// Reads JSON lines if the first character opens an object or an array, else CSV.
    fn of_text(bytes: impl BufRead + Send + 'a) -> io::Result<Result<Self, BadLine>> {
        let mut text = text::decode(bytes)?;
        let first = text.fill_buf()?.iter().find(|byte| !byte.is_ascii_whitespace());
        if matches!(first, Some(b'{' | b'[')) {
            return Ok(Ok(Self::Objects(Records::of_lines(text))));
        }
        let (mut records, mut named) = (Records::of_cells(text), None);
        while let Some((number, record)) = records.read()? {
            let bad = |reason| Ok(Err(BadLine { number, reason }));
            let header = match record {
                Ok(record) if record.trim().is_empty() => continue,
                Ok(record) => record,
                Err(reason) => return bad(reason),
            };
            if named.is_none()
                && let Some(separator) = cells::named_separator(&header)
            {
                named = Some(separator);
                continue;
            }
            return match find_columns(&header, named) {
                Ok((separator, columns)) => Ok(Ok(Self::Cells { records, separator, columns })),
                Err(reason) => bad(reason),
            };
        }
        Ok(Err(BadLine { number: 1, reason: "there is no header".to_owned() }))
    }

    fn of_sheet(sheet: &'a Sheet) -> Result<Self, BadLine> {
        let mut rows = sheet.rows.iter();
        let (number, header) = rows.next().ok_or(BadLine { number: 1, reason: "there is no header".to_owned() })?;
        let names: Vec<String> = header.iter().map(|cell| cell.text().to_owned()).collect();
        let columns = Columns::of_header(&names).map_err(|reason| BadLine { number: *number, reason })?;
        Ok(Self::Sheet { rows, columns, width: names.len() })
    }

    fn kept_names(&self) -> &[String] {
        match self {
            Self::Cells { columns, .. } | Self::Sheet { columns, .. } => columns.kept_names(),
            Self::Objects(_) => &[],
        }
    }

    /// The next row that has something in it, with its number. A row that cannot be read says why.
    fn read(&mut self) -> io::Result<Option<(u64, Result<Fields, String>)>> {
        loop {
            let (number, read) = match self {
                Self::Cells { records, separator, columns } => {
                    let Some((number, record)) = records.read()? else { return Ok(None) };
                    (number, record.and_then(|record| read_cells(&record, *separator, columns)))
                }
                Self::Objects(records) => {
                    let Some((number, record)) = records.read()? else { return Ok(None) };
                    (number, record.and_then(|record| read_object(&record)))
                }
                Self::Sheet { rows, columns, width } => {
                    let Some((number, cells)) = rows.next() else { return Ok(None) };
                    let mut cells = cells.clone();
                    cells.resize(cells.len().max(*width), Cell::default());
                    (*number, columns.pick(cells))
                }
            };
            if let Some(read) = read.transpose() {
                return Ok(Some((number, read)));
            }
        }
    }
}

/// Finds the separator, unless a line named it, and the columns.
fn find_columns(header: &str, named: Option<char>) -> Result<(char, Columns), String> {
    const USUAL: [char; 3] = [',', ';', '\t'];
    let candidates = named.map_or(USUAL.to_vec(), |separator| vec![separator]);
    let found = candidates.iter().map(|separator| {
        let cells = cells::split(header, *separator).map_err(|wrong| (1, wrong.to_owned()))?;
        let columns = Columns::of_header(&cells).map_err(|wrong| (cells.len(), wrong))?;
        Ok((*separator, columns))
    });
    let mut wrong = vec![];
    for found in found {
        match found {
            Ok(found) => return Ok(found),
            Err(error) => wrong.push(error),
        }
    }
    // The message of the separator that gives most cells, and of the first such one.
    let most = wrong.iter().map(|(count, _): &(usize, String)| *count).max();
    let worst = wrong.into_iter().find(|(count, _)| Some(*count) == most);
    Err(worst.map(|(_, wrong)| wrong).unwrap_or_default())
}

/// Reads a row of CSV. `None` for a row without any text.
fn read_cells(record: &str, separator: char, columns: &Columns) -> Result<Option<Fields>, String> {
    let cells = cells::split(record, separator)?;
    columns.pick(cells.into_iter().map(Cell::Text).collect())
}

/// Reads a line with a JSON object. `None` for a blank line.
fn read_object(text: &str) -> Result<Option<Fields>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Object<'a> {
        #[serde(default)]
        kind: Option<String>,
        #[serde(default)]
        email: Option<String>,
        #[serde(borrow, default)]
        amount: Option<&'a RawValue>,
        #[serde(default)]
        target: Option<String>,
        #[serde(default)]
        reference: Option<String>,
    }
    if text.trim().is_empty() {
        return Ok(None);
    }
    if !text.trim_start().starts_with('{') {
        return Err("is not a JSON object".to_owned());
    }
    // The error's position is cut off: it counts within this line, and would be taken for a position in the file.
    let wrong = |error: serde_json::Error| {
        let said = error.to_string();
        format!("is not understood: {}", said.split(" at line ").next().unwrap_or(&said))
    };
    let Object { kind, email, amount, target, reference } = serde_json::from_str(text).map_err(wrong)?;
    Ok(Some(Fields {
        kind: kind.unwrap_or_default(),
        email: email.unwrap_or_default(),
        amount: amount.map(|amount| Cell::Number(amount.get().to_owned())).unwrap_or_default(),
        target: target.unwrap_or_default(),
        reference: reference.unwrap_or_default(),
        kept: vec![],
    }))
}

/// The checked rows of a file. An error means that the file cannot be read further.
pub struct Rows<'a> {
    fields: RawRows<'a>,
    notation: Notation,
}

impl Iterator for Rows<'_> {
    type Item = io::Result<Result<Row, BadLine>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (number, fields) = match self.fields.read() {
            Ok(Some(read)) => read,
            Ok(None) => return None,
            Err(error) => return Some(Err(error)),
        };
        let checked = fields.and_then(|fields| check(number, fields, self.notation));
        Some(Ok(checked.map_err(|reason| BadLine { number, reason })))
    }
}

fn check(number: u64, fields: Fields, notation: Notation) -> Result<Row, String> {
    let kind = check_kind(&fields.kind)?;
    let is_reversal = kind == Kind::Reverse;
    let email = match is_reversal {
        true => see_that_it_is_empty(&fields.email, "a reversal has no email: its target says whose payout it is"),
        false => check_email(&fields.email).map(Some),
    };
    let amount = match is_reversal && fields.amount.text().trim().is_empty() {
        true => Ok(None),
        false => notation.read(&fields.amount).map(Some),
    };
    let target = match is_reversal {
        true => check_target(&fields.target).map(Some),
        false => see_that_it_is_empty(&fields.target, "only a reversal has a target"),
    };
    let reference = match check_reference(&fields.reference) {
        Ok(None) if kind == Kind::Settle => Err("the reference is missing: a settlement is known by it"),
        checked => checked,
    };
    match (email, amount, target, reference) {
        (Ok(email), Ok(amount), Ok(target), Ok(reference)) => {
            let movement = Movement::of(kind, email, amount, target).ok_or("a field is missing")?;
            Ok(Row { line: Line { number, movement, reference }, kept: fields.kept })
        }
        (email, amount, target, reference) => {
            let wrong = [email.err(), amount.err(), target.err(), reference.err()];
            Err(wrong.into_iter().flatten().collect::<Vec<_>>().join("; "))
        }
    }
}

fn check_kind(text: &str) -> Result<Kind, &'static str> {
    match text.trim() {
        "" => Ok(Kind::Allocate),
        text => Kind::parse(&text.to_ascii_lowercase()).ok_or("the kind is none of allocate, reverse and settle"),
    }
}

/// A field that has no meaning for the kind of the line is not ignored: it may be meant for another kind.
fn see_that_it_is_empty<T>(text: &str, wrong: &'static str) -> Result<Option<T>, &'static str> {
    if text.trim().is_empty() { Ok(None) } else { Err(wrong) }
}

fn check_target(text: &str) -> Result<RequestId, &'static str> {
    match text.trim() {
        "" => Err("the target is missing: the request id of what is taken back"),
        text => match Uuid::try_parse(text) {
            Ok(id) if id.to_string() == text.to_ascii_lowercase() => Ok(RequestId::from_u128(id.as_u128())),
            _ => Err("the target is not a request id"),
        },
    }
}

fn check_email(text: &str) -> Result<Email, &'static str> {
    Email::parse(text).map_err(|error| match error {
        EmailError::Empty => "the email is missing",
        EmailError::TooLong => "the email is longer than 255 characters",
        EmailError::Invalid => "the email is not one valid address",
    })
}

fn check_reference(text: &str) -> Result<Option<Reference>, &'static str> {
    Reference::parse(text).map_err(|error| match error {
        ReferenceError::TooLong => "the reference is longer than 255 characters",
        ReferenceError::Invalid => "the reference has a control character in it",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a text as a file of this content would be read. Bad lines are given as texts.
    fn read(bytes: &[u8], written: Written) -> Result<Vec<Row>, Vec<String>> {
        let rows = || RawRows::of_text(bytes);
        let fields = rows().unwrap().map_err(|bad| vec![bad.to_string()])?;
        let notation = find_notation(written, rows).unwrap().map_err(|wrong| vec![wrong])?;
        let (mut good, mut bad) = (vec![], vec![]);
        for row in (Rows { fields, notation }) {
            match row.unwrap() {
                Ok(row) => good.push(row),
                Err(line) => bad.push(line.to_string()),
            }
        }
        if bad.is_empty() { Ok(good) } else { Err(bad) }
    }

    fn cents(text: &str) -> Result<Vec<Row>, Vec<String>> {
        read(text.as_bytes(), Written::Cents)
    }

    fn row(number: u64, email: &str, cents: i64, reference: Option<&str>, kept: &[&str]) -> Row {
        let (email, amount) = (Email::parse(email).unwrap(), Amount::from_cents(cents).unwrap());
        let reference = reference.and_then(|text| Reference::parse(text).unwrap());
        let kept = kept.iter().map(|text| (*text).to_owned()).collect();
        Row { line: Line { number, movement: Movement::Allocate { email, amount }, reference }, kept }
    }

    #[test]
    fn separators_encodings_and_line_ends_are_found_out() {
        let expected = || {
            Ok(vec![row(2, "ann@example.com", 5, Some("é;1,\"x"), &[""]), row(3, "bob@example.com", 6, None, &["x"])])
        };
        for separator in [",", ";", "\t"] {
            for line_end in ["\n", "\r\n"] {
                let text = [
                    ["Email", "AMOUNT", "Reference", "Note"].join(separator),
                    ["Ann@Example.com", "5", "\"é;1,\"\"x\"", ""].join(separator),
                    [" bob@example.com ", "6", "", "x", ""].join(separator),
                    ["", "", "", ""].join(separator),
                ]
                .join(line_end);
                for start in ["", "\u{feff}"] {
                    let text = format!("{start}{text}");
                    let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                    let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
                    for bytes in [text.clone().into_bytes(), little, big] {
                        assert_eq!(read(&bytes, Written::Cents), expected(), "{text:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_line_that_names_the_separator_is_obeyed_and_counted() {
        let expected = Ok(vec![row(3, "a@b.co", 1, None, &["x,y"])]);
        assert_eq!(cents("sep=;\r\nemail;amount;note\r\na@b.co;1;x,y\r\n"), expected);
        assert_eq!(cents("sep=|\nemail|amount|note\na@b.co|1|x,y"), expected);
        assert!(
            cents("sep=;\nemail,amount\na@b.co,1\n").unwrap_err()[0]
                .contains("has no column `email`: it has `email,amount`")
        );
    }

    #[test]
    fn a_quoted_field_may_span_lines_and_lines_are_counted_as_an_editor_does() {
        let text = "email,amount,note,reference\n\na@b.co,1,\"two\r\nlines\",r-1\nb@b.co,2,,\n";
        assert_eq!(
            cents(text),
            Ok(vec![row(3, "a@b.co", 1, Some("r-1"), &["two\r\nlines"]), row(5, "b@b.co", 2, None, &[""])])
        );
        let said = cents("email,amount,note\na@b.co,1,\"note\nb@b.co,2,\"other\"\nc@b.co,x,\n").unwrap_err();
        assert_eq!(said, ["line 2: has a quotation mark that is not closed: what follows was not read"]);
        let said = cents("email,amount,note\na@b.co,1,\"note\nb@b.co,2,other\"x\nc@b.co,x,\n").unwrap_err();
        assert!(said[0].starts_with("line 2: has text behind the quotation mark"), "{said:?}");
        assert!(said[1].starts_with("line 4: the amount is not a whole number"), "{said:?}");
    }

    #[test]
    fn json_lines_are_objects_with_the_same_fields() {
        let text = "{\"amount\":5,\"email\":\"ann@example.com\"}\n\n{\"email\":\"bob@example.com\",\"amount\":6,\"reference\":\"r\"}";
        let expected = vec![row(1, "ann@example.com", 5, None, &[]), row(3, "bob@example.com", 6, Some("r"), &[])];
        assert_eq!(cents(text), Ok(expected));
        let decimal = read(b"{\"email\":\"a@b.co\",\"amount\":12.5}", Written::Decimal);
        assert_eq!(decimal, Ok(vec![row(1, "a@b.co", 1_250, None, &[])]));
        let bad = [
            "[\"a@b.co\",1]",
            "{\"email\":\"a@b.co\"}",
            "{\"email\":\"a@b.co\",\"amount\":\"1\"}",
            "{\"email\":\"a@b.co\",\"amount\":1.0}",
            "{\"email\":\"a@b.co\",\"amount\":1,\"amount\":2}",
            "{\"email\":\"a@b.co\",\"amount\":1,\"referense\":\"r\"}",
            "{\"email\":\"a@b.co\",\"amount\":1",
        ];
        let said = cents(&bad.join("\n")).unwrap_err();
        assert_eq!(said.len(), bad.len(), "{said:#?}");
        assert_eq!(said[0], "line 1: is not a JSON object");
        assert!(said[5].starts_with("line 6: is not understood: unknown field `referense`"), "{said:#?}");
        assert!(said.iter().all(|said| !said.contains("column ")), "{said:#?}");
    }

    #[test]
    fn every_bad_line_is_named_with_all_that_is_wrong_with_it() {
        let rows = [
            (",5,", "the email is missing"),
            ("nope,5,", "the email is not one valid address"),
            ("a@b.co,,", "the amount is missing"),
            ("a@b.co,0,", "the amount is below 1 cent"),
            ("a@b.co,0012,", "the amount begins with a zero: is it an amount? Write it without"),
            ("a@b.co,5,r\u{1}", "the reference has a control character in it"),
            ("a@b.co,5,\"r\nr\"", "the reference has a control character in it"),
            ("a@b.co,5", "has 2 fields, the header has 3"),
            ("a@b.co,5,\rb@b.co,6,", "has a carriage return in the middle: save the file with usual line ends"),
            ("nope,0,", "the email is not one valid address; the amount is below 1 cent"),
            ("a@b.co,5,\"r", "has a quotation mark that is not closed: what follows was not read"),
        ];
        let text: String = rows.iter().map(|(row, _)| format!("{row}\n")).collect();
        let said = cents(&format!("email,amount,reference\n{text}")).unwrap_err();
        assert_eq!(said.len(), rows.len(), "{said:#?}");
        for (said, (row, reason)) in said.iter().zip(rows) {
            assert!(said.ends_with(&format!(": {reason}")), "{row:?}: {said}");
        }
        assert!(said[7].starts_with("line 10: "), "{said:#?}");
        let latin = read(b"email,amount\nj\xf6rg@b.co,5\n", Written::Cents).unwrap_err();
        assert_eq!(latin, ["line 2: is neither UTF-8 nor UTF-16: save the file as CSV UTF-8"]);
    }

    const TARGET: &str = "0198c0de-0000-7000-8000-00000a11ca7e";

    fn movements(text: &str, written: Written) -> Result<Vec<Movement>, Vec<String>> {
        let rows = read(text.replace("TARGET", TARGET).as_bytes(), written)?;
        Ok(rows.into_iter().map(|row| row.line.movement).collect())
    }

    #[test]
    fn a_line_can_take_back_or_settle_instead() {
        let (email, cents) = (Email::parse("a@b.co").unwrap(), |cents| Amount::from_cents(cents).unwrap());
        let target = RequestId::from_u128(Uuid::parse_str(TARGET).unwrap().as_u128());
        let expected = || {
            Ok(vec![
                Movement::Allocate { email: email.clone(), amount: cents(100) },
                Movement::Allocate { email: email.clone(), amount: cents(200) },
                Movement::Settle { email: email.clone(), amount: cents(350) },
                Movement::Reverse { target, amount: Some(cents(50)) },
                Movement::Reverse { target, amount: None },
            ])
        };
        let text = "email,amount,Kind,target,reference\na@b.co,1,,,\na@b.co,2, Allocate ,,\na@b.co,3.50,SETTLE,,r-1\n\
                    ,0.50,reverse, TARGET ,\n,,Reverse,TARGET,r-2\n";
        assert_eq!(movements(text, Written::Decimal), expected());
        let text = r#"{"email":"a@b.co","amount":1}
            {"email":"a@b.co","amount":2,"kind":"allocate","target":null}
            {"email":"a@b.co","amount":3.50,"kind":"settle","reference":"r-1"}
            {"kind":"reverse","amount":0.50,"target":"TARGET"}
            {"kind":"reverse","target":"TARGET","reference":"r-2"}"#;
        assert_eq!(movements(text, Written::Decimal), expected());
    }

    #[test]
    fn a_field_that_a_kind_needs_or_has_no_use_for_is_named() {
        let rows = [
            ("a@b.co,1,pay,,r", "the kind is none of allocate, reverse and settle"),
            ("a@b.co,1,settle,,", "the reference is missing: a settlement is known by it"),
            ("a@b.co,,settle,,r", "the amount is missing"),
            ("a@b.co,1,,TARGET,", "only a reversal has a target"),
            ("a@b.co,1,reverse,TARGET,", "a reversal has no email: its target says whose payout it is"),
            (",1,reverse,,", "the target is missing: the request id of what is taken back"),
            (",0,reverse,TARGET,", "the amount is below 1 cent"),
            (",1,reverse,0198c0de00007000800000000a11ca7e,", "the target is not a request id"),
            (",1,reverse,r-7,", "the target is not a request id"),
        ];
        let text: String = rows.iter().map(|(row, _)| format!("{row}\n")).collect();
        let said = movements(&format!("email,amount,kind,target,reference\n{text}"), Written::Cents).unwrap_err();
        assert_eq!(said.len(), rows.len(), "{said:#?}");
        for (said, (row, reason)) in said.iter().zip(rows) {
            assert!(said.ends_with(&format!(": {reason}")), "{row:?}: {said}");
        }
    }

    #[test]
    fn a_header_that_is_not_understood_stops_the_reading() {
        for (header, said) in [
            ("email,amount,referense", "line 1: is the column `referense` the `reference`?"),
            ("email,reference", "line 1: the header has no column `amount`: it has `email`, `reference`"),
            ("E-Mail;Betrag", "line 1: the header has no column `email`: it has `E-Mail`, `Betrag`"),
            ("email,amount,email", "line 1: the column `email` is there twice"),
            ("\"email,amount", "line 1: has a quotation mark that is not closed"),
            ("", "line 1: there is no header"),
        ] {
            let end = if header.is_empty() { "" } else { "\nnope,0\n" };
            let bad = cents(&format!("{header}{end}")).unwrap_err();
            assert!(bad.len() == 1 && bad[0].starts_with(said), "{bad:?}");
        }
        assert_eq!(cents("email,amount\n"), Ok(vec![]));
    }

    #[test]
    fn decimal_amounts_are_read_by_the_mark_of_the_file() {
        let file = |amounts: &[&str]| {
            let rows: String = amounts.iter().map(|amount| format!("a@b.co;\"{amount}\"\n")).collect();
            read(format!("email;amount\n{rows}").as_bytes(), Written::Decimal)
        };
        let paid = |rows: Result<Vec<Row>, Vec<String>>| {
            rows.map(|rows| rows.iter().map(|row| row.line.cents()).collect::<Vec<_>>())
        };
        assert_eq!(paid(file(&["1,250", "12.50"])), Ok(vec![125_000, 1_250]));
        assert_eq!(paid(file(&["1.250", "12,50"])), Ok(vec![125_000, 1_250]));
        assert_eq!(paid(file(&["1250", "7"])), Ok(vec![125_000, 700]));
        assert!(file(&["1,250", "7"]).unwrap_err()[0].contains("can be read in two ways"));
        assert!(file(&["3,50", "3.50"]).unwrap_err()[0].contains("written in two ways"));
        let told = read(b"email\tamount\na@b.co\t1,250\n", Written::DecimalPoint);
        assert_eq!(paid(told), Ok(vec![125_000]));
        let told = read(b"email\tamount\na@b.co\t1,250\n", Written::DecimalComma);
        assert_eq!(told.unwrap_err(), ["line 2: the amount has more than two decimals: round it"]);
        assert_eq!(Notation::Decimal(Mark::Comma).example(), "1.250,00 is 1,250.00");
    }

    #[test]
    fn the_rows_of_a_sheet_are_read_like_those_of_a_text() {
        let text = |text: &str| Cell::Text(text.to_owned());
        let number = |text: &str| Cell::Number(text.to_owned());
        let rows = vec![
            (2, vec![text("Name"), text("Email"), text("Amount")]),
            (3, vec![text("Ann"), text("ann@example.com"), number("12.5")]),
            (7, vec![text("Bob"), text("bob@example.com"), text("3,50")]),
            (8, vec![text(""), text(""), text(" ")]),
            (9, vec![text("Carl"), text("carl@example.com")]),
        ];
        let sheet = Sheet { name: "Payouts".to_owned(), rows };
        let rows = || Ok(RawRows::of_sheet(&sheet));
        let notation = find_notation(Written::Decimal, rows).unwrap().unwrap();
        let fields = RawRows::of_sheet(&sheet).unwrap();
        assert_eq!(fields.kept_names(), ["Name"]);
        let read: Vec<_> = Rows { fields, notation }.map(Result::unwrap).collect();
        assert_eq!(read[0], Ok(row(3, "ann@example.com", 1_250, None, &["Ann"])));
        assert_eq!(read[1], Ok(row(7, "bob@example.com", 350, None, &["Bob"])));
        assert_eq!(read[2].as_ref().unwrap_err().to_string(), "line 9: the amount is missing");
        assert_eq!(read.len(), 3);
    }
}
