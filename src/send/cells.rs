//! Splits a text into records, and a record into cells: CSV, strictly.
//!
//! A record ends with its line, unless a quotation mark is still open. Its number is that of its first line, as an
//! editor counts. Quotation marks anywhere but around a whole cell are refused: a missing one would otherwise make one
//! payout of two lines.

use std::io::{self, BufRead, Read};

/// The longest record, in bytes: several times the longest payout. So a file without line ends, or with a quotation
/// mark too many, is not read into memory as a whole.
pub(super) const LONGEST: usize = 64 * 1024;

/// The records of a text.
pub(super) struct Records<R> {
    text: R,
    /// Whether a record goes on after its line if a quotation mark is open.
    spans_lines: bool,
    /// How many lines were read.
    lines: u64,
    has_ended: bool,
}

/// The text of a record without its line end, or what is wrong with it.
pub(super) type Record = Result<String, String>;

impl<R: BufRead> Records<R> {
    /// Records of CSV.
    pub(super) fn of_cells(text: R) -> Self {
        Self { text, spans_lines: true, lines: 0, has_ended: false }
    }

    /// Each line is a record.
    pub(super) fn of_lines(text: R) -> Self {
        Self { text, spans_lines: false, lines: 0, has_ended: false }
    }

    /// The next record and the number of its first line. `None` at the end, and after a record without an end.
    pub(super) fn read(&mut self) -> io::Result<Option<(u64, Record)>> {
        let (mut bytes, mut is_open, number) = (vec![], false, self.lines + 1);
        while !self.has_ended {
            let (before, room) = (bytes.len(), LONGEST + 1 - bytes.len());
            self.text.by_ref().take(room as u64).read_until(b'\n', &mut bytes)?;
            let line = &bytes[before..];
            self.lines += u64::from(!line.is_empty());
            is_open ^= self.spans_lines && line.iter().filter(|byte| **byte == b'"').count() % 2 == 1;
            self.has_ended = line.is_empty() || bytes.len() > LONGEST;
            match (self.has_ended, is_open) {
                (false, true) => {}
                (false, false) => return Ok(Some((number, finish(bytes)))),
                (true, true) => {
                    let wrong = "has a quotation mark that is not closed: what follows was not read";
                    return Ok(Some((number, Err(wrong.to_owned()))));
                }
                (true, false) if bytes.is_empty() => {}
                (true, false) => {
                    let wrong = format!("is longer than {LONGEST} bytes: what follows was not read");
                    return Ok(Some((number, Err(wrong))));
                }
            }
        }
        Ok(None)
    }
}

fn finish(bytes: Vec<u8>) -> Record {
    let mut text =
        String::from_utf8(bytes).map_err(|_| "is neither UTF-8 nor UTF-16: save the file as CSV UTF-8".to_owned())?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

/// Splits a record into its cells. Blanks around cells are removed, but not those in quotation marks.
pub(super) fn split(record: &str, separator: char) -> Result<Vec<String>, &'static str> {
    let is_blank = |c: char| (c == ' ' || c == '\t') && c != separator;
    let (mut cells, mut rest) = (vec![], record);
    loop {
        let (cell, after) = match rest.trim_start_matches(is_blank).strip_prefix('"') {
            Some(quoted) => {
                let (cell, after) = unquote(quoted).ok_or("has a quotation mark that is not closed")?;
                (cell, after.trim_start_matches(is_blank))
            }
            None => {
                let (cell, after) = rest.split_at(rest.find(separator).unwrap_or(rest.len()));
                (check_bare(cell)?.trim_matches(is_blank).to_owned(), after)
            }
        };
        cells.push(cell);
        rest = match after.strip_prefix(separator) {
            Some(next) => next,
            None if after.is_empty() => return Ok(cells),
            None => return Err("has text behind the quotation mark that closes a field: is one missing?"),
        };
    }
}

/// Splits what follows an opening quotation mark at the closing one. Two marks stand for one.
fn unquote(mut rest: &str) -> Option<(String, &str)> {
    let mut cell = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        cell.push_str(part);
        let Some(next) = after.strip_prefix('"') else { return Some((cell, after)) };
        cell.push('"');
        rest = next;
    }
}

fn check_bare(cell: &str) -> Result<&str, &'static str> {
    if cell.contains('"') {
        return Err(
            "has a quotation mark in a field that does not begin with one: put the whole field in quotation marks",
        );
    }
    if cell.contains('\r') {
        return Err("has a carriage return in the middle: save the file with usual line ends");
    }
    Ok(cell)
}

/// The separator that a line such as `sep=;` names, which Excel writes and understands. `None` for any other line.
pub(super) fn named_separator(record: &str) -> Option<char> {
    let text = record.trim_matches('"');
    let (name, separator) = text.split_at_checked(4)?;
    let mut characters = separator.chars();
    let only = characters.next().filter(|c| c.is_ascii_punctuation() || *c == '\t')?;
    (name.eq_ignore_ascii_case("sep=") && characters.next().is_none() && only != '"').then_some(only)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn records(text: &str) -> Vec<(u64, Record)> {
        let mut records = Records::of_cells(text.as_bytes());
        std::iter::from_fn(|| records.read().unwrap()).collect()
    }

    #[test]
    fn a_record_ends_with_its_line_unless_a_quotation_mark_is_open() {
        let ok = |number, text: &str| (number, Ok(text.to_owned()));
        assert_eq!(records("a\r\n\r\nb\nc"), [ok(1, "a"), ok(2, ""), ok(3, "b"), ok(4, "c")]);
        assert_eq!(records("\"a\r\n\nb\",c\r\nd\n"), [ok(1, "\"a\r\n\nb\",c"), ok(4, "d")]);
        let said = records("a\n\"b,c\nd\n");
        assert_eq!(said[0], ok(1, "a"));
        assert!(said[1].0 == 2 && said[1].1.as_ref().unwrap_err().contains("not closed"), "{said:?}");
        assert_eq!(said.len(), 2);
        assert!(records("a\n")[0].1.is_ok() && records("").is_empty());
        let mut lines = Records::of_lines("\"a\nb".as_bytes());
        assert_eq!((lines.read().unwrap(), lines.read().unwrap()), (Some(ok(1, "\"a")), Some(ok(2, "b"))));
    }

    #[test]
    fn what_has_no_end_is_not_read_whole() {
        for start in ["", "\""] {
            let mut records = Records::of_cells(start.as_bytes().chain(BufReader::new(std::io::repeat(b'x'))));
            assert!(records.read().unwrap().unwrap().1.is_err() && records.read().unwrap().is_none());
        }
        let mut lines = Records::of_cells("\"\n".as_bytes().chain(BufReader::new(std::io::repeat(b'\n'))));
        assert!(lines.read().unwrap().unwrap().1.is_err());
        let longest = "r".repeat(LONGEST - 1) + "\n";
        assert!(records(&longest)[0].1.is_ok() && records(&format!("r{longest}"))[0].1.is_err());
    }

    #[test]
    fn cells_are_split_at_the_separator_outside_of_quotation_marks() {
        let rows: [(&str, char, &[&str]); 12] = [
            ("a,b", ',', &["a", "b"]),
            (" a , b ", ',', &["a", "b"]),
            ("a;b,c", ';', &["a", "b,c"]),
            ("a\t b\t", '\t', &["a", "b", ""]),
            ("\"a,b\",c", ',', &["a,b", "c"]),
            ("\" a \" , c", ',', &[" a ", "c"]),
            ("\"a\"\"b\"\"\"", ',', &["a\"b\""]),
            ("\"\",x", ',', &["", "x"]),
            ("\"a\r\nb\",x", ',', &["a\r\nb", "x"]),
            ("", ',', &[""]),
            (",", ',', &["", ""]),
            ("ü;\"é;\"", ';', &["ü", "é;"]),
        ];
        for (record, separator, cells) in rows {
            let cells: Vec<String> = cells.iter().map(|cell| (*cell).to_owned()).collect();
            assert_eq!(split(record, separator), Ok(cells), "{record:?}");
        }
        for (record, wrong) in [
            ("a,\"b", "not closed"),
            ("\"a\"b,c", "behind the quotation mark"),
            ("\"note\nb,6,\"other\"", "behind the quotation mark"),
            ("6\" pipe,b", "does not begin with one"),
            ("a,\rb", "carriage return"),
        ] {
            let said = split(record, ',').unwrap_err();
            assert!(said.contains(wrong), "{record:?}: {said}");
        }
    }

    #[test]
    fn a_line_may_name_the_separator() {
        for (line, separator) in [
            ("sep=;", Some(';')),
            ("SEP=\t", Some('\t')),
            ("\"sep=,\"", Some(',')),
            ("sep=|", Some('|')),
            ("sep=", None),
            ("sep=ab", None),
            ("sep=a", None),
            ("set=;", None),
            ("séé=;", None),
            ("email;amount", None),
            ("", None),
        ] {
            assert_eq!(named_separator(line), separator, "{line:?}");
        }
    }
}
