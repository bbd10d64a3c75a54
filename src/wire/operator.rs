//! The JSON that commands print with `--json`. Amounts are in cents, times in RFC 3339. The console uses some of the
//! types too.

use super::state::State;
use serde::Serialize;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// One business: `earmark business list` prints an array of them.
#[derive(Clone, Debug, Serialize)]
pub struct Business {
    pub business_id: Uuid,
    pub name: String,
    /// The sum of its payout users' balances.
    pub balance: i64,
    pub payout_balance: i64,
    pub payouts_enabled: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Printed by `earmark business create`. The keys are not stored.
#[derive(Debug, Serialize)]
pub struct NewBusiness {
    pub business_id: Uuid,
    pub name: String,
    pub payout_balance: i64,
    pub payouts_enabled: bool,
    pub secret_key: String,
    pub public_key: String,
}

/// Printed by `earmark business fund`: the payout balance afterwards.
#[derive(Debug, Serialize)]
pub struct Funded {
    pub business_id: Uuid,
    pub payout_balance: i64,
}

/// One API key: `earmark key list` prints an array of them.
#[derive(Clone, Debug, Serialize)]
pub struct ApiKey {
    pub key_id: Uuid,
    pub business_id: Uuid,
    /// `secret` or `public`.
    pub kind: String,
    /// The last four characters of the key.
    pub hint: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// Printed by `earmark key create`. The key is not stored.
#[derive(Debug, Serialize)]
pub struct NewApiKey {
    pub key_id: Uuid,
    pub business_id: Uuid,
    pub kind: String,
    pub key: String,
}

/// Printed by `earmark audit`. The sums of cents are text, because they may not fit into 64 bits.
#[derive(Clone, Debug, Serialize)]
pub struct Audit {
    pub businesses: i64,
    pub payout_users: i64,
    pub allocations: i64,
    pub deposited: String,
    pub allocated: String,
    pub payout_balances: String,
    pub user_balances: String,
    /// All differences found; empty if every balance is right.
    pub differences: Vec<Difference>,
}

/// One balance or row that differs from what the other rows say.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub kind: String,
    pub business_id: Uuid,
    /// The payout user's hash, or the id of the key's request. Never an email address.
    pub subject: Option<String>,
    pub expected: Option<String>,
    pub found: Option<String>,
}

/// Printed by `earmark doctor`.
#[derive(Debug, Serialize)]
pub struct Doctor {
    /// Whether no check failed.
    pub ok: bool,
    pub checks: Vec<Check>,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    Failure,
}

/// One check of `earmark doctor`.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was checked.
    pub check: &'static str,
    pub level: Level,
    /// What was found.
    pub found: String,
    /// How to fix it, if it is not ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<&'static str>,
}

/// Printed by `earmark queues`: everything that waits.
#[derive(Debug, Serialize)]
pub struct Queues {
    pub queues: Vec<Queue>,
    /// The age of the oldest request that no intake has an answer for yet, in milliseconds.
    pub oldest_millis: Option<i64>,
    /// Requests between admission and decision, in all intakes.
    pub in_flight: u64,
    /// The number of open dead letters, by cause.
    pub dead_letters: BTreeMap<&'static str, i64>,
    pub paused: Option<Paused>,
}

/// One queue of the deployment.
#[derive(Debug, Serialize)]
pub struct Queue {
    pub name: String,
    /// Messages that no worker has taken; each has up to `EARMARK_PACK` requests. Null if the queue does not exist.
    pub ready: Option<u32>,
    /// Messages that workers have taken and not yet acknowledged, by the workers' own count.
    pub unacknowledged: u64,
    /// The number of consumers, including those that stand by. Null if the queue does not exist.
    pub consumers: Option<u32>,
}

/// A pause of all workers: when it began, and who made it.
#[derive(Clone, Debug, Serialize)]
pub struct Paused {
    #[serde(with = "time::serde::rfc3339")]
    pub paused_at: OffsetDateTime,
    pub paused_by: String,
}

/// Printed by `earmark workers`.
#[derive(Debug, Serialize)]
pub struct Workers {
    pub prefix: String,
    pub paused: Option<Paused>,
    pub workers: Vec<Process>,
}

/// One process of the deployment.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    pub process_id: Uuid,
    /// `serve`, `intake` or `worker`.
    pub kind: String,
    pub host: String,
    pub pid: i64,
    pub version: String,
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When it last reported, by the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub seen_at: OffsetDateTime,
    /// Whether it has not reported for some seconds, so that `state` may no longer be true.
    pub is_silent: bool,
    /// The state that the process reported.
    pub state: State,
}

/// One dead letter: `earmark dead-letters list` prints an array of them, `show` one.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    pub dead_letter_id: Uuid,
    /// `unreadable`, `rejected`, `delivery_limit` or `other`.
    pub cause: String,
    /// Why the message could not be applied, as text.
    pub reason: String,
    /// The work queue that it came from, if known.
    pub queue: Option<String>,
    /// How often the broker dead-lettered it, and when first.
    pub deaths: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub died_at: Option<OffsetDateTime>,
    /// When it was stored.
    #[serde(with = "time::serde::rfc3339")]
    pub arrived_at: OffsetDateTime,
    /// How often it was replayed.
    pub replays: i32,
    #[serde(with = "time::serde::rfc3339::option")]
    pub replayed_at: Option<OffsetDateTime>,
    pub replayed_by: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub dropped_at: Option<OffsetDateTime>,
    pub dropped_by: Option<String>,
    /// The requests in it that can be parsed.
    pub requests: Vec<DeadLetterRequest>,
    /// For each request that cannot be parsed, the reason. A replay brings it back as a dead letter.
    pub unreadable: Vec<String>,
    /// The message itself. Only if addresses are revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// One request in a dead letter, with what the ledger says about it. The amount is in cents.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterRequest {
    pub request_id: Uuid,
    pub business_id: Uuid,
    /// Masked, unless addresses are revealed.
    pub email: String,
    pub amount: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// The idempotency key, if it has one. Only if addresses are revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The epoch of its idempotency key, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// One of the outcomes, or `undecided`.
    pub state: &'static str,
    #[serde(with = "time::serde::rfc3339::option")]
    pub decided_at: Option<OffsetDateTime>,
    /// What a replay would do, as a name for programs.
    pub on_replay: &'static str,
    /// What a replay would do, in words.
    pub on_replay_in_words: &'static str,
}

/// Printed by `earmark request`. The amount is in cents. Unknown fields are left out.
#[derive(Clone, Debug, Serialize)]
pub struct RequestTimeline {
    pub request_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_name: Option<String>,
    /// Masked, unless addresses are revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// When the intake minted its id, which contains the time.
    #[serde(with = "time::serde::rfc3339")]
    pub minted_at: OffsetDateTime,
    /// The deadline in a dead letter with the request. Without one, computed from `minted_at` and
    /// EARMARK_REPLY_TIMEOUT.
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// One of the outcomes, or `undecided`: it waits in a queue, was never published, or there is no request with this
    /// id.
    pub state: &'static str,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<OffsetDateTime>,
    /// The idempotency key that it was allocated under. Only if addresses are revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key's epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// All dead letters that contain it.
    pub dead_letters: Vec<DeadLetter>,
}
