//! What a batch writes: payout balances, payout users, keys, allocation rows.
//!
//! Two ways. [`settle`] does everything in one statement, which commits by itself: one round trip and one fsync. It
//! needs to know the balances beforehand, and does nothing if they are not what was expected. [`write`] is one step of a
//! transaction that has locked and read first.

use super::Error;
use super::businesses::LockedBusinesses;
use super::keys::Columns as KeyColumns;
use super::users::{Hashes, read_hash};
use crate::ledger::{Account, Accounts, Decision, Outcome, Request, UserHash};
use sqlx::PgConnection;
use uuid::Uuid;

/// What came of [`settle`].
#[derive(Debug)]
pub enum Settlement {
    /// Committed, with the stored hash of every user that was credited.
    Committed(Hashes),
    /// A balance or a switch is not what was expected: nothing was written.
    Unexpected,
    /// A request or a key was written before: nothing was written.
    Repeated,
}

/// Settles a batch in one statement, if every business still is as `expected` says, no request was decided before and
/// none of the keys has a row.
///
/// The businesses are locked first, then the keys are written, then the rows: each part needs the one before it, so that
/// everybody takes their locks in one order. [`Error::Unknown`] if the answer is lost: it stands or it does not.
pub async fn settle(
    connection: &mut PgConnection,
    expected: &Accounts,
    requests: &[Request],
    decision: &Decision,
    hashes: &[UserHash],
) -> Result<Settlement, Error> {
    let rows = Rows::of(requests, decision);
    let money = Money::of(decision, hashes);
    let new_keys: Vec<_> = decision.keys.iter().collect();
    let keys = KeyColumns::of(&new_keys);
    let (businesses, accounts): (Vec<Uuid>, Vec<&Account>) =
        expected.iter().map(|(id, account)| (Uuid::from_u128(id.as_u128()), account)).unzip();
    let balances: Vec<i64> = accounts.iter().map(|account| account.payout_balance).collect();
    let switches: Vec<bool> = accounts.iter().map(|account| account.payouts_enabled).collect();
    let settled = sqlx::query!(
        r#"/* settle_batch */
        WITH locked AS MATERIALIZED (
            SELECT business_id, payout_balance, payouts_enabled FROM businesses
            WHERE business_id = ANY($1) ORDER BY business_id FOR NO KEY UPDATE
        ), guard AS MATERIALIZED (
            SELECT count(*) = cardinality($1) AS holds FROM locked
            JOIN unnest($1::uuid[], $2::bigint[], $3::boolean[]) AS e (business_id, payout_balance, payouts_enabled)
            USING (business_id, payout_balance, payouts_enabled)
        ), keys AS (
            INSERT INTO idempotency_keys (business_id, key, epoch, request_id, email, amount)
            SELECT * FROM unnest($4::uuid[], $5::text[], $6::bigint[], $7::uuid[], $8::text[], $9::bigint[])
            WHERE (SELECT holds FROM guard)
            ON CONFLICT DO NOTHING RETURNING 1
        ), rows AS (
            INSERT INTO allocations (business_id, request_id, email, amount, outcome)
            SELECT * FROM unnest($10::uuid[], $11::uuid[], $12::text[], $13::bigint[], $14::text[])
            WHERE (SELECT holds FROM guard) AND (SELECT count(*) FROM keys) = cardinality($4)
            ON CONFLICT DO NOTHING RETURNING 1
        ), debits AS (
            UPDATE businesses b SET payout_balance = d.balance
            FROM unnest($15::uuid[], $16::bigint[]) AS d (business_id, balance)
            WHERE b.business_id = d.business_id AND (SELECT holds FROM guard)
        ), credits AS (
            INSERT INTO payout_users AS u (business_id, email, hash, balance)
            SELECT * FROM unnest($17::uuid[], $18::text[], $19::bytea[], $20::bigint[])
            WHERE (SELECT count(*) FROM rows) = cardinality($10)
            ON CONFLICT (business_id, email) DO UPDATE SET balance = u.balance + excluded.balance
            RETURNING u.business_id, u.email, u.hash
        ), done AS (
            SELECT holds, CASE WHEN holds AND (SELECT count(*) FROM rows) <> cardinality($10) THEN refuse_batch() END
            FROM guard
        )
        SELECT done.holds AS "holds!", c.business_id AS "business_id?", c.email AS "email?", c.hash AS "hash?"
        FROM done LEFT JOIN credits c ON true"#,
        &businesses,
        &balances,
        &switches,
        &keys.businesses,
        &keys.names as &[&str],
        &keys.epochs,
        &keys.requests as &[Option<Uuid>],
        &keys.emails as &[Option<&str>],
        &keys.amounts as &[Option<i64>],
        &rows.businesses,
        &rows.requests,
        &rows.emails as &[&str],
        &rows.cents,
        &rows.outcomes as &[&str],
        &money.debited,
        &money.balances,
        &money.businesses,
        &money.emails as &[&str],
        &money.hashes as &[&[u8]],
        &money.cents
    )
    .fetch_all(connection)
    .await;
    let settled = match settled {
        Ok(settled) => settled,
        Err(error) if is_refused(&error) => return Ok(Settlement::Repeated),
        Err(error) => return Err(Error::of_commit(error)),
    };
    if settled.first().is_none_or(|row| !row.holds) {
        return Ok(Settlement::Unexpected);
    }
    let hashes =
        settled.iter().filter_map(|row| Some(read_hash(row.business_id?, row.email.as_deref()?, row.hash.as_deref()?)));
    Ok(Settlement::Committed(hashes.collect::<Result<_, _>>()?))
}

/// Whether it was `refuse_batch()` that ended the statement.
fn is_refused(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "EM001")
}

/// Debits and credits, a vector a column.
struct Money<'a> {
    debited: Vec<Uuid>,
    balances: Vec<i64>,
    businesses: Vec<Uuid>,
    emails: Vec<&'a str>,
    hashes: Vec<&'a [u8]>,
    cents: Vec<i64>,
}

impl<'a> Money<'a> {
    fn of(decision: &'a Decision, hashes: &'a [UserHash]) -> Self {
        let credits = &decision.credits;
        let (debited, balances) =
            decision.balances.iter().map(|(id, cents)| (Uuid::from_u128(id.as_u128()), *cents)).unzip();
        Self {
            debited,
            balances,
            businesses: credits.iter().map(|credit| Uuid::from_u128(credit.business.as_u128())).collect(),
            emails: credits.iter().map(|credit| credit.email.as_str()).collect(),
            hashes: hashes.iter().map(|hash| hash.0.as_slice()).collect(),
            cents: credits.iter().map(|credit| credit.cents).collect(),
        }
    }
}

/// What a transaction has written, before its commit.
#[derive(Debug)]
pub struct Written {
    /// Rows of `allocations` that went in. Fewer than sent: some were decided before, and the whole must be rolled back.
    pub rows: u64,
    /// The stored hash of every user that was credited.
    pub hashes: Hashes,
}

/// Writes a batch at once: payout balances, payout users (created or credited), allocation rows.
///
/// `hashes` has the hash to store for each credit, should its user be new. `_locked` is the right to do this.
pub async fn write(
    connection: &mut PgConnection,
    _locked: &LockedBusinesses,
    requests: &[Request],
    decision: &Decision,
    hashes: &[UserHash],
) -> Result<Written, Error> {
    let rows = Rows::of(requests, decision);
    let money = Money::of(decision, hashes);
    let written = sqlx::query!(
        r#"/* write_batch */
        WITH rows AS (
            INSERT INTO allocations (business_id, request_id, email, amount, outcome)
            SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::text[])
            ON CONFLICT DO NOTHING RETURNING 1
        ), debits AS (
            UPDATE businesses b SET payout_balance = d.balance
            FROM unnest($6::uuid[], $7::bigint[]) AS d (business_id, balance)
            WHERE b.business_id = d.business_id
        ), credits AS (
            INSERT INTO payout_users AS u (business_id, email, hash, balance)
            SELECT * FROM unnest($8::uuid[], $9::text[], $10::bytea[], $11::bigint[])
            ON CONFLICT (business_id, email) DO UPDATE SET balance = u.balance + excluded.balance
            RETURNING u.business_id, u.email, u.hash
        )
        SELECT count.rows AS "rows!", c.business_id AS "business_id?", c.email AS "email?", c.hash AS "hash?"
        FROM (SELECT count(*) AS rows FROM rows) AS count LEFT JOIN credits c ON true"#,
        &rows.businesses,
        &rows.requests,
        &rows.emails as &[&str],
        &rows.cents,
        &rows.outcomes as &[&str],
        &money.debited,
        &money.balances,
        &money.businesses,
        &money.emails as &[&str],
        &money.hashes as &[&[u8]],
        &money.cents
    )
    .fetch_all(connection)
    .await?;
    let count = written.first().map_or(0, |row| row.rows);
    let hashes = written
        .iter()
        .filter_map(|row| Some(read_hash(row.business_id?, row.email.as_deref()?, row.hash.as_deref()?)))
        .collect::<Result<_, _>>()?;
    Ok(Written { rows: count.unsigned_abs(), hashes })
}

/// The rows of a batch, a vector a column, sorted by primary key: whoever else writes the same rows takes their locks in
/// the same order.
struct Rows<'a> {
    businesses: Vec<Uuid>,
    requests: Vec<Uuid>,
    emails: Vec<&'a str>,
    cents: Vec<i64>,
    outcomes: Vec<&'static str>,
}

impl<'a> Rows<'a> {
    fn of(requests: &'a [Request], decision: &Decision) -> Self {
        let mut order: Vec<(&Request, Outcome)> =
            requests.iter().zip(&decision.verdicts).map(|(request, verdict)| (request, verdict.outcome())).collect();
        order.sort_unstable_by_key(|(request, _)| (request.business, request.id));
        Self {
            businesses: order.iter().map(|(request, _)| Uuid::from_u128(request.business.as_u128())).collect(),
            requests: order.iter().map(|(request, _)| Uuid::from_u128(request.id.as_u128())).collect(),
            emails: order.iter().map(|(request, _)| request.email.as_str()).collect(),
            cents: order.iter().map(|(request, _)| request.amount.cents()).collect(),
            outcomes: order.iter().map(|(_, outcome)| outcome.as_str()).collect(),
        }
    }
}
