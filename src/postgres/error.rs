//! What an error of Postgres means for the one who asked. Every SQLSTATE falls into exactly one of these.

/// An error of a statement or a commit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres said that nothing happened, or could not be asked at all. Asking again may succeed.
    #[error("transient: {0}")]
    Transient(String),
    /// Postgres gave up on a lock, a statement or a transaction because it took too long: nothing happened. Less at once may
    /// succeed.
    #[error("too slow: {0}")]
    TooSlow(String),
    /// The server turns this program away: wrong password, no such database, no right to a table, or a server that may
    /// forget commits. A person has to mend it; until then nothing can be said of any request.
    #[error("postgres refuses: {0}")]
    Refused(String),
    /// The answer to a COMMIT was lost: it happened, or it did not. Only reading the rows tells.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The data break a named rule of the schema.
    #[error("constraint {name} violated")]
    Constraint { name: String },
    /// The data cannot be stored at all (SQLSTATE class 22), or a statement is wrong. Asking again will not help.
    #[error("fatal: {0}")]
    Fatal(String),
}

impl Error {
    /// Whether the same request can be sent again as it is. After [`Error::Unknown`] only under the same request ids.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transient(_) | Self::TooSlow(_) | Self::Refused(_) | Self::Unknown(_) => true,
            Self::Constraint { .. } | Self::Fatal(_) => false,
        }
    }

    /// Whether it may be the size of what was asked, or one row of many: half of it may succeed.
    pub fn may_be_its_size(&self) -> bool {
        matches!(self, Self::TooSlow(_) | Self::Unknown(_))
    }

    /// The reading of an error that answers a COMMIT: unless Postgres itself says that it rolled back, nobody knows.
    pub(super) fn of_commit(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => match class(database.code().as_deref()) {
                // A cancel can arrive in the moment after the commit.
                _ if database.code().as_deref() == Some(CANCELLED) => Self::Unknown(error.to_string()),
                Class::Rollback | Class::Slow | Class::Integrity | Class::Data => Self::from(error),
                Class::Operator | Class::Access | Class::Other => Self::Unknown(error.to_string()),
            },
            _ => Self::Unknown(error.to_string()),
        }
    }
}

/// A lock timed out.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// A statement timed out, or somebody cancelled it.
const CANCELLED: &str = "57014";

/// The families of SQLSTATE that are treated alike (PostgreSQL, appendix A).
enum Class {
    /// 40 serialization failure and deadlock.
    Rollback,
    /// A lock or a statement timed out.
    Slow,
    /// 23.
    Integrity,
    /// 22 bad values, 42 and 0A statements that cannot run, 54 limits of the program.
    Data,
    /// 28 authorization, 3D no such database, 42501 insufficient privilege.
    Access,
    /// 08 connection, 25 transaction timed out, 53 resources, 57 shutdown and cancel, 58 system, XX internal.
    Operator,
    Other,
}

fn class(code: Option<&str>) -> Class {
    match code {
        Some("42501") => return Class::Access,
        Some(LOCK_NOT_AVAILABLE | CANCELLED) => return Class::Slow,
        _ => {}
    }
    match code.and_then(|code| code.get(..2)) {
        Some("40" | "55") => Class::Rollback,
        Some("23") => Class::Integrity,
        Some("22" | "42" | "0A" | "54") => Class::Data,
        Some("28" | "3D") => Class::Access,
        Some("08" | "25" | "53" | "57" | "58" | "XX") => Class::Operator,
        Some(_) | None => Class::Other,
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match error {
            sqlx::Error::Database(database) => match class(database.code().as_deref()) {
                Class::Rollback | Class::Operator => Self::Transient(text),
                Class::Slow => Self::TooSlow(text),
                Class::Integrity => match database.constraint() {
                    Some(name) => Self::Constraint { name: name.to_owned() },
                    None => Self::Fatal(text),
                },
                Class::Data | Class::Other => Self::Fatal(text),
                Class::Access => Self::Refused(text),
            },
            sqlx::Error::Configuration(_) => Self::Refused(text),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Transient(text),
            // sqlx's list is open. What is left are mistakes in a statement or its types.
            _ => Self::Fatal(text),
        }
    }
}
