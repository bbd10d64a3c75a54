//! Roles in Postgres: who owns the tables, and what each kind of process may do.
//!
//! An administrator makes the roles (`deploy/roles.sql`), and with them the schema of the directory, which `earmark_owner` owns.
//! From then on [`migrate`](super::Postgres::migrate) makes every table as that role, and grants the others what they need. Without
//! them one user makes the tables, owns them, and does everything.

use super::Error;
use crate::ledger::closed_list;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

/// What each role may do in the directory.
pub(super) const DIRECTORY: &str = include_str!("../../migrations/grants/directory.sql");
/// What each role may do in a shard.
pub(super) const SHARD: &str = include_str!("../../migrations/grants/shard.sql");

/// The role that owns the tables, if the roles are in use.
const OWNER: &str = "earmark_owner";

closed_list! {
    /// Whom a process may be in Postgres.
    Role {
        Intake = "earmark_intake",
        Worker = "earmark_worker",
        Relay = "earmark_relay",
        /// The command line and the console.
        Console = "earmark_console",
    }
}

/// Makes the session act as the owner of the directory from now on, so that it owns what is made. Whether the roles are in use.
pub(super) async fn act_as_owner(connection: &mut PgConnection) -> Result<bool, Error> {
    let owner = sqlx::query_scalar!(
        r#"/* find_owner_of_directory */
        SELECT nspowner::regrole::text AS "owner!" FROM pg_namespace WHERE nspname = 'earmark'"#
    );
    let Some(owner) = owner.fetch_optional(&mut *connection).await? else { return Ok(false) };
    connection.execute(AssertSqlSafe(format!("SET ROLE {owner}"))).await?;
    Ok(owner == OWNER)
}

/// Whether there is this schema.
pub(super) async fn has_schema(connection: &mut PgConnection, schema: &str) -> Result<bool, Error> {
    let found = sqlx::query_scalar!(
        r#"/* has_schema */ SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) AS "found!""#,
        schema
    );
    Ok(found.fetch_one(connection).await?)
}

/// Who the session is.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Whether the roles are in use: `earmark_owner` owns the tables.
    pub has_roles: bool,
    /// Whether the user is a superuser, for whom no right and no policy counts.
    pub is_superuser: bool,
    /// Whether the user owns the tables, or may act as their owner, and so could switch off what guards them.
    pub is_owner: bool,
    /// The roles that the user has.
    pub roles: Vec<Role>,
}

/// Reads who the session is.
pub async fn read_standing(connection: &mut PgConnection) -> Result<Standing, Error> {
    let row = sqlx::query!(
        r#"/* read_standing */
        SELECT nspowner::regrole::text = $1 AS "has_roles!", rolsuper AS "is_superuser!", pg_has_role(nspowner, 'MEMBER') AS "is_owner!",
               ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.rolname = ANY($2) AND pg_has_role(r.oid, 'MEMBER')) AS "roles!"
        FROM pg_roles, pg_namespace WHERE rolname = session_user AND nspname = current_schema()"#,
        OWNER,
        &Role::ALL.iter().map(|role| role.as_str().to_owned()).collect::<Vec<_>>()
    )
    .fetch_one(connection)
    .await?;
    let roles = row.roles.iter().filter_map(|name| Role::parse(name)).collect();
    Ok(Standing { has_roles: row.has_roles, is_superuser: row.is_superuser, is_owner: row.is_owner, roles })
}

impl Standing {
    /// What the user may do that none with these roles should, in words.
    pub fn excess(&self, needed: &[Role]) -> Vec<String> {
        let mut found = vec![];
        if self.is_superuser {
            found.push("it is a superuser, whom nothing holds up".to_owned());
        } else if self.is_owner {
            found.push("it owns the tables, and could switch off what guards them".to_owned());
        } else {
            let others = self.roles.iter().filter(|role| !needed.contains(role));
            found.extend(others.map(|role| format!("it also is {}", role.as_str())));
        }
        found
    }

    /// The roles of these that the user lacks.
    pub fn lacks(&self, needed: &[Role]) -> Vec<Role> {
        if self.is_superuser || self.is_owner || !self.has_roles {
            return vec![];
        }
        needed.iter().copied().filter(|role| !self.roles.contains(role)).collect()
    }
}
