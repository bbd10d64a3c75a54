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
    /// The business.
    pub business_id: Uuid,
    /// Its name.
    pub name: String,
    /// The main balance, in cents. Allocations never change it.
    pub balance: i64,
    /// What the business can still allocate, in cents.
    pub payout_balance: i64,
    /// Whether requests of the business are decided on their merits, or refused with 403.
    pub payouts_enabled: bool,
    /// The largest amount of one allocation, in cents. Null: any.
    pub largest_allocation: Option<i64>,
    /// The largest sum of the allocations of one day (UTC), in cents. Null: any.
    pub daily_limit: Option<i64>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Printed by `earmark business create`. The keys are not stored.
#[derive(Debug, Serialize)]
pub struct NewBusiness {
    /// The business.
    pub business_id: Uuid,
    /// Its name.
    pub name: String,
    /// What the business can still allocate, in cents.
    pub payout_balance: i64,
    /// Whether requests of the business are decided on their merits, or refused with 403.
    pub payouts_enabled: bool,
    /// The new secret key.
    pub secret_key: String,
    /// The new public key.
    pub public_key: String,
}

/// Printed by `earmark business fund`: the payout balance afterwards.
#[derive(Debug, Serialize)]
pub struct Funded {
    /// The business.
    pub business_id: Uuid,
    /// What the business can still allocate, in cents.
    pub payout_balance: i64,
}

/// One webhook: `earmark webhook list` prints an array of them.
#[derive(Debug, Serialize)]
pub struct Webhook {
    /// The webhook.
    pub webhook_id: Uuid,
    /// `sound`, `failing` or `disabled`.
    pub state: &'static str,
    /// Where events are posted.
    pub url: String,
    /// The number of the last event that was delivered or waits.
    pub cursor: i64,
    /// How many events up to the cursor wait.
    pub waiting: i64,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// The first failure since the last success; null if the last delivery was a success.
    #[serde(with = "time::serde::rfc3339::option")]
    pub failing_since: Option<OffsetDateTime>,
    /// Since when nothing is delivered; null while it is enabled.
    #[serde(with = "time::serde::rfc3339::option")]
    pub disabled_at: Option<OffsetDateTime>,
    /// `gone`, `failing`, `platform` or `operator`; null while it is enabled.
    pub disabled_by: Option<&'static str>,
}

/// One try to deliver: `earmark webhook deliveries` prints an array of them.
#[derive(Debug, Serialize)]
pub struct Delivery {
    /// Counts the tries of the webhook from 1.
    pub number: i64,
    /// The number of the event.
    pub seq: i64,
    /// When the try had ended.
    #[serde(with = "time::serde::rfc3339")]
    pub tried_at: OffsetDateTime,
    /// How long it took, in milliseconds.
    pub duration_ms: i64,
    /// `delivered`, `refused`, `gone`, `timeout`, `unreachable` or `forbidden`.
    pub result: &'static str,
    /// The status of the answer; null if there was none.
    pub status: Option<i32>,
    /// The first kilobyte of the answer; null if there was none.
    pub answer: Option<String>,
}

/// One shard: `earmark shards` prints an array of them.
#[derive(Debug, Serialize)]
pub struct Shard {
    /// Its number.
    pub shard: u8,
    /// `preparing`, `open`, `full` or `closed`.
    pub state: &'static str,
    /// How many businesses it has; `None` if its schema is not made yet.
    pub businesses: Option<u64>,
    /// The node of Citus that it is on, as `host:port`; `None` without Citus.
    pub node: Option<String>,
    /// Since when it has this state.
    #[serde(with = "time::serde::rfc3339")]
    pub changed_at: OffsetDateTime,
}

/// One API key: `earmark key list` prints an array of them.
#[derive(Clone, Debug, Serialize)]
pub struct ApiKey {
    /// The key.
    pub key_id: Uuid,
    /// The business.
    pub business_id: Uuid,
    /// `secret` or `public`.
    pub kind: String,
    /// The last four characters of the key.
    pub hint: String,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was revoked; null while it works.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// Printed by `earmark key create`. The key is not stored.
#[derive(Debug, Serialize)]
pub struct NewApiKey {
    /// The key.
    pub key_id: Uuid,
    /// The business.
    pub business_id: Uuid,
    /// `secret` or `public`.
    pub kind: String,
    /// The new key. It is shown only here.
    pub key: String,
}

/// Printed by `earmark audit`. The sums of cents are text, because they may not fit into 64 bits.
#[derive(Clone, Debug, Serialize)]
pub struct Audit {
    /// How many businesses there are.
    pub businesses: i64,
    /// How many payout users there are.
    pub payout_users: i64,
    /// How many decided requests there are.
    pub allocations: i64,
    /// The sum of all deposits.
    pub deposited: String,
    /// The sum of all allocations.
    pub allocated: String,
    /// The sum of what was taken back of them.
    pub reversed: String,
    /// The sum of all settlements, less what was given back of them.
    pub settled: String,
    /// The sum of all payout balances.
    pub payout_balances: String,
    /// The sum of all payout users' balances.
    pub user_balances: String,
    /// All differences found; empty if every balance is right.
    pub differences: Vec<Difference>,
}

/// One balance, number or idempotency key that differs from what the other rows say.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// `payout_balance`, `user_balance`, `idempotency_key`, `reversed`, `balance_after`, `sequence` or `day_total`.
    pub kind: String,
    /// The business.
    pub business_id: Uuid,
    /// The payout user's hash, or the request that is wrong. Never an email address.
    pub subject: Option<String>,
    /// What the rows add up to, in cents. Of a sequence: the number that there should be.
    pub expected: Option<String>,
    /// What was found instead.
    pub found: Option<String>,
}

/// Printed by `earmark doctor`.
#[derive(Debug, Serialize)]
pub struct Doctor {
    /// Whether no check failed.
    pub ok: bool,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is as it should be.
    Ok,
    /// It works, and somebody should look.
    Warning,
    /// It does not work.
    Failure,
}

/// One check of `earmark doctor`.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was checked.
    pub check: &'static str,
    /// How it came out.
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
    /// All queues of the deployment.
    pub queues: Vec<Queue>,
    /// The age of the oldest request that no intake has an answer for yet, in milliseconds.
    pub oldest_millis: Option<i64>,
    /// Requests between admission and decision, in all intakes.
    pub in_flight: u64,
    /// The number of open dead letters, by cause.
    pub dead_letters: BTreeMap<&'static str, i64>,
    /// Since when and by whom workers are paused; null while they work.
    pub paused: Option<Paused>,
}

/// One queue of the deployment.
#[derive(Clone, Debug, Serialize)]
pub struct Queue {
    /// Its name.
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
    /// Since when they are paused.
    #[serde(with = "time::serde::rfc3339")]
    pub paused_at: OffsetDateTime,
    /// Who paused them.
    pub paused_by: String,
}

/// Printed by `earmark workers list`.
#[derive(Debug, Serialize)]
pub struct Workers {
    /// The prefix of the queues.
    pub prefix: String,
    /// Since when and by whom workers are paused; null while they work.
    pub paused: Option<Paused>,
    /// The processes that work.
    pub workers: Vec<Process>,
}

/// One process of the deployment.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// The process.
    pub process_id: Uuid,
    /// `serve`, `intake`, `worker` or `relay`.
    pub kind: String,
    /// The name of its machine.
    pub host: String,
    /// Its process id on that machine.
    pub pid: i64,
    /// The version of the program.
    pub version: String,
    /// When it was started.
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
    /// The dead letter.
    pub dead_letter_id: Uuid,
    /// `unreadable`, `unauthentic`, `rejected`, `wrong_shard`, `delivery_limit` or `other`.
    pub cause: String,
    /// Why the message could not be applied, as text.
    pub reason: String,
    /// The work queue that it came from, if known.
    pub queue: Option<String>,
    /// How often it became a dead letter, as the broker says.
    pub deaths: i64,
    /// When it first became a dead letter, as the broker says.
    #[serde(with = "time::serde::rfc3339::option")]
    pub died_at: Option<OffsetDateTime>,
    /// When it was stored.
    #[serde(with = "time::serde::rfc3339")]
    pub arrived_at: OffsetDateTime,
    /// How often it was replayed.
    pub replays: i32,
    /// When it was replayed last.
    #[serde(with = "time::serde::rfc3339::option")]
    pub replayed_at: Option<OffsetDateTime>,
    /// Who replayed it last.
    pub replayed_by: Option<String>,
    /// When it was dropped.
    #[serde(with = "time::serde::rfc3339::option")]
    pub dropped_at: Option<OffsetDateTime>,
    /// Who dropped it.
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
    /// The request.
    pub request_id: Uuid,
    /// The business.
    pub business_id: Uuid,
    /// `allocate`, `reverse` or `settle`.
    pub kind: &'static str,
    /// Masked, unless addresses are revealed. Absent for a reversal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// In cents. Absent for a reversal of all that is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// What a reversal reverses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// Until when it may be applied.
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
    /// When its row was written; absent while it is undecided.
    #[serde(with = "time::serde::rfc3339::option")]
    pub decided_at: Option<OffsetDateTime>,
    /// What a replay would do, as a name for programs.
    pub on_replay: &'static str,
    /// What a replay would do, in words.
    pub on_replay_in_words: &'static str,
}

impl DeadLetterRequest {
    /// What it asks for, in words.
    pub fn in_words(&self) -> String {
        let cents = self.amount.map_or_else(|| "all that is left".to_owned(), |cents| format!("{cents} cents"));
        let email = self.email.as_deref().unwrap_or_default();
        match (self.kind, self.target) {
            ("reverse", Some(target)) => format!("{cents} back from {target}"),
            ("settle", _) => format!("{cents} of {email} settled"),
            _ => format!("{cents} to {email}"),
        }
    }
}

/// Printed by `earmark request`. The amount is in cents. Unknown fields are left out.
#[derive(Clone, Debug, Serialize)]
pub struct RequestTimeline {
    /// The request.
    pub request_id: Uuid,
    /// The business.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_id: Option<Uuid>,
    /// What people call the business.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_name: Option<String>,
    /// `allocate`, `reverse` or `settle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Masked, unless addresses are revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// In cents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// What a reversal reverses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// The number of the movement among those of its business, if money was moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<i64>,
    /// The payout balance after it, in cents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payout_balance_after: Option<i64>,
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
    /// When its row was written; absent while it is undecided.
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

/// A number of lines, and the sum of their amounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many lines.
    pub lines: u64,
    /// The sum in cents. The sum of a file may not fit into 64 bits.
    pub cents: i128,
}

impl Tally {
    /// Adds one line of so many cents.
    pub fn add(&mut self, cents: i64) {
        self.lines += 1;
        self.cents += i128::from(cents);
    }
}

/// `earmark send`: the sums of a file. Each payout counts in `total` and in one of `paid`, `possible`, `refused` and
/// `undecided`.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// All payouts.
    pub total: Tally,
    /// The payouts that are paid.
    pub paid: Tally,
    /// Only in a dry run: the payouts that would be paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub possible: Option<Tally>,
    /// Refused payouts by the reason, which is the service's text.
    pub refused: BTreeMap<String, Tally>,
    /// The payouts whose outcome is not known yet.
    pub undecided: Tally,
    /// The reversals, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reversals: Option<KindSummary>,
    /// The settlements, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settlements: Option<KindSummary>,
    /// The lines that were already done when this run sent them, although the journal did not say so.
    pub replayed_lines: u64,
}

/// `earmark send`: the sums of the reversals or of the settlements. The cents of a reversal without an amount count once it
/// is done.
#[derive(Debug, Default, Serialize)]
pub struct KindSummary {
    /// All lines.
    pub total: Tally,
    /// The lines that are done.
    pub done: Tally,
    /// Only in a dry run: the lines that would be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub possible: Option<Tally>,
    /// Refused lines by the reason, which is the service's text.
    pub refused: BTreeMap<String, Tally>,
    /// The lines whose outcome is not known yet.
    pub undecided: Tally,
}

/// `earmark dead-letters replay` and `drop`: the ids of those that were replayed or dropped, under that word.
pub type DeadLettersDone = BTreeMap<&'static str, Vec<Uuid>>;
