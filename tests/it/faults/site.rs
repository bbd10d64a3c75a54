//! A deployment in which every connection between the programs and the servers runs through a proxy of the tests.

use super::told::{Asked, Ledger, Operation, Row, violations};
use crate::harness::process::Process;
use crate::harness::proxy::{Protocol, Proxy};
use crate::harness::servers::Servers;
use crate::harness::{App, Business, SECRET, authority, eventually};
use earmark::ledger::{BusinessId, RequestId};
use earmark::secret::HashSecret;
use std::net::SocketAddr;
use uuid::Uuid;

/// The timeouts are short enough for many faults a minute, and long enough for a busy machine to answer in.
const BUDGETS: [(&str, &str); 4] = [
    ("EARMARK_REPLY_TIMEOUT", "1s"),
    ("EARMARK_SETTLE_TIMEOUT", "1s"),
    ("EARMARK_RESOLVE_TIMEOUT", "2s"),
    ("EARMARK_SHUTDOWN_GRACE", "8s"),
];

/// What a 400 stands for that these clients cause.
const REFUSALS: [&str; 4] = ["insufficient_balance", "insufficient_user_balance", "amount_too_large", "not_reversible"];

/// Which of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Intake,
    Worker,
}

/// A way from one of the programs to one of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way(pub Role, pub Protocol);

impl Way {
    pub const ALL: [Self; 4] = [
        Self(Role::Intake, Protocol::Postgres),
        Self(Role::Intake, Protocol::Amqp),
        Self(Role::Worker, Protocol::Postgres),
        Self(Role::Worker, Protocol::Amqp),
    ];
}

/// A row of the ledger.
#[derive(sqlx::FromRow)]
struct Stored {
    request_id: Uuid,
    email: Option<String>,
    outcome: String,
    /// In milliseconds.
    decided_at: i64,
    /// The name of the operation.
    name: Option<String>,
    /// In cents; `None` if it moved nothing.
    moved: Option<i64>,
}

pub struct Site {
    pub app: App,
    pub business: Business,
    proxies: Vec<(Way, Proxy)>,
}

impl Site {
    /// A deployment that reaches its servers without proxies. Only its clients are judged.
    pub async fn without_proxies(servers: Servers) -> Self {
        let app = App::on(servers).await;
        let business = app.create_business(1_000_000_000);
        Self { app, business, proxies: vec![] }
    }

    pub async fn new(servers: Servers) -> Self {
        let Self { app, business, mut proxies } = Self::without_proxies(servers).await;
        for way in Way::ALL {
            let url = if way.1 == Protocol::Postgres { &app.database_url } else { &app.amqp_url };
            let upstream: SocketAddr = authority(url).parse().expect("an address in the URL");
            proxies.push((way, Proxy::start(way.1, upstream).await.expect("a proxy")));
        }
        Self { app, business, proxies }
    }

    pub fn proxy(&self, way: Way) -> &Proxy {
        self.proxies.iter().find(|(of, _)| *of == way).map(|(_, proxy)| proxy).expect("every way has one")
    }

    /// Makes another Postgres the one behind the proxies, and cuts the connections to the last one.
    pub fn lead_to(&mut self, server_url: &str) {
        let upstream = authority(server_url).to_owned();
        for role in [Role::Intake, Role::Worker] {
            let proxy = self.proxy(Way(role, Protocol::Postgres));
            proxy.lead_to(upstream.parse().expect("an address in the URL"));
            proxy.reset_all();
        }
        self.app.database_url = self.app.database_url.replace(authority(&self.app.database_url), &upstream);
    }

    fn through(&self, way: Way) -> String {
        let url = if way.1 == Protocol::Postgres { &self.app.database_url } else { &self.app.amqp_url };
        url.replace(authority(url), &self.proxy(way).address().to_string())
    }

    /// Starts a program behind the proxies. `failpoint` arms a failpoint.
    pub fn spawn(&self, role: Role, failpoint: Option<&str>) -> Process {
        self.spawn_with(role, failpoint, &[])
    }

    /// The same, with more settings.
    pub fn spawn_with(&self, role: Role, failpoint: Option<&str>, more: &[(&'static str, &str)]) -> Process {
        let database_url = self.through(Way(role, Protocol::Postgres));
        let amqp_url = self.through(Way(role, Protocol::Amqp));
        let mut settings = vec![("DATABASE_URL", database_url.as_str()), ("AMQP_URL", amqp_url.as_str())];
        settings.extend(BUDGETS);
        settings.extend(more);
        settings.extend(failpoint.map(|failpoint| ("EARMARK_FAILPOINT", failpoint)));
        self.app.spawn(if role == Role::Intake { "intake" } else { "worker" }, &settings)
    }

    /// Reads the ledger.
    pub async fn ledger(&self) -> Ledger {
        let mut database = self.app.database().await;
        let rows: Vec<Stored> = sqlx::query_as(
            "SELECT request_id, email, outcome, floor(extract(epoch FROM decided_at) * 1000)::bigint AS decided_at,
                    COALESCE(reference, email) AS name, CASE WHEN seq IS NOT NULL THEN amount END AS moved
             FROM allocations",
        )
        .fetch_all(&mut database)
        .await
        .expect("rows");
        let mut ledger = Ledger::default();
        for Stored { request_id, email, outcome, decided_at, name, moved } in rows {
            if let (Some(name), Some(cents)) = (name, moved) {
                ledger.moved.entry(name).or_default().push(cents);
            }
            ledger.rows.insert(request_id.to_string(), Row { email, outcome, decided_at });
        }
        ledger
    }

    /// Runs a worker until it has settled all that waits and has stored every dead letter. No faults occur meanwhile.
    async fn drain(&self) {
        let business = self.app.create_business(1);
        loop {
            let process = self.app.start("serve").await;
            let client = self.app.client(&process, &business);
            self.app.until_queue_holds(&self.app.work_queue(), 0).await;
            // The worker settles messages in order. When this one is refused, all before it are settled.
            eventually("the queue is settled", async || client.create("probe@example.com", 2).await.status == 400)
                .await;
            self.app.until_queue_holds(&self.app.dead_letter_queue(), 0).await;
            process.terminate().await;
            assert_eq!(self.app.ready_messages(&self.app.work_queue()).await, 0, "A8: the work queue is empty");
            // A dead letter that a worker had not acknowledged at the end is in its queue again.
            if self.app.ready_messages(&self.app.dead_letter_queue()).await == 0 {
                return;
            }
        }
    }

    /// Puts every dead letter back into the work queue, and returns their number.
    fn replay_dead_letters(&self) -> usize {
        let replayed = self.app.run(&["dead-letters", "replay", "--all", "--json"]).expect_success().json();
        replayed["replayed"].as_array().expect("a list").len()
    }

    /// Checks every rule when nothing runs any more: at once, after the queue is drained, and after every dead letter
    /// is replayed. Returns the number of dead letters.
    pub async fn verify(&self, operations: &[Operation]) -> usize {
        self.assert_kept(operations, "at once").await;
        self.drain().await;
        self.assert_kept(operations, "after the queue drained").await;
        let dead_letters = self.replay_dead_letters();
        if dead_letters > 0 {
            self.drain().await;
            self.assert_kept(operations, "after every dead letter was replayed").await;
        }
        self.assert_decided(operations).await;
        dead_letters
    }

    async fn assert_kept(&self, operations: &[Operation], when: &str) {
        let found = violations(operations, &self.ledger().await);
        assert!(found.is_empty(), "{when}: {} violations:\n{}", found.len(), found.join("\n"));
        self.app.assert_clean_audit();
    }

    /// A8: checks that every request whose id a client was told is decided as the client was told. After a 504 it asks
    /// the service, as the contract says.
    async fn assert_decided(&self, operations: &[Operation]) {
        self.ask_after_unknowns(operations).await;
        let secret: HashSecret = SECRET.parse().expect("a secret");
        let business = BusinessId::from_u128(Uuid::parse_str(&self.business.id).expect("an id").as_u128());
        let ledger = self.ledger().await;
        for operation in operations {
            for attempt in &operation.attempts {
                let (Some(text), Some(status @ (200 | 400 | 500 | 503 | 504))) = (&attempt.request_id, attempt.status)
                else {
                    continue;
                };
                let row = ledger.rows.get(text);
                if status == 503 && row.is_none() {
                    // The request was refused before the service gave it an id.
                    continue;
                }
                let id = Uuid::parse_str(text).expect("an id");
                assert!(secret.issued(business, RequestId::from_u128(id.as_u128())), "{operation:?}");
                let outcome = row.unwrap_or_else(|| panic!("undecided: {id} of {operation:?}")).outcome.as_str();
                let applied: &[&str] = match operation.asked {
                    Asked::Allocate => &["allocated"],
                    Asked::Reverse(_) | Asked::ReverseAll(_) => &["reversed", "settlement_reversed"],
                    Asked::Settle => &["settled"],
                };
                let fits = match status {
                    200 if attempt.is_paid() => applied.contains(&outcome),
                    200 => outcome == "nothing_left",
                    400 => REFUSALS.contains(&outcome),
                    500 | 503 => outcome == "voided",
                    _ => true,
                };
                assert!(fits, "{status} but {outcome}: {operation:?}");
                let moved = ledger.moved(&operation.name);
                let is_once = matches!(moved, [cents] if operation.fits(*cents));
                assert!(!applied.contains(&outcome) || is_once, "{outcome} but moved {moved:?}: {operation:?}");
            }
        }
    }

    /// Looks up every request that was answered 504, and checks that the answer is final.
    async fn ask_after_unknowns(&self, operations: &[Operation]) {
        let process = self.app.start("intake").await;
        let client = self.app.client(&process, &self.business);
        let attempts = operations.iter().flat_map(|operation| &operation.attempts);
        for attempt in attempts.filter(|attempt| attempt.status == Some(504)) {
            let id = attempt.request_id.as_ref().expect("an id");
            let shown = client.get(&format!("/payout/requests/{id}")).await.json();
            assert!(shown["state"].is_string() && shown["state"] != "pending", "{shown}");
        }
        process.terminate().await;
    }
}
