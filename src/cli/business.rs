//! `earmark business`: creates, lists and funds businesses, and switches their payouts on and off.

use super::{key, print_json};
use crate::api_key::{self, Kind};
use crate::clock;
use crate::config::Database;
use crate::ledger::{BusinessId, ShardId};
use crate::ops;
use crate::ops::businesses::{id_of, shard_of};
use crate::postgres::{self, Error, Shards, api_keys, businesses};
use crate::wire::operator;
use anyhow::{Context, bail, ensure};
use clap::{ArgGroup, Args, Subcommand};
use uuid::Uuid;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    /// Print one line of JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create a business with a secret and a public API key. The keys are shown only now
    Create(New),
    /// List all businesses with their balances, in cents
    List,
    /// Add funds to a payout balance; a negative amount takes funds out
    Fund {
        business: Uuid,
        /// The amount in cents
        #[arg(long, allow_negative_numbers = true)]
        amount: i64,
        /// The reason, stored with the deposit
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Limit what a business may allocate. A limit that is not given stays as it is
    #[command(group = ArgGroup::new("limits").required(true).multiple(true).args(["largest", "daily"]))]
    Limit {
        business: Uuid,
        /// The largest amount of one allocation, in cents, or "none"
        #[arg(long, value_name = "CENTS|none", value_parser = parse_cap)]
        largest: Option<Cap>,
        /// The largest sum of the allocations of one day (UTC), in cents, or "none"
        #[arg(long, value_name = "CENTS|none", value_parser = parse_cap)]
        daily: Option<Cap>,
    },
    /// Switch a business's payouts on
    EnablePayouts { business: Uuid },
    /// Switch a business's payouts off: all its requests are refused with 403
    DisablePayouts { business: Uuid },
}

/// What a limit should be from now on.
#[derive(Clone, Copy, Debug)]
struct Cap(Option<i64>);

fn parse_cap(text: &str) -> Result<Cap, &'static str> {
    match text {
        "none" => Ok(Cap(None)),
        cents => match cents.parse() {
            Ok(cents) if cents > 0 => Ok(Cap(Some(cents))),
            _ => Err("must be a number of cents above 0, or none"),
        },
    }
}

#[derive(Args)]
struct New {
    /// The name of the business
    #[arg(long)]
    name: String,
    /// The number of its shard, permanently. Without it, the open shard with the fewest businesses is taken
    #[arg(long)]
    shard: Option<u8>,
    /// The first deposit, in cents
    #[arg(long, default_value = "0", value_parser = clap::value_parser!(i64).range(0..))]
    payout_balance: i64,
    /// Switch payouts on from the start
    #[arg(long)]
    enable_payouts: bool,
}

/// Runs the subcommand.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shards = arguments.database.open().await?;
    let json = arguments.json;
    match arguments.command {
        Command::Create(new) => create(&shards, new, json).await,
        Command::List => list(&shards, json).await,
        Command::Fund { business, amount, note } => fund(&shards, business, amount, &note, json).await,
        Command::Limit { business, largest, daily } => limit(&shards, business, largest, daily).await,
        Command::EnablePayouts { business } => switch(&shards, business, true).await,
        Command::DisablePayouts { business } => switch(&shards, business, false).await,
    }
}

async fn create(shards: &Shards, new: New, json: bool) -> anyhow::Result<()> {
    let (secret, public) = (api_key::generate(Kind::Secret), api_key::generate(Kind::Public));
    let id = BusinessId::new(shard_for(shards, new.shard).await?, rand::random());
    let business = businesses::Business {
        business_id: Uuid::from_u128(id.as_u128()),
        name: new.name,
        balance: 0,
        payout_balance: new.payout_balance,
        payouts_enabled: new.enable_payouts,
        largest_allocation: None,
        daily_limit: None,
        created_at: clock::now_utc(),
    };
    match write(shards, &business, &secret, &public).await {
        Err(Error::Constraint { name }) if name == "businesses_name_not_blank" => bail!("--name must not be blank"),
        written => written?,
    }
    let businesses::Business { business_id, name, payout_balance, payouts_enabled, .. } = business;
    if json {
        return print_json(&operator::NewBusiness {
            business_id,
            name,
            payout_balance,
            payouts_enabled,
            secret_key: secret,
            public_key: public,
        });
    }
    println!("business        {business_id}\nname            {name}\npayout balance  {payout_balance} cents");
    println!("payouts         {}", if payouts_enabled { "enabled" } else { "disabled" });
    println!("secret key      {secret}\npublic key      {public}");
    eprintln!("copy the keys now: they are not stored and cannot be shown again");
    Ok(())
}

/// The shard for a new business.
async fn shard_for(shards: &Shards, wanted: Option<u8>) -> anyhow::Result<ShardId> {
    let Some(wanted) = wanted.map(ShardId::new) else {
        let chosen = ops::businesses::choose_shard(shards).await?;
        return chosen.context("no shard is open: run `earmark shards add`");
    };
    let known = shards.known();
    let state = known.get(&wanted).map(|open| open.state);
    let state = state.with_context(|| format!("there is no shard {wanted}: see `earmark shards list`"))?;
    ensure!(state.takes_businesses(), "shard {wanted} is {}: it takes no new business", state.as_str());
    Ok(wanted)
}

/// Writes the business to its shard, then its keys to the directory. If it breaks off in between, there is a business that
/// nobody can call with, and `earmark key create` makes it a key.
async fn write(shards: &Shards, business: &businesses::Business, secret: &str, public: &str) -> Result<(), Error> {
    let id = id_of(business.business_id);
    let writing = async |connection: &mut postgres::PgConnection| {
        let mut transaction = postgres::begin(connection).await?;
        businesses::write_new(&mut transaction, business).await?;
        if business.payout_balance != 0 {
            let cents = business.payout_balance;
            let funded = businesses::Funded { seq: 1, payout_balance: cents, moved_at: business.created_at };
            businesses::write_deposit(&mut transaction, id, Uuid::new_v4(), cents, "opening", funded).await?;
        }
        postgres::commit(transaction).await
    };
    shards.of(id)?.write(writing).await?;
    let writing = async |connection: &mut postgres::PgConnection| {
        let mut transaction = postgres::begin(connection).await?;
        for (kind, key) in [(Kind::Secret, secret), (Kind::Public, public)] {
            let row = key::new_row(business.business_id, kind, key);
            api_keys::write_new(&mut transaction, &row, &api_key::digest(key)).await?;
        }
        postgres::commit(transaction).await
    };
    shards.directory().write(writing).await
}

async fn list(shards: &Shards, json: bool) -> anyhow::Result<()> {
    let rows = ops::businesses::list(shards).await?;
    if json {
        return print_json(&rows.into_iter().map(operator::Business::from).collect::<Vec<_>>());
    }
    let line = |business: &str, balance: &str, payouts, largest: &str, daily: &str, name: &str| {
        println!("{business:<36}  {balance:>20}  {payouts:<8}  {largest:>16}  {daily:>16}  {name}");
    };
    line("BUSINESS", "PAYOUT BALANCE", "PAYOUTS", "LARGEST", "DAILY", "NAME");
    let shown = |cap: Option<i64>| cap.map_or_else(|| "-".to_owned(), |cents| cents.to_string());
    for row in rows {
        let payouts = if row.payouts_enabled { "enabled" } else { "disabled" };
        let (business, balance) = (row.business_id.to_string(), row.payout_balance.to_string());
        line(&business, &balance, payouts, &shown(row.largest_allocation), &shown(row.daily_limit), &row.name);
    }
    Ok(())
}

async fn fund(shards: &Shards, business: Uuid, amount: i64, note: &str, json: bool) -> anyhow::Result<()> {
    ensure!(amount != 0, "--amount must not be 0");
    let postgres = shard_of(shards, business).with_context(|| super::no_business(business))?;
    let balance = match businesses::deposit(
        &postgres,
        id_of(business),
        Uuid::new_v4(),
        amount,
        note,
        clock::now_millis(),
    )
    .await
    {
        Err(Error::Constraint { name }) if name == "businesses_payout_balance_not_negative" => {
            bail!("the payout balance does not cover {} cents: see `earmark business list`", amount.unsigned_abs())
        }
        written => written?.with_context(|| super::no_business(business))?,
    };
    if json {
        return print_json(&operator::Funded { business_id: business, payout_balance: balance });
    }
    println!("payout balance: {balance} cents");
    Ok(())
}

async fn limit(shards: &Shards, business: Uuid, largest: Option<Cap>, daily: Option<Cap>) -> anyhow::Result<()> {
    let postgres = shard_of(shards, business).with_context(|| super::no_business(business))?;
    let [largest, daily] = [largest, daily].map(|cap| cap.map(|Cap(cents)| cents));
    let writing = postgres.write(async |connection| businesses::write_caps(connection, business, largest, daily).await);
    let caps = writing.await?.with_context(|| super::no_business(business))?;
    let shown = |cents: Option<i64>| cents.map_or_else(|| "no limit".to_owned(), |cents| format!("{cents} cents"));
    eprintln!("{business}: one allocation {}, one day {}", shown(caps.largest), shown(caps.daily));
    Ok(())
}

async fn switch(shards: &Shards, business: Uuid, enabled: bool) -> anyhow::Result<()> {
    let postgres = shard_of(shards, business).with_context(|| super::no_business(business))?;
    let writing =
        postgres.write(async |connection| businesses::write_payouts_enabled(connection, business, enabled).await);
    ensure!(writing.await?, super::no_business(business));
    eprintln!("payouts of {business} are {}", if enabled { "enabled" } else { "disabled" });
    Ok(())
}

impl From<businesses::Business> for operator::Business {
    fn from(row: businesses::Business) -> Self {
        let businesses::Business { business_id, name, balance, payout_balance, payouts_enabled, created_at, .. } = row;
        let (largest_allocation, daily_limit) = (row.largest_allocation, row.daily_limit);
        Self {
            business_id,
            name,
            balance,
            payout_balance,
            payouts_enabled,
            largest_allocation,
            daily_limit,
            created_at,
        }
    }
}
