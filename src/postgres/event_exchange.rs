//! The events of a shard for consumers on the broker: which relay publishes them, and how far.
//!
//! A cursor moves only over events that the broker has confirmed, one after the other, and never back. So two relays that
//! publish at the same time do no harm: an event comes twice. The lease only saves them that work.

use super::Error;
use crate::ledger::BusinessId;
use sqlx::PgConnection;
use std::time::Duration;

/// A business with events that are not published.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    /// The business.
    pub business: BusinessId,
    /// The number of the last event that is published.
    pub cursor: i64,
    /// The number of the last event that may be published. Later ones may be missing on a synchronous standby.
    pub last: i64,
}

/// Takes or prolongs the lease of this shard, and finds businesses with events that are not published: those first that
/// have waited longest, at most `limit`. `claim`: the number of the lease that the caller had last. Returns the number of
/// the lease with them; `None` if another has it.
///
/// The commit of this statement comes after every event that it has seen. So these events are on the synchronous standby.
pub async fn lock_lease(
    connection: &mut PgConnection,
    claim: Option<i64>,
    lease: Duration,
    limit: i64,
) -> Result<Option<(i64, Vec<Behind>)>, Error> {
    let rows = sqlx::query!(
        r#"/* lock_event_exchange */
        WITH held AS (
            UPDATE event_exchange
            SET claim = CASE WHEN claim = $1 THEN claim ELSE claim + 1 END, free_at = now() + make_interval(secs => $2)
            WHERE claim = $1 OR free_at <= now() RETURNING claim
        ), behind AS (
            SELECT b.business_id, COALESCE(c.cursor, 0) AS cursor, b.seq
            FROM businesses b LEFT JOIN event_exchange_cursors c USING (business_id)
            WHERE b.seq > COALESCE(c.cursor, 0) ORDER BY c.moved_at NULLS FIRST LIMIT $3
        )
        SELECT h.claim, b.business_id AS "business?: BusinessId", b.cursor AS "cursor?", b.seq AS "last?"
        FROM held h LEFT JOIN behind b ON true"#,
        claim,
        lease.as_secs_f64(),
        limit
    )
    .fetch_all(connection)
    .await?;
    let Some(claim) = rows.first().map(|row| row.claim) else { return Ok(None) };
    let behind = |business, cursor, last| Some(Behind { business: business?, cursor: cursor?, last: last? });
    Ok(Some((claim, rows.into_iter().filter_map(|row| behind(row.business, row.cursor, row.last)).collect())))
}

/// Gives the lease back: another relay may take it at once. Does nothing if another has it.
pub async fn mark_free(connection: &mut PgConnection, claim: i64) -> Result<(), Error> {
    sqlx::query!("/* mark_free_event_exchange */ UPDATE event_exchange SET free_at = now() WHERE claim = $1", claim)
        .execute(connection)
        .await?;
    Ok(())
}

/// Moves the cursors of these businesses up to these events. Twice is the same as once.
pub async fn write_published(connection: &mut PgConnection, published: &[(BusinessId, i64)]) -> Result<(), Error> {
    sqlx::query!(
        "/* write_published */
         INSERT INTO event_exchange_cursors (business_id, cursor)
         SELECT business_id, cursor FROM unnest($1::uuid[], $2::bigint[]) AS p (business_id, cursor)
         ON CONFLICT (business_id) DO UPDATE
         SET cursor = GREATEST(event_exchange_cursors.cursor, excluded.cursor), moved_at = excluded.moved_at",
        &published.iter().map(|(business, _)| *business).collect::<Vec<_>>() as &[BusinessId],
        &published.iter().map(|(_, cursor)| *cursor).collect::<Vec<_>>()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How old the oldest event is that is not published, in milliseconds; 0 if there is none.
pub async fn read_oldest_millis(connection: &mut PgConnection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(
        r#"/* read_oldest_unpublished */
        SELECT COALESCE(max((extract(epoch FROM now() - COALESCE(a.moved_at, d.moved_at)) * 1000)::bigint), 0) AS "millis!"
        FROM businesses b LEFT JOIN event_exchange_cursors c USING (business_id)
        LEFT JOIN allocations a ON a.business_id = b.business_id AND a.seq = COALESCE(c.cursor, 0) + 1
        LEFT JOIN deposits d ON d.business_id = b.business_id AND d.seq = COALESCE(c.cursor, 0) + 1
        WHERE b.seq > COALESCE(c.cursor, 0)"#
    )
    .fetch_one(connection)
    .await?)
}
