//! What `earmark doctor` asks Postgres: how the server is set, what time it has, and what this program may do there.

use super::Error;
use super::roles::Role;
use sqlx::PgConnection;
use time::OffsetDateTime;

/// The server's version, clock and settings.
#[derive(Clone, Debug)]
pub struct Server {
    /// The version as text, such as `15.4`.
    pub version: String,
    /// The version as a number, such as 150004.
    pub version_number: i32,
    /// The server's time.
    pub clock: OffsetDateTime,
    /// Postgres's `fsync`: `on` or `off`.
    pub fsync: String,
    /// Postgres's `full_page_writes`: `on` or `off`.
    pub full_page_writes: String,
    /// Postgres's `synchronous_commit`, as this session has it.
    pub synchronous_commit: String,
    /// Postgres's `synchronous_standby_names`: which standbys have to confirm a commit. Empty: none.
    pub synchronous_standby_names: String,
    /// Whether the server is a standby: nothing can be written there.
    pub in_recovery: bool,
    /// How many more connections the server takes, from all clients together.
    pub connections_left: i64,
}

/// Reads the server's version, clock and settings.
pub async fn read_server(connection: &mut PgConnection) -> Result<Server, Error> {
    Ok(sqlx::query_as!(
        Server,
        r#"/* read_server */
        SELECT current_setting('server_version') AS "version!", current_setting('server_version_num')::int AS "version_number!",
               clock_timestamp() AS "clock!", current_setting('fsync') AS "fsync!",
               current_setting('full_page_writes') AS "full_page_writes!",
               current_setting('synchronous_commit') AS "synchronous_commit!",
               current_setting('synchronous_standby_names') AS "synchronous_standby_names!", pg_is_in_recovery() AS "in_recovery!",
               current_setting('max_connections')::bigint - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
                   AS "connections_left!""#
    )
    .fetch_one(connection)
    .await?)
}

/// A standby, or another program that receives the server's log.
#[derive(Clone, Debug)]
pub struct Standby {
    /// Its name, as `synchronous_standby_names` would name it.
    pub name: String,
    /// `sync` or `quorum` if it confirms commits, `potential` if it would in the place of another, `async` if it does not.
    /// `None` if our role may not know (it lacks `pg_monitor`).
    pub sync_state: Option<String>,
}

/// Who receives the server's log.
pub async fn find_standbys(connection: &mut PgConnection) -> Result<Vec<Standby>, Error> {
    Ok(sqlx::query_as!(
        Standby,
        r#"/* find_standbys */
        SELECT coalesce(application_name, '') AS "name!", sync_state FROM pg_stat_replication ORDER BY 1"#
    )
    .fetch_all(connection)
    .await?)
}

/// The rights on tables of this schema that programs with these roles need and the session's user lacks, such as
/// `UPDATE on shard_0.businesses`. Every table of the migrations is in the list.
pub async fn find_missing_privileges(connection: &mut PgConnection, roles: &[Role]) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar!(
        r#"/* find_missing_privileges */
        SELECT DISTINCT privilege || ' on ' || current_schema() || '.' || name AS "missing!"
        FROM (VALUES ('businesses', 'SELECT', 'SELECT,UPDATE', 'SELECT', 'SELECT,INSERT,UPDATE'),
                     ('payout_users', 'SELECT', 'SELECT,INSERT,UPDATE', '', 'SELECT'),
                     ('allocations', 'SELECT,INSERT', 'SELECT,INSERT', 'SELECT', 'SELECT'),
                     ('idempotency_keys', 'SELECT,INSERT,UPDATE', 'SELECT,INSERT,UPDATE', '', 'SELECT'),
                     ('key_raises', 'SELECT,UPDATE', 'SELECT,UPDATE', 'SELECT', ''),
                     ('deposits', 'SELECT', 'SELECT', 'SELECT', 'SELECT,INSERT'),
                     ('webhooks', 'SELECT,INSERT,UPDATE,DELETE', '', 'SELECT,UPDATE', 'SELECT,UPDATE'),
                     ('webhook_retries', 'SELECT,INSERT,UPDATE', '', 'SELECT,INSERT,UPDATE,DELETE', 'SELECT,INSERT,UPDATE'),
                     ('webhook_deliveries', 'SELECT', '', 'SELECT,INSERT,DELETE', 'SELECT'),
                     ('event_exchange', '', '', 'SELECT,UPDATE', ''),
                     ('event_exchange_cursors', '', '', 'SELECT,INSERT,UPDATE', ''),
                     ('shards', 'SELECT', 'SELECT', 'SELECT', 'SELECT,UPDATE'),
                     ('api_keys', 'SELECT', '', '', 'SELECT,INSERT,UPDATE'),
                     ('deployments', 'SELECT,INSERT', 'SELECT,INSERT', 'SELECT,INSERT', 'SELECT,UPDATE'),
                     ('processes', 'SELECT,INSERT,UPDATE,DELETE', 'SELECT,INSERT,UPDATE,DELETE', 'SELECT,INSERT,UPDATE,DELETE', 'SELECT'),
                     ('dead_letters', 'SELECT', 'SELECT,INSERT', 'SELECT', 'SELECT,UPDATE'),
                     ('audits', 'SELECT', 'SELECT,INSERT', 'SELECT', 'SELECT,INSERT')) AS t (name, intake, worker, relay, console)
        CROSS JOIN LATERAL (VALUES ('earmark_intake', intake), ('earmark_worker', worker), ('earmark_relay', relay), ('earmark_console', console))
            AS r (role, privileges)
        CROSS JOIN LATERAL unnest(string_to_array(privileges, ',')) AS privilege
        WHERE role = ANY($1) AND to_regclass(name) IS NOT NULL
          -- A right to some columns is enough, as the migrations choose them.
          AND NOT CASE privilege WHEN 'DELETE' THEN has_table_privilege(name, privilege) ELSE has_any_column_privilege(name, privilege) END
        ORDER BY 1"#,
        &roles.iter().map(|role| role.as_str().to_owned()).collect::<Vec<_>>()
    )
    .fetch_all(connection)
    .await?)
}

/// The tables of this schema whose guard, a trigger, is switched off or removed.
pub async fn find_unguarded(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar!(
        r#"/* find_unguarded */
        SELECT current_schema() || '.' || name AS "name!"
        FROM (VALUES ('allocations', 'append_only'), ('deposits', 'append_only'), ('audits', 'append_only'),
                     ('idempotency_keys', 'only_rise'), ('key_raises', 'only_rise')) AS guard (name, kind)
        WHERE to_regclass(name) IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_trigger t WHERE t.tgrelid = to_regclass(name) AND t.tgname = name || '_' || kind AND t.tgenabled IN ('O', 'A')
        ) ORDER BY 1"#
    )
    .fetch_all(connection)
    .await?)
}
