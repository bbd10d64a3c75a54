//! The body of `POST /payout/create`: a JSON object, read to the letter.

use crate::ledger::amount::AmountError;
use crate::ledger::email::EmailError;
use crate::ledger::{Amount, Email};
use crate::wire::FieldErrors;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// What a valid body asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Ask {
    pub email: Email,
    pub amount: Amount,
}

/// Why a body is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Invalid {
    NotAnObject,
    Fields(FieldErrors),
}

/// Reads and checks a body. An empty one is an object without fields.
pub fn read_ask(body: &[u8]) -> Result<Ask, Invalid> {
    let fields = match body {
        [] => Fields::default(),
        _ => Fields::read(body).map_err(|_| Invalid::NotAnObject)?,
    };
    match (check_email(fields.email), check_amount(fields.amount)) {
        (Ok(email), Ok(amount)) => Ok(Ask { email, amount }),
        (email, amount) => {
            let errors = FieldErrors { email: email.err().map(|text| [text]), amount: amount.err().map(|text| [text]) };
            Err(Invalid::Fields(errors))
        }
    }
}

fn check_email(value: Option<&RawValue>) -> Result<Email, &'static str> {
    const INVALID: &str = "The email must be a valid email address.";
    let Some(value) = present(value) else { return Err("The email field is required.") };
    let text: String = serde_json::from_str(value).map_err(|_| INVALID)?;
    Email::parse(&text).map_err(|error| match error {
        EmailError::Empty => "The email field is required.",
        EmailError::TooLong => "The email must not be greater than 255 characters.",
        EmailError::Invalid => INVALID,
    })
}

fn check_amount(value: Option<&RawValue>) -> Result<Amount, &'static str> {
    const TOO_LARGE: &str = "The amount must not be greater than 100000000.";
    const TOO_SMALL: &str = "The amount must be at least 1.";
    let Some(value) = present(value) else { return Err("The amount field is required.") };
    let (negative, digits) = value.strip_prefix('-').map_or((false, value), |digits| (true, digits));
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("The amount must be an integer.");
    }
    // An integer beyond every machine type is still an integer, too large or too small.
    let cents = value.parse().unwrap_or(if negative { i64::MIN } else { i64::MAX });
    Amount::from_cents(cents).map_err(|error| match error {
        AmountError::BelowMinimum => TOO_SMALL,
        AmountError::AboveMaximum => TOO_LARGE,
    })
}

/// The text of a value that is there and not null.
fn present(value: Option<&RawValue>) -> Option<&str> {
    value.map(RawValue::get).filter(|text| *text != "null")
}

/// The fields that count, as they stand in the body. A number is kept as text: `1.0` is not `1`.
#[derive(Debug, Default)]
struct Fields<'a> {
    email: Option<&'a RawValue>,
    amount: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    fn read(body: &'a [u8]) -> Result<Self, serde_json::Error> {
        let Members(members) = serde_json::from_slice(body)?;
        let mut fields = Self::default();
        for (name, value) in members {
            check_nested(value.get(), 1)?;
            match name.as_str() {
                "email" => fields.email = Some(value),
                "amount" => fields.amount = Some(value),
                _ => {}
            }
        }
        Ok(fields)
    }
}

/// Finds what is wrong inside a value that was only skimmed: a broken escape, a duplicate key, nesting too deep.
fn check_nested(value: &str, depth: usize) -> Result<(), serde_json::Error> {
    const DEEPEST: usize = 64;
    if depth > DEEPEST {
        return Err(serde_json::Error::custom("too deep"));
    }
    match value.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(value).map(drop),
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(value)?
            .iter()
            .try_for_each(|item| check_nested(item.get(), depth + 1)),
        Some(b'{') => {
            let Members(members) = serde_json::from_str(value)?;
            members.iter().try_for_each(|(_, value)| check_nested(value.get(), depth + 1))
        }
        _ => Ok(()),
    }
}

/// An object's members, no name twice. A derived struct would also take an array, and keep one of two values under the
/// same name.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = vec![];
        while let Some(member) = map.next_entry::<String, &RawValue>()? {
            members.push(member);
        }
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(A::Error::custom("duplicate key"));
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEGER: &str = "The amount must be an integer.";
    const LARGE: &str = "The amount must not be greater than 100000000.";
    const SMALL: &str = "The amount must be at least 1.";
    const NO_AMOUNT: &str = "The amount field is required.";

    fn amount_error(amount: &str) -> Option<&'static str> {
        match read_ask(format!(r#"{{"email":"ann@example.com","amount":{amount}}}"#).as_bytes()) {
            Err(Invalid::Fields(FieldErrors { email: None, amount: Some([error]) })) => Some(error),
            Ok(_) => None,
            other => panic!("{amount}: {other:?}"),
        }
    }

    #[test]
    fn an_amount_is_an_integer_within_its_bounds() {
        let rows = [
            ("1", None),
            ("100000000", None),
            ("null", Some(NO_AMOUNT)),
            ("0", Some(SMALL)),
            ("-0", Some(SMALL)),
            ("-5", Some(SMALL)),
            ("-99999999999999999999999", Some(SMALL)),
            ("100000001", Some(LARGE)),
            ("99999999999999999999", Some(LARGE)),
            ("1.0", Some(INTEGER)),
            ("1e2", Some(INTEGER)),
            ("1E400", Some(INTEGER)),
            ("\"100\"", Some(INTEGER)),
            ("\"\"", Some(INTEGER)),
            ("true", Some(INTEGER)),
            ("[1]", Some(INTEGER)),
            ("{}", Some(INTEGER)),
        ];
        for (amount, expected) in rows {
            assert_eq!(amount_error(amount), expected, "{amount}");
        }
        let digits = "9".repeat(400);
        assert_eq!(amount_error(&digits), Some(LARGE));
    }

    #[test]
    fn what_is_not_one_strict_object_is_refused_as_such() {
        let deep = format!(r#"{{"email":"ann@example.com","amount":1,"x":{}{}}}"#, "[".repeat(2000), "]".repeat(2000));
        for body in [
            "{",
            "[]",
            "null",
            "1",
            "\"x\"",
            " ",
            "{} {}",
            "{}x",
            "{\"amount\":01}",
            "{\"a\":1,}",
            "{'a':1}",
            "{\"amount\":1,\"amount\":2}",
            "{\"amount\":1,\"\\u0061mount\":2}",
            "{\"x\":1,\"x\":1}",
            "{\"x\":{\"y\":1,\"y\":2}}",
            "{\"email\":\"\\ud800\"}",
            "{\"x\":\"\\ud800\"}",
            "{\"x\":[\"\\q\"]}",
            "\u{feff}{}",
            "{\"amount\":NaN}",
            deep.as_str(),
        ] {
            assert_eq!(read_ask(body.as_bytes()), Err(Invalid::NotAnObject), "{body}");
        }
        assert_eq!(read_ask(b"{\"email\":\"\xff\"}"), Err(Invalid::NotAnObject));
    }

    #[test]
    fn both_fields_are_reported_at_once() {
        let required = FieldErrors { email: Some(["The email field is required."]), amount: Some([NO_AMOUNT]) };
        assert_eq!(read_ask(b""), Err(Invalid::Fields(required)));
    }

    #[test]
    fn the_first_rule_that_fails_speaks_for_the_email() {
        let long = format!("\"{}\"", "x".repeat(256));
        let rows = [
            ("null", "The email field is required."),
            ("\"\"", "The email field is required."),
            ("\"  \\t \"", "The email field is required."),
            (long.as_str(), "The email must not be greater than 255 characters."),
            ("\"nope\"", "The email must be a valid email address."),
            ("5", "The email must be a valid email address."),
            ("[\"ann@example.com\"]", "The email must be a valid email address."),
        ];
        for (email, expected) in rows {
            let answer = read_ask(format!(r#"{{"email":{email},"amount":5}}"#).as_bytes());
            assert_eq!(answer, Err(Invalid::Fields(FieldErrors { email: Some([expected]), amount: None })), "{email}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        assert!(read_ask(br#"{"note":{"a":[1e999,{"b":null}]},"email":" Ann@Example.com","amount":5}"#).is_ok());
    }
}
