//! Reading from the database for an answer, and why there may be none.

use super::Intake;
use crate::ledger::Refusal;
use crate::postgres::{Error, PgConnection};

/// Why a read has no answer of its own.
#[derive(Debug)]
pub enum Failure {
    Unauthorized,
    /// The database could not be asked, or did not answer in time.
    Unavailable(Refusal),
    /// As many pages of the history are being read for this key as may be.
    TooManyReads,
}

impl Intake {
    /// Reads from the database, and not at all while it is known to be away: nobody waits for what is not there.
    pub(super) async fn read<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Failure> {
        self.refuse_if_away()?;
        self.postgres.read(work).await.map_err(unanswered)
    }

    /// Writes for an answer what may be written twice, and not at all while the database is known to be away.
    pub(super) async fn write_idempotent<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Failure> {
        self.refuse_if_away()?;
        self.postgres.write_idempotent(work).await.map_err(unanswered)
    }

    fn refuse_if_away(&self) -> Result<(), Failure> {
        if self.health().is_up() { Ok(()) } else { Err(Failure::Unavailable(Refusal::PostgresDown)) }
    }
}

fn unanswered(error: Error) -> Failure {
    tracing::warn!(%error, "a read failed");
    Failure::Unavailable(Refusal::PostgresSlow)
}
