//! Regular audits: workers add up the books by themselves, so that a difference is found before a person asks.

use crate::ledger::ShardId;
use crate::metrics::METRICS;
use crate::postgres::audits::{self, Audit};
use crate::postgres::{Error, PgConnection, Shards};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest time between two looks at the last audit.
const LOOK: Duration = Duration::from_secs(10);
/// Who made these audits, as their rows say it.
const WHO: &str = "worker";

/// Audits each shard whenever its last audit, by any worker or person, is older than `interval`; never if that is
/// zero. One worker audits a shard at a time. The figures of the last audits go into the metrics in any case.
pub async fn audit_regularly(shards: Shards, interval: Duration, stop: CancellationToken) {
    let look = if interval.is_zero() { LOOK } else { interval.min(LOOK) };
    while !stop.is_cancelled() {
        tokio::select! { () = tokio::time::sleep(look) => {}, () = stop.cancelled() => return }
        let looking = audit_and_show(&shards, interval);
        if let Err(error) = tokio::select! { looked = looking => looked, () = stop.cancelled() => return } {
            tracing::warn!(%error, "the last audits were not read");
        }
    }
}

async fn audit_and_show(shards: &Shards, interval: Duration) -> Result<(), Error> {
    for &shard in shards.known().keys().filter(|_| !interval.is_zero()) {
        match audits::audit_if_due(shards, shard, interval, WHO).await {
            Ok(audit) => audit.iter().for_each(|audit| log(shard, audit)),
            Err(error) => tracing::warn!(%shard, %error, "no audit"),
        }
    }
    let reading = async |connection: &mut PgConnection| audits::find_last_audits(connection).await;
    if let Some(last) = shards.directory().session().read(reading).await? {
        METRICS.audit_difference.set(last.difference_cents as f64);
        METRICS.audit_timestamp.set(last.audited_at.unix_timestamp() as f64);
    }
    Ok(())
}

fn log(shard: ShardId, audit: &Audit) {
    if audit.differences.is_empty() {
        return tracing::info!(%shard, allocations = audit.allocations, "the books balance");
    }
    let (differences, cents) = (audit.differences.len(), audit.difference_cents());
    tracing::error!(%shard, differences, cents, "the books do not balance: this needs a person");
}
