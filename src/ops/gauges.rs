//! The gauges that are set from the process's state each time `/metrics` is asked for. What the process does not have
//! or cannot see gets no series: an old value would mislead.

use crate::metrics::METRICS;
use crate::wire::state::State;
use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts};
use std::sync::{LazyLock, Mutex, PoisonError};

static GAUGES: LazyLock<Mutex<Gauges>> = LazyLock::new(|| Mutex::new(Gauges::new()));

struct Gauges {
    ready: IntGauge,
    connected: IntGaugeVec,
    blocked: IntGauge,
    in_flight: IntGauge,
    oldest: Gauge,
    consuming: IntGauge,
    paused: IntGauge,
    messages: IntGaugeVec,
    consumers: IntGaugeVec,
    shards: IntGaugeVec,
    webhooks: IntGaugeVec,
    waiting_events: IntGauge,
    oldest_event: Gauge,
    oldest_unpublished: Gauge,
}

/// All metrics in Prometheus' text format, with the gauges set from `state`.
pub(super) fn text(state: &State) -> String {
    // One scrape at a time: setting the gauges first removes the series of the scrape before.
    let gauges = GAUGES.lock().unwrap_or_else(PoisonError::into_inner);
    gauges.set(state);
    METRICS.text()
}

impl Gauges {
    fn new() -> Self {
        let one = |name: &str, help: &str| METRICS.register(IntGauge::new(name, help));
        let some =
            |name: &str, help: &str, labels: &[&str]| METRICS.register(IntGaugeVec::new(Opts::new(name, help), labels));
        let oldest = "Age of this process's oldest request without an outcome; 0 if there is none.";
        let messages = "Messages in a queue. ready: the broker's count. unacknowledged: held by this process.";
        Self {
            ready: one("earmark_ready", "1 if the process can work: /readyz answers 200."),
            connected: some(
                "earmark_connected",
                "1 if this part of the process (role) is connected to this server (to).",
                &["role", "to"],
            ),
            blocked: one(
                "earmark_rabbitmq_blocked",
                "1 while the broker accepts no messages (a memory or disk alarm).",
            ),
            in_flight: one("earmark_requests_in_flight", "Requests between admission and decision."),
            oldest: METRICS.register(Gauge::new("earmark_oldest_request_age_seconds", oldest)),
            consuming: one(
                "earmark_consuming",
                "1 while this process's worker is subscribed to its queues, active or standing by.",
            ),
            paused: one(
                "earmark_paused",
                "1 while the workers are paused by an operator. Only processes with a worker set it.",
            ),
            messages: some("earmark_queue_messages", messages, &["queue", "state"]),
            consumers: some(
                "earmark_queue_consumers",
                "Consumers of a queue, including those that stand by.",
                &["queue"],
            ),
            webhooks: some(
                "earmark_webhooks",
                "Webhooks of the whole deployment. sound: the last delivery was a success. failing: it failed. disabled: \
                 nothing is delivered.",
                &["state"],
            ),
            waiting_events: one(
                "earmark_webhook_waiting_events",
                "Events of the whole deployment that wait to be delivered to a webhook again.",
            ),
            oldest_event: METRICS.register(Gauge::new(
                "earmark_webhook_oldest_event_age_seconds",
                "Age of the oldest event of the whole deployment that no relay has tried, for webhooks that do not fail.",
            )),
            oldest_unpublished: METRICS.register(Gauge::new(
                "earmark_events_oldest_age_seconds",
                "Age of the oldest event of the whole deployment that is not published to the exchange; 0 if none should be.",
            )),
            shards: some("earmark_shard_up", "1 if this process can work with this shard's Postgres.", &["shard"]),
        }
    }

    fn set(&self, state: &State) {
        self.ready.set(i64::from(state.impediments.is_empty()));
        self.set_connections(state);
        self.set_queues(state);
        self.shards.reset();
        for (shard, trouble) in &state.shards {
            self.shards.with_label_values(&[&shard.to_string()]).set(i64::from(trouble.is_none()));
        }
        if let Some(intake) = &state.intake {
            self.blocked.set(i64::from(intake.rabbitmq_blocked));
            self.in_flight.set(i64::try_from(intake.in_flight).unwrap_or(i64::MAX));
            self.oldest.set(intake.oldest_millis.unwrap_or(0) as f64 / 1000.0);
        }
        self.webhooks.reset();
        if let Some(relay) = &state.relay {
            let set = |state, count| self.webhooks.with_label_values(&[state]).set(count);
            set("sound", relay.sound);
            set("failing", relay.failing);
            set("disabled", relay.disabled);
            self.waiting_events.set(relay.waiting);
            self.oldest_event.set(relay.oldest_millis as f64 / 1000.0);
            self.oldest_unpublished.set(relay.unpublished_millis as f64 / 1000.0);
        }
        if let Some(worker) = &state.worker {
            self.consuming.set(i64::from(worker.consuming));
            self.paused.set(i64::from(worker.paused));
        }
    }

    fn set_connections(&self, state: &State) {
        self.connected.reset();
        let set = |role, to, is_so| self.connected.with_label_values(&[role, to]).set(i64::from(is_so));
        if let Some(intake) = &state.intake {
            set("intake", "postgres", intake.postgres_up);
            set("intake", "rabbitmq", intake.rabbitmq_up);
        }
        if let Some(relay) = &state.relay {
            set("relay", "postgres", relay.postgres_up);
            if let Some(is_up) = relay.exchange_up {
                set("relay", "rabbitmq", is_up);
            }
        }
        if let Some(worker) = &state.worker {
            set("worker", "postgres", worker.postgres_up);
            set("worker", "rabbitmq", worker.consuming);
        }
    }

    fn set_queues(&self, state: &State) {
        self.messages.reset();
        self.consumers.reset();
        for queue in &state.queues {
            self.messages.with_label_values(&[queue.name.as_str(), "ready"]).set(i64::from(queue.ready));
            self.consumers.with_label_values(&[queue.name.as_str()]).set(i64::from(queue.consumers));
        }
        for (queue, count) in state.worker.iter().flat_map(|worker| &worker.unacknowledged) {
            self.messages
                .with_label_values(&[queue.as_str(), "unacknowledged"])
                .set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }
}
