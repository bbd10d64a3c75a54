//! A TCP proxy between the program under test and a real Postgres or a real RabbitMQ.
//!
//! It can pass, delay, black-hole, refuse and reset. It also reads enough of both byte streams to cut a connection at
//! one decisive message, on a chosen side of it: that is how a test gets the commit whose answer is lost, every time
//! and without a sleep.
//!
//! Plain text only: with TLS on, there is nothing to read, so the tests connect with `sslmode=disable` and `amqp://`.

mod amqp;
mod ear;
mod pipe;
mod postgres;

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipe::{reset, serve};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
    /// The next bytes that the server sends (opaque).
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

    /// From now on new connections go to another server, as when an address moves from one machine to the next. Open ones stay.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *hold(&self.shared.upstream) = upstream;
    }

    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
        if mode == Mode::Refuse {
            // Connections that watch the mode would miss a refusal that is over quickly, so all are reset here.
            self.reset_all();
        }
    }

    /// Resets every open connection, on both sides. New ones are served as the mode says.
    pub fn reset_all(&self) {
        let fresh = self.shared.stop.child_token();
        mem::replace(&mut *hold(&self.shared.kill), fresh).cancel();
    }

    /// Arms a trap for the first connection that meets it. It replaces a trap that is still armed.
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
    /// If the message went to the server, the server has closed its end by then: a Postgres backend has released its
    /// locks.
    pub async fn sprung(&self, count: u64) {
        // This fails only when the sender is gone, and `self` owns the sender.
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
    upstream: Mutex<SocketAddr>,
    mode: watch::Sender<Mode>,
    armed: Armed,
    fired: watch::Sender<u64>,
    stop: CancellationToken,
    /// Resets the connections that are open now, and is then replaced. A child of `stop`.
    kill: Mutex<CancellationToken>,
    tasks: TaskTracker,
}

impl Shared {
    fn new(protocol: Protocol, upstream: SocketAddr) -> Shared {
        let stop = CancellationToken::new();
        Shared {
            protocol,
            upstream: Mutex::new(upstream),
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
        // The token is read before the mode. So a connection that still sees an open mode is reset when the mode
        // becomes a refusal.
        let kill = hold(&self.kill).clone();
        match self.mode() {
            Mode::Refuse => reset(client),
            _ => drop(self.tasks.spawn(serve(self.clone(), kill, client))),
        }
    }
}

/// The armed trap, if any.
struct Armed(Mutex<Option<Trap>>);

impl Armed {
    /// Takes the trap if its moment has come, so that one trap never fires on two connections.
    fn spring(&self, has_come: impl FnOnce(Moment) -> bool) -> Option<Side> {
        hold(&self.0).take_if(|trap| has_come(trap.at)).map(|trap| trap.side)
    }
}

/// Locks, and ignores poisoning: a test that fails must not cause a second panic.
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

/// The sender of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Client,
    Server,
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

mod tests {
    use super::postgres::tests::{ready, startup, typed};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
