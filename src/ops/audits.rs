//! Audits the whole ledger for a person, shard by shard.

use crate::postgres::audits::{self, Audit};
use crate::postgres::{Error, Shards};

/// Audits every shard, each in a snapshot of its own, and adds the results up. Records each under the name of `who`; the
/// inner result says whether that was done.
pub async fn audit_all(shards: &Shards, who: &str) -> Result<(Audit, Result<(), Error>), Error> {
    let (mut whole, mut noted) = (Audit::default(), Ok(()));
    for (&shard, open) in shards.known().iter() {
        let audit = audits::audit(&open.postgres).await?;
        let noting = shards.directory();
        let noting = noting.write(async |connection| audits::write_audit(connection, shard, &audit, who).await);
        noted = noting.await.and(noted);
        whole.add(audit);
    }
    Ok((whole, noted))
}
