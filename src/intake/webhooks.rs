//! `/webhooks`: where a business wants its events delivered. The relay delivers them.

use super::Intake;
use super::auth::Caller;
use super::history::{USUAL_LIMIT, check_limit};
use super::parameters::{Reading, Wrong};
use super::problem::{self, Answer, said};
use super::reads::Failure;
use super::strict_json::{Members, check_nested};
use crate::clock;
use crate::ledger::{BusinessId, Disabled};
use crate::postgres::movements::read_last_seqs;
use crate::postgres::webhooks::{self, Tried, Webhook};
use crate::postgres::{Error, PgConnection};
use crate::webhook::{Target, signing};
use crate::wire::answers::{DeliveriesBody, DeliveryBody, WebhookBody, WebhooksBody};
use axum::http::HeaderMap;
use serde_json::value::RawValue;
use std::time::Duration;
use uuid::Uuid;

/// How long the former secret signs too after the secret was replaced.
const OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);
/// The message for the number of an event that is not valid.
const WRONG_SEQ: &str = "The seq must be the number of an event.";
/// How often a place is looked for that another call does not take meanwhile.
const PLACE_LOOKS: u32 = 10;

/// The members of a body, by name. `None` if it is no JSON object. An empty body counts as an object without members.
fn members(body: &[u8]) -> Option<Vec<(String, &RawValue)>> {
    if body.is_empty() {
        return Some(vec![]);
    }
    let Members(members) = serde_json::from_slice(body).ok()?;
    members.iter().try_for_each(|(_, value)| check_nested(value.get(), 1)).ok()?;
    Some(members)
}

fn member<'a>(members: &[(String, &'a RawValue)], name: &str) -> Option<&'a str> {
    let found = members.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.get()).filter(|text| *text != "null")
}

/// Reads what a new webhook should be: its URL, and the number of the event after which it begins.
fn read_new(members: &[(String, &RawValue)], intake: &Intake) -> Result<(String, Option<i64>), Wrong> {
    let url = match member(members, "url").map(serde_json::from_str::<String>) {
        None => Err("The url field is required."),
        Some(Err(_)) => Err("The url must be a string."),
        Some(Ok(text)) => Target::parse(&text, intake.exceptions()).map(|target| target.url().as_str().to_owned()),
    };
    let after = match member(members, "after").map(serde_json::from_str::<i64>) {
        None => Ok(None),
        Some(Ok(after)) if after >= 0 => Ok(Some(after)),
        Some(_) => Err("The after must be the number of an event, or 0."),
    };
    match (url, after) {
        (Ok(url), Ok(after)) => Ok((url, after)),
        (url, after) => {
            let wrong = [("url", url.err()), ("after", after.err())].into_iter();
            Err(wrong.filter_map(|(name, message)| Some((name, [message?]))).collect())
        }
    }
}

/// Creates a webhook. Its secret is shown.
pub async fn create(intake: &Intake, caller: Caller, body: &[u8]) -> Result<Answer, Failure> {
    let Some(members) = members(body) else { return Ok(problem::not_an_object()) };
    let (url, after) = match read_new(&members, intake) {
        Ok(new) => new,
        Err(wrong) => return Ok(problem::invalid_parameters(&wrong)),
    };
    let (business, webhook) = (caller.business, Uuid::new_v4());
    let writing = async |connection: &mut PgConnection| {
        for _ in 0..PLACE_LOOKS {
            match webhooks::write_new(connection, business, webhook, &url, after).await {
                Err(Error::Constraint { name }) if name == "webhooks_slot" => {}
                Err(error) => return Err(error),
                Ok(()) => return webhooks::find_one(connection, business, webhook).await,
            }
        }
        Ok(None)
    };
    let created = intake.write_idempotent(business, writing).await?;
    if let Some(created) = created {
        return Ok(problem::found(&show_secret(intake, business, created)));
    }
    let reading = async |connection: &mut PgConnection| read_last_seqs(connection, &[business]).await;
    let last = intake.read(business, reading).await?.first().map_or(0, |(_, seq)| *seq);
    Ok(match after {
        Some(after) if after > last => problem::invalid_parameters(&Wrong::from([("after", [said::BEYOND_LAST])])),
        Some(_) | None => problem::bad_request(said::TOO_MANY_WEBHOOKS),
    })
}

/// Lists the webhooks of the caller.
pub async fn list(intake: &Intake, headers: &HeaderMap) -> Result<Answer, Failure> {
    let business = intake.business(headers).await?;
    let reading = async |connection: &mut PgConnection| webhooks::find_all(connection, business, None).await;
    let webhooks = intake.read(business, reading).await?.into_iter().map(show_one).collect();
    Ok(problem::found(&WebhooksBody { webhooks }))
}

/// Shows one webhook.
pub async fn show(intake: &Intake, headers: &HeaderMap, webhook: Option<Uuid>) -> Result<Answer, Failure> {
    let business = intake.business(headers).await?;
    let Some(webhook) = webhook else { return Ok(problem::not_found()) };
    let reading = async |connection: &mut PgConnection| webhooks::find_one(connection, business, webhook).await;
    Ok(intake
        .read(business, reading)
        .await?
        .map_or_else(problem::not_found, |webhook| problem::found(&show_one(webhook))))
}

/// Deletes a webhook, and shows it as it was.
pub async fn delete(intake: &Intake, headers: &HeaderMap, webhook: Option<Uuid>) -> Result<Answer, Failure> {
    let business = intake.business(headers).await?;
    let Some(webhook) = webhook else { return Ok(problem::not_found()) };
    let writing = async |connection: &mut PgConnection| {
        let found = webhooks::find_one(connection, business, webhook).await?;
        webhooks::remove_one(connection, business, webhook).await?;
        Ok(found)
    };
    let deleted = intake.write_idempotent(business, writing).await?;
    Ok(deleted.map_or_else(problem::not_found, |webhook| problem::found(&show_one(webhook))))
}

/// Enables a webhook, or disables it.
pub async fn switch(intake: &Intake, headers: &HeaderMap, webhook: Option<Uuid>, on: bool) -> Result<Answer, Failure> {
    let business = intake.business(headers).await?;
    let Some(webhook) = webhook else { return Ok(problem::not_found()) };
    let writing = async |connection: &mut PgConnection| {
        match on {
            true => webhooks::write_enabled(connection, business, webhook).await?,
            false => webhooks::write_disabled(connection, business, webhook, Disabled::Platform).await?,
        };
        webhooks::find_one(connection, business, webhook).await
    };
    let switched = intake.write_idempotent(business, writing).await?;
    Ok(switched.map_or_else(problem::not_found, |webhook| problem::found(&show_one(webhook))))
}

/// Replaces the secret of a webhook, and shows the new one. The former one signs too for a day.
pub async fn rotate(intake: &Intake, headers: &HeaderMap, webhook: Option<Uuid>) -> Result<Answer, Failure> {
    let business = intake.business(headers).await?;
    let Some(webhook) = webhook else { return Ok(problem::not_found()) };
    let reading = async |connection: &mut PgConnection| webhooks::find_one(connection, business, webhook).await;
    let Some(before) = intake.read(business, reading).await? else { return Ok(problem::not_found()) };
    let writing = async |connection: &mut PgConnection| {
        webhooks::write_rotated(connection, business, webhook, before.secret_version, OVERLAP).await?;
        webhooks::find_one(connection, business, webhook).await
    };
    let rotated = intake.write_idempotent(business, writing).await?;
    Ok(rotated.map_or_else(problem::not_found, |webhook| problem::found(&show_secret(intake, business, webhook))))
}

/// Delivers an event once more.
pub async fn redeliver(intake: &Intake, caller: Caller, webhook: Option<Uuid>, body: &[u8]) -> Result<Answer, Failure> {
    let Some(members) = members(body) else { return Ok(problem::not_an_object()) };
    let seq = member(&members, "seq").and_then(|text| serde_json::from_str::<i64>(text).ok()).filter(|seq| *seq > 0);
    let Some(seq) = seq else { return Ok(problem::invalid_parameters(&Wrong::from([("seq", [WRONG_SEQ])]))) };
    let (business, Some(webhook)) = (caller.business, webhook) else { return Ok(problem::not_found()) };
    let writing = async |connection: &mut PgConnection| {
        let waits = webhooks::write_again(connection, business, webhook, seq).await?;
        Ok(webhooks::find_one(connection, business, webhook).await?.map(|webhook| (webhook, waits)))
    };
    Ok(match intake.write_idempotent(business, writing).await? {
        None => problem::not_found(),
        Some((webhook, false)) if webhook.cursor < seq => problem::bad_request(said::NOT_YET_DELIVERED),
        Some((_, false)) => problem::bad_request(said::TOO_MANY_WAIT),
        Some((webhook, true)) => problem::found(&show_one(webhook)),
    })
}

/// Lists the last tries to deliver to a webhook.
pub async fn deliveries(
    intake: &Intake,
    headers: &HeaderMap,
    webhook: Option<Uuid>,
    parameters: &[(String, String)],
) -> Result<Answer, Failure> {
    let caller = intake.caller(headers).await?;
    let mut reading = Reading::new(parameters);
    let limit = reading.one("limit", check_limit).unwrap_or(USUAL_LIMIT);
    let before = reading.one("cursor", |text| match text.parse::<i64>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("The cursor is not valid."),
    });
    if let Err(wrong) = reading.end() {
        return Ok(problem::invalid_parameters(&wrong));
    }
    let (business, Some(webhook)) = (caller.business, webhook) else { return Ok(problem::not_found()) };
    let places = intake.admission().of_keys().reads(caller.key);
    let _place = places.try_acquire().map_err(|_| Failure::TooManyReads)?;
    let (before, most) = (before.unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX));
    let reading = async |connection: &mut PgConnection| {
        let found = webhooks::find_one(connection, business, webhook).await?;
        let tried = webhooks::read_tried(connection, business, webhook, before, most + 1).await?;
        Ok(found.map(|_| tried))
    };
    let Some(mut tried) = intake.read(business, reading).await? else { return Ok(problem::not_found()) };
    let has_more = tried.len() > limit;
    tried.truncate(limit);
    let next_cursor = tried.last().filter(|_| has_more).map(|last| last.number.to_string());
    let deliveries = tried.into_iter().map(show_try).collect();
    Ok(problem::found(&DeliveriesBody { deliveries, next_cursor }))
}

fn show_secret(intake: &Intake, business: BusinessId, webhook: Webhook) -> WebhookBody {
    let secret = intake.secret().webhook_secret(business, webhook.webhook_id, webhook.secret_version);
    WebhookBody { secret: Some(signing::show(secret)), ..show_one(webhook) }
}

fn show_one(webhook: Webhook) -> WebhookBody {
    let state = webhook.state();
    let is_rotating = webhook.former_until > clock::now_utc();
    WebhookBody {
        webhook_id: webhook.webhook_id,
        url: webhook.url,
        secret: None,
        former_secret_until: is_rotating.then_some(webhook.former_until),
        state,
        cursor: webhook.cursor,
        waiting: webhook.waiting,
        created_at: webhook.created_at,
        failing_since: webhook.failing_since,
        disabled_at: webhook.disabled_at,
        disabled_by: webhook.disabled_by.map(Disabled::as_str),
    }
}

fn show_try(tried: Tried) -> DeliveryBody {
    DeliveryBody {
        number: tried.number,
        seq: tried.seq,
        tried_at: tried.tried_at,
        duration_ms: tried.millis,
        result: tried.result.as_str(),
        status: tried.status,
        answer: tried.answer,
    }
}
