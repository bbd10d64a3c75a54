//! Idempotency keys: the epoch that fences off earlier attempts, and the one allocation under a key.

use super::Error;
use crate::ledger::{Amount, BusinessId, Email, IdempotencyKey, KeyChange, KeyState, Keys, RaiseCount, RequestId};
use sqlx::PgConnection;
use uuid::Uuid;

/// Locks the keys, sorted, and reads them. One that has no row yet gets one: else nothing could be locked there.
pub async fn lock_many(connection: &mut PgConnection, sorted: &[(BusinessId, IdempotencyKey)]) -> Result<Keys, Error> {
    let (businesses, names) = columns(sorted.iter().map(|(business, key)| (*business, key)));
    let rows = sqlx::query!(
        "/* lock_keys */
         INSERT INTO idempotency_keys AS k (business_id, key)
         SELECT * FROM unnest($1::uuid[], $2::text[])
         ON CONFLICT (business_id, key) DO UPDATE SET epoch = k.epoch
         RETURNING business_id, key, epoch, raise_count, request_id, email, amount",
        &businesses,
        &names as &[&str]
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let key =
                IdempotencyKey::parse(&row.key).ok_or_else(|| Error::Fatal("a stored key is not valid".to_owned()))?;
            let allocated = read_allocated(row.request_id, row.email, row.amount)?;
            let state = KeyState { epoch: row.epoch, raise: Some(RaiseCount(row.raise_count)), allocated };
            Ok(((BusinessId::from_u128(row.business_id.as_u128()), key), state))
        })
        .collect()
}

/// Notes the one allocation under each key, all of which are locked.
pub async fn write_allocated(connection: &mut PgConnection, changes: &[&KeyChange]) -> Result<(), Error> {
    let columns = KeyColumns::new(changes);
    sqlx::query!(
        "/* write_allocated_keys */
         UPDATE idempotency_keys k SET request_id = c.request_id, email = c.email, amount = c.amount
         FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::bigint[])
              AS c (business_id, key, request_id, email, amount)
         WHERE k.business_id = c.business_id AND k.key = c.key",
        &columns.businesses,
        &columns.names as &[&str],
        &columns.requests as &[Option<Uuid>],
        &columns.emails as &[Option<&str>],
        &columns.amounts as &[Option<i64>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Brings keys, all of which are locked, into the epochs that are given with them, and answers the count of this raise.
///
/// The row of the count is locked after everything else, and until the commit. So raises commit in the order of their
/// counts, and nobody who holds the count waits for a key or a row.
pub async fn raise(
    connection: &mut PgConnection,
    keys: &[(BusinessId, &IdempotencyKey, i64)],
) -> Result<RaiseCount, Error> {
    let (businesses, names) = columns(keys.iter().map(|(business, key, _)| (*business, *key)));
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
        &businesses,
        &names as &[&str],
        &epochs
    )
    .fetch_one(connection)
    .await?;
    Ok(RaiseCount(count))
}

/// The count of the last raise that is committed.
pub async fn read_raises(connection: &mut PgConnection) -> Result<RaiseCount, Error> {
    let count = sqlx::query_scalar!("/* read_raises */ SELECT count FROM key_raises WHERE only_row");
    Ok(RaiseCount(count.fetch_one(connection).await?))
}

fn columns<'a>(keys: impl Iterator<Item = (BusinessId, &'a IdempotencyKey)>) -> (Vec<Uuid>, Vec<&'a str>) {
    keys.map(|(business, key)| (Uuid::from_u128(business.as_u128()), key.as_str())).unzip()
}

/// The request that was allocated under a key.
pub async fn find_allocated(
    connection: &mut PgConnection,
    business: BusinessId,
    key: &IdempotencyKey,
) -> Result<Option<RequestId>, Error> {
    let request = sqlx::query_scalar!(
        "/* find_key */ SELECT request_id FROM idempotency_keys WHERE business_id = $1 AND key = $2",
        Uuid::from_u128(business.as_u128()),
        key.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(request.flatten().map(|id| RequestId::from_u128(id.as_u128())))
}

/// The key that a request was allocated under, with its epoch. Looks through all keys of the business.
pub async fn find_of_request(
    connection: &mut PgConnection,
    business: BusinessId,
    request: RequestId,
) -> Result<Option<(String, i64)>, Error> {
    let row = sqlx::query!(
        "/* find_key_of_request */ SELECT key, epoch FROM idempotency_keys WHERE business_id = $1 AND request_id = $2",
        Uuid::from_u128(business.as_u128()),
        Uuid::from_u128(request.as_u128())
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.key, row.epoch)))
}

fn read_allocated(
    request: Option<Uuid>,
    email: Option<String>,
    amount: Option<i64>,
) -> Result<Option<(RequestId, Email, Amount)>, Error> {
    let (Some(request), Some(email), Some(cents)) = (request, email, amount) else { return Ok(None) };
    let amount = Amount::from_cents(cents).map_err(|_| Error::Fatal("a stored amount is not valid".to_owned()))?;
    Ok(Some((RequestId::from_u128(request.as_u128()), Email::stored(email), amount)))
}

/// The allocations under keys, a vector a column.
pub(super) struct KeyColumns<'a> {
    pub businesses: Vec<Uuid>,
    pub names: Vec<&'a str>,
    pub requests: Vec<Option<Uuid>>,
    pub emails: Vec<Option<&'a str>>,
    pub amounts: Vec<Option<i64>>,
}

impl<'a> KeyColumns<'a> {
    pub(super) fn new(changes: &[&'a KeyChange]) -> Self {
        let allocated = |change: &&'a KeyChange| change.state.allocated.as_ref();
        let (businesses, names) = columns(changes.iter().map(|change| (change.business, &change.key)));
        Self {
            businesses,
            names,
            requests: changes
                .iter()
                .map(|change| allocated(change).map(|(id, _, _)| Uuid::from_u128(id.as_u128())))
                .collect(),
            emails: changes.iter().map(|change| allocated(change).map(|(_, email, _)| email.as_str())).collect(),
            amounts: changes.iter().map(|change| allocated(change).map(|(_, _, amount)| amount.cents())).collect(),
        }
    }
}
