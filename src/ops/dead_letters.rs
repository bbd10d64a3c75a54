//! What operators do with dead letters: list, show, replay, drop. The command line and the console both use this.
//!
//! A replay is always safe. What is not authentic is never replayed. A request that was decided keeps its decision, which is in its row. A request without a row
//! is decided if its deadline has not passed, and voided otherwise. Each shown request says what a replay would do.

use crate::clock;
use crate::ledger::{Amount, BusinessId, Cause, OnReplay, Outcome, Request, RequestId, ShardId};
use crate::metrics::labels::Role;
use crate::postgres::allocations::{self, Decided};
use crate::postgres::dead_letters::{self, DeadLetterFilter};
use crate::postgres::{Error, PgConnection, Postgres, Shards};
use crate::rabbit::confirmed::Confirmed;
use crate::rabbit::topology::Topology;
use crate::rabbit::{self, Broker};
use crate::wire::messages;
use crate::wire::operator::{DeadLetter, DeadLetterRequest};
use crate::wire::signing::Keyring;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// A page of at most `limit` open dead letters, newest first. `reveal`: show whole addresses, keys and bodies.
pub async fn list(
    shards: &Shards,
    filter: &DeadLetterFilter,
    limit: u32,
    reveal: bool,
) -> Result<Vec<DeadLetter>, Error> {
    let finding = async |connection: &mut PgConnection| dead_letters::find_open(connection, filter, limit).await;
    show_all(shards, shards.directory().read(finding).await?, reveal).await
}

/// One dead letter, open or not; `None` if there is none with this id.
pub async fn show(shards: &Shards, dead_letter: Uuid, reveal: bool) -> Result<Option<DeadLetter>, Error> {
    let finding = async |connection: &mut PgConnection| dead_letters::find_one(connection, dead_letter).await;
    let found = shards.directory().read(finding).await?;
    Ok(show_all(shards, Vec::from_iter(found), reveal).await?.pop())
}

/// Every dead letter that contains the request, open or not.
pub async fn holding(shards: &Shards, request: RequestId, reveal: bool) -> Result<Vec<DeadLetter>, Error> {
    let finding = async |connection: &mut PgConnection| dead_letters::find_holding(connection, request).await;
    show_all(shards, shards.directory().read(finding).await?, reveal).await
}

/// Parses a dead letter to be looked at, whoever has signed it.
fn read(body: &[u8]) -> Result<messages::RequestMessage, String> {
    messages::read_requests(&Keyring::none(), body).map_err(|(_, reason)| reason)
}

/// Adds to each dead letter what the ledger says about its requests.
async fn show_all(
    shards: &Shards,
    dead_letters: Vec<dead_letters::DeadLetter>,
    reveal: bool,
) -> Result<Vec<DeadLetter>, Error> {
    let read: Vec<_> = dead_letters.into_iter().map(|dead_letter| (read(&dead_letter.body), dead_letter)).collect();
    let readable = read.iter().filter_map(|(message, _)| message.as_ref().ok());
    let mut names = BTreeMap::<ShardId, Vec<(BusinessId, RequestId)>>::new();
    for request in readable.flat_map(|message| &message.requests) {
        names.entry(request.business.shard()).or_default().push((request.business, request.id));
    }
    let mut decided = HashMap::new();
    for (shard, names) in names {
        // A shard that does not exist has decided nothing.
        let Ok(postgres) = shards.get(shard) else { continue };
        let finding = async |connection: &mut PgConnection| allocations::find_decided(connection, &names).await;
        decided.extend(postgres.read(finding).await?);
    }
    Ok(read.into_iter().map(|(message, dead_letter)| shown(dead_letter, message, &decided, reveal)).collect())
}

fn shown(
    dead_letter: dead_letters::DeadLetter,
    message: Result<messages::RequestMessage, String>,
    decided: &HashMap<(BusinessId, RequestId), Decided>,
    reveal: bool,
) -> DeadLetter {
    let (requests, unreadable) = match message {
        Ok(message) => (message.requests, message.unreadable.into_iter().map(|part| part.reason).collect()),
        Err(reason) => (vec![], vec![reason]),
    };
    let is_authentic = dead_letter.cause != Cause::Unauthentic.as_str();
    let show =
        |request: &Request| shown_request(request, decided.get(&(request.business, request.id)), is_authentic, reveal);
    DeadLetter {
        requests: requests.iter().map(show).collect(),
        unreadable,
        body: reveal.then(|| String::from_utf8_lossy(&dead_letter.body).into_owned()),
        dead_letter_id: dead_letter.dead_letter_id,
        cause: dead_letter.cause,
        reason: dead_letter.reason,
        queue: dead_letter.queue,
        deaths: dead_letter.deaths,
        died_at: dead_letter.died_at,
        arrived_at: dead_letter.arrived_at,
        replays: dead_letter.replays,
        replayed_at: dead_letter.replayed_at,
        replayed_by: dead_letter.replayed_by,
        dropped_at: dead_letter.dropped_at,
        dropped_by: dead_letter.dropped_by,
    }
}

fn shown_request(request: &Request, decided: Option<&Decided>, is_authentic: bool, reveal: bool) -> DeadLetterRequest {
    let on_replay = match decided {
        _ if !is_authentic => OnReplay::Never,
        Some(row) if !row.is_of(request) => OnReplay::ComesBack,
        row => OnReplay::predict(row.map(|row| row.outcome), request.deadline, clock::now_millis()),
    };
    let claim = request.key.as_ref();
    DeadLetterRequest {
        request_id: Uuid::from_u128(request.id.as_u128()),
        business_id: Uuid::from_u128(request.business.as_u128()),
        kind: request.movement.kind().as_str(),
        email: request.movement.email().map(|email| if reveal { email.as_str().to_owned() } else { email.masked() }),
        amount: request.movement.amount().map(Amount::cents),
        target: request.movement.target().map(|target| Uuid::from_u128(target.as_u128())),
        deadline: clock::utc(request.deadline),
        key: claim.filter(|_| reveal).map(|claim| claim.key.as_str().to_owned()),
        epoch: claim.map(|claim| claim.epoch),
        state: decided.map_or("undecided", |row| Outcome::as_str(row.outcome)),
        decided_at: decided.map(|row| row.decided_at),
        on_replay: on_replay.as_str(),
        on_replay_in_words: on_replay.in_words(),
    }
}

/// Why a replay failed. Dead letters before the failing one may have been replayed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Postgres did not do it.
    #[error(transparent)]
    Postgres(#[from] Error),
    /// RabbitMQ did not take it.
    #[error(transparent)]
    Rabbit(#[from] rabbit::Error),
}

/// Publishes dead letters to the work queues that they came from, in the order given, and records who did it. Returns
/// the ids of those that were published. Dropped and unknown ones are skipped, and those that are not authentic.
///
/// Each is published first and marked as replayed afterwards. If something fails in between, the dead letter stays
/// open: it may be replayed twice, but is never lost.
pub async fn replay(
    shards: &Shards,
    broker: &Broker,
    topology: &Topology,
    dead_letters: &[Uuid],
    who: &str,
) -> Result<Vec<Uuid>, Failure> {
    let link = broker.connect(Role::Command).await?;
    let replayed = replay_over(&link, shards.directory(), topology, dead_letters, who).await;
    link.close().await;
    replayed
}

async fn replay_over(
    link: &rabbit::Link,
    postgres: &Postgres,
    topology: &Topology,
    dead_letters: &[Uuid],
    who: &str,
) -> Result<Vec<Uuid>, Failure> {
    let confirmed = Confirmed::open(link).await?;
    let (mut session, mut replayed) = (postgres.session(), vec![]);
    for &id in dead_letters {
        let found = session.read(async |connection| dead_letters::find_one(connection, id).await).await?;
        let Some(dead_letter) = found.filter(may_be_replayed) else { continue };
        let queue = queue_of(&dead_letter, topology);
        confirmed.put(topology, &queue, &Uuid::new_v4().simple().to_string(), &dead_letter.body).await?;
        tracing::info!(dead_letter_id = %id, who, queue, "dead letter replayed");
        session.write(async |connection| dead_letters::mark_replayed(connection, id, who).await).await?;
        replayed.push(id);
    }
    Ok(replayed)
}

fn may_be_replayed(dead_letter: &dead_letters::DeadLetter) -> bool {
    dead_letter.dropped_at.is_none() && dead_letter.cause != Cause::Unauthentic.as_str()
}

/// The queue of the shard that a dead letter names. One that cannot be read comes back from any work queue.
fn queue_of(dead_letter: &dead_letters::DeadLetter, topology: &Topology) -> String {
    let shard = read(&dead_letter.body).map_or(ShardId::FIRST, |message| message.shard);
    topology.work_queue(shard.number())
}

/// Marks open dead letters as dropped, with time and name. Their rows stay in the table. Returns the ids of those that
/// were open.
pub async fn drop(shards: &Shards, dead_letters: &[Uuid], who: &str) -> Result<Vec<Uuid>, Error> {
    let (mut session, mut dropped) = (shards.directory().session(), vec![]);
    for &id in dead_letters {
        if session.write(async |connection| dead_letters::mark_dropped(connection, id, who).await).await? {
            tracing::info!(dead_letter_id = %id, who, "dead letter dropped");
            dropped.push(id);
        }
    }
    Ok(dropped)
}
