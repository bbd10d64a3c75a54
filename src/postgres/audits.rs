//! The audit: it adds up a whole shard and compares.

use super::{Error, PgConnection, Postgres, Shards};
use crate::ledger::ShardId;
use sqlx::{Connection, Executor};
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// The result of an audit. Sums are in cents.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// How many businesses there are.
    pub businesses: i64,
    /// How many payout users there are.
    pub payout_users: i64,
    /// How many decided requests there are.
    pub allocations: i64,
    /// The sum of all deposits.
    pub deposited: i128,
    /// The sum of all allocations.
    pub allocated: i128,
    /// The sum of what was taken back of them.
    pub reversed: i128,
    /// The sum of all settlements, less what was given back of them.
    pub settled: i128,
    /// The sum of all payout balances.
    pub payout_balances: i128,
    /// The sum of all payout users' balances.
    pub user_balances: i128,
    /// Every difference; empty if the ledger balances.
    pub differences: Vec<Difference>,
}

impl Audit {
    /// Adds the result of another shard.
    pub fn add(&mut self, other: Self) {
        self.businesses += other.businesses;
        self.payout_users += other.payout_users;
        self.allocations += other.allocations;
        self.deposited += other.deposited;
        self.allocated += other.allocated;
        self.reversed += other.reversed;
        self.settled += other.settled;
        self.payout_balances += other.payout_balances;
        self.user_balances += other.user_balances;
        self.differences.extend(other.differences);
    }

    /// All differences added up, in cents, each without its sign. A missing sum counts as 0.
    pub fn difference_cents(&self) -> i64 {
        let cents = |sum: &Option<String>| sum.as_ref().and_then(|sum| sum.parse::<i128>().ok()).unwrap_or(0);
        let of_money = self.differences.iter().filter(|one| one.kind != "sequence");
        let total: i128 = of_money.map(|one| (cents(&one.expected) - cents(&one.found)).abs()).sum();
        i64::try_from(total).unwrap_or(i64::MAX)
    }
}

/// One balance or idempotency key that differs from what the other rows say.
#[derive(Clone, Debug)]
pub struct Difference {
    /// `payout_balance`, `user_balance`, `idempotency_key`, `reversed`, `balance_after`, `sequence`, `day_total`,
    /// `largest_allocation` or `daily_limit`.
    pub kind: String,
    /// The business.
    pub business_id: Uuid,
    /// The payout user's hash, the request or the day that is wrong. Never an email address.
    pub subject: Option<String>,
    /// What the rows add up to, in cents. Of a sequence: the numbers that there should be. Of a limit: the limit.
    pub expected: Option<String>,
    /// What was found instead.
    pub found: Option<String>,
}

/// Checks in one snapshot of a shard:
///
/// - each payout balance is its deposits less its allocations, plus what of these was reversed
/// - each user's balance is its allocations less what of them was reversed, less its settlements, plus what of these was reversed
/// - no balance is negative, and no reversal takes more than was left
/// - the movements of each business are numbered without a gap, and each says the payout balance that follows from the one
///   before
/// - the total of the last day is the sum of its allocations
/// - no allocation since the present limits of its business exceeds them, alone or with the others of its day
/// - each idempotency key names a request that moved money as the key says
pub async fn audit(shard: &Postgres) -> Result<Audit, Error> {
    add_up(&mut shard.connect().await?).await
}

/// Makes an audit of a shard and writes it down. `None` if the last audit is younger than `interval`, or another process
/// makes one now. It uses one process of Postgres: nobody waits for it, and parallel ones would take cores from allocations.
pub async fn audit_if_due(
    shards: &Shards,
    shard: ShardId,
    interval: Duration,
    who: &str,
) -> Result<Option<Audit>, Error> {
    let mut directory = shards.directory().connect().await?;
    if !try_lock(&mut directory, shard).await? || !is_due(&mut directory, shard, interval).await? {
        return Ok(None);
    }
    let mut connection = shards.get(shard)?.connect().await?;
    connection.execute("SET max_parallel_workers_per_gather = 0").await?;
    let audit = add_up(&mut connection).await?;
    write_audit(&mut directory, shard, &audit, who).await?;
    Ok(Some(audit))
}

/// Takes the lock that only one audit of a shard can hold. It is held until the connection ends.
async fn try_lock(directory: &mut PgConnection, shard: ShardId) -> Result<bool, Error> {
    let lock = sqlx::query_scalar!(
        r#"/* lock_audits */ SELECT pg_try_advisory_lock(hashtext('earmark audits'), $1) AS "locked!""#,
        i32::from(shard.number())
    );
    Ok(lock.fetch_one(directory).await?)
}

async fn is_due(directory: &mut PgConnection, shard: ShardId, interval: Duration) -> Result<bool, Error> {
    let due = sqlx::query_scalar!(
        r#"/* find_audit_due */
        SELECT NOT EXISTS (SELECT FROM audits WHERE shard = $1 AND audited_at > now() - make_interval(secs => $2)) AS "due!""#,
        shard as ShardId,
        interval.as_secs_f64()
    );
    Ok(due.fetch_one(directory).await?)
}

/// The last audits of all shards, added up.
#[derive(Clone, Debug)]
pub struct Audited {
    /// When the oldest of them was finished.
    pub audited_at: OffsetDateTime,
    /// Who asked for that one.
    pub audited_by: String,
    /// How many businesses there are.
    pub businesses: i64,
    /// How many payout users there are.
    pub payout_users: i64,
    /// How many decided requests there are.
    pub allocations: i64,
    /// How many balances and idempotency keys differed from what the other rows say.
    pub differences: i64,
    /// All differences added up, in cents, each without its sign.
    pub difference_cents: i64,
}

/// Writes down an audit, with its time and who asked for it. If it is written twice or is lost, that does no harm.
pub async fn write_audit(directory: &mut PgConnection, shard: ShardId, audit: &Audit, who: &str) -> Result<(), Error> {
    sqlx::query!(
        "/* write_audit */
         INSERT INTO audits (audit_id, audited_by, shard, businesses, payout_users, allocations, differences, difference_cents)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        Uuid::new_v4(),
        who,
        shard as ShardId,
        audit.businesses,
        audit.payout_users,
        audit.allocations,
        i64::try_from(audit.differences.len()).unwrap_or(i64::MAX),
        audit.difference_cents()
    )
    .execute(directory)
    .await?;
    Ok(())
}

/// The last audits that were written down; `None` if there is none. A shard without one is left out.
pub async fn find_last_audits(directory: &mut PgConnection) -> Result<Option<Audited>, Error> {
    let last = sqlx::query!(
        r#"/* find_last_audits */
        SELECT min(audited_at) AS audited_at, (array_agg(audited_by ORDER BY audited_at))[1] AS audited_by,
               COALESCE(sum(businesses), 0)::bigint AS "businesses!", COALESCE(sum(payout_users), 0)::bigint AS "payout_users!",
               COALESCE(sum(allocations), 0)::bigint AS "allocations!", COALESCE(sum(differences), 0)::bigint AS "differences!",
               COALESCE(sum(difference_cents), 0)::bigint AS "difference_cents!"
        FROM shards s CROSS JOIN LATERAL (SELECT * FROM audits a WHERE a.shard = s.shard ORDER BY audited_at DESC LIMIT 1) AS last"#
    )
    .fetch_one(directory)
    .await?;
    let Some((audited_at, audited_by)) = last.audited_at.zip(last.audited_by) else { return Ok(None) };
    Ok(Some(Audited {
        audited_at,
        audited_by,
        businesses: last.businesses,
        payout_users: last.payout_users,
        allocations: last.allocations,
        differences: last.differences,
        difference_cents: last.difference_cents,
    }))
}

async fn add_up(connection: &mut PgConnection) -> Result<Audit, Error> {
    connection
        .execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; RESET enable_seqscan")
        .await?;
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let differences = sqlx::query_as!(
        Difference,
        r#"/* audit_differences */
        WITH moved AS (
            SELECT business_id, request_id, kind, outcome, email, amount, target, remaining, seq, payout_balance_after, moved_at,
                   CASE outcome WHEN 'allocated' THEN -amount WHEN 'reversed' THEN amount ELSE 0 END AS to_business,
                   CASE WHEN outcome IN ('allocated', 'settlement_reversed') THEN amount ELSE -amount END AS to_user
            FROM allocations WHERE seq IS NOT NULL
        ), of_users AS (
            SELECT business_id, email, sum(to_user) AS amount FROM moved GROUP BY business_id, email
        ), movements AS (
            SELECT business_id, seq, to_business AS amount, payout_balance_after, moved_at, request_id AS id FROM moved
            UNION ALL SELECT business_id, seq, amount, payout_balance_after, moved_at, deposit_id FROM deposits
        ), steps AS (
            SELECT business_id, id, seq, moved_at, sum(amount) OVER earlier AS expected, payout_balance_after AS found,
                   row_number() OVER earlier AS place, max(moved_at) OVER earlier AS latest
            FROM movements WINDOW earlier AS (PARTITION BY business_id ORDER BY seq ROWS UNBOUNDED PRECEDING)
        ), of_businesses AS (
            SELECT business_id, sum(amount) AS amount, count(*) AS movements FROM movements GROUP BY business_id
        ), payout AS (
            SELECT business_id, COALESCE(m.amount, 0) AS expected, b.payout_balance AS found,
                   COALESCE(m.movements, 0) AS movements, b.seq
            FROM businesses b FULL JOIN of_businesses m USING (business_id)
        ), users AS (
            SELECT business_id, encode(u.hash, 'hex') AS subject, COALESCE(m.amount, 0) AS expected, u.balance AS found
            FROM payout_users u FULL JOIN of_users m USING (business_id, email)
        ), reversals AS (
            SELECT r.business_id, r.target, sum(r.amount) AS amount, min(r.remaining) AS remaining FROM moved r
            WHERE r.target IS NOT NULL GROUP BY r.business_id, r.target
        ), reversed AS (
            SELECT r.business_id, r.target::text AS subject, t.amount - r.amount AS expected, r.remaining AS found
            FROM reversals r LEFT JOIN moved t
              ON t.business_id = r.business_id AND t.request_id = r.target AND t.outcome IN ('allocated', 'settled')
        ), keys AS (
            SELECT k.business_id, k.request_id::text AS subject, COALESCE(k.amount, m.amount, 0) AS expected, m.amount AS found
            FROM idempotency_keys k LEFT JOIN moved m
              ON m.business_id = k.business_id AND m.request_id = k.request_id AND m.kind = k.kind
                 AND m.target IS NOT DISTINCT FROM k.target AND (k.email IS NULL OR m.email = k.email)
            WHERE k.request_id IS NOT NULL
        ), by_day AS (
            SELECT business_id, (moved_at AT TIME ZONE 'UTC')::date AS day, sum(amount) AS amount, max(seq) AS last
            FROM moved WHERE outcome = 'allocated' GROUP BY 1, 2
        ), days AS (
            SELECT b.business_id, COALESCE(d.amount, 0) AS expected, b.day_total AS found
            FROM businesses b LEFT JOIN by_day d USING (business_id, day)
        )
        SELECT 'payout_balance' AS "kind!", business_id AS "business_id!", NULL::text AS subject, expected::text, found::text
        FROM payout WHERE expected IS DISTINCT FROM found OR found < 0
        UNION ALL
        SELECT 'user_balance', business_id, subject, expected::text, found::text
        FROM users WHERE expected IS DISTINCT FROM found OR found < 0
        UNION ALL
        SELECT 'idempotency_key', business_id, subject, expected::text, found::text
        FROM keys WHERE expected IS DISTINCT FROM found
        UNION ALL
        SELECT 'reversed', business_id, subject, expected::text, found::text
        FROM reversed WHERE expected IS DISTINCT FROM found OR found < 0
        UNION ALL
        SELECT 'balance_after', business_id, id::text, expected::text, found::text
        FROM steps WHERE expected IS DISTINCT FROM found
        UNION ALL
        SELECT 'sequence', business_id, id::text, place::text, seq::text FROM steps WHERE place <> seq OR moved_at < latest
        UNION ALL
        SELECT 'sequence', business_id, NULL, movements::text, seq::text FROM payout WHERE movements IS DISTINCT FROM seq
        UNION ALL
        SELECT 'day_total', business_id, NULL, expected::text, found::text FROM days WHERE expected IS DISTINCT FROM found
        UNION ALL
        SELECT 'largest_allocation', business_id, m.request_id::text, b.largest_allocation::text, m.amount::text
        FROM moved m JOIN businesses b USING (business_id)
        WHERE m.outcome = 'allocated' AND m.seq > b.limited_after AND m.amount > b.largest_allocation
        UNION ALL
        SELECT 'daily_limit', business_id, d.day::text, b.daily_limit::text, d.amount::text
        FROM by_day d JOIN businesses b USING (business_id) WHERE d.last > b.limited_after AND d.amount > b.daily_limit
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
               (SELECT COALESCE(sum(amount), 0)::text FROM allocations WHERE outcome = 'reversed') AS "reversed!",
               (SELECT COALESCE(sum(CASE outcome WHEN 'settled' THEN amount ELSE -amount END), 0)::text FROM allocations
                WHERE outcome IN ('settled', 'settlement_reversed')) AS "settled!",
               (SELECT COALESCE(sum(payout_balance), 0)::text FROM businesses) AS "payout_balances!",
               (SELECT COALESCE(sum(balance), 0)::text FROM payout_users) AS "user_balances!""#
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    // They are text, because they may not fit into 64 bits.
    let sum = |text: String| text.parse().map_err(|_| Error::Fatal("a sum that is no number".to_owned()));
    Ok(Audit {
        businesses: totals.businesses,
        payout_users: totals.payout_users,
        allocations: totals.allocations,
        deposited: sum(totals.deposited)?,
        allocated: sum(totals.allocated)?,
        reversed: sum(totals.reversed)?,
        settled: sum(totals.settled)?,
        payout_balances: sum(totals.payout_balances)?,
        user_balances: sum(totals.user_balances)?,
        differences,
    })
}
