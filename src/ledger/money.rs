//! Formats and parses amounts of money for people. They are whole cents, and no floating point is used.

/// `1,234.56` for 123,456 cents.
pub fn write(cents: impl Into<i128>) -> String {
    let cents: i128 = cents.into();
    let (whole, rest) = (cents.unsigned_abs() / 100, cents.unsigned_abs() % 100);
    format!("{}{}.{rest:02}", if cents < 0 { "-" } else { "" }, group(whole))
}

/// `1,234` for 1234.
pub fn group(whole: impl Into<u128>) -> String {
    let digits = whole.into().to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Parses `1234`, `1234.5` or `1234.50`, with or without a minus, as cents. The error says what is wrong. Commas are
/// refused: in many countries they separate the cents.
pub fn read(text: &str) -> Result<i64, &'static str> {
    const FORM: &str = "Write the amount in digits, with a point before the cents: 1234.50";
    let text = text.trim();
    let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, cents) = digits.split_once('.').unwrap_or((digits, "00"));
    let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(cents) || cents.len() > 2 {
        return Err(FORM);
    }
    let sum: i64 = format!("{whole}{cents:0<2}").parse().map_err(|_| "The amount is too large.")?;
    match sum {
        0 => Err("The amount must not be zero."),
        _ => Ok(if is_negative { -sum } else { sum }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cent_is_written() {
        let cases = [
            (0, "0.00"),
            (5, "0.05"),
            (-5, "-0.05"),
            (100, "1.00"),
            (99_999, "999.99"),
            (100_000, "1,000.00"),
            (-123_456_789, "-1,234,567.89"),
            (i64::MAX, "92,233,720,368,547,758.07"),
            (i64::MIN, "-92,233,720,368,547,758.08"),
        ];
        for (cents, text) in cases {
            assert_eq!(write(cents), text);
        }
    }

    #[test]
    fn an_amount_is_read_exactly() {
        let cases = [("1", 100), ("0.1", 10), ("0.01", 1), ("-12.50", -1_250), (" 7 ", 700), ("19.99", 1_999)];
        for (text, cents) in cases {
            assert_eq!(read(text), Ok(cents), "{text}");
        }
        assert_eq!(read("92233720368547758.07"), Ok(i64::MAX));
    }

    #[test]
    fn what_could_be_meant_otherwise_is_refused() {
        let texts =
            ["", "-", ".", "1.", ".5", "1,50", "1,234.50", "1.234", "1e3", "--1", "+1", "0", "0.00", "-0", "1 000"];
        for text in texts.into_iter().chain(["92233720368547758.08", "١"]) {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
