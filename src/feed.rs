//! Shows a movement as an event: the same one in the feed that platforms read, in what webhooks deliver and on the exchange.

use crate::ledger::{BusinessId, Outcome, RequestId};
use crate::postgres::movements::Event;
use crate::wire::answers::{EVENT_TYPES, EventBody, EventData};
use uuid::Uuid;

/// The id of an event: the same for every try to deliver it, wherever it goes.
pub fn id(business: BusinessId, seq: i64) -> String {
    format!("evt_{:032x}_{seq}", business.as_u128())
}

/// The event that tells of a movement.
pub fn show(event: &Event) -> EventBody {
    let [created, reversed, settled, settlement_reversed, deposited, withdrawn] = EVENT_TYPES;
    let kind = match event.outcome {
        Some(Outcome::Reversed) => reversed,
        Some(Outcome::Settled) => settled,
        Some(Outcome::SettlementReversed) => settlement_reversed,
        Some(_) => created,
        None if event.cents < 0 => withdrawn,
        None => deposited,
    };
    let of_request = event.outcome.is_some();
    let data = EventData {
        request_id: of_request.then_some(event.id),
        deposit_id: (!of_request).then_some(event.id),
        amount: event.cents.abs(),
        email: event.email.as_ref().map(|email| email.as_str().to_owned()),
        target: event.target.map(|target: RequestId| Uuid::from_u128(target.as_u128())),
        remaining: event.remaining.filter(|_| event.target.is_some()),
        reference: event.reference.as_ref().map(|reference| reference.as_str().to_owned()),
        payout_balance_after: event.payout_balance_after,
    };
    EventBody { seq: event.seq, kind, created_at: event.moved_at, data }
}
