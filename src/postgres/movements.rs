//! What moved: balances at a time, and the movements of one payout user. Movements are numbered in the order of their
//! commits, and their times are in the same order.

use super::Error;
use super::types::moment;
use crate::ledger::{BusinessId, Email, Kind, Millis, Outcome, Reference, RequestId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// Sees to it that no movement is dated `at` or earlier from now on; false if `at` is not over yet. It waits for whoever has
/// the business's row, and changes it only if the last movement was not later anyway. Twice is the same as once.
pub async fn mark_past(connection: &mut PgConnection, business: BusinessId, at: Millis) -> Result<bool, Error> {
    let is_past = sqlx::query_scalar!(
        r#"/* mark_past */ SELECT mark_past($1, $2) AS "is_past!""#,
        business as BusinessId,
        moment(at)
    );
    Ok(is_past.fetch_one(connection).await?)
}

/// The payout balance of a business at a time that is past ([`mark_past`]), in cents. It is in the last movement up to then,
/// which is found by halves: numbers have no gap, so there is a movement in the middle.
pub async fn read_payout_balance_at(
    connection: &mut PgConnection,
    business: BusinessId,
    at: Millis,
) -> Result<i64, Error> {
    let balance = sqlx::query_scalar!(
        r#"/* read_payout_balance_at */
        WITH RECURSIVE search (low, high) AS (
            SELECT 0::bigint, seq FROM businesses WHERE business_id = $1
            UNION ALL
            SELECT CASE WHEN m.moved_at <= $2 THEN s.middle ELSE s.low END, CASE WHEN m.moved_at <= $2 THEN s.high ELSE s.middle - 1 END
            FROM (SELECT low, high, (low + high + 1) / 2 AS middle FROM search WHERE low < high) AS s
            CROSS JOIN LATERAL (
                SELECT moved_at FROM allocations WHERE business_id = $1 AND seq = s.middle
                UNION ALL SELECT moved_at FROM deposits WHERE business_id = $1 AND seq = s.middle
            ) AS m
        ), last AS (SELECT low AS seq FROM search WHERE low = high)
        SELECT COALESCE(a.payout_balance_after, d.payout_balance_after, 0) AS "balance!"
        FROM last LEFT JOIN allocations a ON a.business_id = $1 AND a.seq = last.seq
        LEFT JOIN deposits d ON d.business_id = $1 AND d.seq = last.seq"#,
        business as BusinessId,
        moment(at)
    );
    Ok(balance.fetch_one(connection).await?)
}

/// The balance of a payout user at a time that is past, in cents: its movements added up. `None` if there was none until
/// then.
pub async fn read_user_balance_at(
    connection: &mut PgConnection,
    business: BusinessId,
    email: &Email,
    at: Millis,
) -> Result<Option<i64>, Error> {
    let balance = sqlx::query_scalar!(
        "/* read_user_balance_at */
        SELECT sum(CASE WHEN outcome IN ('allocated', 'settlement_reversed') THEN amount ELSE -amount END)::bigint
        FROM allocations
        WHERE business_id = $1 AND hashtextextended(email, 0) & 1023 = hashtextextended($2, 0) & 1023
          AND email = $2 AND seq IS NOT NULL AND moved_at <= $3",
        business as BusinessId,
        email as &Email,
        moment(at)
    );
    Ok(balance.fetch_one(connection).await?)
}

/// A movement of a payout user's money.
#[derive(Clone, Debug)]
pub struct UserMovement {
    /// Its number among the movements of the business.
    pub seq: i64,
    /// When it was.
    pub moved_at: OffsetDateTime,
    /// The request.
    pub request: RequestId,
    /// What it asked for.
    pub kind: Kind,
    /// By how much it changed the balance, in cents.
    pub cents: i64,
    /// The balance after it, in cents.
    pub balance: i64,
    /// What a reversal reverses.
    pub target: Option<RequestId>,
    /// The caller's own name for it.
    pub reference: Option<Reference>,
}

/// Which movements of a payout user are wanted.
#[derive(Clone, Debug)]
pub struct StatementFilter {
    /// The payout user.
    pub email: Email,
    /// Only later ones than this number.
    pub after: i64,
    /// Only from then on.
    pub from: Millis,
    /// Only before then.
    pub to: Millis,
}

/// The first `limit` movements that are wanted, in their order. All movements of the user are added up for that.
pub async fn read_statement(
    connection: &mut PgConnection,
    business: BusinessId,
    filter: &StatementFilter,
    limit: i64,
) -> Result<Vec<UserMovement>, Error> {
    Ok(sqlx::query_as!(
        UserMovement,
        r#"/* read_statement */
        SELECT seq AS "seq!", moved_at AS "moved_at!", request_id AS "request: RequestId", kind AS "kind!: Kind",
               cents AS "cents!", balance AS "balance!", target AS "target: RequestId",
               reference AS "reference: Reference"
        FROM (
            SELECT m.*, sum(cents) OVER (ORDER BY seq)::bigint AS balance
            FROM (
                SELECT seq, moved_at, request_id, kind, target, reference,
                       CASE WHEN outcome IN ('allocated', 'settlement_reversed') THEN amount ELSE -amount END AS cents
                FROM allocations
                WHERE business_id = $1 AND hashtextextended(email, 0) & 1023 = hashtextextended($2, 0) & 1023
                  AND email = $2 AND seq IS NOT NULL
            ) AS m
        ) AS s
        WHERE seq > $3 AND moved_at >= $4 AND moved_at < $5 ORDER BY seq LIMIT $6"#,
        business as BusinessId,
        &filter.email as &Email,
        filter.after,
        moment(filter.from),
        moment(filter.to),
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// A movement of a business, as consumers of its events need it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number.
    pub seq: i64,
    /// When it was.
    pub moved_at: OffsetDateTime,
    /// The request, or the deposit.
    pub id: Uuid,
    /// What was decided; `None` for a deposit and a withdrawal.
    pub outcome: Option<Outcome>,
    /// In cents; below zero for a withdrawal.
    pub cents: i64,
    /// The payout balance after it, in cents.
    pub payout_balance_after: i64,
    /// The payout user.
    pub email: Option<Email>,
    /// What a reversal reverses.
    pub target: Option<RequestId>,
    /// What was left of it then, in cents; of a settlement: of the user's balance.
    pub remaining: Option<i64>,
    /// The caller's own name for it.
    pub reference: Option<Reference>,
}

/// The movements of a business after this number, in their order, at most `limit`. None is left out: a number is given and
/// committed while its business's row is held, so whoever sees one sees all before it.
pub async fn read_events(
    connection: &mut PgConnection,
    business: BusinessId,
    after: i64,
    limit: i64,
) -> Result<Vec<Event>, Error> {
    Ok(sqlx::query_as!(
        Event,
        r#"/* read_events */
        SELECT seq AS "seq!", moved_at AS "moved_at!", id AS "id!", outcome AS "outcome: Outcome", cents AS "cents!",
               payout_balance_after AS "payout_balance_after!", email AS "email: Email", target AS "target: RequestId", remaining,
               reference AS "reference: Reference"
        FROM (
            (SELECT seq, moved_at, request_id AS id, outcome, amount AS cents, payout_balance_after, email, target, remaining, reference
             FROM allocations WHERE business_id = $1 AND seq > $2 ORDER BY seq LIMIT $3)
            UNION ALL
            (SELECT seq, moved_at, deposit_id, NULL, amount, payout_balance_after, NULL, NULL, NULL, NULL
             FROM deposits WHERE business_id = $1 AND seq > $2 ORDER BY seq LIMIT $3)
        ) AS m ORDER BY seq LIMIT $3"#,
        business as BusinessId,
        after,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// The number of the last movement of each business.
pub async fn read_last_seqs(
    connection: &mut PgConnection,
    businesses: &[BusinessId],
) -> Result<Vec<(BusinessId, i64)>, Error> {
    let rows = sqlx::query!(
        r#"/* read_last_seqs */ SELECT business_id AS "business: BusinessId", seq FROM businesses WHERE business_id = ANY($1)"#,
        businesses as &[BusinessId]
    );
    Ok(rows.map(|row| (row.business, row.seq)).fetch_all(connection).await?)
}
