//! Looks at the businesses of all shards, and says where a new one goes. The command line and the console both use this.

use crate::ledger::{BusinessId, Shard, ShardId, shards};
use crate::postgres::businesses::{self, Business};
use crate::postgres::{Error, PgConnection, Postgres, Shards};
use uuid::Uuid;

/// The id of a business, from its UUID.
pub fn id_of(business: Uuid) -> BusinessId {
    BusinessId::from_u128(business.as_u128())
}

/// The way to the shard of a business; `None` if there is no such shard, and so no such business.
pub fn shard_of(shards: &Shards, business: Uuid) -> Option<Postgres> {
    shards.of(id_of(business)).ok()
}

/// One business; `None` if there is none with this id.
pub async fn find(shards: &Shards, business: Uuid) -> Result<Option<Business>, Error> {
    let Some(postgres) = shard_of(shards, business) else { return Ok(None) };
    postgres.read(async |connection: &mut PgConnection| businesses::find_one(connection, business).await).await
}

/// All businesses, the oldest first.
pub async fn list(shards: &Shards) -> Result<Vec<Business>, Error> {
    let mut all = vec![];
    for open in shards.known().values() {
        all.extend(open.postgres.read(businesses::read_all).await?);
    }
    all.sort_by_key(|business| (business.created_at, business.business_id));
    Ok(all)
}

/// A page of businesses in the order of their names, at most `limit`. `search` is a part of a name in any case, or a whole
/// id, or empty. `after` is the last business of the page before.
pub async fn find_page(
    shards: &Shards,
    search: &str,
    after: Option<Uuid>,
    limit: usize,
) -> Result<Vec<Business>, Error> {
    let after = match after {
        Some(after) => find(shards, after).await?,
        None => None,
    };
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut found = vec![];
    for open in shards.known().values() {
        let finding =
            async |connection: &mut PgConnection| businesses::find_page(connection, search, after.as_ref(), most).await;
        found.extend(open.postgres.read(finding).await?);
    }
    found.sort_by(|(place, one), (other_place, other)| (place, one.business_id).cmp(&(other_place, other.business_id)));
    found.truncate(limit);
    Ok(found.into_iter().map(|(_, business)| business).collect())
}

/// The shard for a new business: the open one with the fewest. `None` if no shard is open.
pub async fn choose_shard(ledger: &Shards) -> Result<Option<ShardId>, Error> {
    let mut counted = vec![];
    for (&id, open) in ledger.known().iter().filter(|(_, open)| open.state.takes_businesses()) {
        counted.push((Shard { id, state: open.state }, open.postgres.read(businesses::count).await?));
    }
    Ok(shards::choose(counted))
}
