//! What surrounds the work of a process: its side listener (whether it lives, whether it can work, its metrics), its row
//! in the list of processes, and a look at the queues. [`dead_letters`] is what people do with messages that could not be
//! applied, [`console`] what they do in a browser. Knows neither intake nor worker: it is given functions.

pub mod console;
pub mod dead_letters;
pub mod deployment;
mod gauges;
pub mod presence;
pub mod queues;
pub mod requests;
pub mod state;

use crate::connections::{self, Ending, Limits};
use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use console::Console;
use state::Describe;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Prometheus' text format, as its scrapers ask for it.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Most connections at once: enough for people, scrapers and probes.
pub const CONNECTIONS: usize = 256;

/// Serves `/livez` (the process answers), `/readyz` (it can work; if not, what is wrong is in the body) and `/metrics`,
/// which need no token, and the console, until `stop`.
pub async fn serve(
    listener: TcpListener,
    describe: Describe,
    console: Arc<Console>,
    limits: Limits,
    stop: CancellationToken,
) {
    let metrics = {
        let describe = describe.clone();
        async move || ([(CONTENT_TYPE, METRICS_TYPE)], gauges::text(&describe()))
    };
    let ready = async move || match describe().impediments.as_slice() {
        [] => (StatusCode::OK, "ready\n".to_owned()),
        found => (StatusCode::SERVICE_UNAVAILABLE, found.join("\n") + "\n"),
    };
    let router = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(console::router(console));
    connections::serve(listener, router, limits, Ending { soon: stop.clone(), now: stop }).await;
}
