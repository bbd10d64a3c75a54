//! Reads the messages of a work queue and gathers them into batches of what has arrived. It never waits for a batch to
//! fill: an idle worker takes a single request at once, and a busy one finds the next batch waiting when it has settled
//! the last.

use crate::ledger::{Cause, Request, RequestId, ShardId, list_ids};
use crate::metrics::METRICS;
use crate::rabbit::consumer::{Consumer, Delivery};
use crate::rabbit::topology::{DELIVERY_LIMIT, Topology};
use crate::trace;
use crate::wire::messages::{self, RequestMessage, Unreadable};
use crate::wire::signing::Keyring;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// One message of the work queue, decoded.
#[derive(Debug)]
pub struct Message {
    /// The tag of the delivery, to acknowledge it.
    pub tag: u64,
    /// How often it was delivered before without being acknowledged.
    pub redeliveries: u64,
    /// The requests in it.
    pub content: RequestMessage,
    /// The places that its requests take in [`ReadAhead`]. They are free again when this message is dropped.
    _ahead: Option<OwnedSemaphorePermit>,
}

/// Messages, or parts of one, that are settled together.
#[derive(Debug, Default)]
pub struct Batch {
    /// What each message contributes, in order of arrival.
    pub parts: Vec<Part>,
    /// The requests of all parts, in order of arrival.
    pub requests: Vec<Request>,
    /// The trace contexts of the requests that have one. Empty unless spans are exported.
    pub traces: Vec<(RequestId, trace::Context)>,
}

/// What one message contributes to a batch.
#[derive(Debug)]
pub struct Part {
    /// The delivery to acknowledge.
    pub tag: u64,
    /// The queue that the outcomes go to.
    pub reply_to: String,
    /// Whether the message was signed.
    pub is_signed: bool,
    /// How many of the batch's requests are from this message.
    pub count: usize,
    /// The message's requests that cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// Nothing of the message is left for a later batch.
    pub is_last: bool,
}

impl Batch {
    fn push(&mut self, message: Message, is_last: bool) {
        let Message { tag, content, .. } = message;
        let count = content.requests.len();
        self.requests.extend(content.requests);
        if trace::is_on() {
            let traces = content.traces.iter().filter_map(|(id, text)| Some((*id, trace::Context::parse(text)?)));
            self.traces.extend(traces);
        }
        let is_signed = !content.key_id.is_empty();
        let RequestMessage { reply_to, unreadable, .. } = content;
        self.parts.push(Part { tag, reply_to, is_signed, count, unreadable, is_last });
    }
}

impl Message {
    fn len(&self) -> usize {
        self.content.requests.len()
    }

    /// Splits off the first `count` requests as a message of their own. Their places in [`ReadAhead`] stay taken until
    /// the rest is dropped.
    fn split_first(&mut self, count: usize) -> Self {
        let rest = self.content.requests.split_off(count);
        let requests = std::mem::replace(&mut self.content.requests, rest);
        let ids: HashSet<RequestId> = requests.iter().map(|request| request.id).collect();
        let traces = self.content.traces.extract_if(.., |(id, _)| ids.contains(id)).collect();
        let RequestMessage { shard, ref reply_to, ref key_id, .. } = self.content;
        let (reply_to, key_id) = (reply_to.clone(), key_id.clone());
        let content = RequestMessage { shard, reply_to, key_id, requests, traces, unreadable: vec![] };
        Self { tag: self.tag, redeliveries: self.redeliveries, content, _ahead: None }
    }
}

/// From this many redeliveries of a message on, messages are taken from its queue one at a time. When a worker dies,
/// the broker counts a redelivery of everything that the worker held. So a message that kills workers would otherwise
/// take those behind it over the delivery limit with it.
const MANY_RETURNS: u64 = DELIVERY_LIMIT as u64 / 4;

/// Bounds the requests that are decoded and wait for their batch: decoded, a request takes several times the room that
/// it takes in a message.
struct ReadAhead {
    places: Arc<Semaphore>,
    most: u32,
}

impl ReadAhead {
    fn new(most: u32) -> Self {
        Self { places: Arc::new(Semaphore::new(most as usize)), most }
    }

    /// Waits until there are places for all requests of a message. A message that has more requests than there are
    /// places takes all of them.
    async fn admit(&self, message: Message) -> Message {
        let wanted = u32::try_from(message.len()).unwrap_or(self.most).min(self.most);
        let places = Arc::clone(&self.places).acquire_many_owned(wanted).await;
        Message { _ahead: places.ok(), ..message }
    }
}

/// How the reading of a queue ended.
pub struct Ended {
    /// To be kept: dropping it loses the link, over which the batch in hand is still to be answered and acknowledged.
    pub consumer: Consumer,
    /// `Some` if messages have to be taken differently from now on: one at a time (true), or many (false).
    pub one_at_a_time: Option<bool>,
}

/// Decodes deliveries as they come and passes them on, until the session ends. It also ends when messages have to be
/// taken differently: at a message that came back often while many are taken at once, or at one that did not while they
/// are taken one at a time.
pub async fn decode(
    reader: Reader,
    mut consumer: Consumer,
    decoded: mpsc::Sender<Message>,
    read_ahead: u32,
    one_at_a_time: bool,
    ending: CancellationToken,
) -> Ended {
    let read_ahead = ReadAhead::new(read_ahead);
    let passing = async {
        while let Some(delivery) = consumer.next().await {
            let keeps_coming_back = delivery.redeliveries >= MANY_RETURNS;
            if keeps_coming_back != one_at_a_time {
                return Some(keeps_coming_back);
            }
            if decoded.send(read_ahead.admit(reader.read(delivery)).await).await.is_err() {
                break;
            }
        }
        None
    };
    let one_at_a_time = tokio::select! { ended = passing => ended, () = ending.cancelled() => None };
    Ended { consumer, one_at_a_time }
}

/// Decodes the deliveries of one shard's queue.
pub struct Reader {
    /// The shard.
    pub shard: ShardId,
    /// The keys that may have signed a message.
    pub keys: Keyring,
    /// The queues of the deployment, of which one has to get the replies.
    pub replies: Topology,
}

impl Reader {
    /// Decodes a delivery. What is not signed is not applied, and no message of another shard, whose businesses are
    /// elsewhere.
    fn read(&self, delivery: Delivery) -> Message {
        let (tag, redeliveries) = (delivery.tag, delivery.redeliveries);
        let content = messages::read_requests(&self.keys, &delivery.body).and_then(|message| self.check(message));
        let content = content.unwrap_or_else(|(cause, reason)| {
            let unreadable = vec![Unreadable { body: delivery.body, cause, reason }];
            let (reply_to, key_id) = (String::new(), String::new());
            RequestMessage { shard: self.shard, reply_to, key_id, requests: vec![], traces: vec![], unreadable }
        });
        if redeliveries > 0 {
            METRICS.redeliveries.inc();
            tracing::info!(redeliveries, request_ids = list_ids(&content.requests), "message redelivered");
        }
        Message { tag, redeliveries, content, _ahead: None }
    }

    fn check(&self, message: RequestMessage) -> Result<RequestMessage, (Cause, String)> {
        let Self { shard, replies, .. } = self;
        if message.shard != *shard {
            let reason = format!("it is of shard {}, and came to the queue of shard {shard}", message.shard);
            return Err((Cause::WrongShard, reason));
        }
        if !replies.is_reply_queue(&message.reply_to) {
            return Err((Cause::Unreadable, "reply_to: no reply queue of this deployment".to_owned()));
        }
        Ok(message)
    }
}

/// Forms batches, in order of arrival.
#[derive(Debug)]
pub struct Batches {
    messages: mpsc::Receiver<Message>,
    limit: usize,
    /// A message that did not fit into the last batch, or what is left of it.
    held: Option<Message>,
}

impl Batches {
    /// `limit`: most requests in a batch.
    pub fn new(messages: mpsc::Receiver<Message>, limit: usize) -> Self {
        Self { messages, limit, held: None }
    }

    /// Waits for a message, and adds all others that have arrived, up to the limit. A message that is larger than the
    /// limit is settled in parts. `None` when no more messages come.
    ///
    /// The limit halves each time a message comes back. If one of its requests kills the worker, fewer and fewer others
    /// are rolled back with it, and after ten times it is alone. After a few deaths the batches are still large, so
    /// that a long queue is soon worked off.
    pub async fn next(&mut self) -> Option<Batch> {
        let mut first = match self.held.take() {
            Some(held) => held,
            None => self.messages.recv().await?,
        };
        let mut batch = Batch::default();
        let mut limit = self.limit_of(&first);
        if first.len() > limit {
            batch.push(first.split_first(limit), false);
            self.held = Some(first);
            return Some(batch);
        }
        batch.push(first, true);
        while let Ok(next) = self.messages.try_recv() {
            limit = limit.min(self.limit_of(&next));
            if batch.requests.len() + next.len() > limit {
                self.held = Some(next);
                break;
            }
            batch.push(next, true);
        }
        Some(batch)
    }

    /// Most requests in a batch that this message is part of.
    fn limit_of(&self, message: &Message) -> usize {
        let halvings = u32::try_from(message.redeliveries).unwrap_or(u32::MAX);
        self.limit.checked_shr(halvings).unwrap_or(0).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Amount, BusinessId, Email, Movement, RequestId};

    fn message(tag: u64, redeliveries: u64, requests: usize) -> Message {
        let request = Request {
            id: RequestId::from_u128(u128::from(tag)),
            business: BusinessId::from_u128(1),
            movement: Movement::Allocate {
                email: Email::parse("ann@example.com").unwrap(),
                amount: Amount::from_cents(1).unwrap(),
            },
            deadline: 0,
            key: None,
            reference: None,
        };
        let content = RequestMessage {
            shard: ShardId::FIRST,
            reply_to: "replies".to_owned(),
            key_id: String::new(),
            requests: vec![request; requests],
            traces: vec![],
            unreadable: vec![],
        };
        Message { tag, redeliveries, content, _ahead: None }
    }

    /// The batches made of these messages: for each part, the tag of its message and its number of requests.
    async fn batches(messages: Vec<Message>, limit: usize) -> Vec<Vec<(u64, usize)>> {
        let (sender, receiver) = mpsc::channel(messages.len());
        for message in messages {
            sender.try_send(message).unwrap();
        }
        drop(sender);
        let mut batches = Batches::new(receiver, limit);
        let mut seen = vec![];
        while let Some(batch) = batches.next().await {
            assert_eq!(batch.requests.len(), batch.parts.iter().map(|part| part.count).sum::<usize>());
            seen.push(batch.parts.iter().map(|part| (part.tag, part.count)).collect());
        }
        seen
    }

    #[tokio::test]
    async fn a_batch_is_what_has_arrived_up_to_the_limit() {
        let messages = vec![message(1, 0, 2), message(2, 0, 2), message(3, 0, 2), message(4, 0, 9), message(5, 0, 1)];
        let expected = [vec![(1, 2), (2, 2)], vec![(3, 2)], vec![(4, 5)], vec![(4, 4), (5, 1)]];
        assert_eq!(batches(messages, 5).await, expected);
    }

    #[tokio::test]
    async fn the_more_often_a_message_came_back_the_fewer_requests_are_settled_with_its_own() {
        let messages = vec![message(1, 0, 1), message(2, 1, 3), message(3, 2, 1), message(4, 0, 1), message(5, 3, 2)];
        let expected = [vec![(1, 1), (2, 3)], vec![(3, 1), (4, 1)], vec![(5, 1)], vec![(5, 1)]];
        assert_eq!(batches(messages, 8).await, expected);
        // The same holds for the most redeliveries and for the smallest batch.
        assert_eq!(batches(vec![message(1, u64::MAX, 2)], 8).await, [[(1, 1)], [(1, 1)]]);
        assert_eq!(batches(vec![message(1, 1, 2)], 1).await, [[(1, 1)], [(1, 1)]]);
    }

    #[tokio::test]
    async fn a_message_is_done_with_its_last_part() {
        let (sender, receiver) = mpsc::channel(1);
        sender.try_send(message(1, 1, 5)).unwrap();
        let mut batches = Batches::new(receiver, 4);
        for is_last in [false, false, true] {
            assert_eq!(batches.next().await.unwrap().parts[0].is_last, is_last);
        }
    }

    #[tokio::test]
    async fn no_more_is_read_ahead_than_there_are_places_or_one_message() {
        let ahead = ReadAhead::new(5);
        let first = ahead.admit(message(1, 0, 3)).await;
        let mut second = Box::pin(ahead.admit(message(2, 0, 3)));
        assert!(futures_util::poll!(&mut second).is_pending());
        Batch::default().push(first, true);
        let second = second.await;
        let mut larger = Box::pin(ahead.admit(message(3, 0, 9)));
        assert!(futures_util::poll!(&mut larger).is_pending());
        drop(second);
        larger.await;
    }

    #[test]
    fn the_parts_of_a_message_are_the_message() {
        let mut whole = message(1, 1, 3);
        let requests = whole.content.requests.iter_mut().zip(1..);
        requests.for_each(|(request, id)| request.id = RequestId::from_u128(id));
        whole.content.traces = [1, 3].map(|id| (RequestId::from_u128(id), id.to_string())).to_vec();
        let torn = Unreadable { body: vec![], cause: Cause::Unreadable, reason: "torn".to_owned() };
        whole.content.unreadable.push(torn);
        let first = whole.split_first(2);
        let shown = |part: &Message| {
            let ids: Vec<u128> = part.content.requests.iter().map(|request| request.id.as_u128()).collect();
            let traced: Vec<u128> = part.content.traces.iter().map(|(id, _)| id.as_u128()).collect();
            (part.content.reply_to.clone(), ids, traced, part.content.unreadable.len())
        };
        assert_eq!(shown(&first), ("replies".to_owned(), vec![1, 2], vec![1], 0));
        assert_eq!(shown(&whole), ("replies".to_owned(), vec![3], vec![3], 1));
    }
}
