//! Every metric: its name, its unit, its labels ([`labels`]). One atomic add where something happens; what can be read when somebody
//! asks (depths, ages, connections) is set by [`crate::ops`] then.
//!
//! All labels are closed lists, so every series is there from the start, as zero: a rate over one that appears with its
//! first event would miss that event. None carries an address, a key or a business.

pub mod labels;

use crate::ledger::{Cause, Late, Proof, Refusal, SettledAs, Voider};
use labels::{Label, Phase, Role, Route, Status, Trouble};
use prometheus::core::{Collector, Metric};
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder};
use std::marker::PhantomData;
use std::sync::LazyLock;
use std::time::Duration;

/// All metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Counters of one name, one for each value of a label.
pub struct Counters<L> {
    children: Vec<IntCounter>,
    label: PhantomData<L>,
}

impl<L: Label> Counters<L> {
    pub fn inc(&self, value: L) {
        self.children[value.index()].inc();
    }

    pub fn inc_by(&self, value: L, count: u64) {
        self.children[value.index()].inc_by(count);
    }

    /// What was counted so far, by the label's value.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        L::ALL.iter().map(|value| (value.as_str(), self.children[value.index()].get()))
    }
}

/// Requests by two labels.
pub struct Requests(Vec<Counters<Status>>);

impl Requests {
    pub fn inc(&self, route: Route, status: u16) {
        self.0[route.index()].inc(Status::from(status));
    }

    /// What one endpoint has answered so far, by status.
    pub fn read(&self, route: Route) -> impl Iterator<Item = (&'static str, u64)> {
        self.0[route.index()].read()
    }
}

/// Every metric that is recorded where it happens.
pub struct Metrics {
    registry: Registry,
    pub requests: Requests,
    pub request_duration: Histogram,
    pub unexpected: Counters<Proof>,
    pub unavailable: Counters<Refusal>,
    pub unknown: IntCounter,
    pub late: Counters<Late>,
    pub voids: Counters<Voider>,
    pub replies_without_waiter: IntCounter,
    pub message_requests: Histogram,
    pub batch_requests: Histogram,
    pub batch_duration: Histogram,
    pub settle_duration: Vec<Histogram>,
    pub settled: Counters<SettledAs>,
    pub commits_in_doubt: IntCounter,
    pub batch_retries: IntCounter,
    pub batch_splits: IntCounter,
    pub redeliveries: IntCounter,
    pub dead_letters: Counters<Cause>,
    /// Dead letters of the deployment that nobody has replayed or dropped.
    pub dead_letters_open: IntGauge,
    pub postgres_connects: IntCounter,
    pub postgres_errors: Counters<Trouble>,
    pub pool_wait: Histogram,
    pub rabbitmq_connects: Counters<Role>,
    pub rabbitmq_connections: Vec<IntGauge>,
    /// What the books were out by at the last audit, in cents.
    pub audit_difference: Gauge,
    /// When the last audit ended, in seconds since 1970; 0 before the first.
    pub audit_timestamp: Gauge,
}

impl Metrics {
    fn new() -> Self {
        let make = Maker { registry: Registry::new() };
        make.gauge_with("earmark_build_info", "What runs here: always 1.", ("version", env!("CARGO_PKG_VERSION")))
            .set(1);
        Self {
            requests: make.requests(),
            request_duration: make.seconds(
                "earmark_request_duration_seconds",
                "From the arrival of POST /payout/create to its answer, for requests that were published.",
                &REQUEST_SECONDS,
            ),
            unexpected: make
                .counters("earmark_unexpected_total", "Answers with 500, by what proves that they never debit."),
            unavailable: make.counters(
                "earmark_unavailable_total",
                "Answers with 503 or, for an API key, 429, by the reason: nothing was published.",
            ),
            unknown: make.counter(
                "earmark_unknown_total",
                "Answers with 504: the only ones that do not say whether funds moved.",
            ),
            late: make.counters(
                "earmark_late_answers_total",
                "Requests whose reply did not come, and that had been decided all the same.",
            ),
            voids: make.counters("earmark_voids_total", "Requests voided, by whom."),
            replies_without_waiter: make
                .counter("earmark_replies_without_waiter_total", "Replies that came when nobody waited any more."),
            message_requests: make.sizes("earmark_message_requests", "Requests packed into a published message."),
            batch_requests: make.sizes("earmark_batch_requests", "Requests settled together."),
            batch_duration: make.seconds(
                "earmark_batch_duration_seconds",
                "From a batch taken to its commit.",
                &SETTLE_SECONDS,
            ),
            settle_duration: make.phases(),
            settled: make.counters("earmark_outcomes_total", "Requests settled by workers, by what was decided."),
            commits_in_doubt: make.counter(
                "earmark_commits_in_doubt_total",
                "Commits whose answer was lost: done again under the same ids.",
            ),
            batch_retries: make.counter(
                "earmark_batch_retries_total",
                "Batches begun again after a passing failure, those in doubt among them.",
            ),
            batch_splits: make.counter(
                "earmark_batch_splits_total",
                "Batches halved, because they took too long or one of their requests cannot be stored.",
            ),
            redeliveries: make.counter("earmark_redeliveries_total", "Messages that came to a worker once more."),
            dead_letters: make.counters("earmark_dead_letters_total", "Dead letters stored, by the reason."),
            dead_letters_open: make.register(IntGauge::new(
                "earmark_dead_letters_open",
                "Dead letters of the whole deployment that wait for a person.",
            )),
            postgres_connects: make.counter("earmark_postgres_connects_total", "Connections opened to Postgres."),
            postgres_errors: make
                .counters("earmark_postgres_errors_total", "What Postgres did not do when it was asked, by kind."),
            pool_wait: make.seconds(
                "earmark_pool_wait_seconds",
                "Wait for one of the connections that reads share.",
                &SETTLE_SECONDS,
            ),
            rabbitmq_connects: make
                .counters("earmark_rabbitmq_connects_total", "Connections opened to RabbitMQ, by what they are for."),
            rabbitmq_connections: make
                .gauges::<Role>("earmark_rabbitmq_connections", "Open connections to RabbitMQ, by what they are for."),
            audit_difference: make
                .gauge("earmark_audit_difference_cents", "What the books were out by at the last audit known here."),
            audit_timestamp: make.gauge(
                "earmark_audit_timestamp_seconds",
                "When the last audit known here ended, since 1970; 0 before the first.",
            ),
            registry: make.registry,
        }
    }

    pub fn observe(&self, phase: Phase, took: Duration) {
        self.settle_duration[phase.index()].observe(took.as_secs_f64());
    }

    /// Counts what a worker committed for one request.
    pub fn settle(&self, what: SettledAs) {
        self.settled.inc(what);
        if let Some(voider) = what.voider() {
            self.voids.inc(voider);
        }
    }

    /// Registers something that is not recorded where it happens, but read when somebody asks.
    pub fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        register(&self.registry, made)
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// Upper bounds in seconds for what a client waits: from one round trip without load to beyond reply and resolve timeout.
const REQUEST_SECONDS: [f64; 22] = [
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0,
    3.0, 5.0, 10.0,
];
/// Upper bounds in seconds for work on the database: from a statement without load to the settle timeout.
const SETTLE_SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0];

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let made = made.expect("a metric is named as it should be");
    registry.register(Box::new(made.clone())).expect("a metric of a new name");
    made
}

/// Makes metrics, and registers them.
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
        let options = HistogramOpts::new("earmark_settle_duration_seconds", "Parts of settling a batch.");
        let options = options.buckets(SETTLE_SECONDS.to_vec());
        let of = |phase: &Phase| {
            self.register(Histogram::with_opts(options.clone().const_label(Phase::NAME, phase.as_str())))
        };
        Phase::ALL.iter().map(of).collect()
    }
}

/// A histogram's upper bounds, in its unit, each with how many observations were at most that large.
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
