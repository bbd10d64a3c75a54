//! The server-side secret, and what only its holder can make: payout users' hashes, the key of the console's sessions,
//! the secrets of webhooks, and request ids that this service recognises as its own.

use crate::clock;
use crate::ledger::{BusinessId, Email, Millis, RequestId, UserHash};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// `EARMARK_HASH_SECRET`: at least 32 bytes, in hexadecimal. Never printed.
#[derive(Clone)]
pub struct HashSecret(Arc<Hmac<Sha256>>);

impl FromStr for HashSecret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = hex::decode(text.trim())
            .map_err(|_| "must be hexadecimal (make one: `openssl rand -hex 32`)".to_owned())?;
        if bytes.len() < 32 {
            return Err(format!("must be at least 32 bytes (64 digits), is {}", bytes.len()));
        }
        let mac = Hmac::new_from_slice(&bytes).map_err(|error| error.to_string())?;
        Ok(Self(Arc::new(mac)))
    }
}

impl std::fmt::Debug for HashSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("HashSecret")
    }
}

impl HashSecret {
    /// The hash that identifies a payout user: always the same for one user of one business. It cannot be made without
    /// the secret.
    pub fn user_hash(&self, business: BusinessId, email: &Email) -> UserHash {
        UserHash(self.mac(b"payout-user", business, email.as_str().as_bytes()))
    }

    /// The key that signs the console's sessions: the same in every process that has this secret and these tokens.
    pub fn console_key(&self, tokens: &[u8]) -> [u8; 32] {
        self.mac(b"console", BusinessId::from_u128(0), tokens)
    }

    /// The secret of a webhook, by its version. It is stored nowhere.
    pub fn webhook_secret(&self, business: BusinessId, webhook: Uuid, version: i32) -> [u8; 32] {
        let data = [webhook.as_bytes().as_slice(), &version.to_be_bytes()].concat();
        self.mac(b"webhook", business, &data)
    }

    fn mac(&self, purpose: &[u8], business: BusinessId, data: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::clone(&self.0);
        mac.update(purpose);
        mac.update(&business.as_u128().to_be_bytes());
        mac.update(data);
        mac.finalize().into_bytes().into()
    }

    /// Whether this service issued the id to this business. One in 2²⁴ made-up ids passes.
    pub fn issued(&self, business: BusinessId, id: RequestId) -> bool {
        let seal = self.seal(business, id.as_u128() >> SEAL);
        (id.as_u128() & ((1 << SEAL) - 1)).to_be_bytes().ct_eq(&seal.to_be_bytes()).into()
    }

    fn seal(&self, business: BusinessId, upper: u128) -> u128 {
        let [a, b, c, ..] = self.mac(b"request-id", business, &upper.to_be_bytes());
        u128::from(u32::from_be_bytes([0, a, b, c]))
    }
}

/// How many bits of a request id are its MAC.
const SEAL: u32 = 24;

/// Mints request ids: UUIDs of version 7, whose last 24 bits are a MAC over the rest and the business.
///
/// ```text
/// 48 bits  milliseconds since 1970      ┐ strictly rising within a process,
/// 12 bits  4096ths of a millisecond     ┘ so no process makes one twice
/// 30 bits  drawn at random at start     tells processes apart
///  8 bits  the shard of the business    tells where its row is
/// 24 bits  MAC                          tells issued ids from made-up ones, without a query to the database
/// ```
/// If two processes draw the same 30 bits and mint in the same 244 ns for the same business, both requests have the
/// same id. The second one then finds a row that is not its own, and is treated as voided.
#[derive(Debug)]
pub struct RequestIds {
    secret: HashSecret,
    process: u128,
    last: AtomicU64,
}

impl RequestIds {
    /// A mint of ids that holders of this secret recognise.
    pub fn new(secret: HashSecret) -> Self {
        Self { secret, process: u128::from(rand::random::<u32>() >> 2), last: AtomicU64::new(0) }
    }

    /// Mints an id for a request of `business`.
    pub fn mint(&self, business: BusinessId) -> RequestId {
        let now = u64::try_from(clock::now_nanos() * 4096 / 1_000_000).unwrap_or(u64::MAX);
        let ticks = self.next_tick(now);
        let (millis, fraction) = (u128::from(ticks >> 12), u128::from(ticks & 0xFFF));
        let time = (millis & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | fraction << 64;
        let shard = u128::from(business.shard().number());
        let id = time | 0b10 << 62 | self.process << 32 | shard << SEAL;
        RequestId::from_u128(id | self.secret.seal(business, id >> SEAL))
    }

    /// The next tick, in 4096ths of a millisecond: `now`, or one more than the last tick, whichever is later.
    fn next_tick(&self, now: u64) -> u64 {
        let later = |last: u64| Some(now.max(last + 1));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).unwrap_or_else(|last| last);
        now.max(last + 1)
    }
}

/// When a request id was minted, in milliseconds since 1970.
pub fn minted_at(id: RequestId) -> Millis {
    (id.as_u128() >> 80) as Millis
}

/// A bound between ids: greater than all that were minted before `moment`, and not greater than any minted from then
/// on.
pub fn first_minted_at(moment: Millis) -> RequestId {
    RequestId::from_u128((moment.clamp(0, (1 << 48) - 1) as u128) << 80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::ShardId;

    fn secret(byte: &str) -> HashSecret {
        byte.repeat(32).parse().unwrap()
    }

    #[test]
    fn a_hash_depends_on_secret_business_and_address_alone() {
        let (one, two) = (BusinessId::from_u128(1), BusinessId::from_u128(2));
        let ann = Email::parse("ann@example.com").unwrap();
        let hash = secret("11").user_hash(one, &ann);
        assert_eq!(hash, secret("11").user_hash(one, &Email::parse(" ANN@example.com").unwrap()));
        assert_ne!(hash, secret("11").user_hash(two, &ann));
        assert_ne!(hash, secret("22").user_hash(one, &ann));
    }

    #[test]
    fn an_id_is_known_as_ours_by_its_business_alone() {
        let ids = RequestIds::new(secret("11"));
        let (one, two) = (BusinessId::from_u128(1), BusinessId::from_u128(2));
        let id = ids.mint(one);
        assert!(secret("11").issued(one, id));
        assert!(!secret("11").issued(two, id));
        assert!(!secret("22").issued(one, id));
        assert!(!secret("11").issued(one, RequestId::from_u128(id.as_u128() ^ 1)));
        assert!(!secret("11").issued(one, RequestId::from_u128(id.as_u128() ^ 1 << 100)));
    }

    #[test]
    fn ids_are_uuids_of_version_7_and_rise_strictly() {
        let ids = RequestIds::new(secret("11"));
        let business = BusinessId::from_u128(7);
        let minted: Vec<_> = (0..10_000).map(|_| ids.mint(business)).collect();
        assert!(minted.windows(2).all(|pair| pair[0].as_u128() >> 64 < pair[1].as_u128() >> 64));
        assert_eq!(ids.mint(BusinessId::new(ShardId::new(200), 7)).shard(), ShardId::new(200));
        let uuid = Uuid::from_u128(minted[0].as_u128());
        assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
        assert!((clock::now_millis() - minted_at(minted[0])).abs() < 60_000);
        let moment = minted_at(minted[0]);
        assert!(first_minted_at(moment) <= minted[0] && minted[0] < first_minted_at(moment + 1));
    }

    #[test]
    fn a_short_or_unreadable_secret_is_refused() {
        assert!("aa".repeat(31).parse::<HashSecret>().is_err());
        assert!("zz".repeat(32).parse::<HashSecret>().is_err());
    }
}
