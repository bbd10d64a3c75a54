//! The processes of a deployment. Each writes its row every second: that it runs, and how it is.

use super::Error;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// What a process says about itself.
#[derive(Clone, Debug)]
pub struct Presence {
    /// Drawn by the process at its start.
    pub process_id: Uuid,
    /// `serve`, `intake`, `worker` or `relay`.
    pub kind: &'static str,
    /// The name of its machine.
    pub host: String,
    /// Its process id on that machine.
    pub pid: u32,
    /// The version of the program.
    pub version: &'static str,
}

/// A process as its row says.
#[derive(Clone, Debug)]
pub struct Present {
    /// The process.
    pub process_id: Uuid,
    /// `serve`, `intake`, `worker` or `relay`.
    pub kind: String,
    /// The name of its machine.
    pub host: String,
    /// Its process id on that machine.
    pub pid: i64,
    /// The version of the program.
    pub version: String,
    /// When it was started.
    pub started_at: OffsetDateTime,
    /// When it was last heard of, by the clock of the database.
    pub seen_at: OffsetDateTime,
    /// How long ago that was, in milliseconds. Beyond a few seconds the process is gone, or cannot reach the database.
    pub unseen_millis: i64,
    /// How it was then: JSON, see `wire::state::State`.
    pub state: String,
}

/// Writes the row of a process that runs. `state` is JSON. A write may be lost, as another follows within a second.
pub async fn write_presence(connection: &mut PgConnection, presence: &Presence, state: &str) -> Result<(), Error> {
    sqlx::query!(
        "/* write_presence */
         INSERT INTO processes (process_id, kind, host, pid, version, state) VALUES ($1, $2, $3, $4, $5, $6::text::jsonb)
         ON CONFLICT (process_id) DO UPDATE SET seen_at = now(), state = excluded.state",
        presence.process_id,
        presence.kind,
        presence.host,
        i64::from(presence.pid),
        presence.version,
        state
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes the row of a process that ends in good order.
pub async fn remove_presence(connection: &mut PgConnection, process: Uuid) -> Result<(), Error> {
    sqlx::query!("/* remove_presence */ DELETE FROM processes WHERE process_id = $1", process)
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes the rows of processes that wrote nothing for a day.
pub async fn remove_unseen(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("/* remove_unseen */ DELETE FROM processes WHERE seen_at < now() - interval '1 day'")
        .execute(connection)
        .await?;
    Ok(())
}

/// All processes that have a row, the oldest first. One that ended in good order has none.
pub async fn find_present(connection: &mut PgConnection) -> Result<Vec<Present>, Error> {
    let found = sqlx::query_as!(
        Present,
        r#"/* find_present */
        SELECT process_id, kind, host, pid, version, started_at, seen_at,
               (extract(epoch FROM clock_timestamp() - seen_at) * 1000)::bigint AS "unseen_millis!", state::text AS "state!"
        FROM processes ORDER BY started_at, process_id"#
    );
    Ok(found.fetch_all(connection).await?)
}
