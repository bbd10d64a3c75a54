//! Middleware that checks every request to the console: host, session or token, role, and the form of an action.

use super::auth::{self, Role, Visitor};
use super::page::Trouble;
use super::{Console, page};
use crate::clock;
use axum::extract::{ConnectInfo, Form, FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::SocketAddr;
use std::sync::Arc;

/// The name of a visitor that sends a token with every request instead of signing in.
const PROGRAM: &str = "a program";
/// The name of every visitor while no token is set.
const ANYBODY: &str = "somebody on this machine";

/// The fields of a form, in order. A name may occur several times.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// The first value of the field, trimmed; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default().trim()
    }

    /// All values of the field.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl<S: Sync> FromRequestParts<S> for Fields {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Trouble> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// Refuses requests with another `Host` than this machine's while no token is set; see [`auth::is_loopback_host`].
pub(super) async fn check_host(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    if console.access.is_open() && !auth::is_loopback_host(host(request.headers())) {
        return Trouble::Forbidden("Without a token the console answers to 127.0.0.1 and localhost alone.")
            .into_response();
    }
    next.run(request).await
}

/// Lets visitors with a session or token through to pages. Actions (all methods but GET and HEAD) also need the full
/// role and a form of this session.
pub(super) async fn check(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let (visitor, cookie) = match identify(&console, &request) {
        Ok(found) => found,
        Err(trouble) => return trouble.into_response(),
    };
    let is_look = request.method() == Method::GET || request.method() == Method::HEAD;
    let checked = if is_look { Ok(request) } else { check_form(request, &visitor).await };
    let mut request = match checked {
        Ok(request) => request,
        Err(trouble) => return trouble.into_response(),
    };
    let had_notice = page::cookie(request.headers(), page::NOTICE).is_some();
    request.extensions_mut().insert(visitor);
    let mut response = if is_look { next.run(request).await } else { act(next, request).await };
    if let Some(cookie) = cookie {
        page::set_cookie(&mut response, auth::SESSION, &cookie, auth::SESSION_MILLIS / 1000);
    }
    let is_page =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if had_notice && is_page {
        page::set_cookie(&mut response, page::NOTICE, "", 0);
    }
    response
}

/// Runs an action in its own task, so that it goes on if the browser closes the connection.
async fn act(next: Next, request: Request) -> Response {
    let acting = tokio::spawn(next.run(request));
    acting.await.unwrap_or_else(|_| {
        let text = "The action failed before it was complete. Check what it did before you repeat it.";
        Trouble::Unreachable(text.to_owned()).into_response()
    })
}

/// The visitor, and the cookie to set if a session begins without signing in (while no token is set).
fn identify(console: &Console, request: &Request) -> Result<(Visitor, Option<String>), Trouble> {
    let (headers, now) = (request.headers(), clock::now_millis());
    if let Some(token) = bearer(headers) {
        return identify_program(console, request, token, now).map(|visitor| (visitor, None));
    }
    let cookie = page::cookie(headers, auth::SESSION);
    if let Some(visitor) = cookie.and_then(|cookie| console.access.visitor(cookie, now)) {
        return Ok((visitor, None));
    }
    if console.access.is_open() {
        let cookie = console.access.open_session(Role::Full, ANYBODY, now);
        let visitor = console.access.visitor(&cookie, now).ok_or(Trouble::SignedOut)?;
        return Ok((visitor, Some(cookie)));
    }
    let asks_for_page = request.method() == Method::GET && request.uri().path() != "/live";
    Err(if asks_for_page { Trouble::NotSignedIn } else { Trouble::SignedOut })
}

fn identify_program(console: &Console, request: &Request, token: &str, now: i64) -> Result<Visitor, Trouble> {
    let from = peer(request);
    if console.attempts.are_spent(from.ip(), now) {
        return Err(Trouble::TooManyAttempts);
    }
    let Some(role) = console.access.role_of(token) else {
        console.attempts.note(from.ip(), now);
        return Err(Trouble::SignedOut);
    };
    Ok(Visitor { role, name: PROGRAM.to_owned(), csrf: String::new() })
}

/// Parses the form of an action. Refuses a form of another site or another session. A program needs no such check: its
/// token is not in a browser, so no other site can make it send a form.
async fn check_form(request: Request, visitor: &Visitor) -> Result<Request, Trouble> {
    let leaves = request.uri().path() == "/sign-out";
    if visitor.role != Role::Full && !leaves {
        return Err(Trouble::Forbidden("You are signed in with the read-only role: you cannot act."));
    }
    let is_program = visitor.csrf.is_empty();
    if !is_program && !has_own_origin(request.headers()) {
        return Err(Trouble::OTHER_SITE);
    }
    let (parts, body) = request.into_parts();
    let form = Form::<Vec<(String, String)>>::from_request(Request::from_parts(parts.clone(), body), &()).await;
    let fields = Fields(form.map_err(|_| Trouble::unreadable_form())?.0);
    if !is_program && !auth::is_same(fields.get("csrf"), &visitor.csrf) {
        return Err(Trouble::Forbidden(
            "The form belongs to another session. Go back, reload the page and send it again.",
        ));
    }
    let mut request = Request::from_parts(parts, axum::body::Body::empty());
    request.extensions_mut().insert(fields);
    Ok(request)
}

/// Whether a form was sent by a page of this console. Browsers send `Origin` with every form; without it the answer is
/// no.
pub(super) fn has_own_origin(headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    origin.is_some_and(|origin| auth::is_own_origin(origin, host(headers)))
}

/// The address of the client.
pub(super) fn peer(request: &Request) -> SocketAddr {
    let known = request.extensions().get::<ConnectInfo<SocketAddr>>();
    known.map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |ConnectInfo(address)| *address)
}

fn host(headers: &HeaderMap) -> &str {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}
