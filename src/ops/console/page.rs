//! What all pages of the console share: the frame around them, cookies, notices, confirmation pages and error pages.

use super::Console;
use super::auth::{Role, Visitor};
use crate::postgres::Error;
use askama::Template;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use std::sync::Arc;

/// The cookie with the notice: what the last action did, for the next page to show.
pub(super) const NOTICE: &str = "earmark_notice";
/// How long a notice is kept for the next page, in seconds.
const NOTICE_SECONDS: i64 = 60;

/// The data of the layout around every page.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub visitor: Option<Visitor>,
    /// The first part of the path. It marks the current page in the navigation.
    pub section: String,
    /// What the last action did.
    pub notice: Option<String>,
    /// Whether the console is open because no token is set.
    pub is_open: bool,
    pub version: &'static str,
}

impl Frame {
    /// A frame for pages without a visitor: sign-in and errors.
    pub(super) fn bare() -> Self {
        Self { visitor: None, section: String::new(), notice: None, is_open: false, version: env!("CARGO_PKG_VERSION") }
    }

    /// The CSRF token for the forms of the page.
    pub(super) fn csrf(&self) -> &str {
        self.visitor.as_ref().map(|visitor| visitor.csrf.as_str()).unwrap_or_default()
    }

    /// Whether to show the forms of actions.
    pub(super) fn may_act(&self) -> bool {
        self.visitor.as_ref().is_some_and(|visitor| visitor.role == Role::Full)
    }

    /// The visitor's name; empty if nobody is signed in.
    pub(super) fn name(&self) -> &str {
        self.visitor.as_ref().map(|visitor| visitor.name.as_str()).unwrap_or_default()
    }

    /// The visitor's role, as text; empty if nobody is signed in.
    pub(super) fn role(&self) -> &'static str {
        self.visitor.as_ref().map(|visitor| visitor.role.as_str()).unwrap_or_default()
    }

    /// Logs an action of the visitor. `subject`: what it was done to.
    pub(super) fn log(&self, action: &'static str, subject: &dyn std::fmt::Display) {
        tracing::info!(who = self.name(), role = self.role(), action, %subject, "console action");
    }
}

impl FromRequestParts<Arc<Console>> for Frame {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self, Trouble> {
        let notice = cookie(&parts.headers, NOTICE).and_then(|text| String::from_utf8(hex::decode(text).ok()?).ok());
        Ok(Self {
            visitor: parts.extensions.get::<Visitor>().cloned(),
            section: parts.uri.path().split('/').nth(1).unwrap_or_default().to_owned(),
            notice: notice.filter(|text| !text.is_empty()),
            is_open: console.access.is_open(),
            ..Self::bare()
        })
    }
}

/// Renders a page as an answer with 200.
pub(super) fn page(template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        // Cannot happen: templates are rendered to memory, and none of their filters fails.
        Err(error) => Trouble::Invalid(error.to_string()).into_response(),
    }
}

/// Redirects to the page `to` after an action. The page shows `notice` once.
pub(super) fn done(notice: &str, to: &str) -> Response {
    let mut response = Redirect::to(to).into_response();
    set_cookie(&mut response, NOTICE, &hex::encode(notice), NOTICE_SECONDS);
    response
}

/// The confirmation page before an action. It is a page and no dialog, so that it works without JavaScript. Its form
/// sends the same fields to the same action, with `confirmed=yes`.
#[derive(Template)]
#[template(path = "confirm.html")]
pub(super) struct Confirm {
    pub frame: Frame,
    pub question: String,
    /// What the action will do, one sentence each.
    pub consequences: Vec<String>,
    /// The path that the form is sent to.
    pub action: String,
    /// Hidden fields: name and value.
    pub fields: Vec<(String, String)>,
    /// A word that has to be typed to confirm.
    pub typed: Option<&'static str>,
    pub button: String,
    /// Whether the button is shown as dangerous.
    pub is_grave: bool,
    /// Where Cancel leads.
    pub back: String,
}

/// Why a page is not shown, or an action not done. Each is answered with an error page.
#[derive(Debug)]
pub(super) enum Trouble {
    /// A page was requested without a session: redirects to the sign-in page.
    NotSignedIn,
    /// An action or the event stream was requested without a session: 401.
    SignedOut,
    TooManyAttempts,
    Forbidden(&'static str),
    Missing(&'static str),
    /// What was requested cannot be done; the text says why.
    Invalid(String),
    /// Postgres or RabbitMQ did not answer; the text says what that means for the action.
    Unreachable(String),
}

impl Trouble {
    /// An action that no page of this console sent.
    pub(super) const OTHER_SITE: Self = Self::Forbidden("The form was sent by another site.");
    /// A business that does not exist.
    pub(super) const NO_BUSINESS: Self = Self::Missing("There is no such business.");
    /// A webhook that does not exist.
    pub(super) const NO_WEBHOOK: Self = Self::Missing("The business has no such webhook.");

    /// A form that cannot be parsed.
    pub(super) fn unreadable_form() -> Self {
        Self::Invalid("The form cannot be read.".to_owned())
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        tracing::warn!(%error, "the console could not read or write postgres");
        Self::Unreachable(
            "Postgres does not answer. If you were changing something, check whether it was done before you repeat it."
                .to_owned(),
        )
    }
}

#[derive(Template)]
#[template(path = "trouble.html")]
struct TroublePage {
    frame: Frame,
    title: &'static str,
    text: String,
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let (status, title, text) = match self {
            Self::NotSignedIn => return Redirect::to("/sign-in").into_response(),
            Self::SignedOut => (StatusCode::UNAUTHORIZED, "Not signed in", "Sign in to go on.".to_owned()),
            Self::TooManyAttempts => {
                (StatusCode::TOO_MANY_REQUESTS, "Too many attempts", "Wait a minute, then try again.".to_owned())
            }
            Self::Forbidden(text) => (StatusCode::FORBIDDEN, "Not allowed", text.to_owned()),
            Self::Missing(text) => (StatusCode::NOT_FOUND, "Not found", text.to_owned()),
            Self::Invalid(text) => (StatusCode::BAD_REQUEST, "That does not work", text),
            Self::Unreachable(text) => (StatusCode::BAD_GATEWAY, "No answer", text),
        };
        let page = TroublePage { frame: Frame::bare(), title, text };
        (status, Html(page.render().unwrap_or_default())).into_response()
    }
}

/// The answer to an unknown path.
pub(super) async fn missing() -> Trouble {
    Trouble::Missing("There is no such page.")
}

/// The value of a cookie of the request.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// Sets a cookie that is hidden from scripts and not sent with requests from other sites. `seconds`: its lifetime; 0
/// removes it.
pub(super) fn set_cookie(response: &mut Response, name: &str, value: &str, seconds: i64) {
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict");
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; earmark_noticed=x; earmark_notice=6869"));
        assert_eq!(cookie(&headers, NOTICE), Some("6869"));
        assert_eq!(cookie(&headers, "b"), None);
    }
}
