//! What the program needs of Postgres, and how it handles each kind of trouble there.
//!
//! [`settings`]: sessions that do not have the settings that the program asked for. [`trouble`]: Postgres is slow,
//! unreachable or read-only. [`standby`]: commits wait for a standby. [`changes`]: tables change under prepared statements.
//! [`api_keys`]: keys are looked up while others send invented keys.

mod api_keys;
mod changes;
mod settings;
mod standby;
mod trouble;

use crate::harness::App;

/// Ends all connections of a deployment's processes to its database, as an administrator can.
async fn end_sessions(app: &App) {
    app.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'earmark'",
    )
    .await;
}
