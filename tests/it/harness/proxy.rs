//! A TCP proxy between the program under test and a real Postgres or a real RabbitMQ.
//!
//! It can pass, delay, black-hole, refuse and reset. It also reads enough of both byte streams to cut a connection at
//! one decisive message, on a chosen side of it: that is how a test gets the commit whose answer is lost, every time
//! and without a sleep.
//!
//! Plain text only: with TLS on, there is nothing to read, so the tests connect with `sslmode=disable` and `amqp://`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How much room a read has; longer messages take several reads.
const CHUNK: usize = 16 * 1024;

/// The pause after a failed `accept`, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Which byte stream the proxy reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Postgres,
    Amqp,
    /// Anything. A message is whatever was read at once.
    Opaque,
}

/// What the proxy does with traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Holds each chunk, each way, for this long.
    Delay(Duration),
    /// Accepts connections, reads nothing and forwards nothing. What was held goes on when the mode changes.
    BlackHole,
    /// Resets every open connection at once, and each new one as it comes.
    Refuse,
}

/// A decisive message, and on which side of it to cut. It works once: it is disarmed when it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    pub at: Moment,
    pub side: Side,
}

/// A message worth cutting a connection at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The simple query `COMMIT` (Postgres).
    Commit,
    /// The Bind of a statement whose text contains this, or a simple query that does (Postgres).
    Statement(&'static str),
    /// A basic.publish whose routing key contains this (AMQP, client to server).
    Publish(&'static str),
    /// A basic.ack from the client (AMQP).
    Ack,
    /// A basic.deliver from the server (AMQP).
    Deliver,
    /// Whatever the server says first or next (opaque).
    Said,
}

/// The side of the decisive message on which the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The message never arrives; everything before it does.
    Before,
    /// The message arrives whole, but its sender never hears so. A server that got it has dealt with it by then.
    After,
}

/// A listening proxy. Dropping it stops the listening and resets what is open.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1, in [`Mode::Pass`].
    pub async fn start(protocol: Protocol, upstream: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(protocol, upstream));
        tokio::spawn(accept(shared.clone(), listener));
        Ok(Proxy { shared, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
        if mode == Mode::Refuse {
            // Not left to the watching connections: they would miss a refusal that is over quickly.
            self.reset_all();
        }
    }

    /// Resets every open connection, on both sides. New ones are served as the mode says.
    pub fn reset_all(&self) {
        let fresh = self.shared.stop.child_token();
        mem::replace(&mut *hold(&self.shared.kill), fresh).cancel();
    }

    /// Sets a trap for whichever connection walks into it first, in place of one that was armed.
    pub fn arm(&self, trap: Trap) {
        *hold(&self.shared.armed.0) = Some(trap);
    }

    pub fn disarm(&self) {
        *hold(&self.shared.armed.0) = None;
    }

    pub fn is_armed(&self) -> bool {
        hold(&self.shared.armed.0).is_some()
    }

    /// Waits until at least this many traps have fired since the start, each with its cut made.
    ///
    /// For a message to the server, the server has closed its end by then: a Postgres backend has let go of its locks.
    pub async fn sprung(&self, count: u64) {
        // Fails only when the sender is gone, and `self` owns it.
        self.shared.fired.subscribe().wait_for(|fired| *fired >= count).await.ok();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// What the proxy and all its connections know.
struct Shared {
    protocol: Protocol,
    upstream: SocketAddr,
    mode: watch::Sender<Mode>,
    armed: Armed,
    fired: watch::Sender<u64>,
    stop: CancellationToken,
    /// Ends the connections of today; replaced when it does. A child of `stop`.
    kill: Mutex<CancellationToken>,
    tasks: TaskTracker,
}

impl Shared {
    fn new(protocol: Protocol, upstream: SocketAddr) -> Shared {
        let stop = CancellationToken::new();
        Shared {
            protocol,
            upstream,
            mode: watch::Sender::new(Mode::Pass),
            armed: Armed(Mutex::new(None)),
            fired: watch::Sender::new(0),
            kill: Mutex::new(stop.child_token()),
            stop,
            tasks: TaskTracker::new(),
        }
    }

    fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    fn admit(self: &Arc<Self>, client: TcpStream) {
        // The token before the mode: whoever still sees a mode that lets it in is reached by the refusal's reset.
        let kill = hold(&self.kill).clone();
        match self.mode() {
            Mode::Refuse => reset(client),
            _ => drop(self.tasks.spawn(serve(self.clone(), kill, client))),
        }
    }
}

/// The trap that waits, if any.
struct Armed(Mutex<Option<Trap>>);

impl Armed {
    /// Takes the trap if its moment has come, so that one trap never fires on two connections.
    fn spring(&self, has_come: impl FnOnce(Moment) -> bool) -> Option<Side> {
        hold(&self.0).take_if(|trap| has_come(trap.at)).map(|trap| trap.side)
    }
}

/// A lock without poisoning: a failed test must not bring the next panic with it.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => shared.admit(client),
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// Serves one connection to its end. Both sockets are owned here, so that any end can still choose how to close them.
async fn serve(shared: Arc<Shared>, kill: CancellationToken, mut client: TcpStream) {
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
fn reset(stream: TcpStream) {
    stream.set_zero_linger().ok();
}

/// Closes so that the other end still reads everything: says goodbye, then waits for the same.
///
/// Dropping a socket with unread bytes in it would send an RST after the goodbye, hence the reading.
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

/// What one direction has to know of the other.
#[derive(Default)]
struct Talk {
    /// The client's stream has come to its typed messages, so the server's is about to.
    started: bool,
    /// A trap was sprung here and is not counted yet.
    sprung: bool,
    /// A message to the server has sprung its trap: from now on the client hears nothing.
    muted: bool,
    /// The answer after which the connection ends.
    awaited: Option<Answer>,
}

impl Link {
    /// Connects to the server, but not through a black hole.
    async fn connect(&self, client: &TcpStream) -> io::Result<TcpStream> {
        opened(&mut self.shared.mode.subscribe()).await;
        let server = TcpStream::connect(self.shared.upstream).await?;
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

    /// After a trap, the side the message went to gets an orderly close, or bytes on their way there could be lost.
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
                // Counted first: when the client closes its end is the client's business.
                self.count();
                drain(client).await;
            }
        }
    }

    /// Counts the trap sprung here, once.
    fn count(&self) {
        if mem::take(&mut hold(&self.talk).sprung) {
            self.shared.fired.send_modify(|fired| *fired += 1);
        }
    }

    /// Notes what the client said, before it is forwarded: no answer to it can be read earlier.
    fn note_client(&self, ear: &Ear, cut: Option<Side>) {
        let mut talk = hold(&self.talk);
        talk.started = !ear.framing.opening;
        talk.muted |= ear.ending.is_some();
        talk.sprung |= ear.ending.is_some() || cut.is_some();
        if cut == Some(Side::After) {
            talk.awaited = ear.answer();
        }
    }

    fn note_server(&self, ear: &Ear, cut: Option<Side>) {
        hold(&self.talk).sprung |= ear.ending.is_some() || cut.is_some();
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
    /// What was read and not forwarded yet. Begins at the beginning of a message.
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

    /// Leaves the end of the connection to the other direction, which sees the answer.
    async fn await_answer(&mut self) -> Result<(), End> {
        let fence = self.link.awaited().map(Answer::fence).unwrap_or_default();
        self.to.write_all(&fence).await?;
        std::future::pending().await
    }

    /// Forwards the server's messages until the server closes, a trap fires, or a fired one has its answer.
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

    /// Keeps an answer from the client, and ends the connection if it is the awaited one.
    fn swallow(&mut self, count: usize) -> Result<(), End> {
        self.buffer.drain(..count);
        match self.link.awaited() {
            Some(answer) if self.ear.has_heard(answer) => Err(End::Upward),
            _ => Ok(()),
        }
    }

    /// Neither server half-closes: when it has nothing more to say, it does not listen either.
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

    /// Reads a chunk onto the buffer, unless the mode changes first: then it starts again under the new mode.
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

    /// Writes the first bytes of the buffer, all in one, when the mode allows.
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

    /// Passes an end of stream on, after what is left, be it half a message.
    async fn finish(&mut self) -> io::Result<()> {
        self.pass_gate().await;
        self.to.write_all(&self.buffer).await?;
        self.to.shutdown().await
    }
}

/// The sender of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Client,
    Server,
}

/// How a stream is split into messages.
#[derive(Debug)]
struct Framing {
    protocol: Protocol,
    peer: Peer,
    /// Before the first message of the common form: a Postgres client's start-up, or AMQP's protocol header.
    opening: bool,
}

impl Framing {
    fn new(protocol: Protocol, peer: Peer) -> Framing {
        Framing { protocol, peer, opening: true }
    }

    /// Takes one whole message off the front, or nothing if it is not all there yet.
    fn take_message<'a>(&mut self, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (message, after) = rest.split_at_checked(self.length(rest)?)?;
        *rest = after;
        self.opening = self.opening && self.stays_opening(message);
        Some(message)
    }

    /// The length of the message that begins here. Never 0: a nonsensical length must not stop the stream.
    fn length(&self, bytes: &[u8]) -> Option<usize> {
        match (self.protocol, self.peer, self.opening) {
            (Protocol::Postgres, Peer::Client, true) => Some(word(bytes, 0)?.max(4)),
            // The answers to requests for encryption are single bytes.
            (Protocol::Postgres, Peer::Server, true) => Some(1),
            (Protocol::Postgres, _, false) => Some(1 + word(bytes, 1)?.max(4)),
            (Protocol::Amqp, Peer::Client, true) => Some(8),
            (Protocol::Amqp, _, _) => Some(FRAME_HEAD + word(bytes, 3)? + 1),
            (Protocol::Opaque, _, _) => (!bytes.is_empty()).then_some(bytes.len()),
        }
    }

    /// A Postgres client may ask for encryption before it starts. The server's stream follows the client's.
    fn stays_opening(&self, message: &[u8]) -> bool {
        match (self.protocol, self.peer) {
            (Protocol::Postgres, Peer::Client) => matches!(word(message, 4), Some(SSL_REQUEST | GSSENC_REQUEST)),
            (Protocol::Postgres, Peer::Server) => true,
            (Protocol::Amqp | Protocol::Opaque, _) => false,
        }
    }
}

/// How much of what was read may go on, and on which side of a trap the connection is to be cut then.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    forward: usize,
    cut: Option<Side>,
}

/// Listens to one stream of a connection.
///
/// Messages are told apart by their first byte alone. That is enough: an AMQP frame begins with a small number or, for
/// the protocol header, an `A`; a Postgres start-up begins with the 0 of its length; all else of Postgres has a letter.
struct Ear {
    framing: Framing,
    /// The texts of the statements the client has prepared, by name.
    statements: HashMap<Vec<u8>, Vec<u8>>,
    /// The ReadyForQuery messages asked for (client) or sent (server) so far.
    exchanges: u64,
    /// The channels the server holds closed. Channel 0 stands for the whole connection.
    closed: HashSet<u16>,
    /// A trap of [`Side::After`] has fired, and this is what its message ends with.
    ending: Option<Ending>,
}

impl Ear {
    fn new(protocol: Protocol, peer: Peer) -> Ear {
        Ear {
            framing: Framing::new(protocol, peer),
            statements: HashMap::new(),
            exchanges: 0,
            closed: HashSet::new(),
            ending: None,
        }
    }

    /// Puts the server's stream where the client's is.
    fn follow(&mut self, started: bool) {
        self.framing.opening = self.framing.protocol == Protocol::Postgres && !started;
    }

    /// Goes through the whole messages in these bytes, up to one that ends the connection.
    fn judge(&mut self, bytes: &[u8], armed: &Armed) -> Verdict {
        let mut rest = bytes;
        loop {
            let forward = bytes.len() - rest.len();
            let Some(message) = self.framing.take_message(&mut rest) else { return Verdict { forward, cut: None } };
            match self.weigh(message, armed) {
                None => {}
                cut @ Some(Side::Before) => return Verdict { forward, cut },
                cut @ Some(Side::After) => return Verdict { forward: forward + message.len(), cut },
            }
        }
    }

    /// Whether to cut before or after this message.
    fn weigh(&mut self, message: &[u8], armed: &Armed) -> Option<Side> {
        if self.framing.protocol == Protocol::Opaque {
            let peer = self.framing.peer;
            return armed.spring(|at| peer == Peer::Server && at == Moment::Said);
        }
        self.remember(message);
        if self.ending.is_none() {
            match armed.spring(|at| self.is_at(message, at))? {
                Side::Before => return Some(Side::Before),
                Side::After => self.ending = Some(Ending::of(message)),
            }
        }
        self.ending.as_mut()?.is_reached(message).then_some(Side::After)
    }

    fn remember(&mut self, message: &[u8]) {
        match (self.framing.peer, kind(message)) {
            (Peer::Client, b'P') => self.remember_statement(message),
            (Peer::Client, b'Q' | b'S' | b'F') => self.exchanges += 1,
            (Peer::Client, 0) if !self.framing.opening => self.exchanges += 1,
            (Peer::Server, b'Z') => self.exchanges += 1,
            (Peer::Server, METHOD) => self.remember_channel(message),
            _ => {}
        }
    }

    fn remember_statement(&mut self, parse: &[u8]) {
        if let Some((name, text)) = parsed(parse) {
            self.statements.insert(name.to_vec(), text.to_vec());
        }
    }

    fn remember_channel(&mut self, frame: &[u8]) {
        let channel = channel(frame);
        match method(frame) {
            Some(CHANNEL_OPEN_OK) => self.closed.remove(&channel),
            Some(CHANNEL_CLOSE | CHANNEL_CLOSE_OK | CONNECTION_CLOSE) => self.closed.insert(channel),
            _ => false,
        };
    }

    fn is_at(&self, message: &[u8], at: Moment) -> bool {
        match (self.framing.peer, at) {
            (Peer::Client, Moment::Commit) => simple_query(message).is_some_and(is_commit),
            (Peer::Client, Moment::Statement(name)) => self.statement(message).is_some_and(|text| contains(text, name)),
            (Peer::Client, Moment::Publish(part)) => routing_key(message).is_some_and(|key| contains(key, part)),
            (Peer::Client, Moment::Ack) => method(message) == Some(BASIC_ACK),
            (Peer::Server, Moment::Deliver) => method(message) == Some(BASIC_DELIVER),
            _ => false,
        }
    }

    /// The text of the statement that this message runs.
    fn statement<'a>(&'a self, message: &'a [u8]) -> Option<&'a [u8]> {
        match kind(message) {
            b'B' => self.statements.get(bound(message)?).map(Vec::as_slice),
            _ => simple_query(message),
        }
    }

    /// What the server says once it has dealt with the message that sprang the trap. Of the client's stream.
    fn answer(&self) -> Option<Answer> {
        match self.ending.as_ref()? {
            Ending::Query | Ending::Sync => Some(Answer::Ready(self.exchanges)),
            Ending::Ack { channel } | Ending::Content { channel, .. } => Some(Answer::Closed(*channel)),
        }
    }

    /// Whether the server's stream has come to this answer.
    fn has_heard(&self, answer: Answer) -> bool {
        match answer {
            Answer::Ready(exchanges) => self.exchanges >= exchanges,
            Answer::Closed(channel) => self.closed.contains(&channel) || self.closed.contains(&0),
        }
    }
}

/// How the server shows that it has dealt with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Postgres: this many ReadyForQuery messages since the connection began.
    Ready(u64),
    /// AMQP: the channel is closed.
    Closed(u16),
}

impl Answer {
    /// What the proxy itself has to say to get the answer.
    ///
    /// AMQP has no answer to an ack, nor to a publish without confirms, and RabbitMQ may drop what it has read but not
    /// handled when the connection ends. It handles a channel's methods in order, so once a channel.close of ours is
    /// answered, all before it has been handled. To the broker, the rest is as if the connection had been lost: what
    /// the channel had not acknowledged goes back to its queue.
    fn fence(self) -> Vec<u8> {
        match self {
            Answer::Ready(_) => Vec::new(),
            Answer::Closed(channel) => frame(METHOD, channel, &CHANNEL_CLOSE_PAYLOAD),
        }
    }
}

/// Where a decisive message ends, with all that has to follow it for the receiver to act on it.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// A simple query: at once.
    Query,
    /// A Bind: at the Sync that asks for the answer.
    Sync,
    /// A basic.ack: at once.
    Ack { channel: u16 },
    /// A basic.publish or basic.deliver: when the header and the body have passed on the same channel.
    Content { channel: u16, left: Option<u64> },
}

impl Ending {
    fn of(message: &[u8]) -> Ending {
        match (kind(message), method(message)) {
            (b'B', _) => Ending::Sync,
            (_, Some(BASIC_ACK)) => Ending::Ack { channel: channel(message) },
            (_, Some(_)) => Ending::Content { channel: channel(message), left: None },
            _ => Ending::Query,
        }
    }

    /// Whether this message, the decisive one or a later one, is the last that belongs to it.
    fn is_reached(&mut self, message: &[u8]) -> bool {
        match self {
            Ending::Query | Ending::Ack { .. } => true,
            Ending::Sync => kind(message) == b'S',
            Ending::Content { channel: own, .. } if *own != channel(message) => false,
            Ending::Content { left, .. } => {
                *left = left_after(*left, message);
                *left == Some(0)
            }
        }
    }
}

/// How much of a body is to come after this frame; unknown before the header.
fn left_after(left: Option<u64>, frame: &[u8]) -> Option<u64> {
    match kind(frame) {
        HEADER => long(frame, FRAME_HEAD + 4),
        BODY => left.map(|left| left.saturating_sub(frame.len().saturating_sub(FRAME_HEAD + 1) as u64)),
        _ => left,
    }
}

/// The first byte of a message.
fn kind(message: &[u8]) -> u8 {
    message.first().copied().unwrap_or_default()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|half| u16::from_be_bytes(*half))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk::<4>().map(|word| u32::from_be_bytes(*word) as usize)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|long| u64::from_be_bytes(*long))
}

fn contains(text: &[u8], part: &str) -> bool {
    String::from_utf8_lossy(text).contains(part)
}

// Postgres: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

const SSL_REQUEST: usize = 80_877_103;
const GSSENC_REQUEST: usize = 80_877_104;

/// The type byte and the length.
const MESSAGE_HEAD: usize = 5;

fn simple_query(message: &[u8]) -> Option<&[u8]> {
    let body = message.get(MESSAGE_HEAD..)?;
    (kind(message) == b'Q').then(|| split_nul(body).map_or(body, |(text, _)| text))
}

fn is_commit(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    text.strip_suffix(b";").unwrap_or(text).trim_ascii().eq_ignore_ascii_case(b"commit")
}

/// The name and the text in a Parse.
fn parsed(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = split_nul(message.get(MESSAGE_HEAD..)?)?;
    let (text, _) = split_nul(rest)?;
    Some((name, text))
}

/// The name of the statement in a Bind, which stands after the portal's.
fn bound(message: &[u8]) -> Option<&[u8]> {
    let (_, rest) = split_nul(message.get(MESSAGE_HEAD..)?)?;
    split_nul(rest).map(|(name, _)| name)
}

fn split_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

// AMQP 0-9-1: <https://www.rabbitmq.com/amqp-0-9-1-reference>

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;

/// The type, the channel and the size.
const FRAME_HEAD: usize = 7;

const CONNECTION_CLOSE: (u16, u16) = (10, 50);
const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const CHANNEL_CLOSE_OK: (u16, u16) = (20, 41);
const BASIC_PUBLISH: (u16, u16) = (60, 40);
const BASIC_DELIVER: (u16, u16) = (60, 60);
const BASIC_ACK: (u16, u16) = (60, 80);

/// channel.close with reply code 200, no reply text, and no method to blame.
const CHANNEL_CLOSE_PAYLOAD: [u8; 11] = [0, 20, 0, 40, 0, 200, 0, 0, 0, 0, 0];

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(FRAME_END);
    frame
}

fn channel(frame: &[u8]) -> u16 {
    half(frame, 1).unwrap_or_default()
}

/// The class and the method of a method frame.
fn method(frame: &[u8]) -> Option<(u16, u16)> {
    match kind(frame) {
        METHOD => Some((half(frame, FRAME_HEAD)?, half(frame, FRAME_HEAD + 2)?)),
        _ => None,
    }
}

/// The routing key of a basic.publish, which stands after two reserved bytes and the exchange.
fn routing_key(frame: &[u8]) -> Option<&[u8]> {
    if method(frame) != Some(BASIC_PUBLISH) {
        return None;
    }
    let (_, rest) = split_short(frame.get(FRAME_HEAD + 4 + 2..)?)?;
    split_short(rest).map(|(key, _)| key)
}

/// Splits a short string, which has its length in one byte, off the front.
fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

mod tests {
    use super::*;

    fn untyped(payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32 + 4;
        [&length.to_be_bytes()[..], payload].concat()
    }

    fn typed(kind: u8, payload: &[u8]) -> Vec<u8> {
        [vec![kind], untyped(payload)].concat()
    }

    fn ssl_request() -> Vec<u8> {
        untyped(&(SSL_REQUEST as u32).to_be_bytes())
    }

    fn startup() -> Vec<u8> {
        untyped(b"\0\x03\0\0user\0earmark\0\0")
    }

    fn ready() -> Vec<u8> {
        typed(b'Z', b"I")
    }

    /// A client's stream after the start: a prepared statement, run twice in one go, and what comes behind it.
    fn prepared() -> Vec<Vec<u8>> {
        vec![
            startup(),
            typed(b'P', b"s1\0INSERT INTO debits VALUES ($1)\0\0\0"),
            typed(b'S', b""),
            typed(b'B', b"\0s1\0\0\0\0\0\0\0"),
            typed(b'E', b"\0\0\0\0\0"),
            typed(b'S', b""),
            typed(b'Q', b"SELECT 1\0"),
        ]
    }

    fn publish(channel: u16, key: &str) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 40, 0, 0, 2, b'e', b'x', key.len() as u8];
        payload.extend(key.as_bytes());
        payload.push(0);
        frame(METHOD, channel, &payload)
    }

    fn header(channel: u16, size: u64) -> Vec<u8> {
        frame(HEADER, channel, &[&[0, 60, 0, 0][..], &size.to_be_bytes(), &[0, 0]].concat())
    }

    /// Two publishes on two channels, their content interleaved.
    fn published() -> Vec<Vec<u8>> {
        vec![
            b"AMQP\0\0\x09\x01".to_vec(),
            publish(1, "orders.new"),
            header(1, 3),
            publish(2, "results.done"),
            frame(BODY, 1, b"abc"),
            header(2, 5),
            frame(BODY, 2, b"abc"),
            frame(BODY, 2, b"de"),
            publish(1, "results.late"),
        ]
    }

    fn armed(at: Moment, side: Side) -> Armed {
        Armed(Mutex::new(Some(Trap { at, side })))
    }

    fn client(protocol: Protocol) -> Ear {
        Ear::new(protocol, Peer::Client)
    }

    /// The verdict that forwards this many of the messages and then cuts.
    fn cut_after(messages: &[Vec<u8>], count: usize, side: Side) -> Verdict {
        Verdict { forward: messages[..count].concat().len(), cut: Some(side) }
    }

    /// Feeds a stream in pieces of one size, as a pipe does, and returns the messages that come off it.
    fn split(mut framing: Framing, stream: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut buffer: Vec<u8> = Vec::new();
        let mut messages = Vec::new();
        for chunk in stream.chunks(piece) {
            buffer.extend(chunk);
            let mut rest = buffer.as_slice();
            while let Some(message) = framing.take_message(&mut rest) {
                messages.push(message.to_vec());
            }
            buffer = rest.to_vec();
        }
        messages
    }

    #[test]
    fn messages_come_off_a_stream_however_it_is_cut_into_reads() {
        let postgres = [vec![ssl_request()], prepared()].concat();
        for (protocol, messages) in [(Protocol::Postgres, postgres), (Protocol::Amqp, published())] {
            let stream = messages.concat();
            for piece in 1..=stream.len() {
                assert_eq!(split(Framing::new(protocol, Peer::Client), &stream, piece), messages);
            }
        }
    }

    #[test]
    fn the_server_answers_a_request_for_encryption_in_one_byte() {
        let mut ear = Ear::new(Protocol::Postgres, Peer::Server);
        let nothing = Armed(Mutex::new(None));
        ear.follow(false);
        assert_eq!(ear.judge(b"N", &nothing), Verdict { forward: 1, cut: None });
        ear.follow(true);
        assert_eq!(ear.judge(&ready()[..5], &nothing), Verdict { forward: 0, cut: None });
        assert_eq!(ear.judge(&ready(), &nothing), Verdict { forward: 6, cut: None });
        assert!(ear.has_heard(Answer::Ready(1)));
    }

    #[test]
    fn a_statement_fires_on_its_bind_and_ends_with_its_sync() {
        let messages = prepared();
        for (side, count) in [(Side::Before, 3), (Side::After, 6)] {
            let armed = armed(Moment::Statement("INTO debits"), side);
            let verdict = client(Protocol::Postgres).judge(&messages.concat(), &armed);
            assert_eq!(verdict, cut_after(&messages, count, side));
            assert_eq!(*hold(&armed.0), None, "a trap fires once");
        }
    }

    #[test]
    fn a_statement_is_answered_when_all_before_it_is_too() {
        let armed = armed(Moment::Statement("INTO debits"), Side::After);
        let mut ear = client(Protocol::Postgres);
        ear.judge(&prepared().concat(), &armed);
        // The start-up and two Syncs.
        assert_eq!(ear.answer(), Some(Answer::Ready(3)));
    }

    #[test]
    fn only_a_commit_is_a_commit() {
        for (text, expected) in [("COMMIT", true), ("commit;", true), ("COMMIT PREPARED 'a'", false), ("BEGIN", false)]
        {
            let query = typed(b'Q', format!("{text}\0").as_bytes());
            assert_eq!(client(Protocol::Postgres).is_at(&query, Moment::Commit), expected, "{text}");
        }
    }

    #[test]
    fn a_publish_fires_on_its_routing_key_and_ends_with_its_body() {
        let messages = published();
        for (side, count) in [(Side::Before, 3), (Side::After, 8)] {
            let mut ear = client(Protocol::Amqp);
            let verdict = ear.judge(&messages.concat(), &armed(Moment::Publish("results"), side));
            assert_eq!(verdict, cut_after(&messages, count, side));
            assert_eq!(ear.answer(), (side == Side::After).then_some(Answer::Closed(2)));
        }
    }

    #[test]
    fn a_channel_that_was_opened_again_is_not_closed() {
        let mut ear = Ear::new(Protocol::Amqp, Peer::Server);
        ear.remember(&frame(METHOD, 2, &[0, 20, 0, 41]));
        assert!(ear.has_heard(Answer::Closed(2)));
        ear.remember(&frame(METHOD, 2, &[0, 20, 0, 11, 0, 0, 0, 0]));
        assert!(!ear.has_heard(Answer::Closed(2)));
    }

    #[tokio::test]
    async fn a_commit_arrives_and_its_answer_does_not() -> io::Result<()> {
        let upstream = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Proxy::start(Protocol::Postgres, upstream.local_addr()?).await?;
        proxy.arm(Trap { at: Moment::Commit, side: Side::After });
        let said = [startup(), typed(b'Q', b"COMMIT\0")].concat();
        let mut client = TcpStream::connect(proxy.address()).await?;
        client.write_all(&said).await?;

        let (mut server, _) = upstream.accept().await?;
        let mut heard = vec![0; said.len()];
        server.read_exact(&mut heard).await?;
        assert_eq!(heard, said);
        server.write_all(&[ready(), ready()].concat()).await?;
        assert_eq!(server.read(&mut [0]).await?, 0, "the server's end is closed in order");
        drop(server);

        proxy.sprung(1).await;
        assert!(!proxy.is_armed());
        assert!(client.read(&mut [0]).await.is_err(), "the client's end is reset");
        Ok(())
    }

    #[tokio::test]
    async fn a_black_hole_holds_what_it_passes_on_later() -> io::Result<()> {
        let upstream = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Proxy::start(Protocol::Postgres, upstream.local_addr()?).await?;
        proxy.set(Mode::BlackHole);
        let mut client = TcpStream::connect(proxy.address()).await?;
        client.write_all(&startup()).await?;
        proxy.set(Mode::Pass);

        let (mut server, _) = upstream.accept().await?;
        let mut heard = vec![0; startup().len()];
        server.read_exact(&mut heard).await?;
        assert_eq!(heard, startup());
        proxy.set(Mode::Refuse);
        assert!(client.read(&mut [0]).await.is_err(), "a refusal resets what is open");
        Ok(())
    }
}
