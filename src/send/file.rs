//! Reads the file of payouts: CSV with a header, or JSON lines. The whole file is checked by the service's rules before
//! any line is sent.
//!
//! The file is split at line ends first. So line numbers in messages are those of an editor, and a missing quotation
//! mark affects only its own line. A line takes about 150 bytes of memory, a million lines 150 MB.

use crate::ledger::amount::AmountError;
use crate::ledger::email::EmailError;
use crate::ledger::reference::ReferenceError;
use crate::ledger::{Amount, Email, Reference};
use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// One payout of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line's number in the file, from 1.
    pub number: u64,
    /// The payout user.
    pub email: Email,
    /// How much.
    pub amount: Amount,
    /// The line's reference, if it has one.
    pub reference: Option<Reference>,
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

/// Reads a file. Returns its payouts or, if any line is bad, all bad lines. An error means that the file cannot be
/// read.
pub fn read(path: &Path) -> anyhow::Result<Result<Vec<Line>, Vec<BadLine>>> {
    let file = || File::open(path).map(BufReader::new).with_context(|| format!("{} cannot be read", path.display()));
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => check(file()?, Format::Csv(Columns::default())),
        Some("jsonl" | "ndjson") => check(file()?, Format::JsonLines),
        _ => bail!("{} must end in .csv, or in .jsonl or .ndjson for a JSON object a line", path.display()),
    }
}

enum Format {
    Csv(Columns),
    JsonLines,
}

/// The positions of the columns of a CSV file. They are known after the header; until then `count` is 0.
#[derive(Default)]
struct Columns {
    count: usize,
    email: usize,
    amount: usize,
    reference: Option<usize>,
}

/// The longest line that is read, in bytes: several times the longest payout. So a file without line ends is not read
/// into memory as a whole.
const LONGEST_LINE: usize = 64 * 1024;

fn check(mut file: impl BufRead, mut format: Format) -> anyhow::Result<Result<Vec<Line>, Vec<BadLine>>> {
    let (mut lines, mut bad, mut references) = (vec![], vec![], HashMap::new());
    let (mut bytes, mut number) = (vec![], 0);
    while file.by_ref().take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut bytes)? > 0 {
        number += 1;
        if bytes.len() > LONGEST_LINE {
            let reason = format!("is longer than {LONGEST_LINE} bytes: what follows was not read");
            bad.push(BadLine { number, reason });
            break;
        }
        match read_line(&bytes, number, &mut format).and_then(|line| unique(line, &mut references)) {
            Ok(line) => lines.extend(line),
            Err(reason) => bad.push(BadLine { number, reason }),
        }
        if matches!(&format, Format::Csv(columns) if columns.count == 0) && !bad.is_empty() {
            // Without the header the other lines cannot be checked.
            return Ok(Err(bad));
        }
        bytes.clear();
    }
    Ok(if bad.is_empty() { Ok(lines) } else { Err(bad) })
}

/// Parses and checks one line. Returns `None` for a blank line and the header.
fn read_line(bytes: &[u8], number: u64, format: &mut Format) -> Result<Option<Line>, String> {
    let text = str::from_utf8(bytes).map_err(|_| "is not UTF-8: save the file as UTF-8".to_owned())?;
    let text = if number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.trim().is_empty() {
        return Ok(None);
    }
    if text.contains('\r') {
        // The CSV reader would take it for the end of the line, and ignore the rest.
        return Err("has a carriage return in the middle: save the file with usual line ends".to_owned());
    }
    let fields = match format {
        Format::Csv(columns) => match columns.read(text)? {
            Some(fields) => fields,
            None => return Ok(None),
        },
        Format::JsonLines => read_object(text)?,
    };
    fields.check(number).map(Some)
}

/// Refuses a line whose reference another line has: the two would have the same idempotency key, and only one be paid.
fn unique(line: Option<Line>, references: &mut HashMap<Reference, u64>) -> Result<Option<Line>, String> {
    if let Some((number, reference)) = line.as_ref().and_then(|line| Some((line.number, line.reference.clone()?))) {
        match references.get(&reference) {
            Some(first) => return Err(format!("has the reference of line {first}: give each payout its own")),
            None => references.insert(reference, number),
        };
    }
    Ok(line)
}

impl Columns {
    /// Parses a line into fields. The first line is the header: its columns are stored, and `None` is returned.
    fn read(&mut self, text: &str) -> Result<Option<Fields>, String> {
        let record = read_record(text)?;
        if self.count == 0 {
            *self = Self::of_header(&record)?;
            return Ok(None);
        }
        if record.len() != self.count {
            return Err(format!("has {} fields, the header has {}", record.len(), self.count));
        }
        let field = |at: usize| record[at].to_owned();
        let reference = self.reference.map(field).unwrap_or_default();
        Ok(Some(Fields { email: field(self.email), amount: field(self.amount), reference }))
    }

    fn of_header(header: &csv::StringRecord) -> Result<Self, String> {
        let at = |name: &str| header.iter().position(|column| column == name);
        let needed = |name: &str| at(name).ok_or_else(|| format!("the header has no column `{name}`"));
        let known = ["email", "amount", "reference"];
        // A misspelt `reference` must not be ignored, or lines would be sent without their references.
        for (position, column) in header.iter().enumerate() {
            if !known.contains(&column) {
                return Err(format!("the column `{column}` is not email, amount or reference: rename or remove it"));
            }
            if at(column) != Some(position) {
                return Err(format!("the column `{column}` is there twice: remove one"));
            }
        }
        let (email, amount, reference) = (needed("email")?, needed("amount")?, at("reference"));
        Ok(Self { count: header.len(), email, amount, reference })
    }
}

/// Parses one line of CSV. Blanks around fields are removed.
fn read_record(text: &str) -> Result<csv::StringRecord, String> {
    if !text.matches('"').count().is_multiple_of(2) {
        return Err("has a quotation mark that is not closed on the same line".to_owned());
    }
    let mut reader = csv::ReaderBuilder::new();
    let reader = reader.has_headers(false).trim(csv::Trim::All).buffer_capacity(text.len());
    let record = reader.from_reader(text.as_bytes()).into_records().next();
    record.unwrap_or_else(|| Ok(csv::StringRecord::new())).map_err(|error| format!("is not CSV: {error}"))
}

/// The fields of a line, as texts that are not checked yet.
struct Fields {
    email: String,
    amount: String,
    reference: String,
}

fn read_object(text: &str) -> Result<Fields, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Object<'a> {
        email: String,
        #[serde(borrow)]
        amount: &'a RawValue,
        #[serde(default)]
        reference: Option<String>,
    }
    if !text.trim_start().starts_with('{') {
        return Err("is not a JSON object".to_owned());
    }
    // The error's position is cut off: it counts within this line, and would be taken for a position in the file.
    let wrong = |error: serde_json::Error| {
        let said = error.to_string();
        format!("is not a payout: {}", said.split(" at line ").next().unwrap_or(&said))
    };
    let Object { email, amount, reference } = serde_json::from_str(text).map_err(wrong)?;
    Ok(Fields { email, amount: amount.get().to_owned(), reference: reference.unwrap_or_default() })
}

impl Fields {
    fn check(&self, number: u64) -> Result<Line, String> {
        match (check_email(&self.email), check_amount(&self.amount), check_reference(&self.reference)) {
            (Ok(email), Ok(amount), Ok(reference)) => Ok(Line { number, email, amount, reference }),
            (email, amount, reference) => {
                let wrong = [email.err(), amount.err(), reference.err()];
                Err(wrong.into_iter().flatten().collect::<Vec<_>>().join("; "))
            }
        }
    }
}

fn check_email(text: &str) -> Result<Email, &'static str> {
    Email::parse(text).map_err(|error| match error {
        EmailError::Empty => "the email is missing",
        EmailError::TooLong => "the email is longer than 255 characters",
        EmailError::Invalid => "the email is not one valid address",
    })
}

fn check_amount(text: &str) -> Result<Amount, &'static str> {
    if text.is_empty() {
        return Err("the amount is missing");
    }
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(
            "the amount is not a whole number of cents: write 1250 for 12.50, without a point, sign or quotation marks",
        );
    }
    let cents = text.parse().unwrap_or(if negative { i64::MIN } else { i64::MAX });
    Amount::from_cents(cents).map_err(|error| match error {
        AmountError::BelowMinimum => "the amount is below 1 cent",
        AmountError::AboveMaximum => "the amount is above 100000000 cents: split it",
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

    fn csv(text: &str) -> Result<Vec<Line>, Vec<String>> {
        said(text, Format::Csv(Columns::default()))
    }

    fn json(text: &str) -> Result<Vec<Line>, Vec<String>> {
        said(text, Format::JsonLines)
    }

    fn said(text: &str, format: Format) -> Result<Vec<Line>, Vec<String>> {
        check(text.as_bytes(), format).unwrap().map_err(|bad| bad.iter().map(BadLine::to_string).collect())
    }

    fn line(number: u64, email: &str, cents: i64, reference: Option<&str>) -> Line {
        let (email, amount) = (Email::parse(email).unwrap(), Amount::from_cents(cents).unwrap());
        Line { number, email, amount, reference: reference.and_then(|text| Reference::parse(text).unwrap()) }
    }

    #[test]
    fn columns_come_in_any_order_and_lines_are_counted_as_an_editor_does() {
        let text = "\u{feff}reference,amount,email\r\n\r\n\"r,1\", 5 ,Ann@Example.com\r\n,6,bob@example.com";
        let expected = vec![line(3, "ann@example.com", 5, Some("r,1")), line(4, "bob@example.com", 6, None)];
        assert_eq!(csv(text), Ok(expected));
        assert_eq!(csv("email,amount\na@b.co,1\n"), Ok(vec![line(2, "a@b.co", 1, None)]));
        assert_eq!(csv("email,amount\n"), Ok(vec![]));
    }

    #[test]
    fn json_lines_are_objects_with_the_same_fields() {
        let text = "{\"amount\":5,\"email\":\"ann@example.com\"}\n\n{\"email\":\"bob@example.com\",\"amount\":6,\"reference\":\"r\"}";
        let expected = vec![line(1, "ann@example.com", 5, None), line(3, "bob@example.com", 6, Some("r"))];
        assert_eq!(json(text), Ok(expected));
        let bad = [
            "[\"a@b.co\",1]",
            "{\"email\":\"a@b.co\"}",
            "{\"email\":\"a@b.co\",\"amount\":\"1\"}",
            "{\"email\":\"a@b.co\",\"amount\":1.0}",
            "{\"email\":\"a@b.co\",\"amount\":1,\"amount\":2}",
            "{\"email\":\"a@b.co\",\"amount\":1,\"referense\":\"r\"}",
            "{\"email\":\"a@b.co\",\"amount\":1",
        ];
        let said = json(&bad.join("\n")).unwrap_err();
        assert_eq!(said.len(), bad.len(), "{said:#?}");
        assert_eq!(said[0], "line 1: is not a JSON object");
        assert!(said[5].starts_with("line 6: is not a payout: unknown field `referense`"), "{said:#?}");
        assert!(said.iter().all(|said| !said.contains("column ")), "{said:#?}");
    }

    #[test]
    fn every_bad_line_is_named_with_all_that_is_wrong_with_it() {
        let rows = [
            (",5,", "the email is missing"),
            ("nope,5,", "the email is not one valid address"),
            ("a@b.co,,", "the amount is missing"),
            ("a@b.co,0,", "the amount is below 1 cent"),
            ("a@b.co,-99999999999999999999,", "the amount is below 1 cent"),
            ("a@b.co,100000001,", "the amount is above 100000000 cents: split it"),
            ("a@b.co,5,r\u{1}", "the reference has a control character in it"),
            ("a@b.co,5", "has 2 fields, the header has 3"),
            ("a@b.co,5,\rb@b.co,6,", "has a carriage return in the middle: save the file with usual line ends"),
            ("a@b.co,5,\"r", "has a quotation mark that is not closed on the same line"),
            ("a@b.co,5,twice", ""),
            ("a@b.co,5, twice ", "has the reference of line 12: give each payout its own"),
            ("nope,0,", "the email is not one valid address; the amount is below 1 cent"),
        ];
        let text: String = rows.iter().map(|(row, _)| format!("{row}\n")).collect();
        let expected: Vec<String> = (2..)
            .zip(rows)
            .filter(|(_, (_, reason))| !reason.is_empty())
            .map(|(number, (_, reason))| format!("line {number}: {reason}"))
            .collect();
        assert_eq!(csv(&format!("email,amount,reference\n{text}")), Err(expected));
        for amount in ["12.50", "12,5", "\"1,000\"", "1e3", "+5", "$5", "0x5", "5 0", "-"] {
            let said = csv(&format!("email,amount\na@b.co,{amount}\n")).unwrap_err();
            assert!(said[0].starts_with("line 2: "), "{amount}: {said:?}");
        }
    }

    #[test]
    fn a_file_without_line_ends_is_not_read_whole() {
        let longest = format!("email,amount,reference\na@b.co,1,{}\n", "r".repeat(LONGEST_LINE));
        assert_eq!(csv(&longest).unwrap_err(), ["line 2: is longer than 65536 bytes: what follows was not read"]);
        let endless = BufReader::new(std::io::repeat(b'x'));
        assert_eq!(check(endless, Format::JsonLines).unwrap().unwrap_err().len(), 1);
    }

    #[test]
    fn a_header_that_is_not_understood_stops_the_reading() {
        for (header, said) in [
            ("email,amount,referense", "line 1: the column `referense` is not"),
            ("email,reference", "line 1: the header has no column `amount`"),
            ("email,amount,email", "line 1: the column `email` is there twice"),
            ("email;amount", "line 1: the column `email;amount` is not"),
        ] {
            let bad = csv(&format!("{header}\nnope,0\n")).unwrap_err();
            assert!(bad.len() == 1 && bad[0].starts_with(said), "{bad:?}");
        }
    }
}
