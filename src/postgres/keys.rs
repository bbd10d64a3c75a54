//! Idempotency keys. A key's row has its epoch, the number of voids under the key, and the one allocation under the key. An
//! attempt that carries another epoch is not applied.

use super::Error;
use crate::ledger::{Amount, BusinessId, Email, IdempotencyKey, KeyChange, KeyState, Keys, RaiseCount, RequestId};
use sqlx::PgConnection;

/// Locks the keys, in their order, and reads them. A key without a row gets one, so that there is a row to lock.
pub async fn lock_many(connection: &mut PgConnection, sorted: &[(BusinessId, IdempotencyKey)]) -> Result<Keys, Error> {
    let (businesses, names): (Vec<_>, Vec<_>) = sorted.iter().map(|(business, key)| (*business, key)).unzip();
    let rows = sqlx::query!(
        r#"/* lock_keys */
        INSERT INTO idempotency_keys AS k (business_id, key)
        SELECT * FROM unnest($1::uuid[], $2::text[])
        ON CONFLICT (business_id, key) DO UPDATE SET epoch = k.epoch
        RETURNING business_id AS "business: BusinessId", key AS "key: IdempotencyKey", epoch, raise_count,
                  request_id AS "request: RequestId", email AS "email: Email", amount AS "amount: Amount""#,
        &businesses as &[BusinessId],
        &names as &[&IdempotencyKey]
    )
    .map(|row| {
        let allocated = allocation(row.request, row.email, row.amount);
        let state = KeyState { epoch: row.epoch, raise: Some(RaiseCount(row.raise_count)), allocated };
        ((row.business, row.key), state)
    })
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Writes the one allocation under each key. All keys are locked.
pub async fn write_allocated(connection: &mut PgConnection, changes: &[&KeyChange]) -> Result<(), Error> {
    let columns = KeyColumns::new(changes);
    sqlx::query!(
        "/* write_allocated_keys */
         UPDATE idempotency_keys k SET request_id = c.request_id, email = c.email, amount = c.amount
         FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::bigint[])
              AS c (business_id, key, request_id, email, amount)
         WHERE k.business_id = c.business_id AND k.key = c.key",
        &columns.businesses as &[BusinessId],
        &columns.names as &[&IdempotencyKey],
        &columns.requests as &[Option<RequestId>],
        &columns.emails as &[Option<&Email>],
        &columns.amounts as &[Option<Amount>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Raises the epochs of keys to the epochs that are given with them, and returns the count of this raise. All keys are
/// locked.
///
/// The count's row is locked after everything else, and stays locked until the commit. So raises commit in the order of
/// their counts, and a transaction that holds the count waits for no other lock.
pub async fn raise(
    connection: &mut PgConnection,
    keys: &[(BusinessId, &IdempotencyKey, i64)],
) -> Result<RaiseCount, Error> {
    let (businesses, names): (Vec<_>, Vec<_>) = keys.iter().map(|(business, key, _)| (*business, *key)).unzip();
    let epochs: Vec<i64> = keys.iter().map(|(_, _, epoch)| *epoch).collect();
    let count = sqlx::query_scalar!(
        "/* raise_keys */
         WITH raise AS (
             UPDATE key_raises SET count = count + 1 WHERE only_row RETURNING count
         ), raised AS (
             UPDATE idempotency_keys k SET epoch = r.epoch, raise_count = raise.count
             FROM raise, unnest($1::uuid[], $2::text[], $3::bigint[]) AS r (business_id, key, epoch)
             WHERE k.business_id = r.business_id AND k.key = r.key
         )
         SELECT count FROM raise",
        &businesses as &[BusinessId],
        &names as &[&IdempotencyKey],
        &epochs
    )
    .fetch_one(connection)
    .await?;
    Ok(RaiseCount(count))
}

/// The count of the last raise that is committed. If it is not `fresh`, a synchronous standby has to have it first: a raise
/// that a failover takes back, with its count, must not count for a request.
pub async fn read_raises(connection: &mut PgConnection, fresh: Option<RaiseCount>) -> Result<RaiseCount, Error> {
    let count = sqlx::query_scalar!(
        "/* read_raises */ SELECT count FROM key_raises WHERE only_row AND (count = $1 OR (SELECT await_standby()))",
        fresh.map(|RaiseCount(count)| count)
    );
    Ok(RaiseCount(count.fetch_one(connection).await?))
}

/// The request that was allocated under a key, if there is one.
pub async fn find_allocated(
    connection: &mut PgConnection,
    business: BusinessId,
    key: &IdempotencyKey,
) -> Result<Option<RequestId>, Error> {
    let request = sqlx::query_scalar!(
        r#"/* find_key */
        SELECT request_id AS "request: RequestId" FROM idempotency_keys WHERE business_id = $1 AND key = $2"#,
        business as BusinessId,
        key as &IdempotencyKey
    )
    .fetch_optional(connection)
    .await?;
    Ok(request.flatten())
}

/// The key that a request was allocated under, with its epoch. Looks through all keys of the business.
pub async fn find_of_request(
    connection: &mut PgConnection,
    business: BusinessId,
    request: RequestId,
) -> Result<Option<(String, i64)>, Error> {
    let row = sqlx::query!(
        "/* find_key_of_request */ SELECT key, epoch FROM idempotency_keys WHERE business_id = $1 AND request_id = $2",
        business as BusinessId,
        request as RequestId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.key, row.epoch)))
}

/// The allocation under a key, if there is one. Its columns are null together.
fn allocation(
    request: Option<RequestId>,
    email: Option<Email>,
    amount: Option<Amount>,
) -> Option<(RequestId, Email, Amount)> {
    Some((request?, email?, amount?))
}

/// The allocations under keys, one vector for each column.
pub(super) struct KeyColumns<'a> {
    pub businesses: Vec<BusinessId>,
    pub names: Vec<&'a IdempotencyKey>,
    pub requests: Vec<Option<RequestId>>,
    pub emails: Vec<Option<&'a Email>>,
    pub amounts: Vec<Option<Amount>>,
}

impl<'a> KeyColumns<'a> {
    pub(super) fn new(changes: &[&'a KeyChange]) -> Self {
        let allocated = |change: &&'a KeyChange| change.state.allocated.as_ref();
        Self {
            businesses: changes.iter().map(|change| change.business).collect(),
            names: changes.iter().map(|change| &change.key).collect(),
            requests: changes.iter().map(|change| allocated(change).map(|(id, _, _)| *id)).collect(),
            emails: changes.iter().map(|change| allocated(change).map(|(_, email, _)| email)).collect(),
            amounts: changes.iter().map(|change| allocated(change).map(|(_, _, amount)| *amount)).collect(),
        }
    }
}
