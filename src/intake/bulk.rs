//! `POST /payout/create/bulk`: a list of allocations in one call, each decided on its own, exactly as if it were posted
//! alone. Requests that are published in the same moment share messages and transactions anyway, so nothing here packs.
//!
//! Under an `Idempotency-Key` every item has a key of its own, by its place in the list. So a repeat of the call finishes
//! what is missing and repeats nothing, and a place that holds something else by then is a 422 of that item.

use super::Intake;
use super::auth::Caller;
use super::problem::{self, Answer};
use super::submit::{self, Submission, Submitted, Unpublished};
use super::validate::{Ask, Invalid, List};
use crate::ledger::{IdempotencyKey, Receipt};
use crate::metrics::Refusal;
use crate::trace;
use futures_util::stream::{self, StreamExt};
use std::sync::Arc;

/// A list that was read, and who sent it.
pub struct BulkSubmission {
    pub caller: Caller,
    pub list: List,
    pub key: Option<IdempotencyKey>,
    pub receipt: Receipt,
    /// The caller's span.
    pub trace: Option<trace::Context>,
}

/// Takes a list from validated to answered.
///
/// No more of it are in flight at once than one list may have: else the same items of a long list would be refused for want
/// of room in every repeat. Should the connection break meanwhile, what was started runs to its end, and the rest is not
/// started; a caller who only hangs up is not noticed.
pub async fn submit_all(intake: &Arc<Intake>, bulk: BulkSubmission) -> Answer {
    let BulkSubmission { caller, list, key, receipt, trace } = bulk;
    let (unpublished, _) = Unpublished::for_one_request();
    if let Err(wait) = intake.limits.pass(caller.key, list.iter().filter(|item| item.is_ok()).count()) {
        return problem::too_many(unpublished.never(Refusal::KeyRate), wait);
    }
    let submit_one = |(place, item): (u16, Result<Ask, Invalid>)| {
        let key = key.as_ref().map(|key| key.of_item(place));
        async move {
            let ask = match item {
                Ok(ask) => ask,
                Err(Invalid::NotAnObject) => return (problem::item_not_an_object(), None),
                Err(Invalid::Fields(errors)) => return (problem::invalid_fields(errors), None),
            };
            let work = async move |intake: Arc<Intake>, unpublished| {
                let submission = Submission { caller, ask, key, receipt, trace };
                submit::submit(&intake, unpublished, submission).await
            };
            submit::start(intake, work).finish(intake).await
        }
    };
    let answers: Vec<Submitted> =
        stream::iter((0..).zip(list)).map(submit_one).buffered(intake.list_window).collect().await;
    problem::bulk(answers)
}
