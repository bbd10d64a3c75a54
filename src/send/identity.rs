//! The identity of a line across runs: its idempotency key for the service, and its digest for the journal.

use super::file::Line;
use crate::ledger::{Kind, Movement};
use sha2::{Digest as _, Sha256};
use std::path::Path;

/// A SHA-256 over what a line asks for and its identity: its reference or, without one, file name and number.
pub(super) type Digest = [u8; 32];

/// The first half of a digest. Among lines of a file it is as good, and takes half the memory.
pub(super) type Fingerprint = [u8; 16];

/// The first half of a digest.
pub(super) fn fingerprint(digest: &Digest) -> Fingerprint {
    std::array::from_fn(|at| digest[at])
}

/// The name of a file without its folder. Only the name counts, so that a folder can be moved between two runs.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The digest of a line. Two lines have the same digest if, and only if, they are the same movement. `file`: the file's
/// name.
pub(super) fn digest(file: &str, line: &Line) -> Digest {
    let number = line.number.to_string();
    let (of_reference, of_number, whose, amount) = match &line.movement {
        Movement::Allocate { email, amount } => ("referenced", "numbered", email.as_str().to_owned(), Some(amount)),
        Movement::Reverse { target, amount } => {
            ("reversal, referenced", "reversal, numbered", target.to_string(), amount.as_ref())
        }
        Movement::Settle { email, amount } => {
            ("settlement, referenced", "settlement, numbered", email.as_str().to_owned(), Some(amount))
        }
    };
    let amount = amount.map_or_else(|| "all".to_owned(), |amount| amount.cents().to_string());
    match &line.reference {
        Some(reference) => sha256(&[of_reference, reference.as_str(), &whose, &amount]),
        None => sha256(&[of_number, file, &number, &whose, &amount]),
    }
}

/// The `Idempotency-Key` of a line, whose digest is given. `None` for a settlement: its reference is its key.
///
/// With a reference, the key depends on the kind and the reference alone, in every file. So the line can be moved and
/// corrected; the service refuses it if it was already carried out for something else. An invoice can be paid and
/// reversed under the same reference. Without a reference, the key depends on the file's name and on the line's number
/// and content.
pub(super) fn key(line: &Line, digest: &Digest) -> Option<String> {
    let of_reference = match line.kind() {
        Kind::Allocate => "reference",
        Kind::Reverse => "reversal, reference",
        Kind::Settle => return None,
    };
    let of_reference = line.reference.as_ref().map(|reference| sha256(&[of_reference, reference.as_str()]));
    Some(format!("send-{}", hex::encode(of_reference.as_ref().unwrap_or(digest))))
}

/// Hashes several texts. Each is preceded by its length, so that different lists never give the same input.
fn sha256(parts: &[&str]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Amount, Email, Reference, RequestId};

    fn of(number: u64, movement: Movement, reference: Option<&str>) -> Line {
        Line { number, movement, reference: reference.and_then(|text| Reference::parse(text).unwrap()) }
    }

    fn line(number: u64, email: &str, cents: i64, reference: Option<&str>) -> Line {
        let (email, amount) = (Email::parse(email).unwrap(), Amount::from_cents(cents).unwrap());
        of(number, Movement::Allocate { email, amount }, reference)
    }

    fn reversal(number: u64, target: u128, cents: Option<i64>, reference: Option<&str>) -> Line {
        let amount = cents.map(|cents| Amount::from_cents(cents).unwrap());
        of(number, Movement::Reverse { target: RequestId::from_u128(target), amount }, reference)
    }

    fn key(file: &str, line: &Line) -> String {
        super::key(line, &digest(file, line)).unwrap()
    }

    #[test]
    fn a_line_without_a_reference_is_known_by_its_file_its_number_and_its_content() {
        let key_of = |file, number, email, cents| key(file, &line(number, email, cents, None));
        let key = key_of("a.csv", 2, "ann@example.com", 5);
        assert_eq!(key, key_of("a.csv", 2, " Ann@Example.com ", 5));
        assert_ne!(key, key_of("b.csv", 2, "ann@example.com", 5));
        assert_ne!(key, key_of("a.csv", 3, "ann@example.com", 5));
        assert_ne!(key, key_of("a.csv", 2, "bob@example.com", 5));
        assert_ne!(key, key_of("a.csv", 2, "ann@example.com", 6));
    }

    #[test]
    fn a_line_with_a_reference_is_known_by_that_alone() {
        let (one, moved) = (line(2, "ann@example.com", 5, Some("r-1")), line(9, "ann@example.com", 5, Some("r-1")));
        let corrected = line(2, "ann@example.com", 6, Some("r-1"));
        assert_eq!((key("a.csv", &one), digest("a.csv", &one)), (key("b.csv", &moved), digest("b.csv", &moved)));
        assert_eq!(key("a.csv", &one), key("a.csv", &corrected));
        // The corrected line is another payment.
        assert_ne!(digest("a.csv", &one), digest("a.csv", &corrected));
        assert_ne!(key("a.csv", &one), key("a.csv", &line(2, "ann@example.com", 5, Some("r-2"))));
        assert_ne!(key("a.csv", &one), key("a.csv", &line(2, "ann@example.com", 5, None)));
    }

    /// What earlier releases have paid must stay known.
    #[test]
    fn the_keys_of_payments_are_those_of_earlier_releases() {
        let (numbered, referenced) = (line(2, "ann@example.com", 5, None), line(2, "ann@example.com", 5, Some("r-1")));
        assert_eq!(key("a.csv", &numbered), "send-41f4b2423b2c19a4fffbc1c8b0144aa4725e695c9cf5c08fb50a821a2bbedeb9");
        assert_eq!(key("a.csv", &referenced), "send-d47454bf75d49f239f6cf7b9de4f6033d6eea8a812b20f2b8c01f55f288552a6");
    }

    #[test]
    fn a_reversal_is_known_like_a_payment_and_is_never_one() {
        let key_of = |number, target, cents, reference| key("a.csv", &reversal(number, target, cents, reference));
        let numbered = key_of(2, 7, Some(5), None);
        for other in [key_of(3, 7, Some(5), None), key_of(2, 8, Some(5), None), key_of(2, 7, Some(6), None)] {
            assert_ne!(numbered, other);
        }
        assert_ne!(numbered, key_of(2, 7, None, None));
        assert_eq!(key_of(2, 7, Some(5), Some("r-1")), key_of(9, 8, None, Some("r-1")));
        assert_ne!(key_of(2, 7, Some(5), Some("r-1")), key("a.csv", &line(2, "ann@example.com", 5, Some("r-1"))));
    }

    #[test]
    fn a_settlement_has_no_key_but_its_reference() {
        let (email, amount) = (Email::parse("ann@example.com").unwrap(), Amount::from_cents(5).unwrap());
        let settlement = of(2, Movement::Settle { email, amount }, Some("r-1"));
        let digest_of = |line: &Line| digest("a.csv", line);
        assert_eq!(super::key(&settlement, &digest_of(&settlement)), None);
        assert_ne!(digest_of(&settlement), digest_of(&line(2, "ann@example.com", 5, Some("r-1"))));
    }
}
