//! The identifiers: of shards, businesses, requests and payout users, and idempotency keys.

use super::Reference;
use std::fmt::{Display, Formatter};

/// A shard of the ledger, by its number. A business belongs to one shard permanently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u8);

impl ShardId {
    /// The shard that every ledger has.
    pub const FIRST: Self = Self(0);

    /// The shard with this number.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl Display for ShardId {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A business, by its UUID (version 8) as a number. The last two digits of the UUID's second group are its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusinessId(u128);

/// One HTTP attempt at one movement, by its UUID (version 7) as a number. Minted once by the intake, never used again.
/// The seventh and eighth digit from its end are the shard of its business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u128);

macro_rules! id {
    ($name:ident) => {
        impl $name {
            /// The id with this number.
            pub const fn from_u128(value: u128) -> Self {
                Self(value)
            }

            /// The number of the id.
            pub const fn as_u128(self) -> u128 {
                self.0
            }
        }
    };
}
id!(BusinessId);
id!(RequestId);

impl BusinessId {
    /// The id of a new business of this shard; `random` has 106 random bits.
    pub const fn new(shard: ShardId, random: u128) -> Self {
        const FIXED: u128 = 0xFFFF << 80 | 0xF << 76 | 0b11 << 62;
        Self(random & !FIXED | (shard.0 as u128) << 80 | 0x8 << 76 | 0b10 << 62)
    }

    /// The shard that has every row of it.
    pub const fn shard(self) -> ShardId {
        ShardId((self.0 >> 80) as u8)
    }
}

impl RequestId {
    /// The shard that has its row.
    pub const fn shard(self) -> ShardId {
        ShardId((self.0 >> 24) as u8)
    }
}

/// Written as a UUID.
impl Display for RequestId {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let part = |from: u32, digits: u32| (self.0 >> from) & ((1 << (4 * digits)) - 1);
        let (a, b, c, d, e) = (part(96, 8), part(80, 4), part(64, 4), part(48, 4), part(0, 12));
        write!(formatter, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

/// The hash that identifies a payout user, who shows it to see the balance: HMAC-SHA256 over the business and the
/// normalised email, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserHash(pub [u8; 32]);

/// Which names an idempotency key is one of. The same name in two scopes is two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyScope {
    /// The values of `Idempotency-Key`.
    Client,
    /// The references of settlements.
    Settlement,
}

impl KeyScope {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Settlement => "settlement",
        }
    }

    /// The scope with this name, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Client, Self::Settlement].into_iter().find(|scope| scope.as_str() == text)
    }
}

/// A client's own name for an operation, scoped to its business. As an `Idempotency-Key`: 1 to 255 visible ASCII
/// characters. For a settlement: its reference.
///
/// Each item of a bulk call under a key has a key of its own: the client's key, a blank, and the item's place. No
/// client can send a key with a blank in it, so an item's key never equals a client's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    scope: KeyScope,
    name: String,
}

impl IdempotencyKey {
    /// Longest key of a client, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Checks a client's key as it is. `None` if its length or a character is not allowed.
    pub fn new(key: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_LEN).contains(&key.len());
        (fits && key.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self::of_client(key.to_owned()))
    }

    fn of_client(name: String) -> Self {
        Self { scope: KeyScope::Client, name }
    }

    /// The key of the item at this place, counted from 0, of a bulk call under this key.
    pub fn of_item(&self, place: u16) -> Self {
        Self::of_client(format!("{} {place}", self.name))
    }

    /// The key of the settlement with this reference.
    pub fn of_settlement(reference: &Reference) -> Self {
        Self { scope: KeyScope::Settlement, name: reference.as_str().to_owned() }
    }

    /// Reads a key from a message: a client's, or an item's.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((key, place)) = text.split_once(' ') else { return Self::new(text) };
        let derived = Self::new(key)?.of_item(place.parse().ok()?);
        (derived.name == text).then_some(derived)
    }

    /// A key from a row. It is not checked again: it was checked when it was written.
    pub fn stored(scope: KeyScope, name: String) -> Self {
        Self { scope, name }
    }

    /// Reads the value of an `Idempotency-Key` header. The quotes of the draft standard (`"key"`) are not part of the
    /// key.
    pub fn from_header(value: &str) -> Option<Self> {
        let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        Self::new(quoted.unwrap_or(value))
    }

    /// Which names it is one of.
    pub fn scope(&self) -> KeyScope {
        self.scope
    }

    /// The key as it is stored.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_with_and_without_the_quotes_of_the_draft_standard() {
        assert_eq!(IdempotencyKey::from_header("\"order-1\""), IdempotencyKey::from_header("order-1"));
        assert_eq!(IdempotencyKey::from_header("order-1").unwrap().as_str(), "order-1");
    }

    #[test]
    fn a_key_of_an_item_is_read_back_and_can_be_nobodys_own() {
        let item = IdempotencyKey::new("friday").unwrap().of_item(7);
        assert_eq!(item.as_str(), "friday 7");
        assert_eq!(IdempotencyKey::parse("friday 7"), Some(item));
        assert_eq!(IdempotencyKey::parse("friday"), IdempotencyKey::new("friday"));
        assert_eq!(IdempotencyKey::from_header("friday 7"), None);
        for text in ["friday ", " 7", "friday 07", "friday +7", "friday 7 7", "friday  7", "friday x", "friday 65536"] {
            assert_eq!(IdempotencyKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_settlement_has_a_key_that_no_client_can_send() {
        let of = |reference: &str| IdempotencyKey::of_settlement(&Reference::parse(reference).unwrap().unwrap());
        assert_ne!(Some(of("friday")), IdempotencyKey::new("friday"));
        assert_ne!(Some(of("friday 7")), IdempotencyKey::parse("friday 7"));
        assert_eq!(of(" Invoice ä 7 ").as_str(), "Invoice ä 7");
        for scope in [KeyScope::Client, KeyScope::Settlement] {
            assert_eq!(KeyScope::parse(scope.as_str()), Some(scope));
        }
    }

    #[test]
    fn a_request_id_is_written_as_a_uuid() {
        let id = RequestId::from_u128(0x0195_1bf2_4700_7abc_8def_0123_4567_89ab);
        assert_eq!(id.to_string(), "01951bf2-4700-7abc-8def-0123456789ab");
        assert_eq!(RequestId::from_u128(1).to_string(), "00000000-0000-0000-0000-000000000001");
    }

    #[test]
    fn the_id_of_a_business_is_a_uuid_that_names_its_shard() {
        for (random, shard) in [(0, 0), (u128::MAX, 0), (u128::MAX, 255), (0x1234_5678_9abc_def0, 3)] {
            let id = BusinessId::new(ShardId::new(shard), random);
            assert_eq!(id.shard().number(), shard);
            let digits = format!("{:032x}", id.as_u128());
            assert_eq!(digits[8..12], format!("{shard:04x}"), "people can read it there");
            assert!(digits[12..].starts_with('8') && "89ab".contains(&digits[16..17]), "{digits}: UUID version 8");
        }
        assert_ne!(BusinessId::new(ShardId::FIRST, 1), BusinessId::new(ShardId::FIRST, 2));
    }

    #[test]
    fn a_key_is_visible_ascii_of_a_bounded_length() {
        assert_eq!(IdempotencyKey::from_header(""), None);
        assert_eq!(IdempotencyKey::from_header("\"\""), None);
        assert_eq!(IdempotencyKey::from_header("a b"), None);
        assert_eq!(IdempotencyKey::from_header("clé"), None);
        assert!(IdempotencyKey::from_header(&"k".repeat(255)).is_some());
        assert_eq!(IdempotencyKey::from_header(&"k".repeat(256)), None);
    }
}
