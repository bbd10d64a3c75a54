//! Finds out which business is calling, by its API key. A key is looked up by its digest, and a small cache keeps most
//! look-ups off the hot path.
//!
//! Anybody can make up well-formed keys, thousands a second. So look-ups have connections of their own, those that come
//! together are done in one statement, and unknown keys are cached apart from known ones.

use crate::api_key;
use crate::ledger::{BusinessId, Refusal};
use crate::postgres::{Error, Health, Postgres, api_keys};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use moka::future::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

/// Connections to Postgres for look-ups. Two, so that one that hangs does not hold up all look-ups.
pub const CONNECTIONS: u32 = 2;
/// How old a look-up may be before it is repeated in the background. Requests use the old result meanwhile: if all of
/// them waited, thousands would wake at once, every time.
const FRESH: Duration = Duration::from_secs(3);
/// How long old look-ups are collected, to be repeated in one statement.
const GATHER: Duration = Duration::from_millis(250);
/// How long a look-up is cached at most, so how long a revoked key may still work in a running intake.
const REMEMBERED: Duration = Duration::from_secs(4);
/// How many known keys are cached.
const MOST_REMEMBERED: u64 = 100_000;
/// How many unknown keys are cached: enough for clients that come again and again with an old key. A flood of made-up
/// keys does not repeat them, so a larger cache would not help.
const MOST_UNKNOWN: u64 = 10_000;
/// Most keys that one statement looks up: it takes a few milliseconds.
const TOGETHER: usize = 1_000;
/// Most look-ups that wait; any more are refused. The number of client connections alone would be too loose a bound.
const MOST_WAITING: usize = 10_000;

/// The SHA-256 digest of an API key, by which keys are told apart.
pub type KeyDigest = [u8; 32];

/// The caller: a business, with one of its keys.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The business that the key belongs to.
    pub business: BusinessId,
    /// The digest of the key.
    pub key: KeyDigest,
}

/// Finds the business of an API key. Clones share their cache.
#[derive(Clone)]
pub struct Authenticator {
    found: Found,
    /// Look-ups to be repeated in the background.
    old: mpsc::UnboundedSender<(KeyDigest, Arc<Known>)>,
    /// Look-ups that a request waits for.
    new: mpsc::Sender<Question>,
    /// How long a request waits for its look-up.
    patience: Duration,
}

/// A key to look up, and where to send the result.
type Question = (KeyDigest, oneshot::Sender<Option<BusinessId>>);

/// The results of recent look-ups.
#[derive(Clone)]
struct Found {
    known: Cache<KeyDigest, Arc<Known>>,
    unknown: Cache<KeyDigest, ()>,
}

/// A key that works, and when it was looked up.
struct Known {
    business: BusinessId,
    since: Instant,
    /// Whether it is being looked up again.
    renewing: AtomicBool,
}

impl Authenticator {
    /// Starts the tasks that look keys up. They run until all clones are dropped. The connections of `postgres` should
    /// serve nothing else.
    pub fn start(postgres: Postgres) -> Self {
        let found = Found {
            known: Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build(),
            unknown: Cache::builder().max_capacity(MOST_UNKNOWN).time_to_live(REMEMBERED).build(),
        };
        let patience = postgres.timeout();
        let (old, renewals) = mpsc::unbounded_channel();
        let (new, questions) = mpsc::channel(MOST_WAITING);
        let questions = Arc::new(Mutex::new(questions));
        for _ in 0..CONNECTIONS {
            tokio::spawn(answer(postgres.clone(), found.clone(), Arc::clone(&questions)));
        }
        tokio::spawn(keep_fresh(postgres, found.clone(), renewals));
        Self { found, old, new, patience }
    }

    /// The caller with the working secret key in the headers. `None` for everything else: no header, two headers,
    /// another scheme, a public, unknown, malformed or revoked key. `Err` if the database does not say.
    pub async fn authenticate(&self, headers: &HeaderMap, health: &Health) -> Result<Option<Caller>, Refusal> {
        let Some(key) = bearer(headers).filter(|key| api_key::is_well_formed_secret(key)) else { return Ok(None) };
        let digest = api_key::digest(key);
        if let Some(known) = self.found.known.get(&digest).await {
            if known.since.elapsed() > FRESH && health.is_up() && !known.renewing.swap(true, Ordering::Relaxed) {
                let _ = self.old.send((digest, Arc::clone(&known)));
            }
            return Ok(Some(Caller { business: known.business, key: digest }));
        }
        if self.found.unknown.contains_key(&digest) {
            return Ok(None);
        }
        if !health.is_up() {
            return Err(Refusal::PostgresDown);
        }
        let business = self.look_up(digest).await.ok_or(Refusal::PostgresSlow)?;
        Ok(business.map(|business| Caller { business, key: digest }))
    }

    /// Looks a key up. The outer `None`: there is no answer in time. The inner one: no such key works.
    async fn look_up(&self, digest: KeyDigest) -> Option<Option<BusinessId>> {
        let (sender, answer) = oneshot::channel();
        self.new.try_send((digest, sender)).ok()?;
        tokio::time::timeout(self.patience, answer).await.ok()?.ok()
    }
}

/// Looks up the keys that requests wait for: all that have come meanwhile in one statement. If that fails, these
/// requests get no answer.
async fn answer(postgres: Postgres, found: Found, questions: Arc<Mutex<mpsc::Receiver<Question>>>) {
    let mut asked = vec![];
    while questions.lock().await.recv_many(&mut asked, TOGETHER).await > 0 {
        asked.retain(|(_, waiting)| !waiting.is_closed());
        if asked.is_empty() {
            continue;
        }
        let digests: Vec<KeyDigest> = asked.iter().map(|(digest, _)| *digest).collect();
        match found.look_up(&postgres, &digests).await {
            Ok(businesses) => asked.drain(..).zip(businesses).for_each(|((_, waiting), business)| {
                let _ = waiting.send(business);
            }),
            Err(error) => tracing::warn!(%error, keys = digests.len(), "API keys not looked up"),
        }
        asked.clear();
    }
}

/// Repeats old look-ups: all that have come meanwhile in one statement. If that fails, the old results hold until they
/// expire, and the next request that uses one may have it tried again.
async fn keep_fresh(postgres: Postgres, found: Found, mut waiting: mpsc::UnboundedReceiver<(KeyDigest, Arc<Known>)>) {
    let mut old = vec![];
    while waiting.recv_many(&mut old, MOST_REMEMBERED as usize).await > 0 {
        let digests: Vec<KeyDigest> = old.iter().map(|(digest, _)| *digest).collect();
        if found.look_up(&postgres, &digests).await.is_err() {
            old.iter().for_each(|(_, old)| old.renewing.store(false, Ordering::Relaxed));
        }
        old.clear();
        tokio::time::sleep(GATHER).await;
    }
}

impl Found {
    /// Looks keys up and caches the results: one for each of the digests, in their order.
    async fn look_up(&self, postgres: &Postgres, digests: &[KeyDigest]) -> Result<Vec<Option<BusinessId>>, Error> {
        let since = Instant::now();
        let found = postgres.read(async |connection| api_keys::find_secrets(connection, digests).await).await?;
        for digest in digests {
            match found.get(digest) {
                Some(&business) => {
                    let known = Known { business, since, renewing: AtomicBool::new(false) };
                    self.known.insert(*digest, Arc::new(known)).await;
                }
                None => {
                    self.known.invalidate(digest).await;
                    self.unknown.insert(*digest, ()).await;
                }
            }
        }
        Ok(digests.iter().map(|digest| found.get(digest).copied()).collect())
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
