//! What the commands print with `--json`: for programs of the people who run Earmark. Money in cents, times by RFC 3339.

use super::state::State;
use serde::Serialize;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// `earmark business list`.
#[derive(Clone, Debug, Serialize)]
pub struct Business {
    pub business_id: Uuid,
    pub name: String,
    /// The balances of its payout users.
    pub balance: i64,
    pub payout_balance: i64,
    pub payouts_enabled: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// `earmark business create`. The keys are stored nowhere.
#[derive(Debug, Serialize)]
pub struct NewBusiness {
    pub business_id: Uuid,
    pub name: String,
    pub payout_balance: i64,
    pub payouts_enabled: bool,
    pub secret_key: String,
    pub public_key: String,
}

/// `earmark business fund`.
#[derive(Debug, Serialize)]
pub struct Funded {
    pub business_id: Uuid,
    pub payout_balance: i64,
}

/// `earmark key list`.
#[derive(Clone, Debug, Serialize)]
pub struct ApiKey {
    pub key_id: Uuid,
    pub business_id: Uuid,
    /// `secret` or `public`.
    pub kind: String,
    /// The key's last four characters.
    pub hint: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// `earmark key create`. The key is stored nowhere.
#[derive(Debug, Serialize)]
pub struct NewApiKey {
    pub key_id: Uuid,
    pub business_id: Uuid,
    pub kind: String,
    pub key: String,
}

/// `earmark audit`. Sums may be larger than 64 bits hold, so they are text.
#[derive(Clone, Debug, Serialize)]
pub struct Audit {
    pub businesses: i64,
    pub payout_users: i64,
    pub allocations: i64,
    pub deposited: String,
    pub allocated: String,
    pub payout_balances: String,
    pub user_balances: String,
    /// Everything that does not add up.
    pub differences: Vec<Difference>,
}

/// One balance, or one row, that is not what the rows say.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub kind: String,
    pub business_id: Uuid,
    /// The payout user's hash, or the key's request: never an address.
    pub subject: Option<String>,
    pub expected: Option<String>,
    pub found: Option<String>,
}

/// `earmark doctor`.
#[derive(Debug, Serialize)]
pub struct Doctor {
    /// Whether nothing failed.
    pub ok: bool,
    pub checks: Vec<Check>,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    Failure,
}

/// What was checked, and what was found.
#[derive(Debug, Serialize)]
pub struct Check {
    pub check: &'static str,
    pub level: Level,
    pub found: String,
    /// How to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<&'static str>,
}

/// `earmark queues`: everything that waits.
#[derive(Debug, Serialize)]
pub struct Queues {
    pub queues: Vec<Queue>,
    /// The age of the oldest request that no intake has an answer for yet, in milliseconds.
    pub oldest_millis: Option<i64>,
    pub in_flight: u64,
    /// Open dead letters, by cause.
    pub dead_letters: BTreeMap<&'static str, i64>,
    pub paused: Option<Paused>,
}

/// One queue.
#[derive(Debug, Serialize)]
pub struct Queue {
    pub name: String,
    /// Messages that nobody has taken; each holds up to `EARMARK_PACK` requests. Null if the queue is not there.
    pub ready: Option<u32>,
    /// Messages that workers have taken and not yet acknowledged, as they say.
    pub unacknowledged: u64,
    /// Those that stand by are among them.
    pub consumers: Option<u32>,
}

/// Since when workers are paused, and by whom.
#[derive(Clone, Debug, Serialize)]
pub struct Paused {
    #[serde(with = "time::serde::rfc3339")]
    pub paused_at: OffsetDateTime,
    pub paused_by: String,
}

/// `earmark workers`.
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
    #[serde(with = "time::serde::rfc3339")]
    pub seen_at: OffsetDateTime,
    /// It has not been heard of for some seconds: what it said of itself may not hold any more.
    pub is_silent: bool,
    /// As it said itself.
    pub state: State,
}

/// `earmark dead-letters`.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    pub dead_letter_id: Uuid,
    pub cause: String,
    pub reason: String,
    /// The work queue it came from.
    pub queue: Option<String>,
    /// How often it died and when first, by the broker's account.
    pub deaths: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub died_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    pub arrived_at: OffsetDateTime,
    pub replays: i32,
    #[serde(with = "time::serde::rfc3339::option")]
    pub replayed_at: Option<OffsetDateTime>,
    pub replayed_by: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub dropped_at: Option<OffsetDateTime>,
    pub dropped_by: Option<String>,
    /// What can be read of it.
    pub requests: Vec<DeadLetterRequest>,
    /// Why the rest cannot be read. It comes back as a dead letter, however often it is replayed.
    pub unreadable: Vec<String>,
    /// The message as it is. Only where addresses are revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// One request in a dead letter, with the ledger's verdict. Amount in cents.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterRequest {
    pub request_id: Uuid,
    pub business_id: Uuid,
    /// Masked, unless addresses are revealed.
    pub email: String,
    pub amount: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// Only where addresses are revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of the key, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// One of the outcomes, or `undecided`.
    pub state: &'static str,
    #[serde(with = "time::serde::rfc3339::option")]
    pub decided_at: Option<OffsetDateTime>,
    /// What a replay would do: for programs, and in words.
    pub on_replay: &'static str,
    pub on_replay_in_words: &'static str,
}

/// `earmark request`: what is known of a request. Amount in cents; what is not known is left out.
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
    /// Its id says so.
    #[serde(with = "time::serde::rfc3339")]
    pub minted_at: OffsetDateTime,
    /// As a dead letter that holds it says, or else as the intake's setting has it.
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// One of the outcomes, or `undecided`: then it was never published, waits in a queue, or was never issued at all.
    pub state: &'static str,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<OffsetDateTime>,
    /// The idempotency key that it was allocated under, only where addresses are revealed, and the key's epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Every dead letter that holds it.
    pub dead_letters: Vec<DeadLetter>,
}
