//! Reads from the database for an answer, and says why a read has failed.

use super::Intake;
use super::auth::Caller;
use crate::ledger::{BusinessId, Refusal, ShardId};
use crate::postgres::{Error, PgConnection, Postgres};
use axum::http::HeaderMap;

/// Why a read has failed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// No working API key, or no payout user's hash.
    Unauthorized,
    /// The database could not be asked, or did not answer in time.
    Unavailable(Refusal),
    /// As many pages of the history as allowed are being read for this API key.
    TooManyReads,
}

impl Intake {
    /// Reads from the shard of a business. Fails at once while its database is known to be down, so that no caller waits
    /// for it.
    pub(super) async fn read<T>(
        &self,
        business: BusinessId,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Failure> {
        self.read_shard(business.shard(), work).await
    }

    /// Reads from a shard, in the same way.
    pub(super) async fn read_shard<T>(
        &self,
        shard: ShardId,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Failure> {
        self.shard(shard)?.read(work).await.map_err(unanswered)
    }

    /// Writes to the shard of a business, for an answer. `work` must be such that it may be done twice. Fails at once
    /// while its database is known to be down.
    pub(super) async fn write_idempotent<T>(
        &self,
        business: BusinessId,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error> + Clone,
    ) -> Result<T, Failure> {
        self.shard(business.shard())?.write_idempotent(work).await.map_err(unanswered)
    }

    /// The business that calls.
    pub(super) async fn business(&self, headers: &HeaderMap) -> Result<BusinessId, Failure> {
        Ok(self.caller(headers).await?.business)
    }

    /// The business that calls, and the API key that it calls with.
    pub(super) async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Failure> {
        let known = self.authenticator().authenticate(headers, self.shards().directory().health()).await;
        known.map_err(Failure::Unavailable)?.ok_or(Failure::Unauthorized)
    }

    /// The way to a shard, unless its database is known to be down.
    fn shard(&self, shard: ShardId) -> Result<Postgres, Failure> {
        let found = self.shards().get(shard).ok().filter(|postgres| postgres.health().is_up());
        found.ok_or(Failure::Unavailable(Refusal::PostgresDown))
    }
}

fn unanswered(error: Error) -> Failure {
    tracing::warn!(%error, "a look-up failed");
    Failure::Unavailable(Refusal::PostgresSlow)
}
