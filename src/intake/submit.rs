//! Takes one request that moves money from validated to answered.
//!
//! ```text
//! admit              refused → 503, nothing was published
//! register, publish  from the call of publish on, every failure means "unknown"
//! wait               reply → its answer · anything else, or nothing in time → resolve
//!                    its key is in another epoch → publish anew, if raised before the request was received; else 503
//! resolve            void it, or learn what happened → 500 or a late answer · no database in time → 504
//! ```

use super::Intake;
use super::admission::{Admitted, Permit};
use super::auth::Caller;
use super::detached::Detached;
use super::problem::{self, Answer};
use super::publication::{Trail, Unpublished};
use super::replies::Event;
use super::validate::Asked;
use crate::clock;
use crate::failpoint::{self, Failpoint};
use crate::ledger::{IdempotencyKey, KeyClaim, Kind, Outcome, Receipt, Refusal, Request, RequestId, Told, Verdict};
use crate::metrics::METRICS;
use crate::postgres::allocations::Resolution;
use crate::trace;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// When a caller may try again whose API key has as many requests in flight, or reads, as allowed. These take
/// milliseconds.
pub const FULL_WAIT: Duration = Duration::from_secs(1);

/// What is asked for, by whom, and what was known when it was received.
pub struct Submission {
    /// The business that calls, and its API key.
    pub caller: Caller,
    /// What is asked for.
    pub asked: Asked,
    /// The idempotency key, if there is one.
    pub key: Option<IdempotencyKey>,
    /// The receipt of the HTTP request. All items of a bulk call share it.
    pub receipt: Receipt,
    /// The trace context of the caller's span.
    pub trace: Option<trace::Context>,
}

/// An answer, and the id of the request it belongs to, if one was minted.
pub type Submitted = (Answer, Option<RequestId>);

/// The work of one request. A client that hangs up does not cancel it, and if it panics, what it published is resolved.
pub struct Started {
    work: Detached<Submitted>,
    trail: Trail,
    since: Instant,
}

/// Starts the work of one request.
pub fn start<F>(intake: &Arc<Intake>, work: impl FnOnce(Arc<Intake>, Unpublished) -> F) -> Started
where
    F: Future<Output = Submitted> + Send + 'static,
{
    let (unpublished, trail) = Unpublished::for_one_request();
    let work = Detached::new(intake.tracker(), work(Arc::clone(intake), unpublished));
    Started { work, trail, since: Instant::now() }
}

impl Started {
    /// Waits for the answer. It is true even if the work panicked.
    pub async fn finish(self, intake: &Intake) -> Submitted {
        let submitted = match self.work.await {
            Ok(submitted) => submitted,
            Err(died) => {
                tracing::error!(request_id = self.trail.published(), %died, "a request's work ended by a panic");
                after_death(intake, &self.trail).await
            }
        };
        if submitted.1.is_some() {
            METRICS.request_duration.observe(self.since.elapsed().as_secs_f64());
        }
        submitted
    }
}

/// The answer after a panic: what was published is resolved first.
async fn after_death(intake: &Intake, trail: &Trail) -> Submitted {
    match trail.after_death() {
        Ok(never) => (problem::unavailable(never), None),
        Err(published) => {
            intake.tracker().track_future(resolve(intake, *published, None, "its work ended by a panic")).await
        }
    }
}

/// Admits, publishes and answers a request. Must run where it cannot be cancelled.
pub async fn submit(intake: &Intake, unpublished: Unpublished, submission: Submission) -> Submitted {
    failpoint::pass(Failpoint::AfterValidation).await;
    submit_admitted(intake, unpublished, intake.admission().admit(submission.caller), submission).await
}

/// Publishes and answers a request that was admitted, in a trace span of its own; answers with the refusal if it was
/// not.
pub async fn submit_admitted(
    intake: &Intake,
    unpublished: Unpublished,
    admitted: Admitted,
    mut submission: Submission,
) -> Submitted {
    let span = trace::begin(submission.trace, submission.asked.movement.kind().as_str(), trace::Kind::Server);
    submission.trace = span.as_ref().map_or(submission.trace, |span| Some(span.context()));
    let submitted = carry_out(intake, unpublished, admitted, submission).await;
    let (status, id) = (submitted.0.status().as_u16(), submitted.1);
    if let Some(id) = id {
        tracing::debug!(request_id = %id, status, "answered");
    }
    if let Some(span) = span {
        let request_id = id.map_or_else(String::new, |id| id.to_string());
        span.end(vec![("earmark.request_id", request_id), ("http.response.status_code", status.to_string())]);
    }
    submitted
}

async fn carry_out(intake: &Intake, unpublished: Unpublished, admitted: Admitted, submission: Submission) -> Submitted {
    let (session, permit) = match admitted {
        Ok(admitted) => admitted,
        Err(Refusal::KeyInFlight) => {
            return (problem::too_many(unpublished.never(Refusal::KeyInFlight), FULL_WAIT), None);
        }
        Err(why) => return (problem::unavailable(unpublished.never(why)), None),
    };
    let answer_by = Instant::now() + intake.budgets().reply;
    let mut request = new_request(intake, &submission, 0);
    let mut waiter = session.waiters().register(request.id);
    failpoint::pass(Failpoint::BeforePublish).await;
    let published = unpublished.publish(&session, &request, submission.trace);
    failpoint::pass(Failpoint::AfterPublish).await;
    loop {
        let event = tokio::time::timeout_at(answer_by, waiter.wait()).await;
        let reply = match event {
            Ok(Some(Event::Reply(reply))) => reply,
            Ok(Some(Event::Trouble)) => {
                return resolve(intake, request, Some(permit), "broker refused the message").await;
            }
            Ok(None) => return resolve(intake, request, Some(permit), "broker connection lost").await,
            Err(_) => return resolve(intake, request, Some(permit), "no reply in time").await,
        };
        let kind = request.movement.kind();
        if let Some(submitted) = answer_of(kind, Some(reply.id), reply.verdict, reply.told) {
            failpoint::pass(Failpoint::BeforeAnswer).await;
            return submitted;
        }
        let Verdict::StaleEpoch { current, raise } = reply.verdict else {
            return resolve(intake, request, Some(permit), "voided by the worker").await;
        };
        // The worker has voided this attempt, because its key is in another epoch. If that epoch was raised after this
        // request was received, a caller may have been told that nothing which was received until then will ever debit.
        // Whether this caller still waits makes no difference: a client can vanish unnoticed.
        if !submission.receipt.may_use(raise) {
            return supersede(intake, request, permit).await;
        }
        request = new_request(intake, &submission, current);
        waiter = session.waiters().register(request.id);
        published.publish_again(&session, &request, submission.trace);
    }
}

fn new_request(intake: &Intake, submission: &Submission, epoch: i64) -> Request {
    let wait = i64::try_from(intake.budgets().reply.as_millis()).unwrap_or(i64::MAX);
    Request {
        id: intake.ids().mint(submission.caller.business),
        business: submission.caller.business,
        movement: submission.asked.movement.clone(),
        deadline: clock::now_millis().saturating_add(wait),
        key: submission.key.clone().map(|key| KeyClaim { key, epoch }),
        reference: submission.asked.reference.clone(),
    }
}

/// The answer to a request of this kind that is decided; `None` if the ledger has to be asked. `id`: the request, if there is
/// one. A repeated success carries the id of the request that succeeded.
pub fn answer_of(kind: Kind, id: Option<RequestId>, verdict: Verdict, told: Told) -> Option<Submitted> {
    let success = |id, replayed| {
        let answer = match kind {
            Kind::Allocate => problem::allocated(told.hash?, replayed),
            Kind::Reverse => problem::reversed(id, told.cents?, told.remaining?, replayed),
            Kind::Settle => problem::settled(id, told.remaining?, replayed),
        };
        Some((answer, id))
    };
    let refusal = match verdict {
        Verdict::Replayed { original } => return success(Some(original), true),
        Verdict::KeyReused => problem::key_reused(kind),
        Verdict::StaleEpoch { .. } => return None,
        Verdict::Decided(outcome) => match outcome {
            Outcome::Voided => return None,
            Outcome::Allocated
            | Outcome::Reversed
            | Outcome::SettlementReversed
            | Outcome::Settled
            | Outcome::NothingLeft => return success(id, false),
            Outcome::PayoutsDisabled => problem::payouts_disabled(),
            Outcome::NotReversible => problem::not_reversible(),
            Outcome::AmountTooLarge => problem::amount_too_large(told.remaining?),
            Outcome::DailyLimitReached => problem::daily_limit_reached(),
            Outcome::InsufficientBalance => problem::insufficient_balance(),
            Outcome::InsufficientUserBalance => problem::insufficient_user_balance(),
        },
    };
    Some((refusal, id))
}

/// Resolves a request that was published, for the reason `why`, and answers with what the ledger then says.
pub async fn resolve(intake: &Intake, request: Request, permit: Option<Permit>, why: &str) -> Submitted {
    let (kind, id) = (request.movement.kind(), request.id);
    tracing::info!(request_id = %id, why, "resolving");
    answer_late(intake, kind, id, intake.resolvers().resolve(request, permit)).await
}

/// Voids an attempt that may not use the new epoch of its key, and raises no epoch: that would kill a later attempt by
/// the same client, which may be on its way.
async fn supersede(intake: &Intake, request: Request, permit: Permit) -> Submitted {
    let (kind, id) = (request.movement.kind(), request.id);
    answer_late(intake, kind, id, intake.resolvers().resolve_attempt(request, Some(permit))).await
}

async fn answer_late(
    intake: &Intake,
    kind: Kind,
    id: RequestId,
    resolution: oneshot::Receiver<Resolution>,
) -> Submitted {
    match tokio::time::timeout(intake.budgets().resolve, resolution).await {
        Ok(Ok(resolution)) => late_answer(kind, id, resolution),
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(request_id = %id, "answered 504: the database cannot be reached");
            (problem::unknown(id), Some(id))
        }
    }
}

fn late_answer(kind: Kind, id: RequestId, resolution: Resolution) -> Submitted {
    match resolution {
        Resolution::Voided(voided) => (problem::unexpected(voided), Some(id)),
        Resolution::AttemptVoided(voided) => (problem::superseded(voided), Some(id)),
        Resolution::Decided(verdict, told) => {
            answer_of(kind, Some(id), verdict, told).unwrap_or_else(|| (problem::unknown(id), Some(id)))
        }
    }
}
