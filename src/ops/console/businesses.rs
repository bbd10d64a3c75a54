//! The pages of businesses: balances, switching payouts on and off, and adding funds.

use super::guard::Fields;
use super::page::{Confirm, Frame, Trouble, done, page};
use super::{Console, words};
use crate::clock;
use crate::ledger::money;
use crate::ops;
use crate::ops::businesses::{id_of, shard_of};
use crate::postgres::businesses::{self, Business};
use crate::postgres::webhooks::{self, Webhook};
use crate::postgres::{Error, PgConnection};
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;
use std::sync::Arc;
use uuid::Uuid;

/// The number of businesses on a page.
const PAGE: usize = 50;
const MAX_NOTE_CHARS: usize = 200;

/// The query parameters of the list.
#[derive(Deserialize)]
pub(super) struct BusinessQuery {
    /// A part of a name, or a whole id; empty for all.
    #[serde(default)]
    q: String,
    /// The last business of the page before; absent for the first page.
    after: Option<Uuid>,
}

#[derive(Template)]
#[template(path = "businesses.html")]
struct List {
    frame: Frame,
    search: String,
    rows: Vec<Business>,
    next: Option<Uuid>,
}

/// The list of businesses, one page at a time.
pub(super) async fn list(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Query(filter): Query<BusinessQuery>,
) -> Result<Response, Trouble> {
    let search = filter.q.trim().to_owned();
    let mut rows = ops::businesses::find_page(&console.shards, &search, filter.after, PAGE + 1).await?;
    let next = (rows.len() > PAGE).then(|| rows[PAGE - 1].business_id);
    rows.truncate(PAGE);
    Ok(page(&List { frame, search, rows, next }))
}

#[derive(Template)]
#[template(path = "business.html")]
struct One {
    frame: Frame,
    business: Business,
    deposits: Vec<businesses::Deposit>,
    webhooks: Vec<Webhook>,
    /// The id of the next deposit. The form contains it, so that a form sent twice makes one deposit.
    deposit: Uuid,
}

/// The page of one business, with its last 20 deposits and its webhooks.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Path(id): Path<Uuid>,
) -> Result<Response, Trouble> {
    let business = find(&console, id).await?;
    let shard = shard_of(&console.shards, id).ok_or(Trouble::NO_BUSINESS)?;
    let reading = async |connection: &mut PgConnection| {
        let deposits = businesses::read_deposits(connection, id, 20).await?;
        Ok((deposits, webhooks::find_all(connection, id_of(id), None).await?))
    };
    let (deposits, webhooks) = shard.read(reading).await?;
    Ok(page(&One { frame, business, deposits, webhooks, deposit: Uuid::new_v4() }))
}

async fn find(console: &Console, id: Uuid) -> Result<Business, Trouble> {
    ops::businesses::find(&console.shards, id).await?.ok_or(Trouble::NO_BUSINESS)
}

/// Switches payouts on or off, after a confirmation page.
pub(super) async fn switch(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Path(id): Path<Uuid>,
    fields: Fields,
) -> Result<Response, Trouble> {
    let business = find(&console, id).await?;
    let enable = fields.get("payouts") == "on";
    if fields.get("confirmed") != "yes" {
        return Ok(ask_to_switch(frame, &business, enable));
    }
    let writing = async |connection: &mut _| businesses::write_payouts_enabled(connection, id, enable).await;
    shard_of(&console.shards, id).ok_or(Trouble::NO_BUSINESS)?.write(writing).await?;
    frame.log(if enable { "payouts switched on" } else { "payouts switched off" }, &id);
    let notice = format!("Payouts of {} are {}.", business.name, if enable { "on" } else { "off" });
    Ok(done(&notice, &format!("/businesses/{id}")))
}

fn ask_to_switch(frame: Frame, business: &Business, enable: bool) -> Response {
    let (verb, consequence) = if enable {
        ("on", "From now on its requests are decided as usual again.")
    } else {
        ("off", "Every request of this business is refused with 403 from now on. Nothing that was allocated changes.")
    };
    page(&Confirm {
        frame,
        question: format!("Switch payouts of {} {verb}?", business.name),
        consequences: vec![consequence.to_owned()],
        action: format!("/businesses/{}/payouts", business.business_id),
        fields: vec![("payouts".to_owned(), verb.to_owned())],
        typed: None,
        button: format!("Switch payouts {verb}"),
        is_grave: !enable,
        back: format!("/businesses/{}", business.business_id),
    })
}

/// Adds funds to a payout balance, or takes funds out, after a confirmation page.
pub(super) async fn fund(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Path(id): Path<Uuid>,
    fields: Fields,
) -> Result<Response, Trouble> {
    let business = find(&console, id).await?;
    let cents = money::read(fields.get("amount")).map_err(|error| Trouble::Invalid(error.to_owned()))?;
    let note: String = fields.get("note").chars().filter(|c| !c.is_control()).take(MAX_NOTE_CHARS).collect();
    let deposit = fields.get("deposit").parse().unwrap_or_else(|_| Uuid::new_v4());
    if fields.get("confirmed") != "yes" {
        return ask_to_fund(frame, &business, cents, &note, deposit);
    }
    let to = format!("/businesses/{id}");
    let shard = shard_of(&console.shards, id).ok_or(Trouble::NO_BUSINESS)?;
    let balance = match businesses::deposit(&shard, id_of(id), deposit, cents, &note, clock::now_millis()).await {
        Err(Error::Constraint { name }) if name == "deposits_pkey" => {
            return Ok(done("This deposit was entered before; it was not entered again.", &to));
        }
        Err(Error::Constraint { name }) if name == "businesses_payout_balance_not_negative" => {
            return Err(Trouble::Invalid("The payout balance does not cover this amount.".to_owned()));
        }
        Err(Error::Unknown(_)) => return Err(Trouble::Unreachable(MAYBE_ENTERED.to_owned())),
        written => written?.ok_or(Trouble::NO_BUSINESS)?,
    };
    frame.log(
        if cents > 0 { "funds added" } else { "funds taken out" },
        &format!("{id} {cents} cents, deposit {deposit}"),
    );
    let what = if cents > 0 { "added to" } else { "taken out of" };
    let amount = money::write(cents).trim_start_matches('-').to_owned();
    let notice = format!("{amount} {what} {}. The payout balance is {}.", business.name, money::write(balance));
    Ok(done(&notice, &to))
}

const MAYBE_ENTERED: &str = "Postgres did not answer in time. Whether the deposit was entered is not known. Reload this \
     page to send it again: it cannot be entered twice.";

fn ask_to_fund(frame: Frame, business: &Business, cents: i64, note: &str, deposit: Uuid) -> Result<Response, Trouble> {
    let after = business.payout_balance.checked_add(cents).filter(|sum| *sum >= 0);
    let after = after.ok_or_else(|| Trouble::Invalid("The payout balance does not allow this amount.".to_owned()))?;
    let amount = money::write(cents).trim_start_matches('-').to_owned();
    let (question, button) = if cents > 0 {
        (format!("Add {amount} to the payout balance of {}?", business.name), format!("Add {amount}"))
    } else {
        (format!("Take {amount} out of the payout balance of {}?", business.name), format!("Take out {amount}"))
    };
    let now = money::write(business.payout_balance);
    let mut consequences = vec![format!("The payout balance goes from {now} to {}.", money::write(after))];
    if !note.is_empty() {
        consequences.push(format!("Note: {note}"));
    }
    let field = |name: &str, value: String| (name.to_owned(), value);
    let plain = money::write(cents).replace(',', "");
    Ok(page(&Confirm {
        frame,
        question,
        consequences,
        action: format!("/businesses/{}/funds", business.business_id),
        fields: vec![field("amount", plain), field("note", note.to_owned()), field("deposit", deposit.to_string())],
        typed: None,
        button,
        is_grave: cents < 0,
        back: format!("/businesses/{}", business.business_id),
    }))
}
