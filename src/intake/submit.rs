//! Takes one allocation request from validated to answered.
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
use super::validate::NewAllocation;
use crate::clock;
use crate::failpoint::{self, Failpoint};
use crate::ledger::{IdempotencyKey, KeyClaim, Outcome, Receipt, Refusal, Request, RequestId, Verdict};
use crate::metrics::METRICS;
use crate::postgres::allocations::Resolution;
use crate::trace;
use crate::wire::messages::Reply;
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
    pub allocation: NewAllocation,
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
    let span = trace::begin(submission.trace, "allocate", trace::Kind::Server);
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
        if let Some(submitted) = answer_of(&reply) {
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
        email: submission.allocation.email.clone(),
        amount: submission.allocation.amount,
        deadline: clock::now_millis().saturating_add(wait),
        key: submission.key.clone().map(|key| KeyClaim { key, epoch }),
        reference: submission.allocation.reference.clone(),
    }
}

/// The answer that a reply gives by itself; `None` if the ledger has to be asked. A repeated success carries the id of
/// the request that was allocated.
fn answer_of(reply: &Reply) -> Option<Submitted> {
    let own = |answer| Some((answer, Some(reply.id)));
    match (reply.verdict, reply.hash) {
        (Verdict::Decided(Outcome::Allocated), Some(hash)) => own(problem::allocated(hash, false)),
        (Verdict::Replayed { original }, Some(hash)) => Some((problem::allocated(hash, true), Some(original))),
        (Verdict::KeyReused, _) => own(problem::key_reused()),
        (Verdict::Decided(Outcome::PayoutsDisabled), _) => own(problem::payouts_disabled()),
        (Verdict::Decided(Outcome::InsufficientBalance), _) => own(problem::insufficient_balance()),
        (Verdict::Decided(Outcome::Allocated) | Verdict::Replayed { .. }, None)
        | (Verdict::Decided(Outcome::Voided) | Verdict::StaleEpoch { .. }, _) => None,
    }
}

/// Resolves a request that was published, for the reason `why`, and answers with what the ledger then says.
pub async fn resolve(intake: &Intake, request: Request, permit: Option<Permit>, why: &str) -> Submitted {
    let id = request.id;
    tracing::info!(request_id = %id, why, "resolving");
    answer_late(intake, id, intake.resolvers().resolve(request, permit)).await
}

/// Voids an attempt that may not use the new epoch of its key, and raises no epoch: that would kill a later attempt by
/// the same client, which may be on its way.
async fn supersede(intake: &Intake, request: Request, permit: Permit) -> Submitted {
    let id = request.id;
    answer_late(intake, id, intake.resolvers().resolve_attempt(request, Some(permit))).await
}

async fn answer_late(intake: &Intake, id: RequestId, resolution: oneshot::Receiver<Resolution>) -> Submitted {
    match tokio::time::timeout(intake.budgets().resolve, resolution).await {
        Ok(Ok(resolution)) => late_answer(id, resolution),
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(request_id = %id, "answered 504: the database cannot be reached");
            (problem::unknown(id), Some(id))
        }
    }
}

fn late_answer(id: RequestId, resolution: Resolution) -> Submitted {
    let answer = match resolution {
        Resolution::Voided(voided) => problem::unexpected(voided),
        Resolution::AttemptVoided(voided) => problem::superseded(voided),
        Resolution::Allocated(hash) => problem::allocated(hash, false),
        Resolution::Replayed { original, hash } => return (problem::allocated(hash, true), Some(original)),
        Resolution::KeyReused => problem::key_reused(),
        Resolution::PayoutsDisabled => problem::payouts_disabled(),
        Resolution::InsufficientBalance => problem::insufficient_balance(),
    };
    (answer, Some(id))
}
