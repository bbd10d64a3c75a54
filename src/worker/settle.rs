//! One batch, one transaction.
//!
//! Two ways. A settler that knows the balances from its last batch decides on them and writes in one statement, which
//! checks under the lock that they are still what they were: one round trip. Otherwise, and whenever something was decided
//! before: lock, read, decide, write, commit.
//!
//! | what went wrong | what is done |
//! |---|---|
//! | some rows were there already (a redelivery, a void) | roll back, read them, settle the others without them |
//! | Postgres says that nothing happened, refuses the statement, or cannot be reached | the same again over a new connection, later |
//! | Postgres took too long | half of it, until one request is left, then as above |
//! | the answer to COMMIT is lost | half of it under the same ids: if it stands, the rows are there already |
//! | the data cannot be stored | halve the batch until the bad request stands alone |
//!
//! Nobody is answered before the commit is.

use super::Settings;
use super::gather::Batch;
use crate::clock;
use crate::cut::{self, Cut};
use crate::ledger::{
    Accounts, BusinessId, Credit, Decision, Email, IdempotencyKey, Keys, Millis, Outcome, Request, RequestId, UserHash,
    Verdict, decide, list_ids,
};
use crate::metrics::{self, METRICS, Phase, Voider};
use crate::postgres::allocations::{self, Decided};
use crate::postgres::{self, Error, PgConnection, Session, batches, businesses, keys, users};
use crate::retry::Backoff;
use crate::secret::HashSecret;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// What became of one request.
#[derive(Clone, Debug)]
pub enum Settled {
    /// Committed, with the payout user's hash if it is a success.
    Decided(Verdict, Option<UserHash>),
    /// It can never be applied, and why.
    Rejected(String),
}

/// Settles batches over one connection of its own.
pub struct Settler {
    session: Session,
    books: Books,
    /// How much later than its deadline, by this worker's clock, a request is still applied.
    clock_tolerance: Millis,
    /// Whether requests of the last batch had been decided before.
    met_decided: bool,
}

/// What a settler knows between two batches.
struct Books {
    secret: HashSecret,
    /// How the businesses stood after the last commit. Somebody else may have changed them since.
    known: Accounts,
}

/// Most businesses whose balances are remembered.
const MOST_KNOWN: usize = 100_000;

/// What one transaction came to.
enum Attempt {
    /// Committed: one result for each request.
    Committed(Vec<Settled>),
    /// Rolled back, because these had been decided before.
    Known(HashMap<(BusinessId, RequestId), Decided>),
}

impl Settler {
    pub fn new(settings: &Settings) -> Self {
        Self {
            session: settings.postgres.session(),
            books: Books { secret: settings.secret.clone(), known: Accounts::new() },
            clock_tolerance: i64::try_from(settings.limits.clock_tolerance.as_millis()).unwrap_or(i64::MAX),
            met_decided: false,
        }
    }

    /// Settles a batch: one result for each of its requests, in order. `None` if the session ended first; then nobody is
    /// answered, and the messages come again.
    ///
    /// Requests whose deadline has passed are voided.
    pub async fn settle(&mut self, batch: &Batch, session: &CancellationToken) -> Option<Vec<Settled>> {
        let requests = &batch.requests;
        let (mut unique, first) = first_of_each(requests);
        let mut results: Vec<Option<Settled>> = vec![None; requests.len()];
        if std::mem::take(&mut self.met_decided) {
            self.look_up(requests, &mut unique, &mut results).await;
        }
        let mut groups = VecDeque::from([unique]);
        while let Some(mut group) = groups.pop_front() {
            match self.settle_group(requests, &mut group, &mut results, session).await? {
                Ok(()) => {}
                Err(error) if group.len() == 1 => {
                    METRICS.settle(metrics::Settled::Rejected);
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

    /// Settles the requests of `group` together, again and again until they are committed. `group` shrinks to those that
    /// are left; `Some(Err(_))` if fewer of them have to be tried at once, or if the one that is left cannot be stored.
    async fn settle_group(
        &mut self,
        requests: &[Request],
        group: &mut Vec<usize>,
        results: &mut [Option<Settled>],
        session: &CancellationToken,
    ) -> Option<Result<(), Error>> {
        let mut backoff = Backoff::for_transactions();
        while !group.is_empty() {
            let chosen: Vec<Request> = group.iter().map(|&index| requests[index].clone()).collect();
            let books = &mut self.books;
            let now = clock::now_millis().saturating_sub(self.clock_tolerance);
            match self.session.run(async |connection| books.attempt(connection, &chosen, now).await).await {
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
                    tokio::select! { () = backoff.wait() => {}, () = session.cancelled() => return None }
                }
            }
        }
        Some(Ok(()))
    }

    /// Reads what was decided before. Requests that came back, or that nobody waits for any more, come in long rows: each
    /// batch of them would be written in vain, and locked and written once more, before their rows are read.
    async fn look_up(&mut self, requests: &[Request], group: &mut Vec<usize>, results: &mut [Option<Settled>]) {
        let names: Vec<_> = group.iter().map(|&index| (requests[index].business, requests[index].id)).collect();
        match self.session.run(async |connection| allocations::find_decided(connection, &names).await).await {
            Ok(known) => self.take_known(&known, requests, group, results),
            // Settling them finds it out as well.
            Err(error) => tracing::debug!(%error, "nothing looked up"),
        }
    }

    /// Takes those out of the group that were decided before.
    fn take_known(
        &mut self,
        known: &HashMap<(BusinessId, RequestId), Decided>,
        requests: &[Request],
        group: &mut Vec<usize>,
        results: &mut [Option<Settled>],
    ) {
        self.met_decided |= !known.is_empty();
        METRICS.settled.inc_by(metrics::Settled::DecidedBefore, known.len() as u64);
        group.retain(|&index| {
            let request = &requests[index];
            results[index] = known.get(&(request.business, request.id)).map(|row| from_row(row, request));
            results[index].is_none()
        });
    }

    /// Decides a request that cannot be applied, so that its caller need not wait for that. Should this fail too, the
    /// intake does it.
    async fn void_rejected(&mut self, request: &Request) {
        let voiding = self.session.run(async |connection| match request.key {
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
            METRICS.settle(metrics::Settled::of(*verdict));
        }
    }
}

/// The indices of the first request of each id, and for every request the index of the first of its id.
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

impl Books {
    /// One try at settling: at once if the balances are known, else, or if that fails, step by step.
    ///
    /// What was known of the batch's businesses is forgotten until it is committed: whatever fails, nobody can say what
    /// it did.
    async fn attempt(
        &mut self,
        connection: &mut PgConnection,
        requests: &[Request],
        now: Millis,
    ) -> Result<Attempt, Error> {
        let named: BTreeSet<BusinessId> = requests.iter().map(|request| request.business).collect();
        let known: Accounts =
            named.iter().filter_map(|business| Some((*business, self.known.remove(business)?))).collect();
        if known.len() == named.len()
            && let Some(attempt) = self.at_once(connection, &known, requests, now).await?
        {
            return Ok(attempt);
        }
        self.step_by_step(connection, &Vec::from_iter(named), requests, now).await
    }

    /// Decides on what is known, and writes in one statement that does nothing if anything is otherwise. `None` if so.
    async fn at_once(
        &mut self,
        connection: &mut PgConnection,
        accounts: &Accounts,
        requests: &[Request],
        now: Millis,
    ) -> Result<Option<Attempt>, Error> {
        let decision = decide(accounts, &Keys::new(), requests, now);
        if !writes_every_key(requests, &decision) {
            return Ok(None);
        }
        let hashes = self.hashes(&decision);
        cut::at(Cut::W4).await;
        let since = Instant::now();
        let settled = batches::settle(connection, accounts, requests, &decision, &hashes).await?;
        METRICS.observe(Phase::AtOnce, since.elapsed());
        cut::at(Cut::W5).await;
        let Some(stored) = settled else { return Ok(None) };
        self.remember(accounts, &decision);
        let hashes = stored_hashes(connection, &decision, hashes, &stored).await?;
        // Whoever succeeds in this batch is credited in it: no key has a row from before.
        let hash = |request: &Request| {
            let name = |credit: &Credit| (credit.business, &credit.email).cmp(&(request.business, &request.email));
            decision.credits.binary_search_by(name).ok().map(|index| hashes[index])
        };
        Ok(Some(Attempt::Committed(results(requests, &decision, hash))))
    }

    /// Locks, reads, decides, writes, commits: for whatever is not known, or was decided before.
    async fn step_by_step(
        &mut self,
        connection: &mut PgConnection,
        sorted: &[BusinessId],
        requests: &[Request],
        now: Millis,
    ) -> Result<Attempt, Error> {
        let since = Instant::now();
        let mut transaction = postgres::begin(connection).await?;
        let locked = businesses::lock_many(&mut transaction, sorted).await?;
        cut::at(Cut::W2).await;
        let stored = lock_keys(&mut transaction, requests).await?;
        let locked_at = Instant::now();
        METRICS.observe(Phase::Lock, locked_at - since);
        let decision = decide(locked.accounts(), &stored, requests, now);
        let written = batches::write(&mut transaction, &locked, requests, &decision, &self.hashes(&decision)).await?;
        cut::at(Cut::W3).await;
        if written.rows != requests.len() as u64 {
            postgres::rollback(transaction).await?;
            return find_known(connection, requests).await;
        }
        write_keys(&mut transaction, &decision).await?;
        let mut hashes = written.hashes;
        hashes.extend(replayed_hashes(&mut transaction, requests, &decision).await?);
        let written_at = Instant::now();
        METRICS.observe(Phase::Write, written_at - locked_at);
        cut::at(Cut::W4).await;
        postgres::commit(transaction).await?;
        METRICS.observe(Phase::Commit, written_at.elapsed());
        cut::at(Cut::W5).await;
        self.remember(locked.accounts(), &decision);
        let hash = |request: &Request| hashes.get(&(request.business, request.email.clone())).copied();
        Ok(Attempt::Committed(results(requests, &decision, hash)))
    }

    /// The hash to store for each credit, should its user be new.
    fn hashes(&self, decision: &Decision) -> Vec<UserHash> {
        decision.credits.iter().map(|credit| self.secret.user_hash(credit.business, &credit.email)).collect()
    }

    fn remember(&mut self, accounts: &Accounts, decision: &Decision) {
        if self.known.len() + accounts.len() > MOST_KNOWN {
            self.known.clear();
        }
        self.known.extend(accounts);
        for (business, payout_balance) in &decision.balances {
            if let Some(account) = self.known.get_mut(business) {
                account.payout_balance = *payout_balance;
            }
        }
    }
}

/// Whether the insert of its key's row would tell for each keyed request that the key had one before. A refusal writes
/// none, so its key has to be read; and a void raises the key's epoch, which needs its row first.
fn writes_every_key(requests: &[Request], decision: &Decision) -> bool {
    let mut keyed = requests.iter().filter_map(|request| Some((request.business, request.key.as_ref()?)));
    keyed.all(|(business, claim)| {
        let written =
            decision.keys.binary_search_by(|change| (change.business, &change.key).cmp(&(business, &claim.key)));
        claim.epoch == 0 && written.is_ok_and(|index| !decision.keys[index].is_raised())
    })
}

/// The rows that were in the way.
async fn find_known(connection: &mut PgConnection, requests: &[Request]) -> Result<Attempt, Error> {
    let names: Vec<_> = requests.iter().map(|request| (request.business, request.id)).collect();
    let known = allocations::find_decided(connection, &names).await?;
    if known.is_empty() {
        return Err(Error::Transient("a row that was in the way is gone".to_owned()));
    }
    Ok(Attempt::Known(known))
}

/// `hash` knows the users of those that succeed.
fn results(requests: &[Request], decision: &Decision, hash: impl Fn(&Request) -> Option<UserHash>) -> Vec<Settled> {
    let settled = requests.iter().zip(&decision.verdicts).map(|(request, &verdict)| {
        let success = matches!(verdict, Verdict::Replayed { .. } | Verdict::Decided(Outcome::Allocated));
        Settled::Decided(verdict, if success { hash(request) } else { None })
    });
    settled.collect()
}

/// After the businesses and before anything is written: whoever gives up on a keyed request takes its key first as well.
async fn lock_keys(connection: &mut PgConnection, requests: &[Request]) -> Result<Keys, Error> {
    let name = |request: &Request| Some((request.business, request.key.as_ref()?.key.clone()));
    let sorted: BTreeSet<(BusinessId, IdempotencyKey)> = requests.iter().filter_map(name).collect();
    if sorted.is_empty() {
        return Ok(Keys::new());
    }
    keys::lock_many(connection, &Vec::from_iter(sorted)).await
}

/// After the rows: the count of raises is held to the commit, and nobody who holds it waits for anything else.
async fn write_keys(connection: &mut PgConnection, decision: &Decision) -> Result<(), Error> {
    let allocated: Vec<_> = decision.keys.iter().filter(|change| change.state.allocated.is_some()).collect();
    if !allocated.is_empty() {
        keys::write_allocated(connection, &allocated).await?;
    }
    let raised = decision.keys.iter().filter(|change| change.is_raised());
    let raised: Vec<_> = raised.map(|change| (change.business, &change.key, change.state.epoch)).collect();
    if !raised.is_empty() {
        keys::raise(connection, &raised).await?;
    }
    Ok(())
}

/// The hash of each credit's user, as it was stored when the user was new. It differs from `made` only if the secret was
/// another one then, or if Postgres answers in another order than it was asked: then the hashes are read by name. The batch
/// stands already; if this fails, its rows are found when it is tried again.
async fn stored_hashes(
    connection: &mut PgConnection,
    decision: &Decision,
    made: Vec<UserHash>,
    stored: &[UserHash],
) -> Result<Vec<UserHash>, Error> {
    if made == stored {
        return Ok(made);
    }
    let users: Vec<_> = decision.credits.iter().map(|credit| (credit.business, &credit.email)).collect();
    let found = users::find_hashes(connection, &users).await?;
    let hash = |(business, email): (_, &Email)| found.get(&(business, email.clone())).copied();
    let hashes: Option<Vec<_>> = users.into_iter().map(hash).collect();
    hashes.ok_or_else(|| Error::Transient("a user that was credited is gone".to_owned()))
}

/// The hashes for those whose success is an earlier one's.
async fn replayed_hashes(
    connection: &mut PgConnection,
    requests: &[Request],
    decision: &Decision,
) -> Result<users::Hashes, Error> {
    let replayed = |(request, verdict): (_, &Verdict)| matches!(verdict, Verdict::Replayed { .. }).then_some(request);
    let wanted: Vec<(BusinessId, &Email)> = requests
        .iter()
        .zip(&decision.verdicts)
        .filter_map(replayed)
        .map(|request: &Request| (request.business, &request.email))
        .collect();
    if wanted.is_empty() {
        return Ok(users::Hashes::new());
    }
    users::find_hashes(connection, &wanted).await
}

/// The result of a request that was decided before.
fn from_row(row: &Decided, request: &Request) -> Settled {
    if row.is_of(request) {
        if row.outcome == Outcome::Voided {
            tracing::info!(request_id = %request.id, "voided before it arrived");
        }
        return Settled::Decided(Verdict::Decided(row.outcome), row.hash);
    }
    Settled::Rejected("its id belongs to another request".to_owned())
}
