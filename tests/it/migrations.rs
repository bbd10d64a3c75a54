//! Every migration, run over rows that the schema before it allowed. `migrations/shard/0003.sql` here holds the rows that
//! are added after migration 3 of a shard.

use crate::harness::App;
use serde_json::{Map, Value};
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, PgConnection};
use std::collections::BTreeMap;
use std::path::Path;

type Rows = BTreeMap<String, Vec<Map<String, Value>>>;

/// All rows of all tables.
async fn rows(database: &mut PgConnection) -> Rows {
    let tables =
        "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() AND tablename <> '_sqlx_migrations'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut *database).await.expect("tables");
    let mut found = Rows::new();
    for table in tables {
        let rows = AssertSqlSafe(format!("SELECT to_jsonb(r)::text FROM {table} r"));
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut *database).await.expect("rows");
        found.insert(table, rows.iter().map(|row| serde_json::from_str(row).expect("a row")).collect());
    }
    found
}

/// Whether a row has all the values of an earlier version of it. A column may have been renamed.
fn has_all(row: &Map<String, Value>, earlier: &Map<String, Value>) -> bool {
    earlier.iter().all(|(column, value)| {
        let is_there = row.get(column).map_or_else(|| row.values().any(|one| one == value), |one| one == value);
        value.is_null() || is_there
    })
}

fn assert_kept(step: &str, earlier: &Rows, now: &Rows) {
    for (table, rows) in earlier {
        let now = now.get(table).unwrap_or_else(|| panic!("{step} loses the table {table}"));
        for row in rows {
            assert!(now.iter().any(|one| has_all(one, row)), "{step} loses or changes a row of {table}: {row:?}");
        }
    }
}

/// Adds the rows for a schema. After that, every column of every table has a value somewhere.
async fn add_rows(database: &mut PgConnection, kind: &str, version: i64) {
    let name = format!("tests/it/migrations/{kind}/{version:04}.sql");
    let sql = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&name))
        .unwrap_or_else(|error| panic!("add {name}, with rows for every table: {error}"));
    let added = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *database).await;
    added.unwrap_or_else(|error| panic!("{name}: {error}"));
    for (table, rows) in rows(database).await {
        let first = rows.first().unwrap_or_else(|| panic!("{table} has no row: add one to {name}"));
        for column in first.keys() {
            let has_value = rows.iter().any(|row| !row[column].is_null());
            assert!(has_value, "{table}.{column} is null in all rows: add one with a value to {name}");
        }
    }
}

#[tokio::test]
async fn every_migration_runs_over_data_and_keeps_it() {
    let app = App::without_schema().await;
    let mut kept = vec![];
    for (kind, schema) in [("directory", "earmark"), ("shard", "shard_0")] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(kind);
        let migrator = Migrator::new(folder).await.expect("migrations");
        let mut database = app.database().await;
        let sql = format!("CREATE SCHEMA {schema}; SET search_path = {schema}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut database).await.expect("a schema");
        let mut earlier = Rows::new();
        for version in migrator.iter().map(|migration| migration.version) {
            let step = format!("migration {version} of a {kind}");
            let run = migrator.run_to(version, &mut database).await;
            run.unwrap_or_else(|error| panic!("{step} fails over data: {error}"));
            assert_kept(&step, &earlier, &rows(&mut database).await);
            add_rows(&mut database, kind, version).await;
            earlier = rows(&mut database).await;
        }
        kept.push((database, earlier));
    }
    app.run(&["migrate"]).expect_success();
    for (mut database, earlier) in kept {
        assert_eq!(rows(&mut database).await, earlier, "nothing is left to migrate");
    }
    app.assert_clean_audit();
    app.discard().await;
}
