//! The page of a webhook: how it stands, its last deliveries, switching it on and off, and delivering an event again.

use super::guard::Fields;
use super::page::{Confirm, Frame, Trouble, done, page};
use super::{Console, words};
use crate::ledger::Disabled;
use crate::ops;
use crate::ops::businesses::{id_of, shard_of};
use crate::postgres::businesses::Business;
use crate::postgres::webhooks::{self, Tried, Webhook};
use crate::postgres::{PgConnection, Postgres};
use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use std::sync::Arc;
use uuid::Uuid;

/// How many deliveries are shown.
const SHOWN: i64 = 50;

#[derive(Template)]
#[template(path = "webhook.html")]
struct One {
    frame: Frame,
    business: Business,
    webhook: Webhook,
    tried: Vec<Tried>,
}

/// The page of one webhook.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Path((id, webhook)): Path<(Uuid, Uuid)>,
) -> Result<Response, Trouble> {
    let (shard, business, webhook) = find(&console, id, webhook).await?;
    let reading = async |connection: &mut PgConnection| {
        webhooks::read_tried(connection, id_of(id), webhook.webhook_id, i64::MAX, SHOWN).await
    };
    let tried = shard.read(reading).await?;
    Ok(page(&One { frame, business, webhook, tried }))
}

async fn find(console: &Console, id: Uuid, webhook: Uuid) -> Result<(Postgres, Business, Webhook), Trouble> {
    let business = ops::businesses::find(&console.shards, id).await?.ok_or(Trouble::NO_BUSINESS)?;
    let shard = shard_of(&console.shards, id).ok_or(Trouble::NO_BUSINESS)?;
    let reading = async |connection: &mut PgConnection| webhooks::find_one(connection, id_of(id), webhook).await;
    let found = shard.read(reading).await?.ok_or(Trouble::NO_WEBHOOK)?;
    Ok((shard, business, found))
}

/// Enables or disables a webhook, after a confirmation page.
pub(super) async fn switch(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Path((id, webhook)): Path<(Uuid, Uuid)>,
    fields: Fields,
) -> Result<Response, Trouble> {
    let (shard, business, _) = find(&console, id, webhook).await?;
    let (back, enable) = (format!("/businesses/{id}/webhooks/{webhook}"), fields.get("webhook") == "on");
    if fields.get("confirmed") != "yes" {
        return Ok(ask_to_switch(frame, &business, back, enable));
    }
    let writing = async |connection: &mut PgConnection| match enable {
        true => webhooks::write_enabled(connection, id_of(id), webhook).await,
        false => webhooks::write_disabled(connection, id_of(id), webhook, Disabled::Operator).await,
    };
    shard.write_idempotent(writing).await?;
    frame.log(if enable { "webhook enabled" } else { "webhook disabled" }, &webhook);
    Ok(done(if enable { "The webhook is enabled." } else { "The webhook is disabled." }, &back))
}

fn ask_to_switch(frame: Frame, business: &Business, back: String, enable: bool) -> Response {
    let (verb, value, consequence) = if enable {
        ("Enable", "on", "It goes on where it stopped: what waits is delivered, and what came meanwhile.")
    } else {
        ("Disable", "off", "Nothing is delivered to it until somebody enables it. Nothing is lost.")
    };
    page(&Confirm {
        frame,
        question: format!("{verb} this webhook of {}?", business.name),
        consequences: vec![consequence.to_owned()],
        action: format!("{back}/switch"),
        fields: vec![("webhook".to_owned(), value.to_owned())],
        typed: None,
        button: verb.to_owned(),
        is_grave: !enable,
        back,
    })
}

/// Delivers an event once more.
pub(super) async fn redeliver(
    State(console): State<Arc<Console>>,
    frame: Frame,
    Path((id, webhook)): Path<(Uuid, Uuid)>,
    fields: Fields,
) -> Result<Response, Trouble> {
    let (shard, _, _) = find(&console, id, webhook).await?;
    let seq = fields.get("seq").trim().parse::<i64>().ok().filter(|seq| *seq > 0);
    let seq = seq.ok_or_else(|| Trouble::Invalid("The number of the event must be a whole number.".to_owned()))?;
    let writing =
        async |connection: &mut PgConnection| webhooks::write_again(connection, id_of(id), webhook, seq).await;
    if !shard.write_idempotent(writing).await? {
        let said = "The event is still to come for this webhook, or 1000 events wait for it already.";
        return Err(Trouble::Invalid(said.to_owned()));
    }
    frame.log("event delivered again", &format!("{webhook} event {seq}"));
    Ok(done(&format!("Event {seq} is delivered again."), &format!("/businesses/{id}/webhooks/{webhook}")))
}
