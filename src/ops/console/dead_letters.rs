//! The pages of dead letters: the requests in them, what the ledger says about each, and what a replay would do; and
//! the actions replay and drop.

use super::guard::Fields;
use super::page::{Confirm, Frame, Trouble, done, page};
use super::{Console, words};
use crate::clock;
use crate::ledger::{Cause, OnReplay};
use crate::ops::dead_letters::{self, Failure};
use crate::postgres::PgConnection;
use crate::postgres::dead_letters as rows;
use crate::wire::operator::DeadLetter;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;
use std::sync::Arc;
use uuid::Uuid;

/// The number of dead letters on a page.
const PAGE: usize = 50;
/// The word that has to be typed to confirm a drop.
const DROP: &str = "drop";

/// The query parameters of the list.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct DeadLetterQuery {
    /// A cause's name; empty for all.
    #[serde(default)]
    cause: String,
    /// The least age, in minutes; empty for all.
    #[serde(default)]
    older: String,
    /// A part of the reason, or the id of a request; empty for all.
    #[serde(default)]
    q: String,
    /// The last dead letter of the page before; absent for the first page.
    after: Option<Uuid>,
}

impl DeadLetterQuery {
    fn rows(&self) -> rows::DeadLetterFilter {
        let minutes: Option<i64> = self.older.parse().ok();
        rows::DeadLetterFilter {
            cause: Cause::parse(&self.cause),
            text: Some(self.q.trim().to_owned()).filter(|text| !text.is_empty()),
            until: minutes.map(|minutes| clock::now_utc() - time::Duration::minutes(minutes.clamp(0, 1_000_000))),
            after: self.after,
        }
    }

    fn is_empty(&self) -> bool {
        self.cause.is_empty() && self.older.is_empty() && self.q.trim().is_empty()
    }
}

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct List {
    frame: Frame,
    filter: DeadLetterQuery,
    causes: Vec<(&'static str, i64)>,
    dead_letters: Vec<DeadLetter>,
    next: Option<Uuid>,
}

/// The list of open dead letters, newest first, one page at a time.
pub(super) async fn list(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Query(filter): Query<DeadLetterQuery>,
) -> Result<Response, Trouble> {
    let wanted = u32::try_from(PAGE + 1).unwrap_or(u32::MAX);
    let mut dead_letters = dead_letters::list(&console.shards, &filter.rows(), wanted, false).await?;
    let counting = async |connection: &mut PgConnection| rows::count_open(connection).await;
    let counted = console.shards.directory().read(counting).await?;
    let count = |cause| counted.iter().find(|(known, _)| *known == cause).map_or(0, |(_, count)| *count);
    let causes = Cause::ALL.iter().map(|&cause| (cause.as_str(), count(cause))).collect();
    let next = (dead_letters.len() > PAGE).then(|| dead_letters[PAGE - 1].dead_letter_id);
    dead_letters.truncate(PAGE);
    Ok(page(&List { frame, filter, causes, dead_letters, next }))
}

#[derive(Template)]
#[template(path = "dead_letter.html")]
struct One {
    frame: Frame,
    dead_letter: DeadLetter,
    is_revealed: bool,
}

/// The page of one dead letter, with masked addresses.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Path(id): Path<Uuid>,
) -> Result<Response, Trouble> {
    let dead_letter = find(&console, id, false).await?;
    Ok(page(&One { frame, dead_letter, is_revealed: false }))
}

/// Shows one dead letter with whole addresses and its message. This is a POST and cannot be bookmarked: each look is
/// logged.
pub(super) async fn reveal(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Path(id): Path<Uuid>,
) -> Result<Response, Trouble> {
    let dead_letter = find(&console, id, true).await?;
    frame.log("addresses revealed", &id);
    Ok(page(&One { frame, dead_letter, is_revealed: true }))
}

async fn find(console: &Console, id: Uuid, reveal: bool) -> Result<DeadLetter, Trouble> {
    dead_letters::show(&console.shards, id, reveal).await?.ok_or(Trouble::Missing("There is no such dead letter."))
}

/// The dead letters that a form refers to: the selected ones, or all open ones of a cause.
async fn meant(console: &Console, fields: &Fields) -> Result<Vec<Uuid>, Trouble> {
    let ids: Vec<Uuid> = fields.all("dead_letter").filter_map(|id| id.parse().ok()).collect();
    if fields.get("which") != "all" {
        return if ids.is_empty() { Err(Trouble::Invalid("No dead letter is selected.".to_owned())) } else { Ok(ids) };
    }
    let cause = Cause::parse(fields.get("cause"));
    let finding = async |connection: &mut PgConnection| rows::find_open_ids(connection, cause).await;
    let all = console.shards.directory().read(finding).await?;
    if all.is_empty() { Err(Trouble::Invalid("There is no open dead letter.".to_owned())) } else { Ok(all) }
}

/// Publishes dead letters to their work queues again, after a confirmation page.
pub(super) async fn replay(
    State(console): State<Arc<Console>>,
    frame: Frame,
    fields: Fields,
) -> Result<Response, Trouble> {
    let ids = meant(&console, &fields).await?;
    if fields.get("confirmed") != "yes" {
        return ask_to_replay(&console, frame, &ids, &fields).await;
    }
    let Console { shards, broker, topology, .. } = console.as_ref();
    let replayed = match dead_letters::replay(shards, broker, topology, &ids, frame.name()).await {
        Ok(replayed) => replayed,
        Err(Failure::Postgres(error)) => return Err(error.into()),
        Err(Failure::Rabbit(error)) => {
            tracing::warn!(%error, "dead letters not replayed: rabbitmq failed");
            let text = "RabbitMQ did not take every dead letter. Those that it took are no longer in the list.";
            return Err(Trouble::Unreachable(text.to_owned()));
        }
    };
    frame.log("dead letters replayed", &joined(&replayed));
    Ok(done(&format!("{} put back into the work queue.", dead_letters(replayed.len())), "/dead-letters"))
}

/// The confirmation page of a replay. It says for how many requests the replay does what.
async fn ask_to_replay(console: &Console, frame: Frame, ids: &[Uuid], fields: &Fields) -> Result<Response, Trouble> {
    let (mut verdicts, mut unreadable) = ([0_usize; OnReplay::ALL.len()], 0);
    for id in ids.iter().take(MOST_LOOKED_AT) {
        let Some(dead_letter) = dead_letters::show(&console.shards, *id, false).await? else { continue };
        unreadable += dead_letter.unreadable.len();
        for (kind, count) in OnReplay::ALL.iter().zip(&mut verdicts) {
            *count += dead_letter.requests.iter().filter(|request| request.on_replay == kind.as_str()).count();
        }
    }
    let said = OnReplay::ALL.iter().zip(verdicts).filter(|(_, count)| *count > 0);
    let mut consequences: Vec<String> =
        said.map(|(kind, count)| format!("{}: {}", requests(count), kind.in_words())).collect();
    if unreadable > 0 {
        consequences.push(format!("{} cannot be read: it comes back as a dead letter.", requests(unreadable)));
    }
    if ids.len() > MOST_LOOKED_AT {
        consequences
            .push(format!("Counted over the first {MOST_LOOKED_AT} dead letters; the same rules hold for the rest."));
    }
    Ok(page(&Confirm {
        frame,
        question: format!("Replay {}?", dead_letters(ids.len())),
        consequences,
        action: "/dead-letters/replay".to_owned(),
        fields: meaning(ids, fields),
        typed: None,
        button: format!("Replay {}", dead_letters(ids.len())),
        is_grave: false,
        back: "/dead-letters".to_owned(),
    }))
}

/// The largest number of dead letters that are read for a confirmation page, so that the page comes quickly.
const MOST_LOOKED_AT: usize = 200;

/// Marks dead letters as dropped, after a confirmation page with a typed word.
pub(super) async fn drop(
    State(console): State<Arc<Console>>,
    frame: Frame,
    fields: Fields,
) -> Result<Response, Trouble> {
    let ids = meant(&console, &fields).await?;
    if fields.get("confirmed") != "yes" {
        return Ok(ask_to_drop(frame, &ids, &fields));
    }
    if fields.get("typed") != DROP {
        return Err(Trouble::Invalid(format!("Nothing was dropped: the word to type is {DROP}.")));
    }
    let dropped = dead_letters::drop(&console.shards, &ids, frame.name()).await?;
    frame.log("dead letters dropped", &joined(&dropped));
    Ok(done(&format!("{} dropped.", dead_letters(dropped.len())), "/dead-letters"))
}

fn ask_to_drop(frame: Frame, ids: &[Uuid], fields: &Fields) -> Response {
    let consequences = [
        "They leave the list, marked with your name. Their rows are kept.",
        "Nothing is put back into a queue. Their undecided requests stay undecided until somebody looks them up; a look-up after the deadline voids them.",
    ];
    page(&Confirm {
        frame,
        question: format!("Drop {}?", dead_letters(ids.len())),
        consequences: consequences.map(str::to_owned).to_vec(),
        action: "/dead-letters/drop".to_owned(),
        fields: meaning(ids, fields),
        typed: Some(DROP),
        button: format!("Drop {}", dead_letters(ids.len())),
        is_grave: true,
        back: "/dead-letters".to_owned(),
    })
}

/// The form fields with which the confirmed form refers to the same dead letters.
fn meaning(ids: &[Uuid], fields: &Fields) -> Vec<(String, String)> {
    let field = |name: &str, value: String| (name.to_owned(), value);
    if fields.get("which") == "all" {
        return vec![field("which", "all".to_owned()), field("cause", fields.get("cause").to_owned())];
    }
    ids.iter().map(|id| field("dead_letter", id.to_string())).collect()
}

fn dead_letters(count: usize) -> String {
    if count == 1 { "1 dead letter".to_owned() } else { format!("{count} dead letters") }
}

fn requests(count: usize) -> String {
    if count == 1 { "1 request".to_owned() } else { format!("{count} requests") }
}

fn joined(ids: &[Uuid]) -> String {
    ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(" ")
}
