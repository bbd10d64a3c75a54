//! The processes of a deployment, each of which says every second that it is there and how it is.

use super::Error;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// What a process says of itself.
#[derive(Clone, Debug)]
pub struct Presence {
    /// Drawn by the process at its start.
    pub process_id: Uuid,
    /// `serve`, `intake` or `worker`.
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
    /// `serve`, `intake` or `worker`.
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

/// Says that a process is there, and how it is: `state` is JSON. May be lost, as it is said again every second.
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

/// Takes a process off the list that has ended in good order.
pub async fn remove_presence(connection: &mut PgConnection, process: Uuid) -> Result<(), Error> {
    sqlx::query!("/* remove_presence */ DELETE FROM processes WHERE process_id = $1", process)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes those off the list that nobody has heard of for a day.
pub async fn remove_unseen(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("/* remove_unseen */ DELETE FROM processes WHERE seen_at < now() - interval '1 day'")
        .execute(connection)
        .await?;
    Ok(())
}

/// All processes heard of within a day, those that ended in good order left out; the oldest first.
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
