//! What the whole ledger says: the audit.

use super::{Error, Postgres, connect};
use serde::Serialize;
use sqlx::{Connection, Executor};
use uuid::Uuid;

/// The books, added up in one snapshot. Money in cents; sums may be larger than 64 bits hold.
#[derive(Clone, Debug, Serialize)]
pub struct Audit {
    pub businesses: i64,
    pub payout_users: i64,
    pub allocations: i64,
    pub deposited: String,
    pub allocated: String,
    pub payout_balances: String,
    pub user_balances: String,
    /// Everything that does not add up.
    pub differences: Vec<Difference>,
}

/// One balance, or one row, that is not what the rows say.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub kind: String,
    pub business_id: Uuid,
    /// The payout user's hash, or the key's request: never an address.
    pub subject: Option<String>,
    pub expected: Option<String>,
    pub found: Option<String>,
}

/// Adds up everything in one snapshot:
/// each payout balance is its deposits less its allocations, each user's balance is the sum of its allocations, each key
/// names an allocation of its own email and amount, and nothing is negative.
pub async fn audit(postgres: &Postgres) -> Result<Audit, Error> {
    let mut connection = connect(&postgres.options, postgres.timeout).await?;
    connection
        .execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; RESET enable_seqscan")
        .await?;
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let differences = sqlx::query_as!(
        Difference,
        r#"/* audit_differences */
        WITH allocated AS (
            SELECT business_id, email, sum(amount) AS amount FROM allocations WHERE outcome = 'allocated' GROUP BY business_id, email
        ), debited AS (
            SELECT business_id, sum(amount) AS amount FROM allocated GROUP BY business_id
        ), deposited AS (
            SELECT business_id, sum(amount) AS amount FROM deposits GROUP BY business_id
        ), payout AS (
            SELECT business_id, COALESCE(d.amount, 0) - COALESCE(a.amount, 0) AS expected, b.payout_balance AS found
            FROM businesses b FULL JOIN deposited d USING (business_id) FULL JOIN debited a USING (business_id)
        ), users AS (
            SELECT business_id, encode(u.hash, 'hex') AS subject, COALESCE(a.amount, 0) AS expected, u.balance AS found
            FROM payout_users u FULL JOIN allocated a USING (business_id, email)
        ), keys AS (
            SELECT k.business_id, k.request_id::text AS subject, k.amount AS expected, a.amount AS found
            FROM idempotency_keys k LEFT JOIN allocations a
              ON a.business_id = k.business_id AND a.request_id = k.request_id AND a.outcome = 'allocated' AND a.email = k.email
            WHERE k.request_id IS NOT NULL
        )
        SELECT 'payout_balance' AS "kind!", business_id AS "business_id!", NULL::text AS subject, expected::text, found::text
        FROM payout WHERE expected IS DISTINCT FROM found OR found < 0
        UNION ALL
        SELECT 'user_balance', business_id, subject, expected::text, found::text
        FROM users WHERE expected IS DISTINCT FROM found OR found < 0
        UNION ALL
        SELECT 'idempotency_key', business_id, subject, expected::text, found::text
        FROM keys WHERE expected IS DISTINCT FROM found
        ORDER BY 1, 2, 3"#
    )
    .fetch_all(&mut *transaction)
    .await?;
    let totals = sqlx::query!(
        r#"/* audit_totals */
        SELECT (SELECT count(*) FROM businesses) AS "businesses!", (SELECT count(*) FROM payout_users) AS "payout_users!",
               (SELECT count(*) FROM allocations) AS "allocations!",
               (SELECT COALESCE(sum(amount), 0)::text FROM deposits) AS "deposited!",
               (SELECT COALESCE(sum(amount), 0)::text FROM allocations WHERE outcome = 'allocated') AS "allocated!",
               (SELECT COALESCE(sum(payout_balance), 0)::text FROM businesses) AS "payout_balances!",
               (SELECT COALESCE(sum(balance), 0)::text FROM payout_users) AS "user_balances!""#
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    Ok(Audit {
        businesses: totals.businesses,
        payout_users: totals.payout_users,
        allocations: totals.allocations,
        deposited: totals.deposited,
        allocated: totals.allocated,
        payout_balances: totals.payout_balances,
        user_balances: totals.user_balances,
        differences,
    })
}
