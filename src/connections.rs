//! Serves HTTP/1.1 on a listener, with bounds for slow clients, and closes connections so that no answer is lost.
//!
//! - If an answer is ready before the request's body was read, the rest of the body is read and thrown away first, so
//!   that the client gets the answer and its next request starts cleanly. Beyond some bounds the answer says
//!   `Connection: close` instead.
//! - After the last answer the server reads on for a moment. Closing a socket with unread bytes in it resets the
//!   connection, and the client may lose the answer.
//! - A client that closes its sending half after a request still gets its answer.
//! - A client that sends no request, or does not read its answer, is disconnected after a bounded time. The number of
//!   connections is bounded too.

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

/// How many connections may wait in the kernel to be accepted: room for a thousand clients that connect at once.
const BACKLOG: u32 = 4_096;
/// Largest head of a request (its first line and headers), in bytes. It bounds the memory that a connection takes
/// before its caller is known.
const HEAD: usize = 32 * 1024;
/// Most bytes of an unread body that are read and thrown away before the answer, to keep the connection open.
const DRAINED: u64 = 64 * 1024;
/// How long reading an unread body may take before its answer.
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// Most bytes that are read and thrown away after the last answer of a connection.
const LINGERING: usize = 16 * 1024 * 1024;
/// How long reading after the last answer may take in all.
const LINGER_TIME: Duration = Duration::from_secs(5);
/// How long reading after the last answer waits for the next piece.
const LINGER_SILENCE: Duration = Duration::from_secs(1);
/// How long a connection that has sent no request yet is kept once the service is about to stop.
const LAST_CALL: Duration = Duration::from_millis(500);
/// How long a client may take to read its last answer and to close, once the service stops.
const LAST_MOMENT: Duration = Duration::from_millis(250);
/// How long to wait before the next try when the process can open no more sockets.
const NO_SOCKET: Duration = Duration::from_millis(100);

/// The bounds of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections at once. Further ones wait in the kernel.
    pub connections: usize,
    /// How long a client may take to send the head of its next request, from the last answer or from connecting.
    pub idle: Duration,
    /// How long a client may take to accept a piece of an answer.
    pub write: Duration,
}

/// Binds and listens, like `TcpListener::bind` but with a longer backlog, for many clients that connect at once. Fails
/// if the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The two signals that end a listener.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// The service is about to stop. Connections are still accepted, but one that sends no request within half a second
    /// is closed.
    pub soon: CancellationToken,
    /// No more connections are accepted, and each open one is closed after its last answer.
    pub now: CancellationToken,
}

/// Serves `router` until `ending.now`, and returns once the last connection is closed.
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

/// Waits for a free place, then for the next connection. `None` when the service stops.
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

/// Whether the error concerns one connection only: its client was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

async fn serve_one(stream: TcpStream, peer: SocketAddr, router: Router, limits: Limits, ending: Ending) {
    // An answer is one small write. It must not wait until the client has confirmed the write before it.
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
    // The connection only borrows the stream. However it ends, by an error too, the stream is still here to be closed
    // with care.
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
        // `biased`: the connection is polled first, so that a request sent before the end is read before the end is
        // seen.
        tokio::select! { biased; _ = connection.as_mut() => return true, () = last_call => {} }
        let has_answer = was_asked.load(Ordering::Relaxed);
        if has_answer {
            connection.as_mut().graceful_shutdown();
            // An error here is the client's: it is gone, or what it sent is not HTTP.
            let _ = connection.await;
        }
        has_answer
    };
    if serving.await {
        linger(stream, &ending).await;
    }
}

/// Returns once a client has sent nothing for as long as it may between two pieces. While the service stops that is
/// shorter, so that a silent client does not hold it up; one that still sends does not lose its answer by it.
async fn silence(ending: &Ending) {
    let stopped = async {
        ending.now.cancelled().await;
        sleep(LAST_MOMENT).await;
    };
    tokio::select! { () = sleep(LINGER_SILENCE) => {}, () = stopped => {} }
}

/// Closes the server's half of the connection, then reads until the client closes its half or a bound is reached.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin, ending: &Ending) {
    let _ = stream.shutdown().await;
    let reading = async {
        let (mut thrown_away, mut bytes) = (vec![0; 8 * 1024], 0);
        while bytes < LINGERING {
            let read = tokio::select! { read = stream.read(&mut thrown_away) => read, () = silence(ending) => break };
            match read {
                Ok(read) if read > 0 => bytes += read,
                Ok(_) | Err(_) => break,
            }
        }
    };
    let _ = timeout(LINGER_TIME, reading).await;
}

/// Answers a request, then reads what is left of its body, or marks the answer `Connection: close`.
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
    // With `Expect: 100-continue` the client holds its body back until the handler reads it. An unread body was not
    // sent then, and cannot be drained.
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

/// Reads a body and throws it away. True if it ended within the bounds.
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

/// What is left of a request's body when its handler has ended.
#[derive(Default)]
enum Rest {
    /// The handler has not given the body back, or the body broke off.
    #[default]
    Missing,
    Unread(Incoming),
    /// The body was read to its end.
    Nothing,
}

/// A request's body, lent to its handler. When the handler drops it, `rest` receives what is left.
struct Lent {
    /// `None` once it has ended or failed.
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
