//! What the program needs of Postgres, and what it makes of each kind of trouble there.
//!
//! [`settings`]: sessions that are not what they were set to. [`trouble`]: who is concerned when something takes long, is
//! gone, or takes no writes. [`changes`]: tables that change under statements that are prepared. [`api_keys`]: look-ups of
//! keys while others make up keys.

mod api_keys;
mod changes;
mod settings;
mod trouble;

use crate::harness::App;

/// Ends the connections that the processes of a deployment have to its database, as an administrator can.
async fn end_sessions(app: &App) {
    app.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'earmark'",
    )
    .await;
}
