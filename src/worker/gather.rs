//! Batches of whatever has arrived. Nothing lingers: an idle worker takes a request that comes alone at once, and a busy
//! one finds a batch waiting when it has settled the last.

use crate::ledger::{Request, RequestId, list_ids};
use crate::metrics::METRICS;
use crate::rabbit::consumer::{Consumer, Delivery};
use crate::trace;
use crate::wire::{self, RequestMessage, Unreadable};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One message of the queue, read.
#[derive(Debug)]
pub struct Message {
    /// The delivery to acknowledge.
    pub tag: u64,
    /// How often it came back.
    pub redeliveries: u64,
    pub content: RequestMessage,
}

/// Messages that are settled together.
#[derive(Debug, Default)]
pub struct Batch {
    pub parts: Vec<Part>,
    /// The requests of all parts, in order of arrival.
    pub requests: Vec<Request>,
    /// Of those requests that are traced, while spans are exported.
    pub traces: Vec<(RequestId, trace::Context)>,
    /// Settle each request in a transaction of its own.
    pub one_by_one: bool,
}

/// What one message contributes to a batch.
#[derive(Debug)]
pub struct Part {
    pub tag: u64,
    pub reply_to: String,
    /// How many of the batch's requests are this message's.
    pub count: usize,
    pub unreadable: Vec<Unreadable>,
}

impl Batch {
    fn push(&mut self, message: Message) {
        let Message { tag, content, .. } = message;
        let count = content.requests.len();
        self.requests.extend(content.requests);
        if trace::is_on() {
            let traces = content.traces.iter().filter_map(|(id, text)| Some((*id, trace::Context::parse(text)?)));
            self.traces.extend(traces);
        }
        self.parts.push(Part { tag, reply_to: content.reply_to, count, unreadable: content.unreadable });
    }
}

/// Reads deliveries as they come and passes them on, until the session ends. Gives the consumer back then: whoever drops it
/// loses the link, over which the batch in hand is still to be answered and acknowledged.
pub async fn decode(mut consumer: Consumer, decoded: mpsc::Sender<Message>, session: CancellationToken) -> Consumer {
    loop {
        let delivery = tokio::select! { delivery = consumer.next() => delivery, () = session.cancelled() => None };
        let Some(delivery) = delivery else { return consumer };
        let sending = decoded.send(read(delivery));
        if tokio::select! { sent = sending => sent.is_err(), () = session.cancelled() => true } {
            return consumer;
        }
    }
}

fn read(delivery: Delivery) -> Message {
    let (tag, redeliveries) = (delivery.tag, delivery.redeliveries);
    let content = wire::read_requests(&delivery.body).unwrap_or_else(|reason| {
        let unreadable = vec![Unreadable { body: delivery.body, reason }];
        RequestMessage { reply_to: String::new(), requests: vec![], traces: vec![], unreadable }
    });
    if redeliveries > 0 {
        METRICS.redeliveries.inc();
        tracing::info!(redeliveries, request_ids = list_ids(&content.requests), "message redelivered");
    }
    Message { tag, redeliveries, content }
}

/// Forms batches, in order of arrival.
#[derive(Debug)]
pub struct Batches {
    messages: mpsc::Receiver<Message>,
    limit: usize,
    /// A message that did not fit into the last batch.
    held: Option<Message>,
}

impl Batches {
    /// `limit`: most requests in a batch; a batch has at least one message.
    pub fn new(messages: mpsc::Receiver<Message>, limit: usize) -> Self {
        Self { messages, limit, held: None }
    }

    /// Waits for a message, and takes with it all that have arrived, up to the limit. `None` when no more come.
    ///
    /// A message that came back is settled alone, and from the second time on request by request: if one of them kills
    /// the worker, it takes no neighbour with it towards the delivery limit.
    pub async fn next(&mut self) -> Option<Batch> {
        let first = match self.held.take() {
            Some(held) => held,
            None => self.messages.recv().await?,
        };
        let came_back = first.redeliveries > 0;
        let mut batch = Batch { one_by_one: first.redeliveries > 1, ..Batch::default() };
        batch.push(first);
        if came_back {
            return Some(batch);
        }
        while let Ok(next) = self.messages.try_recv() {
            if batch.requests.len() + next.content.requests.len() > self.limit || next.redeliveries > 0 {
                self.held = Some(next);
                break;
            }
            batch.push(next);
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Amount, BusinessId, Email, RequestId};

    fn message(tag: u64, redeliveries: u64, requests: usize) -> Message {
        let request = Request {
            id: RequestId::from_u128(u128::from(tag)),
            business: BusinessId::from_u128(1),
            email: Email::parse("ann@example.com").unwrap(),
            amount: Amount::from_cents(1).unwrap(),
            deadline: 0,
            key: None,
            reference: None,
        };
        let content = RequestMessage {
            reply_to: "replies".to_owned(),
            requests: vec![request; requests],
            traces: vec![],
            unreadable: vec![],
        };
        Message { tag, redeliveries, content }
    }

    async fn tags(messages: Vec<Message>, limit: usize) -> Vec<(Vec<u64>, bool)> {
        let (sender, receiver) = mpsc::channel(messages.len());
        for message in messages {
            sender.try_send(message).unwrap();
        }
        drop(sender);
        let mut batches = Batches::new(receiver, limit);
        let mut seen = vec![];
        while let Some(batch) = batches.next().await {
            seen.push((batch.parts.iter().map(|part| part.tag).collect(), batch.one_by_one));
        }
        seen
    }

    #[tokio::test]
    async fn a_batch_is_what_has_arrived_up_to_the_limit() {
        let messages = vec![message(1, 0, 2), message(2, 0, 2), message(3, 0, 2), message(4, 0, 9), message(5, 0, 1)];
        let expected = [(vec![1, 2], false), (vec![3], false), (vec![4], false), (vec![5], false)];
        assert_eq!(tags(messages, 5).await, expected);
    }

    #[tokio::test]
    async fn a_message_that_came_back_is_alone_and_the_second_time_request_by_request() {
        let messages = vec![message(1, 0, 1), message(2, 1, 1), message(3, 0, 1), message(4, 2, 3), message(5, 0, 1)];
        let expected = [(vec![1], false), (vec![2], false), (vec![3], false), (vec![4], true), (vec![5], false)];
        assert_eq!(tags(messages, 100).await, expected);
    }
}
