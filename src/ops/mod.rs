//! The side listener of each process: whether it lives, and whether it can work. [`dead_letters`] is what people do with
//! messages that could not be applied.

pub mod dead_letters;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What keeps a process from working, in words; nothing if it can.
pub type Impediments = Arc<dyn Fn() -> Vec<&'static str> + Send + Sync>;

/// Serves `/livez` (the process answers) and `/readyz` (it can work; if not, what is wrong is in the body) until `stop`.
pub async fn serve(listener: TcpListener, impediments: Impediments, stop: CancellationToken) -> std::io::Result<()> {
    let ready = move || {
        let found = impediments();
        async move {
            match found.as_slice() {
                [] => (StatusCode::OK, "ready\n".to_owned()),
                found => (StatusCode::SERVICE_UNAVAILABLE, found.join("\n") + "\n"),
            }
        }
    };
    let router = Router::new().route("/livez", get(async || "alive\n")).route("/readyz", get(ready));
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}
