//! A lane works on the queue of one shard, in stages that run side by side: one batch is decoded and another is answered while
//! a third commits. Each stage keeps the order.

use super::attempt::Settled;
use super::disposition::{self, Disposition};
use super::gather::{self, Batch, Batches, Ended};
use super::settle::Settler;
use super::{Limits, Worker};
use crate::failpoint::{self, Failpoint};
use crate::ledger::{RequestId, SettledAs, ShardId};
use crate::metrics::METRICS;
use crate::rabbit::consumer::{Consumer, Held};
use crate::rabbit::dead_letters::DeadLetterSender;
use crate::rabbit::replies::ReplySender;
use crate::rabbit::topology::Topology;
use crate::rabbit::{Error, Link};
use crate::trace;
use crate::wire::signing::Keyring;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What the queue of one shard needs of the broker: a consumer, and senders for replies and dead letters.
pub struct Lane {
    shard: ShardId,
    topology: Topology,
    queue: String,
    limits: Limits,
    one_at_a_time: bool,
    consumer: Consumer,
    replies: ReplySender,
    dead_letters: DeadLetterSender,
}

impl Lane {
    /// Opens the consumer and the senders. `priority`: that of the consumer. `one_at_a_time`: take a message only when the
    /// one before it is acknowledged.
    pub async fn open(
        consuming: &Link,
        publishing: &Link,
        topology: &Topology,
        shard: ShardId,
        limits: Limits,
        priority: i16,
        one_at_a_time: bool,
    ) -> Result<Self, Error> {
        let (queue, prefetch) = (topology.work_queue(shard.number()), if one_at_a_time { 1 } else { limits.prefetch });
        Ok(Self {
            replies: ReplySender::open(publishing, topology).await?,
            dead_letters: DeadLetterSender::open(publishing, topology, &queue).await?,
            consumer: Consumer::open(consuming, &queue, prefetch, priority).await?,
            shard,
            topology: topology.clone(),
            queue,
            limits,
            one_at_a_time,
        })
    }

    /// The name of the queue, and the count of its messages that are taken and not yet acknowledged.
    pub fn held(&self) -> (String, Held) {
        (self.queue.clone(), self.consumer.held())
    }

    /// Works until the session ends; then finishes the batch in hand, replies and acknowledges. Returns the consumer,
    /// which has to be kept until all lanes have ended; `None` if reading it panicked.
    pub async fn run(self, worker: Arc<Worker>, link: Link, ending: CancellationToken) -> Option<Consumer> {
        let Self { shard, topology, queue: _, limits, one_at_a_time, consumer, replies, dead_letters } = self;
        let Ok(postgres) = worker.settings.shards.get(shard) else { return Some(consumer) };
        let acknowledger = consumer.acknowledger();
        let (decoded, messages) = mpsc::channel(usize::from(limits.prefetch));
        // Two: one being answered, one waiting. With more, a crash would leave more to be done again.
        let (settled, dispositions) = mpsc::channel::<Disposition>(2);
        let reader = gather::Reader { shard, keys: worker.settings.keys.clone(), replies: topology };
        let gathering =
            tokio::spawn(gather::decode(reader, consumer, decoded, limits.read_ahead, one_at_a_time, ending.clone()));
        let senders = disposition::Senders { replies, dead_letters, acknowledger, keys: worker.settings.keys.clone() };
        let disposing = tokio::spawn(async move { disposition::perform_all(dispositions, &senders, &link).await });
        let batches = Batches::new(messages, limits.batch);
        settle_all(Settler::new(&postgres, &worker.settings), batches, settled, &worker.settings.keys, &ending).await;
        ending.cancel();
        let _ = disposing.await;
        let Ended { consumer, one_at_a_time } = gathering.await.ok()?;
        if let Some(one_at_a_time) = one_at_a_time {
            worker.take_one_at_a_time(shard, one_at_a_time);
        }
        Some(consumer)
    }
}

/// Settles batch after batch until the session ends.
async fn settle_all(
    mut settler: Settler,
    mut batches: Batches,
    settled: mpsc::Sender<Disposition>,
    keys: &Keyring,
    ending: &CancellationToken,
) {
    loop {
        let batch = tokio::select! { biased; () = ending.cancelled() => return, batch = batches.next() => batch };
        let Some(batch) = batch else { return };
        failpoint::pass(Failpoint::AfterGather).await;
        METRICS.batch_requests.observe(batch.requests.len() as f64);
        let (since, spans) = (Instant::now(), begin_spans(&batch));
        let Some(results) = settler.settle(&batch, ending).await else { return };
        METRICS.batch_duration.observe(since.elapsed().as_secs_f64());
        end_spans(spans, &batch, &results);
        failpoint::pass(Failpoint::BeforeReply).await;
        if settled.send(Disposition::new(batch, results, keys)).await.is_err() {
            return;
        }
    }
}

/// Begins a span for each request that is traced.
fn begin_spans(batch: &Batch) -> Vec<(RequestId, trace::Span)> {
    let begin = |(id, context): &(_, _)| Some((*id, trace::begin(Some(*context), "settle", trace::Kind::Consumer)?));
    batch.traces.iter().filter_map(begin).collect()
}

fn end_spans(spans: Vec<(RequestId, trace::Span)>, batch: &Batch, results: &[Settled]) {
    if spans.is_empty() {
        return;
    }
    let outcomes: HashMap<RequestId, &Settled> =
        batch.requests.iter().map(|request| request.id).zip(results.iter()).collect();
    for (id, span) in spans {
        let outcome = match outcomes.get(&id) {
            Some(Settled::Decided(verdict, _)) => verdict.outcome().as_str(),
            Some(Settled::Rejected(_)) | None => SettledAs::Rejected.as_str(),
        };
        span.end(vec![("earmark.request_id", id.to_string()), ("earmark.outcome", outcome.to_owned())]);
    }
}
