//! HTTP written by hand over a socket, for clients that go silent, send too much, or vanish unnoticed.

use super::http::Answer;
use super::proxy::{Mode, Protocol, Proxy};
use earmark::clock;
use reqwest::RequestBuilder;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request as bytes.
pub struct Written {
    to: SocketAddr,
    /// Without the empty line that ends it.
    head: String,
    body: Vec<u8>,
}

impl Written {
    pub fn new(request: RequestBuilder) -> Self {
        let request = request.build().expect("a request");
        let url = request.url();
        let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default().to_vec();
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", request.method(), url.path(), url.authority());
        for (name, value) in request.headers() {
            head += &format!("{name}: {}\r\n", value.to_str().expect("text"));
        }
        head += &format!("content-length: {}\r\n", body.len());
        Self { to: url.socket_addrs(|| None).expect("an address")[0], head, body }
    }

    fn whole(&self) -> Vec<u8> {
        [self.head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// How a client vanishes. The intake is sure to notice only [`Vanishing::HangUp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Vanishing {
    /// It closes its connection.
    HangUp,
    /// It goes silent and leaves its connection open. A proxy that keeps its connection open looks the same to the
    /// intake.
    Silence,
    /// It sends a line break after its request and closes. The intake reads no further than the line break, so it does
    /// not see the close.
    ByteBehind,
    /// It sends a second request after the first and closes. The intake does not see the close either.
    RequestBehind,
    /// It closes its sending half of the connection.
    HalfClose,
    /// The network drops everything in both directions, and nobody is told.
    Partition,
}

impl Vanishing {
    /// The ways that an intake may fail to notice.
    pub const UNSEEN: [Self; 5] =
        [Self::Silence, Self::ByteBehind, Self::RequestBehind, Self::HalfClose, Self::Partition];
}

/// One connection to an intake.
pub struct Line {
    stream: TcpStream,
    /// Bytes that were read and are not used yet.
    heard: Vec<u8>,
    /// The proxy that stops all traffic, if this client is to vanish behind a partition.
    proxy: Option<Proxy>,
    /// When the intake asked for the body, in milliseconds. By then its handler certainly has the request's head.
    pub received: Option<i64>,
}

impl Line {
    /// Connects to the intake. A client that is to vanish behind a partition connects through a proxy.
    pub async fn open(request: &Written, vanishing: Option<Vanishing>) -> io::Result<Self> {
        let proxy = match vanishing {
            Some(Vanishing::Partition) => Some(Proxy::start(Protocol::Opaque, request.to).await?),
            _ => None,
        };
        let stream = TcpStream::connect(proxy.as_ref().map_or(request.to, Proxy::address)).await?;
        Ok(Self { stream, heard: vec![], proxy, received: None })
    }

    pub async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a whole request at once.
    pub async fn send(&mut self, request: &Written) -> io::Result<()> {
        self.say(&request.whole()).await
    }

    /// Sends a request's head and waits until the intake asks for the body, which shows that its handler has the head.
    /// Also returns when the intake answers or `patience` is over.
    pub async fn announce(&mut self, request: &Written, patience: Duration) -> io::Result<()> {
        self.say(format!("{}expect: 100-continue\r\n\r\n", request.head).as_bytes()).await?;
        let hearing = async {
            while self.take_answer(false).is_none() && self.received.is_none() {
                self.read().await?;
            }
            Ok(())
        };
        tokio::time::timeout(patience, hearing).await.unwrap_or(Ok(()))
    }

    pub async fn say_body(&mut self, request: &Written) -> io::Result<()> {
        self.say(&request.body).await
    }

    /// Waits for the next answer.
    pub async fn hear(&mut self) -> io::Result<Answer> {
        loop {
            if let Some(answer) = self.take_answer(true) {
                return Ok(answer);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.heard).await? == 0 {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(())
        }
    }

    /// The next answer, if all of it has arrived. It stays in the buffer unless `is_taken`. A `100 Continue` is removed
    /// and its time is noted.
    fn take_answer(&mut self, is_taken: bool) -> Option<Answer> {
        loop {
            let (answer, length) = parse(&self.heard)?;
            let goes_on = answer.status == 100;
            if goes_on {
                self.received.get_or_insert_with(clock::now_millis);
            }
            if goes_on || is_taken {
                self.heard.drain(..length);
            }
            if !goes_on {
                return Some(answer);
            }
        }
    }

    /// Makes the client vanish. Returns the connection if the intake still takes it for a client. When that is dropped,
    /// the intake learns that the client is gone.
    pub async fn vanish(mut self, how: Vanishing) -> Option<Self> {
        match how {
            Vanishing::HangUp => return None,
            Vanishing::Silence => {}
            Vanishing::ByteBehind => {
                let _ = self.say(b"\r\n").await;
                return None;
            }
            Vanishing::RequestBehind => {
                let _ = self.say(b"GET /openapi.json HTTP/1.1\r\nhost: earmark\r\n\r\n").await;
                return None;
            }
            Vanishing::HalfClose => drop(self.stream.shutdown().await),
            Vanishing::Partition => self.proxy.as_ref().expect("a proxy").set(Mode::BlackHole),
        }
        Some(self)
    }

    /// Keeps the connection open until the intake answers, or for as long as any intake waits.
    pub async fn linger(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(10), self.hear()).await;
    }
}

/// Parses the answer at the beginning of these bytes, and returns it with its length. `None` if it is incomplete.
pub fn parse(bytes: &[u8]) -> Option<(Answer, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let mut lines = std::str::from_utf8(&bytes[..end]).expect("a head in ASCII").lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().expect("a status");
    let headers: HeaderMap = lines.filter_map(|line| line.split_once(':')).map(header).collect();
    let length = headers.get("content-length").map_or(0, |length| length.to_str().unwrap().parse().expect("a length"));
    let body = bytes.get(end..end + length)?.to_vec();
    Some((Answer { status, headers, body }, end + length))
}

fn header((name, value): (&str, &str)) -> (HeaderName, HeaderValue) {
    (name.parse().expect("a name"), value.trim().parse().expect("a value"))
}
