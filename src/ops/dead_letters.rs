//! Dead letters in hand: list, show, replay, drop. The shell and the console both do it through here.
//!
//! A replay is safe whatever is in a dead letter: the row that decided a request decides again, and a request without one is
//! voided once its deadline has passed. What a replay would do is said before anybody asks for it.

use crate::clock;
use crate::ledger::{BusinessId, OnReplay, Outcome, Request, RequestId};
use crate::metrics::labels::Role;
use crate::postgres::allocations::{self, Decided};
use crate::postgres::dead_letters::{self, DeadLetter, Filter};
use crate::postgres::{Error, PgConnection, Postgres};
use crate::rabbit::confirmed::Confirmed;
use crate::rabbit::topology::Topology;
use crate::rabbit::{self, Broker};
use crate::wire::messages;
use serde::Serialize;
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// A dead letter as people and programs see it.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    pub dead_letter_id: Uuid,
    pub cause: String,
    pub reason: String,
    /// The work queue it came from.
    pub queue: Option<String>,
    /// How often it died and when first, by the broker's account.
    pub deaths: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub died_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    pub arrived_at: OffsetDateTime,
    pub replays: i32,
    #[serde(with = "time::serde::rfc3339::option")]
    pub replayed_at: Option<OffsetDateTime>,
    pub replayed_by: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub dropped_at: Option<OffsetDateTime>,
    pub dropped_by: Option<String>,
    /// What can be read of it.
    pub requests: Vec<ShownRequest>,
    /// Why the rest cannot be read. It comes back as a dead letter, however often it is replayed.
    pub unreadable: Vec<String>,
    /// The message as it is. Only where addresses are revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// One request in a dead letter, with the ledger's verdict. Amount in cents.
#[derive(Clone, Debug, Serialize)]
pub struct ShownRequest {
    pub request_id: Uuid,
    pub business_id: Uuid,
    /// Masked, unless addresses are revealed.
    pub email: String,
    pub amount: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// Only where addresses are revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of the key, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// One of the outcomes, or `undecided`.
    pub state: &'static str,
    #[serde(with = "time::serde::rfc3339::option")]
    pub decided_at: Option<OffsetDateTime>,
    /// What a replay would do: for programs, and in words.
    pub on_replay: &'static str,
    pub on_replay_in_words: &'static str,
}

/// A page of open dead letters, the newest first. `reveal`: with whole addresses.
pub async fn list(postgres: &Postgres, filter: &Filter, limit: u32, reveal: bool) -> Result<Vec<Shown>, Error> {
    let reading = async |connection: &mut PgConnection| {
        let dead_letters = dead_letters::find_open(connection, filter, limit).await?;
        show_all(connection, dead_letters, reveal).await
    };
    postgres.read(reading).await
}

/// One dead letter, open or not.
pub async fn show(postgres: &Postgres, dead_letter: Uuid, reveal: bool) -> Result<Option<Shown>, Error> {
    let reading = async |connection: &mut PgConnection| {
        let dead_letters = Vec::from_iter(dead_letters::find_one(connection, dead_letter).await?);
        Ok(show_all(connection, dead_letters, reveal).await?.pop())
    };
    postgres.read(reading).await
}

/// Every dead letter that holds a request.
pub async fn holding(connection: &mut PgConnection, request: RequestId, reveal: bool) -> Result<Vec<Shown>, Error> {
    let dead_letters = dead_letters::find_holding(connection, request).await?;
    show_all(connection, dead_letters, reveal).await
}

/// Joins dead letters with what the ledger says of their requests.
async fn show_all(
    connection: &mut PgConnection,
    dead_letters: Vec<DeadLetter>,
    reveal: bool,
) -> Result<Vec<Shown>, Error> {
    let read: Vec<_> =
        dead_letters.into_iter().map(|dead_letter| (messages::read_requests(&dead_letter.body), dead_letter)).collect();
    let readable = read.iter().filter_map(|(message, _)| message.as_ref().ok());
    let names: Vec<(BusinessId, RequestId)> =
        readable.flat_map(|message| message.requests.iter().map(|request| (request.business, request.id))).collect();
    let decided = allocations::find_decided(connection, &names).await?;
    Ok(read.into_iter().map(|(message, dead_letter)| shown(dead_letter, message, &decided, reveal)).collect())
}

fn shown(
    dead_letter: DeadLetter,
    message: Result<messages::RequestMessage, String>,
    decided: &HashMap<(BusinessId, RequestId), Decided>,
    reveal: bool,
) -> Shown {
    let (requests, unreadable) = match message {
        Ok(message) => (message.requests, message.unreadable.into_iter().map(|part| part.reason).collect()),
        Err(reason) => (vec![], vec![reason]),
    };
    let row = |request: &Request| decided.get(&(request.business, request.id));
    Shown {
        requests: requests.iter().map(|request| shown_request(request, row(request), reveal)).collect(),
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

fn shown_request(request: &Request, decided: Option<&Decided>, reveal: bool) -> ShownRequest {
    let on_replay = match decided {
        Some(row) if !row.is_of(request) => OnReplay::ComesBack,
        row => OnReplay::predict(row.map(|row| row.outcome), request.deadline, clock::now_millis()),
    };
    let claim = request.key.as_ref();
    ShownRequest {
        request_id: Uuid::from_u128(request.id.as_u128()),
        business_id: Uuid::from_u128(request.business.as_u128()),
        email: if reveal { request.email.as_str().to_owned() } else { request.email.masked() },
        amount: request.amount.cents(),
        deadline: clock::utc(request.deadline),
        key: claim.filter(|_| reveal).map(|claim| claim.key.as_str().to_owned()),
        epoch: claim.map(|claim| claim.epoch),
        state: decided.map_or("undecided", |row| Outcome::as_str(row.outcome)),
        decided_at: decided.map(|row| row.decided_at),
        on_replay: on_replay.as_str(),
        on_replay_in_words: on_replay.in_words(),
    }
}

/// Why dead letters were not replayed, all or from one on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Postgres(#[from] Error),
    #[error(transparent)]
    Rabbit(#[from] rabbit::Error),
}

/// Puts dead letters back into the work queues that they came from, in the order given, and notes by whom. Answers with those
/// that were put back; one that was dropped, or that does not exist, is left out.
///
/// Published first and noted then: whatever fails between the two, a dead letter is replayed once more and never lost.
pub async fn replay(
    postgres: &Postgres,
    broker: &Broker,
    topology: &Topology,
    dead_letters: &[Uuid],
    who: &str,
) -> Result<Vec<Uuid>, Failure> {
    let link = broker.connect(Role::Command).await?;
    let replayed = replay_over(&link, postgres, topology, dead_letters, who).await;
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
        let Some(dead_letter) = found.filter(|dead_letter| dead_letter.dropped_at.is_none()) else { continue };
        // Workers take from every queue that a deployment ever had.
        let queue = dead_letter.queue.unwrap_or_else(|| topology.work_queue(0));
        confirmed.put(&queue, &Uuid::new_v4().simple().to_string(), &dead_letter.body).await?;
        tracing::info!(dead_letter_id = %id, who, queue, "dead letter replayed");
        session.write(async |connection| dead_letters::mark_replayed(connection, id, who).await).await?;
        replayed.push(id);
    }
    Ok(replayed)
}

/// Marks open dead letters as of no use any more, by whom and when; they stay where they are. Answers with those that were open.
pub async fn drop(postgres: &Postgres, dead_letters: &[Uuid], who: &str) -> Result<Vec<Uuid>, Error> {
    let (mut session, mut dropped) = (postgres.session(), vec![]);
    for &id in dead_letters {
        if session.write(async |connection| dead_letters::mark_dropped(connection, id, who).await).await? {
            tracing::info!(dead_letter_id = %id, who, "dead letter dropped");
            dropped.push(id);
        }
    }
    Ok(dropped)
}
