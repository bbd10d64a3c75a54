//! Keeps an open overview page up to date with server-sent events, every second. The script closes the stream while its
//! tab is hidden. When the tab is shown again, it opens a new stream, which begins with the history.

use super::Console;
use super::overview::Parts;
use super::page::Frame;
use super::snapshot::Snapshot;
use askama::Template;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;

/// The stream of events. First `history`, all samples for the charts. Then every second `sample`, the newest sample,
/// and `page`, the changing parts of the overview as HTML.
pub(super) async fn stream(
    State(console): State<Arc<Console>>,
    frame: Frame,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut changes = console.samples.watch();
    // So that the current snapshot is sent at once.
    changes.mark_changed();
    let history = event("history", &console.samples.history());
    let events = stream::unfold((changes, frame, vec![history]), async |(mut changes, frame, mut ready)| {
        while ready.is_empty() {
            ready = next(&mut changes, &frame).await?;
        }
        let event = ready.remove(0);
        Some((Ok(event), (changes, frame, ready)))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// The events of the next sample; `None` when the process stops.
async fn next(changes: &mut watch::Receiver<Arc<Snapshot>>, frame: &Frame) -> Option<Vec<Event>> {
    changes.changed().await.ok()?;
    let snapshot = Arc::clone(&changes.borrow_and_update());
    let page = Parts { frame: frame.clone(), snapshot: Arc::clone(&snapshot) }.render().unwrap_or_default();
    Some(vec![event("sample", &snapshot.sample), Event::default().event("page").data(page)])
}

fn event(name: &str, shape: &impl Serialize) -> Event {
    Event::default().event(name).data(serde_json::to_string(shape).unwrap_or_default())
}
