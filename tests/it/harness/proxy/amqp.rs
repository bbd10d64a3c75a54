//! The frames of AMQP 0-9-1: <https://www.rabbitmq.com/amqp-0-9-1-reference>

use super::{Peer, half, kind, long, word};

pub const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;

/// The type, the channel and the size.
const FRAME_HEAD: usize = 7;

pub const CONNECTION_CLOSE: (u16, u16) = (10, 50);
pub const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
pub const CHANNEL_CLOSE: (u16, u16) = (20, 40);
pub const CHANNEL_CLOSE_OK: (u16, u16) = (20, 41);
const BASIC_PUBLISH: (u16, u16) = (60, 40);
pub const BASIC_DELIVER: (u16, u16) = (60, 60);
pub const BASIC_ACK: (u16, u16) = (60, 80);

/// channel.close with reply code 200, no reply text, and no method to blame.
const CHANNEL_CLOSE_PAYLOAD: [u8; 11] = [0, 20, 0, 40, 0, 200, 0, 0, 0, 0, 0];

/// The length of the message that begins here, if it can be known yet.
pub fn length(bytes: &[u8], peer: Peer, opening: bool) -> Option<usize> {
    match (peer, opening) {
        (Peer::Client, true) => Some(8),
        _ => Some(FRAME_HEAD + word(bytes, 3)? + 1),
    }
}

pub fn close_channel(channel: u16) -> Vec<u8> {
    frame(METHOD, channel, &CHANNEL_CLOSE_PAYLOAD)
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(FRAME_END);
    frame
}

pub fn channel(frame: &[u8]) -> u16 {
    half(frame, 1).unwrap_or_default()
}

/// The class and the method of a method frame.
pub fn method(frame: &[u8]) -> Option<(u16, u16)> {
    match kind(frame) {
        METHOD => Some((half(frame, FRAME_HEAD)?, half(frame, FRAME_HEAD + 2)?)),
        _ => None,
    }
}

/// The routing key of a basic.publish. It comes after two reserved bytes and the exchange.
pub fn routing_key(frame: &[u8]) -> Option<&[u8]> {
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

/// How much of a body is to come after this frame; unknown before the header.
pub fn left_after(left: Option<u64>, frame: &[u8]) -> Option<u64> {
    match kind(frame) {
        HEADER => long(frame, FRAME_HEAD + 4),
        BODY => left.map(|left| left.saturating_sub(frame.len().saturating_sub(FRAME_HEAD + 1) as u64)),
        _ => left,
    }
}

pub mod tests {
    use super::super::ear::tests::{armed, client, cut_after};
    use super::super::ear::{Answer, Ear};
    use super::super::{Moment, Protocol, Side};
    use super::*;

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
    pub fn published() -> Vec<Vec<u8>> {
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
}
