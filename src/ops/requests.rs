//! Looks up one request by its id: when it was minted, what was decided, and which dead letters contain it.

use super::dead_letters;
use crate::clock;
use crate::ledger::{Email, Kind, RequestId};
use crate::postgres::allocations::{self, Found};
use crate::postgres::{Error, PgConnection, Postgres, Shards, keys};
use crate::secret;
use crate::wire::operator::{DeadLetter, RequestTimeline};
use std::time::Duration;
use uuid::Uuid;

/// Looks up a request in the shard that its id names. An unknown id is no error: its state is `undecided`.
///
/// `reply_timeout`: the intakes' EARMARK_REPLY_TIMEOUT. The deadline is computed with it if no dead letter has the
/// request. `reveal`: show the whole address and the key.
pub async fn timeline(
    shards: &Shards,
    request: RequestId,
    reply_timeout: Duration,
    reveal: bool,
) -> Result<RequestTimeline, Error> {
    let dead_letters = dead_letters::holding(shards, request, reveal).await?;
    let mut timeline = from_dead_letters(request, dead_letters, reply_timeout);
    let Ok(postgres) = shards.get(request.shard()) else { return Ok(timeline) };
    let finding = async |connection: &mut PgConnection| allocations::find_anywhere(connection, request).await;
    if let Some(found) = postgres.read(finding).await? {
        if found.decided.outcome.moves() {
            note_key(&mut timeline, find_key(&postgres, &found, request).await, reveal);
        }
        note_row(&mut timeline, found, reveal);
    }
    Ok(timeline)
}

/// Finds the idempotency key and epoch of a request that succeeded. No index serves this search, because an index would
/// slow down every request. If the search fails or takes too long, the key is left out.
async fn find_key(postgres: &Postgres, found: &Found, request: RequestId) -> Option<(String, i64)> {
    let reading = postgres.read(async |connection| keys::find_of_request(connection, found.business, request).await);
    reading.await.unwrap_or_else(|error| {
        tracing::warn!(%error, "idempotency key of the request not found: postgres failed");
        None
    })
}

/// The timeline as far as the id (time of minting) and the dead letters tell it.
fn from_dead_letters(request: RequestId, dead_letters: Vec<DeadLetter>, reply_timeout: Duration) -> RequestTimeline {
    let request_id = Uuid::from_u128(request.as_u128());
    let minted = secret::minted_at(request);
    let wait = i64::try_from(reply_timeout.as_millis()).unwrap_or(i64::MAX);
    let held = dead_letters
        .iter()
        .flat_map(|dead_letter| &dead_letter.requests)
        .find(|one| one.request_id == request_id)
        .cloned();
    RequestTimeline {
        request_id,
        business_id: held.as_ref().map(|one| one.business_id),
        business_name: None,
        kind: held.as_ref().map(|one| one.kind),
        email: held.as_ref().and_then(|one| one.email.clone()),
        amount: held.as_ref().and_then(|one| one.amount),
        target: held.as_ref().and_then(|one| one.target),
        seq: None,
        payout_balance_after: None,
        minted_at: clock::utc(minted),
        deadline: held.as_ref().map_or_else(|| clock::utc(minted.saturating_add(wait)), |one| one.deadline),
        state: "undecided",
        decided_at: None,
        key: held.as_ref().and_then(|one| one.key.clone()),
        epoch: held.and_then(|one| one.epoch),
        dead_letters,
    }
}

/// Adds the request's row. What it says replaces what a dead letter says.
fn note_row(timeline: &mut RequestTimeline, found: Found, reveal: bool) {
    let shown = |email: Email| if reveal { email.as_str().to_owned() } else { email.masked() };
    timeline.business_id = Some(Uuid::from_u128(found.business.as_u128()));
    timeline.business_name = Some(found.business_name);
    timeline.email = found.decided.email.map(shown).or(timeline.email.take());
    timeline.amount = found.decided.cents.or(timeline.amount);
    timeline.kind = found.decided.kind.map(Kind::as_str).or(timeline.kind);
    timeline.target = found.decided.target.map(|target| Uuid::from_u128(target.as_u128())).or(timeline.target);
    timeline.seq = found.decided.seq;
    timeline.payout_balance_after = found.decided.payout_balance_after;
    timeline.state = found.decided.outcome.as_str();
    timeline.decided_at = Some(found.decided.decided_at);
}

fn note_key(timeline: &mut RequestTimeline, key: Option<(String, i64)>, reveal: bool) {
    if let Some((key, epoch)) = key {
        timeline.key = reveal.then_some(key);
        timeline.epoch = Some(epoch);
    }
}
