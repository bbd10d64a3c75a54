//! The messages of Postgres: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use super::{Peer, kind, word};

const SSL_REQUEST: usize = 80_877_103;
const GSSENC_REQUEST: usize = 80_877_104;

/// The type byte and the length.
const MESSAGE_HEAD: usize = 5;

/// The length of the message that begins here, if it can be known yet.
pub fn length(bytes: &[u8], peer: Peer, opening: bool) -> Option<usize> {
    match (peer, opening) {
        (Peer::Client, true) => Some(word(bytes, 0)?.max(4)),
        // The answers to requests for encryption are single bytes.
        (Peer::Server, true) => Some(1),
        (_, false) => Some(1 + word(bytes, 1)?.max(4)),
    }
}

/// Whether the client asks for encryption, which it may do before it starts.
pub fn asks_for_encryption(message: &[u8]) -> bool {
    matches!(word(message, 4), Some(SSL_REQUEST | GSSENC_REQUEST))
}

pub fn simple_query(message: &[u8]) -> Option<&[u8]> {
    let body = message.get(MESSAGE_HEAD..)?;
    (kind(message) == b'Q').then(|| split_nul(body).map_or(body, |(text, _)| text))
}

pub fn is_commit(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    text.strip_suffix(b";").unwrap_or(text).trim_ascii().eq_ignore_ascii_case(b"commit")
}

/// The name and the text in a Parse.
pub fn parsed(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = split_nul(message.get(MESSAGE_HEAD..)?)?;
    let (text, _) = split_nul(rest)?;
    Some((name, text))
}

/// The name of the statement in a Bind. It comes after the portal's name.
pub fn bound(message: &[u8]) -> Option<&[u8]> {
    let (_, rest) = split_nul(message.get(MESSAGE_HEAD..)?)?;
    split_nul(rest).map(|(name, _)| name)
}

fn split_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

pub mod tests {
    use super::super::ear::tests::{armed, client, cut_after};
    use super::super::ear::{Answer, Ear, Verdict};
    use super::super::{Armed, Moment, Protocol, Side, hold};
    use super::*;
    use std::sync::Mutex;

    fn untyped(payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32 + 4;
        [&length.to_be_bytes()[..], payload].concat()
    }

    pub fn typed(kind: u8, payload: &[u8]) -> Vec<u8> {
        [vec![kind], untyped(payload)].concat()
    }

    pub fn ssl_request() -> Vec<u8> {
        untyped(&(SSL_REQUEST as u32).to_be_bytes())
    }

    pub fn startup() -> Vec<u8> {
        untyped(b"\0\x03\0\0user\0earmark\0\0")
    }

    pub fn ready() -> Vec<u8> {
        typed(b'Z', b"I")
    }

    /// A client's stream after the start: a prepared statement that runs twice in one go, and the messages after it.
    pub fn prepared() -> Vec<Vec<u8>> {
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
}
