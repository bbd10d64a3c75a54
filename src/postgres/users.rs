//! Payout users.

use super::Error;
use crate::ledger::{BusinessId, Email, UserHash};
use sqlx::PgConnection;
use std::collections::HashMap;
use time::OffsetDateTime;

/// A payout user.
#[derive(Clone, Debug)]
pub struct PayoutUser {
    /// The email address.
    pub email: String,
    /// The hash that the user shows to see the balance.
    pub hash: UserHash,
    /// The balance in cents.
    pub balance: i64,
    /// `active` or `inactive`.
    pub status: String,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// The payout user of a business with this address.
pub async fn find_by_email(
    connection: &mut PgConnection,
    business: BusinessId,
    email: &Email,
) -> Result<Option<PayoutUser>, Error> {
    Ok(sqlx::query_as!(
        PayoutUser,
        r#"/* find_user_by_email */
        SELECT email, hash AS "hash: UserHash", balance, status, created_at
        FROM payout_users WHERE business_id = $1 AND email = $2"#,
        business as BusinessId,
        email as &Email
    )
    .fetch_optional(connection)
    .await?)
}

/// The payout user with this hash, of any business.
pub async fn find_by_hash(connection: &mut PgConnection, hash: UserHash) -> Result<Option<PayoutUser>, Error> {
    Ok(sqlx::query_as!(
        PayoutUser,
        r#"/* find_user_by_hash */
        SELECT email, hash AS "hash: UserHash", balance, status, created_at FROM payout_users WHERE hash = $1"#,
        hash as UserHash
    )
    .fetch_optional(connection)
    .await?)
}

/// Stored hashes, by business and address.
pub type Hashes = HashMap<(BusinessId, Email), UserHash>;

/// Reads the hashes of several users at once. A user that does not exist is left out.
pub async fn find_hashes(connection: &mut PgConnection, users: &[(BusinessId, &Email)]) -> Result<Hashes, Error> {
    let (businesses, emails): (Vec<BusinessId>, Vec<&Email>) = users.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"/* find_hashes */
        SELECT u.business_id AS "business: BusinessId", u.email AS "email: Email", u.hash AS "hash: UserHash"
        FROM payout_users u
        JOIN (SELECT DISTINCT * FROM unnest($1::uuid[], $2::text[])) AS wanted (business_id, email) USING (business_id, email)"#,
        &businesses as &[BusinessId],
        &emails as &[&Email]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.business, row.email), row.hash)).collect())
}
