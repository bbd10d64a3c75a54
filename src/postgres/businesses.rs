//! Businesses, their balances, their deposits, and the switch of their payouts.

use super::types::moment;
use super::{Error, Postgres, begin, commit};
use crate::ledger::{Account, Accounts, BusinessId, Caps, DayTotal, Millis};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// Proves that businesses are locked until the transaction ends, and were read under that lock. `batches::write` takes it as
/// the right to write.
#[derive(Debug)]
pub struct LockedBusinesses {
    accounts: Accounts,
}

impl LockedBusinesses {
    /// The businesses as they stood when they were locked.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }
}

/// What a decision needs of a business, as a row.
struct AccountRow {
    business: BusinessId,
    payout_balance: i64,
    payouts_enabled: bool,
    largest_allocation: Option<i64>,
    daily_limit: Option<i64>,
    seq: i64,
    moved_at: Millis,
    day: i32,
    day_total: i64,
}

impl AccountRow {
    fn account(&self) -> (BusinessId, Account) {
        let account = Account {
            payout_balance: self.payout_balance,
            payouts_enabled: self.payouts_enabled,
            caps: Caps { largest: self.largest_allocation, daily: self.daily_limit },
            seq: self.seq,
            moved_at: self.moved_at,
            allocated: DayTotal { day: self.day, cents: self.day_total },
        };
        (self.business, account)
    }
}

/// Locks the businesses, in the order of their ids, and reads them. A business that does not exist is left out.
///
/// It locks with `FOR NO KEY UPDATE`. With `FOR UPDATE`, every insert of a row with a foreign key to the business would
/// wait.
pub async fn lock_many(connection: &mut PgConnection, sorted: &[BusinessId]) -> Result<LockedBusinesses, Error> {
    let rows = sqlx::query_as!(
        AccountRow,
        r#"/* lock_businesses */
        SELECT business_id AS "business: BusinessId", payout_balance, payouts_enabled, largest_allocation, daily_limit, seq,
               (extract(epoch FROM moved_at) * 1000)::bigint AS "moved_at!", day - DATE 'epoch' AS "day!", day_total
        FROM businesses WHERE business_id = ANY($1) ORDER BY business_id FOR NO KEY UPDATE"#,
        sorted as &[BusinessId]
    )
    .fetch_all(connection)
    .await?;
    Ok(LockedBusinesses { accounts: rows.iter().map(AccountRow::account).collect() })
}

/// Reads a business without a lock, for an answer that decides nothing. It is left out if there is none with this id.
pub async fn read_account(connection: &mut PgConnection, business: BusinessId) -> Result<Accounts, Error> {
    let row = sqlx::query_as!(
        AccountRow,
        r#"/* read_account */
        SELECT business_id AS "business: BusinessId", payout_balance, payouts_enabled, largest_allocation, daily_limit, seq,
               (extract(epoch FROM moved_at) * 1000)::bigint AS "moved_at!", day - DATE 'epoch' AS "day!", day_total
        FROM businesses WHERE business_id = $1"#,
        business as BusinessId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.iter().map(AccountRow::account).collect())
}

/// A business with all its columns. Money is in cents.
#[derive(Clone, Debug)]
pub struct Business {
    /// The business.
    pub business_id: Uuid,
    /// What people call it.
    pub name: String,
    /// The main balance, in cents. Allocations never change it.
    pub balance: i64,
    /// What the business can still allocate, in cents.
    pub payout_balance: i64,
    /// Whether requests of the business are decided on their merits, or refused with 403.
    pub payouts_enabled: bool,
    /// The largest amount of one allocation, in cents. `None`: any.
    pub largest_allocation: Option<i64>,
    /// The largest sum of the allocations of one day (UTC), in cents. `None`: any.
    pub daily_limit: Option<i64>,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// The main balance and the payout balance, in cents.
pub async fn read_balances(connection: &mut PgConnection, business: BusinessId) -> Result<(i64, i64), Error> {
    let row = sqlx::query!(
        "/* read_balances */ SELECT balance, payout_balance FROM businesses WHERE business_id = $1",
        business as BusinessId
    )
    .fetch_one(connection)
    .await?;
    Ok((row.balance, row.payout_balance))
}

/// All businesses, the oldest first.
pub async fn read_all(connection: &mut PgConnection) -> Result<Vec<Business>, Error> {
    Ok(sqlx::query_as!(
        Business,
        "/* read_businesses */
         SELECT business_id, name, balance, payout_balance, payouts_enabled, largest_allocation, daily_limit, created_at
         FROM businesses ORDER BY created_at, business_id"
    )
    .fetch_all(connection)
    .await?)
}

/// A page of a shard's businesses in the order of their names, at most `limit`. `search` is a part of a name in any case, or
/// a whole id, or empty. `after` is the last business of the page before, of any shard.
///
/// Each comes with its name in lower case, by whose bytes the page is ordered. So pages of several shards can be merged.
pub async fn find_page(
    connection: &mut PgConnection,
    search: &str,
    after: Option<&Business>,
    limit: i64,
) -> Result<Vec<(String, Business)>, Error> {
    Ok(sqlx::query!(
        r#"/* find_businesses */
         SELECT lower(name) AS "place!", business_id, name, balance, payout_balance, payouts_enabled,
                largest_allocation, daily_limit, created_at
         FROM businesses
         WHERE ($1 = '' OR strpos(lower(name), lower($1)) > 0 OR business_id::text = lower($1))
           AND ($2::uuid IS NULL OR (lower(name) COLLATE "C", business_id) > (lower($3) COLLATE "C", $2))
         ORDER BY lower(name) COLLATE "C", business_id LIMIT $4"#,
        search,
        after.map(|business| business.business_id),
        after.map(|business| business.name.as_str()).unwrap_or_default(),
        limit
    )
    .map(|row| {
        let business = Business {
            business_id: row.business_id,
            name: row.name,
            balance: row.balance,
            payout_balance: row.payout_balance,
            payouts_enabled: row.payouts_enabled,
            largest_allocation: row.largest_allocation,
            daily_limit: row.daily_limit,
            created_at: row.created_at,
        };
        (row.place, business)
    })
    .fetch_all(connection)
    .await?)
}

/// How many businesses a shard has.
pub async fn count(connection: &mut PgConnection) -> Result<u64, Error> {
    let count = sqlx::query_scalar!(r#"/* count_businesses */ SELECT count(*) AS "count!" FROM businesses"#);
    Ok(count.fetch_one(connection).await?.unsigned_abs())
}

/// One business; `None` if there is none with this id.
pub async fn find_one(connection: &mut PgConnection, business: Uuid) -> Result<Option<Business>, Error> {
    Ok(sqlx::query_as!(
        Business,
        "/* find_business */
         SELECT business_id, name, balance, payout_balance, payouts_enabled, largest_allocation, daily_limit, created_at
         FROM businesses WHERE business_id = $1",
        business
    )
    .fetch_optional(connection)
    .await?)
}

/// Stores a new business, whose payout balance is its first movement.
pub async fn write_new(connection: &mut PgConnection, business: &Business) -> Result<(), Error> {
    sqlx::query!(
        "/* write_business */
         INSERT INTO businesses (business_id, name, balance, payout_balance, payouts_enabled, created_at, seq, moved_at)
         VALUES ($1, $2, $3, $4, $5, $6, LEAST($4::bigint, 1), $6)",
        business.business_id,
        business.name,
        business.balance,
        business.payout_balance,
        business.payouts_enabled,
        business.created_at,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What a business's row says after a deposit or a withdrawal.
#[derive(Clone, Copy, Debug)]
pub struct Funded {
    /// The number of the movement.
    pub seq: i64,
    /// The payout balance after it, in cents.
    pub payout_balance: i64,
    /// When it was.
    pub moved_at: OffsetDateTime,
}

/// Changes a payout balance by a deposit's amount; `None` if there is no such business.
pub async fn write_payout_balance(
    connection: &mut PgConnection,
    business: BusinessId,
    cents: i64,
    clock: Millis,
) -> Result<Option<Funded>, Error> {
    Ok(sqlx::query_as!(
        Funded,
        "/* write_payout_balance */
         UPDATE businesses SET payout_balance = payout_balance + $1, seq = seq + 1, moved_at = GREATEST(moved_at, $3)
         WHERE business_id = $2 RETURNING seq, payout_balance, moved_at",
        cents,
        business as BusinessId,
        moment(clock)
    )
    .fetch_optional(connection)
    .await?)
}

/// Stores the row of a deposit. [`deposit`] changes the balance as well.
pub async fn write_deposit(
    connection: &mut PgConnection,
    business: BusinessId,
    deposit: Uuid,
    cents: i64,
    note: &str,
    funded: Funded,
) -> Result<(), Error> {
    sqlx::query!(
        "/* write_deposit */
         INSERT INTO deposits (business_id, deposit_id, amount, note, seq, payout_balance_after, moved_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        business as BusinessId,
        deposit,
        cents,
        note,
        funded.seq,
        funded.payout_balance,
        funded.moved_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An amount that was put into a payout balance by hand, or taken out of it.
#[derive(Clone, Debug)]
pub struct Deposit {
    /// The deposit.
    pub deposit_id: Uuid,
    /// What was put in, in cents; negative if it was taken out.
    pub amount: i64,
    /// The reason, as the person who made the deposit wrote it.
    pub note: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// The latest deposits of a business, at most `limit`.
pub async fn read_deposits(connection: &mut PgConnection, business: Uuid, limit: i64) -> Result<Vec<Deposit>, Error> {
    Ok(sqlx::query_as!(
        Deposit,
        "/* read_deposits */
         SELECT deposit_id, amount, note, created_at FROM deposits
         WHERE business_id = $1 ORDER BY created_at DESC, deposit_id LIMIT $2",
        business,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// Changes a payout balance and writes the deposit's row, in one transaction. Returns the new balance in cents; `None` if
/// there is no such business. The primary key refuses a deposit id that was used before, so a deposit that is sent twice is
/// made once. `clock`: the time now.
pub async fn deposit(
    postgres: &Postgres,
    business: BusinessId,
    deposit: Uuid,
    cents: i64,
    note: &str,
    clock: Millis,
) -> Result<Option<i64>, Error> {
    let writing = async |connection: &mut PgConnection| {
        let mut transaction = begin(connection).await?;
        let funded = write_payout_balance(&mut transaction, business, cents, clock).await?;
        if let Some(funded) = funded {
            write_deposit(&mut transaction, business, deposit, cents, note, funded).await?;
        }
        commit(transaction).await?;
        Ok(funded.map(|funded| funded.payout_balance))
    };
    postgres.write(writing).await
}

/// Sets what a business allows itself, and returns all of it; `None` if there is no such business. What is not given stays.
/// Twice is the same as once.
pub async fn write_caps(
    connection: &mut PgConnection,
    business: Uuid,
    largest: Option<Option<i64>>,
    daily: Option<Option<i64>>,
) -> Result<Option<Caps>, Error> {
    Ok(sqlx::query_as!(
        Caps,
        "/* write_caps */
         UPDATE businesses b SET largest_allocation = new.largest, daily_limit = new.daily,
                limited_after = CASE WHEN (b.largest_allocation, b.daily_limit) IS NOT DISTINCT FROM (new.largest, new.daily)
                                     THEN limited_after ELSE seq END
         FROM (SELECT CASE WHEN $1 THEN $2::bigint ELSE largest_allocation END AS largest,
                      CASE WHEN $3 THEN $4::bigint ELSE daily_limit END AS daily
               FROM businesses WHERE business_id = $5 FOR NO KEY UPDATE) AS new
         WHERE b.business_id = $5
         RETURNING largest_allocation AS largest, daily_limit AS daily",
        largest.is_some(),
        largest.flatten(),
        daily.is_some(),
        daily.flatten(),
        business
    )
    .fetch_optional(connection)
    .await?)
}

/// Turns payouts on or off; false if there is no such business. Twice is the same as once.
pub async fn write_payouts_enabled(
    connection: &mut PgConnection,
    business: Uuid,
    enabled: bool,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* write_payouts_enabled */ UPDATE businesses SET payouts_enabled = $1 WHERE business_id = $2",
        enabled,
        business
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
