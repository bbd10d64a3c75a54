//! The row that decides. `allocations` is written once for each request, by whoever comes first: the worker, together
//! with the debit and the credit, or whoever gives up on the request, as `voided`. The primary key lets one of them win.
//!
//! A doubt is always resolved by an insert, never by a look: an insert waits for another transaction that holds the same
//! key and then tells the truth, while a `SELECT` may see no row a moment before the other commits.

use super::users::find_hashes;
use super::{Error, begin, commit, keys};
use crate::ledger::{BusinessId, Outcome, Reference, Request, RequestId, UserHash};
use crate::metrics::{METRICS, Proof, Voider};
use sqlx::PgConnection;
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// The proof that a request never debited and never will: its row says `voided`, committed, or belongs to another
/// request. Only this module makes one, and only after the commit.
#[derive(Debug)]
pub struct Voided(Proof);

impl Voided {
    /// How it is known.
    pub fn proof(&self) -> Proof {
        self.0
    }
}

/// A decided request, as its row says.
#[derive(Clone, Debug)]
pub struct Decided {
    pub outcome: Outcome,
    /// Null where the request was voided by somebody who knew its id alone.
    pub email: Option<String>,
    pub cents: Option<i64>,
    /// The payout user's, if it was allocated.
    pub hash: Option<UserHash>,
    pub reference: Option<String>,
    pub decided_at: OffsetDateTime,
}

impl Decided {
    /// Whether this row can be the one of `request`. It is, unless two intakes ever minted the same id.
    pub fn is_of(&self, request: &Request) -> bool {
        self.email.as_deref().is_none_or(|email| email == request.email.as_str())
            && self.cents.is_none_or(|cents| cents == request.amount.cents())
    }
}

/// Reads the rows of several requests. A request without a row is left out: it was undecided a moment ago.
pub async fn find_decided(
    connection: &mut PgConnection,
    requests: &[(BusinessId, RequestId)],
) -> Result<HashMap<(BusinessId, RequestId), Decided>, Error> {
    let businesses: Vec<Uuid> = requests.iter().map(|(business, _)| Uuid::from_u128(business.as_u128())).collect();
    let ids: Vec<Uuid> = requests.iter().map(|(_, id)| Uuid::from_u128(id.as_u128())).collect();
    let rows = sqlx::query!(
        r#"/* find_decided */
        SELECT a.business_id, a.request_id, a.email, a.amount, a.outcome, a.reference, a.decided_at, u.hash AS "hash?"
        FROM unnest($1::uuid[], $2::uuid[]) AS wanted (business_id, request_id)
        JOIN allocations a USING (business_id, request_id)
        LEFT JOIN payout_users u ON u.business_id = a.business_id AND u.email = a.email AND a.outcome = 'allocated'"#,
        &businesses,
        &ids
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let name =
                (BusinessId::from_u128(row.business_id.as_u128()), RequestId::from_u128(row.request_id.as_u128()));
            let outcome = Outcome::parse(&row.outcome)
                .ok_or_else(|| Error::Fatal("a stored outcome is not one of the closed list".to_owned()))?;
            let hash = row.hash.and_then(|hash| hash.try_into().ok()).map(UserHash);
            let (email, cents, reference, decided_at) = (row.email, row.amount, row.reference, row.decided_at);
            Ok((name, Decided { outcome, email, cents, hash, reference, decided_at }))
        })
        .collect()
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
    pub business: BusinessId,
    pub business_name: String,
    pub decided: Decided,
}

/// Reads one request's row without knowing its business: a look into the index for each business. For people; the request
/// path always knows whose a request is.
pub async fn find_anywhere(connection: &mut PgConnection, request: RequestId) -> Result<Option<Found>, Error> {
    let owner = sqlx::query!(
        "/* find_owner */
         SELECT b.business_id, b.name FROM businesses b
         CROSS JOIN LATERAL (SELECT FROM allocations a WHERE a.business_id = b.business_id AND a.request_id = $1) AS a LIMIT 1",
        Uuid::from_u128(request.as_u128())
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(owner) = owner else { return Ok(None) };
    let business = BusinessId::from_u128(owner.business_id.as_u128());
    let decided = find_one(connection, business, request).await?;
    Ok(decided.map(|decided| Found { business, business_name: owner.name, decided }))
}

/// How a request that somebody gave up on stands now, for ever.
#[derive(Debug)]
pub enum Resolution {
    /// It never debited, and never will; with a key: nor will anything sent under the key so far.
    Voided(Voided),
    /// The worker was first.
    Allocated(UserHash),
    /// Another request under the same key, with the same email and amount, was allocated.
    Replayed {
        original: RequestId,
        hash: UserHash,
    },
    /// Another request under the same key, with another email or amount, was allocated.
    KeyReused,
    PayoutsDisabled,
    InsufficientBalance,
}

/// Gives up on requests without a key: voids each that is undecided, and says how each stands, in the same order.
pub async fn void_many(connection: &mut PgConnection, requests: &[&Request]) -> Result<Vec<Resolution>, Error> {
    let inserted = write_voids(connection, requests).await?;
    let lost: Vec<_> = requests
        .iter()
        .map(|request| (request.business, request.id))
        .filter(|name| !inserted.contains_key(name))
        .collect();
    // A second statement, because the first one's snapshot may be older than the row that won.
    let found = if lost.is_empty() { HashMap::new() } else { find_decided(connection, &lost).await? };
    let stands = |request: &&Request| {
        let name = (request.business, request.id);
        match inserted.get(&name) {
            Some(row) => resolution(request, Some(row), Proof::Inserted),
            None => resolution(request, found.get(&name), Proof::Found),
        }
    };
    requests.iter().map(stands).collect()
}

/// Gives up on a request that has a key. In one transaction the key's epoch goes up, which kills every attempt sent
/// before under the key, and the request is voided; unless there is an allocation under the key, which is the answer.
pub async fn void_keyed(connection: &mut PgConnection, request: &Request) -> Result<Resolution, Error> {
    let Some(claim) = &request.key else {
        return Err(Error::Fatal("void_keyed needs a key".to_owned()));
    };
    let mut transaction = begin(connection).await?;
    // The key before the row: the worker takes them in this order too.
    let key = keys::write_raised(&mut transaction, request.business, &claim.key).await?;
    let own = void_many(&mut transaction, &[request]).await?.pop();
    let stands = match (&key.allocated, own) {
        (Some((_, email, amount)), Some(Resolution::Voided(_)))
            if *email != request.email || *amount != request.amount =>
        {
            Resolution::KeyReused
        }
        (Some((original, email, _)), Some(Resolution::Voided(_))) => {
            let hashes = find_hashes(&mut transaction, &[(request.business, email)]).await?;
            let hash = hashes.into_values().next();
            let hash = hash.ok_or_else(|| Error::Fatal("an allocation without its user".to_owned()))?;
            Resolution::Replayed { original: *original, hash }
        }
        (None, Some(Resolution::Voided(Voided(Proof::Inserted)))) => Resolution::Voided(Voided(Proof::KeyRaised)),
        (_, Some(resolution)) => resolution,
        (_, None) => return Err(Error::Fatal("no resolution for a request".to_owned())),
    };
    commit(transaction).await?;
    Ok(stands)
}

/// Voids a request of which only the id is known; `Ok(false)` if it was decided before.
pub async fn void_by_id(
    connection: &mut PgConnection,
    business: BusinessId,
    request: RequestId,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* void_by_id */
         INSERT INTO allocations (business_id, request_id, outcome) VALUES ($1, $2, 'voided') ON CONFLICT DO NOTHING",
        Uuid::from_u128(business.as_u128()),
        Uuid::from_u128(request.as_u128())
    )
    .execute(connection)
    .await?;
    let is_new = done.rows_affected() == 1;
    METRICS.voids.inc_by(Voider::Lookup, u64::from(is_new));
    Ok(is_new)
}

/// Inserts `voided` rows, sorted by primary key; answers those that went in.
async fn write_voids(
    connection: &mut PgConnection,
    requests: &[&Request],
) -> Result<HashMap<(BusinessId, RequestId), Decided>, Error> {
    let mut sorted = requests.to_vec();
    sorted.sort_unstable_by_key(|request| (request.business, request.id));
    let businesses: Vec<Uuid> = sorted.iter().map(|request| Uuid::from_u128(request.business.as_u128())).collect();
    let ids: Vec<Uuid> = sorted.iter().map(|request| Uuid::from_u128(request.id.as_u128())).collect();
    let emails: Vec<&str> = sorted.iter().map(|request| request.email.as_str()).collect();
    let cents: Vec<i64> = sorted.iter().map(|request| request.amount.cents()).collect();
    let references: Vec<Option<&str>> =
        sorted.iter().map(|request| request.reference.as_ref().map(Reference::as_str)).collect();
    let rows = sqlx::query!(
        r#"/* write_voids */
        INSERT INTO allocations (business_id, request_id, email, amount, outcome, reference)
        SELECT v.business_id, v.request_id, v.email, v.amount, 'voided', v.reference
        FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::text[])
             AS v (business_id, request_id, email, amount, reference)
        ON CONFLICT DO NOTHING
        RETURNING business_id, request_id, email, amount, reference, decided_at"#,
        &businesses,
        &ids,
        &emails as &[&str],
        &cents,
        &references as &[Option<&str>]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let name =
                (BusinessId::from_u128(row.business_id.as_u128()), RequestId::from_u128(row.request_id.as_u128()));
            let (email, cents, reference, decided_at) = (row.email, row.amount, row.reference, row.decided_at);
            (name, Decided { outcome: Outcome::Voided, email, cents, hash: None, reference, decided_at })
        })
        .collect())
}

/// What a request's row says, and `proof` of it if it says that it is voided.
fn resolution(request: &Request, decided: Option<&Decided>, proof: Proof) -> Result<Resolution, Error> {
    let Some(decided) = decided else {
        return Err(Error::Transient("a row that was in the way is gone: its transaction was rolled back".to_owned()));
    };
    if !decided.is_of(request) {
        // The id belongs to another request, so no worker can ever apply this one.
        return Ok(Resolution::Voided(Voided(Proof::ForeignId)));
    }
    match (decided.outcome, decided.hash) {
        (Outcome::Voided, _) => Ok(Resolution::Voided(Voided(proof))),
        (Outcome::PayoutsDisabled, _) => Ok(Resolution::PayoutsDisabled),
        (Outcome::InsufficientBalance, _) => Ok(Resolution::InsufficientBalance),
        (Outcome::Allocated, Some(hash)) => Ok(Resolution::Allocated(hash)),
        (Outcome::Allocated, None) => Err(Error::Fatal("an allocation without its user".to_owned())),
    }
}
