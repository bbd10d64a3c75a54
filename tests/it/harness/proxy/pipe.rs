//! One connection through the proxy: its two directions, what they know of each other, and how it ends.

use super::ear::{Answer, Ear, Verdict};
use super::{Mode, Peer, Shared, Side, hold};
use std::io;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How much room a read has; longer messages take several reads.
const CHUNK: usize = 16 * 1024;

/// Serves one connection to its end. Both sockets are owned here, so that any end can still choose how to close them.
pub async fn serve(shared: Arc<Shared>, kill: CancellationToken, mut client: TcpStream) {
    let link = Link { shared, talk: Mutex::default() };
    let connected = tokio::select! {
        biased;
        () = kill.cancelled() => None,
        server = link.connect(&client) => server.ok(),
    };
    let Some(mut server) = connected else { return reset(client) };
    let end = tokio::select! {
        biased;
        () = kill.cancelled() => End::Killed,
        end = link.relay(&mut client, &mut server) => end,
    };
    tokio::select! {
        biased;
        () = link.close(end, client, server) => {}
        () = kill.cancelled() => {}
    }
    link.count();
}

/// Closes with an RST: nothing unsent is sent, and the other end gets an error instead of an end of stream.
pub fn reset(stream: TcpStream) {
    stream.set_zero_linger().ok();
}

/// Closes so that the other end still reads everything: sends the end of the stream, then waits for the other end to
/// close.
///
/// It reads meanwhile, because dropping a socket with unread bytes sends an RST.
async fn drain(mut stream: TcpStream) {
    let mut scratch = vec![0; CHUNK];
    if stream.shutdown().await.is_ok() {
        while stream.read(&mut scratch).await.is_ok_and(|count| count > 0) {}
    }
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// The server closed it.
    Closed,
    /// Either side failed.
    Broken,
    /// The proxy was told to reset it.
    Killed,
    /// A trap on a message to the server.
    Upward,
    /// A trap on a message to the client.
    Downward,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Broken
    }
}

/// One connection, as both of its directions see it.
struct Link {
    shared: Arc<Shared>,
    talk: Mutex<Talk>,
}

/// What the two directions of a connection tell each other.
#[derive(Default)]
struct Talk {
    /// The client has finished its start-up and sends typed messages. The server is about to do the same.
    started: bool,
    /// A trap has fired on this connection and is not counted yet.
    sprung: bool,
    /// A trap has fired on a message to the server. From now on nothing is forwarded to the client.
    muted: bool,
    /// The connection ends when the server has sent this answer.
    awaited: Option<Answer>,
}

impl Link {
    /// Connects to the server. Waits while the mode is a black hole.
    async fn connect(&self, client: &TcpStream) -> io::Result<TcpStream> {
        opened(&mut self.shared.mode.subscribe()).await;
        let upstream = *hold(&self.shared.upstream);
        let server = TcpStream::connect(upstream).await?;
        // The proxy must not add delays that nobody asked for.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        Ok(server)
    }

    async fn relay(&self, client: &mut TcpStream, server: &mut TcpStream) -> End {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = Pipe::new(self, Peer::Client, from_client, to_server);
        let down = Pipe::new(self, Peer::Server, from_server, to_client);
        match tokio::try_join!(up.upward(), down.downward()) {
            Ok(_) => End::Closed,
            Err(end) => end,
        }
    }

    /// Closes both sockets. After a trap, the receiver of the message gets an orderly close, because a reset could lose
    /// bytes that are still on their way.
    async fn close(&self, end: End, client: TcpStream, server: TcpStream) {
        match end {
            End::Closed | End::Broken => {}
            End::Killed => {
                reset(client);
                reset(server);
            }
            End::Upward => {
                reset(client);
                drain(server).await;
            }
            End::Downward => {
                reset(server);
                // The trap is counted first, because the client may take long to close its end.
                self.count();
                drain(client).await;
            }
        }
    }

    /// Counts the trap that has fired on this connection, once.
    fn count(&self) {
        if mem::take(&mut hold(&self.talk).sprung) {
            self.shared.fired.send_modify(|fired| *fired += 1);
        }
    }

    /// Notes what the client has sent. This happens before it is forwarded, so that the answer to it cannot be read
    /// first.
    fn note_client(&self, ear: &Ear, cut: Option<Side>) {
        let mut talk = hold(&self.talk);
        talk.started = ear.has_started();
        talk.muted |= ear.has_fired();
        talk.sprung |= ear.has_fired() || cut.is_some();
        if cut == Some(Side::After) {
            talk.awaited = ear.answer();
        }
    }

    fn note_server(&self, ear: &Ear, cut: Option<Side>) {
        hold(&self.talk).sprung |= ear.has_fired() || cut.is_some();
    }

    fn is_started(&self) -> bool {
        hold(&self.talk).started
    }

    fn is_muted(&self) -> bool {
        hold(&self.talk).muted
    }

    fn awaited(&self) -> Option<Answer> {
        hold(&self.talk).awaited
    }
}

/// Waits for a mode that lets traffic through, and returns its delay.
async fn opened(mode: &mut watch::Receiver<Mode>) -> Duration {
    let open = mode.wait_for(|mode| matches!(mode, Mode::Pass | Mode::Delay(_))).await;
    match open.as_deref() {
        Ok(Mode::Delay(delay)) => *delay,
        _ => Duration::ZERO,
    }
}

/// One direction of one connection.
struct Pipe<'a> {
    link: &'a Link,
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    mode: watch::Receiver<Mode>,
    ear: Ear,
    /// Bytes that were read and are not forwarded yet. They begin at the start of a message.
    buffer: Vec<u8>,
}

impl<'a> Pipe<'a> {
    fn new(link: &'a Link, peer: Peer, from: ReadHalf<'a>, to: WriteHalf<'a>) -> Pipe<'a> {
        let mode = link.shared.mode.subscribe();
        let ear = Ear::new(link.shared.protocol, peer);
        Pipe { link, from, to, mode, ear, buffer: Vec::new() }
    }

    /// Forwards the client's messages until the client closes or a trap fires.
    async fn upward(mut self) -> Result<(), End> {
        while self.read().await? > 0 {
            let verdict = self.judge();
            self.link.note_client(&self.ear, verdict.cut);
            self.forward(verdict.forward).await?;
            match verdict.cut {
                None => {}
                Some(Side::Before) => return Err(End::Upward),
                Some(Side::After) => return self.await_answer().await,
            }
        }
        Ok(self.finish().await?)
    }

    /// Makes sure that the server answers, and then waits. The other direction sees the answer and ends the connection.
    async fn await_answer(&mut self) -> Result<(), End> {
        let fence = self.link.awaited().map(Answer::fence).unwrap_or_default();
        self.to.write_all(&fence).await?;
        std::future::pending().await
    }

    /// Forwards the server's messages until the server closes, a trap fires, or the answer to a fired trap has come.
    async fn downward(mut self) -> Result<(), End> {
        while self.read().await? > 0 {
            self.ear.follow(self.link.is_started());
            let verdict = self.judge();
            if self.link.is_muted() {
                self.swallow(verdict.forward)?;
                continue;
            }
            self.link.note_server(&self.ear, verdict.cut);
            self.forward(verdict.forward).await?;
            if verdict.cut.is_some() {
                return Err(End::Downward);
            }
        }
        self.server_closed().await
    }

    /// Discards `count` bytes from the server instead of forwarding them. Ends the connection if the awaited answer is
    /// among them.
    fn swallow(&mut self, count: usize) -> Result<(), End> {
        self.buffer.drain(..count);
        match self.link.awaited() {
            Some(answer) if self.ear.has_heard(answer) => Err(End::Upward),
            _ => Ok(()),
        }
    }

    /// Neither Postgres nor RabbitMQ closes only one half. When the server closes, the whole connection is over.
    async fn server_closed(&mut self) -> Result<(), End> {
        if self.link.is_muted() {
            return Err(End::Upward);
        }
        self.finish().await?;
        Err(End::Closed)
    }

    fn judge(&mut self) -> Verdict {
        self.ear.judge(&self.buffer, &self.link.shared.armed)
    }

    /// Appends a chunk to the buffer. If the mode changes first, it starts again under the new mode.
    async fn read(&mut self) -> io::Result<usize> {
        self.buffer.reserve(CHUNK);
        loop {
            opened(&mut self.mode).await;
            tokio::select! {
                biased;
                _ = self.mode.changed() => {}
                count = self.from.read_buf(&mut self.buffer) => return count,
            }
        }
    }

    /// Forwards the first `count` bytes of the buffer in one write, once the mode allows it.
    async fn forward(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.pass_gate().await;
        self.to.write_all(&self.buffer[..count]).await?;
        self.buffer.drain(..count);
        Ok(())
    }

    async fn pass_gate(&mut self) {
        let delay = opened(&mut self.mode).await;
        if !delay.is_zero() {
            sleep(delay).await;
            // The mode may have changed meanwhile.
            opened(&mut self.mode).await;
        }
    }

    /// Forwards what is left in the buffer, even half a message, and then the end of the stream.
    async fn finish(&mut self) -> io::Result<()> {
        self.pass_gate().await;
        self.to.write_all(&self.buffer).await?;
        self.to.shutdown().await
    }
}
