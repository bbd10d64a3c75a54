//! Citus: several Postgres servers that work as one. `DATABASE_URL` leads to the coordinator, which has the directory. The
//! schema of a shard is distributed: its tables lie together on one node, and the coordinator sends each statement there.
//!
//! The macros that check statements ask a plain Postgres, which has none of the tables and functions of Citus. So these
//! statements are written without macros.

use super::{Error, Postgres};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often the progress of a move is read.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whether this database is one of Citus.
pub async fn find(connection: &mut PgConnection) -> Result<bool, Error> {
    let found = sqlx::query_scalar!(
        r#"/* find_citus */ SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS "found!""#
    );
    Ok(found.fetch_one(connection).await?)
}

/// The nodes, such as `db-1:5432`.
pub async fn find_nodes(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    let nodes = sqlx::query_scalar(
        "/* find_nodes */
         SELECT nodename || ':' || nodeport FROM pg_dist_node WHERE noderole = 'primary' AND shouldhaveshards ORDER BY 1",
    );
    Ok(nodes.fetch_all(connection).await?)
}

/// The node of each distributed schema.
pub async fn read_places(connection: &mut PgConnection) -> Result<BTreeMap<String, String>, Error> {
    let places: Vec<(String, String)> = sqlx::query_as(
        "/* read_places */
         SELECT DISTINCT nspname::text, nodename || ':' || nodeport
         FROM pg_dist_schema JOIN pg_namespace n ON n.oid = schemaid JOIN pg_dist_partition USING (colocationid)
         JOIN pg_dist_shard USING (logicalrelid) JOIN pg_dist_placement USING (shardid) JOIN pg_dist_node USING (groupid)
         WHERE noderole = 'primary'",
    )
    .fetch_all(connection)
    .await?;
    Ok(places.into_iter().collect())
}

/// Distributes a schema, unless it is distributed already. Citus chooses the node. Statements on the tables wait meanwhile.
pub(super) async fn write_distributed(connection: &mut PgConnection, schema: &str) -> Result<(), Error> {
    sqlx::query(
        "/* write_distributed */
         SELECT citus_schema_distribute($1::regnamespace)
         WHERE NOT EXISTS (SELECT FROM pg_dist_schema WHERE schemaid = $1::regnamespace)",
    )
    .bind(schema)
    .execute(connection)
    .await?;
    Ok(())
}

/// Moves the schema of a shard to another node, while everything goes on. `tell` gets the progress, every second.
///
/// If the answer is lost, the move may go on without us: [`read_places`] tells where the schema is.
pub async fn relocate(shard: &Postgres, host: &str, port: u16, tell: impl Fn(&str)) -> Result<(), Error> {
    let mut connection = shard.connect_unlimited().await?;
    let mut moving = std::pin::pin!(write_place(&mut connection, shard.schema(), host, port));
    loop {
        tokio::select! {
            moved = &mut moving => return moved,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let schema = shard.schema();
        if let Ok(Some(progress)) = shard.read(async |connection| find_progress(connection, schema).await).await {
            tell(&progress);
        }
    }
}

async fn write_place(connection: &mut PgConnection, schema: &str, host: &str, port: u16) -> Result<(), Error> {
    sqlx::query("/* write_place */ SELECT citus_schema_move($1::regnamespace, $2, $3)")
        .bind(schema)
        .bind(host)
        .bind(i32::from(port))
        .execute(connection)
        .await?;
    Ok(())
}

/// How far the move of a schema is, in words; `None` if none is under way.
async fn find_progress(connection: &mut PgConnection, schema: &str) -> Result<Option<String>, Error> {
    let progress = sqlx::query_scalar(
        "/* find_progress */
         SELECT lower(min(status)) || ', ' || pg_size_pretty(sum(target_shard_size)) || ' of '
                || pg_size_pretty(sum(source_shard_size))
         FROM get_rebalance_progress() JOIN pg_class ON pg_class.oid = table_name
         WHERE relnamespace = $1::regnamespace HAVING count(*) > 0",
    );
    Ok(progress.bind(schema).fetch_optional(connection).await?)
}

/// The nodes that may forget a commit, or that cannot be asked, each with the reason. A statement is executed on its node,
/// with the settings of that node and not with those of our session.
pub async fn find_careless(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    let careless = sqlx::query_scalar(
        "/* find_careless */
         SELECT nodename || ':' || nodeport || ': ' || result
         FROM run_command_on_all_nodes($$
             SELECT string_agg(name || ' ' || setting, ', ') FROM pg_settings
             WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting NOT IN ('on', 'remote_apply')
         $$) JOIN pg_dist_node USING (nodeid)
         WHERE NOT success OR result <> '' ORDER BY 1",
    );
    Ok(careless.fetch_all(connection).await?)
}

/// The tables of this shard that are without their guard on the node. Citus creates no trigger there that also speaks of
/// TRUNCATE, unless the table had it before it was distributed.
pub async fn find_unguarded(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    let unguarded = sqlx::query_scalar(
        "/* find_unguarded_on_nodes */
         SELECT current_schema() || '.' || name || ' on ' || nodename || ':' || nodeport
         FROM unnest(ARRAY['allocations', 'deposits', 'idempotency_keys', 'key_raises']) AS name
         CROSS JOIN LATERAL run_command_on_placements(name::regclass, $$
             SELECT count(*) FROM pg_trigger
             WHERE tgrelid = '%s'::regclass AND tgname ~ '_(append_only|only_rise)' AND tgenabled IN ('O', 'A')
         $$)
         WHERE NOT success OR result = '0' ORDER BY 1",
    );
    Ok(unguarded.fetch_all(connection).await?)
}
