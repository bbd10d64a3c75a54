//! Finds the decisive message in one stream of a connection, and the answer which shows that the receiver has handled
//! it.

use super::amqp::{
    BASIC_ACK, BASIC_DELIVER, CHANNEL_CLOSE, CHANNEL_CLOSE_OK, CHANNEL_OPEN_OK, CONNECTION_CLOSE, METHOD, channel,
    left_after, method, routing_key,
};
use super::postgres::{bound, is_commit, parsed, simple_query};
use super::{Armed, Moment, Peer, Protocol, Side, amqp, kind, postgres};
use std::collections::{HashMap, HashSet};

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
        match self.protocol {
            Protocol::Postgres => postgres::length(bytes, self.peer, self.opening),
            Protocol::Amqp => amqp::length(bytes, self.peer, self.opening),
            Protocol::Opaque => (!bytes.is_empty()).then_some(bytes.len()),
        }
    }

    /// Whether the stream is still in its opening after this message. A Postgres server's stream leaves its opening
    /// only through [`Ear::follow`].
    fn stays_opening(&self, message: &[u8]) -> bool {
        match (self.protocol, self.peer) {
            (Protocol::Postgres, Peer::Client) => postgres::asks_for_encryption(message),
            (Protocol::Postgres, Peer::Server) => true,
            (Protocol::Amqp | Protocol::Opaque, _) => false,
        }
    }
}

/// How many of the bytes may be forwarded, and on which side of a trap the connection is then cut.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub forward: usize,
    pub cut: Option<Side>,
}

/// Listens to one stream of a connection.
///
/// It tells messages apart by their first byte alone. That is enough: an AMQP frame begins with a small number or, for
/// the protocol header, an `A`. A Postgres start-up begins with the 0 of its length. All other messages of Postgres
/// begin with a letter.
pub struct Ear {
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
    pub fn new(protocol: Protocol, peer: Peer) -> Ear {
        Ear {
            framing: Framing::new(protocol, peer),
            statements: HashMap::new(),
            exchanges: 0,
            closed: HashSet::new(),
            ending: None,
        }
    }

    /// Whether the stream is past its opening and has typed messages.
    pub fn has_started(&self) -> bool {
        !self.framing.opening
    }

    /// Whether a trap of [`Side::After`] has fired here.
    pub fn has_fired(&self) -> bool {
        self.ending.is_some()
    }

    /// Tells the server's stream whether the client's stream is past its opening.
    pub fn follow(&mut self, started: bool) {
        self.framing.opening = self.framing.protocol == Protocol::Postgres && !started;
    }

    /// Looks at each whole message in these bytes, up to one that ends the connection.
    pub fn judge(&mut self, bytes: &[u8], armed: &Armed) -> Verdict {
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
                Side::After => self.ending = Some(Ending::new(message)),
            }
        }
        self.ending.as_mut()?.is_reached(message).then_some(Side::After)
    }

    pub fn remember(&mut self, message: &[u8]) {
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

    pub fn is_at(&self, message: &[u8], at: Moment) -> bool {
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

    /// The answer that the server sends when it has handled the message of the trap. Only the client's stream knows it.
    pub fn answer(&self) -> Option<Answer> {
        match self.ending.as_ref()? {
            Ending::Query | Ending::Sync => Some(Answer::Ready(self.exchanges)),
            Ending::Ack { channel } | Ending::Content { channel, .. } => Some(Answer::Closed(*channel)),
        }
    }

    /// Whether the server's stream has contained this answer.
    pub fn has_heard(&self, answer: Answer) -> bool {
        match answer {
            Answer::Ready(exchanges) => self.exchanges >= exchanges,
            Answer::Closed(channel) => self.closed.contains(&channel) || self.closed.contains(&0),
        }
    }
}

/// How the server shows that it has dealt with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Postgres: this many ReadyForQuery messages since the connection began.
    Ready(u64),
    /// AMQP: the channel is closed.
    Closed(u16),
}

impl Answer {
    /// The bytes that the proxy itself must send to get the answer.
    ///
    /// AMQP has no answer to an ack, nor to a publish without confirms. When the connection ends, RabbitMQ may drop
    /// what it has read but not handled. It handles the methods of a channel in order. So the proxy sends a
    /// channel.close, and once that is answered, all before it has been handled. To the broker, the rest is as if the
    /// connection had been lost: what the channel had not acknowledged goes back to its queue.
    pub fn fence(self) -> Vec<u8> {
        match self {
            Answer::Ready(_) => Vec::new(),
            Answer::Closed(channel) => amqp::close_channel(channel),
        }
    }
}

/// Where a decisive message ends. The receiver acts on it only when everything up to there has arrived.
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
    fn new(message: &[u8]) -> Ending {
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

fn contains(text: &[u8], part: &str) -> bool {
    String::from_utf8_lossy(text).contains(part)
}

pub mod tests {
    use super::super::{Trap, amqp::tests::published, postgres::tests as of_postgres};
    use super::*;
    use std::sync::Mutex;

    pub fn armed(at: Moment, side: Side) -> Armed {
        Armed(Mutex::new(Some(Trap { at, side })))
    }

    pub fn client(protocol: Protocol) -> Ear {
        Ear::new(protocol, Peer::Client)
    }

    /// The verdict that forwards this many of the messages and then cuts.
    pub fn cut_after(messages: &[Vec<u8>], count: usize, side: Side) -> Verdict {
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
        let postgres = [vec![of_postgres::ssl_request()], of_postgres::prepared()].concat();
        for (protocol, messages) in [(Protocol::Postgres, postgres), (Protocol::Amqp, published())] {
            let stream = messages.concat();
            for piece in 1..=stream.len() {
                assert_eq!(split(Framing::new(protocol, Peer::Client), &stream, piece), messages);
            }
        }
    }
}
