//! What a decision needs beside businesses and keys: what its reversals name, and the balances of the users who would lose
//! money. Whoever has locked the businesses reads them as they will be when he writes: only the holder of a business's lock
//! writes its users and its movements.

use super::allocations::{Decided, find_decided};
use super::businesses::read_account;
use super::keys::read_many;
use super::users::{Hashes, find_hashes};
use super::{Error, rollback};
use crate::ledger::{
    Accounts, Books, BusinessId, Email, Keys, Kind, Movement, Request, RequestId, Target, Targets, Users,
};
use sqlx::{Connection, PgConnection};
use std::collections::{BTreeSet, HashMap};

/// Reads what is needed to decide on `requests`: nothing, if all of them are allocations.
pub async fn read(
    connection: &mut PgConnection,
    accounts: Accounts,
    keys: Keys,
    requests: &[Request],
) -> Result<Books, Error> {
    let reversed: BTreeSet<_> =
        requests.iter().filter_map(|request| Some((request.business, request.movement.target()?))).collect();
    let targets = if reversed.is_empty() { Targets::new() } else { read_targets(connection, reversed).await? };
    let losing: BTreeSet<_> = requests.iter().filter_map(|request| losing_user(request, &targets)).collect();
    let users = if losing.is_empty() { Users::new() } else { read_users(connection, losing).await? };
    Ok(Books { accounts, keys, users, targets })
}

/// The user who would lose money by this request. Of an allocation that is made and reversed in one batch the user need not
/// be known: the batch credits at least as much as it takes back.
fn losing_user(request: &Request, targets: &Targets) -> Option<(BusinessId, Email)> {
    let email = match &request.movement {
        Movement::Allocate { .. } => return None,
        Movement::Settle { email, .. } => email,
        Movement::Reverse { target, .. } => &targets.get(&(request.business, *target))?.email,
    };
    Some((request.business, email.clone()))
}

async fn read_targets(
    connection: &mut PgConnection,
    names: BTreeSet<(BusinessId, RequestId)>,
) -> Result<Targets, Error> {
    let (businesses, ids): (Vec<_>, Vec<_>) = names.into_iter().unzip();
    let rows = sqlx::query!(
        r#"/* read_targets */
        SELECT a.business_id AS "business: BusinessId", a.request_id AS "id: RequestId", a.kind AS "kind!: Kind",
               a.email AS "email!: Email", COALESCE(last.remaining, a.amount) AS "remaining!"
        FROM unnest($1::uuid[], $2::uuid[]) AS wanted (business_id, request_id)
        JOIN allocations a USING (business_id, request_id)
        LEFT JOIN LATERAL (
            SELECT r.remaining FROM allocations r
            WHERE r.business_id = a.business_id AND r.target = a.request_id AND r.seq IS NOT NULL ORDER BY r.seq DESC LIMIT 1
        ) AS last ON true
        WHERE a.outcome IN ('allocated', 'settled')"#,
        &businesses as &[BusinessId],
        &ids as &[RequestId]
    )
    .map(|row| {
        let target = Target { email: row.email, is_settlement: row.kind == Kind::Settle, remaining: row.remaining };
        ((row.business, row.id), target)
    })
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

async fn read_users(connection: &mut PgConnection, names: BTreeSet<(BusinessId, Email)>) -> Result<Users, Error> {
    let (businesses, emails): (Vec<_>, Vec<_>) = names.into_iter().unzip();
    let rows = sqlx::query!(
        r#"/* read_user_balances */
        SELECT u.business_id AS "business: BusinessId", u.email AS "email: Email", u.balance
        FROM unnest($1::uuid[], $2::text[]) AS wanted (business_id, email) JOIN payout_users u USING (business_id, email)"#,
        &businesses as &[BusinessId],
        &emails as &[Email]
    )
    .map(|row| ((row.business, row.email), row.balance))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// What a decision would be based on now, and what its answers would need besides.
#[derive(Debug)]
pub struct Snapshot {
    /// What the decision needs.
    pub books: Books,
    /// The hashes of the payout users of allocations, as far as there are such users.
    pub hashes: Hashes,
    /// The rows of the requests that succeeded under the keys.
    pub successes: HashMap<(BusinessId, RequestId), Decided>,
}

/// Reads in one snapshot what is needed to say how requests of a business would be decided now. Locks nothing.
pub async fn read_snapshot(
    connection: &mut PgConnection,
    business: BusinessId,
    requests: &[Request],
) -> Result<Snapshot, Error> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let accounts = read_account(&mut transaction, business).await?;
    let names: BTreeSet<_> =
        requests.iter().filter_map(|request| Some((business, request.key.as_ref()?.key.clone()))).collect();
    let keys = if names.is_empty() { Keys::new() } else { read_many(&mut transaction, &Vec::from_iter(names)).await? };
    let successes = keys.values().filter_map(|state| Some((business, state.success.as_ref()?.request)));
    let successes: Vec<_> = successes.collect();
    let successes =
        if successes.is_empty() { HashMap::new() } else { find_decided(&mut transaction, &successes).await? };
    let books = read(&mut transaction, accounts, keys, requests).await?;
    let credited = requests.iter().filter(|request| request.movement.kind() == Kind::Allocate);
    let credited: Vec<_> = credited.filter_map(|request| Some((business, request.movement.email()?))).collect();
    let hashes = if credited.is_empty() { Hashes::new() } else { find_hashes(&mut transaction, &credited).await? };
    rollback(transaction).await?;
    Ok(Snapshot { books, hashes, successes })
}
