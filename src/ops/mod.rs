//! Operations: everything that lets people and monitoring see and control a deployment.
//!
//! This file serves the side listener: `/livez`, `/readyz`, `/metrics` and the console. [`presence`] writes the
//! process's row, [`queues`] polls the depth of the queues, [`deployment`] reads the state of all processes,
//! [`audits`], [`businesses`], [`dead_letters`] and [`requests`] look up and act for operators in all shards, and
//! [`console`] is the web interface.
//!
//! The modules know neither intake nor worker. They get the state of the process from a function, [`state::Describe`].

pub mod audits;
pub mod businesses;
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

/// The content type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The largest number of open connections to the side listener: enough for people, scrapers and probes.
pub const CONNECTIONS: usize = 256;

/// Serves the side listener until `stop`: `/livez` (200 if the process answers), `/readyz` (200 if it can work, with
/// the shards in the body that are away; else 503 with the reasons), `/metrics`, and the console. Only the console needs a token.
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
    let ready = async move || {
        let state = describe();
        let status = if state.impediments.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let first = if state.impediments.is_empty() { vec!["ready".to_owned()] } else { state.impediments.clone() };
        (status, [first, state.shards_away()].concat().join("\n") + "\n")
    };
    let router = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(console::router(console));
    connections::serve(listener, router, limits, Ending { soon: stop.clone(), now: stop }).await;
}
