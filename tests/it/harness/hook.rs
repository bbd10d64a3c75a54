//! A platform's server for webhooks. Each path is an endpoint of its own, whose answers the test sets.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, Uri};
use axum::serve::Listener;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

/// How an endpoint answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// How long it takes.
    pub after: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: vec![], body: String::new(), after: Duration::ZERO }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn saying(self, body: &str) -> Self {
        Self { body: body.to_owned(), ..self }
    }

    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

/// A delivery that came.
#[derive(Clone, Debug)]
pub struct Got {
    pub at: Instant,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn seq(&self) -> i64 {
        self.json()["seq"].as_i64().expect("a number")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}")).to_str().expect("text")
    }
}

#[derive(Default)]
struct Inner {
    got: BTreeMap<String, Vec<Got>>,
    /// The answers of a path: to events of some numbers, and to all others.
    replies: BTreeMap<String, (BTreeMap<i64, Reply>, Option<Reply>)>,
}

/// The server.
#[derive(Clone)]
pub struct Hook {
    pub url: String,
    inner: Arc<Mutex<Inner>>,
    /// While it is true no delivery is answered.
    holds: watch::Sender<bool>,
}

/// Accepts connections with TLS, in their order.
struct WithTls(TcpListener, TlsAcceptor);

impl Listener for WithTls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.0.accept().await.expect("a connection");
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

impl Hook {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::serve(format!("http://{}", listener.local_addr().expect("an address")), listener)
    }

    /// A server with TLS at this address, for a name. Returns its certificate too, as PEM.
    pub async fn start_with_tls(address: IpAddr, name: &str) -> (Self, String) {
        let listener = TcpListener::bind((address, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions().expect("versions");
        let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).expect("a key");
        let hook = Self::serve(format!("https://{name}:{port}"), WithTls(listener, Arc::new(config).into()));
        (hook, made.cert.pem())
    }

    fn serve(url: String, listener: impl Listener<Addr = SocketAddr>) -> Self {
        let hook = Self { url, inner: Arc::default(), holds: watch::Sender::new(false) };
        let router = Router::new().fallback(take).with_state(hook.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        hook
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("the server")
    }

    /// The URL of the endpoint with this path.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// From now on the endpoint answers so. Before, and if `None`, it answers 200.
    pub fn answers(&self, path: &str, reply: impl Into<Option<Reply>>) {
        self.inner().replies.entry(path.to_owned()).or_default().1 = reply.into();
    }

    /// The same, for one event.
    pub fn answers_event(&self, path: &str, seq: i64, reply: impl Into<Option<Reply>>) {
        let mut inner = self.inner();
        let replies = &mut inner.replies.entry(path.to_owned()).or_default().0;
        match reply.into() {
            Some(reply) => drop(replies.insert(seq, reply)),
            None => drop(replies.remove(&seq)),
        }
    }

    /// Answers no delivery from now on, or answers all of them again, those that came meanwhile too.
    pub fn hold(&self, holds: bool) {
        self.holds.send_replace(holds);
    }

    /// How many deliveries came to all endpoints.
    pub fn count(&self) -> usize {
        self.inner().got.values().map(Vec::len).sum()
    }

    /// What came to an endpoint, in its order.
    pub fn got(&self, path: &str) -> Vec<Got> {
        self.inner().got.get(path).cloned().unwrap_or_default()
    }

    /// The numbers of the events that came to an endpoint.
    pub fn seqs(&self, path: &str) -> Vec<i64> {
        self.got(path).iter().map(Got::seq).collect()
    }
}

async fn take(State(hook): State<Hook>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let got = Got { at: Instant::now(), headers, body };
    let seq = serde_json::from_slice::<Value>(&got.body).ok().and_then(|body| body["seq"].as_i64());
    let reply = {
        let mut inner = hook.inner();
        inner.got.entry(uri.path().to_owned()).or_default().push(got);
        let (of_events, usual) = inner.replies.get(uri.path()).cloned().unwrap_or_default();
        seq.and_then(|seq| of_events.get(&seq).cloned()).or(usual).unwrap_or_else(|| Reply::status(200))
    };
    tokio::time::sleep(reply.after).await;
    let _ = hook.holds.subscribe().wait_for(|holds| !holds).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(reply.body)).expect("a response")
}
