//! The API as a client sees it.

use super::PATIENCE;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::time::Duration;

/// Builds a client for plain HTTP. It trusts no certificate, so it loads none.
pub fn http_builder() -> reqwest::ClientBuilder {
    // reqwest is built without a TLS provider, so one is chosen here. To choose it again does no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().tls_certs_only([])
}

pub fn http_client(timeout: Duration) -> reqwest::Client {
    http_builder().timeout(timeout).build().expect("an HTTP client")
}

/// A caller with a key.
#[derive(Clone)]
pub struct Client {
    url: String,
    key: String,
    http: reqwest::Client,
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn request_id(&self) -> String {
        self.header("x-request-id").unwrap_or_else(|| panic!("no X-Request-Id: {self:?}")).to_owned()
    }
}

impl Client {
    pub fn new(url: String, key: &str) -> Self {
        Self { url, key: key.to_owned(), http: http_client(2 * PATIENCE) }
    }

    /// The same caller at another process.
    pub fn at(&self, url: String) -> Self {
        Self { url, ..self.clone() }
    }

    /// A request without a key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// A request with the key.
    pub fn authorized(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(&self.key)
    }

    pub async fn send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
    }

    pub async fn get(&self, path: &str) -> Answer {
        Self::send(self.authorized(Method::GET, path)).await.expect("an answer")
    }

    pub fn create_request(&self, email: &str, amount: i64) -> RequestBuilder {
        self.authorized(Method::POST, "/payout/create").json(&json!({"email": email, "amount": amount}))
    }

    /// `POST /payout/create`, which may fail.
    pub async fn try_create(&self, email: &str, amount: i64) -> Result<Answer, reqwest::Error> {
        Self::send(self.create_request(email, amount)).await
    }

    pub async fn create(&self, email: &str, amount: i64) -> Answer {
        self.try_create(email, amount).await.expect("an answer")
    }

    pub async fn create_with_key(&self, key: &str, email: &str, amount: i64) -> Answer {
        Self::send(self.create_request(email, amount).header("Idempotency-Key", key)).await.expect("an answer")
    }

    /// With a trace context.
    pub async fn create_traced(&self, traceparent: &str, email: &str, amount: i64) -> Answer {
        Self::send(self.create_request(email, amount).header("traceparent", traceparent)).await.expect("an answer")
    }

    pub fn bulk_request(&self, allocations: &Value) -> RequestBuilder {
        self.authorized(Method::POST, "/payout/create/bulk").json(&json!({"allocations": allocations}))
    }

    /// `POST /payout/create/bulk`
    pub async fn create_all(&self, allocations: &Value) -> Answer {
        Self::send(self.bulk_request(allocations)).await.expect("an answer")
    }

    pub async fn create_all_with_key(&self, key: &str, allocations: &Value) -> Answer {
        Self::send(self.bulk_request(allocations).header("Idempotency-Key", key)).await.expect("an answer")
    }

    pub fn reverse_request(&self, id: &str, body: &Value) -> RequestBuilder {
        self.authorized(Method::POST, &format!("/payout/requests/{id}/reverse")).json(body)
    }

    /// Takes back all that is left of a request.
    pub async fn reverse(&self, id: &str) -> Answer {
        Self::send(self.reverse_request(id, &json!({}))).await.expect("an answer")
    }

    /// Takes back a part of a request.
    pub async fn reverse_part(&self, key: &str, id: &str, amount: i64) -> Answer {
        let request = self.reverse_request(id, &json!({"amount": amount})).header("Idempotency-Key", key);
        Self::send(request).await.expect("an answer")
    }

    pub fn settle_request(&self, email: &str, amount: i64, reference: &str) -> RequestBuilder {
        let body = json!({"email": email, "amount": amount, "reference": reference});
        self.authorized(Method::POST, "/payout/user/settle").json(&body)
    }

    /// `POST /payout/user/settle`
    pub async fn settle(&self, email: &str, amount: i64, reference: &str) -> Answer {
        Self::send(self.settle_request(email, amount, reference)).await.expect("an answer")
    }

    pub async fn payout_balance(&self) -> i64 {
        let answer = self.get("/balance").await;
        answer.json()["payout_balance"].as_i64().unwrap_or_else(|| panic!("{answer:?}"))
    }

    /// A payout user's balance; 0 if there is no such user.
    pub async fn user_balance(&self, email: &str) -> i64 {
        let answer = self.get(&format!("/payout/user?email={email}")).await;
        if answer.status == 404 { 0 } else { answer.json()["balance"].as_i64().expect("a balance") }
    }
}
