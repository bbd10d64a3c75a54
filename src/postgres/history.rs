//! The decided requests of a business, newest first, a page at a time.
//!
//! A request's id begins with the time at which it was minted. So ids are in the order of time, and a page is a range of
//! the primary key. Each statement uses one index, and checks all other conditions row by row, at most [`SCAN`] rows. After
//! that many the page ends, even if it is not full, and says where the next one begins.

use super::Error;
use super::allocations::Decided;
use crate::ledger::{BusinessId, Email, Kind, Outcome, Reference, RequestId, UserHash};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// The largest number of rows that are checked for one page. They take about 20 ms when they are in memory.
pub const SCAN: i64 = 10_000;

/// Which requests are wanted: those that meet all conditions that are given.
#[derive(Clone, Debug)]
pub struct HistoryFilter {
    /// Only requests with this outcome.
    pub outcome: Option<Outcome>,
    /// Only requests for this payout user.
    pub email: Option<Email>,
    /// Only requests with this reference.
    pub reference: Option<Reference>,
    /// Only ids from this one on.
    pub first: RequestId,
    /// Only ids below this one.
    pub end: RequestId,
}

/// A page of decided requests.
#[derive(Debug)]
pub struct Page {
    /// The requests, the newest first.
    pub requests: Vec<(RequestId, Decided)>,
    /// The [`HistoryFilter::end`] of the next page; `None` if nothing is left.
    pub next: Option<RequestId>,
}

/// A row, as each of the statements returns it.
struct Row {
    id: RequestId,
    kind: Option<Kind>,
    outcome: Outcome,
    email: Option<Email>,
    cents: Option<i64>,
    target: Option<RequestId>,
    reference: Option<Reference>,
    remaining: Option<i64>,
    seq: Option<i64>,
    payout_balance_after: Option<i64>,
    decided_at: OffsetDateTime,
    hash: Option<UserHash>,
    /// Whether it is wanted. A row that is not wanted is returned only if the scan ends with it.
    matches: bool,
    /// How many rows were checked, including this one.
    seen: i64,
}

/// Reads the newest `limit` requests that are wanted, or fewer.
pub async fn read_page(
    connection: &mut PgConnection,
    business: BusinessId,
    filter: &HistoryFilter,
    limit: usize,
) -> Result<Page, Error> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let refused = filter.outcome.filter(|&outcome| outcome != Outcome::Allocated);
    let rows = match (&filter.reference, &filter.email, refused) {
        (Some(reference), _, _) => find_by_reference(connection, business, filter, reference, most).await?,
        (None, Some(email), _) => find_by_email(connection, business, filter, email, most).await?,
        (None, None, Some(refused)) => find_refused(connection, business, filter, refused, most).await?,
        (None, None, None) => find_by_time(connection, business, filter, most).await?,
    };
    Ok(to_page(rows, limit))
}

fn to_page(rows: Vec<Row>, limit: usize) -> Page {
    let end_of_scan = rows.last().filter(|row| row.seen == SCAN).map(|row| row.id);
    let wanted = rows.iter().filter(|row| row.matches).count();
    let requests: Vec<_> = rows.into_iter().filter(|row| row.matches).take(limit).map(to_decided).collect();
    let next = if wanted > limit { requests.last().map(|(id, _)| *id) } else { end_of_scan };
    Page { requests, next }
}

fn to_decided(row: Row) -> (RequestId, Decided) {
    let decided = Decided {
        kind: row.kind,
        outcome: row.outcome,
        email: row.email,
        cents: row.cents,
        target: row.target,
        hash: row.hash,
        reference: row.reference,
        remaining: row.remaining,
        seq: row.seq,
        payout_balance_after: row.payout_balance_after,
        decided_at: row.decided_at,
    };
    (row.id, decided)
}

/// Uses the primary key.
async fn find_by_time(
    connection: &mut PgConnection,
    business: BusinessId,
    filter: &HistoryFilter,
    most: i64,
) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"/* find_requests_by_time */
        SELECT s.request_id AS "id: RequestId", s.kind AS "kind: Kind", s.outcome AS "outcome: Outcome", s.email AS "email: Email",
               s.amount AS cents, s.target AS "target: RequestId", s.reference AS "reference: Reference", s.remaining, s.seq,
               s.payout_balance_after, s.decided_at, u.hash AS "hash?: UserHash",
               s.matches AS "matches!", s.seen AS "seen!"
        FROM (
            SELECT a.*, $1::text IS NULL OR a.outcome = $1 AS matches,
                   row_number() OVER (ORDER BY a.request_id DESC) AS seen
            FROM allocations a
            WHERE a.business_id = $2 AND a.request_id >= $3 AND a.request_id < $4
            ORDER BY a.request_id DESC LIMIT $5
        ) s LEFT JOIN payout_users u ON u.business_id = $2 AND u.email = s.email AND s.outcome = 'allocated'
        WHERE s.matches OR s.seen = $5
        ORDER BY s.request_id DESC LIMIT $6"#,
        filter.outcome as Option<Outcome>,
        business as BusinessId,
        filter.first as RequestId,
        filter.end as RequestId,
        SCAN,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Uses the index of requests that were not allocated.
async fn find_refused(
    connection: &mut PgConnection,
    business: BusinessId,
    filter: &HistoryFilter,
    refused: Outcome,
    most: i64,
) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"/* find_refused_requests */
        SELECT a.request_id AS "id: RequestId", a.kind AS "kind: Kind", a.outcome AS "outcome: Outcome", a.email AS "email: Email",
               a.amount AS cents, a.target AS "target: RequestId", a.reference AS "reference: Reference", a.remaining, a.seq,
               a.payout_balance_after, a.decided_at, NULL::bytea AS "hash: UserHash",
               true AS "matches!", 0::bigint AS "seen!"
        FROM allocations a
        WHERE a.business_id = $1 AND a.request_id >= $2 AND a.request_id < $3
          AND a.outcome = $4 AND a.outcome <> 'allocated'
        ORDER BY a.request_id DESC LIMIT $5"#,
        business as BusinessId,
        filter.first as RequestId,
        filter.end as RequestId,
        refused as Outcome,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Uses the index of addresses. It reads the hash bucket of this address, which other addresses share.
async fn find_by_email(
    connection: &mut PgConnection,
    business: BusinessId,
    filter: &HistoryFilter,
    email: &Email,
    most: i64,
) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"/* find_requests_by_email */
        SELECT s.request_id AS "id: RequestId", s.kind AS "kind: Kind", s.outcome AS "outcome: Outcome", s.email AS "email: Email",
               s.amount AS cents, s.target AS "target: RequestId", s.reference AS "reference: Reference", s.remaining, s.seq,
               s.payout_balance_after, s.decided_at, u.hash AS "hash?: UserHash",
               s.matches AS "matches!", s.seen AS "seen!"
        FROM (
            SELECT a.*, a.email = $1 AND ($2::text IS NULL OR a.outcome = $2) AS matches,
                   row_number() OVER (ORDER BY a.request_id DESC) AS seen
            FROM allocations a
            WHERE a.business_id = $3 AND hashtextextended(a.email, 0) & 1023 = hashtextextended($1, 0) & 1023
              AND a.request_id >= $4 AND a.request_id < $5
            ORDER BY a.request_id DESC LIMIT $6
        ) s LEFT JOIN payout_users u ON u.business_id = $3 AND u.email = s.email AND s.outcome = 'allocated'
        WHERE s.matches OR s.seen = $6
        ORDER BY s.request_id DESC LIMIT $7"#,
        email as &Email,
        filter.outcome as Option<Outcome>,
        business as BusinessId,
        filter.first as RequestId,
        filter.end as RequestId,
        SCAN,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Uses the index of references.
async fn find_by_reference(
    connection: &mut PgConnection,
    business: BusinessId,
    filter: &HistoryFilter,
    reference: &Reference,
    most: i64,
) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"/* find_requests_by_reference */
        SELECT s.request_id AS "id: RequestId", s.kind AS "kind: Kind", s.outcome AS "outcome: Outcome", s.email AS "email: Email",
               s.amount AS cents, s.target AS "target: RequestId", s.reference AS "reference: Reference", s.remaining, s.seq,
               s.payout_balance_after, s.decided_at, u.hash AS "hash?: UserHash",
               s.matches AS "matches!", s.seen AS "seen!"
        FROM (
            SELECT a.*, ($1::text IS NULL OR a.outcome = $1) AND ($2::text IS NULL OR a.email IS NOT DISTINCT FROM $2)
                        AS matches,
                   row_number() OVER (ORDER BY a.request_id DESC) AS seen
            FROM allocations a
            WHERE a.business_id = $3 AND a.reference = $4 AND a.request_id >= $5 AND a.request_id < $6
            ORDER BY a.request_id DESC LIMIT $7
        ) s LEFT JOIN payout_users u ON u.business_id = $3 AND u.email = s.email AND s.outcome = 'allocated'
        WHERE s.matches OR s.seen = $7
        ORDER BY s.request_id DESC LIMIT $8"#,
        filter.outcome as Option<Outcome>,
        filter.email.as_ref() as Option<&Email>,
        business as BusinessId,
        reference as &Reference,
        filter.first as RequestId,
        filter.end as RequestId,
        SCAN,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
