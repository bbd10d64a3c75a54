//! Earmark takes `{email, amount}` over HTTP, passes it through a queue to workers that apply batches of requests in one
//! Postgres transaction each, and answers the same HTTP request with the outcome. **A 500 never debits.**
//!
//! ```text
//!  client ─POST /payout/create→ intake::submit ─publish→ [allocations queue] → worker::gather
//!     ▲                            │ waits in intake::replies                      │ what has arrived
//!     │                            │                                               ▼
//!     └── 200 · 400 · 403 ── intake ←─[reply queue]── worker::disposition ←── worker::settle
//!                                  │                    reply, then ack            │ one transaction:
//!            500 after a void ─────┴→ postgres::allocations ←──────────────────────┘ lock → decide → write → commit
//!                                                         [dead letters] ← what no worker can apply, with its reason
//! ```
//!
//! Reading order: [`ledger`] (what is decided, and nothing else), [`postgres::allocations`] (the row that decides),
//! [`worker::settle`], [`intake::submit`], [`intake::resolve`], [`intake::problem`] (every answer), [`wire`] (every
//! serialised shape), [`rabbit`].
//!
//! Rules that hold everywhere. `tests/it/house.rs` reads the sources and checks those that can be checked there:
//!
//! - The ledger does not know that time passes, that a database exists, or that anything can fail.
//! - The modules for Postgres and RabbitMQ do not use each other; neither do intake and worker.
//! - No code outside `intake::problem` builds an answer with status 500 or 503, and the code inside needs a proof for
//!   it.
//! - No message decides anything. Losing, repeating, reordering or delaying messages costs time, never money.
//! - No row of `allocations` ever changes.
//! - No clock decides about money. A wrong one voids requests that could have been applied, and does no other harm.
//! - Work that decides is never cancelled half-way: it runs in tasks that no client, timer or signal drops.

pub mod api_key;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connections;
pub mod failpoint;
pub mod feed;
pub mod https;
pub mod intake;
pub mod ledger;
pub mod metrics;
pub mod ops;
pub mod postgres;
pub mod rabbit;
pub mod relay;
pub mod retry;
pub mod secret;
pub mod send;
pub mod server_url;
pub mod shutdown;
pub mod telemetry;
pub mod trace;
pub mod webhook;
pub mod wire;
pub mod worker;
