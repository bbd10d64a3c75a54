//! The load generator: HTTP/1.1 over persistent connections, with as little work per request as possible. It checks
//! every answer.

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How many payout users all businesses have together. So the tables have the same size under every workload.
const USERS: u64 = 100_000;

/// What is asked for.
#[derive(Clone)]
pub struct Workload {
    /// API keys, one a business.
    pub api_keys: Arc<Vec<String>>,
    /// Each request goes to one of the businesses by these cumulated weights.
    pub weights: Arc<Vec<f64>>,
    /// Every request has an `Idempotency-Key` of its own.
    pub keyed: bool,
    /// This share of the requests asks for the largest amount, which the payout balance does not cover.
    pub insufficient: f64,
    /// How many allocations a bulk call has. `None`: each is posted alone.
    pub bulk: Option<usize>,
    /// Instead of allocating, the clients look up payout users by these hashes, if there are any.
    pub hashes: Arc<Vec<String>>,
}

impl Workload {
    pub fn even(api_keys: Vec<String>) -> Self {
        let weights = (1..=api_keys.len()).map(|rank| rank as f64).collect();
        Self {
            api_keys: Arc::new(api_keys),
            weights: Arc::new(weights),
            keyed: false,
            insufficient: 0.0,
            bulk: None,
            hashes: Arc::default(),
        }
    }

    /// Looks up payout users.
    pub fn look_up(hashes: Vec<String>) -> Self {
        Self { hashes: Arc::new(hashes), ..Self::even(vec![]) }
    }

    /// The k-th business gets 1/k of what the first gets.
    pub fn zipf(self) -> Self {
        let mut sum = 0.0;
        let weights = (1..=self.api_keys.len()).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self { weights: Arc::new(weights.collect()), ..self }
    }
}

/// When the next request is sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As soon as the last one is answered.
    Closed,
    /// This many a second, whatever the answers do. A latency counts from the moment at which its request was due.
    Open(f64),
}

/// The result of a run. Counts are of allocations, posted alone or in bulk, or of look-ups.
pub struct Outcome {
    pub seconds: f64,
    /// Allocated, or found.
    pub allocated: u64,
    /// Refused for the balance.
    pub refused: u64,
    /// 503.
    pub unavailable: u64,
    /// Everything else, broken connections included: there should be none.
    pub other: u64,
    /// Latencies of calls that were answered with 200 and 400, in microseconds.
    pub latency: Histogram<u64>,
    /// Latencies of 503 in microseconds, from when the request was sent.
    pub refusal_latency: Histogram<u64>,
}

impl Outcome {
    fn new(measured: Duration) -> Self {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds");
        Self {
            seconds: measured.as_secs_f64(),
            allocated: 0,
            refused: 0,
            unavailable: 0,
            other: 0,
            latency: histogram(),
            refusal_latency: histogram(),
        }
    }

    pub fn per_second(&self) -> f64 {
        (self.allocated + self.refused) as f64 / self.seconds
    }

    /// Counts the results of a bulk call. A missing result counts as wrong.
    fn count_results(&mut self, answer: &[u8], items: usize) {
        let (allocated, unavailable) = (count(answer, b"\"status\":200,"), count(answer, b"\"status\":503,"));
        self.allocated += allocated;
        self.unavailable += unavailable;
        self.other += (items as u64).saturating_sub(allocated + unavailable);
    }

    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// Loads `address` over `connections` connections. The time of `warm_up` does not count.
pub async fn run(
    address: SocketAddr,
    workload: &Workload,
    connections: usize,
    pace: Pace,
    warm_up: Duration,
    measured: Duration,
) -> Outcome {
    static SEED: AtomicU64 = AtomicU64::new(1);
    // All connections are open before the first request. Thousands at once would overflow the server's queue of new
    // ones.
    let mut streams = vec![];
    for _ in 0..connections {
        streams.push(connect(address).await.ok());
    }
    let begin = Instant::now();
    let from = begin + warm_up;
    let schedule = Schedule { pace, slots: Arc::default(), begin, from, until: from + measured };
    // All connections share one outcome. Thousands of histograms would cost the machine more than what is measured.
    let outcome = Arc::new(Mutex::new(Outcome::new(measured)));
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            let client = Client {
                address,
                schedule: schedule.clone(),
                workload: workload.clone(),
                rng: SmallRng::seed_from_u64(SEED.fetch_add(1, Ordering::Relaxed)),
                body: Vec::with_capacity(128),
                request: Vec::with_capacity(512),
                answer: Vec::with_capacity(1024),
            };
            tokio::spawn(client.run(stream, Arc::clone(&outcome)))
        })
        .collect();
    for task in tasks {
        task.await.expect("a client");
    }
    Arc::into_inner(outcome).and_then(|outcome| outcome.into_inner().ok()).expect("all clients have ended")
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// When to send, and which answers count.
#[derive(Clone)]
struct Schedule {
    pace: Pace,
    slots: Arc<AtomicU64>,
    begin: Instant,
    from: Instant,
    until: Instant,
}

impl Schedule {
    /// Waits for the next request's time, and says when that was; `None` when the run is over.
    async fn next(&self) -> Option<Instant> {
        let due = match self.pace {
            Pace::Closed => Instant::now(),
            Pace::Open(rate) => {
                let slot = self.slots.fetch_add(1, Ordering::Relaxed);
                let due = self.begin + Duration::from_secs_f64(slot as f64 / rate);
                tokio::time::sleep_until(due).await;
                due
            }
        };
        (due < self.until).then_some(due)
    }
}

struct Client {
    schedule: Schedule,
    address: SocketAddr,
    workload: Workload,
    rng: SmallRng,
    body: Vec<u8>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    async fn run(mut self, mut stream: Option<TcpStream>, outcome: Arc<Mutex<Outcome>>) {
        while let Some(due) = self.schedule.next().await {
            self.write_request();
            let sent = Instant::now();
            let status = match self.exchange(&mut stream).await {
                Ok(status) => status,
                Err(_) => {
                    stream = None;
                    0
                }
            };
            let now = Instant::now();
            if (self.schedule.from..self.schedule.until).contains(&now) {
                self.note(&mut outcome.lock().expect("no client has panicked"), status, now - due, now - sent);
            }
        }
    }

    /// A refusal counts from when its request was sent: under overload the clients are late themselves.
    fn note(&self, outcome: &mut Outcome, status: u16, since_due: Duration, since_sent: Duration) {
        let items = self.workload.bulk.unwrap_or(1);
        match status {
            200 if self.workload.bulk.is_some() => outcome.count_results(&self.answer, items),
            200 if !self.workload.hashes.is_empty() || self.has_hash() => outcome.allocated += 1,
            400 if self.workload.insufficient > 0.0 => outcome.refused += 1,
            503 => {
                outcome.unavailable += items as u64;
                outcome.refusal_latency.saturating_record(since_sent.as_micros() as u64);
                return;
            }
            _ => {
                outcome.other += items as u64;
                return;
            }
        }
        outcome.latency.saturating_record(since_due.as_micros() as u64);
    }

    /// Whether the answer's body is `{"hash":"<64 hexadecimal digits>"}`.
    fn has_hash(&self) -> bool {
        let body = self.answer.strip_suffix(b"\"}").and_then(|answer| answer.split_last_chunk::<64>());
        body.is_some_and(|(before, hash)| before.ends_with(b"{\"hash\":\"") && hash.iter().all(u8::is_ascii_hexdigit))
    }

    fn write_request(&mut self) {
        use std::io::Write;
        if let Some(hash) = self.workload.hashes.choose(&mut self.rng) {
            self.request.clear();
            let _ = write!(self.request, "GET /payout/user HTTP/1.1\r\nHost: bench\r\nX-Payout-Hash: {hash}\r\n\r\n");
            return;
        }
        self.write_body();
        let Self { workload, rng, request, body, .. } = self;
        let last = workload.weights.last().copied().unwrap_or(1.0);
        let point = rng.random_range(0.0..last);
        let business = workload.weights.partition_point(|&weight| weight <= point);
        let path = if workload.bulk.is_some() { "/payout/create/bulk" } else { "/payout/create" };
        request.clear();
        let _ = write!(
            request,
            "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
            workload.api_keys[business]
        );
        if workload.keyed {
            let _ = write!(request, "Idempotency-Key: {:032x}\r\n", rng.random::<u128>());
        }
        let _ = write!(request, "Content-Length: {}\r\n\r\n", body.len());
        request.extend_from_slice(body);
    }

    fn write_body(&mut self) {
        self.body.clear();
        let Some(items) = self.workload.bulk else { return self.write_allocation() };
        self.body.extend_from_slice(b"{\"allocations\":[");
        for item in 0..items {
            if item > 0 {
                self.body.push(b',');
            }
            self.write_allocation();
        }
        self.body.extend_from_slice(b"]}");
    }

    fn write_allocation(&mut self) {
        use std::io::Write;
        let Self { workload, rng, body, .. } = self;
        let amount = if rng.random_bool(workload.insufficient) { 100_000_000 } else { rng.random_range(1..100) };
        let user = rng.random_range(0..USERS / workload.api_keys.len() as u64);
        let _ = write!(body, r#"{{"email":"user{user}@example.com","amount":{amount}}}"#);
    }

    async fn exchange(&mut self, stream: &mut Option<TcpStream>) -> std::io::Result<u16> {
        let stream = match stream {
            Some(stream) => stream,
            None => stream.insert(connect(self.address).await?),
        };
        stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            if stream.read_buf(&mut self.answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(status) = complete(&self.answer) {
                return Ok(status);
            }
        }
    }
}

/// How often `text` stands in an answer.
fn count(answer: &[u8], text: &[u8]) -> u64 {
    answer.windows(text.len()).filter(|window| *window == text).count() as u64
}

/// The status of a whole answer; `None` while something is missing.
fn complete(answer: &[u8]) -> Option<u16> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    let status = head.get(9..12)?.parse().ok()?;
    (answer.len() >= end + length.parse::<usize>().ok()?).then_some(status)
}
