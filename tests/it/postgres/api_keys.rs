//! Look-ups of API keys while others send invented keys.

use crate::faults::site::{Role, Site, Way};
use crate::harness::assert_allocated;
use crate::harness::http::Client;
use crate::harness::proxy::{Mode, Protocol};
use crate::harness::servers::Servers;
use earmark::api_key::{self, Kind};
use reqwest::Method;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Writes keys of a business. No intake has seen them yet.
async fn write_keys(site: &Site, count: usize) -> Vec<String> {
    let keys: Vec<String> = (0..count).map(|_| api_key::generate(Kind::Secret)).collect();
    let digests: Vec<Vec<u8>> = keys.iter().map(|key| api_key::digest(key).to_vec()).collect();
    sqlx::query(
        "INSERT INTO api_keys (key_id, business_id, kind, digest, hint)
         SELECT gen_random_uuid(), $1::uuid, 'secret', digest, '' FROM unnest($2::bytea[]) AS digest",
    )
    .bind(&site.business.id)
    .bind(digests)
    .execute(&mut site.app.database().await)
    .await
    .expect("keys");
    keys
}

/// Sends invented keys until it is stopped, and returns how often it was told 401. It must be told nothing else.
async fn flood(url: String, stop: Arc<AtomicBool>) -> usize {
    let client = Client::new(url, "");
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            return count;
        }
        let made_up = api_key::generate(Kind::Secret);
        let asking = client.request(Method::GET, "/balance").bearer_auth(made_up);
        let answer = Client::send(asking).await.expect("an answer");
        assert_eq!(answer.status, 401, "{answer:?}");
    }
    0
}

#[tokio::test]
async fn keys_that_are_made_up_by_the_thousand_hold_up_nobody_who_has_one() {
    let site = Site::new(Servers::shared()).await;
    let keys = write_keys(&site, 100).await;
    let (intake, worker) = (site.spawn(Role::Intake, None), site.spawn(Role::Worker, None));
    intake.ready().await;
    worker.ready().await;
    // The database is 20 ms away each way. One look-up at a time would give a few dozen a second.
    site.proxy(Way(Role::Intake, Protocol::Postgres)).set(Mode::Delay(Duration::from_millis(20)));
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..100).map(|_| tokio::spawn(flood(intake.url(), Arc::clone(&stop)))).collect();
    let mut took = vec![];
    for key in keys {
        let client = Client::new(intake.url(), &key);
        let since = Instant::now();
        assert_allocated(&client.create("ann@example.com", 1).await);
        took.push(since.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let mut told = 0;
    for flood in floods {
        told += flood.await.expect("joined");
    }
    assert!(told > 2_000, "{told}");
    took.sort();
    assert!(took[50] < Duration::from_secs(2), "{took:?} beside {told} keys that are made up");
    assert_eq!(intake.logged("API keys not looked up"), 0);
    site.app.finish([intake, worker]).await;
}
