//! Idempotency keys: the epoch that fences off earlier attempts, and the one allocation under a key.

use super::Error;
use crate::ledger::{Amount, BusinessId, Email, IdempotencyKey, KeyChange, KeyState, Keys, RequestId};
use sqlx::PgConnection;
use uuid::Uuid;

/// Locks the keys, sorted, and reads them. A key without a row is left out: nothing can be locked there, and whoever
/// writes it first makes the other's insert of it find a row.
pub async fn lock_many(connection: &mut PgConnection, sorted: &[(BusinessId, IdempotencyKey)]) -> Result<Keys, Error> {
    let businesses: Vec<Uuid> = sorted.iter().map(|(business, _)| Uuid::from_u128(business.as_u128())).collect();
    let names: Vec<&str> = sorted.iter().map(|(_, key)| key.as_str()).collect();
    let rows = sqlx::query!(
        "/* lock_keys */
         SELECT k.business_id, k.key, k.epoch, k.request_id, k.email, k.amount
         FROM unnest($1::uuid[], $2::text[]) AS wanted (business_id, key)
         JOIN idempotency_keys k USING (business_id, key)
         ORDER BY k.business_id, k.key FOR UPDATE OF k",
        &businesses,
        &names as &[&str]
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let key =
                IdempotencyKey::parse(&row.key).ok_or_else(|| Error::Fatal("a stored key is not valid".to_owned()))?;
            let state = read_state(row.epoch, row.request_id, row.email, row.amount)?;
            Ok(((BusinessId::from_u128(row.business_id.as_u128()), key), state))
        })
        .collect()
}

/// Writes the keys that had no row, sorted. Answers how many went in: fewer than sent means that somebody else wrote one.
pub async fn write_new(connection: &mut PgConnection, sorted: &[&KeyChange]) -> Result<u64, Error> {
    let columns = Columns::of(sorted);
    let done = sqlx::query!(
        "/* write_new_keys */
         INSERT INTO idempotency_keys (business_id, key, epoch, request_id, email, amount)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::bigint[])
         ON CONFLICT DO NOTHING",
        &columns.businesses,
        &columns.names as &[&str],
        &columns.epochs,
        &columns.requests as &[Option<Uuid>],
        &columns.emails as &[Option<&str>],
        &columns.amounts as &[Option<i64>]
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Writes the new states of keys that were read and locked before.
pub async fn write_changed(connection: &mut PgConnection, sorted: &[&KeyChange]) -> Result<(), Error> {
    let columns = Columns::of(sorted);
    sqlx::query!(
        "/* write_changed_keys */
         UPDATE idempotency_keys k SET epoch = c.epoch, request_id = c.request_id, email = c.email, amount = c.amount
         FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::bigint[])
              AS c (business_id, key, epoch, request_id, email, amount)
         WHERE k.business_id = c.business_id AND k.key = c.key",
        &columns.businesses,
        &columns.names as &[&str],
        &columns.epochs,
        &columns.requests as &[Option<Uuid>],
        &columns.emails as &[Option<&str>],
        &columns.amounts as &[Option<i64>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Locks a key, creating it if need be, raises its epoch unless it was allocated under, and reads it.
pub async fn write_raised(
    connection: &mut PgConnection,
    business: BusinessId,
    key: &IdempotencyKey,
) -> Result<KeyState, Error> {
    let row = sqlx::query!(
        "/* write_raised_epoch */
         INSERT INTO idempotency_keys AS k (business_id, key, epoch) VALUES ($1, $2, 1)
         ON CONFLICT (business_id, key) DO UPDATE SET epoch = k.epoch + (k.request_id IS NULL)::int
         RETURNING epoch, request_id, email, amount",
        Uuid::from_u128(business.as_u128()),
        key.as_str()
    )
    .fetch_one(connection)
    .await?;
    read_state(row.epoch, row.request_id, row.email, row.amount)
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

fn read_state(
    epoch: i64,
    request: Option<Uuid>,
    email: Option<String>,
    amount: Option<i64>,
) -> Result<KeyState, Error> {
    let (Some(request), Some(email), Some(cents)) = (request, email, amount) else {
        return Ok(KeyState { epoch, allocated: None });
    };
    let email = Email::parse(&email).map_err(|_| Error::Fatal("a stored email is not valid".to_owned()))?;
    let amount = Amount::from_cents(cents).map_err(|_| Error::Fatal("a stored amount is not valid".to_owned()))?;
    Ok(KeyState { epoch, allocated: Some((RequestId::from_u128(request.as_u128()), email, amount)) })
}

/// Key changes, a vector a column.
pub(super) struct Columns<'a> {
    pub businesses: Vec<Uuid>,
    pub names: Vec<&'a str>,
    pub epochs: Vec<i64>,
    pub requests: Vec<Option<Uuid>>,
    pub emails: Vec<Option<&'a str>>,
    pub amounts: Vec<Option<i64>>,
}

impl<'a> Columns<'a> {
    pub fn of(changes: &[&'a KeyChange]) -> Self {
        let allocated = |change: &&'a KeyChange| change.state.allocated.as_ref();
        Self {
            businesses: changes.iter().map(|change| Uuid::from_u128(change.business.as_u128())).collect(),
            names: changes.iter().map(|change| change.key.as_str()).collect(),
            epochs: changes.iter().map(|change| change.state.epoch).collect(),
            requests: changes
                .iter()
                .map(|change| allocated(change).map(|(id, _, _)| Uuid::from_u128(id.as_u128())))
                .collect(),
            emails: changes.iter().map(|change| allocated(change).map(|(_, email, _)| email.as_str())).collect(),
            amounts: changes.iter().map(|change| allocated(change).map(|(_, _, amount)| amount.cents())).collect(),
        }
    }
}
