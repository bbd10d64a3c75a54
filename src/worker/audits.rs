//! Regular audits: workers add up the books by themselves, so that a difference is found before a person asks.

use crate::metrics::METRICS;
use crate::postgres::audits::{self, Audit};
use crate::postgres::{Error, PgConnection, Postgres};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest time between two looks at the last audit.
const LOOK: Duration = Duration::from_secs(10);
/// Who made these audits, as their rows say it.
const WHO: &str = "worker";

/// Audits whenever the last audit of the ledger, by any worker or person, is older than `interval`; never if that is
/// zero. One worker audits at a time. The figures of the last audit go into the metrics in any case.
pub async fn audit_regularly(postgres: Postgres, interval: Duration, stop: CancellationToken) {
    let look = if interval.is_zero() { LOOK } else { interval.min(LOOK) };
    while !stop.is_cancelled() {
        tokio::select! { () = tokio::time::sleep(look) => {}, () = stop.cancelled() => return }
        let looking = audit_and_show(&postgres, interval);
        if let Err(error) = tokio::select! { looked = looking => looked, () = stop.cancelled() => return } {
            tracing::warn!(%error, "no audit");
        }
    }
}

async fn audit_and_show(postgres: &Postgres, interval: Duration) -> Result<(), Error> {
    if !interval.is_zero()
        && let Some(audit) = audits::audit_if_due(postgres, interval, WHO).await?
    {
        log(&audit);
    }
    let reading = async |connection: &mut PgConnection| audits::find_last_audit(connection).await;
    if let Some(last) = postgres.session().read(reading).await? {
        METRICS.audit_difference.set(last.difference_cents as f64);
        METRICS.audit_timestamp.set(last.audited_at.unix_timestamp() as f64);
    }
    Ok(())
}

fn log(audit: &Audit) {
    if audit.differences.is_empty() {
        return tracing::info!(allocations = audit.allocations, "the books balance");
    }
    let (differences, cents) = (audit.differences.len(), audit.difference_cents());
    tracing::error!(differences, cents, "the books do not balance: this needs a person");
}
