-- What each role may do in the directory. `earmark migrate` runs this every time, if the schema belongs to earmark_owner.

REVOKE ALL ON SCHEMA :schema FROM PUBLIC, earmark_intake, earmark_worker, earmark_relay, earmark_console;
REVOKE ALL ON ALL TABLES IN SCHEMA :schema FROM PUBLIC, earmark_intake, earmark_worker, earmark_relay, earmark_console;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA :schema FROM PUBLIC, earmark_intake, earmark_worker, earmark_relay, earmark_console;
GRANT USAGE ON SCHEMA :schema TO earmark_intake, earmark_worker, earmark_relay, earmark_console;
GRANT SELECT ON _sqlx_migrations, shards, audits TO earmark_intake, earmark_worker, earmark_relay, earmark_console;

-- Every process notes that it is there, and which deployment it belongs to.
GRANT SELECT, INSERT, UPDATE, DELETE ON processes TO earmark_intake, earmark_worker, earmark_relay;
GRANT SELECT, INSERT (prefix) ON deployments TO earmark_intake, earmark_worker, earmark_relay;

-- Every process counts dead letters, and refuses to start without a key that they need. Their bodies have addresses: only a
-- worker stores them, and only people read them.
GRANT SELECT (dead_letter_id, key_id, cause, replayed_at, dropped_at) ON dead_letters TO earmark_intake, earmark_relay;
GRANT SELECT, INSERT ON dead_letters TO earmark_worker;

-- An intake finds out who calls.
GRANT SELECT ON api_keys TO earmark_intake;

-- A worker audits from time to time.
GRANT INSERT ON audits TO earmark_worker;

-- What people do, with the command line or the console.
GRANT SELECT ON processes TO earmark_console;
GRANT SELECT, INSERT (prefix), UPDATE (paused_at, paused_by) ON deployments TO earmark_console;
GRANT SELECT, UPDATE (replays, replayed_at, replayed_by, dropped_at, dropped_by) ON dead_letters TO earmark_console;
GRANT SELECT, INSERT, UPDATE (revoked_at) ON api_keys TO earmark_console;
GRANT UPDATE (state, changed_at) ON shards TO earmark_console;
GRANT INSERT ON audits TO earmark_console;
