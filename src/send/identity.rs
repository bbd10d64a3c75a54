//! The identity of a line across runs: its idempotency key for the service, and its digest for the journal.

use super::file::Line;
use sha2::{Digest as _, Sha256};
use std::path::Path;

/// A SHA-256 over the amount, the email and the identity of a line: its reference or, without one, file name and
/// number.
pub(super) type Digest = [u8; 32];

/// The name of a file without its folder. Only the name counts, so that a folder can be moved between two runs.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The digest of a line. Two lines have the same digest if, and only if, they are the same payment. `file`: the file's
/// name.
pub(super) fn digest(file: &str, line: &Line) -> Digest {
    let (email, amount) = (line.email.as_str(), line.amount.cents().to_string());
    match &line.reference {
        Some(reference) => sha256(&["referenced", reference.as_str(), email, &amount]),
        None => sha256(&["numbered", file, &line.number.to_string(), email, &amount]),
    }
}

/// The `Idempotency-Key` of a line.
///
/// With a reference, the key depends on the reference alone, in every file. So the line can be moved and corrected; the
/// service refuses it if it was already paid with another email or amount. Without a reference, the key depends on the
/// file's name and on the line's number, email and amount.
pub(super) fn key(file: &str, line: &Line) -> String {
    let digest = match &line.reference {
        Some(reference) => sha256(&["reference", reference.as_str()]),
        None => digest(file, line),
    };
    format!("send-{}", hex::encode(digest))
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
    use crate::ledger::{Amount, Email, Reference};

    fn line(number: u64, email: &str, cents: i64, reference: Option<&str>) -> Line {
        let (email, amount) = (Email::parse(email).unwrap(), Amount::from_cents(cents).unwrap());
        Line { number, email, amount, reference: reference.and_then(|text| Reference::parse(text).unwrap()) }
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
}
