//! The settings of each session, and the check that they took effect.
//!
//! They are set by statements and not in the start-up packet, because a pooler may drop parameters of that packet. Then the
//! session is asked for them, because a pooler may drop statements too. A wrong setting would cost money: with
//! `synchronous_commit = off`, Postgres may forget a commit that it has answered.

use super::Error;
use super::lineage::Primary;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use std::time::Duration;

/// What one session was set to.
#[derive(Debug)]
pub(super) struct Settings {
    timeout_millis: u128,
    /// The schema that the session works in.
    schema: String,
    /// Whether a standby has to confirm commits.
    needs_standby: bool,
    /// A random text, drawn for this session. If the session has another one, somebody else uses it too.
    mark: String,
}

/// A session that has all its settings.
#[derive(Debug)]
pub(super) struct Checked {
    /// Which server it leads to; `None` if that is a standby.
    pub primary: Option<Primary>,
    /// Why nothing can be written, if so.
    pub read_only: Option<Error>,
    /// Whether the server is one of Citus.
    pub is_citus: bool,
}

impl Checked {
    /// An error if nothing can be written.
    pub(super) fn writable(self) -> Result<(), Error> {
        self.read_only.map_or(Ok(()), Err)
    }
}

impl Settings {
    pub(super) fn new(timeout: Duration, schema: &str, needs_standby: bool) -> Self {
        let mark = format!("{:032x}", rand::random::<u128>());
        Self { timeout_millis: timeout.as_millis(), schema: schema.to_owned(), needs_standby, mark }
    }

    /// Sets a new session, in one round trip.
    pub(super) async fn apply(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let Self { timeout_millis, schema, mark, .. } = self;
        // - The keepalives and time-outs end the session of a client that is gone, so that it does not hold its locks for
        //   long.
        // - `read committed`: each statement has a snapshot of its own. After an insert that met another row, a second
        //   statement can so read that row.
        // - `enable_seqscan`: a statement that was planned while its table was empty keeps scanning the whole table as it
        //   grows; in a prototype 7,000 requests a second fell to 4,000. With it off, every plan uses an index.
        // - `jit`: with `enable_seqscan` off, a plan without an index has a huge estimated cost, so Postgres would compile
        //   it to machine code. That takes tens of milliseconds, for a query that takes microseconds.
        // - `client_min_messages`: a COMMIT can be answered with a warning that it may be missing on the standby, which must
        //   arrive (`warnings.rs`). Less than that is of no interest.
        // - `synchronous_commit`: `remote_apply` stays, as it is stronger than `on`.
        let text = format!(
            "/* set_session */
            SET statement_timeout = {timeout_millis};
            SET lock_timeout = {timeout_millis};
            SET idle_in_transaction_session_timeout = {timeout_millis};
            SET tcp_keepalives_idle = 15;
            SET tcp_keepalives_interval = 5;
            SET tcp_keepalives_count = 3;
            SET tcp_user_timeout = 30000;
            SET default_transaction_isolation = 'read committed';
            SET enable_seqscan = off;
            SET jit = off;
            SET client_min_messages = warning;
            SET search_path = {schema};
            SET earmark.session = '{mark}';
            SELECT set_config('synchronous_commit', 'on', false)
            WHERE current_setting('synchronous_commit') <> 'remote_apply'"
        );
        // In the simple protocol, without a prepared statement: in a session that a pooler shares, its name may be taken,
        // and that error would come before the one that says what is wrong.
        sqlx::raw_sql(AssertSqlSafe(text)).execute(connection).await?;
        Ok(())
    }

    /// Checks in one round trip that the session has these settings.
    pub(super) async fn prove(&self, connection: &mut PgConnection) -> Result<Checked, Error> {
        let rows = sqlx::raw_sql(
            "/* prove_session */
            SELECT name, CASE WHEN name LIKE '%\\_timeout'
                              THEN (extract(epoch FROM current_setting(name)::interval) * 1000)::bigint::text
                              ELSE current_setting(name, true) END
            FROM unnest(ARRAY['earmark.session', 'server_encoding', 'client_encoding', 'fsync', 'full_page_writes',
                              'synchronous_commit', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
                              'default_transaction_isolation', 'enable_seqscan', 'jit', 'client_min_messages', 'search_path',
                              'synchronous_standby_names', 'transaction_read_only', 'citus.version']) AS name
            UNION ALL SELECT 'pg_is_in_recovery', pg_is_in_recovery()::text
            UNION ALL SELECT 'system_identifier', system_identifier::text FROM pg_control_system()
            UNION ALL SELECT 'timeline', CASE WHEN NOT pg_is_in_recovery()
                                              THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END",
        )
        .fetch_all(connection)
        .await?;
        let mut found = vec![];
        for row in rows {
            found.push((row.try_get::<String, _>(0)?, row.try_get::<Option<String>, _>(1)?.unwrap_or_default()));
        }
        self.judge(&found)
    }

    fn judge(&self, found: &[(String, String)]) -> Result<Checked, Error> {
        let value_of = |wanted| found.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let is_standby = value_of("pg_is_in_recovery") == Some("true");
        let mut read_only = is_standby.then_some("this Postgres is a standby: DATABASE_URL must lead to the primary");
        let mut is_citus = false;
        for (name, value) in found {
            match name.as_str() {
                // Nothing is committed on a standby.
                "synchronous_standby_names" if is_standby => {}
                "transaction_read_only" if value == "on" => {
                    read_only =
                        read_only.or(Some("new transactions are read-only there (default_transaction_read_only)"));
                }
                // Empty where there is no such setting.
                "citus.version" => is_citus = !value.is_empty(),
                name if !self.is_as_set(name, value) => return Err(Error::Refused(refusal(name, value))),
                _ => {}
            }
        }
        let primary = value_of("system_identifier").zip(value_of("timeline")).and_then(|(system, timeline)| {
            // The names of the files of Postgres's log begin with the timeline, in hexadecimal.
            Some(Primary { system: system.parse().ok()?, timeline: u32::from_str_radix(timeline, 16).ok()? })
        });
        Ok(Checked { primary, read_only: read_only.map(|why| Error::ReadOnly(why.to_owned())), is_citus })
    }

    fn is_as_set(&self, name: &str, value: &str) -> bool {
        match name {
            "earmark.session" => value == self.mark,
            "server_encoding" | "client_encoding" => value == "UTF8",
            "fsync" | "full_page_writes" => value == "on",
            "synchronous_commit" => matches!(value, "on" | "remote_apply"),
            "statement_timeout" | "lock_timeout" | "idle_in_transaction_session_timeout" => {
                value == self.timeout_millis.to_string()
            }
            "default_transaction_isolation" => value == "read committed",
            "enable_seqscan" | "jit" => value == "off",
            "client_min_messages" => value == "warning",
            "search_path" => value == self.schema,
            "synchronous_standby_names" => !self.needs_standby || !value.is_empty(),
            _ => true,
        }
    }
}

/// What is wrong with a setting, and what to do.
fn refusal(name: &str, value: &str) -> String {
    match name {
        "earmark.session" => {
            "DATABASE_URL leads to a pooler that lets others into this session (transaction mode): set the pooler to session mode"
                .to_owned()
        }
        "server_encoding" => {
            format!("the database is in {value} and must be in UTF8: create one with ENCODING 'UTF8' TEMPLATE template0")
        }
        "fsync" | "full_page_writes" => {
            format!("this Postgres runs with {name} {value} and could forget a committed debit: switch it on")
        }
        "synchronous_standby_names" => {
            "no standby has to confirm the commits of this Postgres (synchronous_standby_names is empty), and \
             EARMARK_SYNCHRONOUS_STANDBY is required: a failover could lose what was answered"
                .to_owned()
        }
        _ => format!("{name} was set and is {value:?} all the same: does a pooler drop settings?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(settings: &Settings) -> Vec<(String, String)> {
        let timeout = settings.timeout_millis.to_string();
        [
            ("earmark.session", settings.mark.as_str()),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("synchronous_commit", "on"),
            ("statement_timeout", &timeout),
            ("lock_timeout", &timeout),
            ("idle_in_transaction_session_timeout", &timeout),
            ("default_transaction_isolation", "read committed"),
            ("enable_seqscan", "off"),
            ("jit", "off"),
            ("client_min_messages", "warning"),
            ("search_path", &settings.schema),
            ("synchronous_standby_names", "ANY 1 (one, other)"),
            ("transaction_read_only", "off"),
            ("pg_is_in_recovery", "false"),
            ("system_identifier", "7645312098765432109"),
            ("timeline", "0000001A"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    fn with(settings: &Settings, name: &str, value: &str) -> Result<Checked, Error> {
        let mut found = found(settings);
        found.iter_mut().find(|(found, _)| found == name).expect("a name").1 = value.to_owned();
        settings.judge(&found)
    }

    #[test]
    fn every_setting_is_proved_and_the_one_that_did_not_take_is_named() {
        let settings = Settings::new(Duration::from_secs(3), "shard_0", true);
        assert!(settings.judge(&found(&settings)).is_ok_and(|checked| checked.read_only.is_none()));
        let not_ours = ["transaction_read_only", "pg_is_in_recovery", "system_identifier", "timeline"];
        for (name, _) in found(&settings).iter().filter(|(name, _)| !not_ours.contains(&name.as_str())) {
            let wrong = if name == "synchronous_standby_names" { "" } else { "local" };
            let error = with(&settings, name, wrong).expect_err(name);
            assert!(matches!(error, Error::Refused(_)), "{error}");
            let named =
                name == "earmark.session" || name == "server_encoding" || error.to_string().contains(name.as_str());
            assert!(named, "{error}");
        }
        assert!(with(&settings, "synchronous_commit", "remote_apply").is_ok(), "stronger than it has to be");
        assert!(with(&settings, "synchronous_commit", "remote_write").is_err(), "a standby may lose it");
    }

    #[test]
    fn a_standby_must_confirm_commits_only_where_that_is_required() {
        let settings = Settings::new(Duration::from_secs(3), "shard_0", false);
        assert!(with(&settings, "synchronous_standby_names", "").is_ok());
    }

    #[test]
    fn the_server_is_told_by_its_system_identifier_and_its_timeline() {
        let settings = Settings::new(Duration::from_secs(3), "shard_0", true);
        let primary = |checked: Checked| checked.primary;
        let expected = Primary { system: 7_645_312_098_765_432_109, timeline: 26 };
        assert_eq!(settings.judge(&found(&settings)).map(primary).ok(), Some(Some(expected)));
        assert_eq!(with(&settings, "timeline", "").map(primary).ok(), Some(None), "a standby is on none of its own");
    }

    #[test]
    fn a_session_that_somebody_else_has_set_is_not_ours() {
        let (one, other) = (
            Settings::new(Duration::from_secs(3), "shard_0", true),
            Settings::new(Duration::from_secs(3), "shard_0", true),
        );
        let error = one.judge(&found(&other)).expect_err("another mark");
        assert!(error.to_string().contains("session mode"), "{error}");
    }

    #[test]
    fn a_session_that_takes_no_writes_is_what_it_was_set_to_and_says_so() {
        let settings = Settings::new(Duration::from_secs(3), "shard_0", true);
        for (name, value) in [("transaction_read_only", "on"), ("pg_is_in_recovery", "true")] {
            let checked = with(&settings, name, value).expect("checked");
            assert!(matches!(checked.writable(), Err(Error::ReadOnly(_))), "{name}");
        }
    }
}
