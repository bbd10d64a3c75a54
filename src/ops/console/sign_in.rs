//! The sign-in page, signing in and signing out.

use super::Console;
use super::auth::{self, SESSION, Visitor};
use super::guard::{self, Fields};
use super::page::{self, Frame, Trouble, page, set_cookie};
use crate::clock;
use askama::Template;
use axum::extract::{Form, FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    frame: Frame,
    wrong: Option<&'static str>,
    name: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    token: String,
    #[serde(default)]
    name: String,
}

/// The sign-in page. Redirects to the overview if there is a session or no token is set.
pub(super) async fn show(State(console): State<Arc<Console>>, headers: HeaderMap) -> Response {
    let visitor =
        page::cookie(&headers, SESSION).and_then(|cookie| console.access.visitor(cookie, clock::now_millis()));
    if visitor.is_some() || console.access.is_open() {
        return Redirect::to("/").into_response();
    }
    page(&SignIn { frame: Frame::bare(), wrong: None, name: String::new() })
}

/// Opens a session if the token is right.
pub(super) async fn enter(State(console): State<Arc<Console>>, request: Request) -> Result<Response, Trouble> {
    let (from, now) = (guard::peer(&request).ip(), clock::now_millis());
    if !guard::has_own_origin(request.headers()) {
        return Err(Trouble::OTHER_SITE);
    }
    if console.attempts.are_spent(from, now) {
        return Err(Trouble::TooManyAttempts);
    }
    let form = Form::<Entry>::from_request(request, &()).await;
    let Form(entry) = form.map_err(|_| Trouble::unreadable_form())?;
    let Some(name) = auth::clean_name(&entry.name) else {
        return Ok(refuse("Say who you are: each action is logged with this name.", entry.name));
    };
    let Some(role) = console.access.role_of(entry.token.trim()) else {
        console.attempts.note(from, now);
        tracing::warn!(who = name, %from, "console sign-in refused");
        return Ok(refuse("This token is wrong.", name));
    };
    tracing::info!(who = name, role = role.as_str(), %from, "console sign-in");
    let mut response = Redirect::to("/").into_response();
    set_cookie(&mut response, SESSION, &console.access.open_session(role, &name, now), auth::SESSION_MILLIS / 1000);
    Ok(response)
}

fn refuse(wrong: &'static str, name: String) -> Response {
    let shown = page(&SignIn { frame: Frame::bare(), wrong: Some(wrong), name });
    (StatusCode::UNAUTHORIZED, shown).into_response()
}

/// Signs out: removes the session cookie from this browser.
pub(super) async fn leave(visitor: axum::Extension<Visitor>, _form: Fields) -> Response {
    tracing::info!(who = visitor.name, "console sign-out");
    let mut response = Redirect::to("/sign-in").into_response();
    set_cookie(&mut response, SESSION, "", 0);
    response
}
