//! HTTP/1.1 over connections that end well.
//!
//! - An answer that is given before its request's body was read reaches its client, and is no trap for the next request: the
//!   rest of the body is read and thrown away within bounds, or the answer says `Connection: close`.
//! - What a client still sends after the last answer is read for a moment: closing a socket with unread bytes in it resets
//!   the connection, and the client may lose the answer.
//! - A client that closes its sending half after a request is answered.
//! - A client that sends no request, or takes no answer, keeps its connection for a bounded time, and there is a bounded
//!   number of connections.

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::header::{CONNECTION, EXPECT, HeaderValue};
use axum::http::{Request, Response, StatusCode};
use futures_util::future::poll_fn;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many connections the kernel keeps that are not accepted yet: a thousand clients may connect at once.
const BACKLOG: u32 = 4_096;
/// How much of a body is read and thrown away after its answer, in bytes, for the connection to go on.
const DRAINED: u64 = 64 * 1024;
/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// How much is read and thrown away after the last answer of a connection, in bytes.
const LINGERING: usize = 16 * 1024 * 1024;
/// How long that may take in all, and from one piece to the next.
const LINGER_TIME: Duration = Duration::from_secs(5);
const LINGER_SILENCE: Duration = Duration::from_secs(1);
/// How long a connection without any request so far is kept once the service stops.
const LAST_CALL: Duration = Duration::from_millis(500);
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

/// Serves until `stop`, then accepts no connection any more, and ends when the last request is answered.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    while let Some((place, stream, peer)) = accept(&listener, &places, &stop).await {
        let serving = serve_one(stream, peer, router.clone(), limits, stop.clone());
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
                    tokio::time::sleep(NO_SOCKET).await;
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

async fn serve_one(stream: TcpStream, peer: SocketAddr, router: Router, limits: Limits, stop: CancellationToken) {
    // An answer is one small write, which must not wait for the client to confirm the last.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write));
    let was_asked = Arc::new(AtomicBool::new(false));
    let service = {
        let (router, was_asked) = (TowerToHyperService::new(router), Arc::clone(&was_asked));
        service_fn(move |request: Request<Incoming>| {
            was_asked.store(true, Ordering::Relaxed);
            answer(router.clone(), peer, request)
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .half_close(true)
        .serve_connection(TokioIo::new(Lingering { stream: Box::pin(stream), linger: None }), service);
    let mut connection = pin!(connection);
    tokio::select! { _ = connection.as_mut() => return, () = stop.cancelled() => {} }
    connection.as_mut().graceful_shutdown();
    tokio::select! { _ = connection.as_mut() => return, () = tokio::time::sleep(LAST_CALL) => {} }
    // Else it is answering, and may end that. An error is the client's: it is gone, or sent what is no HTTP.
    if was_asked.load(Ordering::Relaxed) {
        let _ = connection.await;
    }
}

/// Has the request answered, and sees to what is left of its body.
async fn answer(
    router: TowerToHyperService<Router>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let expects = request.headers().contains_key(EXPECT);
    let left = Left::default();
    let mut request = request.map(|body| match body.is_end_stream() {
        true => Body::empty(),
        false => Body::new(Lent { body: Some(body), left: left.clone() }),
    });
    request.extensions_mut().insert(ConnectInfo(peer));
    let mut response = router.call(request).await?;
    let Some(rest) = left.take() else { return Ok(response) };
    let is_small = rest.size_hint().exact().is_some_and(|bytes| bytes <= DRAINED);
    // A client that waits to be told to go on has sent nothing and is told nothing; one that was too slow once is so again.
    if is_small && !expects && response.status() != StatusCode::REQUEST_TIMEOUT {
        tokio::spawn(tokio::time::timeout(DRAIN_TIME, drain(rest)));
    } else {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// While this reads, the connection waits for the end of the body before it takes the next request.
async fn drain(mut body: Incoming) {
    while let Some(Ok(_)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {}
}

/// What a handler has left of its request's body.
#[derive(Clone, Default)]
struct Left(Arc<Mutex<Option<Incoming>>>);

impl Left {
    fn take(&self) -> Option<Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A body that goes back when its handler drops it, unless it was read to its end.
struct Lent {
    body: Option<Incoming>,
    left: Left,
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
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
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
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        *self.left.0.lock().unwrap_or_else(PoisonError::into_inner) = rest;
    }
}

/// A stream that, when it is shut down, reads on for a moment, and throws away what comes.
struct Lingering {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    linger: Option<Linger>,
}

struct Linger {
    bytes: usize,
    end: Instant,
    silence: Pin<Box<Sleep>>,
}

impl Linger {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            bytes: LINGERING,
            end: now + LINGER_TIME,
            silence: Box::pin(tokio::time::sleep_until(now + LINGER_SILENCE)),
        }
    }

    /// Ready when the client has closed, or a bound is reached.
    fn poll(&mut self, mut stream: Pin<&mut TimeoutStream<TcpStream>>, context: &mut Context<'_>) -> Poll<()> {
        let mut thrown_away = [0; 8 * 1024];
        while self.bytes > 0 {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match stream.as_mut().poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.bytes = self.bytes.saturating_sub(buffer.filled().len());
                    self.silence.as_mut().reset(self.end.min(Instant::now() + LINGER_SILENCE));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.silence.as_mut().poll(context),
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, linger } = self.get_mut();
        if linger.is_none() {
            ready!(stream.as_mut().poll_shutdown(context))?;
        }
        linger.get_or_insert_with(Linger::new).poll(stream.as_mut(), context).map(Ok)
    }
}
