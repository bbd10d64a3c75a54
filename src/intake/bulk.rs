//! `POST /payout/create/bulk`: many allocations in one call. Each is decided on its own, exactly as if it were posted
//! alone. Requests that are published in the same moment share messages and transactions anyway, so nothing here packs.
//!
//! Under an `Idempotency-Key` every item has a key of its own, made from its place in the call. So a repeat of the call
//! finishes what is missing and allocates nothing twice. If a place has another email or amount in the repeat, that
//! item is answered with 422. An item may also bring a key, which is the same as if it were posted alone under it: then
//! it does not matter which items share a call.
//!
//! Items wait for places in flight, a few at a time, and bulk calls take turns. So many callers share the places
//! evenly, and a call with more items than places goes through. An item that gets no place in time is refused, and was
//! not published.

use super::Intake;
use super::admission::Admitted;
use super::auth::Caller;
use super::dry_run::{self, Trial};
use super::problem::{self, Answer};
use super::publication::Unpublished;
use super::reads::Failure;
use super::submit::{self, Submission, Submitted};
use super::validate::{Invalid, Item, Items};
use crate::failpoint::{self, Failpoint};
use crate::ledger::{IdempotencyKey, Receipt, Refusal};
use crate::trace;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::pin::pin;
use std::sync::Arc;
use tokio::time::Instant;

/// A bulk call that was read and checked, and who sent it.
pub struct BulkSubmission {
    /// The business that calls, and its API key.
    pub caller: Caller,
    /// The items in the order of the call.
    pub items: Items,
    /// The idempotency key of the call, if it has one.
    pub key: Option<IdempotencyKey>,
    /// What was known when the call was received.
    pub receipt: Receipt,
    /// The trace context of the caller's span.
    pub trace: Option<trace::Context>,
}

/// Admits, publishes and answers the items of a bulk call.
///
/// Items that are not admitted within one reply budget are refused. Each admitted item then has a reply budget of its
/// own. If the connection breaks meanwhile, items that were started run to their end, and the rest are not started. A
/// client that closes its end without an error is not noticed.
pub async fn submit_all(intake: &Arc<Intake>, mut bulk: BulkSubmission) -> Answer {
    let end = Instant::now() + intake.budgets().reply;
    let (unpublished, _) = Unpublished::for_one_request();
    let _call = match intake.admission().begin_bulk() {
        Ok(call) => call,
        Err(why) => return problem::unavailable(unpublished.never(why)),
    };
    let caller = bulk.caller;
    let (items, mut answers) = sort_out(std::mem::take(&mut bulk.items));
    if let Err(wait) = intake.admission().of_keys().pass(caller.key, items.len()) {
        return problem::too_many(unpublished.never(Refusal::KeyRate), wait);
    }
    let mut items = from_anywhere(items, intake.admission().left_for_bulk(caller)).into_iter();
    let mut running = FuturesUnordered::new();
    while items.len() > 0 {
        let share = items.len().min(intake.admission().share(caller));
        let mut admitting = pin!(intake.admission().admit_when_there_is_room(caller, share as u32, end));
        let mut admitted = loop {
            tokio::select! {
                biased;
                admitted = &mut admitting => break admitted,
                Some((place, answer)) = running.next() => answers[usize::from(place)] = Some(answer),
            }
        };
        for (place, item) in items.by_ref().take(share) {
            let item = start(intake, &bulk, place, item, admit_one(&mut admitted));
            running.push(async move { (place, item.finish(intake).await) });
        }
    }
    while let Some((place, answer)) = running.next().await {
        answers[usize::from(place)] = Some(answer);
    }
    problem::bulk(answers.into_iter().flatten().collect())
}

/// Answers what a bulk call would be answered now. Its items are decided in their order, as if nobody else called.
pub async fn try_all(intake: &Intake, bulk: BulkSubmission) -> Result<Answer, Failure> {
    let caller = bulk.caller;
    let (items, mut answers) = sort_out(bulk.items);
    let (unpublished, _) = Unpublished::for_one_request();
    if let Err(wait) = intake.admission().of_keys().pass(caller.key, items.len()) {
        return Ok(problem::too_many(unpublished.never(Refusal::KeyRate), wait));
    }
    let (places, trials): (Vec<u16>, Vec<Trial>) = items
        .into_iter()
        .map(|(place, Item { asked, key })| (place, Trial { asked, key: key_of(key, bulk.key.as_ref(), place) }))
        .unzip();
    let tried = dry_run::answers(intake, caller, trials).await?;
    for (place, answer) in places.into_iter().zip(tried) {
        answers[usize::from(place)] = Some((answer.of_a_dry_run(), None));
    }
    Ok(problem::bulk(answers.into_iter().flatten().collect()))
}

/// Sorts the items: the valid ones, by their places in the call; and for every place an answer if the item is
/// not valid.
fn sort_out(items: Items) -> (Vec<(u16, Item)>, Vec<Option<Submitted>>) {
    let mut valid = Vec::with_capacity(items.len());
    let answers = (0..).zip(items).map(|(place, item)| match item {
        Ok(item) => {
            valid.push((place, item));
            None
        }
        Err(Invalid::NotAnObject) => Some((problem::item_not_an_object(), None)),
        Err(Invalid::Fields(errors)) => Some((problem::invalid_fields(errors), None)),
    });
    let answers = answers.collect();
    (valid, answers)
}

/// The order in which the items are admitted. `left`: how many could be admitted now. If not all of them, some may be
/// refused in the end, so the order begins at a random item: otherwise every repeat of the call would leave out the
/// same ones.
fn from_anywhere(mut items: Vec<(u16, Item)>, left: usize) -> Vec<(u16, Item)> {
    if left < items.len() {
        let first = rand::random_range(0..items.len());
        items.rotate_left(first);
    }
    items
}

/// Splits one item's place off what was admitted for several.
fn admit_one(admitted: &mut Admitted) -> Admitted {
    let (session, permit) = admitted.as_mut().map_err(|why| *why)?;
    Ok((Arc::clone(session), permit.split().ok_or(Refusal::TooManyInFlight)?))
}

/// The key of an item: its own, or else one that is made of the call's key and the item's place.
fn key_of(own: Option<IdempotencyKey>, call: Option<&IdempotencyKey>, place: u16) -> Option<IdempotencyKey> {
    own.or_else(|| call.map(|key| key.of_item(place)))
}

/// Starts the work of one item.
fn start(intake: &Arc<Intake>, bulk: &BulkSubmission, place: u16, item: Item, admitted: Admitted) -> submit::Started {
    let key = key_of(item.key, bulk.key.as_ref(), place);
    let submission =
        Submission { caller: bulk.caller, asked: item.asked, key, receipt: bulk.receipt, trace: bulk.trace };
    submit::start(intake, async move |intake, unpublished| {
        failpoint::pass(Failpoint::AfterValidation).await;
        submit::submit_admitted(&intake, unpublished, admitted, submission).await
    })
}

#[cfg(test)]
mod tests {
    use super::super::validate::read_bulk;
    use super::*;
    use std::collections::BTreeSet;

    fn items() -> Vec<(u16, Item)> {
        let body = br#"{"allocations":[{"email":"a@b.co","amount":1},{"email":"a@b.co","amount":2},{"email":"a@b.co","amount":3}]}"#;
        sort_out(read_bulk(body).unwrap()).0
    }

    fn places(items: &[(u16, Item)]) -> Vec<u16> {
        items.iter().map(|(place, _)| *place).collect()
    }

    #[test]
    fn a_call_that_has_to_wait_begins_anywhere_and_leaves_nothing_out() {
        assert_eq!(places(&from_anywhere(items(), 3)), [0, 1, 2], "all of it can go at once");
        let seen: BTreeSet<Vec<u16>> = (0..1_000).map(|_| places(&from_anywhere(items(), 2))).collect();
        assert_eq!(seen, BTreeSet::from([vec![0, 1, 2], vec![1, 2, 0], vec![2, 0, 1]]));
    }

    #[test]
    fn what_is_no_allocation_is_answered_at_its_place() {
        let items = read_bulk(br#"{"allocations":[[],{"email":"a@b.co","amount":1},{}]}"#).unwrap();
        let (valid, answers) = sort_out(items);
        assert_eq!(places(&valid), [1]);
        assert_eq!(answers.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    }
}
