//! The clients: one fresh payout user for each operation.

use super::history::{Attempt, Operation};
use crate::harness::http::{Answer, Client};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the clients share.
pub struct Load {
    pub client: Client,
    /// Where the intakes are now; a restarted one has another address.
    pub urls: RwLock<Vec<String>>,
    pub start: Instant,
    pub stop: CancellationToken,
}

/// How a client behaves.
#[derive(Clone, Copy)]
pub struct Habits {
    /// Share of operations that have an `Idempotency-Key`.
    pub keyed: f64,
    /// Share of attempts that the client breaks off.
    pub hang_up: f64,
    /// Longest pause between two operations.
    pub pause: Duration,
    /// Stops after so many operations.
    pub operations: usize,
}

impl Load {
    pub fn new(client: Client, urls: Vec<String>) -> Arc<Self> {
        Arc::new(Self { client, urls: RwLock::new(urls), start: Instant::now(), stop: CancellationToken::new() })
    }

    /// Runs some clients until they have done their share or are stopped; answers what they were told.
    pub async fn run(self: &Arc<Self>, name: &str, seed: u64, clients: u64, habits: Habits) -> Vec<Operation> {
        let running: Vec<_> = (0..clients)
            .map(|number| {
                let (load, name) = (Arc::clone(self), format!("{name}-{number}"));
                let rng = StdRng::seed_from_u64(seed ^ (number << 32));
                tokio::spawn(async move { load.client_loop(&name, rng, habits).await })
            })
            .collect();
        let mut operations = vec![];
        for client in running {
            operations.extend(client.await.expect("a client"));
        }
        operations
    }

    async fn client_loop(&self, name: &str, mut rng: StdRng, habits: Habits) -> Vec<Operation> {
        let mut operations = vec![];
        while operations.len() < habits.operations && !self.stop.is_cancelled() {
            let email = format!("{name}-{}@example.com", operations.len());
            let key = rng.random_bool(habits.keyed).then(|| format!("key-{email}"));
            let mut operation = Operation { email, amount: rng.random_range(1..100), key, attempts: vec![] };
            self.pursue(&mut operation, &mut rng, habits).await;
            operations.push(operation);
            tokio::time::sleep(pause(&mut rng, habits.pause)).await;
        }
        operations
    }

    /// One attempt; with a key as many as it takes, up to six, unless the client gives up after a 500.
    async fn pursue(&self, operation: &mut Operation, rng: &mut StdRng, habits: Habits) {
        loop {
            let patience = rng.random_bool(habits.hang_up).then(|| pause(rng, Duration::from_millis(1_200)));
            let attempt = self.attempt(operation, rng, patience).await;
            let status = attempt.status;
            operation.attempts.push(attempt);
            let is_over = match status {
                Some(200 | 400) => true,
                Some(500) => rng.random_bool(0.3),
                Some(_) | None => false,
            };
            if operation.key.is_none() || is_over || operation.attempts.len() == 6 {
                return;
            }
            tokio::time::sleep(pause(rng, Duration::from_millis(400))).await;
        }
    }

    /// `patience`: when the client hangs up, if it does.
    async fn attempt(&self, operation: &Operation, rng: &mut StdRng, patience: Option<Duration>) -> Attempt {
        let url = {
            let urls = self.urls.read().expect("the addresses");
            urls[rng.random_range(0..urls.len())].clone()
        };
        let mut request = self.client.at(url).create_request(&operation.email, operation.amount);
        if let Some(key) = &operation.key {
            request = request.header("Idempotency-Key", key);
        }
        let sent = self.start.elapsed().as_millis();
        let waiting = tokio::time::timeout(patience.unwrap_or(Duration::from_secs(60)), Client::send(request));
        let answer: Option<Answer> = waiting.await.ok().and_then(Result::ok);
        let text = |name: &str| answer.as_ref().and_then(|answer| answer.header(name)).map(str::to_owned);
        Attempt {
            sent,
            ended: self.start.elapsed().as_millis(),
            status: answer.as_ref().map(|answer| answer.status),
            debited: text("earmark-debited"),
            request_id: text("x-request-id"),
        }
    }
}

fn pause(rng: &mut impl Rng, longest: Duration) -> Duration {
    longest.mul_f64(rng.random_range(0.0..1.0))
}
