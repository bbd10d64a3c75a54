//! The audit that workers make by themselves, so that a difference is known before a person thinks of asking.

use crate::postgres::{Postgres, overview};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a worker looks whether an audit is due, at most.
const LOOK: Duration = Duration::from_secs(60);
/// Who made these audits, in their rows.
const WHO: &str = "worker";

/// Audits whenever the last audit of the ledger, whoever made it, is older than `interval`; one worker at a time.
pub async fn audit_regularly(postgres: Postgres, interval: Duration, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! { () = tokio::time::sleep(interval.min(LOOK)) => {}, () = stop.cancelled() => return }
        let auditing = overview::audit_if_due(&postgres, interval, WHO);
        match tokio::select! { audited = auditing => audited, () = stop.cancelled() => return } {
            Ok(None) => {}
            Ok(Some(audit)) if audit.differences.is_empty() => {
                tracing::info!(allocations = audit.allocations, "the books balance");
            }
            Ok(Some(audit)) => tracing::error!(
                differences = audit.differences.len(),
                cents = audit.difference_cents(),
                "the books do not balance: this needs a person"
            ),
            Err(error) => tracing::warn!(%error, "no audit"),
        }
    }
}
