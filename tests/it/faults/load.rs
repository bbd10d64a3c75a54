//! The clients of a campaign. Each allocation has a new payout user. The money of some goes on: it is taken back, settled, or
//! both at once, and some of what was settled is taken back too.
//!
//! With a key, each attempt is HTTP written by hand over its own connection, so that the client knows when the intake
//! received it. Some clients vanish unnoticed, retry at another intake, or make two attempts at once.

use super::told::{Asked, Attempt, Operation};
use crate::harness::http::{Answer, Client};
use crate::harness::raw::{Line, Vanishing, Written};
use earmark::clock;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom, SliceRandom};
use rand::{Rng, RngExt, SeedableRng};
use reqwest::RequestBuilder;
use serde_json::json;
use std::io;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a client waits for `100 Continue` before it sends its body anyway.
const CONTINUE: Duration = Duration::from_millis(500);
/// How long a client waits for an answer if it does not vanish.
const PATIENT: Duration = Duration::from_secs(60);

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
    /// Share of attempts under a key whose client vanishes unnoticed by the intake.
    pub vanish: f64,
    /// Share of tries under a key that are two attempts at once.
    pub hedge: f64,
    /// Share of allocations whose money goes on.
    pub onward: f64,
    /// Longest pause between two operations.
    pub pause: Duration,
    /// The client stops after this many operations.
    pub operations: usize,
}

/// One attempt to be made.
pub struct Plan {
    /// The intake.
    pub url: String,
    /// How long after the start of the try this attempt is made.
    pub after: Duration,
    /// When and how the client vanishes, if it does.
    pub vanishing: Option<(Duration, Vanishing)>,
}

impl Load {
    pub fn new(client: Client, urls: Vec<String>) -> Arc<Self> {
        Arc::new(Self { client, urls: RwLock::new(urls), start: Instant::now(), stop: CancellationToken::new() })
    }

    /// Runs clients until each has done its operations or is stopped. Returns what they were told.
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
            let amount = rng.random_range(1..100);
            let mut operation =
                Operation { name: email.clone(), asked: Asked::Allocate, email, amount, key, attempts: vec![] };
            self.pursue(&mut operation, &mut rng, habits).await;
            let more = if rng.random_bool(habits.onward) { onward(&operation, &mut rng) } else { vec![] };
            operations.push(operation);
            operations.extend(self.pursue_at_once(more, &mut rng, habits).await);
            tokio::time::sleep(pause(&mut rng, habits.pause)).await;
        }
        operations
    }

    /// Pursues operations on the same money, all at once. Some of what was settled is then taken back.
    async fn pursue_at_once(&self, planned: Vec<Operation>, rng: &mut StdRng, habits: Habits) -> Vec<Operation> {
        let pursuing = planned.into_iter().map(|mut operation| {
            let mut rng = StdRng::seed_from_u64(rng.random());
            async move {
                self.pursue(&mut operation, &mut rng, habits).await;
                let mut done = vec![operation];
                if done[0].asked == Asked::Settle
                    && rng.random_bool(0.3)
                    && let Some(settled) = request_of(&done[0])
                {
                    let mut back = follow_up(&done[0], "back", Asked::ReverseAll(settled), done[0].amount);
                    self.pursue(&mut back, &mut rng, habits).await;
                    done.push(back);
                }
                done
            }
        });
        join_all(pursuing).await.into_iter().flatten().collect()
    }

    /// Makes one attempt. With a key it tries again until the outcome is known, about six times at most. After a 500
    /// some clients give up.
    async fn pursue(&self, operation: &mut Operation, rng: &mut StdRng, habits: Habits) {
        loop {
            let plans = self.plan(operation, rng, habits);
            let told = join_all(plans.into_iter().map(|plan| self.attempt(operation, plan))).await;
            let is_told = |status| told.iter().any(|attempt| attempt.status == Some(status));
            let is_over = is_told(200) || is_told(400) || is_told(500) && rng.random_bool(0.3);
            operation.attempts.extend(told);
            if operation.key.is_none() || is_over || operation.attempts.len() >= 6 {
                return;
            }
            tokio::time::sleep(pause(rng, Duration::from_millis(400))).await;
        }
    }

    /// Plans the next try, at another intake. Some tries are two attempts at once.
    fn plan(&self, operation: &Operation, rng: &mut StdRng, habits: Habits) -> Vec<Plan> {
        let is_keyed = operation.key.is_some();
        let count = if is_keyed && rng.random_bool(habits.hedge) { 2 } else { 1 };
        let mut last = operation.attempts.last().map(|attempt| attempt.intake.clone());
        let mut plans = vec![];
        for number in 0..count {
            let url = self.elsewhere(last.as_deref(), rng);
            let after = if number == 0 { Duration::ZERO } else { pause(rng, Duration::from_millis(300)) };
            let how = match rng.random_range(0.0..1.0) {
                share if share < habits.hang_up => Some(Vanishing::HangUp),
                share if is_keyed && share < habits.hang_up + habits.vanish => Vanishing::UNSEEN.choose(rng).copied(),
                _ => None,
            };
            let vanishing = how.map(|how| (pause(rng, Duration::from_millis(1_200)), how));
            last = Some(url.clone());
            plans.push(Plan { url, after, vanishing });
        }
        plans
    }

    /// An intake other than `last`, if there is one.
    fn elsewhere(&self, last: Option<&str>, rng: &mut StdRng) -> String {
        let urls = self.urls.read().expect("the addresses");
        let others = urls.iter().filter(|url| Some(url.as_str()) != last);
        others.choose(rng).unwrap_or(&urls[0]).clone()
    }

    pub async fn attempt(&self, operation: &Operation, plan: Plan) -> Attempt {
        tokio::time::sleep(plan.after).await;
        let request = request(&self.client.at(plan.url.clone()), operation);
        let mut attempt = Attempt {
            intake: plan.url,
            sent: clock::now_millis(),
            vanished: plan.vanishing.map(|(_, how)| how),
            ..Attempt::default()
        };
        let answer = match &operation.key {
            Some(key) => {
                let is_settlement = operation.asked == Asked::Settle;
                let request = if is_settlement { request } else { request.header("Idempotency-Key", key) };
                let request = Written::new(request);
                by_hand(&request, plan.vanishing, &mut attempt.received).await.ok().flatten()
            }
            None => plainly(request, plan.vanishing).await,
        };
        attempt.ended = clock::now_millis();
        if let Some(answer) = answer {
            let text = |name: &str| answer.header(name).map(str::to_owned);
            attempt.status = Some(answer.status);
            attempt.moved = text("earmark-moved");
            // A create says the same in two headers.
            if operation.asked == Asked::Allocate && text("earmark-debited") != attempt.moved {
                attempt.moved = Some("contradicts Earmark-Debited".to_owned());
            }
            attempt.request_id = text("x-request-id");
            attempt.replayed = answer.header("idempotent-replayed").is_some();
            attempt.vanished = None;
        }
        attempt
    }
}

/// The HTTP request of an operation, without its key.
fn request(client: &Client, operation: &Operation) -> RequestBuilder {
    let Operation { name, email, amount, .. } = operation;
    match &operation.asked {
        Asked::Allocate => client.create_request(email, *amount),
        Asked::Settle => client.settle_request(email, *amount, name),
        Asked::Reverse(target) => client.reverse_request(target, &json!({"amount": amount, "reference": name})),
        Asked::ReverseAll(target) => client.reverse_request(target, &json!({"reference": name})),
    }
}

/// The request that moved the money of an operation, if its client knows.
fn request_of(operation: &Operation) -> Option<String> {
    let paid = operation.attempts.iter().find(|attempt| attempt.is_paid() && !attempt.replayed)?;
    paid.request_id.clone()
}

/// What a client wants with the money of an allocation, or with the voided request that never allocated it.
fn onward(allocation: &Operation, rng: &mut StdRng) -> Vec<Operation> {
    let Operation { amount, attempts, .. } = allocation;
    let Some(target) = request_of(allocation) else {
        let denied = attempts.iter().filter(|attempt| attempt.status == Some(500));
        let voided = denied.filter_map(|attempt| attempt.request_id.clone()).next_back();
        return voided.map(|id| follow_up(allocation, "void", Asked::ReverseAll(id), *amount)).into_iter().collect();
    };
    let part = Asked::Reverse(target.clone());
    let mut wanted = vec![
        follow_up(allocation, "settle", Asked::Settle, rng.random_range(1..=*amount)),
        follow_up(allocation, "part", part.clone(), rng.random_range(1..=*amount)),
        follow_up(allocation, "part-2", part, rng.random_range(1..=*amount)),
        follow_up(allocation, "all", Asked::ReverseAll(target), *amount),
    ];
    wanted.shuffle(rng);
    wanted.truncate(rng.random_range(1..=3));
    wanted
}

fn follow_up(first: &Operation, what: &str, asked: Asked, amount: i64) -> Operation {
    let name = format!("{what}-{}", first.name);
    let is_keyed = !matches!(asked, Asked::ReverseAll(_));
    Operation { asked, email: first.email.clone(), amount, key: is_keyed.then(|| name.clone()), name, attempts: vec![] }
}

/// Sends the request over a connection from the pool. A client that vanishes closes it.
async fn plainly(request: RequestBuilder, vanishing: Option<(Duration, Vanishing)>) -> Option<Answer> {
    let patience = vanishing.map_or(PATIENT, |(patience, _)| patience);
    tokio::time::timeout(patience, Client::send(request)).await.ok()?.ok()
}

/// Sends the request over a connection of its own. Returns no answer if the client vanishes first. Its connection may
/// then stay open in the background.
async fn by_hand(
    request: &Written,
    vanishing: Option<(Duration, Vanishing)>,
    received: &mut Option<i64>,
) -> io::Result<Option<Answer>> {
    let mut line = Line::open(request, vanishing.map(|(_, how)| how)).await?;
    let patience = vanishing.map_or(PATIENT, |(patience, _)| patience);
    let talking = async {
        line.announce(request, CONTINUE).await?;
        // This fails if the intake has answered and closed already. The answer is read anyway.
        let _ = line.say_body(request).await;
        tokio::time::timeout(patience, line.hear()).await.ok().transpose()
    };
    let told = talking.await;
    *received = line.received;
    if let (Ok(None), Some((_, how))) = (&told, vanishing)
        && let Some(left) = line.vanish(how).await
    {
        tokio::spawn(left.linger());
    }
    told
}

fn pause(rng: &mut impl Rng, longest: Duration) -> Duration {
    longest.mul_f64(rng.random_range(0.0..1.0))
}
