//! Moves dead letters from their queue into rows, where a person can choose among them. Looking at a dead letter in the
//! queue would count as a delivery, and the broker drops a message that was delivered too often.
//!
//! This has a channel, a connection to Postgres and a task of its own, so it never holds up a lane. While Postgres is
//! away, dead letters stay with the broker.

use super::Worker;
use crate::ledger::Cause;
use crate::metrics::METRICS;
use crate::postgres::dead_letters::{self, NewDeadLetter};
use crate::postgres::{PgConnection, Session};
use crate::rabbit::dead_letters::{DeadLetterMessage, DeadLetterReceiver};
use crate::retry::Backoff;
use crate::wire::messages;
use crate::wire::signing::Keyring;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Most dead letters that are taken from the queue and not yet stored. Few, because each of them counts as delivered
/// once more when this worker goes.
pub const PREFETCH: u16 = 8;
/// The broker's reason for giving up on a message that was redelivered too often.
const DELIVERY_LIMIT: &str = "delivery_limit";

/// Stores dead letters until the session ends, then returns the receiver. The caller must keep it: dropping it loses
/// the link, which the lanes still use.
pub async fn store_all(
    mut dead_letters: DeadLetterReceiver,
    worker: Arc<Worker>,
    ending: CancellationToken,
) -> DeadLetterReceiver {
    let acknowledger = dead_letters.acknowledger();
    let mut ledger = worker.settings.shards.directory().session();
    loop {
        let next = tokio::select! { dead_letter = dead_letters.next() => dead_letter, () = ending.cancelled() => None };
        let Some(dead_letter) = next else { return dead_letters };
        let tag = dead_letter.tag;
        let stored = store(&mut ledger, &row_of(dead_letter, &worker.settings.keys), &ending).await;
        if !stored || acknowledger.ack_through(tag).await.is_err() {
            return dead_letters;
        }
    }
}

/// Tries until the row is stored. False if the session ended first.
async fn store(ledger: &mut Session, row: &NewDeadLetter, ending: &CancellationToken) -> bool {
    let mut backoff = Backoff::for_connections();
    loop {
        let writing = async |connection: &mut PgConnection| dead_letters::write_new(connection, row).await;
        match ledger.write(writing).await {
            Ok(is_new) => {
                if is_new {
                    METRICS.dead_letters.inc(row.cause);
                }
                return true;
            }
            Err(error) if error.is_retryable() => {
                tracing::warn!(dead_letter_id = %row.dead_letter_id, %error, "dead letter not stored yet")
            }
            Err(error) => {
                tracing::error!(dead_letter_id = %row.dead_letter_id, %error, "dead letter not stored: this needs a person")
            }
        }
        tokio::select! { () = backoff.wait() => {}, () = ending.cancelled() => return false }
    }
}

/// The row of a dead letter. Anybody who can write to the queue can put one there, so its signature counts here too.
fn row_of(dead_letter: DeadLetterMessage, keys: &Keyring) -> NewDeadLetter {
    let read = messages::read_requests(keys, &dead_letter.body);
    let cause = match read {
        Err((Cause::Unauthentic, _)) => Cause::Unauthentic,
        _ => cause_of(&dead_letter),
    };
    let authentic = read.ok();
    let reason = dead_letter.reason.unwrap_or_else(|| match cause {
        Cause::DeliveryLimit => format!("came back more than {} times", crate::rabbit::topology::DELIVERY_LIMIT),
        Cause::Unreadable | Cause::Unauthentic | Cause::Rejected | Cause::WrongShard | Cause::Other => {
            "no reason was given".to_owned()
        }
    });
    NewDeadLetter {
        dead_letter_id: id_of(dead_letter.message_id.as_deref().unwrap_or_default(), &dead_letter.body),
        requests: authentic.iter().flat_map(|message| &message.requests).map(|request| request.id).collect(),
        key_id: authentic.map(|message| message.key_id),
        body: dead_letter.body,
        queue: dead_letter.queue.map(without_nul),
        cause,
        reason: without_nul(reason),
        deaths: dead_letter.deaths,
        died_at: dead_letter
            .died_at
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()),
    }
}

/// Why the message is a dead letter. The broker's reason takes precedence, because the broker also gives up on dead
/// letters that a worker put.
fn cause_of(dead_letter: &DeadLetterMessage) -> Cause {
    match (dead_letter.death.as_deref(), dead_letter.cause.as_deref().and_then(Cause::parse)) {
        (Some(DELIVERY_LIMIT), _) => Cause::DeliveryLimit,
        (None, Some(cause)) => cause,
        (Some(_), _) | (None, None) => Cause::Other,
    }
}

/// The id of a dead letter, made from its message id and body. A dead letter that is delivered again has the same id,
/// and is stored once.
fn id_of(message_id: &str, body: &[u8]) -> Uuid {
    let digest: [u8; 32] =
        Sha256::new().chain_update(message_id).chain_update([0]).chain_update(body).finalize().into();
    let mut start = [0; 16];
    start.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(start).into_uuid()
}

/// Postgres cannot store this character in a text.
fn without_nul(text: String) -> String {
    text.replace('\0', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::ShardId;

    fn dead_letter(death: Option<&str>, cause: Option<&str>) -> DeadLetterMessage {
        let own = |text: Option<&str>| text.map(str::to_owned);
        DeadLetterMessage {
            tag: 1,
            body: b"no message".to_vec(),
            message_id: own(Some("m")),
            cause: own(cause),
            death: own(death),
            reason: None,
            queue: Some("a\0b".to_owned()),
            deaths: 1,
            died_at: Some(u64::MAX),
        }
    }

    #[test]
    fn the_cause_is_of_the_closed_list_whatever_the_headers_say() {
        let rows = [
            (None, Some("unreadable"), Cause::Unreadable),
            (None, Some("rejected"), Cause::Rejected),
            (Some("delivery_limit"), Some("rejected"), Cause::DeliveryLimit),
            // The broker's reason for a message that a consumer refused.
            (Some("rejected"), None, Cause::Other),
            (None, Some("bad luck"), Cause::Other),
            (None, None, Cause::Other),
        ];
        for (death, cause, expected) in rows {
            assert_eq!(row_of(dead_letter(death, cause), &Keyring::none()).cause, expected, "{death:?} {cause:?}");
        }
    }

    #[test]
    fn what_is_not_signed_is_never_taken_for_a_dead_letter_of_ours() {
        let keys = Keyring::parse(&format!("k1:{}", "11".repeat(32)), "earmark", false).unwrap();
        let body = |keys: &Keyring| messages::pack_requests(keys, ShardId::FIRST, "replies", std::iter::empty());
        let row = |body| row_of(DeadLetterMessage { body, ..dead_letter(Some("delivery_limit"), None) }, &keys);
        let (forged, own) = (row(body(&Keyring::none())), row(body(&keys)));
        assert_eq!((forged.cause, forged.key_id), (Cause::Unauthentic, None));
        assert_eq!((own.cause, own.key_id.as_deref()), (Cause::DeliveryLimit, Some("k1")));
    }

    #[test]
    fn a_dead_letter_is_known_again_by_its_message_and_its_body() {
        assert_eq!(id_of("m", b"body"), id_of("m", b"body"));
        assert_ne!(id_of("m", b"body"), id_of("n", b"body"));
        assert_ne!(id_of("m", b"body"), id_of("m", b"other"));
    }

    #[test]
    fn whatever_stands_in_the_headers_can_be_stored() {
        let row = row_of(dead_letter(None, None), &Keyring::none());
        assert_eq!((row.queue.as_deref(), row.died_at), (Some("ab"), None));
    }
}
