//! Payout users.

use super::Error;
use crate::ledger::{BusinessId, Email, UserHash};
use sqlx::PgConnection;
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// A payout user. Balance in cents.
#[derive(Clone, Debug)]
pub struct PayoutUser {
    pub email: String,
    pub hash: Vec<u8>,
    pub balance: i64,
    pub status: String,
    pub created_at: OffsetDateTime,
}

pub async fn find_by_email(
    connection: &mut PgConnection,
    business: BusinessId,
    email: &Email,
) -> Result<Option<PayoutUser>, Error> {
    Ok(sqlx::query_as!(
        PayoutUser,
        "/* find_user_by_email */
         SELECT email, hash, balance, status, created_at FROM payout_users WHERE business_id = $1 AND email = $2",
        Uuid::from_u128(business.as_u128()),
        email.as_str()
    )
    .fetch_optional(connection)
    .await?)
}

pub async fn find_by_hash(connection: &mut PgConnection, hash: UserHash) -> Result<Option<PayoutUser>, Error> {
    Ok(sqlx::query_as!(
        PayoutUser,
        "/* find_user_by_hash */ SELECT email, hash, balance, status, created_at FROM payout_users WHERE hash = $1",
        hash.0.as_slice()
    )
    .fetch_optional(connection)
    .await?)
}

/// The stored hashes of users that exist.
pub type Hashes = HashMap<(BusinessId, Email), UserHash>;

/// Reads the hashes of several users at once. A user that does not exist is left out.
pub async fn find_hashes(connection: &mut PgConnection, users: &[(BusinessId, &Email)]) -> Result<Hashes, Error> {
    let businesses: Vec<Uuid> = users.iter().map(|(business, _)| Uuid::from_u128(business.as_u128())).collect();
    let emails: Vec<&str> = users.iter().map(|(_, email)| email.as_str()).collect();
    let rows = sqlx::query!(
        "/* find_hashes */
         SELECT u.business_id, u.email, u.hash FROM payout_users u
         JOIN (SELECT DISTINCT * FROM unnest($1::uuid[], $2::text[])) AS wanted (business_id, email) USING (business_id, email)",
        &businesses,
        &emails as &[&str]
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| read_hash(row.business_id, &row.email, &row.hash)).collect()
}

/// One entry of [`Hashes`], from its columns.
pub(super) fn read_hash(business: Uuid, email: &str, hash: &[u8]) -> Result<((BusinessId, Email), UserHash), Error> {
    let user = (BusinessId::from_u128(business.as_u128()), Email::stored(email.to_owned()));
    Ok((user, to_hash(hash)?))
}

pub(super) fn to_hash(hash: &[u8]) -> Result<UserHash, Error> {
    Ok(UserHash(hash.try_into().map_err(|_| Error::Fatal("a stored hash has not 32 bytes".to_owned()))?))
}
