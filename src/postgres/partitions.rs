//! Facts about a whole deployment: how many work queues it has ever had, and whether its workers are paused.

use super::Error;
use sqlx::PgConnection;
use time::OffsetDateTime;

/// Notes how many work queues a deployment uses, and returns the largest number it has ever used. Doing it twice is the same
/// as once.
pub async fn write_most(connection: &mut PgConnection, prefix: &str, partitions: u16) -> Result<u16, Error> {
    let most = sqlx::query_scalar!(
        "/* write_partitions */
         INSERT INTO queue_prefixes AS q (prefix, partitions) VALUES ($1, $2)
         ON CONFLICT (prefix) DO UPDATE SET partitions = greatest(q.partitions, excluded.partitions)
         RETURNING partitions",
        prefix,
        i16::try_from(partitions).map_err(|_| Error::Fatal("too many partitions".to_owned()))?
    )
    .fetch_one(connection)
    .await?;
    Ok(most.unsigned_abs())
}

/// The largest number of work queues that a deployment has ever used; 1 if no process of it ever ran.
pub async fn find_most(connection: &mut PgConnection, prefix: &str) -> Result<u16, Error> {
    let most =
        sqlx::query_scalar!("/* find_partitions */ SELECT partitions FROM queue_prefixes WHERE prefix = $1", prefix)
            .fetch_optional(connection)
            .await?;
    Ok(most.map_or(1, i16::unsigned_abs))
}

/// Since when workers are paused, and by whom.
#[derive(Clone, Debug)]
pub struct Paused {
    /// Since when they are paused.
    pub paused_at: OffsetDateTime,
    /// Who paused them.
    pub paused_by: String,
}

/// Reads whether the workers of a deployment are paused.
pub async fn find_pause(connection: &mut PgConnection, prefix: &str) -> Result<Option<Paused>, Error> {
    Ok(sqlx::query_as!(
        Paused,
        r#"/* find_pause */
        SELECT paused_at AS "paused_at!", paused_by AS "paused_by!"
        FROM queue_prefixes WHERE prefix = $1 AND paused_at IS NOT NULL"#,
        prefix
    )
    .fetch_optional(connection)
    .await?)
}

/// Pauses the workers of a deployment; false if no process of it ever ran. If they are paused already, the first time and
/// name stay. Doing it twice is the same as once.
pub async fn write_paused(connection: &mut PgConnection, prefix: &str, who: &str) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* write_paused */
         UPDATE queue_prefixes SET paused_at = COALESCE(paused_at, now()), paused_by = COALESCE(paused_by, $2)
         WHERE prefix = $1",
        prefix,
        who
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets the workers of a deployment work again; false if no process of it ever ran. Doing it twice is the same as once.
pub async fn write_resumed(connection: &mut PgConnection, prefix: &str) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* write_resumed */ UPDATE queue_prefixes SET paused_at = NULL, paused_by = NULL WHERE prefix = $1",
        prefix
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
