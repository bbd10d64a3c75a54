//! The console: the web interface for operators, on the side listener of every process.
//!
//! Everything it shows is read from Postgres, where each process writes its state every second. So the console of any
//! process shows the whole deployment. Pages are rendered on the server and work without JavaScript; a script keeps an
//! open page up to date ([`live`]).
//!
//! - [`auth`]: tokens, sessions, CSRF tokens. [`guard`] checks every request for a page or an action.
//! - [`samples`]: takes a sample of the deployment every second and keeps 15 minutes of them.
//! - [`overview`], [`dead_letters`], [`businesses`], [`webhooks`], [`requests`]: one page each, with its actions.

pub mod auth;
mod businesses;
mod dead_letters;
mod findings;
mod guard;
mod live;
mod overview;
mod page;
pub mod rates;
mod requests;
mod samples;
mod sign_in;
mod snapshot;
mod webhooks;
mod words;

use crate::postgres::Shards;
use crate::rabbit::Broker;
use crate::rabbit::topology::Topology;
use auth::{Access, Attempts};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderValue;
use axum::http::header::{self, HeaderName};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use samples::Samples;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The largest form, in bytes: room for the ids of a page of selected dead letters.
const MAX_FORM: usize = 64 * 1024;

/// Allows no content from other servers and no inline script or style, so that injected text cannot run as code.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What a console needs.
pub struct Settings {
    /// The way to Postgres: to the directory, and to each shard.
    pub shards: Shards,
    /// Used for replays of dead letters.
    pub broker: Broker,
    /// The names of the queues.
    pub topology: Topology,
    /// The intakes' EARMARK_REPLY_TIMEOUT: the deadline of a request that is looked up is computed with it.
    pub reply_timeout: Duration,
    /// Who may look and who may act.
    pub access: Access,
}

/// The console of one process.
pub struct Console {
    shards: Shards,
    broker: Broker,
    topology: Topology,
    reply_timeout: Duration,
    access: Access,
    attempts: Attempts,
    samples: Samples,
}

impl Console {
    /// A console that has not looked yet.
    pub fn new(settings: Settings) -> Arc<Self> {
        let Settings { shards, broker, topology, reply_timeout, access } = settings;
        let (attempts, samples) = (Attempts::default(), Samples::default());
        Arc::new(Self { shards, broker, topology, reply_timeout, access, attempts, samples })
    }

    /// Takes a sample of the deployment every second until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        tokio::join!(
            self.samples.run(self.shards.directory(), &self.topology, stop.clone()),
            self.shards.keep_looking(&stop)
        );
    }
}

/// The routes of the console: its pages, actions and static files.
pub fn router(console: Arc<Console>) -> Router {
    let guarded = Router::new()
        .route("/", get(overview::show))
        .route("/live", get(live::stream))
        .route("/workers/pause", post(overview::pause))
        .route("/workers/resume", post(overview::resume))
        .route("/audit", post(overview::audit))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/replay", post(dead_letters::replay))
        .route("/dead-letters/drop", post(dead_letters::drop))
        .route("/dead-letters/{dead_letter}", get(dead_letters::show))
        .route("/dead-letters/{dead_letter}/reveal", post(dead_letters::reveal))
        .route("/businesses", get(businesses::list))
        .route("/businesses/{business}", get(businesses::show))
        .route("/businesses/{business}/payouts", post(businesses::switch))
        .route("/businesses/{business}/funds", post(businesses::fund))
        .route("/businesses/{business}/webhooks/{webhook}", get(webhooks::show))
        .route("/businesses/{business}/webhooks/{webhook}/switch", post(webhooks::switch))
        .route("/businesses/{business}/webhooks/{webhook}/redeliver", post(webhooks::redeliver))
        .route("/requests", get(requests::show))
        .route("/requests/reveal", post(requests::reveal))
        .route("/sign-out", post(sign_in::leave))
        .fallback(page::missing)
        .layer(from_fn_with_state(Arc::clone(&console), guard::check));
    Router::new()
        .route("/sign-in", get(sign_in::show).post(sign_in::enter))
        .route("/assets/console.css", get(async || file("text/css", include_str!("assets/console.css"))))
        .route("/assets/console.js", get(async || file("text/javascript", include_str!("assets/console.js"))))
        .route("/assets/icon.svg", get(async || file("image/svg+xml", include_str!("assets/icon.svg"))))
        .route("/assets/uplot.css", get(async || file("text/css", include_str!("assets/uplot.css"))))
        .route("/assets/uplot.js", get(async || file("text/javascript", include_str!("assets/uplot.js"))))
        .merge(guarded)
        .layer(from_fn_with_state(Arc::clone(&console), guard::check_host))
        .layer(map_response(harden))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .with_state(console)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    // One minute only, so that a new release is not shown with the old stylesheet.
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=60")], text).into_response()
}

/// Adds the security headers to every answer.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 3] = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Without it browsers would send `Origin: null` with forms, and the check of the origin would fail.
        (header::REFERRER_POLICY, "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
