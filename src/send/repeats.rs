//! Looks for lines that were likely carried out before in another way: from a copy of the file under another name, or by
//! another program. The service cannot know that, because they have other idempotency keys. Settlements are not looked
//! for: each is known by its reference, wherever it comes from.

use super::client::{Client, Past};
use super::progress::Progress;
use super::{Batch, State, identity, patiently};
use crate::clock;
use crate::ledger::{Kind, Outcome, RequestId};
use crate::wire::operator::Tally;
use std::collections::BTreeMap;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// How far back payments are looked at. A day less than a week, so that what is paid every week is not asked about.
const DAYS: i64 = 6;
/// Most pages of a thousand payments that are looked at.
const MOST_PAGES: usize = 20;
/// Most lines of which the service is asked whether they were paid under their own key.
const MOST_ASKED: usize = 200;

/// Lines that were likely carried out before.
#[derive(Debug, Default)]
pub struct Repeats {
    /// Lines whose reference was used before under another key.
    pub references: Likely,
    /// Reversals without a reference of as much of the same request as was reversed before.
    pub reversals: Likely,
    /// Lines without a reference of which most were paid before: the same amount to the same address.
    pub payments: Likely,
}

/// Some lines that look alike payments of the last days.
#[derive(Debug, Default)]
pub struct Likely {
    /// How many, and for how much.
    pub tally: Tally,
    /// The number of the first of them.
    pub first: Option<u32>,
}

impl Repeats {
    /// Whether there are none.
    pub fn are_none(&self) -> bool {
        [&self.references, &self.reversals, &self.payments].iter().all(|likely| likely.first.is_none())
    }
}

/// Compares the undecided lines with the payments and reversals of the last days.
pub async fn find(batch: &Batch, client: &Client, progress: &Progress) -> anyhow::Result<Repeats> {
    let matches = find_matches(batch, client, progress).await.map_err(anyhow::Error::msg)?;
    let asked: BTreeMap<usize, Uuid> = matches.found.iter().take(MOST_ASKED).map(|(at, id)| (*at, *id)).collect();
    let mut repeats = Repeats::default();
    if asked.is_empty() {
        return Ok(repeats);
    }
    for (at, row) in batch.file.rows()?.enumerate() {
        let (Ok(row), Some(request)) = (row?, asked.get(&at)) else { continue };
        let Some(key) = identity::key(&row.line, &identity::digest(&batch.name, &row.line)) else { continue };
        // What was done under the line's own key is not done again.
        let own = patiently(progress, async || client.done_under(&key).await).await.map_err(anyhow::Error::msg)?;
        if own != Some(*request) {
            let item = &batch.checked.items[at];
            let likely = match (item.has_reference(), item.kind()) {
                (true, _) => &mut repeats.references,
                (false, Kind::Allocate) => &mut repeats.payments,
                (false, Kind::Reverse | Kind::Settle) => &mut repeats.reversals,
            };
            likely.tally.add(item.cents());
            likely.first.get_or_insert(item.number);
        }
    }
    let is_numbered = |at: &usize| {
        let item = &batch.checked.items[*at];
        item.kind() == Kind::Allocate && !item.has_reference()
    };
    let count = |places: &mut dyn Iterator<Item = usize>| places.filter(is_numbered).count() as u64;
    let undecided = count(&mut (0..batch.states.len()).filter(|at| batch.states[*at] == State::Undecided));
    let (alike, asked) = (count(&mut matches.found.keys().copied()), count(&mut asked.keys().copied()));
    let compared = matches.compared.map_or(undecided, |compared| compared.min(undecided));
    if !is_likely(repeats.payments.tally.lines, asked, alike, compared) {
        repeats.payments = Likely::default();
    }
    Ok(repeats)
}

/// Whether most of `compared` lines were paid before. `alike`: how many look so. Of `asked` of these it is known that
/// `paid` were. A few payments are alike by chance, but a copy of a file is alike in most.
fn is_likely(paid: u64, asked: u64, alike: u64, compared: u64) -> bool {
    asked > 0 && 2 * alike * paid >= compared * asked
}

/// What looks like requests of the last days.
struct Matches {
    /// The undecided lines that do, with these requests.
    found: BTreeMap<usize, Uuid>,
    /// How many payments were looked at, if there are more.
    compared: Option<u64>,
}

async fn find_matches(batch: &Batch, client: &Client, progress: &Progress) -> Result<Matches, String> {
    let since = clock::now_utc() - time::Duration::days(DAYS);
    let since = since.format(&Rfc3339).map_err(|error| error.to_string())?;
    let mut matches = Matches { found: BTreeMap::new(), compared: None };
    for (kind, outcomes) in [
        (Kind::Allocate, &[Outcome::Allocated] as &[Outcome]),
        (Kind::Reverse, &[Outcome::Reversed, Outcome::SettlementReversed]),
    ] {
        let is_left =
            |(at, state): (usize, &State)| *state == State::Undecided && batch.checked.items[at].kind() == kind;
        if !batch.states.iter().enumerate().any(is_left) {
            continue;
        }
        for outcome in outcomes {
            let compared = look_through(batch, client, progress, (kind, *outcome, &since), &mut matches.found).await?;
            if kind == Kind::Allocate {
                matches.compared = compared;
            }
        }
    }
    Ok(matches)
}

/// Compares the undecided lines of a kind with the requests that had this outcome since a moment. Returns how many requests
/// that were, if there are more.
async fn look_through(
    batch: &Batch,
    client: &Client,
    progress: &Progress,
    (kind, outcome, since): (Kind, Outcome, &str),
    found: &mut BTreeMap<usize, Uuid>,
) -> Result<Option<u64>, String> {
    let (mut compared, mut cursor) = (0, None::<String>);
    for _ in 0..MOST_PAGES {
        let page = patiently(progress, async || client.history(outcome, since, cursor.as_deref()).await).await?;
        compared += page.requests.len() as u64;
        for past in &page.requests {
            if let Some(at) = find_match(batch, kind, past, found) {
                found.insert(at, past.request_id);
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(compared))
}

/// The undecided line that a request of this kind looks like. `None` if there is none, or if the journal knows the request.
fn find_match(batch: &Batch, kind: Kind, past: &Past, found: &BTreeMap<usize, Uuid>) -> Option<usize> {
    let checked = &batch.checked;
    let by_reference = past.reference.as_deref().map_or(&[] as &[u32], |text| checked.with_reference(kind, text));
    let alike = match (past.target, past.email.as_deref()) {
        _ if !by_reference.is_empty() => by_reference,
        (Some(target), _) => checked.with_reversal(RequestId::from_u128(target.as_u128()), past.amount),
        (None, Some(email)) => checked.with_payment(email, past.amount),
        (None, None) => &[],
    };
    let places = || alike.iter().map(|place| *place as usize);
    let is_known = |at| matches!(batch.states[at], State::Done(receipt) if receipt.request == past.request_id);
    let is_open = |at: &usize| batch.states[*at] == State::Undecided && !found.contains_key(at);
    if places().any(is_known) { None } else { places().find(is_open) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_from_payments_that_are_alike_by_chance() {
        for (paid, asked, alike, compared, expected) in [
            (0, 0, 0, 10, false),
            (1, 1, 1, 1, true),
            (1, 1, 1, 2, true),
            (1, 1, 1, 3, false),
            (200, 200, 20_000, 20_000, true),
            (200, 200, 5_000, 20_000, false),
            (0, 200, 1_000, 1_000, false),
            (100, 200, 1_000, 1_000, true),
        ] {
            assert_eq!(is_likely(paid, asked, alike, compared), expected, "{paid} {asked} {alike} {compared}");
        }
    }
}
