//! The contenders that Earmark is compared with. They decide the same HTTP requests in other ways, each as a process of
//! its own.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Router, serve};
use earmark::intake::validate::read_allocation;
use earmark::ledger::{Email, Movement, Outcome, ShardId, Told, UserHash, Verdict};
use earmark::metrics::labels::Role;
use earmark::rabbit::Broker;
use earmark::rabbit::consumer::Consumer;
use earmark::rabbit::dead_letters::DeadLetterSender;
use earmark::rabbit::replies::ReplySender;
use earmark::rabbit::topology::Topology;
use earmark::wire::signing::Keyring;
use earmark::worker::attempt::Settled;
use earmark::worker::disposition::{self, Disposition, Senders};
use earmark::worker::gather::{self, Batches};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use std::net::SocketAddr;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What a contender's process is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    #[arg(long, default_value_t = 20)]
    pub connections: u32,
    #[arg(long)]
    pub business: Option<Uuid>,
    #[arg(long, env = "DATABASE_URL")]
    pub database_url: String,
    #[arg(long, env = "AMQP_URL")]
    pub amqp_url: String,
    #[arg(long, env = "EARMARK_QUEUE_PREFIX", default_value = "bench")]
    pub queue_prefix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Reads the request and answers.
    Http,
    /// What people write: a transaction of an update, an upsert and an insert.
    Plain,
    /// The three in one statement.
    Direct,
    /// A worker that answers without a database.
    Echo,
}

pub async fn run(kind: Kind, settings: Settings) {
    match kind {
        Kind::Echo => echo(settings).await,
        Kind::Http => listen(settings, Router::new().route("/payout/create", post(http))).await,
        Kind::Plain => with_pool(settings, post(plain)).await,
        Kind::Direct => with_pool(settings, post(direct)).await,
    }
}

#[derive(Clone)]
struct Direct {
    pool: PgPool,
    business: Uuid,
}

async fn with_pool(settings: Settings, handler: axum::routing::MethodRouter<Direct>) {
    let pool = PgPoolOptions::new()
        .max_connections(settings.connections)
        .test_before_acquire(false)
        .connect(&settings.database_url)
        .await
        .expect("the database");
    let business = settings.business.expect("a business");
    listen(settings, Router::new().route("/payout/create", handler).with_state(Direct { pool, business })).await;
}

async fn listen(settings: Settings, router: Router) {
    let listener = tokio::net::TcpListener::bind(settings.listen.expect("an address")).await.expect("a listener");
    serve(listener, router).await.expect("served");
}

fn answer(hash: &[u8]) -> Response {
    let body = format!(r#"{{"hash":"{}"}}"#, hex::encode(hash));
    (StatusCode::OK, [(CONTENT_TYPE, "application/json")], body).into_response()
}

fn refuse() -> Response {
    let body = r#"{"error":"Insufficient payout balance"}"#;
    (StatusCode::BAD_REQUEST, [(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn http(body: Bytes) -> Response {
    match read_allocation(&body) {
        Ok(_) => answer(&[7; 32]),
        Err(_) => StatusCode::UNPROCESSABLE_ENTITY.into_response(),
    }
}

/// What a body asks for, if it is valid.
fn read(body: &[u8]) -> Option<(Email, i64)> {
    match read_allocation(body).ok()?.movement {
        Movement::Allocate { email, amount } => Some((email, amount.cents())),
        Movement::Reverse { .. } | Movement::Settle { .. } => None,
    }
}

/// A stand-in for the user's hash, as good as random and as long.
fn hash_of(email: &Email) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    Sha256::digest(email.as_str()).to_vec()
}

async fn plain(State(state): State<Direct>, body: Bytes) -> Response {
    let Some((email, cents)) = read(&body) else { return StatusCode::UNPROCESSABLE_ENTITY.into_response() };
    let work = async {
        let mut transaction = state.pool.begin().await?;
        let debited: Option<(i64, i64)> = sqlx::query_as(
            "UPDATE businesses SET payout_balance = payout_balance - $2, seq = seq + 1
             WHERE business_id = $1 AND payouts_enabled AND payout_balance >= $2 RETURNING seq, payout_balance",
        )
        .bind(state.business)
        .bind(cents)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some((seq, balance)) = debited else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let hash: Vec<u8> = sqlx::query_scalar(
            "INSERT INTO payout_users AS u (business_id, email, hash, balance) VALUES ($1, $2, $3, $4)
             ON CONFLICT (business_id, email) DO UPDATE SET balance = u.balance + excluded.balance RETURNING hash",
        )
        .bind(state.business)
        .bind(email.as_str())
        .bind(hash_of(&email))
        .bind(cents)
        .fetch_one(&mut *transaction)
        .await?;
        sqlx::query(
            "INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome, seq, payout_balance_after, moved_at)
             VALUES ($1, $2, 'allocate', $3, $4, 'allocated', $5, $6, now())",
        )
        .bind(state.business)
        .bind(Uuid::new_v4())
        .bind(email.as_str())
        .bind(cents)
        .bind(seq)
        .bind(balance)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok::<_, sqlx::Error>(Some(hash))
    };
    respond(work.await)
}

async fn direct(State(state): State<Direct>, body: Bytes) -> Response {
    let Some((email, cents)) = read(&body) else { return StatusCode::UNPROCESSABLE_ENTITY.into_response() };
    let work = sqlx::query_scalar(
        "WITH debit AS (
            UPDATE businesses SET payout_balance = payout_balance - $4, seq = seq + 1
            WHERE business_id = $1 AND payouts_enabled AND payout_balance >= $4 RETURNING seq, payout_balance
         ), row AS (
            INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome, seq, payout_balance_after, moved_at)
            SELECT $1, $5, 'allocate', $2, $4, 'allocated', seq, payout_balance, now() FROM debit
         )
         INSERT INTO payout_users AS u (business_id, email, hash, balance) SELECT $1, $2, $3, $4 FROM debit
         ON CONFLICT (business_id, email) DO UPDATE SET balance = u.balance + excluded.balance RETURNING hash",
    )
    .bind(state.business)
    .bind(email.as_str())
    .bind(hash_of(&email))
    .bind(cents)
    .bind(Uuid::new_v4())
    .fetch_optional(&state.pool);
    respond(work.await)
}

fn respond(result: Result<Option<Vec<u8>>, sqlx::Error>) -> Response {
    match result {
        Ok(Some(hash)) => answer(&hash),
        Ok(None) => refuse(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Earmark's own worker without a database. It allocates every request that arrives.
async fn echo(settings: Settings) {
    let (broker, topology) = (Broker::parse(&settings.amqp_url).expect("a URL"), Topology::new(&settings.queue_prefix));
    let (consuming, publishing) =
        broker.connect_twice(Role::WorkerRequests, Role::WorkerReplies).await.expect("the broker");
    topology.declare(&publishing, &[0]).await.expect("queues");
    let replies = ReplySender::open(&publishing, &topology).await.expect("a channel");
    let dead_letters =
        DeadLetterSender::open(&publishing, &topology, &topology.work_queue(0)).await.expect("a channel");
    let consumer = Consumer::open(&consuming, &topology.work_queue(0), 128, 0).await.expect("a consumer");
    let acknowledger = consumer.acknowledger();
    let (decoded, messages) = mpsc::channel(128);
    let (settled, dispositions) = mpsc::channel(2);
    let keys = Keyring::none();
    let reader = gather::Reader { shard: ShardId::FIRST, keys: keys.clone(), replies: topology };
    tokio::spawn(gather::decode(reader, consumer, decoded, 8_192, false, CancellationToken::new()));
    let senders = Senders { replies, dead_letters, acknowledger, keys: keys.clone() };
    tokio::spawn(async move { disposition::perform_all(dispositions, &senders, &consuming).await });
    let mut batches = Batches::new(messages, 1024);
    let allocated = Settled::Decided(
        Verdict::Decided(Outcome::Allocated),
        Told { hash: Some(UserHash([7; 32])), ..Told::default() },
    );
    while let Some(batch) = batches.next().await {
        let results = vec![allocated.clone(); batch.requests.len()];
        settled.send(Disposition::new(batch, results, &keys)).await.expect("performed");
    }
}
