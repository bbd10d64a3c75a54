//! Reads amounts: whole cents, or decimal amounts such as `1,250.00` and `1.250,00`.
//!
//! Which of a point and a comma separates the cents is never guessed from one amount: `1,250` is 1,250.00 to some people
//! and 1.25 to others. It is found out from the amounts that can only be meant in one way, and all of a file must agree.

use super::columns::Cell;
use crate::ledger::amount::AmountError;
use crate::ledger::{Amount, money};

/// How the user says that amounts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// In whole cents.
    Cents,
    /// As decimal amounts. Their decimal mark is found out.
    Decimal,
    /// As decimal amounts with a decimal point.
    DecimalPoint,
    /// As decimal amounts with a decimal comma.
    DecimalComma,
}

/// How amounts are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// As whole cents.
    Cents,
    /// As decimal amounts with this decimal mark.
    Decimal(Mark),
}

/// What stands before the cents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `1,250.00`
    Point,
    /// `1.250,00`
    Comma,
}

impl Mark {
    fn sign(self) -> char {
        match self {
            Self::Point => '.',
            Self::Comma => ',',
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Point => Self::Comma,
            Self::Comma => Self::Point,
        }
    }
}

impl Notation {
    /// An amount as an example of what is read.
    pub fn example(self) -> &'static str {
        match self {
            Self::Cents => "1250 is 12.50",
            Self::Decimal(Mark::Point) => "1,250.00 is 1,250.00",
            Self::Decimal(Mark::Comma) => "1.250,00 is 1,250.00",
        }
    }

    /// Reads an amount. The error says what is wrong, without the amount.
    pub(super) fn read(self, cell: &Cell) -> Result<Amount, &'static str> {
        let text = cell.text().trim();
        if text.is_empty() {
            return Err("the amount is missing");
        }
        let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let cents = match (self, cell) {
            (Self::Cents, _) => read_cents(digits)?,
            (Self::Decimal(mark), Cell::Text(_)) => read_decimal(digits, mark)?,
            // A program wrote it, so it has a point.
            (Self::Decimal(_), Cell::Number(_)) => read_decimal(digits, Mark::Point)?,
        };
        Amount::from_cents(if is_negative { -cents } else { cents }).map_err(|error| match error {
            AmountError::BelowMinimum => "the amount is below 1 cent",
            AmountError::AboveMaximum => "the amount is above 1,000,000.00 (100000000 cents): split it",
        })
    }
}

fn read_cents(digits: &str) -> Result<i64, &'static str> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the amount is not a whole number of cents: write 1250 for 12.50, or add --amounts decimal");
    }
    if has_leading_zero(digits) {
        return Err(LEADING_ZERO);
    }
    Ok(digits.parse().unwrap_or(i64::MAX))
}

const LEADING_ZERO: &str = "the amount begins with a zero: is it an amount? Write it without";

fn has_leading_zero(digits: &str) -> bool {
    digits.len() > 1 && digits.starts_with('0')
}

fn read_decimal(digits: &str, mark: Mark) -> Result<i64, &'static str> {
    let parts = split(digits, mark).ok_or(match mark {
        Mark::Point => "the amount is not a decimal amount such as 1,250.00",
        Mark::Comma => "the amount is not a decimal amount such as 1.250,00",
    })?;
    if has_leading_zero(&parts.whole) {
        return Err(LEADING_ZERO);
    }
    match parts.fraction.len() {
        0..=2 => Ok(format!("{}{:0<2}", parts.whole, parts.fraction).parse().unwrap_or(i64::MAX)),
        _ => Err("the amount has more than two decimals: round it"),
    }
}

/// The digits of a decimal amount.
struct Parts {
    whole: String,
    fraction: String,
}

/// Splits a decimal amount. `None` if it is none with this mark. Groups of three digits may be separated by the other
/// mark, a blank or an apostrophe, but not by two of them.
fn split(text: &str, mark: Mark) -> Option<Parts> {
    const BLANKS_AND_APOSTROPHES: [char; 5] = [' ', '\u{a0}', '\u{202f}', '\'', '’'];
    let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = match text.split_once(mark.sign()) {
        Some((whole, fraction)) => (whole, are_digits(fraction).then_some(fraction)?),
        None => (text, ""),
    };
    let separates = |c: &char| *c == mark.other().sign() || BLANKS_AND_APOSTROPHES.contains(c);
    let groups: Vec<&str> = match whole.chars().find(separates) {
        Some(separator) => whole.split(separator).collect(),
        None => vec![whole],
    };
    let (first, others) = groups.split_first()?;
    let are_groups = others.is_empty() || (first.len() <= 3 && others.iter().all(|group| group.len() == 3));
    (are_groups && groups.iter().all(|group| are_digits(group)))
        .then(|| Parts { whole: groups.concat(), fraction: fraction.to_owned() })
}

/// What an amount says about the decimal mark of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// It is read alike with both, or with neither.
    Nothing,
    /// It is an amount with this mark only.
    Only(Mark),
    /// It is one amount with a point, and another with a comma.
    Either,
}

fn says(text: &str) -> Says {
    let text = text.trim().trim_start_matches('-');
    // Three decimals are no cents, but they are what the other reading of `1,250` has.
    let reads = |mark| split(text, mark).filter(|parts| parts.fraction.len() <= 3 && !has_leading_zero(&parts.whole));
    match (reads(Mark::Point), reads(Mark::Comma)) {
        (Some(point), Some(comma)) if point.whole == comma.whole => Says::Nothing,
        (Some(_), Some(_)) => Says::Either,
        (Some(_), None) => Says::Only(Mark::Point),
        (None, Some(_)) => Says::Only(Mark::Comma),
        (None, None) => Says::Nothing,
    }
}

/// Finds out the decimal mark from all amounts of a file.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// The first amounts, with their line numbers, that have a point only, a comma only, or either.
    point: Option<(u64, String)>,
    comma: Option<(u64, String)>,
    either: Option<(u64, String)>,
}

impl Evidence {
    /// Notes the amount of a line.
    pub(super) fn note(&mut self, number: u64, cell: &Cell) {
        let Cell::Text(text) = cell else { return };
        let first = match says(text) {
            Says::Nothing => return,
            Says::Only(Mark::Point) => &mut self.point,
            Says::Only(Mark::Comma) => &mut self.comma,
            Says::Either => &mut self.either,
        };
        first.get_or_insert_with(|| (number, text.trim().to_owned()));
    }

    /// The decimal mark. The error shows the readings if it cannot be known.
    pub(super) fn conclude(&self) -> Result<Mark, String> {
        match (&self.point, &self.comma, &self.either) {
            (Some((one, point)), Some((other, comma)), _) => Err(format!(
                "the amounts are written in two ways: {point} in line {one}, {comma} in line {other}. Write them alike"
            )),
            (None, None, Some((number, text))) => {
                let reading =
                    |mark| split(text.trim_start_matches('-'), mark).map(|parts| show(&parts)).unwrap_or_default();
                Err(format!(
                    "the amounts can be read in two ways: {text} in line {number} is {} with a decimal point, and {} \
                     with a decimal comma. Add --amounts decimal-point or --amounts decimal-comma",
                    reading(Mark::Point),
                    reading(Mark::Comma)
                ))
            }
            (None, Some(_), _) => Ok(Mark::Comma),
            _ => Ok(Mark::Point),
        }
    }
}

/// Writes an amount of up to three decimals in the way of the console.
fn show(parts: &Parts) -> String {
    let whole = parts.whole.parse::<u64>().map_or_else(|_| parts.whole.clone(), money::group);
    format!("{whole}.{:0<2}", parts.fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: Notation = Notation::Decimal(Mark::Point);
    const COMMA: Notation = Notation::Decimal(Mark::Comma);

    fn text(notation: Notation, text: &str) -> Result<i64, &'static str> {
        notation.read(&Cell::Text(text.to_owned())).map(Amount::cents)
    }

    #[test]
    fn cents_are_whole_and_begin_with_no_zero() {
        for (amount, cents) in [("1", 1), ("1250", 1_250), (" 7 ", 7), ("100000000", 100_000_000)] {
            assert_eq!(text(Notation::Cents, amount), Ok(cents), "{amount}");
        }
        for (amount, wrong) in [
            ("", "missing"),
            ("0", "below 1 cent"),
            ("-5", "below 1 cent"),
            ("-99999999999999999999", "below 1 cent"),
            ("100000001", "above 1,000,000.00 (100000000 cents)"),
            ("0012", "begins with a zero"),
            ("00", "begins with a zero"),
            ("-", "whole number of cents"),
            ("12.50", "--amounts decimal"),
            ("1,250", "--amounts decimal"),
            ("1e3", "whole number of cents"),
            ("+5", "whole number of cents"),
            ("$5", "whole number of cents"),
            ("5 0", "whole number of cents"),
            ("١", "whole number of cents"),
        ] {
            let said = text(Notation::Cents, amount).unwrap_err();
            assert!(said.contains(wrong), "{amount}: {said}");
        }
    }

    #[test]
    fn a_decimal_amount_has_one_mark_and_groups_of_three() {
        for (point, cents) in [
            ("1,250.00", 125_000),
            ("1250", 125_000),
            ("1250.5", 125_050),
            ("0.01", 1),
            ("1,000,000", 100_000_000),
            ("1 250.00", 125_000),
            ("1\u{a0}250.00", 125_000),
            ("1\u{202f}250.00", 125_000),
            ("1'250.00", 125_000),
            ("1’250.00", 125_000),
            ("999", 99_900),
        ] {
            assert_eq!(text(POINT, point), Ok(cents), "{point}");
            let swap = |c| {
                if c == '.' {
                    ','
                } else if c == ',' {
                    '.'
                } else {
                    c
                }
            };
            let comma: String = point.chars().map(swap).collect();
            assert_eq!(text(COMMA, &comma), Ok(cents), "{comma}");
        }
        for (amount, wrong) in [
            ("1.250,00", "such as 1,250.00"),
            ("12,50", "such as 1,250.00"),
            ("1,2500", "such as 1,250.00"),
            ("1250,000.00", "such as 1,250.00"),
            ("1,250'000.00", "such as 1,250.00"),
            (",250", "such as 1,250.00"),
            (".50", "such as 1,250.00"),
            ("5.", "such as 1,250.00"),
            ("1.2.3", "such as 1,250.00"),
            ("1e3", "such as 1,250.00"),
            ("€5", "such as 1,250.00"),
            ("5 EUR", "such as 1,250.00"),
            ("١.٥٠", "such as 1,250.00"),
            ("1.250", "two decimals"),
            ("0012.00", "begins with a zero"),
            ("0.00", "below 1 cent"),
            ("-12.50", "below 1 cent"),
            ("1000000.01", "above 1,000,000.00"),
            ("99999999999999999999999", "above 1,000,000.00"),
        ] {
            let said = text(POINT, amount).unwrap_err();
            assert!(said.contains(wrong), "{amount}: {said}");
        }
    }

    #[test]
    fn a_number_has_a_point_whatever_the_texts_have() {
        let number = |notation: Notation, text: &str| notation.read(&Cell::Number(text.to_owned())).map(Amount::cents);
        assert_eq!((number(COMMA, "12.5"), number(POINT, "12.5")), (Ok(1_250), Ok(1_250)));
        assert_eq!(number(Notation::Cents, "1250"), Ok(1_250));
        assert!(
            number(COMMA, "1.255").is_err() && number(COMMA, "1e3").is_err() && number(Notation::Cents, "1.0").is_err()
        );
    }

    fn concluded(amounts: &[&str]) -> Result<Mark, String> {
        let mut evidence = Evidence::default();
        for (number, amount) in (2..).zip(amounts) {
            evidence.note(number, &Cell::Text((*amount).to_owned()));
        }
        evidence.conclude()
    }

    #[test]
    fn the_decimal_mark_is_known_from_amounts_that_are_meant_in_one_way() {
        for (amounts, mark) in [
            (&["1,250.00"] as &[&str], Mark::Point),
            (&["1.250,00"], Mark::Comma),
            (&["12.5"], Mark::Point),
            (&["12,50"], Mark::Comma),
            (&["1,250", "3.50"], Mark::Point),
            (&["1,250", "3,50"], Mark::Comma),
            (&["1,250,000"], Mark::Point),
            (&["0,500"], Mark::Comma),
            (&["1250", "7"], Mark::Point),
            (&["nonsense", ""], Mark::Point),
            (&[], Mark::Point),
        ] {
            assert_eq!(concluded(amounts), Ok(mark), "{amounts:?}");
        }
    }

    #[test]
    fn amounts_that_could_be_meant_in_two_ways_are_shown_in_both() {
        let said = concluded(&["12", "1,250", "-3.125"]).unwrap_err();
        assert!(
            said.contains("1,250 in line 3 is 1,250.00 with a decimal point, and 1.25 with a decimal comma"),
            "{said}"
        );
        let said = concluded(&["1.250"]).unwrap_err();
        assert!(said.contains("1.250 in line 2 is 1.25 with a decimal point, and 1,250.00 with"), "{said}");
        let said = concluded(&["3,50", "1.250", "3.50"]).unwrap_err();
        assert!(said.contains("3.50 in line 4, 3,50 in line 2"), "{said}");
    }
}
