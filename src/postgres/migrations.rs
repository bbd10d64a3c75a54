//! Applies migrations, each command on its own: Citus refuses a text of several commands for tables that are distributed.

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Where the applied migrations are noted.
const TABLE: &str = "_sqlx_migrations";

/// Applies the migrations that the schema of this session lacks, each in a transaction. Nobody else can migrate before this
/// connection ends.
pub(super) async fn apply(migrator: &Migrator, connection: &mut PgConnection) -> Result<(), MigrateError> {
    connection.lock().await?;
    connection.ensure_migrations_table(TABLE).await?;
    let applied = connection.list_applied_migrations(TABLE).await?;
    for migration in migrator.iter().filter(|one| applied.iter().all(|applied| applied.version != one.version)) {
        let mut transaction = connection.begin().await?;
        for command in commands(migration.sql.as_str()) {
            // A prepared statement is one command. So every Postgres refuses what is split wrongly.
            let executed = sqlx::query(AssertSqlSafe(command)).persistent(false).execute(&mut *transaction).await;
            executed.map_err(|error| MigrateError::ExecuteMigration(error, migration.version))?;
        }
        // Notes it, as applied.
        migrator.skip(&mut *transaction, Some(migration.version)).await?;
        transaction.commit().await?;
    }
    // Nothing is left to apply. This compares the files with what was noted.
    migrator.run(connection).await
}

/// Executes a file in a transaction. `schema` takes the place of `:schema` in it.
pub(super) async fn execute(file: &str, schema: &str, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    for command in commands(&file.replace(":schema", schema)) {
        sqlx::query(AssertSqlSafe(command)).persistent(false).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// The commands of a file, without its comments. A command ends with a semicolon at the end of a line, outside of the body of
/// a function.
fn commands(file: &str) -> Vec<String> {
    let (mut ended, mut command) = (vec![], String::new());
    for line in file.lines().filter(|line| !line.trim_start().starts_with("--")) {
        command.push_str(line);
        command.push('\n');
        if line.trim_end().ends_with(';') && command.matches("$$").count().is_multiple_of(2) {
            ended.push(std::mem::take(&mut command));
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_split_into_its_commands() {
        let file = "-- One; with a comment;\nCREATE TABLE one (\n    id int -- its id\n);\nCOMMENT ON TABLE one IS 'a; b';\n\n\
            CREATE FUNCTION two() RETURNS void AS $$\nBEGIN\n    -- nothing;\n    NULL;\nEND\n$$;\n-- the end\n";
        let first_words: Vec<String> = commands(file).iter().map(|text| text.trim()[..14].to_owned()).collect();
        assert_eq!(first_words, ["CREATE TABLE o", "COMMENT ON TAB", "CREATE FUNCTIO"]);
    }
}
