//! The row that decides. A request of any kind has at most one row in `allocations`, and the first to write it wins: the
//! worker writes it together with the movement of the money, and an intake that gives up on the request writes it as
//! `voided`. The primary key lets only one of them in.
//!
//! Whether a request is decided is always found out by an insert, never by a `SELECT`. An insert waits for a transaction
//! that is about to write the same row. A `SELECT` does not wait: it may see no row a moment before that transaction
//! commits.

use super::{Error, begin, commit, keys, shards};
use crate::ledger::{
    Amount, BusinessId, Email, IdempotencyKey, Keys, Kind, Outcome, Proof, RaiseCount, Reference, Request, RequestId,
    Success, Told, UserHash, Verdict, Voider,
};
use crate::metrics::METRICS;
use sqlx::PgConnection;
use std::collections::{BTreeSet, HashMap, HashSet};
use time::OffsetDateTime;

/// The proof that a request never debited and never will, nor anything that was received under its key before. Its row says
/// `voided` and its key's epoch is raised, both committed; without a key the row is enough. Only this module makes one.
/// [`void_keyed_many`] returns it only if its commit succeeded, and a [`super::Session`] passes it on only if the standby has it.
#[derive(Debug)]
pub struct Voided(Proof);

impl Voided {
    /// How it is known.
    pub fn proof(&self) -> Proof {
        self.0
    }
}

/// The proof that one attempt under a key never debited and never will. The row with its id says `voided` and is committed,
/// or is that of another request. It says nothing of other attempts under the key.
#[derive(Debug)]
pub struct VoidedAttempt(Proof);

impl VoidedAttempt {
    /// How it is known.
    pub fn proof(&self) -> Proof {
        self.0
    }
}

/// A decided request, as its row says.
#[derive(Clone, Debug)]
pub struct Decided {
    /// What it asked for. `None` if the request was voided by its id alone.
    pub kind: Option<Kind>,
    /// What was decided.
    pub outcome: Outcome,
    /// The payout user's address, if it is known.
    pub email: Option<Email>,
    /// The amount in cents, if it is known.
    pub cents: Option<i64>,
    /// What a reversal reverses.
    pub target: Option<RequestId>,
    /// The payout user's hash, if it was allocated.
    pub hash: Option<UserHash>,
    /// The reference: the caller's own name for the request.
    pub reference: Option<Reference>,
    /// What was left after the decision, in cents. Of a reversal: of what it reverses. Of a settlement: of the payout
    /// user's balance.
    pub remaining: Option<i64>,
    /// The number of the movement, if money was moved.
    pub seq: Option<i64>,
    /// The payout balance after it, in cents.
    pub payout_balance_after: Option<i64>,
    /// When its row was written.
    pub decided_at: OffsetDateTime,
}

impl Decided {
    /// Whether the row is that of `request`. It always is, unless two intakes have minted the same id.
    pub fn is_of(&self, request: &Request) -> bool {
        let movement = &request.movement;
        let Some(kind) = self.kind else { return true };
        // The user of a reversal is found by what it reverses, and its amount may be all that is left.
        let is_found = kind == Kind::Reverse;
        kind == movement.kind()
            && self.target == movement.target()
            && (is_found || self.email.as_ref() == movement.email())
            && (is_found || self.cents == movement.amount().map(Amount::cents))
    }

    /// What the caller is told beside the outcome.
    pub fn told(&self) -> Told {
        Told { hash: self.hash, cents: self.cents, remaining: self.remaining }
    }
}

/// Reads the rows of several requests. A request without a row is left out: it was undecided when this was read. What these
/// rows say is told to callers, so a synchronous standby has to have them first.
pub async fn find_decided(
    connection: &mut PgConnection,
    requests: &[(BusinessId, RequestId)],
) -> Result<HashMap<(BusinessId, RequestId), Decided>, Error> {
    let (businesses, ids): (Vec<BusinessId>, Vec<RequestId>) = requests.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"/* find_decided */
        SELECT a.business_id AS "business: BusinessId", a.request_id AS "id: RequestId", a.kind AS "kind: Kind",
               a.outcome AS "outcome: Outcome", a.email AS "email: Email", a.amount AS cents, a.target AS "target: RequestId",
               u.hash AS "hash?: UserHash", a.reference AS "reference: Reference", a.remaining, a.seq, a.payout_balance_after,
               a.decided_at
        FROM unnest($1::uuid[], $2::uuid[]) AS wanted (business_id, request_id)
        JOIN allocations a USING (business_id, request_id)
        LEFT JOIN payout_users u ON u.business_id = a.business_id AND u.email = a.email AND a.outcome = 'allocated'
        WHERE (SELECT await_standby())"#,
        &businesses as &[BusinessId],
        &ids as &[RequestId]
    )
    .map(|row| {
        let decided = Decided {
            kind: row.kind,
            outcome: row.outcome,
            email: row.email,
            cents: row.cents,
            target: row.target,
            hash: row.hash,
            reference: row.reference,
            remaining: row.remaining,
            seq: row.seq,
            payout_balance_after: row.payout_balance_after,
            decided_at: row.decided_at,
        };
        ((row.business, row.id), decided)
    })
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Reads one request's row.
pub async fn find_one(
    connection: &mut PgConnection,
    business: BusinessId,
    request: RequestId,
) -> Result<Option<Decided>, Error> {
    let mut found = find_decided(connection, &[(business, request)]).await?;
    Ok(found.remove(&(business, request)))
}

/// A decided request, and whose it is.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose request it is.
    pub business: BusinessId,
    /// What people call the business.
    pub business_name: String,
    /// What its row says.
    pub decided: Decided,
}

/// Reads one request's row without knowing its business, with a look into the index for each business. Only commands and the
/// console use it: the request path always knows the business.
pub async fn find_anywhere(connection: &mut PgConnection, request: RequestId) -> Result<Option<Found>, Error> {
    let owner = sqlx::query!(
        r#"/* find_owner */
        SELECT b.business_id AS "business: BusinessId", b.name FROM businesses b
        CROSS JOIN LATERAL (SELECT FROM allocations a WHERE a.business_id = b.business_id AND a.request_id = $1) AS a LIMIT 1"#,
        request as RequestId
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(owner) = owner else { return Ok(None) };
    let decided = find_one(connection, owner.business, request).await?;
    Ok(decided.map(|decided| Found { business: owner.business, business_name: owner.name, decided }))
}

/// The permanent state of a request that an intake gave up on.
#[derive(Debug)]
pub enum Resolution {
    /// It never moved money, and never will; with a key: nor will anything that was received under the key before.
    Voided(Voided),
    /// It never moved money, and never will. Other attempts under its key may.
    AttemptVoided(VoidedAttempt),
    /// It was decided, in another way than by a void: the worker wrote its row first, or another request has succeeded
    /// under its key.
    Decided(Verdict, Told),
}

/// Gives up on attempts: voids each that is undecided, and returns the state of each, in the same order. It leaves
/// idempotency keys alone. So for a request with a key it proves something of this attempt only.
pub async fn void_attempts(connection: &mut PgConnection, requests: &[&Request]) -> Result<Vec<Resolution>, Error> {
    let inserted = write_voids(connection, requests).await?;
    let lost: Vec<_> =
        requests.iter().map(|request| (request.business, request.id)).filter(|name| !inserted.contains(name)).collect();
    // A second statement, because the first one's snapshot may be older than the row that won.
    let found = if lost.is_empty() { HashMap::new() } else { find_decided(connection, &lost).await? };
    let stands = |request: &&Request| {
        let name = (request.business, request.id);
        if inserted.contains(&name) {
            Ok(voided(request, Proof::Inserted))
        } else {
            resolution(request, found.get(&name))
        }
    };
    requests.iter().map(stands).collect()
}

/// Gives up on requests that have idempotency keys, and on everything that was received under these keys before. One
/// transaction voids the requests and raises the epochs of their keys; no attempt of an older epoch can be applied after
/// that. A key with a success is not raised: that success is the answer. Returns the state of each request, in the
/// same order, and the count of the raise if any key was raised.
pub async fn void_keyed_many(
    connection: &mut PgConnection,
    requests: &[&Request],
) -> Result<(Vec<Resolution>, Option<RaiseCount>), Error> {
    let mut transaction = begin(connection).await?;
    // Locks the keys before it writes the rows, in the same order as the worker.
    let keys = lock_keys(&mut transaction, requests).await?;
    let own = void_attempts(&mut transaction, requests).await?;
    let open: Vec<_> = keys.iter().filter(|(_, state)| state.success.is_none()).collect();
    let raised: Vec<_> = open.iter().map(|((business, key), state)| (*business, key, state.epoch + 1)).collect();
    let raise = if raised.is_empty() { None } else { Some(keys::raise(&mut transaction, &raised).await?) };
    let successes = find_successes(&mut transaction, &keys).await?;
    let stands = requests.iter().zip(own).map(|(request, own)| match own {
        Resolution::AttemptVoided(VoidedAttempt(proof)) => of_key(request, proof, &keys, &successes),
        decided => Ok(decided),
    });
    let stands = stands.collect::<Result<_, _>>()?;
    commit(transaction).await?;
    Ok((stands, raise))
}

async fn lock_keys(connection: &mut PgConnection, requests: &[&Request]) -> Result<Keys, Error> {
    let names: Option<BTreeSet<_>> = requests.iter().map(|request| key_of(request)).collect();
    let names =
        names.ok_or_else(|| Error::Fatal("only requests with keys can be given up by their keys".to_owned()))?;
    keys::lock_many(connection, &Vec::from_iter(names)).await
}

fn key_of(request: &Request) -> Option<(BusinessId, IdempotencyKey)> {
    Some((request.business, request.key.as_ref()?.key.clone()))
}

/// The rows of the successes under these keys.
async fn find_successes(
    connection: &mut PgConnection,
    keys: &Keys,
) -> Result<HashMap<(BusinessId, RequestId), Decided>, Error> {
    let successes = keys.iter().filter_map(|((business, _), state)| Some((*business, state.success.as_ref()?.request)));
    let successes: Vec<_> = successes.collect();
    if successes.is_empty() { Ok(HashMap::new()) } else { find_decided(connection, &successes).await }
}

/// The state of a keyed request whose own row says `voided`. A success under its key is the answer; if there is none, this
/// transaction raises the key, and the request is voided with it.
fn of_key(
    request: &Request,
    proof: Proof,
    keys: &Keys,
    successes: &HashMap<(BusinessId, RequestId), Decided>,
) -> Result<Resolution, Error> {
    let state = key_of(request).and_then(|name| keys.get(&name));
    let state = state.ok_or_else(|| Error::Fatal("a key that was locked is gone".to_owned()))?;
    let Some(Success { request: original, movement }) = &state.success else {
        let proof = if proof == Proof::Inserted { Proof::KeyRaised } else { proof };
        return Ok(Resolution::Voided(Voided(proof)));
    };
    if *movement != request.movement {
        return Ok(Resolution::Decided(Verdict::KeyReused, Told::default()));
    }
    let row = successes.get(&(request.business, *original));
    let row = row.ok_or_else(|| Error::Fatal("a key's success without its row".to_owned()))?;
    Ok(Resolution::Decided(Verdict::Replayed { original: *original }, row.told()))
}

/// Voids a request by its id alone; `Ok(false)` if it was decided before. Doing it twice is the same as once. If the answer
/// is lost, the metric of voids does not count this void.
pub async fn void_by_id(
    connection: &mut PgConnection,
    business: BusinessId,
    request: RequestId,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* void_by_id */
         INSERT INTO allocations (business_id, request_id, outcome) SELECT $1, $2, 'voided' WHERE in_schema($3)
         ON CONFLICT DO NOTHING",
        business as BusinessId,
        request as RequestId,
        shards::schema_of([business])?
    )
    .execute(connection)
    .await?;
    let is_new = done.rows_affected() == 1;
    METRICS.voids.inc_by(Voider::Lookup, u64::from(is_new));
    Ok(is_new)
}

/// Inserts `voided` rows, sorted by primary key, and returns the names of those that were inserted.
async fn write_voids(
    connection: &mut PgConnection,
    requests: &[&Request],
) -> Result<HashSet<(BusinessId, RequestId)>, Error> {
    let mut sorted = requests.to_vec();
    sorted.sort_unstable_by_key(|request| (request.business, request.id));
    let businesses: Vec<BusinessId> = sorted.iter().map(|request| request.business).collect();
    let ids: Vec<RequestId> = sorted.iter().map(|request| request.id).collect();
    let kinds: Vec<Kind> = sorted.iter().map(|request| request.movement.kind()).collect();
    let targets: Vec<Option<RequestId>> = sorted.iter().map(|request| request.movement.target()).collect();
    let emails: Vec<Option<&Email>> = sorted.iter().map(|request| request.movement.email()).collect();
    let amounts: Vec<Option<Amount>> = sorted.iter().map(|request| request.movement.amount()).collect();
    let references: Vec<Option<&Reference>> = sorted.iter().map(|request| request.reference.as_ref()).collect();
    let rows = sqlx::query!(
        r#"/* write_voids */
        INSERT INTO allocations (business_id, request_id, kind, target, email, amount, outcome, reference)
        SELECT v.business_id, v.request_id, v.kind, v.target, v.email, v.amount, 'voided', v.reference
        FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::bigint[], $7::text[])
             AS v (business_id, request_id, kind, target, email, amount, reference)
        WHERE in_schema($8)
        ON CONFLICT DO NOTHING
        RETURNING business_id AS "business: BusinessId", request_id AS "id: RequestId""#,
        &businesses as &[BusinessId],
        &ids as &[RequestId],
        &kinds as &[Kind],
        &targets as &[Option<RequestId>],
        &emails as &[Option<&Email>],
        &amounts as &[Option<Amount>],
        &references as &[Option<&Reference>],
        shards::schema_of(businesses.iter().copied())?
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.business, row.id)).collect())
}

/// The state that the row of a request says, which kept its void from being inserted.
fn resolution(request: &Request, decided: Option<&Decided>) -> Result<Resolution, Error> {
    let Some(decided) = decided else {
        return Err(Error::Transient("a row that was in the way is gone: its transaction was rolled back".to_owned()));
    };
    if !decided.is_of(request) {
        // The row with this id is that of another request, so no worker can ever insert one for this request.
        return Ok(voided(request, Proof::ForeignId));
    }
    match (decided.outcome, decided.hash) {
        (Outcome::Voided, _) => Ok(voided(request, Proof::Found)),
        (Outcome::Allocated, None) => Err(Error::Fatal("an allocation without its user".to_owned())),
        (outcome, _) => Ok(Resolution::Decided(Verdict::Decided(outcome), decided.told())),
    }
}

fn voided(request: &Request, proof: Proof) -> Resolution {
    match request.key {
        Some(_) => Resolution::AttemptVoided(VoidedAttempt(proof)),
        None => Resolution::Voided(Voided(proof)),
    }
}
