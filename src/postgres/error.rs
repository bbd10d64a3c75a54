//! What an error of Postgres means for the one who asked. Every SQLSTATE falls into exactly one of these.

use super::types::Unfit;
use crate::metrics::labels::Trouble;

/// An error of a statement or a commit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection: the server is not there, goes down, comes up, or has no room for another one. Nothing
    /// happened, unless this answers a commit.
    #[error("away: {0}")]
    Away(String),
    /// The server takes no writes: it is a standby, or somebody has made it so. Nothing happened.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// The server's disk is full. Nothing happened.
    #[error("disk full: {0}")]
    Full(String),
    /// Postgres said that nothing happened. Asking again may succeed.
    #[error("transient: {0}")]
    Transient(String),
    /// Postgres gave up on a lock, a statement or a transaction because it took too long: nothing happened. Less at once may
    /// succeed.
    #[error("too slow: {0}")]
    TooSlow(String),
    /// The server does not do what this program asks, whatever the data: a wrong password, no right to a table, a setting
    /// that may lose commits, a statement that does not fit the schema any more. A new connection may help; if it does
    /// not, a person has to fix it. Until then nothing can be said of any request.
    #[error("postgres refuses: {0}")]
    Refused(String),
    /// The answer to a COMMIT was lost: it happened, or it did not. Only reading the rows tells.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The data break a named rule of the schema.
    #[error("constraint {name} violated")]
    Constraint {
        /// The name of the constraint.
        name: String,
    },
    /// The data cannot be stored at all. Asking again will not help.
    #[error("cannot be stored: {0}")]
    Data(String),
    /// A row that is stored does not fit this program, or what is set or installed does not. Asking again will not help.
    #[error("fatal: {0}")]
    Fatal(String),
}

impl Error {
    /// Whether the same request can be sent again as it is. After [`Error::Unknown`] only under the same request ids. What is
    /// not is the fault of this request or of rows that it meets, and costs nobody else anything.
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

    /// Whether it may be the size of what was asked, or one row of many: half of it may succeed.
    pub fn may_be_its_size(&self) -> bool {
        matches!(self, Self::TooSlow(_) | Self::Unknown(_))
    }

    /// Whether a connection that was opened before may be to blame: it was lost meanwhile, or what it has prepared does not
    /// fit the tables any more.
    pub(super) fn may_be_the_connection(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Transient(_) | Self::Refused(_))
    }

    /// Its kind, to be counted.
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

    /// The reading of an error that answers a COMMIT: unless Postgres itself says that it rolled back, nobody knows.
    pub(super) fn of_commit(error: sqlx::Error) -> Self {
        let sure = match &error {
            sqlx::Error::Database(database) => match class(database.code().as_deref()) {
                // A cancel can arrive in the moment after the commit.
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

/// The families of SQLSTATE that are treated alike (PostgreSQL, appendix A).
#[derive(Debug, PartialEq, Eq)]
enum Class {
    /// 08 connection; the server goes down, comes up, or has no room for another connection.
    Connection,
    /// A write where none is allowed.
    ReadOnly,
    /// No space left on the server's disk.
    Full,
    /// 40 serialization failure and deadlock, 55 an object in use.
    Rollback,
    /// A lock or a statement timed out.
    Slow,
    /// 23.
    Integrity,
    /// 22 bad values, 54 limits of the program.
    Data,
    /// 0A, 26, 42: the statement cannot run, as somebody changed a table under it, or as the session is not the one that
    /// prepared it.
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
                Class::Integrity => match database.constraint() {
                    Some(name) => Self::Constraint { name: name.to_owned() },
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
            // sqlx's list is open. What is left does not come from the data: a type or a column is not what it was.
            _ => Self::Refused(text),
        }
    }
}

/// A certificate that cannot be read or trusted stays so until a person does something about it; rustls' words for it come
/// inside an error of the connection. Whatever else happens to a connection is a lost one.
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
    fn a_slow_statement_is_no_lost_connection() {
        for code in ["57014", "55P03", "25P03", "57P05", "53200"] {
            assert_ne!(class(Some(code)), Class::Connection, "{code}");
        }
        for code in ["08006", "08P01", "57P01", "57P02", "57P03", "53300"] {
            assert_eq!(class(Some(code)), Class::Connection, "{code}");
        }
    }
}
