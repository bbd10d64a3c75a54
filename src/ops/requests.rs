//! One request, from its minting to its end, as far as anybody knows: for people who were given its id.

use super::dead_letters::{self, Shown};
use crate::clock;
use crate::ledger::{Email, Outcome, RequestId};
use crate::postgres::allocations::{self, Found};
use crate::postgres::{Error, PgConnection, Postgres, keys};
use crate::secret;
use serde::Serialize;
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// What is known of a request. Amount in cents; what is not known is left out.
#[derive(Clone, Debug, Serialize)]
pub struct Timeline {
    pub request_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_name: Option<String>,
    /// Masked, unless addresses are revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// Its id says so.
    #[serde(with = "time::serde::rfc3339")]
    pub minted_at: OffsetDateTime,
    /// As a dead letter that holds it says, or else as the intake's setting has it.
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// One of the outcomes, or `undecided`: then it was never published, waits in a queue, or was never issued at all.
    pub state: &'static str,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<OffsetDateTime>,
    /// The idempotency key that it was allocated under, only where addresses are revealed, and the key's epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Every dead letter that holds it.
    pub dead_letters: Vec<Shown>,
}

/// Looks up a request without knowing its business. `reply_timeout`: the intake's setting, for the deadline.
pub async fn timeline(
    postgres: &Postgres,
    request: RequestId,
    reply_timeout: Duration,
    reveal: bool,
) -> Result<Timeline, Error> {
    let reading = async |connection: &mut PgConnection| {
        let found = allocations::find_anywhere(connection, request).await?;
        Ok((found, dead_letters::holding(connection, request, reveal).await?))
    };
    let (found, dead_letters) = postgres.read(reading).await?;
    let mut timeline = from_dead_letters(request, dead_letters, reply_timeout);
    if let Some(found) = found {
        if found.decided.outcome == Outcome::Allocated {
            timeline.note_key(find_key(postgres, &found, request).await, reveal);
        }
        timeline.note_row(found, reveal);
    }
    Ok(timeline)
}

/// No index leads from a request to its key, as that would cost every request. What takes too long is left out.
async fn find_key(postgres: &Postgres, found: &Found, request: RequestId) -> Option<(String, i64)> {
    let reading = postgres.read(async |connection| keys::find_of_request(connection, found.business, request).await);
    reading.await.unwrap_or_else(|error| {
        tracing::warn!(%error, "not known whether it has a key");
        None
    })
}

/// What its id and the dead letters say.
fn from_dead_letters(request: RequestId, dead_letters: Vec<Shown>, reply_timeout: Duration) -> Timeline {
    let request_id = Uuid::from_u128(request.as_u128());
    let minted = secret::minted_at(request);
    let wait = i64::try_from(reply_timeout.as_millis()).unwrap_or(i64::MAX);
    let held = dead_letters
        .iter()
        .flat_map(|dead_letter| &dead_letter.requests)
        .find(|one| one.request_id == request_id)
        .cloned();
    Timeline {
        request_id,
        business_id: held.as_ref().map(|one| one.business_id),
        business_name: None,
        email: held.as_ref().map(|one| one.email.clone()),
        amount: held.as_ref().map(|one| one.amount),
        minted_at: clock::utc(minted),
        deadline: held.as_ref().map_or_else(|| clock::utc(minted.saturating_add(wait)), |one| one.deadline),
        state: "undecided",
        decided_at: None,
        key: held.as_ref().and_then(|one| one.key.clone()),
        epoch: held.and_then(|one| one.epoch),
        dead_letters,
    }
}

impl Timeline {
    /// The row knows better than any dead letter.
    fn note_row(&mut self, found: Found, reveal: bool) {
        let shown = |email: Email| if reveal { email.as_str().to_owned() } else { email.masked() };
        self.business_id = Some(Uuid::from_u128(found.business.as_u128()));
        self.business_name = Some(found.business_name);
        self.email = found.decided.email.map(shown).or(self.email.take());
        self.amount = found.decided.cents.or(self.amount);
        self.state = found.decided.outcome.as_str();
        self.decided_at = Some(found.decided.decided_at);
    }

    fn note_key(&mut self, key: Option<(String, i64)>, reveal: bool) {
        if let Some((key, epoch)) = key {
            self.key = reveal.then_some(key);
            self.epoch = Some(epoch);
        }
    }
}
