//! HTTP by hand, over a socket: for clients that fall silent, say too much, or vanish so that nobody notices.

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

/// How a client vanishes. Only the first way is sure to be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Vanishing {
    /// It closes its connection.
    HangUp,
    /// It falls silent, and its connection stays open. To the intake a proxy that keeps its connection looks the same.
    Silence,
    /// It had sent a line break behind its request, and closes: the intake reads no further than that.
    ByteBehind,
    /// The same with a whole request behind the first.
    RequestBehind,
    /// It has closed its half of the connection.
    HalfClose,
    /// Nothing gets through any more, either way, and nobody is told.
    Partition,
}

impl Vanishing {
    /// Those that an intake cannot be relied on to notice.
    pub const UNSEEN: [Self; 5] =
        [Self::Silence, Self::ByteBehind, Self::RequestBehind, Self::HalfClose, Self::Partition];
}

/// One connection to an intake.
pub struct Line {
    stream: TcpStream,
    /// What was read and not taken yet.
    heard: Vec<u8>,
    /// What lies between, if a partition is to come.
    proxy: Option<Proxy>,
    /// When the intake's handler had surely got the request's head, in milliseconds: it has asked for the body.
    pub received: Option<i64>,
}

impl Line {
    /// Connects to where the request goes; through a proxy if the client is to vanish behind it.
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

    /// Sends a request's head, and waits until the intake asks for the body: so its handler has the head. Or until it
    /// answers, or `patience` is over.
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

    /// The next answer.
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

    /// The answer that has arrived, if it is whole; left where it is unless it is taken. What says "go on" is noted.
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

    /// Vanishes. What is left, if anything, is what the intake still takes for its client; once it is dropped, it knows.
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

    /// Keeps up the appearance of a client until the intake has done with it, or for as long as any intake waits.
    pub async fn linger(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(10), self.hear()).await;
    }
}

/// The answer at the beginning of these bytes, with its length, if it is whole.
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
