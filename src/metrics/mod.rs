//! The metrics that are counted where something happens, each at the cost of one atomic add. Their labels are in
//! [`labels`]. Gauges that can be read on demand (depths, ages, connections) are set by [`crate::ops`] at each scrape.
//!
//! Every label has a closed list of values, so every series exists from the start, with the value zero. A series that
//! appeared with its first event would hide that event from `rate()`. No label contains an email address, a key or a
//! business.

pub mod labels;

use crate::ledger::{Cause, Delivery, Late, Proof, Refusal, SettledAs, Voider};
use labels::{Label, Phase, Role, Route, Status, Trouble};
use prometheus::core::{Collector, Metric};
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder};
use std::marker::PhantomData;
use std::sync::LazyLock;
use std::time::Duration;

/// All metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// A counter metric with one label: one counter for each value.
pub struct Counters<L> {
    children: Vec<IntCounter>,
    label: PhantomData<L>,
}

impl<L: Label> Counters<L> {
    /// Counts one.
    pub fn inc(&self, value: L) {
        self.children[value.index()].inc();
    }

    /// Counts so many.
    pub fn inc_by(&self, value: L, count: u64) {
        self.children[value.index()].inc_by(count);
    }

    /// The counts so far, by the label's value.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        L::ALL.iter().map(|value| (value.as_str(), self.children[value.index()].get()))
    }
}

/// The counter of requests, with two labels: endpoint and status.
pub struct Requests(Vec<Counters<Status>>);

impl Requests {
    /// Counts one.
    pub fn inc(&self, route: Route, status: u16) {
        self.0[route.index()].inc(Status::from(status));
    }

    /// The counts of one endpoint so far, by status.
    pub fn read(&self, route: Route) -> impl Iterator<Item = (&'static str, u64)> {
        self.0[route.index()].read()
    }
}

/// All metrics that are counted where something happens. Their help texts in [`Metrics::new`] say what each one is.
pub struct Metrics {
    registry: Registry,
    /// `earmark_requests_total`.
    pub requests: Requests,
    /// `earmark_request_duration_seconds`.
    pub request_duration: Histogram,
    /// `earmark_unexpected_total`.
    pub unexpected: Counters<Proof>,
    /// `earmark_unavailable_total`.
    pub unavailable: Counters<Refusal>,
    /// `earmark_unknown_total`.
    pub unknown: IntCounter,
    /// `earmark_late_answers_total`.
    pub late: Counters<Late>,
    /// `earmark_voids_total`.
    pub voids: Counters<Voider>,
    /// `earmark_unauthentic_replies_total`.
    pub unauthentic_replies: IntCounter,
    /// `earmark_replies_without_waiter_total`.
    pub replies_without_waiter: IntCounter,
    /// `earmark_message_requests`.
    pub message_requests: Histogram,
    /// `earmark_batch_requests`.
    pub batch_requests: Histogram,
    /// `earmark_batch_duration_seconds`.
    pub batch_duration: Histogram,
    /// `earmark_settle_duration_seconds`, by phase.
    pub settle_duration: Vec<Histogram>,
    /// `earmark_outcomes_total`.
    pub settled: Counters<SettledAs>,
    /// `earmark_commits_in_doubt_total`.
    pub commits_in_doubt: IntCounter,
    /// `earmark_batch_retries_total`.
    pub batch_retries: IntCounter,
    /// `earmark_batch_splits_total`.
    pub batch_splits: IntCounter,
    /// `earmark_redeliveries_total`.
    pub redeliveries: IntCounter,
    /// `earmark_dead_letters_total`.
    pub dead_letters: Counters<Cause>,
    /// Dead letters of the deployment that were neither replayed nor dropped.
    pub dead_letters_open: IntGauge,
    /// `earmark_postgres_connects_total`.
    pub postgres_connects: IntCounter,
    /// `earmark_postgres_errors_total`.
    pub postgres_errors: Counters<Trouble>,
    /// `earmark_pool_wait_seconds`.
    pub pool_wait: Histogram,
    /// `earmark_rabbitmq_connects_total`.
    pub rabbitmq_connects: Counters<Role>,
    /// `earmark_rabbitmq_connections`.
    pub rabbitmq_connections: Vec<IntGauge>,
    /// The sum of the differences that the last audit found, in cents.
    pub audit_difference: Gauge,
    /// When the last audit ended, in seconds since 1970; 0 before the first.
    pub audit_timestamp: Gauge,
    /// `earmark_webhook_deliveries_total`.
    pub deliveries: Counters<Delivery>,
    /// `earmark_webhook_duration_seconds`.
    pub delivery_duration: Histogram,
    /// `earmark_webhook_delay_seconds`.
    pub delivery_delay: Histogram,
    /// `earmark_events_published_total`.
    pub published_events: IntCounter,
}

impl Metrics {
    fn new() -> Self {
        let make = Maker { registry: Registry::new() };
        make.gauge_with(
            "earmark_build_info",
            "The version of this process, as a label. Always 1.",
            ("version", env!("CARGO_PKG_VERSION")),
        )
        .set(1);
        Self {
            requests: make.requests(),
            request_duration: make.seconds(
                "earmark_request_duration_seconds",
                "Time from the arrival of POST /payout/create to its answer, for requests that were published.",
                &REQUEST_SECONDS,
            ),
            unexpected: make
                .counters("earmark_unexpected_total", "Answers with 500, by the proof that they never debit."),
            unavailable: make.counters(
                "earmark_unavailable_total",
                "Answers with 503, or 429 for an API key's limits, by reason. Nothing was debited.",
            ),
            unknown: make
                .counter("earmark_unknown_total", "Answers with 504. Only these do not say whether funds moved."),
            late: make.counters(
                "earmark_late_answers_total",
                "Requests whose reply did not come in time but that had been decided, by outcome.",
            ),
            voids: make
                .counters("earmark_voids_total", "Requests voided, by the part of the program that voided them."),
            unauthentic_replies: make.counter(
                "earmark_unauthentic_replies_total",
                "Messages of replies that were not signed with a key of EARMARK_ENVELOPE_KEYS, and were not believed.",
            ),
            replies_without_waiter: make.counter(
                "earmark_replies_without_waiter_total",
                "Replies that came too late: no request waited for them.",
            ),
            message_requests: make.sizes("earmark_message_requests", "Number of requests in a published message."),
            batch_requests: make
                .sizes("earmark_batch_requests", "Number of requests in a batch that a worker settles together."),
            batch_duration: make.seconds(
                "earmark_batch_duration_seconds",
                "Time from taking a batch to its commit.",
                &SETTLE_SECONDS,
            ),
            settle_duration: make.phases(),
            settled: make.counters("earmark_outcomes_total", "Requests settled by workers, by what was decided."),
            commits_in_doubt: make.counter(
                "earmark_commits_in_doubt_total",
                "Commits whose answer was lost. Each is repeated with the same request ids.",
            ),
            batch_retries: make.counter(
                "earmark_batch_retries_total",
                "Batches repeated after a temporary failure, including those whose commit was in doubt.",
            ),
            batch_splits: make.counter(
                "earmark_batch_splits_total",
                "Batches split in half because they took too long or one of their requests cannot be stored.",
            ),
            redeliveries: make.counter("earmark_redeliveries_total", "Messages that came to a worker by a redelivery."),
            dead_letters: make.counters("earmark_dead_letters_total", "Dead letters stored, by reason."),
            dead_letters_open: make.register(IntGauge::new(
                "earmark_dead_letters_open",
                "Dead letters of the whole deployment that were neither replayed nor dropped.",
            )),
            postgres_connects: make.counter("earmark_postgres_connects_total", "Connections opened to Postgres."),
            postgres_errors: make.counters("earmark_postgres_errors_total", "Errors of Postgres, by kind."),
            pool_wait: make.seconds(
                "earmark_pool_wait_seconds",
                "Time that reads wait for a connection of their pool.",
                &SETTLE_SECONDS,
            ),
            rabbitmq_connects: make
                .counters("earmark_rabbitmq_connects_total", "Connections opened to RabbitMQ, by purpose."),
            rabbitmq_connections: make
                .gauges::<Role>("earmark_rabbitmq_connections", "Open connections to RabbitMQ, by purpose."),
            audit_difference: make.gauge(
                "earmark_audit_difference_cents",
                "Sum of the differences that the last audit known to this process found, in cents.",
            ),
            audit_timestamp: make.gauge(
                "earmark_audit_timestamp_seconds",
                "When the last audit known to this process ended, in seconds since 1970; 0 before the first.",
            ),
            deliveries: make.counters(
                "earmark_webhook_deliveries_total",
                "Tries to deliver an event to a webhook, by how they ended.",
            ),
            delivery_duration: make.seconds(
                "earmark_webhook_duration_seconds",
                "Time of a try to deliver an event to a webhook.",
                &REQUEST_SECONDS,
            ),
            delivery_delay: make.seconds(
                "earmark_webhook_delay_seconds",
                "Time from a movement to its delivery, for events that were delivered at the first try.",
                &REQUEST_SECONDS,
            ),
            published_events: make.counter(
                "earmark_events_published_total",
                "Events that the broker has taken for the exchange. One that is published again counts again.",
            ),
            registry: make.registry,
        }
    }

    /// Records how long a step of settling took.
    pub fn observe(&self, phase: Phase, took: Duration) {
        self.settle_duration[phase.index()].observe(took.as_secs_f64());
    }

    /// Counts one request that a worker settled and, if that voided it, the void.
    pub fn settle(&self, what: SettledAs) {
        self.settled.inc(what);
        if let Some(voider) = what.voider() {
            self.voids.inc(voider);
        }
    }

    /// Registers a metric that is set at each scrape.
    pub fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        register(&self.registry, made)
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// Histogram bounds for the time that clients wait, in seconds: from one round trip without load to the reply and
/// resolve timeouts together.
const REQUEST_SECONDS: [f64; 22] = [
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0,
    3.0, 5.0, 10.0,
];
/// Histogram bounds for work in Postgres, in seconds: from a statement without load to the settle timeout.
const SETTLE_SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0];

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let made = made.expect("the name of a metric is valid");
    registry.register(Box::new(made.clone())).expect("the name of a metric is unique");
    made
}

/// Creates and registers metrics.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        register(&self.registry, made)
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::new(name, help))
    }

    fn gauge_with(&self, name: &str, help: &str, (label, value): (&str, &str)) -> IntGauge {
        self.register(IntGauge::with_opts(Opts::new(name, help).const_label(label, value)))
    }

    fn counters<L: Label>(&self, name: &str, help: &str) -> Counters<L> {
        self.counters_with(Opts::new(name, help))
    }

    fn counters_with<L: Label>(&self, options: Opts) -> Counters<L> {
        let child =
            |value: &L| self.register(IntCounter::with_opts(options.clone().const_label(L::NAME, value.as_str())));
        Counters { children: L::ALL.iter().map(child).collect(), label: PhantomData }
    }

    fn gauges<L: Label>(&self, name: &str, help: &str) -> Vec<IntGauge> {
        L::ALL.iter().map(|value| self.gauge_with(name, help, (L::NAME, value.as_str()))).collect()
    }

    fn requests(&self) -> Requests {
        let options = Opts::new("earmark_requests_total", "HTTP requests answered, by endpoint and status.");
        let of = |route: &Route| self.counters_with(options.clone().const_label(Route::NAME, route.as_str()));
        Requests(Route::ALL.iter().map(of).collect())
    }

    fn seconds(&self, name: &str, help: &str, bounds: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec())))
    }

    fn sizes(&self, name: &str, help: &str) -> Histogram {
        let bounds = (0..=12).map(|power| f64::from(1 << power)).collect();
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds)))
    }

    fn phases(&self) -> Vec<Histogram> {
        let options = HistogramOpts::new("earmark_settle_duration_seconds", "Time of each step of settling a batch.");
        let options = options.buckets(SETTLE_SECONDS.to_vec());
        let of = |phase: &Phase| {
            self.register(Histogram::with_opts(options.clone().const_label(Phase::NAME, phase.as_str())))
        };
        Phase::ALL.iter().map(of).collect()
    }
}

/// The bounds of a histogram, each with the number of observations that were at most that large.
pub fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let read = histogram.metric();
    let read = read.get_histogram();
    read.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Verdict;

    #[test]
    fn every_series_is_there_before_anything_has_happened() {
        let text = Metrics::new().text();
        for series in [
            r#"earmark_requests_total{route="/payout/create",status="500"} 0"#,
            r#"earmark_unexpected_total{proof="key_raised"} 0"#,
            r#"earmark_dead_letters_total{reason="delivery_limit"} 0"#,
            r#"earmark_settle_duration_seconds_bucket{phase="at_once",le="0.001"} 0"#,
            "earmark_unknown_total 0",
        ] {
            assert!(text.contains(series), "{series} in {text}");
        }
    }

    #[test]
    fn a_void_is_counted_by_whom_and_only_once() {
        let metrics = Metrics::new();
        metrics.settle(SettledAs::from(Verdict::StaleEpoch { current: 3, raise: None }));
        metrics.settle(SettledAs::Rejected);
        let counted: Vec<_> = metrics.voids.read().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("worker_key", 1)]);
    }

    #[test]
    fn buckets_count_what_is_at_most_as_large_as_their_bound() {
        let metrics = Metrics::new();
        metrics.batch_requests.observe(3.0);
        metrics.batch_requests.observe(100.0);
        let counts: Vec<u64> = buckets(&metrics.batch_requests).iter().map(|(_, count)| *count).collect();
        assert_eq!(counts[..4], [0, 0, 1, 1]);
        assert_eq!(counts.last(), Some(&2));
    }
}
