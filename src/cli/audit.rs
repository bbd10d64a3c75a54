//! `earmark audit`: checks every balance against the rows.

use super::print_json;
use crate::config::{Database, Operator};
use crate::ops;
use crate::postgres::audits;
use crate::wire::operator;
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    operator: Operator,
    /// Print one line of JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Audits the ledger, records and prints the result. Returns exit code 1 if there are differences.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let shards = arguments.database.open().await?;
    let (audit, noted) = ops::audits::audit_all(&shards, &arguments.operator.by).await?;
    if let Err(error) = noted {
        // The result is still valid, so it is printed and decides the exit code.
        eprintln!("the audit's result was not recorded: {error}");
    }
    if arguments.json {
        print_json(&operator::Audit::from(&audit))?;
    } else {
        print_for_people(&audit);
    }
    Ok(if audit.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_for_people(audit: &audits::Audit) {
    println!(
        "{} businesses, {} payout users, {} decided requests",
        audit.businesses, audit.payout_users, audit.allocations
    );
    println!("deposited        {:>20} cents", audit.deposited);
    println!("allocated        {:>20} cents", audit.allocated);
    println!("reversed         {:>20} cents", audit.reversed);
    println!("settled          {:>20} cents", audit.settled);
    println!("payout balances  {:>20} cents", audit.payout_balances);
    println!("user balances    {:>20} cents", audit.user_balances);
    for difference in &audit.differences {
        let nothing = || "nothing".to_owned();
        println!(
            "DIFFERENCE {} of business {}{}: the rows say {}, the balance says {}",
            difference.kind,
            difference.business_id,
            difference.subject.as_ref().map(|subject| format!(", {subject}")).unwrap_or_default(),
            difference.expected.clone().unwrap_or_else(nothing),
            difference.found.clone().unwrap_or_else(nothing)
        );
    }
    match audit.differences.len() {
        0 => println!("every balance is what the rows say"),
        count => println!("{count} differences"),
    }
}

impl From<&audits::Audit> for operator::Audit {
    fn from(audit: &audits::Audit) -> Self {
        let audit = audit.clone();
        Self {
            businesses: audit.businesses,
            payout_users: audit.payout_users,
            allocations: audit.allocations,
            deposited: audit.deposited.to_string(),
            allocated: audit.allocated.to_string(),
            reversed: audit.reversed.to_string(),
            settled: audit.settled.to_string(),
            payout_balances: audit.payout_balances.to_string(),
            user_balances: audit.user_balances.to_string(),
            differences: audit.differences.into_iter().map(operator::Difference::from).collect(),
        }
    }
}

impl From<audits::Difference> for operator::Difference {
    fn from(row: audits::Difference) -> Self {
        let audits::Difference { kind, business_id, subject, expected, found } = row;
        Self { kind, business_id, subject, expected, found }
    }
}
