//! One attempt at settling requests in one transaction. A failed attempt leaves nothing behind, unless the answer to its
//! commit was lost.
//!
//! | | statements |
//! |---|---|
//! | at once: decide on the balances of the last commit, write everything if nothing moved since | 1 |
//! | step by step: lock, read, decide, write, commit | 4 to 11 |
//!
//! On Citus it is always step by step. Citus takes the statement of the other way apart, sends what one part leads to to all
//! nodes, and commits on all of them. So a shard could not be used while the node of another is away.

use crate::clock;
use crate::failpoint::{self, Failpoint};
use crate::ledger::{
    Accounts, Books, BusinessId, Decision, Entry, IdempotencyKey, Keys, Kind, Millis, Moment, Outcome, Request,
    RequestId, Told, UserHash, Verdict, decide,
};
use crate::metrics::METRICS;
use crate::metrics::labels::Phase;
use crate::postgres::allocations::{self, Decided};
use crate::postgres::batches::{Batch, HashedCredit};
use crate::postgres::{self, Error, PgConnection, batches, books, businesses, keys, users};
use crate::secret::HashSecret;
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// What became of one request.
#[derive(Clone, Debug)]
pub enum Settled {
    /// Committed, with what the caller is told beside the verdict.
    Decided(Verdict, Told),
    /// The request can never be applied, for this reason.
    Rejected(String),
}

/// The result of one attempt.
pub enum Attempt {
    /// Committed: one result for each request, in order.
    Committed(Vec<Settled>),
    /// Rolled back, because these requests had been decided before.
    Known(HashMap<(BusinessId, RequestId), Decided>),
}

/// Makes attempts, and remembers the balances that the last commits left.
pub struct Attempts {
    secret: HashSecret,
    /// How much later than its deadline, by this worker's clock, a request is still applied.
    tolerance: Millis,
    /// The accounts of businesses as the last commit left them. Another process may have changed them since.
    known: Accounts,
}

/// Most businesses whose balances are remembered.
const MOST_KNOWN: usize = 100_000;

impl Attempts {
    /// Attempts that know no balance yet.
    pub fn new(secret: HashSecret, tolerance: Millis) -> Self {
        Self { secret, tolerance, known: Accounts::new() }
    }

    fn now(&self) -> Moment {
        Moment { clock: clock::now_millis(), tolerance: self.tolerance }
    }

    /// Makes one attempt: at once if that may be and all balances are known; otherwise, or if the attempt at once could not
    /// be used, step by step.
    ///
    /// The remembered balances of the batch's businesses are removed first and put back after a commit: after a failure
    /// it is unknown whether they still hold.
    pub async fn make(
        &mut self,
        connection: &mut PgConnection,
        requests: &[Request],
        at_once: bool,
    ) -> Result<Attempt, Error> {
        let named: BTreeSet<BusinessId> = requests.iter().map(|request| request.business).collect();
        let known: Accounts =
            named.iter().filter_map(|business| Some((*business, self.known.remove(business)?))).collect();
        if at_once
            && known.len() == named.len()
            && let Some(attempt) = self.at_once(connection, known, requests).await?
        {
            return Ok(attempt);
        }
        self.step_by_step(connection, &Vec::from_iter(named), requests).await
    }

    /// Decides on the remembered balances, and writes everything in one statement. `None` if the statement wrote
    /// nothing, because a business has changed, or a request or key has a row already; also if this batch cannot be
    /// written in one statement.
    async fn at_once(
        &mut self,
        connection: &mut PgConnection,
        accounts: Accounts,
        requests: &[Request],
    ) -> Result<Option<Attempt>, Error> {
        // What others than allocations need to know is read under the lock of their business.
        if requests.iter().any(|request| request.movement.kind() != Kind::Allocate) {
            return Ok(None);
        }
        let books = Books { accounts, ..Books::default() };
        let decision = decide(&books, requests, self.now());
        if !writes_every_key(requests, &decision) {
            return Ok(None);
        }
        let batch = self.batch(requests, &decision);
        failpoint::pass(Failpoint::BeforeCommit).await;
        let since = Instant::now();
        let settled = batches::settle(connection, &books.accounts, &batch).await?;
        METRICS.observe(Phase::AtOnce, since.elapsed());
        failpoint::pass(Failpoint::AfterCommit).await;
        let Some(stored) = settled else { return Ok(None) };
        self.remember(&books.accounts, &decision);
        let credits = with_stored_hashes(connection, batch.credits, &stored).await?;
        // A request that succeeds here has a credit in this batch. It cannot repeat an earlier success, because no key
        // had a row before.
        let hash = |request: &Request| {
            let user = (request.business, request.movement.email()?);
            let found = credits.binary_search_by_key(&user, HashedCredit::user);
            found.ok().map(|index| credits[index].hash)
        };
        Ok(Some(Attempt::Committed(results(requests, &decision, hash, &HashMap::new()))))
    }

    /// Locks, reads, decides, writes and commits. Needs no remembered balances, and copes with requests that were
    /// decided before.
    async fn step_by_step(
        &mut self,
        connection: &mut PgConnection,
        sorted: &[BusinessId],
        requests: &[Request],
    ) -> Result<Attempt, Error> {
        let since = Instant::now();
        let mut transaction = postgres::begin(connection).await?;
        let locked = businesses::lock_many(&mut transaction, sorted).await?;
        failpoint::pass(Failpoint::AfterLock).await;
        let stored = lock_keys(&mut transaction, requests).await?;
        let books = books::read(&mut transaction, locked.accounts().clone(), stored, requests).await?;
        let locked_at = Instant::now();
        METRICS.observe(Phase::Lock, locked_at - since);
        let decision = decide(&books, requests, self.now());
        let written = batches::write(&mut transaction, &locked, &self.batch(requests, &decision)).await?;
        failpoint::pass(Failpoint::AfterWrite).await;
        if written.rows != requests.len() as u64 {
            postgres::rollback(transaction).await?;
            return find_known(connection, requests).await;
        }
        write_keys(&mut transaction, &decision).await?;
        let replayed = find_replayed(&mut transaction, requests, &decision).await?;
        let written_at = Instant::now();
        METRICS.observe(Phase::Write, written_at - locked_at);
        failpoint::pass(Failpoint::BeforeCommit).await;
        postgres::commit(transaction).await?;
        METRICS.observe(Phase::Commit, written_at.elapsed());
        failpoint::pass(Failpoint::AfterCommit).await;
        self.remember(locked.accounts(), &decision);
        let hash =
            |request: &Request| written.hashes.get(&(request.business, request.movement.email()?.clone())).copied();
        Ok(Attempt::Committed(results(requests, &decision, hash, &replayed)))
    }

    fn batch<'a>(&self, requests: &'a [Request], decision: &'a Decision) -> Batch<'a> {
        Batch::new(requests, decision, |credit| self.secret.user_hash(credit.business, &credit.email))
    }

    /// Remembers the accounts as this decision leaves them. If that would be too many, all others are forgotten first.
    fn remember(&mut self, accounts: &Accounts, decision: &Decision) {
        if self.known.len() + accounts.len() > MOST_KNOWN {
            self.known.clear();
        }
        self.known.extend(accounts);
        self.known.extend(decision.accounts.iter().copied());
    }
}

/// Whether the decision inserts a row for the key of every keyed request. The insert then fails if a key has a row
/// already, so no key has to be read first. A refusal writes no row for its key, and a void raises the key's epoch,
/// which needs the row first; such batches have to be settled step by step.
fn writes_every_key(requests: &[Request], decision: &Decision) -> bool {
    let mut keyed = requests.iter().filter_map(|request| Some((request.business, request.key.as_ref()?)));
    keyed.all(|(business, claim)| {
        let written =
            decision.keys.binary_search_by(|change| (change.business, &change.key).cmp(&(business, &claim.key)));
        claim.epoch == 0 && written.is_ok_and(|index| !decision.keys[index].is_raised())
    })
}

/// Reads the rows that kept rows of this batch from being inserted.
async fn find_known(connection: &mut PgConnection, requests: &[Request]) -> Result<Attempt, Error> {
    let names: Vec<_> = requests.iter().map(|request| (request.business, request.id)).collect();
    let known = allocations::find_decided(connection, &names).await?;
    if known.is_empty() {
        return Err(Error::Transient("a row that was in the way is gone".to_owned()));
    }
    Ok(Attempt::Known(known))
}

/// The rows of requests that succeeded before.
type Rows = HashMap<(BusinessId, RequestId), Decided>;

/// One result for each request, in order. `hash` gives the payout user's hash of a request that allocates; `replayed` has the
/// rows of the successes that are repeated.
fn results(
    requests: &[Request],
    decision: &Decision,
    hash: impl Fn(&Request) -> Option<UserHash>,
    replayed: &Rows,
) -> Vec<Settled> {
    let told = |request: &Request, verdict: Verdict, entry: &Entry| match verdict {
        Verdict::Decided(outcome) => {
            let hash = if outcome == Outcome::Allocated { hash(request) } else { None };
            Told { hash, cents: entry.cents, remaining: entry.remaining }
        }
        Verdict::Replayed { original } => {
            replayed.get(&(request.business, original)).map(Decided::told).unwrap_or_default()
        }
        Verdict::KeyReused | Verdict::StaleEpoch { .. } => Told::default(),
    };
    let decided = decision.verdicts.iter().copied().zip(&decision.entries);
    let settled = requests
        .iter()
        .zip(decided)
        .map(|(request, (verdict, entry))| Settled::Decided(verdict, told(request, verdict, entry)));
    settled.collect()
}

/// Locks the keys of the batch: after the businesses, and before anything is written. An intake that voids a keyed
/// request also locks its key before it writes.
async fn lock_keys(connection: &mut PgConnection, requests: &[Request]) -> Result<Keys, Error> {
    let name = |request: &Request| Some((request.business, request.key.as_ref()?.key.clone()));
    let sorted: BTreeSet<(BusinessId, IdempotencyKey)> = requests.iter().filter_map(name).collect();
    if sorted.is_empty() {
        return Ok(Keys::new());
    }
    keys::lock_many(connection, &Vec::from_iter(sorted)).await
}

/// Notes successes on their keys, and raises epochs. This comes after the rows, because the count of raises stays
/// locked until the commit, and a transaction that holds it must not wait for another lock.
async fn write_keys(connection: &mut PgConnection, decision: &Decision) -> Result<(), Error> {
    let succeeded: Vec<_> = decision.keys.iter().filter(|change| change.state.success.is_some()).collect();
    if !succeeded.is_empty() {
        keys::write_successes(connection, &succeeded).await?;
    }
    let raised = decision.keys.iter().filter(|change| change.is_raised());
    let raised: Vec<_> = raised.map(|change| (change.business, &change.key, change.state.epoch)).collect();
    if !raised.is_empty() {
        keys::raise(connection, &raised).await?;
    }
    Ok(())
}

/// The credits, each with the stored hash of its user. Normally `stored` has the hashes that were made for the credits, in
/// their order. It does not if a user was stored under another secret, or if Postgres returned the hashes in another
/// order: then they are read by email. The batch is committed already; if the read fails, the next attempt finds its rows.
async fn with_stored_hashes<'a>(
    connection: &mut PgConnection,
    mut credits: Vec<HashedCredit<'a>>,
    stored: &[UserHash],
) -> Result<Vec<HashedCredit<'a>>, Error> {
    if credits.iter().map(|credit| &credit.hash).eq(stored) {
        return Ok(credits);
    }
    let users: Vec<_> = credits.iter().map(HashedCredit::user).collect();
    let found = users::find_hashes(connection, &users).await?;
    for credit in &mut credits {
        let (business, email) = credit.user();
        let hash = found.get(&(business, email.clone())).copied();
        credit.hash = hash.ok_or_else(|| Error::Transient("a user that was credited is gone".to_owned()))?;
    }
    Ok(credits)
}

/// The rows of the successes that are repeated. They may be of this batch.
async fn find_replayed(
    connection: &mut PgConnection,
    requests: &[Request],
    decision: &Decision,
) -> Result<Rows, Error> {
    let original = |(request, verdict): (&Request, &Verdict)| match verdict {
        Verdict::Replayed { original } => Some((request.business, *original)),
        Verdict::KeyReused | Verdict::StaleEpoch { .. } | Verdict::Decided(_) => None,
    };
    let wanted: BTreeSet<_> = requests.iter().zip(&decision.verdicts).filter_map(original).collect();
    if wanted.is_empty() {
        Ok(Rows::new())
    } else {
        allocations::find_decided(connection, &Vec::from_iter(wanted)).await
    }
}
