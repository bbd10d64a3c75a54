//! Dead letters as rows: written once, marked when somebody replays or drops them, never deleted.

use super::Error;
use crate::ledger::{Cause, RequestId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// A letter that has just been taken from its queue.
#[derive(Clone, Debug)]
pub struct NewLetter {
    pub letter_id: Uuid,
    pub body: Vec<u8>,
    /// Those that can be read.
    pub requests: Vec<RequestId>,
    /// The work queue it came from, if anybody said.
    pub queue: Option<String>,
    pub cause: Cause,
    pub reason: String,
    /// How often it died, by the broker's account.
    pub deaths: u64,
    /// When first.
    pub died_at: Option<OffsetDateTime>,
}

/// A stored letter. Open until it is replayed or dropped.
#[derive(Clone, Debug)]
pub struct Letter {
    pub letter_id: Uuid,
    pub body: Vec<u8>,
    pub queue: Option<String>,
    /// One of [`Cause`]'s names.
    pub cause: String,
    pub reason: String,
    pub deaths: i64,
    pub died_at: Option<OffsetDateTime>,
    pub arrived_at: OffsetDateTime,
    pub replays: i32,
    pub replayed_at: Option<OffsetDateTime>,
    pub replayed_by: Option<String>,
    pub dropped_at: Option<OffsetDateTime>,
    pub dropped_by: Option<String>,
}

/// Which open letters.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub cause: Option<Cause>,
    /// Only those with this text in their reason, whatever its case, or with a request of this id.
    pub text: Option<String>,
    /// Only those that arrived at this time or earlier.
    pub until: Option<OffsetDateTime>,
    /// Only those after this letter in the order of the list: the last one of the page before.
    pub after: Option<Uuid>,
}

/// Stores a letter; false if it was stored before.
pub async fn write_new(connection: &mut PgConnection, letter: &NewLetter) -> Result<bool, Error> {
    let requests: Vec<Uuid> = letter.requests.iter().map(|id| Uuid::from_u128(id.as_u128())).collect();
    let done = sqlx::query!(
        "/* write_dead_letter */
         INSERT INTO dead_letters (letter_id, body, requests, queue, cause, reason, deaths, died_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        letter.letter_id,
        letter.body,
        &requests,
        letter.queue,
        letter.cause.as_str(),
        letter.reason,
        i64::try_from(letter.deaths).unwrap_or(i64::MAX),
        letter.died_at
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A page of open letters, the newest first.
pub async fn find_open(connection: &mut PgConnection, filter: &Filter, limit: u32) -> Result<Vec<Letter>, Error> {
    Ok(sqlx::query_as!(
        Letter,
        "/* find_open_letters */
         SELECT letter_id, body, queue, cause, reason, deaths, died_at, arrived_at, replays, replayed_at, replayed_by, dropped_at, dropped_by
         FROM dead_letters
         WHERE replayed_at IS NULL AND dropped_at IS NULL
           AND ($1::text IS NULL OR cause = $1)
           AND ($2::text IS NULL OR position(lower($2) IN lower(reason)) > 0 OR lower($2) = ANY (requests::text[]))
           AND ($3::timestamptz IS NULL OR arrived_at <= $3)
           AND ($4::uuid IS NULL OR (arrived_at, letter_id) < (SELECT l.arrived_at, l.letter_id FROM dead_letters l WHERE l.letter_id = $4))
         ORDER BY arrived_at DESC, letter_id DESC LIMIT $5",
        filter.cause.map(Cause::as_str),
        filter.text,
        filter.until,
        filter.after,
        i64::from(limit)
    )
    .fetch_all(connection)
    .await?)
}

/// The open letters of a cause, or all: the oldest first, as they should be replayed.
pub async fn find_open_ids(connection: &mut PgConnection, cause: Option<Cause>) -> Result<Vec<Uuid>, Error> {
    Ok(sqlx::query_scalar!(
        "/* find_open_letter_ids */
         SELECT letter_id FROM dead_letters
         WHERE replayed_at IS NULL AND dropped_at IS NULL AND ($1::text IS NULL OR cause = $1)
         ORDER BY arrived_at, letter_id",
        cause.map(Cause::as_str)
    )
    .fetch_all(connection)
    .await?)
}

/// One letter, open or not.
pub async fn find_one(connection: &mut PgConnection, letter: Uuid) -> Result<Option<Letter>, Error> {
    Ok(sqlx::query_as!(
        Letter,
        "/* find_letter */
         SELECT letter_id, body, queue, cause, reason, deaths, died_at, arrived_at, replays, replayed_at, replayed_by, dropped_at, dropped_by
         FROM dead_letters WHERE letter_id = $1",
        letter
    )
    .fetch_optional(connection)
    .await?)
}

/// Every letter, open or not, that holds a request: the oldest first.
pub async fn find_holding(connection: &mut PgConnection, request: RequestId) -> Result<Vec<Letter>, Error> {
    Ok(sqlx::query_as!(
        Letter,
        "/* find_letters_holding */
         SELECT letter_id, body, queue, cause, reason, deaths, died_at, arrived_at, replays, replayed_at, replayed_by, dropped_at, dropped_by
         FROM dead_letters WHERE requests @> ARRAY[$1::uuid] ORDER BY arrived_at, letter_id",
        Uuid::from_u128(request.as_u128())
    )
    .fetch_all(connection)
    .await?)
}

/// How many open letters each cause has; a cause without any is left out.
pub async fn count_open(connection: &mut PgConnection) -> Result<Vec<(Cause, i64)>, Error> {
    let rows = sqlx::query!(
        r#"/* count_open_letters */
        SELECT cause, count(*) AS "count!" FROM dead_letters
        WHERE replayed_at IS NULL AND dropped_at IS NULL GROUP BY cause ORDER BY cause"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (Cause::parse(&row.cause).unwrap_or(Cause::Other), row.count)).collect())
}

/// Notes that a letter is back in a work queue; false if it was dropped meanwhile.
pub async fn mark_replayed(connection: &mut PgConnection, letter: Uuid, who: &str) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* mark_letter_replayed */
         UPDATE dead_letters SET replays = replays + 1, replayed_at = now(), replayed_by = $2
         WHERE letter_id = $1 AND dropped_at IS NULL",
        letter,
        who
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that a letter is of no use any more; false if there is no open letter of this id.
pub async fn mark_dropped(connection: &mut PgConnection, letter: Uuid, who: &str) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* mark_letter_dropped */
         UPDATE dead_letters SET dropped_at = now(), dropped_by = $2
         WHERE letter_id = $1 AND replayed_at IS NULL AND dropped_at IS NULL",
        letter,
        who
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
