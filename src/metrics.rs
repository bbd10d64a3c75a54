//! Every metric: its name, its unit, its labels. One atomic add where something happens; what can be read when somebody
//! asks (depths, ages, connections) is set by [`crate::ops`] then.
//!
//! All labels are closed lists, so every series is there from the start, as zero: a rate over one that appears with its
//! first event would miss that event. None carries an address, a key or a business.

use crate::ledger::{Cause, Verdict};
use prometheus::core::{Collector, Metric};
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder};
use std::marker::PhantomData;
use std::sync::LazyLock;
use std::time::Duration;

/// All metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// A closed list of values of one label.
pub trait Label: Copy + 'static {
    /// The label.
    const NAME: &'static str;
    const ALL: &'static [Self];
    fn as_str(self) -> &'static str;
    /// Its place in [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$about:meta])* $name:ident: $label:literal { $($(#[$what:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$what])* $variant,)+ }

        impl Label for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// The endpoints of an intake.
    Route: "route" {
        Create = "/payout/create",
        CreateBulk = "/payout/create/bulk",
        Balance = "/balance",
        PayoutUser = "/payout/user",
        Requests = "/payout/requests",
        RequestById = "/payout/requests/{request_id}",
        Other = "other",
    }
}

label! {
    /// The statuses that an intake answers with.
    Status: "status" {
        Ok = "200",
        BadRequest = "400",
        Unauthorized = "401",
        Forbidden = "403",
        NotFound = "404",
        MethodNotAllowed = "405",
        Timeout = "408",
        TooLarge = "413",
        MediaType = "415",
        Unprocessable = "422",
        TooMany = "429",
        Unexpected = "500",
        Unavailable = "503",
        Unknown = "504",
        Other = "other",
    }
}

impl Status {
    pub fn of(code: u16) -> Self {
        match code {
            200 => Self::Ok,
            400 => Self::BadRequest,
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::Timeout,
            413 => Self::TooLarge,
            415 => Self::MediaType,
            422 => Self::Unprocessable,
            429 => Self::TooMany,
            500 => Self::Unexpected,
            503 => Self::Unavailable,
            504 => Self::Unknown,
            _ => Self::Other,
        }
    }
}

label! {
    /// What proves that a request which is answered with 500 never debits.
    Proof: "proof" {
        /// Its row was inserted as voided by the intake that gave up on it.
        Inserted = "inserted",
        /// Its row was there, and said voided: a worker, or a look-up, was first.
        Found = "found",
        /// Its row says voided, and its key's epoch was raised in the same transaction.
        KeyRaised = "key_raised",
        /// The row under its id is another request's, so that no worker can ever insert one for it.
        ForeignId = "foreign_id",
    }
}

label! {
    /// Why a request was refused with 503, or for its API key's sake with 429: before anything was published, but for the
    /// last.
    Refusal: "reason" {
        Draining = "draining",
        PostgresDown = "postgres_down",
        /// A read, or the look-up of an API key, that Postgres did not answer in time; nobody else is concerned.
        PostgresSlow = "postgres_slow",
        RabbitDown = "rabbitmq_down",
        /// A memory or disk alarm of the broker, or a connection that was just lost.
        RabbitBlocked = "rabbitmq_blocked",
        TooManyInFlight = "too_many_in_flight",
        /// Beyond EARMARK_MAX_BULK_CALLS.
        TooManyBulkCalls = "too_many_bulk_calls",
        /// 429: beyond EARMARK_RATE_LIMIT.
        KeyRate = "key_rate",
        /// 429: beyond EARMARK_MAX_IN_FLIGHT_PER_KEY.
        KeyInFlight = "key_in_flight",
        /// 429: beyond EARMARK_MAX_READS_PER_KEY.
        KeyReads = "key_reads",
        /// Its work ended by a panic before anything was published.
        Died = "died",
        /// It was published, and voided: a 500 was told under its key after it was received.
        Superseded = "superseded",
    }
}

label! {
    /// What a request that its intake had given up on turned out to be, if not voided.
    Late: "outcome" {
        Allocated = "allocated",
        Replayed = "replayed",
        KeyReused = "key_reused",
        PayoutsDisabled = "payouts_disabled",
        InsufficientBalance = "insufficient_balance",
    }
}

label! {
    /// Who voided a request.
    Voider: "by" {
        /// An intake that waited in vain.
        Intake = "intake",
        /// Somebody who asked what became of it, after its deadline.
        Lookup = "lookup",
        /// A worker that took it after its deadline.
        WorkerDeadline = "worker_deadline",
        /// A worker, because its key had moved on, or had an allocation already.
        WorkerKey = "worker_key",
        /// A worker that could not apply it at all.
        WorkerRejected = "worker_rejected",
    }
}

label! {
    /// What workers decided.
    Settled: "outcome" {
        Allocated = "allocated",
        InsufficientBalance = "insufficient_balance",
        PayoutsDisabled = "payouts_disabled",
        Voided = "voided",
        Replayed = "replayed",
        KeyReused = "key_reused",
        StaleEpoch = "stale_epoch",
        /// It can never be applied.
        Rejected = "rejected",
        /// It had been decided before it came: what its row says was told again.
        DecidedBefore = "decided_before",
    }
}

impl Settled {
    pub fn of(verdict: Verdict) -> Self {
        use crate::ledger::Outcome;
        match verdict {
            Verdict::Decided(Outcome::Allocated) => Self::Allocated,
            Verdict::Decided(Outcome::InsufficientBalance) => Self::InsufficientBalance,
            Verdict::Decided(Outcome::PayoutsDisabled) => Self::PayoutsDisabled,
            Verdict::Decided(Outcome::Voided) => Self::Voided,
            Verdict::Replayed { .. } => Self::Replayed,
            Verdict::KeyReused => Self::KeyReused,
            Verdict::StaleEpoch { .. } => Self::StaleEpoch,
        }
    }

    /// Who voided the request, if that was what happened to its row.
    fn voider(self) -> Option<Voider> {
        match self {
            Self::Voided => Some(Voider::WorkerDeadline),
            Self::Replayed | Self::KeyReused | Self::StaleEpoch => Some(Voider::WorkerKey),
            Self::Allocated
            | Self::InsufficientBalance
            | Self::PayoutsDisabled
            | Self::Rejected
            | Self::DecidedBefore => None,
        }
    }
}

label! {
    /// The parts of settling a batch that take time.
    Phase: "phase" {
        /// Everything in one statement.
        AtOnce = "at_once",
        /// Step by step: the transaction opened, businesses and keys locked and read.
        Lock = "lock",
        /// Step by step: everything written.
        Write = "write",
        /// Step by step: committed.
        Commit = "commit",
        /// Replies sent, and the batch acknowledged.
        Reply = "reply",
    }
}

/// Why a message ended as a dead letter.
impl Label for Cause {
    const NAME: &'static str = "reason";
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }

    fn index(self) -> usize {
        self as usize
    }
}

label! {
    /// What Postgres answers to what it does not do.
    Trouble: "kind" {
        /// There is no connection.
        Away = "away",
        ReadOnly = "read_only",
        /// Its disk is full.
        Full = "full",
        /// A deadlock, a crash of a part of it, and what else passes by itself.
        Transient = "transient",
        /// It gave up on a lock or a statement.
        TooSlow = "too_slow",
        /// It does not do this, whatever the data.
        Refused = "refused",
        /// The answer was lost.
        Unknown = "unknown",
        /// The data cannot be stored.
        Data = "data",
        /// What is stored does not fit this program.
        Fatal = "fatal",
    }
}

label! {
    /// What a connection to the broker is for.
    Role: "connection" {
        IntakeReplies = "intake_replies",
        IntakeRequests = "intake_requests",
        WorkerRequests = "worker_requests",
        WorkerReplies = "worker_replies",
        /// Looks at the depth of queues.
        Watch = "watch",
        /// Does what a person has asked for.
        Command = "command",
    }
}

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
        self.0[route.index()].inc(Status::of(status));
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
    pub settled: Counters<Settled>,
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
    pub fn settle(&self, what: Settled) {
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
        metrics.settle(Settled::of(Verdict::StaleEpoch { current: 3, raise: None }));
        metrics.settle(Settled::Rejected);
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
