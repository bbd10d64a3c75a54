//! How many work queues each deployment has ever had.

use super::Error;
use sqlx::PgConnection;

/// Notes that a deployment uses so many work queues; answers the largest number it has ever used.
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
