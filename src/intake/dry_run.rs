//! Says what the answer to a request would be now, by the same decision and from the same rows, and decides nothing: no
//! message, no row, no request id.

use super::Intake;
use super::auth::Caller;
use super::problem::Answer;
use super::reads::Failure;
use super::submit::answer_of;
use super::validate::Asked;
use crate::clock;
use crate::ledger::{
    BusinessId, IdempotencyKey, KeyClaim, Millis, Moment, Outcome, Refusal, Request, RequestId, Told, Verdict, decide,
};
use crate::postgres::books::{Snapshot, read_snapshot};

/// What is tried, under which key.
pub struct Trial {
    /// What is asked for.
    pub asked: Asked,
    /// The idempotency key, if there is one.
    pub key: Option<IdempotencyKey>,
}

/// The answer to one request.
pub async fn answer(intake: &Intake, caller: Caller, trial: Trial) -> Result<Answer, Failure> {
    answers(intake, caller, vec![trial]).await?.pop().ok_or(UNDECIDED)
}

/// The answers to requests that arrive together, in their order.
pub async fn answers(intake: &Intake, caller: Caller, trials: Vec<Trial>) -> Result<Vec<Answer>, Failure> {
    let places = intake.admission().of_keys().reads(caller.key);
    // A dry run takes milliseconds, so it waits for those before it, as a request waits for its turn.
    let place = tokio::time::timeout(intake.budgets().reply, places.acquire());
    let _place = place.await.map_err(|_| Failure::TooManyReads)?;
    let numbered = (0..).zip(trials);
    let mut requests: Vec<Request> = numbered.map(|(number, trial)| request(caller.business, number, trial)).collect();
    let asking = requests.clone();
    let reading =
        intake.read(caller.business, async |connection| read_snapshot(connection, caller.business, &asking).await);
    let snapshot = reading.await?;
    requests.iter_mut().for_each(|request| take_epoch(request, &snapshot));
    let decision = decide(&snapshot.books, &requests, Moment { clock: clock::now_millis(), tolerance: 0 });
    let decided = decision.verdicts.iter().zip(&decision.entries);
    let answers = requests.iter().zip(decided).map(|(request, (verdict, entry))| {
        let own = Told { hash: None, cents: entry.cents, remaining: entry.remaining };
        let told = told(intake, request, *verdict, own, &snapshot);
        answer_of(request.movement.kind(), None, *verdict, told).map(|(answer, _)| answer).ok_or(UNDECIDED)
    });
    answers.collect()
}

/// Nothing says what the answer would be: the business is gone.
const UNDECIDED: Failure = Failure::Unavailable(Refusal::PostgresSlow);

/// A request that nobody ever sends. Its number is its id, as the decision tells requests apart by their ids.
fn request(business: BusinessId, number: u128, trial: Trial) -> Request {
    Request {
        id: RequestId::from_u128(number),
        business,
        movement: trial.asked.movement,
        deadline: Millis::MAX,
        key: trial.key.map(|key| KeyClaim { key, epoch: 0 }),
        reference: trial.asked.reference,
    }
}

/// A retry after a 500 goes on under the current epoch, so this is what the answer would be.
fn take_epoch(request: &mut Request, snapshot: &Snapshot) {
    if let Some(claim) = &mut request.key {
        let state = snapshot.books.keys.get(&(request.business, claim.key.clone()));
        claim.epoch = state.map_or(0, |state| state.epoch);
    }
}

/// What the caller would be told beside the verdict.
fn told(intake: &Intake, request: &Request, verdict: Verdict, own: Told, snapshot: &Snapshot) -> Told {
    match (verdict, request.movement.email()) {
        (Verdict::Replayed { original }, _) => {
            snapshot.successes.get(&(request.business, original)).map_or(own, |row| row.told())
        }
        (Verdict::Decided(Outcome::Allocated), Some(email)) => {
            let stored = snapshot.hashes.get(&(request.business, email.clone())).copied();
            let hash = stored.unwrap_or_else(|| intake.secret().user_hash(request.business, email));
            Told { hash: Some(hash), ..own }
        }
        _ => own,
    }
}
