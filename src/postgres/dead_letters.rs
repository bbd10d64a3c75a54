//! Dead letters as rows. A row is marked when somebody replays or drops its dead letter, and never deleted.

use super::Error;
use crate::ledger::{Cause, RequestId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// A dead letter that has just been taken from its queue.
#[derive(Clone, Debug)]
pub struct NewDeadLetter {
    /// The dead letter.
    pub dead_letter_id: Uuid,
    /// The message as it was.
    pub body: Vec<u8>,
    /// The ids of those of its requests that can be read.
    pub requests: Vec<RequestId>,
    /// The name of the key that signed it; empty if it is not signed. `None` if nobody knows.
    pub key_id: Option<String>,
    /// The work queue it came from, if anybody said.
    pub queue: Option<String>,
    /// Why it is a dead letter.
    pub cause: Cause,
    /// Why, in words, without an address or a key.
    pub reason: String,
    /// How often it became a dead letter, as the broker says.
    pub deaths: u64,
    /// When it first became a dead letter, as the broker says.
    pub died_at: Option<OffsetDateTime>,
}

/// A stored dead letter. Open until it is replayed or dropped.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The dead letter.
    pub dead_letter_id: Uuid,
    /// The message as it was.
    pub body: Vec<u8>,
    /// The work queue it came from, if anybody said.
    pub queue: Option<String>,
    /// One of [`Cause`]'s names.
    pub cause: String,
    /// Why, in words, without an address or a key.
    pub reason: String,
    /// How often it became a dead letter, as the broker says.
    pub deaths: i64,
    /// When it first became a dead letter, as the broker says.
    pub died_at: Option<OffsetDateTime>,
    /// When its row was written.
    pub arrived_at: OffsetDateTime,
    /// How often it was put back into a work queue.
    pub replays: i32,
    /// When it was replayed last.
    pub replayed_at: Option<OffsetDateTime>,
    /// Who replayed it last.
    pub replayed_by: Option<String>,
    /// When it was dropped.
    pub dropped_at: Option<OffsetDateTime>,
    /// Who dropped it.
    pub dropped_by: Option<String>,
}

/// Which open dead letters are wanted.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter {
    /// Only those of this cause.
    pub cause: Option<Cause>,
    /// Only those with this text in their reason, whatever its case, or with a request of this id.
    pub text: Option<String>,
    /// Only those that arrived at this time or earlier.
    pub until: Option<OffsetDateTime>,
    /// Only those that follow this one, which is the last of the page before.
    pub after: Option<Uuid>,
}

/// Stores a dead letter; false if it was stored before.
pub async fn write_new(connection: &mut PgConnection, dead_letter: &NewDeadLetter) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* write_dead_letter */
         INSERT INTO dead_letters (dead_letter_id, body, requests, queue, cause, reason, deaths, died_at, key_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
        dead_letter.dead_letter_id,
        dead_letter.body,
        &dead_letter.requests as &[RequestId],
        dead_letter.queue,
        dead_letter.cause as Cause,
        dead_letter.reason,
        i64::try_from(dead_letter.deaths).unwrap_or(i64::MAX),
        dead_letter.died_at,
        dead_letter.key_id
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A page of open dead letters, the newest first.
pub async fn find_open(
    connection: &mut PgConnection,
    filter: &DeadLetterFilter,
    limit: u32,
) -> Result<Vec<DeadLetter>, Error> {
    Ok(sqlx::query_as!(
        DeadLetter,
        "/* find_open_dead_letters */
         SELECT dead_letter_id, body, queue, cause, reason, deaths, died_at, arrived_at, replays, replayed_at, replayed_by, dropped_at, dropped_by
         FROM dead_letters
         WHERE replayed_at IS NULL AND dropped_at IS NULL
           AND ($1::text IS NULL OR cause = $1)
           AND ($2::text IS NULL OR position(lower($2) IN lower(reason)) > 0 OR lower($2) = ANY (requests::text[]))
           AND ($3::timestamptz IS NULL OR arrived_at <= $3)
           AND ($4::uuid IS NULL OR (arrived_at, dead_letter_id) < (SELECT l.arrived_at, l.dead_letter_id FROM dead_letters l WHERE l.dead_letter_id = $4))
         ORDER BY arrived_at DESC, dead_letter_id DESC LIMIT $5",
        filter.cause as Option<Cause>,
        filter.text,
        filter.until,
        filter.after,
        i64::from(limit)
    )
    .fetch_all(connection)
    .await?)
}

/// The open dead letters of a cause, or of all causes, the oldest first: they are replayed in this order.
pub async fn find_open_ids(connection: &mut PgConnection, cause: Option<Cause>) -> Result<Vec<Uuid>, Error> {
    Ok(sqlx::query_scalar!(
        "/* find_open_dead_letter_ids */
         SELECT dead_letter_id FROM dead_letters
         WHERE replayed_at IS NULL AND dropped_at IS NULL AND ($1::text IS NULL OR cause = $1)
         ORDER BY arrived_at, dead_letter_id",
        cause as Option<Cause>
    )
    .fetch_all(connection)
    .await?)
}

/// One dead letter, open or not.
pub async fn find_one(connection: &mut PgConnection, dead_letter: Uuid) -> Result<Option<DeadLetter>, Error> {
    Ok(sqlx::query_as!(
        DeadLetter,
        "/* find_dead_letter */
         SELECT dead_letter_id, body, queue, cause, reason, deaths, died_at, arrived_at, replays, replayed_at, replayed_by, dropped_at, dropped_by
         FROM dead_letters WHERE dead_letter_id = $1",
        dead_letter
    )
    .fetch_optional(connection)
    .await?)
}

/// Every dead letter, open or not, that has a request of this id, the oldest first.
pub async fn find_holding(connection: &mut PgConnection, request: RequestId) -> Result<Vec<DeadLetter>, Error> {
    Ok(sqlx::query_as!(
        DeadLetter,
        "/* find_dead_letters_holding */
         SELECT dead_letter_id, body, queue, cause, reason, deaths, died_at, arrived_at, replays, replayed_at, replayed_by, dropped_at, dropped_by
         FROM dead_letters WHERE requests @> ARRAY[$1::uuid] ORDER BY arrived_at, dead_letter_id",
        request as RequestId
    )
    .fetch_all(connection)
    .await?)
}

/// How many open dead letters each cause has; a cause without any is left out.
pub async fn count_open(connection: &mut PgConnection) -> Result<Vec<(Cause, i64)>, Error> {
    let rows = sqlx::query!(
        r#"/* count_open_dead_letters */
        SELECT cause AS "cause: Cause", count(*) AS "count!" FROM dead_letters
        WHERE replayed_at IS NULL AND dropped_at IS NULL GROUP BY cause ORDER BY cause"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.cause, row.count)).collect())
}

/// The names of the keys that open dead letters were signed with; empty for those that are not signed.
pub async fn find_open_key_ids(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar!(
        r#"/* find_open_dead_letter_key_ids */
        SELECT DISTINCT key_id AS "key_id!" FROM dead_letters
        WHERE replayed_at IS NULL AND dropped_at IS NULL AND key_id IS NOT NULL ORDER BY 1"#
    )
    .fetch_all(connection)
    .await?)
}

/// Notes that a dead letter is back in a work queue; false if it was dropped meanwhile. Doing it twice counts as two
/// replays. If this is lost, the dead letter stays open, and another replay of it does no harm.
pub async fn mark_replayed(connection: &mut PgConnection, dead_letter: Uuid, who: &str) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* mark_dead_letter_replayed */
         UPDATE dead_letters SET replays = replays + 1, replayed_at = now(), replayed_by = $1
         WHERE dead_letter_id = $2 AND dropped_at IS NULL",
        who,
        dead_letter
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that a dead letter is dropped; false if there is no open dead letter with this id.
pub async fn mark_dropped(connection: &mut PgConnection, dead_letter: Uuid, who: &str) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* mark_dead_letter_dropped */
         UPDATE dead_letters SET dropped_at = now(), dropped_by = $1
         WHERE dead_letter_id = $2 AND replayed_at IS NULL AND dropped_at IS NULL",
        who,
        dead_letter
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
