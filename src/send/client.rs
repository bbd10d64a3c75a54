//! The HTTP client of `earmark send`: makes one attempt to pay a line, and judges what the answer means for the line.

use super::file::Line;
use super::{Receipt, Refusal};
use crate::ledger::{Outcome, Reference};
use crate::{clock, https, retry};
use anyhow::{Context, ensure};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use std::time::Duration;

/// The service's address and the API key to use.
pub struct Settings {
    /// Where the service is.
    pub url: String,
    /// The secret key.
    pub api_key: String,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// Sends requests to one service with one API key.
pub struct Client {
    url: String,
    http: reqwest::Client,
}

/// The result of an attempt to pay a line.
pub enum Attempt {
    /// The line is paid. `replayed`: an earlier attempt under the same idempotency key paid it.
    Paid {
        /// The request that paid it.
        receipt: Receipt,
        /// Whether that was an earlier attempt under the same key.
        replayed: bool,
    },
    /// The line is refused, and no funds moved.
    Refused(Refusal),
    /// The answer does not say what was decided. Send the line again unchanged, after waiting at least `after`.
    Again {
        /// Why, in words.
        why: String,
        /// How long to wait.
        after: Duration,
    },
    /// No line can be sent with these settings; the text says why.
    Stop(String),
}

/// The result of looking up a request.
pub enum Found {
    /// It was allocated.
    Allocated,
    /// The service does not know it, or has not allocated it.
    Unknown,
    /// The answer does not say. Ask again, after waiting at least `after`.
    Again {
        /// Why nothing is known, in words.
        why: String,
        /// How long to wait.
        after: Duration,
    },
    /// Asking again is of no use; the text says why.
    Stop(String),
}

/// A complete HTTP answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Client {
    /// Creates a client. Fails if the URL or the key cannot be used.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let url = Url::parse(&settings.url).context("EARMARK_URL is not a URL")?;
        ensure!(
            ["http", "https"].contains(&url.scheme()) && url.has_host(),
            "EARMARK_URL must begin with https:// or http://"
        );
        let key = HeaderValue::from_str(&format!("Bearer {}", settings.api_key.trim()));
        let mut key = key.ok().context("EARMARK_API_KEY has characters that no API key has")?;
        key.set_sensitive(true);
        let http = https::client()?
            .timeout(settings.timeout)
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, key)]))
            // A redirect could send the API key to another server.
            .redirect(Policy::none())
            .build()?;
        Ok(Self { url: settings.url.trim().trim_end_matches('/').to_owned(), http })
    }

    /// Makes one attempt to pay a line. `key`: its idempotency key.
    pub async fn attempt(&self, key: &str, line: &Line) -> Attempt {
        let reference = line.reference.as_ref().map(Reference::as_str);
        let body = serde_json::json!({
            "email": line.email.as_str(), "amount": line.amount.cents(), "reference": reference,
        });
        let request = self.http.post(format!("{}/payout/create", self.url)).header("Idempotency-Key", key).json(&body);
        match ask(request).await {
            Ok(answer) => answer.judge(),
            Err(why) => Attempt::Again { why, after: Duration::ZERO },
        }
    }

    /// Looks up a request once.
    pub async fn look_up(&self, request_id: &str) -> Found {
        match ask(self.http.get(format!("{}/payout/requests/{request_id}", self.url))).await {
            Ok(answer) => answer.judge_look_up(),
            Err(why) => Found::Again { why, after: Duration::ZERO },
        }
    }
}

/// The longest answer body that is read, in bytes. The service's answers to one payout are far shorter.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Sends a request and reads the answer. The error says why there is none.
async fn ask(request: RequestBuilder) -> Result<Answer, String> {
    let asking = async {
        let mut response = request.send().await?;
        let (status, headers, mut body) = (response.status(), response.headers().clone(), vec![]);
        while body.len() <= LONGEST_ANSWER
            && let Some(chunk) = response.chunk().await?
        {
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body })
    };
    asking.await.map_err(|error: reqwest::Error| format!("no answer: {}", innermost(&error)))
}

/// The text of the innermost cause of an error. It does not contain the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

impl Answer {
    /// Judges the answer by its status. The service promises what each status means for the money; see
    /// `docs/clients.md`.
    fn judge(self) -> Attempt {
        match self.status.as_u16() {
            200 => self.paid(),
            400 | 403 | 422 => self.refused(),
            401 => Attempt::Stop(self.unauthorized()),
            408 | 429 | 500..=599 => Attempt::Again { why: self.trouble(), after: self.retry_after() },
            _ => Attempt::Stop(self.not_earmark()),
        }
    }

    fn judge_look_up(self) -> Found {
        #[derive(Deserialize)]
        struct Body {
            state: String,
        }
        match self.status.as_u16() {
            200 if self.json::<Body>().is_some_and(|body| Outcome::parse(&body.state) == Some(Outcome::Allocated)) => {
                Found::Allocated
            }
            200 | 404 => Found::Unknown,
            401 => Found::Stop(self.unauthorized()),
            408 | 429 | 500..=599 => Found::Again { why: self.trouble(), after: self.retry_after() },
            _ => Found::Stop(self.not_earmark()),
        }
    }

    /// Judges a 200. Without `Earmark-Debited: yes` and a hash it comes from another server, and nothing was paid.
    fn paid(self) -> Attempt {
        #[derive(Deserialize)]
        struct Body {
            hash: String,
        }
        match (self.json::<Body>(), self.header("earmark-debited")) {
            (Some(Body { hash }), Some("yes")) => {
                let receipt = Receipt { hash, request_id: self.request_id() };
                Attempt::Paid { receipt, replayed: self.header("idempotent-replayed") == Some("true") }
            }
            _ => Attempt::Stop(self.not_earmark()),
        }
    }

    /// Judges a refusal. Without `Earmark-Debited: no` and a reason it comes from another server.
    fn refused(self) -> Attempt {
        match (self.reason(), self.header("earmark-debited")) {
            (Some(reason), Some("no")) => Attempt::Refused(Refusal { reason, request_id: self.request_id() }),
            _ => Attempt::Stop(self.not_earmark()),
        }
    }

    /// The reason in the body: the text of `{"error": …}`, or the messages of all fields.
    fn reason(&self) -> Option<String> {
        let body: serde_json::Map<String, serde_json::Value> = self.json()?;
        let texts = body.values().flat_map(|value| match value {
            serde_json::Value::Array(messages) => messages.clone(),
            other => vec![other.clone()],
        });
        let texts: Option<Vec<String>> = texts.map(|text| text.as_str().map(str::to_owned)).collect();
        texts.map(|texts| texts.join(" ")).filter(|reason| !reason.is_empty())
    }

    fn json<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn request_id(&self) -> String {
        self.header("x-request-id").unwrap_or_default().to_owned()
    }

    fn retry_after(&self) -> Duration {
        self.header(RETRY_AFTER.as_str()).map_or(Duration::ZERO, |text| retry::asked_for(text, clock::now()))
    }

    fn trouble(&self) -> String {
        format!("answered {}", self.status)
    }

    fn unauthorized(&self) -> String {
        "the service refuses the key (401): set EARMARK_API_KEY to a secret key that works".to_owned()
    }

    fn not_earmark(&self) -> String {
        format!("the answer ({}) is not one of Earmark's: is EARMARK_URL its address?", self.status)
    }
}
