//! The page that looks up a request by its id: what was asked for, what was decided, and when.

use super::guard::Fields;
use super::page::{Frame, Trouble, page};
use super::{Console, words};
use crate::ledger::{Outcome, RequestId};
use crate::ops::requests;
use crate::wire::operator::RequestTimeline;
use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use std::sync::Arc;
use time::OffsetDateTime;
use uuid::Uuid;

/// The query parameters of the page.
#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    id: String,
}

#[derive(Template)]
#[template(path = "requests.html")]
struct LookUp {
    frame: Frame,
    id: String,
    wrong: Option<&'static str>,
    found: Option<RequestTimeline>,
    events: Vec<Event>,
    is_revealed: bool,
}

/// One line of a request's timeline.
struct Event {
    at: OffsetDateTime,
    text: String,
}

/// The page, with the request's address masked.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Trouble> {
    look_up(&console, frame, wanted.id.trim(), false).await
}

/// Shows the request with its whole address and its key. Each use is logged.
pub(super) async fn reveal(
    State(console): State<Arc<Console>>,
    frame: Frame,
    fields: Fields,
) -> Result<Response, Trouble> {
    frame.log("addresses revealed", &fields.get("id"));
    look_up(&console, frame, fields.get("id"), true).await
}

async fn look_up(console: &Console, frame: Frame, id: &str, is_revealed: bool) -> Result<Response, Trouble> {
    let mut shown = LookUp { frame, id: id.to_owned(), wrong: None, found: None, events: vec![], is_revealed };
    let parsed = id.parse::<Uuid>().ok().filter(|uuid| uuid.get_version_num() == 7);
    match parsed {
        Some(uuid) => {
            let request = RequestId::from_u128(uuid.as_u128());
            let found = requests::timeline(&console.shards, request, console.reply_timeout, is_revealed).await?;
            shown.events = events(&found);
            shown.found = Some(found);
        }
        None if id.is_empty() => {}
        None => {
            shown.wrong =
                Some("This is not the id of a request: request ids are UUIDs of version 7, as in X-Request-Id.")
        }
    }
    Ok(page(&shown))
}

/// The timeline, in order of time.
fn events(found: &RequestTimeline) -> Vec<Event> {
    let event = |at, text: &str| Event { at, text: text.to_owned() };
    let mut events = vec![event(found.minted_at, "Accepted by an intake"), event(found.deadline, "Its deadline")];
    for dead_letter in &found.dead_letters {
        events.push(event(dead_letter.arrived_at, &format!("Became a dead letter: {}", dead_letter.reason)));
        if let (Some(at), Some(by)) = (dead_letter.replayed_at, &dead_letter.replayed_by) {
            events.push(event(at, &format!("Replayed by {by}")));
        }
        if let (Some(at), Some(by)) = (dead_letter.dropped_at, &dead_letter.dropped_by) {
            events.push(event(at, &format!("The dead letter was dropped by {by}")));
        }
    }
    if let Some(at) = found.decided_at {
        events.push(event(at, &format!("Decided: {}", words::state(&found.state))));
    }
    events.sort_by_key(|event| event.at);
    events
}

/// What a request's state means for the money.
fn meaning(state: &str) -> &'static str {
    Outcome::parse(state).map_or(
        "Nothing is decided: the request waits in a queue or in a dead letter, was never published, or there is no request \
         with this id. After its deadline it can only be voided, which happens when its client looks it up.",
        words::outcome,
    )
}
