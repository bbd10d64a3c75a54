//! What a batch writes: payout balances, payout users, keys, allocation rows.
//!
//! There are two ways. [`settle`] does everything in one statement, which commits by itself: one round trip and one fsync.
//! Its caller has to know the balances beforehand; it writes nothing if they are others. [`write()`] is one step of a
//! transaction that has locked and read the balances first.

use super::Error;
use super::businesses::LockedBusinesses;
use super::keys::KeyColumns;
use super::shards;
use super::users::Hashes;
use crate::ledger::{
    Account, Accounts, Amount, BusinessId, Credit, Decision, Email, IdempotencyKey, Outcome, Reference, Request,
    RequestId, UserHash,
};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// A decided batch, ready to be written.
#[derive(Debug)]
pub struct Batch<'a> {
    requests: &'a [Request],
    decision: &'a Decision,
    /// The credits of the decision, in their order.
    pub credits: Vec<HashedCredit<'a>>,
}

impl<'a> Batch<'a> {
    /// `hash` makes the hash that is stored for a credit's user if the user is new.
    pub fn new(requests: &'a [Request], decision: &'a Decision, hash: impl Fn(&Credit) -> UserHash) -> Self {
        let hashed = |credit| HashedCredit { credit, hash: hash(credit) };
        Self { requests, decision, credits: decision.credits.iter().map(hashed).collect() }
    }
}

/// A credit with the hash of its user.
#[derive(Debug)]
pub struct HashedCredit<'a> {
    credit: &'a Credit,
    /// The hash to store if the user is new.
    pub hash: UserHash,
}

impl<'a> HashedCredit<'a> {
    /// The payout user who is credited.
    pub fn user(&self) -> (BusinessId, &'a Email) {
        (self.credit.business, &self.credit.email)
    }
}

/// Settles a batch in one statement. `None`, and nothing is written, if a business is not as `expected` says, a request was
/// decided before, or one of the keys has a row. Returns the stored hash of each credit's user. The hashes usually come in
/// the order of the credits, but Postgres does not promise that.
///
/// The statement updates the businesses first, then writes the keys, then the rows and the users. Each part needs the result
/// of the one before it, so that every transaction takes its locks in this order. The users need no place in that order:
/// only the holder of a business's lock writes its users. A key or a row that exists already ends the statement with a
/// unique violation, which costs less than looking for it first. [`Error::Unknown`] if the answer is lost: nobody knows then
/// whether the statement was committed.
pub async fn settle(
    connection: &mut PgConnection,
    expected: &Accounts,
    batch: &Batch<'_>,
) -> Result<Option<Vec<UserHash>>, Error> {
    let businesses = BusinessColumns::new(expected, batch.decision);
    let rows = AllocationColumns::new(batch);
    let credits = CreditColumns::new(&batch.credits);
    let new_keys: Vec<_> = batch.decision.keys.iter().collect();
    let keys = KeyColumns::new(&new_keys);
    let settled = sqlx::query_scalar!(
        r#"/* settle_batch */
        WITH debits AS (
            UPDATE businesses b SET payout_balance = e.balance_after
            FROM unnest($1::uuid[], $2::bigint[], $3::boolean[], $4::bigint[])
                AS e (business_id, payout_balance, payouts_enabled, balance_after)
            WHERE b.business_id = e.business_id
                AND b.payout_balance = e.payout_balance AND b.payouts_enabled = e.payouts_enabled
            RETURNING 1
        ), expected AS MATERIALIZED (
            SELECT CASE WHEN (SELECT count(*) FROM debits) = cardinality($1) AND in_schema($20)
                        THEN true ELSE refuse_batch() END AS holds
        ), keys AS (
            INSERT INTO idempotency_keys (business_id, key, request_id, email, amount)
            SELECT * FROM unnest($5::uuid[], $6::text[], $7::uuid[], $8::text[], $9::bigint[])
            WHERE (SELECT holds FROM expected)
            RETURNING 1
        ), new AS MATERIALIZED (
            SELECT CASE WHEN (SELECT holds FROM expected) AND (SELECT count(*) FROM keys) = cardinality($5)
                        THEN true ELSE refuse_batch() END AS holds
        ), rows AS (
            INSERT INTO allocations (business_id, request_id, email, amount, outcome, reference)
            SELECT * FROM unnest($10::uuid[], $11::uuid[], $12::text[], $13::bigint[], $14::text[], $15::text[])
            WHERE (SELECT holds FROM new)
        ), credits AS (
            INSERT INTO payout_users AS u (business_id, email, hash, balance)
            SELECT * FROM unnest($16::uuid[], $17::text[], $18::bytea[], $19::bigint[])
            WHERE (SELECT holds FROM new)
            ON CONFLICT (business_id, email) DO UPDATE SET balance = u.balance + excluded.balance
            RETURNING u.hash
        )
        SELECT hash AS "hash: UserHash" FROM credits"#,
        &businesses.businesses as &[BusinessId],
        &businesses.balances,
        &businesses.switches,
        &businesses.after,
        &keys.businesses as &[BusinessId],
        &keys.names as &[&IdempotencyKey],
        &keys.requests as &[Option<RequestId>],
        &keys.emails as &[Option<&Email>],
        &keys.amounts as &[Option<Amount>],
        &rows.businesses as &[BusinessId],
        &rows.requests as &[RequestId],
        &rows.emails as &[&Email],
        &rows.amounts as &[Amount],
        &rows.outcomes as &[Outcome],
        &rows.references as &[Option<&Reference>],
        &credits.businesses as &[BusinessId],
        &credits.emails as &[&Email],
        &credits.hashes as &[UserHash],
        &credits.cents,
        shards::schema_of(expected.keys().copied())?
    )
    .fetch_all(connection)
    .await;
    match settled {
        Ok(stored) => Ok(Some(stored)),
        Err(error) if is_refused(&error) => Ok(None),
        Err(error) => Err(Error::of_commit(error)),
    }
}

/// Whether the statement ended because something was written before: `refuse_batch()` raised its error, or the row of a
/// request or key exists already.
fn is_refused(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        error.code().is_some_and(|code| code == "EM001")
            || matches!(error.constraint(), Some("allocations_pkey" | "idempotency_keys_pkey"))
    })
}

/// The businesses of a batch as they must be before it, and their balances after it. One vector for each column, sorted by
/// business, as everybody locks them in this order.
struct BusinessColumns {
    businesses: Vec<BusinessId>,
    balances: Vec<i64>,
    switches: Vec<bool>,
    after: Vec<i64>,
}

impl BusinessColumns {
    fn new(expected: &Accounts, decision: &Decision) -> Self {
        let changed: BTreeMap<_, _> = decision.balances.iter().map(|(id, cents)| (*id, *cents)).collect();
        let after = |(id, account): (_, &Account)| changed.get(id).copied().unwrap_or(account.payout_balance);
        Self {
            businesses: expected.keys().copied().collect(),
            balances: expected.values().map(|account| account.payout_balance).collect(),
            switches: expected.values().map(|account| account.payouts_enabled).collect(),
            after: expected.iter().map(after).collect(),
        }
    }
}

/// Credits, one vector for each column.
struct CreditColumns<'a> {
    businesses: Vec<BusinessId>,
    emails: Vec<&'a Email>,
    hashes: Vec<UserHash>,
    cents: Vec<i64>,
}

impl<'a> CreditColumns<'a> {
    fn new(credits: &[HashedCredit<'a>]) -> Self {
        Self {
            businesses: credits.iter().map(|one| one.credit.business).collect(),
            emails: credits.iter().map(|one| &one.credit.email).collect(),
            hashes: credits.iter().map(|one| one.hash).collect(),
            cents: credits.iter().map(|one| one.credit.cents).collect(),
        }
    }
}

/// What a transaction has written, before its commit.
#[derive(Debug)]
pub struct Written {
    /// How many rows of `allocations` were inserted. If it is fewer than the batch has requests, some were decided before,
    /// and the transaction must be rolled back.
    pub rows: u64,
    /// The stored hash of every user that was credited.
    pub hashes: Hashes,
}

/// Writes a batch at once: payout balances, payout users (created or credited), allocation rows.
///
/// `_locked` proves that the caller has locked the businesses.
pub async fn write(
    connection: &mut PgConnection,
    _locked: &LockedBusinesses,
    batch: &Batch<'_>,
) -> Result<Written, Error> {
    let rows = AllocationColumns::new(batch);
    let credits = CreditColumns::new(&batch.credits);
    let (debited, balances): (Vec<BusinessId>, Vec<i64>) = batch.decision.balances.iter().copied().unzip();
    let written = sqlx::query!(
        r#"/* write_batch */
        WITH rows AS (
            INSERT INTO allocations (business_id, request_id, email, amount, outcome, reference)
            SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::text[])
            WHERE in_schema($13)
            ON CONFLICT DO NOTHING RETURNING 1
        ), debits AS (
            UPDATE businesses b SET payout_balance = d.balance
            FROM unnest($7::uuid[], $8::bigint[]) AS d (business_id, balance)
            WHERE b.business_id = d.business_id
        ), credits AS (
            INSERT INTO payout_users AS u (business_id, email, hash, balance)
            SELECT * FROM unnest($9::uuid[], $10::text[], $11::bytea[], $12::bigint[])
            ON CONFLICT (business_id, email) DO UPDATE SET balance = u.balance + excluded.balance
            RETURNING u.business_id, u.email, u.hash
        )
        SELECT count.rows AS "rows!", c.business_id AS "business?: BusinessId", c.email AS "email?: Email",
               c.hash AS "hash?: UserHash"
        FROM (SELECT count(*) AS rows FROM rows) AS count LEFT JOIN credits c ON true"#,
        &rows.businesses as &[BusinessId],
        &rows.requests as &[RequestId],
        &rows.emails as &[&Email],
        &rows.amounts as &[Amount],
        &rows.outcomes as &[Outcome],
        &rows.references as &[Option<&Reference>],
        &debited as &[BusinessId],
        &balances,
        &credits.businesses as &[BusinessId],
        &credits.emails as &[&Email],
        &credits.hashes as &[UserHash],
        &credits.cents,
        shards::schema_of(rows.businesses.iter().copied())?
    )
    .fetch_all(connection)
    .await?;
    let count = written.first().map_or(0, |row| row.rows);
    let hashes = written.into_iter().filter_map(|row| Some(((row.business?, row.email?), row.hash?)));
    Ok(Written { rows: count.unsigned_abs(), hashes: hashes.collect() })
}

/// The rows of a batch, one vector for each column. Sorted by primary key, as everybody locks rows in this order.
struct AllocationColumns<'a> {
    businesses: Vec<BusinessId>,
    requests: Vec<RequestId>,
    emails: Vec<&'a Email>,
    amounts: Vec<Amount>,
    outcomes: Vec<Outcome>,
    references: Vec<Option<&'a Reference>>,
}

impl<'a> AllocationColumns<'a> {
    fn new(batch: &Batch<'a>) -> Self {
        let outcomes = batch.decision.verdicts.iter().map(|verdict| verdict.outcome());
        let mut order: Vec<(&Request, Outcome)> = batch.requests.iter().zip(outcomes).collect();
        order.sort_unstable_by_key(|(request, _)| (request.business, request.id));
        Self {
            businesses: order.iter().map(|(request, _)| request.business).collect(),
            requests: order.iter().map(|(request, _)| request.id).collect(),
            emails: order.iter().map(|(request, _)| &request.email).collect(),
            amounts: order.iter().map(|(request, _)| request.amount).collect(),
            outcomes: order.iter().map(|(_, outcome)| *outcome).collect(),
            references: order.iter().map(|(request, _)| request.reference.as_ref()).collect(),
        }
    }
}
