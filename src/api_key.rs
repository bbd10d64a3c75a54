//! Makes and checks API keys.
//!
//! A key is `sk_live_` or `pk_live_`, then 32 random letters and digits (190 bits), then six more that are a checksum
//! of the rest. With the checksum, a mistyped or made-up key is refused without a query to the database.

use rand::distr::{Alphanumeric, SampleString};
use sha2::{Digest, Sha256};

const SECRET: &str = "sk_live_";
const PUBLIC: &str = "pk_live_";
const RANDOM_LEN: usize = 32;
const CHECKSUM_LEN: usize = 6;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// May do everything that the API offers.
    Secret,
    /// May do nothing: it is stored, but refused like an unknown key.
    Public,
}

impl Kind {
    /// The name in the database and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Public => "public",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Secret => SECRET,
            Self::Public => PUBLIC,
        }
    }
}

/// Makes a new key of this kind, from the system's randomness.
pub fn generate(kind: Kind) -> String {
    let random = Alphanumeric.sample_string(&mut rand::rng(), RANDOM_LEN);
    let start = format!("{}{random}", kind.prefix());
    let checksum = checksum(&start);
    start + &checksum
}

/// Whether a text has the form of a secret key, checksum included.
pub fn is_well_formed_secret(key: &str) -> bool {
    if !key.is_ascii() || key.len() != SECRET.len() + RANDOM_LEN + CHECKSUM_LEN || !key.starts_with(SECRET) {
        return false;
    }
    let (start, sum) = key.split_at(key.len() - CHECKSUM_LEN);
    checksum(start) == sum
}

/// The SHA-256 digest of a key. It is stored instead of the key.
pub fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The last four characters of a key, by which people tell keys apart.
pub fn hint(key: &str) -> &str {
    key.get(key.len().saturating_sub(4)..).unwrap_or_default()
}

/// The CRC-32 of the text, in base 62, least digit first.
fn checksum(start: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32fast::hash(start.as_bytes()) as usize;
    let digit = |_| {
        let digit = DIGITS[rest % 62];
        rest /= 62;
        char::from(digit)
    };
    (0..CHECKSUM_LEN).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_secret_key_is_well_formed_and_a_public_one_is_not_a_secret() {
        let key = generate(Kind::Secret);
        assert!(is_well_formed_secret(&key), "{key}");
        assert!(!is_well_formed_secret(&generate(Kind::Public)));
        assert_ne!(key, generate(Kind::Secret));
    }

    #[test]
    fn one_wrong_character_shows() {
        let key = generate(Kind::Secret);
        for at in SECRET.len()..key.len() {
            let mut bytes = key.clone().into_bytes();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            assert!(!is_well_formed_secret(&String::from_utf8(bytes).unwrap()), "at {at}");
        }
        assert!(!is_well_formed_secret(""));
        assert!(!is_well_formed_secret("sk_live_"));
        assert!(!is_well_formed_secret(&format!("sk_live_{}", "é".repeat(19))));
    }
}
