//! How deliveries are named and signed, by Standard Webhooks 1.0.

use crate::ledger::BusinessId;
use crate::secret::HashSecret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

/// A secret as platforms see it.
pub fn show(secret: [u8; 32]) -> String {
    format!("whsec_{}", BASE64.encode(secret))
}

/// Signs deliveries with one secret or, while it is replaced, with two.
pub struct Signer(Vec<Hmac<Sha256>>);

impl Signer {
    /// Signs with the secret of this version and, if `twice`, with the one before as well.
    pub fn new(secret: &HashSecret, business: BusinessId, webhook: Uuid, version: i32, twice: bool) -> Self {
        let versions = [Some(version), twice.then_some(version - 1)].into_iter().flatten();
        let key = |version| Hmac::new_from_slice(&secret.webhook_secret(business, webhook, version)).ok();
        Self(versions.filter_map(key).collect())
    }

    /// The signatures of a delivery: `v1,…` for each secret. `timestamp`: when it is tried, in seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let sign = |key: &Hmac<Sha256>| {
            let mut mac = key.clone();
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
        };
        self.0.iter().map(sign).collect::<Vec<_>>().join(" ")
    }
}
