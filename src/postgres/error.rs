//! The kinds of errors of Postgres, by what the caller can do about them. Every SQLSTATE belongs to exactly one kind.

use super::types::Unfit;
use crate::metrics::labels::Trouble;

/// An error of a statement or a commit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection: the server is gone, shuts down, starts up, or takes no more connections. Nothing happened:
    /// for a COMMIT this error is [`Self::Unknown`].
    #[error("away: {0}")]
    Away(String),
    /// The server takes no writes: it is a standby, or is set to be read-only. Nothing happened.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// The server's disk is full. Nothing happened.
    #[error("disk full: {0}")]
    Full(String),
    /// The statement failed for a passing reason, and nothing happened. A second try may succeed.
    #[error("transient: {0}")]
    Transient(String),
    /// Waiting for a lock or a connection, or the statement itself, took too long. Nothing happened. A smaller batch may
    /// succeed.
    #[error("too slow: {0}")]
    TooSlow(String),
    /// The server refuses this program, whatever the data: a wrong password, no right to a table, a setting that may lose
    /// commits, a statement that no longer fits the schema. A new connection may help. If it does not, a person has to fix
    /// it, and until then no request can be decided.
    #[error("postgres refuses: {0}")]
    Refused(String),
    /// The answer to a COMMIT or a statement is lost, or came with a warning: a standby may lack it. Only the rows tell whether it
    /// happened, once the standby has them.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The data violate a named constraint of the schema.
    #[error("constraint {name} violated")]
    Constraint {
        /// The name of the constraint.
        name: String,
    },
    /// The data cannot be stored at all. A second try cannot succeed.
    #[error("cannot be stored: {0}")]
    Data(String),
    /// A stored row, a setting or the installed schema does not fit this program. A second try cannot succeed.
    #[error("fatal: {0}")]
    Fatal(String),
}

impl Error {
    /// Whether the same requests can be tried again; after [`Error::Unknown`] only under the same request ids. Any other
    /// error comes from the request itself or from the rows that it meets, and does not concern other requests.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Away(_)
            | Self::ReadOnly(_)
            | Self::Full(_)
            | Self::Transient(_)
            | Self::TooSlow(_)
            | Self::Refused(_)
            | Self::Unknown(_) => true,
            Self::Constraint { .. } | Self::Data(_) | Self::Fatal(_) => false,
        }
    }

    /// Whether the size of the batch, or one row of it, may be the cause: half of the batch may succeed.
    pub fn may_be_its_size(&self) -> bool {
        matches!(self, Self::TooSlow(_) | Self::Unknown(_))
    }

    /// Whether the connection may be the cause: it is lost, or its prepared statements no longer fit the tables.
    pub(super) fn may_be_the_connection(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Transient(_) | Self::Refused(_))
    }

    /// Its label in the metric of Postgres errors.
    pub(super) fn trouble(&self) -> Trouble {
        match self {
            Self::Away(_) => Trouble::Away,
            Self::ReadOnly(_) => Trouble::ReadOnly,
            Self::Full(_) => Trouble::Full,
            Self::Transient(_) => Trouble::Transient,
            Self::TooSlow(_) => Trouble::TooSlow,
            Self::Refused(_) => Trouble::Refused,
            Self::Unknown(_) => Trouble::Unknown,
            Self::Constraint { .. } | Self::Data(_) => Trouble::Data,
            Self::Fatal(_) => Trouble::Fatal,
        }
    }

    /// The kind of an error that came instead of the answer to a COMMIT. Unless Postgres says that it rolled back, the
    /// outcome is unknown.
    pub(super) fn of_commit(error: sqlx::Error) -> Self {
        let sure = match &error {
            sqlx::Error::Database(database) => match class(database.code().as_deref()) {
                // A statement can be cancelled just after it was committed.
                Class::Slow => database.code().as_deref() != Some(CANCELLED),
                Class::ReadOnly | Class::Full | Class::Rollback | Class::Integrity | Class::Data | Class::Statement => {
                    true
                }
                Class::Connection | Class::Operator | Class::Access | Class::Other => false,
            },
            _ => false,
        };
        if sure { Self::from(error) } else { Self::Unknown(error.to_string()) }
    }
}

/// A lock timed out.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// A statement timed out, or somebody cancelled it.
const CANCELLED: &str = "57014";

/// Groups of SQLSTATEs that are treated alike (PostgreSQL manual, appendix A).
#[derive(Debug, PartialEq, Eq)]
enum Class {
    /// 08 connection; the server shuts down, starts up, or takes no more connections.
    Connection,
    /// A write where none is allowed.
    ReadOnly,
    /// No space left on the server's disk.
    Full,
    /// 40 serialization failure and deadlock, 55 an object in use.
    Rollback,
    /// A lock or a statement timed out.
    Slow,
    /// 23 a constraint is violated.
    Integrity,
    /// 22 bad values, 54 limits of the program.
    Data,
    /// 0A, 26, 42: the statement cannot run, because a table has changed under it, or another session prepared it.
    Statement,
    /// 28 authorization, 3D no such database, 42501 insufficient privilege.
    Access,
    /// 25 transaction timed out, 53 resources, 57 cancel, 58 system, XX internal.
    Operator,
    Other,
}

fn class(code: Option<&str>) -> Class {
    let Some(code) = code else { return Class::Other };
    match code {
        "57P01" | "57P02" | "57P03" | "53300" => return Class::Connection,
        "25006" => return Class::ReadOnly,
        "53100" => return Class::Full,
        LOCK_NOT_AVAILABLE | CANCELLED => return Class::Slow,
        "42501" => return Class::Access,
        _ => {}
    }
    match code.get(..2) {
        Some("08") => Class::Connection,
        Some("40" | "55") => Class::Rollback,
        Some("23") => Class::Integrity,
        Some("22" | "54") => Class::Data,
        Some("0A" | "26" | "42") => Class::Statement,
        Some("28" | "3D") => Class::Access,
        Some("25" | "53" | "57" | "58" | "XX") => Class::Operator,
        Some(_) | None => Class::Other,
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match error {
            sqlx::Error::Database(database) => match class(database.code().as_deref()) {
                Class::Connection => Self::Away(text),
                Class::ReadOnly => Self::ReadOnly(text),
                Class::Full => Self::Full(text),
                Class::Rollback | Class::Operator => Self::Transient(text),
                Class::Slow => Self::TooSlow(text),
                Class::Integrity => match constraint(database.constraint(), database.message()) {
                    Some(name) => Self::Constraint { name },
                    None => Self::Data(text),
                },
                Class::Data => Self::Data(text),
                Class::Statement if matches!(database.code().as_deref(), Some("26000" | "42P05")) => {
                    Self::Refused(format!("{text} (if there is a pooler in between, set it to session mode)"))
                }
                Class::Statement | Class::Access | Class::Other => Self::Refused(text),
            },
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) => of_connection(text),
            sqlx::Error::Protocol(_) => Self::Transient(text),
            sqlx::Error::ColumnDecode { source, .. } if source.is::<Unfit>() => Self::Fatal(text),
            // sqlx may add kinds of errors. The rest of today's do not come from the data: a column or its type has changed.
            _ => Self::Refused(text),
        }
    }
}

/// The name of a violated constraint. A coordinator of Citus passes on the message of a node without the name beside it. On the
/// node, the names of most constraints end with the number of Citus' shard: `deposits_pkey_102010`.
fn constraint(name: Option<&str>, message: &str) -> Option<String> {
    let in_message = || message.split_once(" constraint \"")?.1.split_once('"').map(|(name, _)| name);
    let name = name.or_else(in_message)?;
    let numbered = name.rsplit_once('_').filter(|(_, end)| !end.is_empty() && end.bytes().all(|c| c.is_ascii_digit()));
    Some(numbered.map_or(name, |(start, _)| start).to_owned())
}

/// The kind of an error of the connection. If rustls cannot read or trust the server's certificate, a person has to change
/// that, and the error has rustls' words for it. Any other such error means that the connection is lost.
fn of_connection(text: String) -> Error {
    if text.contains("UnsupportedCertVersion") {
        return Error::Refused(
            "the server's certificate is of X.509 version 1, which cannot be read: give the server one of version 3, or, \
             if the way to it is safe without TLS, add sslmode=disable to DATABASE_URL"
                .to_owned(),
        );
    }
    if text.contains("peer certificate") {
        return Error::Refused(format!("{text} (sslmode and sslrootcert in DATABASE_URL say what is trusted)"));
    }
    Error::Away(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_rules_and_limits_are_blamed_on_the_data() {
        for code in ["22001", "22021", "22P02", "23514", "23505", "54000"] {
            assert!(matches!(class(Some(code)), Class::Data | Class::Integrity), "{code}");
        }
        for code in ["0A000", "26000", "42703", "42P01", "42804", "P0001", "EM001", "XX000", "53200", "25P02", "21000"]
        {
            assert!(!matches!(class(Some(code)), Class::Data | Class::Integrity), "{code}");
        }
        assert_eq!(class(None), Class::Other);
        assert_eq!(class(Some("")), Class::Other);
    }

    #[test]
    fn a_row_that_does_not_fit_is_fatal_and_a_column_that_does_not_is_refused() {
        let undecoded = |source| sqlx::Error::ColumnDecode { index: "0".to_owned(), source };
        let fatal = Error::from(undecoded(Unfit("amount").into()));
        assert!(matches!(&fatal, Error::Fatal(text) if text.contains("a stored amount is not valid")), "{fatal}");
        let unread = Error::of_commit(undecoded(Unfit("hash").into()));
        assert!(matches!(unread, Error::Unknown(_)), "the rest of the answer was not read: {unread}");
        let refused = Error::from(undecoded("mismatched types".into()));
        assert!(matches!(refused, Error::Refused(_)), "{refused}");
    }

    #[test]
    fn a_constraint_has_the_same_name_on_a_node_of_citus() {
        let unique = r#"duplicate key value violates unique constraint "deposits_pkey_102010""#;
        let check = r#"new row for relation "deposits_102010" violates check constraint "deposits_amount_not_zero""#;
        for (name, message, found) in [
            (Some("deposits_pkey"), "", Some("deposits_pkey")),
            (Some("deposits_pkey_102010"), unique, Some("deposits_pkey")),
            (None, unique, Some("deposits_pkey")),
            (None, check, Some("deposits_amount_not_zero")),
            (None, r#"null value in column "note" of relation "deposits_102010""#, None),
        ] {
            assert_eq!(constraint(name, message).as_deref(), found, "{message}");
        }
    }

    #[test]
    fn a_slow_statement_is_no_lost_connection() {
        for code in ["57014", "55P03", "25P03", "57P05", "53200"] {
            assert_ne!(class(Some(code)), Class::Connection, "{code}");
        }
        for code in ["08006", "08P01", "57P01", "57P02", "57P03", "53300"] {
            assert_eq!(class(Some(code)), Class::Connection, "{code}");
        }
    }
}
