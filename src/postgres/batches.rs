//! What a batch writes: businesses, payout users, keys, allocation rows.
//!
//! There are two ways. [`settle`] does everything in one statement, which commits by itself: one round trip and one fsync.
//! Its caller has to know the businesses beforehand; it writes nothing if they are others. [`write()`] is one step of a
//! transaction that has locked and read the businesses first.

use super::Error;
use super::businesses::LockedBusinesses;
use super::keys::KeyColumns;
use super::shards;
use super::types::moment;
use super::users::Hashes;
use crate::ledger::{
    Account, Accounts, Amount, BusinessId, Credit, Decision, Email, Entry, KeyScope, Kind, Moved, Outcome, Reference,
    Request, RequestId, UserHash,
};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// A decided batch, ready to be written.
#[derive(Debug)]
pub struct Batch<'a> {
    requests: &'a [Request],
    decision: &'a Decision,
    /// The users of the decision who do not lose money, in their order.
    pub credits: Vec<HashedCredit<'a>>,
    /// The users of the decision who lose money, in their order.
    debits: Vec<&'a Credit>,
}

impl<'a> Batch<'a> {
    /// `hash` makes the hash that is stored for a credit's user if the user is new.
    pub fn new(requests: &'a [Request], decision: &'a Decision, hash: impl Fn(&Credit) -> UserHash) -> Self {
        let hashed = |credit| HashedCredit { credit, hash: hash(credit) };
        let (debits, credits): (Vec<_>, Vec<_>) = decision.credits.iter().partition(|credit| credit.cents < 0);
        Self { requests, decision, credits: credits.into_iter().map(hashed).collect(), debits }
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

/// Settles a batch of allocations in one statement. `None`, and nothing is written, if a business is not as `expected` says, a
/// request was decided before, or one of the keys has a row. Returns the stored hash of each credit's user. The hashes usually
/// come in the order of the credits, but Postgres does not promise that.
///
/// A business is as expected if nothing moved since, which its `seq` says: its balance alone could be the same again after
/// a deposit and an allocation. Its switch and its caps change without a movement, so they are compared too, and no time
/// that was promised to be over may be given to a movement.
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
    let after: BTreeMap<_, _> = batch.decision.accounts.iter().copied().collect();
    let after =
        expected.iter().map(|(business, account)| (*business, after.get(business).copied().unwrap_or(*account)));
    let after = BusinessColumns::new(after);
    let rows = RowColumns::new(batch);
    let credits = CreditColumns::new(&batch.credits);
    let new_keys: Vec<_> = batch.decision.keys.iter().collect();
    let keys = KeyColumns::new(&new_keys);
    let settled = sqlx::query_scalar!(
        r#"/* settle_batch */
        WITH debits AS (
            UPDATE businesses b
            SET payout_balance = e.payout_balance, seq = e.seq_after, moved_at = e.moved_at, day = DATE 'epoch' + e.day, day_total = e.day_total
            FROM unnest($1::uuid[], $2::bigint[], $3::boolean[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                        $8::timestamptz[], $9::int[], $10::bigint[])
                AS e (business_id, seq, payouts_enabled, largest_allocation, daily_limit, payout_balance, seq_after, moved_at, day, day_total)
            WHERE b.business_id = e.business_id AND b.seq = e.seq AND b.payouts_enabled = e.payouts_enabled
                AND b.largest_allocation IS NOT DISTINCT FROM e.largest_allocation
                AND b.daily_limit IS NOT DISTINCT FROM e.daily_limit AND b.moved_at <= e.moved_at
            RETURNING 1
        ), expected AS MATERIALIZED (
            SELECT CASE WHEN (SELECT count(*) FROM debits) = cardinality($1) AND in_schema($11)
                        THEN true ELSE refuse_batch() END AS holds
        ), keys AS (
            INSERT INTO idempotency_keys (business_id, scope, key, request_id, kind, email, amount)
            SELECT k.business_id, k.scope, k.key, k.request_id, 'allocate', k.email, k.amount
            FROM unnest($12::uuid[], $13::text[], $14::text[], $15::uuid[], $16::text[], $17::bigint[])
                AS k (business_id, scope, key, request_id, email, amount)
            WHERE (SELECT holds FROM expected)
            RETURNING 1
        ), new AS MATERIALIZED (
            SELECT CASE WHEN (SELECT holds FROM expected) AND (SELECT count(*) FROM keys) = cardinality($12)
                        THEN true ELSE refuse_batch() END AS holds
        ), rows AS (
            INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome, reference, remaining, seq,
                                     payout_balance_after, moved_at)
            SELECT r.business_id, r.request_id, 'allocate', r.email, r.amount, r.outcome, r.reference, r.remaining, r.seq,
                   r.payout_balance_after, r.moved_at
            FROM unnest($18::uuid[], $19::uuid[], $20::text[], $21::bigint[], $22::text[], $23::text[], $24::bigint[], $25::bigint[],
                        $26::bigint[], $27::timestamptz[])
                AS r (business_id, request_id, email, amount, outcome, reference, remaining, seq, payout_balance_after, moved_at)
            WHERE (SELECT holds FROM new)
        ), credits AS (
            INSERT INTO payout_users AS u (business_id, email, hash, balance)
            SELECT * FROM unnest($28::uuid[], $29::text[], $30::bytea[], $31::bigint[])
            WHERE (SELECT holds FROM new)
            ON CONFLICT (business_id, email) DO UPDATE SET balance = u.balance + excluded.balance
            RETURNING u.hash
        )
        SELECT hash AS "hash: UserHash" FROM credits"#,
        &after.businesses as &[BusinessId],
        &expected.values().map(|account| account.seq).collect::<Vec<i64>>(),
        &expected.values().map(|account| account.payouts_enabled).collect::<Vec<bool>>(),
        &expected.values().map(|account| account.caps.largest).collect::<Vec<_>>() as &[Option<i64>],
        &expected.values().map(|account| account.caps.daily).collect::<Vec<_>>() as &[Option<i64>],
        &after.balances,
        &after.seqs,
        &after.times,
        &after.days,
        &after.totals,
        shards::schema_of(expected.keys().copied())?,
        &keys.businesses as &[BusinessId],
        &keys.scopes as &[KeyScope],
        &keys.names as &[&str],
        &keys.requests as &[Option<RequestId>],
        &keys.emails as &[Option<&Email>],
        &keys.amounts as &[Option<i64>],
        &rows.businesses as &[BusinessId],
        &rows.requests as &[RequestId],
        &rows.emails as &[Option<&Email>],
        &rows.amounts as &[Option<i64>],
        &rows.outcomes as &[Outcome],
        &rows.references as &[Option<&Reference>],
        &rows.remaining as &[Option<i64>],
        &rows.seqs as &[Option<i64>],
        &rows.balances as &[Option<i64>],
        &rows.times as &[Option<OffsetDateTime>],
        &credits.businesses as &[BusinessId],
        &credits.emails as &[&Email],
        &credits.hashes as &[UserHash],
        &credits.cents
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

/// Businesses as they are after a batch. One vector for each column, sorted by business, as everybody locks them in this
/// order.
#[derive(Default)]
struct BusinessColumns {
    businesses: Vec<BusinessId>,
    balances: Vec<i64>,
    seqs: Vec<i64>,
    times: Vec<OffsetDateTime>,
    days: Vec<i32>,
    totals: Vec<i64>,
}

impl BusinessColumns {
    fn new(after: impl Iterator<Item = (BusinessId, Account)>) -> Self {
        let mut columns = Self::default();
        for (business, account) in after {
            columns.businesses.push(business);
            columns.balances.push(account.payout_balance);
            columns.seqs.push(account.seq);
            columns.times.push(moment(account.moved_at));
            columns.days.push(account.allocated.day);
            columns.totals.push(account.allocated.cents);
        }
        columns
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

/// Writes a batch at once: businesses, payout users (created, credited or debited), allocation rows.
///
/// `_locked` proves that the caller has locked the businesses.
pub async fn write(
    connection: &mut PgConnection,
    _locked: &LockedBusinesses,
    batch: &Batch<'_>,
) -> Result<Written, Error> {
    let rows = RowColumns::new(batch);
    let credits = CreditColumns::new(&batch.credits);
    let after = BusinessColumns::new(batch.decision.accounts.iter().copied());
    let written = sqlx::query!(
        r#"/* write_batch */
        WITH rows AS (
            INSERT INTO allocations (business_id, request_id, kind, target, email, amount, outcome, reference, remaining, seq,
                                     payout_balance_after, moved_at)
            SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::bigint[], $7::text[], $8::text[],
                                 $9::bigint[], $10::bigint[], $11::bigint[], $12::timestamptz[])
            WHERE in_schema($13)
            ON CONFLICT (business_id, request_id) DO NOTHING RETURNING 1
        ), moved AS (
            UPDATE businesses b
            SET payout_balance = m.balance, seq = m.seq, moved_at = m.moved_at, day = DATE 'epoch' + m.day, day_total = m.day_total
            FROM unnest($14::uuid[], $15::bigint[], $16::bigint[], $17::timestamptz[], $18::int[], $19::bigint[])
                AS m (business_id, balance, seq, moved_at, day, day_total)
            WHERE b.business_id = m.business_id
        ), credits AS (
            INSERT INTO payout_users AS u (business_id, email, hash, balance)
            SELECT * FROM unnest($20::uuid[], $21::text[], $22::bytea[], $23::bigint[])
            ON CONFLICT (business_id, email) DO UPDATE SET balance = u.balance + excluded.balance
            RETURNING u.business_id, u.email, u.hash
        ), debits AS (
            UPDATE payout_users u SET balance = u.balance + d.cents
            FROM unnest($24::uuid[], $25::text[], $26::bigint[]) AS d (business_id, email, cents)
            WHERE u.business_id = d.business_id AND u.email = d.email
            RETURNING u.business_id, u.email, u.hash
        )
        SELECT count.rows AS "rows!", users.business_id AS "business?: BusinessId", users.email AS "email?: Email",
               users.hash AS "hash?: UserHash"
        FROM (SELECT count(*) AS rows FROM rows) AS count
        LEFT JOIN (SELECT * FROM credits UNION ALL SELECT * FROM debits) AS users ON true"#,
        &rows.businesses as &[BusinessId],
        &rows.requests as &[RequestId],
        &rows.kinds as &[Kind],
        &rows.targets as &[Option<RequestId>],
        &rows.emails as &[Option<&Email>],
        &rows.amounts as &[Option<i64>],
        &rows.outcomes as &[Outcome],
        &rows.references as &[Option<&Reference>],
        &rows.remaining as &[Option<i64>],
        &rows.seqs as &[Option<i64>],
        &rows.balances as &[Option<i64>],
        &rows.times as &[Option<OffsetDateTime>],
        shards::schema_of(rows.businesses.iter().copied())?,
        &after.businesses as &[BusinessId],
        &after.balances,
        &after.seqs,
        &after.times,
        &after.days,
        &after.totals,
        &credits.businesses as &[BusinessId],
        &credits.emails as &[&Email],
        &credits.hashes as &[UserHash],
        &credits.cents,
        &batch.debits.iter().map(|debit| debit.business).collect::<Vec<_>>() as &[BusinessId],
        &batch.debits.iter().map(|debit| &debit.email).collect::<Vec<_>>() as &[&Email],
        &batch.debits.iter().map(|debit| debit.cents).collect::<Vec<_>>()
    )
    .fetch_all(connection)
    .await?;
    let count = written.first().map_or(0, |row| row.rows);
    let hashes = written.into_iter().filter_map(|row| Some(((row.business?, row.email?), row.hash?)));
    Ok(Written { rows: count.unsigned_abs(), hashes: hashes.collect() })
}

/// The rows of a batch, one vector for each column. Sorted by primary key, as everybody locks rows in this order.
struct RowColumns<'a> {
    businesses: Vec<BusinessId>,
    requests: Vec<RequestId>,
    kinds: Vec<Kind>,
    targets: Vec<Option<RequestId>>,
    emails: Vec<Option<&'a Email>>,
    amounts: Vec<Option<i64>>,
    outcomes: Vec<Outcome>,
    references: Vec<Option<&'a Reference>>,
    remaining: Vec<Option<i64>>,
    seqs: Vec<Option<i64>>,
    balances: Vec<Option<i64>>,
    times: Vec<Option<OffsetDateTime>>,
}

impl<'a> RowColumns<'a> {
    fn new(batch: &Batch<'a>) -> Self {
        let decided = batch.decision.verdicts.iter().map(|verdict| verdict.outcome()).zip(&batch.decision.entries);
        let mut order: Vec<(&Request, (Outcome, &Entry))> = batch.requests.iter().zip(decided).collect();
        order.sort_unstable_by_key(|(request, _)| (request.business, request.id));
        let moved = |entry: &Entry, part: fn(Moved) -> i64| entry.moved.map(part);
        Self {
            businesses: order.iter().map(|(request, _)| request.business).collect(),
            requests: order.iter().map(|(request, _)| request.id).collect(),
            kinds: order.iter().map(|(request, _)| request.movement.kind()).collect(),
            targets: order.iter().map(|(request, _)| request.movement.target()).collect(),
            emails: order
                .iter()
                .map(|(request, (_, entry))| request.movement.email().or(entry.email.as_ref()))
                .collect(),
            amounts: order.iter().map(|(request, (_, entry))| entry.cents.or(cents_asked(request))).collect(),
            outcomes: order.iter().map(|(_, (outcome, _))| *outcome).collect(),
            references: order.iter().map(|(request, _)| request.reference.as_ref()).collect(),
            remaining: order.iter().map(|(_, (_, entry))| entry.remaining).collect(),
            seqs: order.iter().map(|(_, (_, entry))| moved(entry, |moved| moved.seq)).collect(),
            balances: order.iter().map(|(_, (_, entry))| moved(entry, |moved| moved.payout_balance_after)).collect(),
            times: order.iter().map(|(_, (_, entry))| entry.moved.map(|moved| moment(moved.at))).collect(),
        }
    }
}

fn cents_asked(request: &Request) -> Option<i64> {
    request.movement.amount().map(Amount::cents)
}
