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
        if !self.health().is_up() {
            return Err(Failure::Unavailable(Refusal::PostgresDown));
        }
        self.postgres.read(work).await.map_err(|error| {
            tracing::warn!(%error, "a read failed");
            Failure::Unavailable(Refusal::PostgresSlow)
        })
    }
}
