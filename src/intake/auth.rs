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
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How old a look-up may be before it is done again, beside the requests that use it meanwhile. If all of them waited for
/// it, thousands would wake at once, every time.
const FRESH: Duration = Duration::from_secs(3);
/// How long look-ups that are to be done again gather, to be done in one statement.
const GATHER: Duration = Duration::from_millis(250);
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
    /// Look-ups to be done again.
    old: mpsc::UnboundedSender<(KeyDigest, Arc<Known>)>,
}

/// What a look-up found, and when.
struct Known {
    business: Option<BusinessId>,
    since: Instant,
    /// Whether somebody looks again already.
    renewing: AtomicBool,
}

impl Authenticator {
    /// Starts what looks again, for as long as there are clones of this.
    pub fn start(postgres: Postgres) -> Self {
        let known = Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build();
        let (old, receiver) = mpsc::unbounded_channel();
        tokio::spawn(keep_fresh(postgres.clone(), known.clone(), receiver));
        Self { postgres, known, old }
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
                let _ = self.old.send((digest, Arc::clone(&known)));
            }
            return Ok(caller(known));
        }
        if !health.is_up() {
            return Err(None);
        }
        // On the heap: this is rare, and its 30 KiB would be part of the task of every request.
        let look_up = async { look_up(&self.postgres, &[digest]).await.map(|mut found| found.remove(0)) };
        let looking_up = Box::pin(self.known.try_get_with(digest, look_up));
        Ok(caller(looking_up.await.map_err(Some)?))
    }
}

/// Looks again, for all at once that wait for it. If that fails, the old look-ups hold until they are forgotten, and
/// whoever uses one may have it tried again.
async fn keep_fresh(
    postgres: Postgres,
    known: Cache<KeyDigest, Arc<Known>>,
    mut waiting: mpsc::UnboundedReceiver<(KeyDigest, Arc<Known>)>,
) {
    let mut old = vec![];
    while waiting.recv_many(&mut old, MOST_REMEMBERED as usize).await > 0 {
        let digests: Vec<KeyDigest> = old.iter().map(|(digest, _)| *digest).collect();
        match look_up(&postgres, &digests).await {
            Ok(new) => {
                for (digest, new) in digests.into_iter().zip(new) {
                    known.insert(digest, new).await;
                }
            }
            Err(_) => old.iter().for_each(|(_, old)| old.renewing.store(false, Ordering::Relaxed)),
        }
        old.clear();
        tokio::time::sleep(GATHER).await;
    }
}

/// One for each of the digests, in their order.
async fn look_up(postgres: &Postgres, digests: &[KeyDigest]) -> Result<Vec<Arc<Known>>, Error> {
    let since = Instant::now();
    let found = postgres.read(async |connection| api_keys::find_secrets(connection, digests).await).await?;
    let known = |digest| Known { business: found.get(digest).copied(), since, renewing: AtomicBool::new(false) };
    Ok(digests.iter().map(known).map(Arc::new).collect())
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

    proptest::proptest! {
        #[test]
        fn whatever_a_header_holds_its_token_is_a_part_of_it(value: Vec<u8>, token in "[Bb]earer [ -~]{0,40}") {
            for bytes in [value.as_slice(), token.as_bytes()] {
                let Ok(value) = HeaderValue::from_bytes(bytes) else { continue };
                let headers = HeaderMap::from_iter([(AUTHORIZATION, value.clone())]);
                proptest::prop_assert!(bearer(&headers).is_none_or(|token| value.to_str().is_ok_and(|text| text.contains(token))));
            }
        }
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
