//! Reads and checks the bodies of requests that move money: JSON objects, read strictly.

use super::strict_json::{Members, check_nested};
use crate::ledger::amount::AmountError;
use crate::ledger::email::EmailError;
use crate::ledger::reference::ReferenceError;
use crate::ledger::{Amount, Email, IdempotencyKey, Movement, Reference, RequestId};
use crate::wire::answers::FieldErrors;
use serde_json::value::RawValue;

/// The largest body of a request, and the message for a larger one.
pub struct BodyLimit {
    /// The largest body, in bytes.
    pub bytes: usize,
    /// What a client with a larger body is told.
    pub message: &'static str,
}

/// The limit for one movement.
pub const ONE_LIMIT: BodyLimit =
    BodyLimit { bytes: 8 * 1024, message: "The request body must not be larger than 8192 bytes." };
/// The limit for a bulk call: one kibibyte for each item, several times what an item needs.
pub const BULK_LIMIT: BodyLimit =
    BodyLimit { bytes: 1024 * 1024, message: "The request body must not be larger than 1048576 bytes." };

/// What a valid body asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// How money should move.
    pub movement: Movement,
    /// The caller's own name for it, if it has one.
    pub reference: Option<Reference>,
}

/// Why a body is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The body is no JSON object.
    NotAnObject,
    /// Fields failed, each with its message.
    Fields(FieldErrors),
}

/// Reads and checks the body of an allocation. An empty body counts as an object without fields.
pub fn read_allocation(body: &[u8]) -> Result<Asked, Invalid> {
    check_allocation(&Fields::of(body)?).map_err(Invalid::Fields)
}

/// Reads and checks an item of a bulk call.
fn read_item(item: &RawValue) -> Result<Item, Invalid> {
    let fields = Fields::of(item.get().as_bytes())?;
    match (check_allocation(&fields), check_key(fields.idempotency_key)) {
        (Ok(asked), Ok(key)) => Ok(Item { asked, key }),
        (asked, key) => {
            let errors = asked.err().unwrap_or_default();
            Err(Invalid::Fields(FieldErrors { idempotency_key: key.err().map(|text| [text]), ..errors }))
        }
    }
}

fn check_allocation(fields: &Fields<'_>) -> Result<Asked, FieldErrors> {
    match (check_email(fields.email), check_amount(fields.amount), check_reference(fields.reference)) {
        (Ok(email), Ok(amount), Ok(reference)) => {
            Ok(Asked { movement: Movement::Allocate { email, amount }, reference })
        }
        (email, amount, reference) => Err(errors_of(email.err(), amount.err(), reference.err())),
    }
}

/// Reads and checks the body of a settlement.
pub fn read_settlement(body: &[u8]) -> Result<Asked, Invalid> {
    let fields = Fields::of(body)?;
    let reference = check_reference(fields.reference).and_then(|reference| reference.ok_or(NO_REFERENCE));
    match (check_email(fields.email), check_amount(fields.amount), reference) {
        (Ok(email), Ok(amount), Ok(reference)) => {
            Ok(Asked { movement: Movement::Settle { email, amount }, reference: Some(reference) })
        }
        (email, amount, reference) => Err(Invalid::Fields(errors_of(email.err(), amount.err(), reference.err()))),
    }
}

/// Reads and checks the body of a reversal of `target`. A field that it does not know is refused: a misspelt `amount` must not
/// take back everything.
pub fn read_reversal(body: &[u8], target: RequestId) -> Result<Asked, Invalid> {
    let fields = Fields::of(body)?;
    if fields.has_others || fields.email.is_some() || fields.idempotency_key.is_some() {
        return Err(Invalid::Fields(errors_of(None, Some(ONLY_AMOUNT), None)));
    }
    let amount = fields.amount.filter(|amount| amount.get() != "null").map(|amount| check_amount(Some(amount)));
    match (amount.transpose(), check_reference(fields.reference)) {
        (Ok(amount), Ok(reference)) => Ok(Asked { movement: Movement::Reverse { target, amount }, reference }),
        (amount, reference) => Err(Invalid::Fields(errors_of(None, amount.err(), reference.err()))),
    }
}

fn errors_of(
    email: Option<&'static str>,
    amount: Option<&'static str>,
    reference: Option<&'static str>,
) -> FieldErrors {
    FieldErrors {
        email: email.map(|text| [text]),
        amount: amount.map(|text| [text.into()]),
        reference: reference.map(|text| [text]),
        idempotency_key: None,
    }
}

/// An item of a bulk call: what it asks for, and its own idempotency key if it has one.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    /// What the item asks for.
    pub asked: Asked,
    /// The item's own key.
    pub key: Option<IdempotencyKey>,
}

/// The items of a bulk call, each as if it were a body of its own: one bad item spoils no other.
pub type Items = Vec<Result<Item, Invalid>>;

/// Why a bulk call is refused as a whole.
#[derive(Debug, PartialEq, Eq)]
pub enum InvalidBulk {
    /// The body is no JSON object.
    NotAnObject,
    /// The items cannot be read: the message says why.
    Items(&'static str),
}

/// Most items in a bulk call.
pub const MOST_ITEMS: usize = 1_000;

/// Reads the body of a bulk call: `{"allocations": […]}`.
pub fn read_bulk(body: &[u8]) -> Result<Items, InvalidBulk> {
    let items = match body {
        [] => None,
        _ => read_items(body).map_err(|_| InvalidBulk::NotAnObject)?,
    };
    let Some(items) = items else { return Err(InvalidBulk::Items(NO_ALLOCATIONS)) };
    let items: Vec<&RawValue> =
        serde_json::from_str(items).map_err(|_| InvalidBulk::Items("The allocations must be an array."))?;
    match items.len() {
        0 => Err(InvalidBulk::Items(NO_ALLOCATIONS)),
        1..=MOST_ITEMS => Ok(items.into_iter().map(read_item).collect()),
        _ => Err(InvalidBulk::Items("The allocations must not have more than 1000 items.")),
    }
}

/// The text of the `allocations` field; `None` if it is missing or null. The items in it are read later, one by one.
fn read_items(body: &[u8]) -> Result<Option<&str>, serde_json::Error> {
    let Members(members) = serde_json::from_slice(body)?;
    let (items, others): (Vec<_>, Vec<_>) = members.into_iter().partition(|(name, _)| name == "allocations");
    others.iter().try_for_each(|(_, value)| check_nested(value.get(), 1))?;
    Ok(present(items.first().map(|(_, value)| *value)))
}

const INVALID_EMAIL: &str = "The email must be a valid email address.";
/// The message for a missing email.
pub const NO_EMAIL: &str = "The email field is required.";
/// The message for a reversal with other fields.
pub const ONLY_AMOUNT: &str =
    "A reversal has no other fields than amount and reference: without an amount, all that is left is taken back.";
/// The message for a settlement without a reference.
pub const NO_REFERENCE: &str = "The reference field is required.";
/// The message for a bulk call without items.
pub const NO_ALLOCATIONS: &str = "The allocations field is required.";
/// The message for an amount below the minimum.
pub const AMOUNT_TOO_SMALL: &str = "The amount must be at least 1.";

fn check_email(value: Option<&RawValue>) -> Result<Email, &'static str> {
    let Some(value) = present(value) else { return Err(NO_EMAIL) };
    let text: String = serde_json::from_str(value).map_err(|_| INVALID_EMAIL)?;
    check_address(&text)
}

/// Checks an address; the error is the message for its sender.
pub fn check_address(text: &str) -> Result<Email, &'static str> {
    Email::parse(text).map_err(|error| match error {
        EmailError::Empty => NO_EMAIL,
        EmailError::TooLong => "The email must not be greater than 255 characters.",
        EmailError::Invalid => INVALID_EMAIL,
    })
}

/// The message for a plus sign in a query: if its sender did not encode it, it arrives as a blank.
pub const PLUS_IS_BLANK: &str = "In a query + means a blank: write it as %2B.";

/// Checks an address in a query, like [`check_address`], and notices a plus sign that was not encoded.
pub fn check_queried_address(text: &str) -> Result<Email, &'static str> {
    let is_plus = || text.contains(' ') && Email::parse(&text.replace(' ', "+")).is_ok();
    check_address(text).map_err(|wrong| if is_plus() { PLUS_IS_BLANK } else { wrong })
}

fn check_amount(value: Option<&RawValue>) -> Result<Amount, &'static str> {
    const TOO_LARGE: &str = "The amount must not be greater than 100000000.";
    let Some(value) = present(value) else { return Err("The amount field is required.") };
    let (negative, digits) = value.strip_prefix('-').map_or((false, value), |digits| (true, digits));
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("The amount must be an integer.");
    }
    // An integer beyond every machine type is still an integer, too large or too small.
    let cents = value.parse().unwrap_or(if negative { i64::MIN } else { i64::MAX });
    Amount::from_cents(cents).map_err(|error| match error {
        AmountError::BelowMinimum => AMOUNT_TOO_SMALL,
        AmountError::AboveMaximum => TOO_LARGE,
    })
}

fn check_reference(value: Option<&RawValue>) -> Result<Option<Reference>, &'static str> {
    let Some(value) = present(value) else { return Ok(None) };
    let text: String = serde_json::from_str(value).map_err(|_| "The reference must be a string.")?;
    Reference::parse(&text).map_err(|error| match error {
        ReferenceError::TooLong => "The reference must not be greater than 255 characters.",
        ReferenceError::Invalid => "The reference must not contain control characters.",
    })
}

fn check_key(value: Option<&RawValue>) -> Result<Option<IdempotencyKey>, &'static str> {
    const INVALID: &str = "The idempotency_key must be a string of 1 to 255 visible ASCII characters.";
    let Some(value) = present(value) else { return Ok(None) };
    let text: String = serde_json::from_str(value).map_err(|_| INVALID)?;
    IdempotencyKey::new(&text).map(Some).ok_or(INVALID)
}

/// The text of a value that is there and not null.
fn present(value: Option<&RawValue>) -> Option<&str> {
    value.map(RawValue::get).filter(|text| *text != "null")
}

/// The fields that count, as text from the body. A number is kept as text: `1.0` is not `1`.
#[derive(Debug, Default)]
struct Fields<'a> {
    email: Option<&'a RawValue>,
    amount: Option<&'a RawValue>,
    reference: Option<&'a RawValue>,
    idempotency_key: Option<&'a RawValue>,
    /// Whether there are fields of other names.
    has_others: bool,
}

impl<'a> Fields<'a> {
    /// The fields of a body. An empty body is an object without fields.
    fn of(body: &'a [u8]) -> Result<Self, Invalid> {
        if body.is_empty() { Ok(Self::default()) } else { Self::read(body).map_err(|_| Invalid::NotAnObject) }
    }

    fn read(body: &'a [u8]) -> Result<Self, serde_json::Error> {
        let Members(members) = serde_json::from_slice(body)?;
        let mut fields = Self::default();
        for (name, value) in members {
            check_nested(value.get(), 1)?;
            match name.as_str() {
                "email" => fields.email = Some(value),
                "amount" => fields.amount = Some(value),
                "reference" => fields.reference = Some(value),
                "idempotency_key" => fields.idempotency_key = Some(value),
                _ => fields.has_others = true,
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEGER: &str = "The amount must be an integer.";
    const LARGE: &str = "The amount must not be greater than 100000000.";
    const SMALL: &str = "The amount must be at least 1.";
    const NO_AMOUNT: &str = "The amount field is required.";

    fn amount_error(amount: &str) -> Option<String> {
        match read_allocation(format!(r#"{{"email":"ann@example.com","amount":{amount}}}"#).as_bytes()) {
            Err(Invalid::Fields(FieldErrors { email: None, amount: Some([error]), reference: None, .. })) => {
                Some(error.into_owned())
            }
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
            assert_eq!(amount_error(amount).as_deref(), expected, "{amount}");
        }
        let digits = "9".repeat(400);
        assert_eq!(amount_error(&digits).as_deref(), Some(LARGE));
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
            assert_eq!(read_allocation(body.as_bytes()), Err(Invalid::NotAnObject), "{body}");
        }
        assert_eq!(read_allocation(b"{\"email\":\"\xff\"}"), Err(Invalid::NotAnObject));
    }

    #[test]
    fn all_fields_are_reported_at_once() {
        let invalid = |email, amount, reference| Invalid::Fields(errors_of(email, amount, reference));
        let required = |reference| Err(invalid(Some(NO_EMAIL), Some(NO_AMOUNT), reference));
        let wrong = Some("The reference must be a string.");
        assert_eq!(read_allocation(b""), required(None));
        assert_eq!(read_allocation(br#"{"reference":7,"idempotency_key":7}"#), required(wrong));
        assert_eq!(read_settlement(b"{}"), required(Some(NO_REFERENCE)));
        assert_eq!(read_settlement(br#"{"reference":" "}"#), required(Some(NO_REFERENCE)));
        let target = RequestId::from_u128(7);
        let reversal = |body: &str| read_reversal(body.as_bytes(), target);
        assert_eq!(reversal(r#"{"amount":0,"reference":7}"#), Err(invalid(None, Some(SMALL), wrong)));
        assert_eq!(reversal("[]"), Err(Invalid::NotAnObject));
    }

    #[test]
    fn a_reversal_of_all_that_is_left_names_no_amount() {
        let target = RequestId::from_u128(7);
        let read = |body: &str| read_reversal(body.as_bytes(), target).map(|asked| asked.movement);
        for body in ["", "{}", r#"{"amount":null}"#, r#"{"reference":"return 7"}"#] {
            assert_eq!(read(body), Ok(Movement::Reverse { target, amount: None }), "{body}");
        }
        let amount = Amount::from_cents(5).ok();
        assert_eq!(read(r#"{"amount":5}"#), Ok(Movement::Reverse { target, amount }));
        for body in [r#"{"amout":5}"#, r#"{"amount":5,"email":"ann@example.com"}"#, r#"{"idempotency_key":"k"}"#] {
            assert_eq!(read(body), Err(Invalid::Fields(errors_of(None, Some(ONLY_AMOUNT), None))), "{body}");
        }
    }

    #[test]
    fn an_item_of_a_bulk_call_may_have_a_key_of_its_own() {
        let item = |key: &str| {
            let body = format!(r#"{{"allocations":[{{"email":"a@b.co","amount":1,"idempotency_key":{key}}}]}}"#);
            read_bulk(body.as_bytes()).unwrap().remove(0).map(|item| item.key)
        };
        assert_eq!(item(r#""invoice-7""#), Ok(IdempotencyKey::new("invoice-7")));
        assert_eq!(item(r#""\"invoice-7\"""#), Ok(IdempotencyKey::new("\"invoice-7\"")));
        assert_eq!(item("null"), Ok(None));
        // A blank would make it the key of an item of another call.
        for wrong in [r#""""#, r#""a 0""#, r#""é""#, "7", r#"["a"]"#, &format!("\"{}\"", "k".repeat(256))] {
            let Err(Invalid::Fields(errors)) = item(wrong) else { panic!("{wrong}") };
            let said = ["The idempotency_key must be a string of 1 to 255 visible ASCII characters."];
            assert_eq!(errors, FieldErrors { idempotency_key: Some(said), ..FieldErrors::default() }, "{wrong}");
        }
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
            let answer = read_allocation(format!(r#"{{"email":{email},"amount":5}}"#).as_bytes());
            let errors = FieldErrors { email: Some([expected]), ..FieldErrors::default() };
            assert_eq!(answer, Err(Invalid::Fields(errors)), "{email}");
        }
    }

    #[test]
    fn a_bulk_call_is_read_item_by_item() {
        let calls = |count: usize| {
            format!("{{\"allocations\":[{}]}}", vec!["{\"email\":\"a@b.co\",\"amount\":1}"; count].join(","))
        };
        assert_eq!(
            read_bulk(calls(1_000).as_bytes()).map(|items| items.iter().filter(|item| item.is_ok()).count()),
            Ok(1_000)
        );
        let too_many = InvalidBulk::Items("The allocations must not have more than 1000 items.");
        assert_eq!(read_bulk(calls(1_001).as_bytes()), Err(too_many));
        for body in ["", "{}", "{\"allocations\":null}", "{\"allocations\":[]}"] {
            let required = InvalidBulk::Items("The allocations field is required.");
            assert_eq!(read_bulk(body.as_bytes()), Err(required), "{body}");
        }
        for body in ["{\"allocations\":{}}", "{\"allocations\":7}", "{\"allocations\":\"x\"}"] {
            let no_array = InvalidBulk::Items("The allocations must be an array.");
            assert_eq!(read_bulk(body.as_bytes()), Err(no_array), "{body}");
        }
        for body in
            ["[]", "{", "{\"allocations\":[}", "{\"allocations\":[{}],\"allocations\":[{}]}", "{\"x\":\"\\ud800\"}"]
        {
            assert_eq!(read_bulk(body.as_bytes()), Err(InvalidBulk::NotAnObject), "{body}");
        }
        let bad = br#"{"allocations":[{"email":"a@b.co","amount":1},[],{"email":"a@b.co","amount":0},{"x":1,"x":2},"\ud800"]}"#;
        let items = read_bulk(bad).unwrap();
        assert!(items[0].is_ok() && matches!(items[2], Err(Invalid::Fields(_))));
        for place in [1, 3, 4] {
            assert_eq!(items[place], Err(Invalid::NotAnObject));
        }
    }

    #[test]
    fn a_reference_is_a_string_and_may_be_left_out() {
        let read = |reference: &str| {
            let body = format!(r#"{{"email":"ann@example.com","amount":5,"reference":{reference}}}"#);
            match read_allocation(body.as_bytes()) {
                Ok(allocation) => Ok(allocation.reference.map(|reference| reference.as_str().to_owned())),
                Err(Invalid::Fields(FieldErrors { email: None, amount: None, reference: Some([error]), .. })) => {
                    Err(error)
                }
                Err(other) => panic!("{reference}: {other:?}"),
            }
        };
        assert_eq!(read("null"), Ok(None));
        assert_eq!(read("\"\""), Ok(None));
        assert_eq!(read("\" Invoice 7 \""), Ok(Some("Invoice 7".to_owned())));
        for reference in ["7", "true", "[\"7\"]", "{}"] {
            assert_eq!(read(reference), Err("The reference must be a string."), "{reference}");
        }
        assert_eq!(read("\"a\\u0000b\""), Err("The reference must not contain control characters."));
        let long = format!("\"{}\"", "x".repeat(256));
        assert_eq!(read(&long), Err("The reference must not be greater than 255 characters."));
    }

    #[test]
    fn unknown_fields_are_ignored() {
        assert!(read_allocation(br#"{"note":{"a":[1e999,{"b":null}]},"email":" Ann@Example.com","amount":5}"#).is_ok());
    }
}
