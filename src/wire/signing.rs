//! The keys that sign messages and replies. Who can put a message into a queue moves no money by that: a worker applies
//! only what was signed with one of these keys, and an intake believes no other reply.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::sync::Arc;

/// The length of a signature: SHA-256 in hexadecimal.
pub(super) const LENGTH: usize = 64;
/// The most keys that there can be. Two are enough to replace one by another.
const MOST: usize = 16;

/// What is signed. A signature of one is none of the other.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// A message on a work queue.
    Requests,
    /// A message on a reply queue.
    Replies,
}

/// `EARMARK_ENVELOPE_KEYS`. The first key signs, and what any of them has signed is believed. Never printed.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    keys: Vec<Key>,
    accept_unsigned: bool,
}

struct Key {
    id: String,
    requests: Hmac<Sha256>,
    replies: Hmac<Sha256>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Keyring")
    }
}

impl Keyring {
    /// No keys: nothing is signed, and everything is believed.
    pub fn none() -> Self {
        Self(Arc::new(Inner { keys: vec![], accept_unsigned: true }))
    }

    /// Reads `NAME:HEX,NAME:HEX`. `prefix`: that of the deployment's queues, as what is signed for one deployment is not
    /// signed for another. The error says what is wrong, and repeats no key.
    pub fn parse(text: &str, prefix: &str, accept_unsigned: bool) -> Result<Self, String> {
        let mut keys = Vec::<Key>::new();
        for (number, one) in text.split(',').enumerate() {
            let key = Key::parse(one.trim(), prefix).map_err(|error| format!("key {}: {error}", number + 1))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(format!("has two keys of the name {}", key.id));
            }
            keys.push(key);
        }
        if keys.len() > MOST {
            return Err(format!("has more than {MOST} keys"));
        }
        Ok(Self(Arc::new(Inner { keys, accept_unsigned })))
    }

    /// These keys if `is_signed`, and none otherwise: for a part of a message, which is signed only if the whole was.
    pub fn for_part_of(&self, is_signed: bool) -> Self {
        if is_signed { self.clone() } else { Self::none() }
    }

    /// Whether what names this key as its signer can be believed. An empty name stands for no signature.
    pub fn knows(&self, id: &str) -> bool {
        self.0.keys.is_empty()
            || if id.is_empty() { self.0.accept_unsigned } else { self.0.keys.iter().any(|key| key.id == id) }
    }

    /// The name of the key that signs; empty if nothing is signed.
    pub(super) fn id(&self) -> &str {
        self.0.keys.first().map_or("", |key| &key.id)
    }

    /// The signature of the first key over all fields, in hexadecimal; `None` if nothing is signed.
    pub(super) fn sign(&self, what: What, fields: &[&[u8]]) -> Option<String> {
        Some(hex::encode(self.0.keys.first()?.mac(what, fields).finalize().into_bytes()))
    }

    /// Whether the fields were signed with the key of this name. The error says why not, in words.
    pub(super) fn verify(&self, what: What, id: &str, mac: &str, fields: &[&[u8]]) -> Result<(), &'static str> {
        if self.0.keys.is_empty() || (id.is_empty() && mac.is_empty() && self.0.accept_unsigned) {
            return Ok(());
        }
        if id.is_empty() {
            return Err("it is not signed");
        }
        let key = self.0.keys.iter().find(|key| key.id == id).ok_or("it names a key that is not known here")?;
        let mac = hex::decode(mac).map_err(|_| "its signature is not hexadecimal")?;
        key.mac(what, fields).verify_slice(&mac).map_err(|_| "its signature is wrong")
    }
}

impl Key {
    fn parse(text: &str, prefix: &str) -> Result<Self, String> {
        let (id, secret) = text.split_once(':').ok_or("must be NAME:HEX")?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if !(1..=32).contains(&id.len()) || !id.chars().all(fits) {
            return Err("its name must be 1 to 32 letters, digits, dashes or underscores".to_owned());
        }
        let secret =
            hex::decode(secret).map_err(|_| "must be hexadecimal (make one: `openssl rand -hex 32`)".to_owned())?;
        if secret.len() < 32 {
            return Err(format!("must be at least 32 bytes (64 digits), is {}", secret.len()));
        }
        let secret = Hmac::<Sha256>::new_from_slice(&secret).map_err(|error| error.to_string())?;
        // HKDF-Expand (RFC 5869) to one block: the secret is already as random as a key has to be.
        let derive = |label: &[u8]| {
            let mut mac = secret.clone();
            mac.update(label);
            mac.update(prefix.as_bytes());
            mac.update(&[1]);
            Hmac::<Sha256>::new_from_slice(&mac.finalize().into_bytes()).map_err(|error| error.to_string())
        };
        Ok(Self { id: id.to_owned(), requests: derive(b"earmark requests ")?, replies: derive(b"earmark replies ")? })
    }

    /// Each field with its length before it, so that no two lists of fields give the same bytes.
    fn mac(&self, what: What, fields: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = match what {
            What::Requests => self.requests.clone(),
            What::Replies => self.replies.clone(),
        };
        for field in [self.id.as_bytes()].iter().chain(fields) {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(text: &str) -> Keyring {
        Keyring::parse(text, "earmark", false).unwrap()
    }

    fn hex(byte: &str) -> String {
        byte.repeat(32)
    }

    #[test]
    fn what_any_key_of_the_ring_has_signed_is_believed_and_nothing_else() {
        let (old, new) = (format!("k1:{}", hex("11")), format!("k2:{}", hex("22")));
        let fields: [&[u8]; 2] = [b"ab", b"c"];
        let mac = ring(&old).sign(What::Requests, &fields).unwrap();
        assert_eq!(mac.len(), LENGTH);
        let both = ring(&format!("{new}, {old}"));
        assert_eq!(both.id(), "k2");
        let verify = |ring: &Keyring, what, id, fields: &[&[u8]]| ring.verify(what, id, &mac, fields);
        assert_eq!(verify(&both, What::Requests, "k1", &fields), Ok(()));
        assert_eq!(verify(&both, What::Replies, "k1", &fields), Err("its signature is wrong"));
        assert_eq!(verify(&both, What::Requests, "k2", &fields), Err("its signature is wrong"));
        assert_eq!(verify(&both, What::Requests, "k1", &[b"a", b"bc"]), Err("its signature is wrong"));
        assert_eq!(verify(&both, What::Requests, "", &fields), Err("it is not signed"));
        assert_eq!(verify(&ring(&new), What::Requests, "k1", &fields), Err("it names a key that is not known here"));
        let elsewhere = Keyring::parse(&old, "other", false).unwrap();
        assert_eq!(verify(&elsewhere, What::Requests, "k1", &fields), Err("its signature is wrong"));
        for wrong in ["", "zz", &mac[..LENGTH - 2]] {
            assert!(both.verify(What::Requests, "k1", wrong, &fields).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_signed_is_believed_for_as_long_as_that_is_asked_for() {
        let keys = format!("k1:{}", hex("11"));
        let rolling = Keyring::parse(&keys, "earmark", true).unwrap();
        assert_eq!(rolling.verify(What::Requests, "", "", &[]), Ok(()));
        assert!(rolling.verify(What::Requests, "", "00", &[]).is_err(), "a signature without a name");
        assert!(rolling.verify(What::Requests, "k1", "", &[]).is_err());
        assert!(rolling.knows("") && !ring(&keys).knows("") && ring(&keys).knows("k1") && !ring(&keys).knows("k2"));
        let none = Keyring::none();
        assert_eq!((none.id(), none.sign(What::Requests, &[])), ("", None));
        assert_eq!(none.verify(What::Requests, "k9", "00", &[]), Ok(()));
    }

    #[test]
    fn keys_that_cannot_be_used_are_refused_without_being_repeated() {
        let short = hex("ab")[..62].to_owned();
        let wrong = [
            String::new(),
            hex("11"),
            format!(":{}", hex("11")),
            format!("k 1:{}", hex("11")),
            format!("k1:{short}"),
            format!("k1:{}", "zz".repeat(32)),
            format!("k1:{0},k1:{0}", hex("11")),
            format!("k1:{},", hex("11")),
        ];
        for text in wrong {
            let error = Keyring::parse(&text, "earmark", false).unwrap_err();
            assert!(!error.contains(&short) && !error.contains(&hex("11")), "{text}: {error}");
        }
    }
}
