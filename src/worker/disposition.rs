//! What follows from a settled batch: replies and dead letters, then the acknowledgement. [`Disposition`] holds it as
//! data, and [`perform_all`] does it. The acknowledgement comes last, because an acknowledged message is not delivered
//! again to make up for a lost reply.

use super::attempt::Settled;
use super::gather::Batch;
use crate::failpoint::{self, Failpoint};
use crate::ledger::{Cause, Outcome, Told, Verdict};
use crate::metrics::{METRICS, labels::Phase};
use crate::rabbit::consumer::Acknowledger;
use crate::rabbit::dead_letters::DeadLetterSender;
use crate::rabbit::replies::ReplySender;
use crate::rabbit::{Error, Link};
use crate::wire::messages::{self, Reply, Unreadable};
use crate::wire::signing::Keyring;
use std::collections::BTreeMap;
use std::time::Instant;
use tokio::sync::mpsc;

/// The consequences of one batch.
#[derive(Debug, Default)]
pub struct Disposition {
    /// The replies, by reply queue. All replies of a batch to one intake are one message.
    replies: BTreeMap<String, Vec<Reply>>,
    dead_letters: Vec<Unreadable>,
    /// The tag of the last delivery that is done; all before it are done as well. `None` if the batch completes no
    /// message.
    through: Option<u64>,
}

impl Disposition {
    /// What follows from `results`, which has one result for each request of the batch, in order.
    /// `keys` sign the dead letters of messages that were signed.
    pub fn new(batch: Batch, results: Vec<Settled>, keys: &Keyring) -> Self {
        let mut disposition = Self::default();
        let mut settled = batch.requests.iter().zip(results);
        for part in batch.parts {
            for (request, result) in settled.by_ref().take(part.count) {
                let (verdict, told) = match result {
                    Settled::Decided(verdict, told) => (verdict, told),
                    Settled::Rejected(reason) => {
                        tracing::warn!(request_id = %request.id, reason, "request rejected");
                        let items = [messages::write_request(request)];
                        let body = messages::pack_requests(
                            &keys.for_part_of(part.is_signed),
                            request.business.shard(),
                            &part.reply_to,
                            items.iter().map(Vec::as_slice),
                        );
                        disposition.dead_letters.push(Unreadable { body, cause: Cause::Rejected, reason });
                        (Verdict::Decided(Outcome::Voided), Told::default())
                    }
                };
                tracing::debug!(request_id = %request.id, outcome = verdict.outcome().as_str(), "settled");
                let replies = disposition.replies.entry(part.reply_to.clone()).or_default();
                replies.push(Reply { id: request.id, verdict, told });
            }
            disposition.dead_letters.extend(part.unreadable);
            if part.is_last {
                disposition.through = Some(part.tag);
            }
        }
        disposition
    }
}

/// What a disposition is performed with.
pub struct Senders {
    /// Sends the replies.
    pub replies: ReplySender,
    /// Sends the dead letters.
    pub dead_letters: DeadLetterSender,
    /// Acknowledges the messages.
    pub acknowledger: Acknowledger,
    /// Signs the replies.
    pub keys: Keyring,
}

/// Performs dispositions in order, until there are no more or a link is lost. Messages that were not acknowledged are
/// delivered again.
pub async fn perform_all(mut dispositions: mpsc::Receiver<Disposition>, senders: &Senders, link: &Link) {
    while let Some(disposition) = dispositions.recv().await {
        if let Err(error) = perform(disposition, senders).await {
            return link.give_up(&error.to_string());
        }
    }
}

async fn perform(disposition: Disposition, senders: &Senders) -> Result<(), Error> {
    let since = Instant::now();
    for (queue, batch) in &disposition.replies {
        senders.replies.send(queue, &messages::write_replies(&senders.keys, queue, batch)).await?;
    }
    for dead_letter in &disposition.dead_letters {
        tracing::warn!(cause = dead_letter.cause.as_str(), reason = dead_letter.reason, "message dead-lettered");
        senders.dead_letters.put(&dead_letter.body, dead_letter.cause.as_str(), &dead_letter.reason).await?;
    }
    failpoint::pass(Failpoint::BeforeAcknowledge).await;
    if let Some(tag) = disposition.through {
        senders.acknowledger.ack_through(tag).await?;
    }
    METRICS.observe(Phase::Reply, since.elapsed());
    Ok(())
}
