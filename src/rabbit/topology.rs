//! Every queue and exchange of a deployment, with its arguments and the reasons. They are named nowhere else.

use super::{Error, Link};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often a message may come back before the broker dead-letters it. A message that kills its worker each time is
/// out of the way after this many. RabbitMQ 3 has no limit by default; 20 is the default of RabbitMQ 4.
pub const DELIVERY_LIMIT: i32 = 20;

/// The argument that says how long RabbitMQ 4.3 waits for the node of the active worker, in milliseconds, before it activates
/// the next. Earlier versions do not wait, and ignore the argument: they keep it, so it holds once they are upgraded.
pub const DISCONNECTED_TIMEOUT: &str = "x-consumer-disconnected-timeout";
/// RabbitMQ's own default is a minute. Two seconds outlast a short interruption between nodes, and leave enough of the 5 s
/// that a request waits.
pub const DISCONNECTED_MILLIS: i32 = 2_000;

/// A part of a process that uses exchanges and queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It publishes requests and takes replies.
    Intake,
    /// It takes requests, publishes replies, and stores dead letters.
    Worker,
    /// It publishes events.
    Relay,
}

impl Part {
    const ALL: [Self; 3] = [Self::Intake, Self::Worker, Self::Relay];
}

/// The queues of one deployment. All their names begin with `EARMARK_QUEUE_PREFIX`. Clones share what is known of them.
#[derive(Clone, Debug)]
pub struct Topology {
    prefix: String,
    /// Whether this process declares them, or only looks whether they are there.
    declares: bool,
    /// Who looks. Newer brokers let nobody look at what he has no right to.
    parts: Vec<Part>,
    /// The shards whose queues exist without [`DISCONNECTED_TIMEOUT`]. The arguments of a queue cannot be changed, and it
    /// serves without this one too.
    without_timeout: Arc<Mutex<BTreeSet<u8>>>,
}

impl Topology {
    /// The queues whose names begin with `prefix`.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), declares: true, parts: Part::ALL.to_vec(), without_timeout: Arc::default() }
    }

    /// The same, in the hands of a user who may not declare them.
    pub fn declared_by_others(self) -> Self {
        Self { declares: false, ..self }
    }

    /// The same for a process of these parts. Unless it declares everything, it looks only at what they use.
    pub fn seen_by(self, parts: Vec<Part>) -> Self {
        if self.declares { self } else { Self { parts, ..self } }
    }

    /// Whether any of these parts is here.
    fn is_for(&self, parts: &[Part]) -> bool {
        self.parts.iter().any(|part| parts.contains(part))
    }

    /// Whether others declare them.
    pub fn is_declared_by_others(&self) -> bool {
        !self.declares
    }

    /// What the names of all queues begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The requests of the businesses of the shard with this number wait here for a worker.
    pub fn work_queue(&self, shard: u8) -> String {
        format!("{}.allocations.{shard}", self.prefix)
    }

    /// A name that begins like those of work queues, and is of none.
    pub(super) fn no_work_queue(&self) -> String {
        format!("{}.allocations.check", self.prefix)
    }

    /// A name, made of a number that is drawn at random, that nothing has.
    pub(super) fn nothing(&self, id: u128) -> String {
        format!("{}.check.{id:032x}", self.prefix)
    }

    /// All that is shared and can be seen here: the work queues of these shards, and the dead-letter queue.
    pub fn all_queues(&self, shards: &[u8]) -> Vec<String> {
        let has_work = self.is_for(&[Part::Intake, Part::Worker]);
        let work = shards.iter().filter(|_| has_work).map(|&shard| self.work_queue(shard));
        work.chain(self.is_for(&[Part::Worker]).then(|| self.dead_letter_queue())).collect()
    }

    /// Messages wait here until a worker has stored them for a person.
    pub fn dead_letter_queue(&self) -> String {
        format!("{}.dead-letters", self.prefix)
    }

    /// The exchange to which the broker sends messages that it gives up on, and a worker those that nobody can apply.
    pub(super) fn dead_letter_exchange(&self) -> String {
        format!("{}.dead-letters", self.prefix)
    }

    /// The exchange for requests; the name of a work queue is its routing key. An exchange of its own and not the default
    /// one: whoever may write to that, may write to every queue.
    pub(super) fn request_exchange(&self) -> String {
        format!("{}.requests", self.prefix)
    }

    /// The exchange for replies; the name of a reply queue is its routing key.
    pub(super) fn reply_exchange(&self) -> String {
        format!("{}.replies", self.prefix)
    }

    /// The events of all businesses are published here, with their types as routing keys. Whoever wants them binds a queue of
    /// his own.
    pub(super) fn event_exchange(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// The queue of replies to one connection of one intake. This program chooses the name: a name made by the broker
    /// could not be declared again, and everybody would have to be told the new one.
    pub fn reply_queue(&self, id: u128) -> String {
        format!("{}.replies.{id:032x}", self.prefix)
    }

    /// Whether a queue of this name is one for replies.
    pub fn is_reply_queue(&self, name: &str) -> bool {
        let id = name.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix(".replies."));
        id.is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// Sees to it that all that is shared is there: the exchanges, the work queues of these shards and the dead-letter queue. If
    /// others declare them, an error says what is missing.
    pub async fn declare(&self, link: &Link, shards: &[u8]) -> Result<(), Error> {
        if self.declares { self.declare_all(link, shards).await } else { self.find_all(link, shards).await }
    }

    /// Looks whether everything exists that is used here.
    async fn find_all(&self, link: &Link, shards: &[u8]) -> Result<(), Error> {
        let channel = link.channel().await?;
        let missing = |name: &str, error: lapin::Error| {
            let (error, said) = (Error::from(error), format!("{name} is not there: `earmark migrate` declares it"));
            if error.is_missing() { Error(said) } else { error }
        };
        for (exchange, kind, parts) in self.exchanges() {
            if !self.is_for(parts) {
                continue;
            }
            let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let found = channel.exchange_declare(exchange.as_str().into(), kind, passive, FieldTable::default()).await;
            found.map_err(|error| missing(&exchange, error))?;
        }
        for queue in self.all_queues(shards) {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await;
            found.map_err(|error| missing(&queue, error))?;
        }
        channel.close(200, "found".into()).await?;
        Ok(())
    }

    /// All exchanges, each with those who use it.
    fn exchanges(&self) -> [(String, ExchangeKind, &'static [Part]); 4] {
        [
            (self.request_exchange(), ExchangeKind::Direct, &[Part::Intake]),
            (self.reply_exchange(), ExchangeKind::Direct, &[Part::Intake, Part::Worker]),
            (self.dead_letter_exchange(), ExchangeKind::Fanout, &[Part::Worker]),
            (self.event_exchange(), ExchangeKind::Topic, &[Part::Relay]),
        ]
    }

    /// Declares everything. Harmless if it exists; an error if it exists with other arguments. If a queue lacks
    /// [`DISCONNECTED_TIMEOUT`] alone, that is an error once, as the broker's refusal costs the connection; from then on the
    /// queue is taken as it is.
    async fn declare_all(&self, link: &Link, shards: &[u8]) -> Result<(), Error> {
        let channel = link.channel().await?;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        for (exchange, kind, _) in self.exchanges() {
            channel.exchange_declare(exchange.into(), kind, durable, FieldTable::default()).await?;
        }
        let (queue, bound) = (self.dead_letter_queue(), QueueBindOptions::default());
        channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), quorum()).await?;
        channel
            .queue_bind(queue.into(), self.dead_letter_exchange().into(), "".into(), bound, FieldTable::default())
            .await?;
        let mut arguments = quorum();
        arguments.insert("x-dead-letter-exchange".into(), long_string(&self.dead_letter_exchange()));
        // A dead letter is confirmed by its new queue before it leaves the old one.
        arguments.insert("x-dead-letter-strategy".into(), long_string("at-least-once"));
        // A queue that is full (by a policy of the broker) refuses messages at once. The default drops the oldest
        // message silently, and cannot be combined with at-least-once dead-lettering.
        arguments.insert("x-overflow".into(), long_string("reject-publish"));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        // One worker at a time takes from a queue, and another takes over at once when it is gone. Two would wait for
        // each other's locks on the rows of the businesses, and neither would know the balances that the other has
        // left.
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        for &shard in shards {
            let (queue, mut arguments) = (self.work_queue(shard), arguments.clone());
            if !self.without_timeout().contains(&shard) {
                arguments.insert(DISCONNECTED_TIMEOUT.into(), AMQPValue::LongInt(DISCONNECTED_MILLIS));
            }
            let declared = channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await;
            if declared.as_ref().is_err_and(|error| error.to_string().contains(DISCONNECTED_TIMEOUT)) {
                self.without_timeout().insert(shard);
            }
            declared?;
            let (queue, exchange) = (self.work_queue(shard), self.request_exchange());
            let key = queue.as_str().into();
            channel.queue_bind(queue.as_str().into(), exchange.into(), key, bound, FieldTable::default()).await?;
        }
        channel.close(200, "declared".into()).await?;
        Ok(())
    }

    fn without_timeout(&self) -> MutexGuard<'_, BTreeSet<u8>> {
        self.without_timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares a reply queue. It is classic, because replies need no copies and this is faster. It is exclusive, so
    /// that it ends with its connection and RabbitMQ 4 accepts that it is transient. Its exchange has to be there.
    pub(super) async fn declare_replies(&self, channel: &Channel, queue: &str) -> Result<(), Error> {
        let options = QueueDeclareOptions::exclusive().auto_delete();
        channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
        let (exchange, bound) = (self.reply_exchange().into(), QueueBindOptions::default());
        channel.queue_bind(queue.into(), exchange, queue.into(), bound, FieldTable::default()).await?;
        Ok(())
    }
}

/// The arguments of a quorum queue, which survives the loss of a node and counts deliveries.
fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), long_string("quorum"));
    arguments
}

fn long_string(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_declares_nothing_looks_only_at_what_it_uses() {
        let seen = |parts: Vec<Part>| {
            let topology = Topology::new("p").declared_by_others().seen_by(parts);
            let exchanges = topology.exchanges().into_iter().filter(|(_, _, users)| topology.is_for(users));
            let names = exchanges.map(|(name, _, _)| name).chain(topology.all_queues(&[0, 1]));
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(seen(vec![Part::Intake]), "p.requests p.replies p.allocations.0 p.allocations.1");
        let of_worker = "p.replies p.dead-letters p.allocations.0 p.allocations.1 p.dead-letters";
        assert_eq!(seen(vec![Part::Worker]), of_worker);
        assert_eq!(seen(vec![Part::Relay]), "p.events");
        let all = "p.requests p.replies p.dead-letters p.events p.allocations.0 p.allocations.1 p.dead-letters";
        assert_eq!(seen(Part::ALL.to_vec()), all);
        // Whoever declares needs all of it.
        let declares = Topology::new("p").seen_by(vec![Part::Relay]);
        assert_eq!(declares.all_queues(&[0]), ["p.allocations.0", "p.dead-letters"]);
    }
}
