//! The console: what an operator sees and does in a browser, on the side listener of every process.
//!
//! All that it shows comes from Postgres, where each process writes down its state every second, so any process shows
//! the whole deployment. Pages are rendered here and right without script; a script makes them live ([`live`]).
//!
//! - [`auth`]: tokens, sessions, forms. [`guard`] stands before every page and every action.
//! - [`samples`]: one sample a second, a quarter of an hour of them.
//! - [`overview`], [`dead_letters`], [`businesses`], [`requests`]: a page each, with its actions.

pub mod auth;
mod businesses;
mod dead_letters;
mod findings;
mod guard;
mod live;
mod money;
mod overview;
mod page;
pub mod rates;
mod requests;
mod samples;
mod sign_in;
mod snapshot;
mod words;

use crate::postgres::Postgres;
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

/// Most bytes of a form: room for the ids of a page of selected dead letters.
const MAX_FORM: usize = 64 * 1024;

/// Nothing from elsewhere, and no script or style written into a page: text that somebody smuggles in stays text.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What a console is made of.
pub struct Settings {
    pub postgres: Postgres,
    /// For replays.
    pub broker: Broker,
    pub topology: Topology,
    /// The intakes' setting, for the deadline of a request that is looked up.
    pub reply_timeout: Duration,
    pub access: Access,
}

/// The console of one process.
pub struct Console {
    postgres: Postgres,
    broker: Broker,
    topology: Topology,
    reply_timeout: Duration,
    access: Access,
    attempts: Attempts,
    samples: Samples,
}

impl Console {
    pub fn new(settings: Settings) -> Arc<Self> {
        let Settings { postgres, broker, topology, reply_timeout, access } = settings;
        let (attempts, samples) = (Attempts::default(), Samples::default());
        Arc::new(Self { postgres, broker, topology, reply_timeout, access, attempts, samples })
    }

    /// Looks at the deployment every second until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        self.samples.run(&self.postgres, &self.topology, stop).await;
    }
}

/// Every page, action and file of the console.
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
    // Short, so that a new release is not shown with the old one's looks.
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=60")], text).into_response()
}

/// The headers of every answer.
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
