//! Which business is calling. A key is looked up by its digest; a small cache keeps the look-up off the hot path.

use crate::api_key;
use crate::ledger::BusinessId;
use crate::postgres::{Error, Health, Postgres, api_keys};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use moka::future::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// How old a look-up may be before it is done again, beside the requests that use it meanwhile. If all of them waited for
/// it, thousands would wake at once, every time.
const FRESH: Duration = Duration::from_secs(3);
/// How long a look-up is remembered at most, so how long a revoked key may still work in a running intake.
const REMEMBERED: Duration = Duration::from_secs(4);
/// How many look-ups are remembered, those of unknown keys included.
const MOST_REMEMBERED: u64 = 100_000;

/// SHA-256 of an API key: what tells one key from another.
pub type KeyDigest = [u8; 32];

/// Who calls: a business, with one of its keys.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub business: BusinessId,
    pub key: KeyDigest,
}

/// Knows the businesses by their keys. Clones share what they know.
#[derive(Clone)]
pub struct Authenticator {
    postgres: Postgres,
    known: Cache<KeyDigest, Arc<Known>>,
}

/// What a look-up found, and when.
struct Known {
    business: Option<BusinessId>,
    since: Instant,
    /// Whether somebody looks again already.
    renewing: AtomicBool,
}

impl Authenticator {
    pub fn new(postgres: Postgres) -> Self {
        let known = Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build();
        Self { postgres, known }
    }

    /// Who calls with a working secret key in the headers. Everything else is the same `None`: no header, two
    /// headers, another scheme, a public, unknown, malformed or revoked key. `Err` if the database cannot be asked, with
    /// the error if it was tried.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        health: &Health,
    ) -> Result<Option<Caller>, Option<Arc<Error>>> {
        let Some(key) = bearer(headers).filter(|key| api_key::is_well_formed_secret(key)) else { return Ok(None) };
        let digest = api_key::digest(key);
        let caller = |known: Arc<Known>| known.business.map(|business| Caller { business, key: digest });
        if let Some(known) = self.known.get(&digest).await {
            if known.since.elapsed() > FRESH && health.is_up() && !known.renewing.swap(true, Ordering::Relaxed) {
                tokio::spawn(self.clone().renew(digest, Arc::clone(&known)));
            }
            return Ok(caller(known));
        }
        if !health.is_up() {
            return Err(None);
        }
        // On the heap: this is rare, and its 30 KiB would be part of the task of every request.
        let looking_up = Box::pin(self.known.try_get_with(digest, self.look_up(digest)));
        Ok(caller(looking_up.await.map_err(Some)?))
    }

    /// Looks again. If that fails, the old look-up holds until it is forgotten, and somebody else may try.
    async fn renew(self, digest: KeyDigest, old: Arc<Known>) {
        match self.look_up(digest).await {
            Ok(new) => self.known.insert(digest, new).await,
            Err(_) => old.renewing.store(false, Ordering::Relaxed),
        }
    }

    async fn look_up(&self, digest: KeyDigest) -> Result<Arc<Known>, Error> {
        let since = Instant::now();
        let found = self.postgres.read(async |connection| api_keys::find_secret(connection, &digest).await).await?;
        let business = found.filter(|(_, stored)| stored.ct_eq(&digest).into()).map(|(business, _)| business);
        Ok(Arc::new(Known { business, since, renewing: AtomicBool::new(false) }))
    }
}

/// The token of the one `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn one_bearer_header_is_read_and_nothing_else() {
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer  abc "])), Some("abc"));
        assert_eq!(bearer(&headers(&[])), None);
        assert_eq!(bearer(&headers(&["Basic abc"])), None);
        assert_eq!(bearer(&headers(&["Bearer"])), None);
        assert_eq!(bearer(&headers(&["Bearer abc", "Bearer abc"])), None);
    }
}
