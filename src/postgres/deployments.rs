//! Facts about a whole deployment: that it is there, and whether its workers are paused.

use super::Error;
use sqlx::PgConnection;
use time::OffsetDateTime;

/// Notes that there is a deployment with this prefix. Doing it twice is the same as once.
pub async fn write_new(connection: &mut PgConnection, prefix: &str) -> Result<(), Error> {
    sqlx::query!("/* write_deployment */ INSERT INTO deployments (prefix) VALUES ($1) ON CONFLICT DO NOTHING", prefix)
        .execute(connection)
        .await?;
    Ok(())
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
        FROM deployments WHERE prefix = $1 AND paused_at IS NOT NULL"#,
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
         UPDATE deployments SET paused_at = COALESCE(paused_at, now()), paused_by = COALESCE(paused_by, $2)
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
        "/* write_resumed */ UPDATE deployments SET paused_at = NULL, paused_by = NULL WHERE prefix = $1",
        prefix
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
