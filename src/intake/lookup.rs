//! Answers the reads: balances, payout users, and what became of a request.

use super::Intake;
use super::detached::Detached;
use super::parameters::{Reading, Wrong, check_time};
use super::problem::{self, Answer};
use super::reads::Failure;
use super::validate::check_queried_address;
use crate::clock;
use crate::ledger::{BusinessId, IdempotencyKey, Kind, Millis, Refusal, RequestId, UserHash};
use crate::postgres::allocations::{self, Decided};
use crate::postgres::businesses::{self, Business};
use crate::postgres::users::{self, PayoutUser};
use crate::postgres::{keys, movements};
use crate::secret;
use crate::wire::answers::{BalanceBody, BusinessBody, FieldErrors, PENDING, PayoutUserBody, RequestBody};
use axum::http::HeaderMap;
use futures_util::FutureExt;
use std::sync::Arc;
use uuid::Uuid;

/// The header in which payout users send their hash to see their balance.
pub const PAYOUT_HASH: &str = "x-payout-hash";

/// Answers with the balances of the calling business, now or at a time.
pub async fn balance(intake: &Intake, headers: &HeaderMap, parameters: &[(String, String)]) -> Result<Answer, Failure> {
    let business = intake.business(headers).await?;
    let at = match read_at(parameters) {
        Ok(at) => at,
        Err(wrong) => return Ok(problem::invalid_parameters(&wrong)),
    };
    let reading = intake.read(business, async |connection| businesses::read_balances(connection, business).await);
    let (balance, mut payout_balance) = reading.await?;
    if let Some(at) = at {
        if !is_past(intake, business, at).await? {
            return Ok(problem::invalid_parameters(&not_past()));
        }
        let reading =
            intake.read(business, async |connection| movements::read_payout_balance_at(connection, business, at).await);
        payout_balance = reading.await?;
    }
    Ok(problem::found(&BalanceBody { balance, payout_balance }))
}

/// Answers with the calling business.
pub async fn own_business(intake: &Intake, headers: &HeaderMap) -> Result<Answer, Failure> {
    let business = intake.business(headers).await?;
    let id = Uuid::from_u128(business.as_u128());
    let finding = intake.read(business, async |connection| businesses::find_one(connection, id).await);
    let found = finding.await?;
    Ok(found.map_or_else(problem::not_found, show_business))
}

fn show_business(business: Business) -> Answer {
    let Business { business_id, name, payout_balance, payouts_enabled, .. } = business;
    problem::found(&BusinessBody { business_id, name, payout_balance, payouts_enabled })
}

/// The message for a time at which nobody knows a balance yet.
pub const NOT_PAST: &str = "The at must be a time by RFC 3339 that is over.";

fn not_past() -> Wrong {
    Wrong::from([("at", [NOT_PAST])])
}

/// Reads the time for which a balance is wanted, if there is one.
fn read_at(parameters: &[(String, String)]) -> Result<Option<Millis>, Wrong> {
    let mut reading = Reading::new(parameters);
    let at = reading.one("at", |text| check_time(text, NOT_PAST));
    reading.end().map(|()| at)
}

/// Whether a time is over, so that no movement of the business can be dated before it any more.
async fn is_past(intake: &Intake, business: BusinessId, at: Millis) -> Result<bool, Failure> {
    intake.write_idempotent(business, async |connection| movements::mark_past(connection, business, at).await).await
}

/// Answers with a payout user of the calling business, with the balance now or at a time.
pub async fn user_by_email(
    intake: &Intake,
    headers: &HeaderMap,
    parameters: &[(String, String)],
) -> Result<Answer, Failure> {
    let business = intake.business(headers).await?;
    let mut emails = parameters.iter().filter(|(name, _)| name == "email").map(|(_, email)| email.as_str());
    let email = emails.next().filter(|_| emails.next().is_none());
    let email = match check_queried_address(email.unwrap_or_default()) {
        Ok(email) => email,
        Err(message) => {
            return Ok(problem::invalid_fields(FieldErrors { email: Some([message]), ..FieldErrors::default() }));
        }
    };
    let at = match read_at(parameters) {
        Ok(at) => at,
        Err(wrong) => return Ok(problem::invalid_parameters(&wrong)),
    };
    let reading = intake.read(business, async |connection| users::find_by_email(connection, business, &email).await);
    let Some(mut user) = reading.await? else { return Ok(problem::not_found()) };
    if let Some(at) = at {
        if !is_past(intake, business, at).await? {
            return Ok(problem::invalid_parameters(&not_past()));
        }
        let reading = intake
            .read(business, async |connection| movements::read_user_balance_at(connection, business, &email, at).await);
        let Some(balance) = reading.await? else { return Ok(problem::not_found()) };
        user.balance = balance;
    }
    Ok(show_user(user))
}

/// Answers with the payout user whose hash is in the header; no API key is needed. A wrong hash and the hash of an
/// inactive user are the same 401.
pub async fn user_by_hash(intake: &Arc<Intake>, headers: &HeaderMap) -> Result<Answer, Failure> {
    let mut values = headers.get_all(PAYOUT_HASH).iter();
    let hash = values.next().filter(|_| values.next().is_none()).and_then(|value| parse_hash(value.as_bytes()));
    let hash = hash.ok_or(Failure::Unauthorized)?;
    let shards = intake.shards().known().keys().copied().collect();
    // The first that knows the user ends the search. The others read on, as a read that breaks off costs its connection.
    let asking = |shard| {
        let reading = Arc::clone(intake);
        let reading = async move { reading.read_shard(shard, async |at| users::find_by_hash(at, hash).await).await };
        Detached::new(intake.tracker(), reading).map(|read| {
            read.unwrap_or_else(|died| {
                tracing::error!(%died, "a look-up failed");
                Err(Failure::Unavailable(Refusal::PostgresSlow))
            })
        })
    };
    let user = intake.finder().find(hash, shards, asking).await?;
    user.filter(|user| user.status == "active").map(show_user).ok_or(Failure::Unauthorized)
}

/// Reads a hash: 64 lower-case hexadecimal digits.
fn parse_hash(text: &[u8]) -> Option<UserHash> {
    let lower = !text.iter().any(u8::is_ascii_uppercase);
    let bytes = hex::decode(text).ok().filter(|_| lower)?;
    Some(UserHash(bytes.try_into().ok()?))
}

fn show_user(user: PayoutUser) -> Answer {
    let PayoutUser { email, hash, balance, status, created_at } = user;
    problem::found(&PayoutUserBody { email, hash: hex::encode(hash.0), balance, status, created_at })
}

/// Answers what became of a request. If it is undecided after its deadline, it is voided first, so that the answer is
/// final.
pub async fn request_by_id(intake: &Intake, headers: &HeaderMap, id: Option<RequestId>) -> Result<Answer, Failure> {
    let business = intake.business(headers).await?;
    // The id alone shows whether this service issued it. So made-up ids cannot fill the table with voided rows.
    let Some(id) = id.filter(|&id| intake.secret().issued(business, id)) else { return Ok(problem::not_found()) };
    let wait = i64::try_from(intake.budgets().reply.as_millis()).unwrap_or(i64::MAX);
    let is_past = clock::now_millis() > secret::minted_at(id).saturating_add(wait);
    let finding = intake.read(business, async |connection| allocations::find_one(connection, business, id).await);
    let mut found = finding.await?;
    if found.is_none() && is_past {
        let deciding = intake.write_idempotent(business, async |connection| {
            allocations::void_by_id(connection, business, id).await?;
            allocations::find_one(connection, business, id).await
        });
        found = deciding.await?;
    }
    Ok(show_request(id, found))
}

/// Answers with the request that succeeded under a key; 404 if there is none.
pub async fn request_by_key(intake: &Intake, business: BusinessId, key: IdempotencyKey) -> Result<Answer, Failure> {
    let finding = intake.read(business, async |connection| {
        let Some(id) = keys::find_success(connection, business, &key).await? else { return Ok(None) };
        Ok(Some((id, allocations::find_one(connection, business, id).await?)))
    });
    let found = finding.await?;
    Ok(found.map_or_else(problem::not_found, |(id, decided)| show_request(id, decided)))
}

fn show_request(id: RequestId, decided: Option<Decided>) -> Answer {
    let pending = RequestBody {
        request_id: Uuid::from_u128(id.as_u128()),
        kind: None,
        state: PENDING,
        email: None,
        amount: None,
        target: None,
        hash: None,
        reference: None,
        seq: None,
        payout_balance_after: None,
        decided_at: None,
    };
    problem::found(&decided.map_or(pending, |decided| show_decided(id, decided)))
}

/// A decided request, as the API shows it.
pub fn show_decided(id: RequestId, decided: Decided) -> RequestBody {
    RequestBody {
        request_id: Uuid::from_u128(id.as_u128()),
        kind: decided.kind.map(Kind::as_str),
        state: decided.outcome.as_str(),
        email: decided.email.map(|email| email.as_str().to_owned()),
        amount: decided.cents,
        target: decided.target.map(|target| Uuid::from_u128(target.as_u128())),
        hash: decided.hash.map(|hash| hex::encode(hash.0)),
        reference: decided.reference.map(|reference| reference.as_str().to_owned()),
        seq: decided.seq,
        payout_balance_after: decided.payout_balance_after,
        decided_at: Some(decided.decided_at),
    }
}
