//! Posts a delivery to its endpoint, and says how that ended.

use super::resolver::{Checked, NotPublic};
use crate::ledger::Delivery;
use crate::webhook::Target;
use crate::webhook::target::Exceptions;
use crate::{clock, https, retry};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use std::error::Error as _;
use std::time::Duration;
use tokio::time::Instant;

/// How much of an answer is kept, in bytes.
const MOST_ANSWER: usize = 1024;
/// How long a connection is kept for the next delivery to the same endpoint.
const IDLE: Duration = Duration::from_secs(10);
/// Longest pause that an answer can ask for: the longest that it would have without asking.
const MOST_ASKED: Duration = Duration::from_secs(24 * 60 * 60);

/// What is posted.
pub(super) struct Letter<'a> {
    /// The URL of the endpoint, as its row says.
    pub url: &'a str,
    /// Names the event.
    pub id: String,
    /// When it is tried, in seconds since 1970.
    pub timestamp: i64,
    /// The signatures.
    pub signature: String,
    /// The event as JSON.
    pub body: Vec<u8>,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub delivery: Delivery,
    /// The status of the answer, if there was one.
    pub status: Option<StatusCode>,
    /// The beginning of the answer, if there was one.
    pub answer: Option<String>,
    /// The pause that the answer asked for; zero if it asked for none.
    pub asked: Duration,
    /// How long it took.
    pub took: Duration,
}

/// The HTTP client of a relay.
pub(super) struct Courier {
    client: Client,
    exceptions: Exceptions,
}

impl Courier {
    /// Follows no redirects, uses no proxy, and connects only to addresses that are allowed. `timeout`: for a whole
    /// delivery.
    pub(super) fn new(exceptions: Exceptions, timeout: Duration) -> Result<Self, reqwest::Error> {
        let client = https::client()?
            .timeout(timeout)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .dns_resolver(Checked(exceptions.clone()))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("earmark/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, exceptions })
    }

    /// Posts a letter.
    pub(super) async fn post(&self, letter: Letter<'_>) -> Ended {
        let began = Instant::now();
        let ended =
            |delivery| Ended { delivery, status: None, answer: None, asked: Duration::ZERO, took: began.elapsed() };
        // The client asks no resolver about a URL that holds an address itself, so the URL is checked here, each time.
        let Ok(target) = Target::parse(letter.url, &self.exceptions) else { return ended(Delivery::Forbidden) };
        let request = self
            .client
            .post(target.url().clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", letter.id)
            .header("webhook-timestamp", letter.timestamp)
            .header("webhook-signature", letter.signature)
            .body(letter.body);
        match request.send().await {
            Ok(response) => {
                let (status, asked) = (response.status(), asked_for(&response));
                let delivery = match status {
                    StatusCode::GONE => Delivery::Gone,
                    status if status.is_success() => Delivery::Delivered,
                    _ => Delivery::Refused,
                };
                let answer = read_beginning(response).await;
                Ended { delivery, status: Some(status), answer: Some(answer), asked, took: began.elapsed() }
            }
            Err(error) => ended(judge(&error)),
        }
    }
}

fn asked_for(response: &Response) -> Duration {
    let text = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    text.map_or(Duration::ZERO, |text| retry::asked_for_at_most(MOST_ASKED, text, clock::now()))
}

/// The beginning of an answer, as text that can be stored. If it breaks off, that does not matter: the status has come.
async fn read_beginning(mut response: Response) -> String {
    let mut read = vec![];
    while read.len() < MOST_ANSWER
        && let Ok(Some(chunk)) = response.chunk().await
    {
        read.extend_from_slice(&chunk);
    }
    read.truncate(MOST_ANSWER);
    String::from_utf8_lossy(&read).replace('\0', "\u{fffd}")
}

fn judge(error: &reqwest::Error) -> Delivery {
    let mut cause = error.source();
    while let Some(one) = cause {
        if one.is::<NotPublic>() {
            return Delivery::Forbidden;
        }
        cause = one.source();
    }
    if error.is_timeout() { Delivery::Timeout } else { Delivery::Unreachable }
}
