//! `earmark business`: creates, lists and funds businesses, and switches their payouts on and off.

use super::{key, print_json};
use crate::api_key::{self, Kind};
use crate::clock;
use crate::config::Database;
use crate::ledger::BusinessId;
use crate::postgres::{self, Error, Postgres, api_keys, businesses};
use crate::wire::operator;
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
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
    /// Switch a business's payouts on
    EnablePayouts { business: Uuid },
    /// Switch a business's payouts off: all its requests are refused with 403
    DisablePayouts { business: Uuid },
}

#[derive(Args)]
struct New {
    /// The name of the business
    #[arg(long)]
    name: String,
    /// The first deposit, in cents
    #[arg(long, default_value = "0", value_parser = clap::value_parser!(i64).range(0..))]
    payout_balance: i64,
    /// Switch payouts on from the start
    #[arg(long)]
    enable_payouts: bool,
}

/// Runs the subcommand.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let postgres = arguments.database.open()?;
    let json = arguments.json;
    match arguments.command {
        Command::Create(new) => create(&postgres, new, json).await,
        Command::List => list(&postgres, json).await,
        Command::Fund { business, amount, note } => fund(&postgres, business, amount, &note, json).await,
        Command::EnablePayouts { business } => switch(&postgres, business, true).await,
        Command::DisablePayouts { business } => switch(&postgres, business, false).await,
    }
}

async fn create(postgres: &Postgres, new: New, json: bool) -> anyhow::Result<()> {
    let (secret, public) = (api_key::generate(Kind::Secret), api_key::generate(Kind::Public));
    let business = businesses::Business {
        business_id: Uuid::new_v4(),
        name: new.name,
        balance: 0,
        payout_balance: new.payout_balance,
        payouts_enabled: new.enable_payouts,
        created_at: clock::now_utc(),
    };
    match write(postgres, &business, &secret, &public).await {
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

async fn write(postgres: &Postgres, business: &businesses::Business, secret: &str, public: &str) -> Result<(), Error> {
    let writing = async |connection: &mut postgres::PgConnection| {
        let mut transaction = postgres::begin(connection).await?;
        businesses::write_new(&mut transaction, business).await?;
        if business.payout_balance != 0 {
            let (id, amount) = (id_of(business.business_id), business.payout_balance);
            businesses::write_deposit(&mut transaction, id, Uuid::new_v4(), amount, "opening").await?;
        }
        for (kind, key) in [(Kind::Secret, secret), (Kind::Public, public)] {
            let row = key::new_row(business.business_id, kind, key);
            api_keys::write_new(&mut transaction, &row, &api_key::digest(key)).await?;
        }
        postgres::commit(transaction).await
    };
    postgres.write(writing).await
}

async fn list(postgres: &Postgres, json: bool) -> anyhow::Result<()> {
    let rows = postgres.read(async |connection| businesses::read_all(connection).await).await?;
    if json {
        return print_json(&rows.into_iter().map(operator::Business::from).collect::<Vec<_>>());
    }
    println!("{:<36}  {:>20}  {:<8}  NAME", "BUSINESS", "PAYOUT BALANCE", "PAYOUTS");
    for row in rows {
        let payouts = if row.payouts_enabled { "enabled" } else { "disabled" };
        println!("{}  {:>20}  {payouts:<8}  {}", row.business_id, row.payout_balance, row.name);
    }
    Ok(())
}

async fn fund(postgres: &Postgres, business: Uuid, amount: i64, note: &str, json: bool) -> anyhow::Result<()> {
    ensure!(amount != 0, "--amount must not be 0");
    let balance = match businesses::deposit(postgres, id_of(business), Uuid::new_v4(), amount, note).await {
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

fn id_of(business: Uuid) -> BusinessId {
    BusinessId::from_u128(business.as_u128())
}

async fn switch(postgres: &Postgres, business: Uuid, enabled: bool) -> anyhow::Result<()> {
    let writing =
        postgres.write(async |connection| businesses::write_payouts_enabled(connection, business, enabled).await);
    ensure!(writing.await?, super::no_business(business));
    eprintln!("payouts of {business} are {}", if enabled { "enabled" } else { "disabled" });
    Ok(())
}

impl From<businesses::Business> for operator::Business {
    fn from(row: businesses::Business) -> Self {
        let businesses::Business { business_id, name, balance, payout_balance, payouts_enabled, created_at } = row;
        Self { business_id, name, balance, payout_balance, payouts_enabled, created_at }
    }
}
