//! `GET /events`: what happened to the money of a business, in the order of the commits. A reader who has worked through an
//! event asks for what comes after its number. None is left out and none comes twice: numbers have no gap.
//!
//! A reader may wait for the next event. Waiting costs no connection: while anybody waits, one statement for each shard asks
//! a few times a second for the last numbers of all businesses that are waited for.

use super::Intake;
use super::followers::Page;
use super::history::{USUAL_LIMIT, check_limit};
use super::parameters::{Reading, Wrong};
use super::problem::{self, Answer};
use super::reads::Failure;
use crate::feed::show;
use crate::ledger::{BusinessId, ShardId};
use crate::postgres::movements::{Event, read_events, read_last_seqs};
use crate::wire::answers::EventsBody;
use axum::http::HeaderMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The longest time that a reader may wait.
pub const MOST_SECONDS: u64 = 20;
/// How often the last numbers are asked for while somebody waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

struct Question {
    after: i64,
    limit: usize,
    wait: Duration,
}

fn read_query(parameters: &[(String, String)]) -> Result<Question, Wrong> {
    let mut reading = Reading::new(parameters);
    let after = reading.one("after", |text| {
        text.parse().ok().filter(|after| *after >= 0).ok_or("The after must be the number of an event, or 0.")
    });
    let limit = reading.one("limit", check_limit);
    let wait = reading.one("wait", |text| {
        let seconds = text.parse().ok().filter(|seconds| *seconds <= MOST_SECONDS);
        seconds.ok_or("The wait must be an integer between 0 and 20: seconds.")
    });
    reading.end()?;
    let wait = Duration::from_secs(wait.unwrap_or(0));
    Ok(Question { after: after.unwrap_or(0), limit: limit.unwrap_or(USUAL_LIMIT), wait })
}

/// Answers with the events after a number. If there is none, it waits as long as it was asked to.
pub async fn page(
    intake: &Arc<Intake>,
    headers: &HeaderMap,
    parameters: &[(String, String)],
) -> Result<Answer, Failure> {
    let caller = intake.caller(headers).await?;
    let question = match read_query(parameters) {
        Ok(question) => question,
        Err(wrong) => return Ok(problem::invalid_parameters(&wrong)),
    };
    let (business, after, limit) = (caller.business, question.after, question.limit);
    let end = Instant::now() + question.wait;
    let mut events = Arc::new(read(intake, business, after, limit).await?);
    if events.is_empty() && !question.wait.is_zero() {
        let mut last = follow(intake, business);
        let waiting = tokio::time::timeout_at(end, last.wait_for(|seq| *seq > after));
        let draining = intake.admission().draining();
        let told = tokio::select! {
            told = waiting => told.ok().and_then(|told| Some(*told.ok()?)),
            () = draining.cancelled() => None,
        };
        if let Some(told) = told {
            let page = Page { business, after, limit, told };
            events = intake.followers().share(page, read(intake, business, after, limit)).await?;
        }
    }
    Ok(problem::found(&EventsBody { events: events.iter().map(show).collect() }))
}

async fn read(intake: &Intake, business: BusinessId, after: i64, limit: usize) -> Result<Vec<Event>, Failure> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    intake.read(business, async |connection| read_events(connection, business, after, limit).await).await
}

/// The last number of a business, which changes when it does.
fn follow(intake: &Arc<Intake>, business: BusinessId) -> watch::Receiver<i64> {
    let (last, is_first) = intake.followers().follow(business);
    if is_first {
        tokio::spawn(keep_looking(Arc::clone(intake), business.shard()));
    }
    last
}

/// Asks for the last numbers of a shard until nobody waits.
async fn keep_looking(intake: Arc<Intake>, shard: ShardId) {
    while let Some(businesses) = intake.followers().businesses(shard) {
        let reading = intake.read_shard(shard, async |connection| read_last_seqs(connection, &businesses).await);
        for (business, seq) in reading.await.unwrap_or_default() {
            intake.followers().tell(business, seq);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
