//! How soon the service answers again when workers were killed over a long queue.

use crate::allocate::{message, publish, request};
use crate::harness::proxy::{Mode, Protocol, Proxy};
use crate::harness::{App, Business, eventually, shard};
use earmark::ledger::{IdempotencyKey, KeyClaim, Reference, Request};
use earmark::wire::messages;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// The first success must come this soon after the last fault has ended.
const RECOVERY: Duration = Duration::from_secs(10);
/// How many requests a message holds, as in a queue that filled under load.
const A_MESSAGE: usize = 111;

/// Requests as they lie in a queue for which there was no worker for a while: the first third was given up by its intakes,
/// the second is late and nobody has decided it, the last is still waited for. Every other one is keyed.
fn backlog(business: &Business, count: usize) -> Vec<Request> {
    let one = |number: usize| {
        let mut one = request(business, &format!("user{number}@example.com"), 1);
        if number < count * 2 / 3 {
            one.deadline -= 3_600_000;
        }
        let key = IdempotencyKey::new(&format!("key-{number}")).expect("a key");
        one.key = (number % 2 == 1).then_some(KeyClaim { key, epoch: 0 });
        one
    };
    (0..count).map(one).collect()
}

/// Writes what an intake writes when it gives these requests up.
async fn give_up(app: &App, requests: &[Request]) {
    let mut database = app.database().await;
    let id = |id: u128| Uuid::from_u128(id);
    let businesses: Vec<Uuid> = requests.iter().map(|request| id(request.business.as_u128())).collect();
    let ids: Vec<Uuid> = requests.iter().map(|request| id(request.id.as_u128())).collect();
    let keys: Vec<Option<&str>> =
        requests.iter().map(|request| request.key.as_ref().map(|claim| claim.key.as_str())).collect();
    for sql in [
        "INSERT INTO allocations (business_id, request_id, outcome)
         SELECT business, id, 'voided' FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS given (business, id, key)",
        "INSERT INTO idempotency_keys (business_id, scope, key, epoch, raise_count)
         SELECT business, 'client', key, 1, 1 FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS given (business, id, key)
         WHERE key IS NOT NULL",
    ] {
        let query = sqlx::query(sql).bind(&businesses).bind(&ids).bind(&keys);
        query.execute(&mut database).await.expect("voided");
    }
}

fn pack(app: &App, items: &[Vec<u8>]) -> Vec<u8> {
    app.pack(shard(), items.iter().map(Vec::as_slice))
}

/// Kills two workers that hold part of a queue of `count` requests unsettled. The database is a millisecond away.
/// Returns how soon after the kills a new request is answered.
async fn recover(count: usize) -> Duration {
    let app = App::new().await;
    let business = app.create_business(1_000_000);
    let upstream = app.database_url.split(['@', '/']).nth(3).expect("an address").parse().expect("an address");
    let proxy = Proxy::start(Protocol::Postgres, upstream).await.expect("a proxy");
    proxy.set(Mode::Delay(Duration::from_millis(1)));
    let far = app.database_url.replace(&upstream.to_string(), &proxy.address().to_string());
    let far = [("DATABASE_URL", far.as_str())];
    let intake = app.start("intake").await;
    let requests = backlog(&business, count);
    give_up(&app, &requests[..count / 3]).await;
    let items: Vec<Vec<u8>> = requests.iter().map(messages::write_request).collect();
    app.publish_all(&app.work_queue(), items.chunks(A_MESSAGE).map(|items| pack(&app, items))).await;
    let mut locker = app.database().await;
    sqlx::query("BEGIN").execute(&mut locker).await.expect("begun");
    sqlx::query("SELECT FROM businesses FOR UPDATE").execute(&mut locker).await.expect("locked");
    for _ in 0..2 {
        let mut worker = app.start_with("worker", &far).await;
        eventually("a batch waits for the business", async || is_waited_for(&app).await).await;
        worker.kill().await;
    }
    sqlx::query("ROLLBACK").execute(&mut locker).await.expect("released");
    let began = Instant::now();
    let worker = app.spawn("worker", &far);
    let client = app.client(&intake, &business);
    while client.create("new@example.com", 1).await.status != 200 {
        eprintln!("{:?} {:?}", began.elapsed(), app.count("voided").await);
    }
    let took = began.elapsed();
    // The worker settles messages in order, so all before this one are settled.
    let decided = app.count("allocated").await + app.count("voided").await + app.count("insufficient_balance").await;
    assert!(decided > i64::try_from(count).expect("a number"), "{decided} of {count}");
    app.finish([intake, worker]).await;
    took
}

/// Whether somebody waits for a lock in the database.
pub async fn is_waited_for(app: &App) -> bool {
    let waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'";
    let asked = sqlx::query_scalar(waiting).bind(&app.prefix);
    asked.fetch_one(&mut app.database().await).await.expect("a count")
}

#[tokio::test]
async fn a_new_request_is_soon_answered_after_two_workers_died_over_20_000_others() {
    let took = recover(20_000).await;
    eprintln!("{took:?}");
    assert!(took < RECOVERY, "{took:?}");
}

/// `make recovery`
#[tokio::test]
#[ignore = "takes a minute, and says how long it took"]
async fn a_new_request_is_soon_answered_after_two_workers_died_over_100_000_others() {
    let took = recover(100_000).await;
    eprintln!("the first new request was answered after {took:?}");
    assert!(took < RECOVERY, "{took:?}");
}

/// The most memory that a worker may use, in MiB.
const SMALL: u64 = 150;
/// How many messages a worker takes.
const PREFETCH: usize = 128;

/// Lets a worker take as much as it may of a queue of `count` requests that it cannot settle, and then settle all of
/// them. Returns its peak memory before and after, in MiB.
async fn work_off(count: usize) -> (u64, u64) {
    let app = App::new().await;
    let business = app.create_business(i64::try_from(count).expect("a number"));
    let intake = app.start("intake").await;
    let items = (0..count).map(|number| {
        let mut one = request(&business, &format!("some.payout.user.{number}@mail.example.com"), 1);
        let key = IdempotencyKey::new(&Uuid::new_v4().to_string()).expect("a key");
        one.key = Some(KeyClaim { key, epoch: 0 });
        one.reference = Reference::parse(&format!("invoice 2026-11-{number:08}")).expect("a reference");
        messages::write_request(&one)
    });
    let items: Vec<Vec<u8>> = items.collect();
    app.publish_all(&app.work_queue(), items.chunks(512).map(|items| pack(&app, items))).await;
    let mut locker = app.database().await;
    sqlx::query("BEGIN").execute(&mut locker).await.expect("begun");
    sqlx::query("SELECT FROM businesses FOR UPDATE").execute(&mut locker).await.expect("locked");
    let worker = app.start("worker").await;
    let left = u32::try_from(count.div_ceil(512) - PREFETCH).expect("a number");
    app.until_queue_holds(&app.work_queue(), left).await;
    eventually("a batch waits for the business", async || is_waited_for(&app).await).await;
    let holding = worker.peak_memory();
    sqlx::query("ROLLBACK").execute(&mut locker).await.expect("released");
    let settled = i64::try_from(count).expect("a number");
    eventually("all are settled", async || app.count("voided").await + app.count("allocated").await == settled).await;
    let settling = worker.peak_memory();
    app.finish([intake, worker]).await;
    (holding, settling)
}

#[tokio::test]
async fn what_a_worker_holds_is_bounded_over_all_its_queues() {
    let app = App::new().await;
    app.add_shards(3 - shard());
    let settings = [("EARMARK_PREFETCH", "8")];
    // The worker declares the queues.
    app.start_with("worker", &settings).await.terminate().await;
    let mut lockers = vec![];
    for shard in 0..4 {
        let business = app.create_business_in(shard, 1_000);
        let one = |n| {
            let item = messages::write_request(&request(&business, &format!("user{n}@example.com"), 1));
            app.pack(shard, std::iter::once(item.as_slice()))
        };
        app.publish_all(&app.work_queue_of(shard), (0..5).map(one)).await;
        let mut locker = app.database_of(shard).await;
        sqlx::query("BEGIN").execute(&mut locker).await.expect("begun");
        sqlx::query("SELECT FROM businesses FOR UPDATE").execute(&mut locker).await.expect("locked");
        lockers.push(locker);
    }
    let worker = app.start_with("worker", &settings).await;
    for shard in 0..4 {
        app.until_queue_holds(&app.work_queue_of(shard), 3).await;
    }
    drop(lockers);
    let settled = async || app.audit()["allocations"] == 20;
    eventually("all are settled", settled).await;
    app.finish([worker]).await;
}

#[tokio::test]
async fn a_worker_stays_small_over_150_000_requests() {
    let (holding, settling) = work_off(150_000).await;
    eprintln!("{holding} MiB, {settling} MiB");
    assert!(holding.max(settling) < SMALL, "{holding} MiB, {settling} MiB");
}

#[tokio::test]
#[ignore = "takes minutes, and says how much memory it took"]
async fn a_worker_stays_small_over_a_million_requests() {
    let (holding, settling) = work_off(1_000_000).await;
    eprintln!("a worker over a million requests took {holding} MiB, and {settling} MiB when it settled them");
    assert!(holding.max(settling) < SMALL, "{holding} MiB, {settling} MiB");
}

#[tokio::test]
async fn a_batch_that_takes_too_long_is_halved_until_it_gets_through() {
    let app = App::new().await;
    let business = app.create_business(150);
    let mut database = app.database().await;
    // Each row takes a while, so that 200 rows take longer than a transaction may.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON allocations FOR EACH ROW EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&mut database).await.expect("slow");
    let worker = app.start_with("worker", &[("EARMARK_SETTLE_TIMEOUT", "1s")]).await;
    let requests: Vec<Request> = (0..200).map(|n| request(&business, &format!("user{n}@example.com"), 1)).collect();
    publish(&app, &message(&app, &requests.iter().collect::<Vec<_>>(), &[])).await;
    eventually("all are settled", async || {
        app.count("allocated").await == 150 && app.count("insufficient_balance").await == 50
    })
    .await;
    let refused = "SELECT email FROM allocations WHERE outcome = 'insufficient_balance'";
    let refused: Vec<String> = sqlx::query_scalar(refused).fetch_all(&mut database).await.expect("the refused");
    let last: Vec<String> = (150..200).map(|n| format!("user{n}@example.com")).collect();
    assert!(last.iter().all(|email| refused.contains(email)), "in order of arrival: {refused:?}");
    app.finish([worker]).await;
}
