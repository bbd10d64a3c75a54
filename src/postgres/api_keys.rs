//! API keys, by their digests.

use super::Error;
use crate::ledger::BusinessId;
use sqlx::PgConnection;
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// A stored API key. The key itself is stored nowhere.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// The key.
    pub key_id: Uuid,
    /// The business.
    pub business_id: Uuid,
    /// `secret` or `public`
    pub kind: String,
    /// The key's last four characters.
    pub hint: String,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was revoked; `None` while it works.
    pub revoked_at: Option<OffsetDateTime>,
}

/// The businesses that working secret keys belong to, by the keys' digests. Any other key is left out.
pub async fn find_secrets(
    connection: &mut PgConnection,
    digests: &[[u8; 32]],
) -> Result<HashMap<[u8; 32], BusinessId>, Error> {
    let rows = sqlx::query!(
        r#"/* find_secret_keys */
        SELECT business_id AS "business: BusinessId", digest FROM api_keys
        WHERE digest = ANY($1) AND kind = 'secret' AND revoked_at IS NULL"#,
        &digests.iter().map(<[u8; 32]>::as_slice).collect::<Vec<_>>() as &[&[u8]]
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let digest =
                row.digest.try_into().map_err(|_| Error::Fatal("a stored digest has not 32 bytes".to_owned()))?;
            Ok((digest, row.business))
        })
        .collect()
}

/// Stores a new key.
pub async fn write_new(connection: &mut PgConnection, key: &ApiKey, digest: &[u8; 32]) -> Result<(), Error> {
    sqlx::query!(
        "/* write_key */
         INSERT INTO api_keys (key_id, business_id, kind, digest, hint, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        key.key_id,
        key.business_id,
        key.kind,
        digest.as_slice(),
        key.hint,
        key.created_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// All keys of a business, the oldest first.
pub async fn read_all(connection: &mut PgConnection, business: Uuid) -> Result<Vec<ApiKey>, Error> {
    Ok(sqlx::query_as!(
        ApiKey,
        "/* read_keys */
         SELECT key_id, business_id, kind, hint, created_at, revoked_at
         FROM api_keys WHERE business_id = $1 ORDER BY created_at, key_id",
        business
    )
    .fetch_all(connection)
    .await?)
}

/// Revokes a key; false if there is none or it was revoked before. If the answer is lost, a second try returns false too.
pub async fn write_revoked(connection: &mut PgConnection, key: Uuid) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* write_revoked */ UPDATE api_keys SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL",
        key
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
