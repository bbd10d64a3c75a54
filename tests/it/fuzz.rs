//! These tests feed random and hostile input to everything that reads data from outside. Nothing may panic. Input that
//! is accepted must not break a rule, and output must not grow out of proportion to the input. `corpus/` has a line for
//! each nasty case that somebody thought of or that a test found. The readers of URLs in settings, of email addresses
//! and of `Retry-After` have tests like these beside their own code.

use earmark::api_key::{self, Kind};
use earmark::intake::history;
use earmark::intake::validate::{Asked, Invalid, InvalidBulk, MOST_ITEMS, read_allocation, read_bulk};
use earmark::ledger::{Amount, Email, IdempotencyKey};
use earmark::send::amounts::Written;
use earmark::send::file::{File, Unusable};
use earmark::trace::Context;
use earmark::wire::messages::{self, MOST_REQUESTS};
use earmark::wire::signing::Keyring;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;
use std::path::Path;

const BODIES: &str = include_str!("corpus/bodies.jsonl");
const REQUESTS: &str = include_str!("corpus/requests.jsonl");
const REPLIES: &str = include_str!("corpus/replies.jsonl");
const CSV: &str = include_str!("corpus/payouts.csv");
const JSON_LINES: &str = include_str!("corpus/payouts.jsonl");
const WORKBOOK: &[u8] = include_bytes!("corpus/payouts.xlsx");
const HEADERS: &str = include_str!("corpus/headers.txt");

/// Byte sequences that often break parsers.
const TOKENS: [&[u8]; 26] = [
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\t",
    b" ",
    b",",
    b":",
    b";",
    b"'",
    b"=",
    b"{",
    b"}",
    b"[",
    b"]",
    b"-",
    b"1e400",
    b"99999999999999999999",
    b"null",
    "\u{212a}".as_bytes(),
    b"xn--",
];

#[derive(Clone, Debug)]
enum Edit {
    Insert(Index, &'static [u8]),
    Cut(Index, usize),
    /// `Repeat(at, length, count)` replaces the `length` bytes at `at` with `count` copies of them.
    Repeat(Index, usize, usize),
    Replace(Index, u8),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let (at, length) = match self {
            Self::Insert(at, _) => (at, 0),
            Self::Cut(at, length) | Self::Repeat(at, length, _) => (at, *length),
            Self::Replace(at, _) => (at, 1),
        };
        let start = at.index(bytes.len() + 1);
        let range = start..(start + length).min(bytes.len());
        let new = match self {
            Self::Insert(_, token) => token.to_vec(),
            Self::Cut(..) => vec![],
            Self::Repeat(_, _, count) => bytes[range.clone()].repeat(*count),
            Self::Replace(_, byte) => vec![*byte],
        };
        bytes.splice(range, new);
    }
}

/// Makes input from one to `most` lines of a corpus, with up to four edits. One input in ten is random bytes instead.
fn mutated(corpus: &'static str, most: usize) -> impl Strategy<Value = Vec<u8>> {
    let edit = prop_oneof![
        3 => (any::<Index>(), select(TOKENS.to_vec())).prop_map(|(at, token)| Edit::Insert(at, token)),
        2 => (any::<Index>(), 1..20_usize).prop_map(|(at, length)| Edit::Cut(at, length)),
        1 => (any::<Index>(), 1..40_usize, 2..300_usize).prop_map(|(at, length, count)| Edit::Repeat(at, length, count)),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
    ];
    let lines = vec(select(corpus.lines().collect::<Vec<_>>()), 1..=most);
    let edited = (lines, vec(edit, 0..5)).prop_map(|(lines, edits)| {
        let mut bytes = lines.join("\n").into_bytes();
        edits.iter().for_each(|edit| edit.apply(&mut bytes));
        bytes
    });
    prop_oneof![9 => edited, 1 => any::<Vec<u8>>()]
}

/// Runs at least `cases` cases, or more if `PROPTEST_CASES` asks for more.
fn at_least(cases: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.max(cases), failure_persistence: None, ..usual }
}

/// Parses a body as plain JSON, without the rules of the API. `None` if it is not JSON.
fn leniently(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok()
}

/// Checks that an accepted allocation has the values of the JSON that it was read from.
fn assert_said(ask: &Asked, value: &Value) {
    assert_eq!(Email::parse(value["email"].as_str().expect("a string")).ok().as_ref(), ask.movement.email());
    assert_eq!(value["amount"].as_i64(), ask.movement.amount().map(Amount::cents));
    let reference = value["reference"].as_str().map(str::trim).filter(|text| !text.is_empty());
    assert_eq!(reference, ask.reference.as_ref().map(|reference| reference.as_str()));
}

/// Turns bytes into text. Bytes that are not UTF-8 become replacement characters.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

proptest! {
    #![proptest_config(at_least(1_000))]

    #[test]
    fn a_body_is_taken_as_what_it_says_or_refused(body in mutated(BODIES, 1)) {
        match (read_allocation(&body), leniently(&body)) {
            (Ok(ask), Some(value)) => assert_said(&ask, &value),
            // The plain parser refuses a number that no machine type can hold. The API accepts it in a field that it
            // ignores.
            (Ok(_), None) => prop_assert!(text(&body).contains(['e', 'E'])),
            (Err(Invalid::Fields(errors)), _) => prop_assert!(errors.email.is_some() || errors.amount.is_some() || errors.reference.is_some()),
            (Err(Invalid::NotAnObject), _) => prop_assert!(!body.is_empty()),
        }
    }

    #[test]
    fn a_bulk_body_is_taken_item_by_item_or_refused(body in mutated(BODIES, 1)) {
        let value = leniently(&body);
        match read_bulk(&body) {
            Ok(items) => {
                prop_assert!((1..=MOST_ITEMS).contains(&items.len()));
                for (place, item) in items.iter().enumerate() {
                    if let (Ok(item), Some(value)) = (item, &value) {
                        assert_said(&item.asked, &value["allocations"][place]);
                        assert_eq!(value["allocations"][place]["idempotency_key"].as_str(), item.key.as_ref().map(IdempotencyKey::as_str));
                    }
                }
            }
            Err(InvalidBulk::Items(message)) => prop_assert!(message.starts_with("The allocations ")),
            Err(InvalidBulk::NotAnObject) => prop_assert!(!body.is_empty()),
        }
    }

    #[test]
    fn a_message_is_read_as_it_would_be_written(body in mutated(REQUESTS, 1)) {
        let Ok(message) = messages::read_requests(&Keyring::none(), &body) else { return Ok(()) };
        prop_assert!(message.requests.len() + message.unreadable.len() <= MOST_REQUESTS);
        for request in &message.requests {
            let item = messages::write_request(request);
            let packed = messages::pack_requests(&Keyring::none(), message.shard, &message.reply_to, std::iter::once(item.as_slice()));
            let again = messages::read_requests(&Keyring::none(), &packed);
            prop_assert_eq!(&again.expect("a message").requests, std::slice::from_ref(request));
        }
        for unreadable in &message.unreadable {
            let again = messages::read_requests(&Keyring::none(), &unreadable.body).expect("a message");
            prop_assert_eq!((again.requests.len(), again.unreadable.len()), (0, 1));
            // The reason is logged, so it must not quote the message.
            prop_assert!(!unreadable.reason.contains('@'), "{}", unreadable.reason);
        }
        let size: usize = message.unreadable.iter().map(|unreadable| unreadable.body.len()).sum();
        prop_assert!(size <= body.len() + message.unreadable.len() * (message.reply_to.len() * 6 + 60));
    }

    #[test]
    fn replies_are_read_as_they_would_be_written(body in mutated(REPLIES, 1)) {
        let Ok(replies) = messages::read_replies(&Keyring::none(), "replies", &body) else { return Ok(()) };
        prop_assert!(replies.len() <= body.len());
        let again = messages::read_replies(&Keyring::none(), "replies", &messages::write_replies(&Keyring::none(), "replies", &replies));
        prop_assert_eq!(again, Ok(replies));
    }

    #[test]
    fn a_query_is_understood_or_refused_by_the_names_of_its_parameters(
        parameters in vec((select(vec!["limit", "cursor", "state", "email", "reference", "from", "to", "x"]), mutated(HEADERS, 1)), 0..4),
    ) {
        let parameters: Vec<(String, String)> = parameters.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
        if let Err(errors) = history::read_query(&parameters) {
            prop_assert!(errors.keys().all(|wrong| parameters.iter().any(|(name, _)| name == wrong)));
        }
    }

    #[test]
    fn what_a_header_says_comes_out_as_it_went_in(value in mutated(HEADERS, 1)) {
        let value = text(&value);
        if let Some(key) = IdempotencyKey::from_header(&value) {
            prop_assert!((1..=255).contains(&key.as_str().len()) && key.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(IdempotencyKey::parse(key.as_str()), Some(key.clone()));
            prop_assert_eq!(IdempotencyKey::parse(key.of_item(7).as_str()), Some(key.of_item(7)));
        }
        if let Some(context) = Context::parse(&value) {
            prop_assert_eq!(Context::parse(&context.to_string()), Some(context));
        }
        prop_assert!(!api_key::is_well_formed_secret(&value), "random text has no valid checksum");
    }

    #[test]
    fn a_key_with_one_wrong_character_is_none(at in any::<Index>(), c in any::<char>()) {
        let key = api_key::generate(Kind::Secret);
        let mut characters: Vec<char> = key.chars().collect();
        *at.get_mut(&mut characters) = c;
        let changed: String = characters.into_iter().collect();
        prop_assert_eq!(api_key::is_well_formed_secret(&changed), changed == key);
    }
}

/// Reads a file of this content: the numbers of its good and of its bad lines.
fn read_file(content: &[u8], written: Written) -> (Vec<u64>, Vec<u64>) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", uuid::Uuid::new_v4().simple()));
    std::fs::write(&path, content).expect("written");
    let file = File::open(&path, written);
    std::fs::remove_file(&path).expect("removed");
    let file = match file {
        // Random bytes may begin like a workbook.
        Err(_) if content.starts_with(b"PK") => return (vec![], vec![1]),
        Err(error) => panic!("{error:#}"),
        Ok(Err(Unusable::BadLine(bad))) => return (vec![], vec![bad.number]),
        Ok(Err(Unusable::Amounts(_))) => return (vec![], vec![1]),
        Ok(Ok(file)) => file,
    };
    let (mut good, mut bad) = (vec![], vec![]);
    for row in file.rows().expect("rows") {
        match row.expect("a row") {
            Ok(row) => good.push(row.line.number),
            Err(line) => {
                // The reason is printed, so it must not quote an address.
                assert!(!line.reason.contains('@') || content.contains(&b'{') || content.contains(&b'['), "{line}");
                bad.push(line.number);
            }
        }
    }
    (good, bad)
}

fn assert_lines_are_those_of_the_file(content: &[u8], written: Written) {
    // In UTF-16 a line end has two bytes, of which this counts one.
    let count = content.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    let (good, bad) = read_file(content, written);
    for numbers in [&good, &bad] {
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
        assert!(numbers.iter().all(|number| (1..=count).contains(number)), "{numbers:?} of {count}");
    }
    assert!(good.iter().all(|number| !bad.contains(number)), "{good:?} {bad:?}");
}

/// The same text in another encoding.
fn encoded(text: &[u8], encoding: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    match encoding {
        0 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        1 => format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_be_bytes).collect(),
        _ => text.as_bytes().to_vec(),
    }
}

proptest! {
    #![proptest_config(at_least(300))]

    #[test]
    fn a_file_of_csv_is_read_line_by_line(
        content in mutated(CSV, 6),
        header in select(vec!["", "email,amount,reference\n", "sep=;\nEmail;Amount;Note\n", "note\tAMOUNT\temail\n"]),
        encoding in 0..4_usize,
        written in select(vec![Written::Cents, Written::Decimal, Written::DecimalPoint, Written::DecimalComma]),
    ) {
        let content = [header.as_bytes(), &content].concat();
        assert_lines_are_those_of_the_file(&content, written);
        assert_lines_are_those_of_the_file(&encoded(&content, encoding), written);
    }

    #[test]
    fn a_file_of_json_lines_is_read_line_by_line(content in mutated(JSON_LINES, 6)) {
        assert_lines_are_those_of_the_file(&content, Written::Cents);
    }

    #[test]
    fn what_is_no_workbook_is_refused(content in any::<Vec<u8>>(), edits in vec((any::<Index>(), any::<u8>()), 1..4)) {
        prop_assert!(read_file(&[b"PK\x03\x04", content.as_slice()].concat(), Written::Cents).0.is_empty());
        let mut damaged = WORKBOOK.to_vec();
        edits.iter().for_each(|(at, byte)| *at.get_mut(&mut damaged) = *byte);
        damaged[..4].copy_from_slice(b"PK\x03\x04");
        let (good, _) = read_file(&damaged, Written::Decimal);
        prop_assert!(good.len() <= 2);
    }
}

/// The reader of workbooks panics at some damaged places. That must be an error, as any other damage is.
#[test]
fn no_byte_of_a_workbook_that_is_damaged_ends_the_program() {
    let mut damaged = WORKBOOK.to_vec();
    for at in 4..damaged.len() {
        let sound = std::mem::replace(&mut damaged[at], 254);
        assert!(read_file(&damaged, Written::Decimal).0.len() <= 2, "{at}");
        damaged[at] = sound;
    }
    assert_eq!(read_file(&damaged, Written::Decimal).0.len(), 2, "it is sound again");
}

/// Each input is large and consists of one construct. It would expose a parser that recurses, or one that scans the
/// whole rest for each byte.
#[test]
fn the_worst_of_a_mebibyte_is_read_to_its_end() {
    const SIZE: usize = 1024 * 1024;
    let worst: [(&str, String); 9] = [
        ("open brackets", "[".repeat(SIZE)),
        ("open objects", "{\"a\":".repeat(SIZE / 5)),
        (
            "nested as deep as it may be",
            format!("{{\"x\":{}\"{}\"{}}}", "[".repeat(60), "x".repeat(SIZE), "]".repeat(60)),
        ),
        ("a long number", format!("{{\"email\":\"a@b.co\",\"amount\":{}}}", "9".repeat(SIZE))),
        ("a long address", format!("{{\"email\":\"{}\",\"amount\":1}}", "e\u{301}".repeat(SIZE / 3))),
        ("marks out of order", format!("{{\"email\":\"a{}\",\"amount\":1}}", "\u{301}\u{323}".repeat(SIZE / 4))),
        ("a long domain", format!("{{\"email\":\"a@{}\",\"amount\":1}}", "ü.".repeat(SIZE / 3))),
        ("escapes", format!("{{\"reference\":\"{}\"}}", "\\u0041".repeat(SIZE / 6))),
        ("many names", format!("{{{}\"z\":0}}", (0..SIZE / 12).map(|at| format!("\"{at}\":0,")).collect::<String>())),
    ];
    for (what, body) in worst {
        let bytes = body.as_bytes();
        assert!(read_allocation(bytes).is_err() && read_bulk(bytes).is_err(), "{what}");
        assert!(messages::read_requests(&Keyring::none(), bytes).is_err(), "{what}");
        assert!(messages::read_replies(&Keyring::none(), "replies", bytes).is_err(), "{what}");
        assert!(read_file(bytes, Written::Decimal).0.is_empty(), "{what}");
        assert_eq!((IdempotencyKey::from_header(&body), Context::parse(&body)), (None, None), "{what}");
        assert!(Email::parse(&body).is_err() && !api_key::is_well_formed_secret(&body), "{what}");
        let parameters = ["email", "reference", "from", "cursor", "limit"].map(|name| (name.to_owned(), body.clone()));
        assert!(history::read_query(&parameters).is_err(), "{what}");
    }
}
