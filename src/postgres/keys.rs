//! Idempotency keys. A key's row has its epoch, the number of voids under the key, and the one success under the key. An
//! attempt that carries another epoch is not applied.

use super::Error;
use crate::ledger::{
    Amount, BusinessId, Email, IdempotencyKey, KeyChange, KeyScope, KeyState, Keys, Kind, Movement, RaiseCount,
    RequestId, Success,
};
use sqlx::PgConnection;

/// A key, as its row says.
struct KeyRow {
    business: BusinessId,
    scope: KeyScope,
    key: String,
    epoch: i64,
    raise_count: i64,
    request: Option<RequestId>,
    kind: Option<Kind>,
    email: Option<Email>,
    amount: Option<Amount>,
    target: Option<RequestId>,
}

impl KeyRow {
    /// The key with its state. A success whose parts do not fit its kind cannot be stored.
    fn state(self) -> ((BusinessId, IdempotencyKey), KeyState) {
        let movement = self.kind.and_then(|kind| Movement::of(kind, self.email, self.amount, self.target));
        let success = self.request.zip(movement).map(|(request, movement)| Success { request, movement });
        let state = KeyState { epoch: self.epoch, raise: Some(RaiseCount(self.raise_count)), success };
        ((self.business, IdempotencyKey::stored(self.scope, self.key)), state)
    }
}

/// Keys, one vector for each column.
struct NameColumns<'a> {
    businesses: Vec<BusinessId>,
    scopes: Vec<KeyScope>,
    names: Vec<&'a str>,
}

impl<'a> NameColumns<'a> {
    fn new(keys: impl Iterator<Item = (BusinessId, &'a IdempotencyKey)> + Clone) -> Self {
        Self {
            businesses: keys.clone().map(|(business, _)| business).collect(),
            scopes: keys.clone().map(|(_, key)| key.scope()).collect(),
            names: keys.map(|(_, key)| key.as_str()).collect(),
        }
    }
}

/// Locks the keys, in their order, and reads them. A key without a row gets one, so that there is a row to lock.
pub async fn lock_many(connection: &mut PgConnection, sorted: &[(BusinessId, IdempotencyKey)]) -> Result<Keys, Error> {
    let columns = NameColumns::new(sorted.iter().map(|(business, key)| (*business, key)));
    let rows = sqlx::query_as!(
        KeyRow,
        r#"/* lock_keys */
        INSERT INTO idempotency_keys AS k (business_id, scope, key)
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[])
        ON CONFLICT (business_id, scope, key) DO UPDATE SET epoch = k.epoch
        RETURNING business_id AS "business: BusinessId", scope AS "scope: KeyScope", key, epoch, raise_count,
                  request_id AS "request: RequestId", kind AS "kind: Kind", email AS "email: Email", amount AS "amount: Amount",
                  target AS "target: RequestId""#,
        &columns.businesses as &[BusinessId],
        &columns.scopes as &[KeyScope],
        &columns.names as &[&str]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(KeyRow::state).collect())
}

/// Reads the keys without a lock, for an answer that decides nothing. A key without a row is left out.
pub async fn read_many(connection: &mut PgConnection, keys: &[(BusinessId, IdempotencyKey)]) -> Result<Keys, Error> {
    let columns = NameColumns::new(keys.iter().map(|(business, key)| (*business, key)));
    let rows = sqlx::query_as!(
        KeyRow,
        r#"/* read_keys */
        SELECT k.business_id AS "business: BusinessId", k.scope AS "scope: KeyScope", k.key, k.epoch, k.raise_count,
               k.request_id AS "request: RequestId", k.kind AS "kind: Kind", k.email AS "email: Email",
               k.amount AS "amount: Amount", k.target AS "target: RequestId"
        FROM unnest($1::uuid[], $2::text[], $3::text[]) AS wanted (business_id, scope, key)
        JOIN idempotency_keys k USING (business_id, scope, key)"#,
        &columns.businesses as &[BusinessId],
        &columns.scopes as &[KeyScope],
        &columns.names as &[&str]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(KeyRow::state).collect())
}

/// Writes the one success under each key. All keys are locked.
pub async fn write_successes(connection: &mut PgConnection, changes: &[&KeyChange]) -> Result<(), Error> {
    let columns = KeyColumns::new(changes);
    sqlx::query!(
        "/* write_key_successes */
         UPDATE idempotency_keys k SET request_id = c.request_id, kind = c.kind, email = c.email, amount = c.amount, target = c.target
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::bigint[], $8::uuid[])
              AS c (business_id, scope, key, request_id, kind, email, amount, target)
         WHERE k.business_id = c.business_id AND k.scope = c.scope AND k.key = c.key",
        &columns.businesses as &[BusinessId],
        &columns.scopes as &[KeyScope],
        &columns.names as &[&str],
        &columns.requests as &[Option<RequestId>],
        &columns.kinds as &[Option<Kind>],
        &columns.emails as &[Option<&Email>],
        &columns.amounts as &[Option<i64>],
        &columns.targets as &[Option<RequestId>]
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
    let columns = NameColumns::new(keys.iter().map(|(business, key, _)| (*business, *key)));
    let epochs: Vec<i64> = keys.iter().map(|(_, _, epoch)| *epoch).collect();
    let count = sqlx::query_scalar!(
        "/* raise_keys */
         WITH raise AS (
             UPDATE key_raises SET count = count + 1 WHERE only_row RETURNING count
         ), raised AS (
             UPDATE idempotency_keys k SET epoch = r.epoch, raise_count = raise.count
             FROM raise, unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[]) AS r (business_id, scope, key, epoch)
             WHERE k.business_id = r.business_id AND k.scope = r.scope AND k.key = r.key
         )
         SELECT count FROM raise",
        &columns.businesses as &[BusinessId],
        &columns.scopes as &[KeyScope],
        &columns.names as &[&str],
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

/// The request that succeeded under a key, if there is one.
pub async fn find_success(
    connection: &mut PgConnection,
    business: BusinessId,
    key: &IdempotencyKey,
) -> Result<Option<RequestId>, Error> {
    let request = sqlx::query_scalar!(
        r#"/* find_key */
        SELECT request_id AS "request: RequestId" FROM idempotency_keys WHERE business_id = $1 AND scope = $2 AND key = $3"#,
        business as BusinessId,
        key.scope() as KeyScope,
        key.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(request.flatten())
}

/// The key that a request succeeded under, with its epoch. Looks through all keys of the business.
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

/// The successes under keys, one vector for each column.
pub(super) struct KeyColumns<'a> {
    pub businesses: Vec<BusinessId>,
    pub scopes: Vec<KeyScope>,
    pub names: Vec<&'a str>,
    pub requests: Vec<Option<RequestId>>,
    pub kinds: Vec<Option<Kind>>,
    pub emails: Vec<Option<&'a Email>>,
    pub amounts: Vec<Option<i64>>,
    pub targets: Vec<Option<RequestId>>,
}

impl<'a> KeyColumns<'a> {
    pub(super) fn new(changes: &[&'a KeyChange]) -> Self {
        let NameColumns { businesses, scopes, names } =
            NameColumns::new(changes.iter().map(|change| (change.business, &change.key)));
        let success = |change: &&'a KeyChange| change.state.success.as_ref();
        let movement = |change: &&'a KeyChange| success(change).map(|success| &success.movement);
        Self {
            businesses,
            scopes,
            names,
            requests: changes.iter().map(|change| success(change).map(|success| success.request)).collect(),
            kinds: changes.iter().map(|change| movement(change).map(Movement::kind)).collect(),
            emails: changes.iter().map(|change| movement(change).and_then(Movement::email)).collect(),
            amounts: changes.iter().map(|change| Some(movement(change)?.amount()?.cents())).collect(),
            targets: changes.iter().map(|change| movement(change).and_then(Movement::target)).collect(),
        }
    }
}
