//! HTTP/1.1 over connections that end well.
//!
//! - An answer that is given before its request's body was read reaches its client, and is no trap for the next request: the
//!   rest of the body is read and thrown away first, within bounds, or else the answer says `Connection: close`.
//! - What a client still sends after the last answer is read for a moment: closing a socket with unread bytes in it resets
//!   the connection, and the client may lose the answer.
//! - A client that closes its sending half after a request is answered.
//! - A client that sends no request, or takes no answer, keeps its connection for a bounded time, and there is a bounded
//!   number of connections.

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::header::{CONNECTION, EXPECT, HeaderValue};
use axum::http::{Request, Response};
use futures_util::future::poll_fn;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many connections the kernel keeps that are not accepted yet: a thousand clients may connect at once.
const BACKLOG: u32 = 4_096;
/// Largest head of a request, in bytes. Connections are many, and none may hold more while nobody knows whose it is.
const HEAD: usize = 32 * 1024;
/// How much of a body is read and thrown away before its answer, in bytes, for the connection to go on.
const DRAINED: u64 = 64 * 1024;
/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// How much is read and thrown away after the last answer of a connection, in bytes.
const LINGERING: usize = 16 * 1024 * 1024;
/// How long that may take in all, and from one piece to the next.
const LINGER_TIME: Duration = Duration::from_secs(5);
const LINGER_SILENCE: Duration = Duration::from_secs(1);
/// How long a connection without any request so far is kept once the service is about to stop.
const LAST_CALL: Duration = Duration::from_millis(500);
/// How long a client has to take its last answer and to close, once the service stops.
const LAST_MOMENT: Duration = Duration::from_millis(250);
/// How long to wait when the process can open no more sockets.
const NO_SOCKET: Duration = Duration::from_millis(100);

/// The bounds of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections at once. The next ones wait in the kernel.
    pub connections: usize,
    /// How long a client may take to send the head of its next request, from the last answer or from connecting.
    pub idle: Duration,
    /// How long a client may take to accept a piece of an answer.
    pub write: Duration,
}

/// Listens. As `TcpListener::bind`, with room for many who connect at once.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// When a listener ends.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// The service is about to stop: connections are still accepted, but a client that has not asked anything has little
    /// time left to do so.
    pub soon: CancellationToken,
    /// No connection is accepted any more, and each is closed after its last answer.
    pub now: CancellationToken,
}

/// Serves until the end, and returns when the last request is answered.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, ending: Ending) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    while let Some((place, stream, peer)) = accept(&listener, &places, &ending.now).await {
        let serving = serve_one(stream, peer, router.clone(), limits, ending.clone());
        connections.spawn(async move {
            serving.await;
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The next connection, as soon as there is a place for it; `None` when the service stops.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let accepting = async {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return Some((place, stream, peer)),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    sleep(NO_SOCKET).await;
                }
            }
        }
    };
    tokio::select! { accepted = accepting => accepted, () = stop.cancelled() => None }
}

/// The client was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

async fn serve_one(stream: TcpStream, peer: SocketAddr, router: Router, limits: Limits, ending: Ending) {
    // An answer is one small write, which must not wait for the client to confirm the last.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write));
    let mut stream = pin!(stream);
    let was_asked = AtomicBool::new(false);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        was_asked.store(true, Ordering::Relaxed);
        answer(router.clone(), peer, request)
    });
    // The stream is only lent: whatever ends this, an error too, it is here to be closed with care.
    let serving = async {
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.idle)
                .max_header_size(HEAD)
                .half_close(true)
                .serve_connection(TokioIo::new(&mut stream), service)
        );
        let last_call = async {
            ending.soon.cancelled().await;
            sleep(LAST_CALL).await;
            if was_asked.load(Ordering::Relaxed) {
                ending.now.cancelled().await;
            }
        };
        // The connection comes first: what was sent before the end is read before the end is seen.
        tokio::select! { biased; _ = connection.as_mut() => return true, () = last_call => {} }
        let has_answer = was_asked.load(Ordering::Relaxed);
        if has_answer {
            connection.as_mut().graceful_shutdown();
            // An error is the client's: it is gone, or sent what is no HTTP.
            let _ = connection.await;
        }
        has_answer
    };
    if serving.await {
        tokio::select! { () = linger(stream) => {}, () = last_moment(&ending) => {} }
    }
}

/// How long a client is waited for whose connection is to be closed while the service stops.
async fn last_moment(ending: &Ending) {
    ending.now.cancelled().await;
    sleep(LAST_MOMENT).await;
}

/// Closes our half, and reads on for a moment: until the client has closed its own, or a bound is reached.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = stream.shutdown().await;
    let reading = async {
        let (mut thrown_away, mut bytes) = (vec![0; 8 * 1024], 0);
        while bytes < LINGERING {
            match timeout(LINGER_SILENCE, stream.read(&mut thrown_away)).await {
                Ok(Ok(read)) if read > 0 => bytes += read,
                _ => break,
            }
        }
    };
    let _ = timeout(LINGER_TIME, reading).await;
}

/// Has the request answered, and sees to what is left of its body.
async fn answer(
    router: TowerToHyperService<Router>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (mut head, body) = request.into_parts();
    head.extensions.insert(ConnectInfo(peer));
    if body.is_end_stream() {
        return router.call(Request::from_parts(head, Body::empty())).await;
    }
    // A client that waits to be told to go on has sent nothing, and is told nothing.
    let is_sent = !head.headers.contains_key(EXPECT);
    let rest = Arc::new(Mutex::new(Rest::Missing));
    let body = Body::new(Lent { body: Some(body), rest: Arc::clone(&rest) });
    let mut response = router.call(Request::from_parts(head, body)).await?;
    let rest = mem::take(&mut *rest.lock().unwrap_or_else(PoisonError::into_inner));
    let goes_on = match rest {
        Rest::Nothing => true,
        Rest::Unread(body) => is_sent && drain(body).await,
        Rest::Missing => false,
    };
    if !goes_on {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Reads a body and throws it away. Whether it came to its end within the bounds.
async fn drain(mut body: Incoming) -> bool {
    if body.size_hint().lower() > DRAINED {
        return false;
    }
    let reading = async {
        let mut bytes = 0;
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let Ok(frame) = frame else { return false };
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if bytes > DRAINED {
                return false;
            }
        }
        true
    };
    timeout(DRAIN_TIME, reading).await.unwrap_or(false)
}

/// What a handler leaves of its request's body.
#[derive(Default)]
enum Rest {
    /// It has not given the body back, or the body broke off.
    #[default]
    Missing,
    Unread(Incoming),
    /// It was read to its end.
    Nothing,
}

/// A body that comes back when its handler drops it.
struct Lent {
    /// `None` once it has ended.
    body: Option<Incoming>,
    rest: Arc<Mutex<Rest>>,
}

impl Lent {
    fn leave(&self, rest: Rest) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = rest;
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        match &frame {
            Some(Ok(_)) => {}
            Some(Err(_)) => self.body = None,
            None => {
                self.body = None;
                self.leave(Rest::Nothing);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            self.leave(if body.is_end_stream() { Rest::Nothing } else { Rest::Unread(body) });
        }
    }
}
