//! Settles a batch of one shard: tries, in parts if need be, until each of its requests is decided or turns out to be one that
//! cannot be stored. [`super::attempt`] is one try.
//!
//! | what went wrong | what is done |
//! |---|---|
//! | some rows are there already (a redelivery, a void) | roll back, read them, settle the others without them |
//! | Postgres says that nothing happened, refuses the statement, or cannot be reached | try again later, over a new connection |
//! | Postgres took too long | try halves, down to one request, then as above |
//! | the answer to COMMIT is lost | try halves with the same ids: if it was committed, the rows are there already |
//! | the data cannot be stored | try halves until the bad request is alone |
//!
//! No reply is sent before its commit is confirmed.

use super::Settings;
use super::attempt::{Attempt, Attempts, Settled};
use super::gather::Batch;
use crate::ledger::{BusinessId, Outcome, Request, RequestId, SettledAs, Verdict, Voider, list_ids};
use crate::metrics::METRICS;
use crate::postgres::allocations::{self, Decided};
use crate::postgres::{Error, Postgres, Session};
use crate::retry::Backoff;
use std::collections::{HashMap, VecDeque};
use tokio_util::sync::CancellationToken;

/// Settles batches over one connection of its own.
pub struct Settler {
    session: Session,
    attempts: Attempts,
    /// Whether the last batch had requests that were decided before. The next batch is then looked up first.
    met_decided: bool,
}

impl Settler {
    /// A settler that has settled nothing yet.
    pub fn new(postgres: &Postgres, settings: &Settings) -> Self {
        let tolerance = i64::try_from(settings.limits.clock_tolerance.as_millis()).unwrap_or(i64::MAX);
        Self {
            session: postgres.session(),
            attempts: Attempts::new(settings.secret.clone(), tolerance),
            met_decided: false,
        }
    }

    /// Settles a batch: one result for each of its requests, in order. `None` if the session ended first; then no reply
    /// is sent, and the messages are delivered again.
    ///
    /// Requests whose deadline has passed are voided.
    pub async fn settle(&mut self, batch: &Batch, ending: &CancellationToken) -> Option<Vec<Settled>> {
        let requests = &batch.requests;
        let (mut unique, first) = first_of_each(requests);
        let mut results: Vec<Option<Settled>> = vec![None; requests.len()];
        if std::mem::take(&mut self.met_decided) {
            self.look_up(requests, &mut unique, &mut results).await;
        }
        let mut groups = VecDeque::from([unique]);
        while let Some(mut group) = groups.pop_front() {
            match self.settle_group(requests, &mut group, &mut results, ending).await? {
                Ok(()) => {}
                Err(error) if group.len() == 1 => {
                    METRICS.settle(SettledAs::Rejected);
                    self.void_rejected(&requests[group[0]]).await;
                    results[group[0]] = Some(Settled::Rejected(error.to_string()));
                }
                Err(_) => {
                    METRICS.batch_splits.inc();
                    let second = group.split_off(group.len() / 2);
                    groups.push_front(second);
                    groups.push_front(group);
                }
            }
        }
        first.into_iter().map(|index| results[index].clone()).collect()
    }

    /// Settles the requests of `group` together, and tries until they are committed. `group` holds indices into
    /// `requests`, and shrinks to those that are left. `Some(Err(_))` if fewer of them have to be tried at once, or if
    /// the one that is left cannot be stored; `None` if the session ended.
    async fn settle_group(
        &mut self,
        requests: &[Request],
        group: &mut Vec<usize>,
        results: &mut [Option<Settled>],
        ending: &CancellationToken,
    ) -> Option<Result<(), Error>> {
        let mut backoff = Backoff::for_transactions();
        while !group.is_empty() {
            let chosen: Vec<Request> = group.iter().map(|&index| requests[index].clone()).collect();
            let attempts = &mut self.attempts;
            let at_once = !self.session.is_citus();
            match self.session.write(async |connection| attempts.make(connection, &chosen, at_once).await).await {
                Ok(Attempt::Committed(settled)) => {
                    count(&settled);
                    group.drain(..).zip(settled).for_each(|(index, settled)| results[index] = Some(settled));
                }
                Ok(Attempt::Known(known)) => self.take_known(&known, requests, group, results),
                Err(error) => {
                    log_failure(&error, &chosen);
                    let is_halved = group.len() > 1 && error.may_be_its_size();
                    if is_halved || !error.is_retryable() {
                        return Some(Err(error));
                    }
                    METRICS.batch_retries.inc();
                    tokio::select! { () = backoff.wait() => {}, () = ending.cancelled() => return None }
                }
            }
        }
        Some(Ok(()))
    }

    /// Reads the rows of requests that were decided before, and takes these out of the group. Such requests,
    /// redelivered or voided meanwhile, come many in a row. Without this look-up each batch of them would be written in
    /// vain, then locked and written in vain once more, before their rows are read.
    async fn look_up(&mut self, requests: &[Request], group: &mut Vec<usize>, results: &mut [Option<Settled>]) {
        let names: Vec<_> = group.iter().map(|&index| (requests[index].business, requests[index].id)).collect();
        match self.session.read(async |connection| allocations::find_decided(connection, &names).await).await {
            Ok(known) => self.take_known(&known, requests, group, results),
            // Settling the requests finds the same rows.
            Err(error) => tracing::debug!(%error, "requests not looked up"),
        }
    }

    /// Takes the requests that were decided before out of the group, with the results that their rows say.
    fn take_known(
        &mut self,
        known: &HashMap<(BusinessId, RequestId), Decided>,
        requests: &[Request],
        group: &mut Vec<usize>,
        results: &mut [Option<Settled>],
    ) {
        self.met_decided |= !known.is_empty();
        METRICS.settled.inc_by(SettledAs::DecidedBefore, known.len() as u64);
        group.retain(|&index| {
            let request = &requests[index];
            results[index] = known.get(&(request.business, request.id)).map(|row| from_row(row, request));
            results[index].is_none()
        });
    }

    /// Voids a request that cannot be applied, so that its caller need not wait for the intake to do so. If this fails
    /// too, the intake does it.
    async fn void_rejected(&mut self, request: &Request) {
        let voiding = self.session.write(async |connection| match request.key {
            Some(_) => allocations::void_keyed_many(connection, &[request]).await.map(drop),
            None => allocations::void_attempts(connection, &[request]).await.map(drop),
        });
        match voiding.await {
            Ok(()) => METRICS.voids.inc(Voider::WorkerRejected),
            Err(error) => tracing::warn!(request_id = %request.id, %error, "a rejected request is not voided yet"),
        }
    }
}

fn log_failure(error: &Error, chosen: &[Request]) {
    let (requests, request_ids) = (chosen.len(), list_ids(chosen));
    match error {
        Error::Unknown(_) => {
            METRICS.commits_in_doubt.inc();
            tracing::warn!(%error, requests, request_ids, "commit in doubt");
        }
        _ if error.is_retryable() => tracing::warn!(%error, requests, request_ids, "batch not settled yet"),
        _ if requests > 1 => {
            tracing::warn!(%error, requests, request_ids, "batch split: one of its requests cannot be stored");
        }
        _ => {}
    }
}

fn count(settled: &[Settled]) {
    for settled in settled {
        if let Settled::Decided(verdict, _) = settled {
            METRICS.settle(SettledAs::from(*verdict));
        }
    }
}

/// Finds requests with the same id: the index of the first request of each id, and for every request the index of the
/// first with its id.
fn first_of_each(requests: &[Request]) -> (Vec<usize>, Vec<usize>) {
    let mut seen = HashMap::new();
    let first = requests
        .iter()
        .enumerate()
        .map(|(index, request)| *seen.entry((request.business, request.id)).or_insert(index));
    let first: Vec<usize> = first.collect();
    let unique = first.iter().enumerate().filter(|&(index, &first)| index == first).map(|(index, _)| index);
    (unique.collect(), first)
}

/// The result of a request that was decided before; rejected if the row is another request's.
fn from_row(row: &Decided, request: &Request) -> Settled {
    if row.is_of(request) {
        if row.outcome == Outcome::Voided {
            tracing::info!(request_id = %request.id, "voided before it arrived");
        }
        return Settled::Decided(Verdict::Decided(row.outcome), row.told());
    }
    Settled::Rejected("its id belongs to another request".to_owned())
}
