//! The messages in the queues: requests from intakes to workers, and replies from workers to intakes.
//!
//! Messages are JSON, so that a person can read a dead letter. They have a version, so that intakes and workers of two
//! releases can run side by side. A signature covers the bytes as they are, and is checked before any of the requests or
//! replies is parsed.

use super::signing::{self, Keyring, What};
use super::to_json;
use crate::ledger::{
    Amount, BusinessId, Cause, Email, IdempotencyKey, KeyClaim, Kind, Millis, Movement, Outcome, RaiseCount, Reference,
    Request, RequestId, SettledAs, ShardId, Told, UserHash, Verdict,
};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use serde_json::value::RawValue;
use std::borrow::Cow;
use uuid::Uuid;

/// The version of both kinds of message. Since version 2 each request says what it asks for: a message is what arrived in
/// one moment, whatever it is, and the order of arrival decides.
pub const VERSION: u32 = 2;
/// The longest name of a queue, in bytes. The limit is AMQP's.
const MAX_QUEUE_NAME: usize = 255;
/// The largest number of requests in a message: the largest value of EARMARK_PACK.
pub const MOST_REQUESTS: usize = 1024;
/// The largest message that is read, in bytes: one and a half times what [`MOST_REQUESTS`] of the longest requests
/// take. No intake sends more, and parsing a larger one would take many times its size of memory.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// One request in a message. `deadline` is in milliseconds since 1970, `amount` in cents.
#[derive(Debug, Serialize, Deserialize)]
struct RequestItem<'a> {
    id: Uuid,
    business: Uuid,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    /// Absent for a reversal.
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    email: Option<Cow<'a, str>>,
    /// Absent for a reversal of all that is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount: Option<i64>,
    /// What a reversal reverses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Uuid>,
    deadline: Millis,
    /// The `Idempotency-Key`. Absent for a settlement: its reference is its key.
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    epoch: i64,
    /// The client's reference. Absent in messages of releases that had no references.
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    reference: Option<Cow<'a, str>>,
    /// The W3C trace context, in the form of the header `traceparent`. Absent if the request is not traced.
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    trace: Option<Cow<'a, str>>,
}

fn is_zero(epoch: &i64) -> bool {
    *epoch == 0
}

/// A message on the work queue: several requests of one intake, for one shard.
#[derive(Debug, Serialize, Deserialize)]
struct RequestEnvelope<'a> {
    version: u32,
    shard: u8,
    /// The name of the key that signed this; empty if it is not signed.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// The signature over all other fields, in hexadecimal; empty if it is not signed.
    #[serde(borrow)]
    mac: Cow<'a, str>,
    /// The queue for the replies.
    #[serde(borrow)]
    reply_to: Cow<'a, str>,
    /// A list of [`RequestItem`]s.
    #[serde(borrow)]
    requests: &'a RawValue,
}

impl RequestEnvelope<'_> {
    /// What is signed: every field but `key_id`, which [`Keyring`] adds, and `mac`.
    fn verify(&self, keys: &Keyring) -> Result<(), &'static str> {
        let (reply_to, requests) = (self.reply_to.as_bytes(), self.requests.get().as_bytes());
        let fields = [&self.version.to_be_bytes()[..], &[self.shard], reply_to, requests];
        keys.verify(What::Requests, &self.key_id, &self.mac, &fields)
    }
}

/// One request of a message that could not be parsed, or a message that cannot be applied.
#[derive(Debug)]
pub struct Unreadable {
    /// A message with this request alone, ready to be stored as a dead letter.
    pub body: Vec<u8>,
    /// Why it is a dead letter.
    pub cause: Cause,
    /// The same in words. It repeats nothing of the request.
    pub reason: String,
}

/// A parsed message of the work queue.
#[derive(Debug)]
pub struct RequestMessage {
    /// The shard of all its requests.
    pub shard: ShardId,
    /// The queue for the replies.
    pub reply_to: String,
    /// The name of the key that signed it; empty if it is not signed.
    pub key_id: String,
    /// The requests that can be read.
    pub requests: Vec<Request>,
    /// The trace contexts of the requests that have one.
    pub traces: Vec<(RequestId, String)>,
    /// Those that cannot.
    pub unreadable: Vec<Unreadable>,
}

/// Serialises one request without a trace context. [`pack_requests`] puts it into a message.
pub fn write_request(request: &Request) -> Vec<u8> {
    write_traced_request(request, None)
}

/// Serialises one request, with its W3C trace context if it has one. [`pack_requests`] puts it into a message.
pub fn write_traced_request(request: &Request, trace: Option<&str>) -> Vec<u8> {
    let kind = request.movement.kind();
    let item = RequestItem {
        id: Uuid::from_u128(request.id.as_u128()),
        business: Uuid::from_u128(request.business.as_u128()),
        kind: kind.as_str().into(),
        email: request.movement.email().map(|email| email.as_str().into()),
        amount: request.movement.amount().map(Amount::cents),
        target: request.movement.target().map(|target| Uuid::from_u128(target.as_u128())),
        deadline: request.deadline,
        key: request.key.as_ref().filter(|_| kind != Kind::Settle).map(|claim| claim.key.as_str().into()),
        epoch: request.key.as_ref().map_or(0, |claim| claim.epoch),
        reference: request.reference.as_ref().map(|reference| reference.as_str().into()),
        trace: trace.map(Cow::from),
    };
    to_json(&item)
}

/// Makes one signed message of serialised requests of one shard. `reply_to`: the queue for the replies.
pub fn pack_requests<'a>(
    keys: &Keyring,
    shard: ShardId,
    reply_to: &str,
    items: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let key_id = keys.id();
    let head = format!(r#"{{"version":{VERSION},"shard":{shard},"key_id":"{key_id}","mac":""#);
    let mut message = head.into_bytes();
    // The place of the signature, which is over what follows.
    let mac = message.len()..message.len() + if key_id.is_empty() { 0 } else { signing::LENGTH };
    message.resize(mac.end, b'0');
    message.extend_from_slice(b"\",\"reply_to\":");
    message.extend_from_slice(&to_json(&reply_to));
    message.extend_from_slice(b",\"requests\":");
    let requests = message.len();
    message.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            message.push(b',');
        }
        message.extend_from_slice(item);
    }
    message.push(b']');
    let fields = [&VERSION.to_be_bytes()[..], &[shard.number()], reply_to.as_bytes(), &message[requests..]];
    if let Some(signature) = keys.sign(What::Requests, &fields) {
        message[mac].copy_from_slice(signature.as_bytes());
    }
    message.push(b'}');
    message
}

/// Parses a message of the work queue that was signed with one of the keys. A request that cannot be parsed does not affect
/// the others: it is returned in [`RequestMessage::unreadable`]. The error says why the message as a whole cannot be applied.
pub fn read_requests(keys: &Keyring, body: &[u8]) -> Result<RequestMessage, (Cause, String)> {
    let unreadable = |reason: String| (Cause::Unreadable, reason);
    let envelope = read_envelope(body).map_err(unreadable)?;
    envelope.verify(keys).map_err(|reason| (Cause::Unauthentic, reason.to_owned()))?;
    let items: Vec<&RawValue> =
        serde_json::from_str(envelope.requests.get()).map_err(|error| unreadable(not_a("message", &error)))?;
    if items.len() > MOST_REQUESTS {
        return Err(unreadable(format!("message has more than {MOST_REQUESTS} requests")));
    }
    let shard = ShardId::new(envelope.shard);
    let keys_of_parts = keys.for_part_of(!envelope.key_id.is_empty());
    let mut message = RequestMessage {
        shard,
        reply_to: envelope.reply_to.into_owned(),
        key_id: envelope.key_id.into_owned(),
        requests: vec![],
        traces: vec![],
        unreadable: vec![],
    };
    for item in items {
        match read_request(shard, item.get()) {
            Ok((request, trace)) => {
                message.traces.extend(trace.map(|trace| (request.id, trace)));
                message.requests.push(request);
            }
            Err(reason) => {
                let item = std::iter::once(item.get().as_bytes());
                let body = pack_requests(&keys_of_parts, shard, &message.reply_to, item);
                message.unreadable.push(Unreadable { body, cause: Cause::Unreadable, reason });
            }
        }
    }
    Ok(message)
}

/// Parses what stands around the requests. The error says why that cannot be done.
fn read_envelope(body: &[u8]) -> Result<RequestEnvelope<'_>, String> {
    if body.len() > MAX_MESSAGE {
        return Err(format!("message is longer than {MAX_MESSAGE} bytes"));
    }
    let envelope: RequestEnvelope = serde_json::from_slice(body)
        .map_err(|error| of_another_version(body).unwrap_or_else(|| not_a("message", &error)))?;
    if envelope.version != VERSION {
        return Err(another_version(envelope.version));
    }
    if envelope.reply_to.len() > MAX_QUEUE_NAME {
        return Err(format!("reply_to is longer than {MAX_QUEUE_NAME} bytes"));
    }
    Ok(envelope)
}

/// Says so if a message that cannot be parsed is of another version, which may have other fields.
fn of_another_version(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(body).ok()?;
    (version != VERSION).then(|| another_version(version))
}

fn another_version(version: u32) -> String {
    format!("message version {version}, this worker reads {VERSION}")
}

/// Says why and where parsing failed. It repeats nothing of the text, because reasons are logged.
fn not_a(what: &str, error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        Category::Io | Category::Syntax => "no JSON",
        Category::Data => "a field is missing or of the wrong kind",
        Category::Eof => "cut short",
    };
    format!("not a {what}: {kind}, line {} column {}", error.line(), error.column())
}

/// Parses one request of a shard, and its trace context. Refuses values that an intake would not send, such as an email
/// that is not normalised.
fn read_request(shard: ShardId, text: &str) -> Result<(Request, Option<String>), String> {
    let item: RequestItem = serde_json::from_str(text).map_err(|error| not_a("request", &error))?;
    let kind = Kind::parse(&item.kind).ok_or("kind: not one of allocate, reverse and settle")?;
    let reference = item.reference.as_deref().map(Reference::parse).transpose();
    let reference = reference.map_err(|error| format!("reference: {error:?}"))?.flatten();
    if reference.as_ref().map(Reference::as_str) != item.reference.as_deref() {
        return Err("reference: not trimmed".to_owned());
    }
    let key = match (kind, item.key.as_deref()) {
        (Kind::Settle, None) => {
            let reference = reference.as_ref().ok_or("reference: a settlement has one")?;
            Some(IdempotencyKey::of_settlement(reference))
        }
        (Kind::Settle, Some(_)) => return Err("key: the key of a settlement is its reference".to_owned()),
        (_, None) => None,
        (_, Some(key)) => Some(IdempotencyKey::parse(key).ok_or("key: not an idempotency key")?),
    };
    let email = item.email.as_deref().map(Email::parse).transpose().map_err(|error| format!("email: {error:?}"))?;
    if email.as_ref().map(Email::as_str) != item.email.as_deref() {
        return Err("email: not normalised".to_owned());
    }
    let amount = item.amount.map(Amount::from_cents).transpose().map_err(|error| format!("amount: {error:?}"))?;
    let target = item.target.map(|target| RequestId::from_u128(target.as_u128()));
    let movement = Movement::of(kind, email, amount, target).ok_or("email, amount, target: not those of its kind")?;
    let (id, business) = (RequestId::from_u128(item.id.as_u128()), BusinessId::from_u128(item.business.as_u128()));
    if (id.shard(), business.shard()) != (shard, shard) {
        return Err("its id or its business is of another shard".to_owned());
    }
    let request = Request {
        id,
        business,
        movement,
        deadline: item.deadline,
        key: key.map(|key| KeyClaim { key, epoch: item.epoch }),
        reference,
    };
    Ok((request, item.trace.map(Cow::into_owned)))
}

/// A worker's reply about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request that it answers.
    pub id: RequestId,
    /// What was decided.
    pub verdict: Verdict,
    /// What the caller is told beside it.
    pub told: Told,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReplyItem<'a> {
    id: Uuid,
    #[serde(borrow)]
    verdict: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    hash: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<i64>,
    /// The count of the raise that brought the key into `epoch`. Absent if the raise is later than any request received
    /// so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raise: Option<i64>,
    /// For `replayed`: the request whose success is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    original: Option<Uuid>,
    /// How much a reversal has moved, in cents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount: Option<i64>,
    /// What was left after the decision, in cents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remaining: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct ReplyEnvelope<'a> {
    version: u32,
    /// As in [`RequestEnvelope`].
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// As in [`RequestEnvelope`]. It also covers the name of the queue, so that nobody can put a reply into another one.
    #[serde(borrow)]
    mac: Cow<'a, str>,
    /// A list of [`ReplyItem`]s.
    #[serde(borrow)]
    replies: &'a RawValue,
}

/// Serialises the replies to one intake as one signed message for this queue.
pub fn write_replies(keys: &Keyring, queue: &str, replies: &[Reply]) -> Vec<u8> {
    let items: Vec<ReplyItem> = replies.iter().map(write_reply).collect();
    let items = String::from_utf8(to_json(&items)).unwrap_or_default();
    let fields = [&VERSION.to_be_bytes()[..], queue.as_bytes(), items.as_bytes()];
    let (key_id, mac) = (keys.id(), keys.sign(What::Replies, &fields).unwrap_or_default());
    format!(r#"{{"version":{VERSION},"key_id":"{key_id}","mac":"{mac}","replies":{items}}}"#).into_bytes()
}

fn write_reply(reply: &Reply) -> ReplyItem<'static> {
    let verdict = SettledAs::from(reply.verdict).as_str();
    let epoch = match reply.verdict {
        Verdict::StaleEpoch { current, .. } => Some(current),
        Verdict::Replayed { .. } | Verdict::KeyReused | Verdict::Decided(_) => None,
    };
    let original = match reply.verdict {
        Verdict::Replayed { original } => Some(Uuid::from_u128(original.as_u128())),
        Verdict::KeyReused | Verdict::StaleEpoch { .. } | Verdict::Decided(_) => None,
    };
    let raise = match reply.verdict {
        Verdict::StaleEpoch { raise, .. } => raise.map(|raise| raise.0),
        Verdict::Replayed { .. } | Verdict::KeyReused | Verdict::Decided(_) => None,
    };
    let Told { hash, cents: amount, remaining } = reply.told;
    let (id, hash) = (Uuid::from_u128(reply.id.as_u128()), hash.map(|hash| hex::encode(hash.0).into()));
    ReplyItem { id, verdict: verdict.into(), hash, epoch, raise, original, amount, remaining }
}

/// Parses a message of replies from this queue that was signed with one of the keys. Replies that cannot be parsed are left
/// out: the intake then resolves their requests in Postgres. The error says why none of them is believed.
pub fn read_replies(keys: &Keyring, queue: &str, body: &[u8]) -> Result<Vec<Reply>, (Cause, String)> {
    let unreadable = |error: serde_json::Error| (Cause::Unreadable, not_a("message", &error));
    let envelope: ReplyEnvelope = serde_json::from_slice(body).map_err(unreadable)?;
    if envelope.version != VERSION {
        return Err((Cause::Unreadable, format!("version {}, this intake reads {VERSION}", envelope.version)));
    }
    let fields = [&VERSION.to_be_bytes()[..], queue.as_bytes(), envelope.replies.get().as_bytes()];
    keys.verify(What::Replies, &envelope.key_id, &envelope.mac, &fields)
        .map_err(|reason| (Cause::Unauthentic, reason.to_owned()))?;
    let items: Vec<ReplyItem> = serde_json::from_str(envelope.replies.get()).map_err(unreadable)?;
    Ok(items.iter().filter_map(read_reply).collect())
}

fn read_reply(item: &ReplyItem) -> Option<Reply> {
    let verdict = match SettledAs::parse(&item.verdict)? {
        SettledAs::Replayed => Verdict::Replayed { original: RequestId::from_u128(item.original?.as_u128()) },
        SettledAs::KeyReused => Verdict::KeyReused,
        SettledAs::StaleEpoch => Verdict::StaleEpoch { current: item.epoch?, raise: item.raise.map(RaiseCount) },
        _ => Verdict::Decided(Outcome::parse(&item.verdict)?),
    };
    let hash = match &item.hash {
        None => None,
        Some(text) => Some(UserHash(hex::decode(text.as_ref()).ok()?.try_into().ok()?)),
    };
    let told = Told { hash, cents: item.amount, remaining: item.remaining };
    Some(Reply { id: RequestId::from_u128(item.id.as_u128()), verdict, told })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            id: RequestId::from_u128(1),
            business: BusinessId::from_u128(2),
            movement: Movement::Allocate {
                email: Email::parse("ann\\\"@example.com").or_else(|_| Email::parse("o'neil@exämple.com")).unwrap(),
                amount: Amount::from_cents(5).unwrap(),
            },
            deadline: 1_700_000_000_000,
            key: Some(KeyClaim { key: IdempotencyKey::new("\"k\\").unwrap(), epoch: 3 }),
            reference: Reference::parse("\"7\" ä\\").unwrap(),
        }
    }

    fn keys() -> Keyring {
        Keyring::parse(&format!("k1:{}", "11".repeat(32)), "earmark", false).unwrap()
    }

    #[test]
    fn requests_of_all_kinds_come_out_of_a_message_as_they_went_in() {
        let bare = Request { key: None, reference: None, ..request() };
        let email = Email::parse("ann@example.com").unwrap();
        let key = request().reference.map(|reference| IdempotencyKey::of_settlement(&reference));
        let settlement = Request {
            movement: Movement::Settle { email, amount: Amount::from_cents(7).unwrap() },
            key: key.map(|key| KeyClaim { key, epoch: 2 }),
            ..request()
        };
        let target = RequestId::from_u128(3);
        let reversals = [None, Amount::from_cents(7).ok()]
            .map(|amount| Request { movement: Movement::Reverse { target, amount }, ..request() });
        let requests = [&[request(), bare, settlement][..], &reversals].concat();
        let items: Vec<Vec<u8>> = requests.iter().map(write_request).collect();
        assert!(!items[1].windows(9).any(|window| window == b"reference"), "what is not there is left out");
        let message =
            read_requests(&keys(), &pack_requests(&keys(), ShardId::FIRST, "replies", items.iter().map(Vec::as_slice)))
                .unwrap();
        assert_eq!(message.reply_to, "replies");
        assert_eq!(message.requests, requests);
        assert!(message.unreadable.is_empty());
    }

    #[test]
    fn a_request_that_is_of_no_kind_or_has_the_parts_of_another_is_not_read() {
        let (id, business) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let reason = |rest: &str| {
            let item = format!(r#"{{"id":"{id}","business":"{business}","deadline":0,{rest}}}"#);
            let message = pack_requests(&keys(), ShardId::FIRST, "replies", std::iter::once(item.as_bytes()));
            let message = read_requests(&keys(), &message).unwrap();
            assert!(message.requests.is_empty(), "{rest}");
            message.unreadable[0].reason.clone()
        };
        let user = r#""email":"ann@example.com","amount":5"#;
        assert!(reason(user).starts_with("not a request"), "nothing is taken for an allocation");
        assert!(reason(&format!(r#""kind":"deposit",{user}"#)).starts_with("kind"));
        assert!(reason(&format!(r#""kind":"reverse",{user}"#)).starts_with("email, amount, target"));
        assert!(reason(&format!(r#""kind":"allocate",{user},"target":"{id}""#)).starts_with("email, amount, target"));
        assert!(reason(&format!(r#""kind":"settle",{user}"#)).starts_with("reference"));
        assert!(reason(&format!(r#""kind":"settle",{user},"reference":"r","key":"r""#)).starts_with("key"));
    }

    #[test]
    fn a_trace_context_travels_with_its_request() {
        let traced = Request { id: RequestId::from_u128(9), ..request() };
        let items = [write_request(&request()), write_traced_request(&traced, Some("00-trace"))];
        let message =
            read_requests(&keys(), &pack_requests(&keys(), ShardId::FIRST, "replies", items.iter().map(Vec::as_slice)))
                .unwrap();
        assert_eq!(message.traces, [(traced.id, "00-trace".to_owned())]);
    }

    #[test]
    fn one_unreadable_request_spoils_no_other() {
        let good = write_request(&request());
        let items: [&[u8]; 4] = [b"{\"id\":7}", &good, b"[]", &good];
        let message =
            read_requests(&keys(), &pack_requests(&keys(), ShardId::FIRST, "replies", items.into_iter())).unwrap();
        assert_eq!(message.requests.len(), 2);
        assert_eq!(message.unreadable.len(), 2);
        let alone = read_requests(&keys(), &message.unreadable[0].body).unwrap();
        assert_eq!((alone.requests.len(), alone.unreadable.len()), (0, 1));
    }

    #[test]
    fn a_request_of_another_shard_than_its_message_is_not_read() {
        let of = |id: u8, business: u8| Request {
            id: RequestId::from_u128(u128::from(id) << 24),
            business: BusinessId::new(ShardId::new(business), 0),
            ..request()
        };
        let items = [of(3, 3), of(3, 4), of(4, 3), of(4, 4)].map(|request| write_request(&request));
        let message = pack_requests(&keys(), ShardId::new(3), "replies", items.iter().map(Vec::as_slice));
        let message = read_requests(&keys(), &message).unwrap();
        assert_eq!((message.shard, message.requests), (ShardId::new(3), vec![of(3, 3)]));
        assert_eq!(message.unreadable.len(), 3);
        assert!(message.unreadable.iter().all(|one| one.reason.ends_with("is of another shard")));
    }

    #[test]
    fn a_message_is_read_up_to_what_an_intake_packs_and_no_further() {
        let longest = Request {
            movement: Movement::Allocate {
                email: Email::parse(&format!("{}@{}.example", "a".repeat(64), ["b".repeat(60).as_str(); 3].join(".")))
                    .unwrap(),
                amount: Amount::from_cents(Amount::MAX_CENTS).unwrap(),
            },
            key: Some(KeyClaim { key: IdempotencyKey::new(&"\"".repeat(255)).unwrap().of_item(999), epoch: i64::MIN }),
            reference: Reference::parse(&"😀".repeat(255)).unwrap(),
            ..request()
        };
        let trace = "x".repeat(55);
        let item = write_traced_request(&longest, Some(&trace));
        let message = |count: usize| {
            pack_requests(&keys(), ShardId::FIRST, "replies", std::iter::repeat_n(item.as_slice(), count))
        };
        assert_eq!(read_requests(&keys(), &message(MOST_REQUESTS)).unwrap().requests.len(), MOST_REQUESTS);
        assert!(message(MOST_REQUESTS).len() < MAX_MESSAGE * 2 / 3);
        let refused = |message: &[u8]| read_requests(&keys(), message).unwrap_err().1;
        assert_eq!(refused(&message(MOST_REQUESTS + 1)), "message has more than 1024 requests");
        let unreadable =
            pack_requests(&keys(), ShardId::FIRST, "replies", std::iter::repeat_n(b"0".as_slice(), MAX_MESSAGE / 2));
        assert_eq!(refused(&unreadable), "message is longer than 4194304 bytes");
    }

    /// Where and why a message is not applied.
    fn refused(message: &[u8]) -> (Cause, String) {
        read_requests(&keys(), message).unwrap_err()
    }

    /// A message with one of its texts replaced by another.
    fn changed(message: &[u8], from: &str, to: &str) -> Vec<u8> {
        let text = std::str::from_utf8(message).unwrap();
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1).into_bytes()
    }

    #[test]
    fn a_message_in_which_anything_was_changed_is_not_applied() {
        let items = [write_request(&request())];
        let message = pack_requests(&keys(), ShardId::FIRST, "replies", items.iter().map(Vec::as_slice));
        let changes = [
            ("\"amount\":5", "\"amount\":6"),
            ("\"replies\"", "\"other\""),
            ("\"shard\":0", "\"shard\":1"),
            ("\"requests\":[", "\"requests\":[ "),
            ("\"key_id\":\"k1\"", "\"key_id\":\"k2\""),
            ("\"key_id\":\"k1\"", "\"key_id\":\"\""),
            ("\"mac\":\"", "\"mac\":\"0"),
        ];
        for (from, to) in changes {
            let (cause, reason) = refused(&changed(&message, from, to));
            assert_eq!(cause, Cause::Unauthentic, "{to}: {reason}");
        }
        let unsigned = pack_requests(&Keyring::none(), ShardId::FIRST, "replies", items.iter().map(Vec::as_slice));
        assert_eq!(refused(&unsigned), (Cause::Unauthentic, "it is not signed".to_owned()));
        assert_eq!(read_requests(&Keyring::none(), &message).unwrap().key_id, "k1", "whoever has no key believes it");
        let cut = &message[..message.len() - 1];
        assert_eq!(refused(cut).0, Cause::Unreadable);
    }

    #[test]
    fn a_part_of_a_message_that_is_not_signed_is_not_signed_either() {
        let rolling = Keyring::parse(&format!("k1:{}", "11".repeat(32)), "earmark", true).unwrap();
        let read = |keys: &Keyring| {
            let message = pack_requests(keys, ShardId::FIRST, "replies", std::iter::once(b"[]".as_slice()));
            read_requests(&rolling, &message).unwrap().unreadable.remove(0).body
        };
        assert!(read_requests(&keys(), &read(&keys())).is_ok());
        assert_eq!(refused(&read(&Keyring::none())).0, Cause::Unauthentic, "or it could be replayed later");
    }

    #[test]
    fn replies_that_were_changed_or_are_of_another_queue_are_not_believed() {
        let reply = Reply { id: RequestId::from_u128(9), verdict: Verdict::KeyReused, told: Told::default() };
        let message = write_replies(&keys(), "mine", std::slice::from_ref(&reply));
        let read = |queue: &str, message: &[u8]| read_replies(&keys(), queue, message).map_err(|(cause, _)| cause);
        assert_eq!(read("mine", &message), Ok(vec![reply.clone()]));
        assert_eq!(read("yours", &message), Err(Cause::Unauthentic));
        assert_eq!(read("mine", &changed(&message, "key_reused", "allocated")), Err(Cause::Unauthentic));
        assert_eq!(read("mine", &write_replies(&Keyring::none(), "mine", &[reply])), Err(Cause::Unauthentic));
    }

    #[test]
    fn replies_of_another_version_are_left_out() {
        let read = |message: &[u8]| read_replies(&keys(), "replies", message).map_err(|(cause, _)| cause);
        assert_eq!(read(br#"{"version":1,"key_id":"","mac":"","replies":[]}"#), Err(Cause::Unreadable));
        assert_eq!(read(b"nonsense"), Err(Cause::Unreadable));
    }

    #[test]
    fn what_is_no_message_is_refused_in_words() {
        assert!(refused(b"nonsense").1.starts_with("not a message"));
        let older = "message version 1, this worker reads 2";
        assert_eq!(refused(b"{\"version\":1,\"reply_to\":\"r\",\"requests\":[]}").1, older);
        let message = pack_requests(&keys(), ShardId::FIRST, "replies", std::iter::empty());
        assert_eq!(refused(&changed(&message, "\"version\":2", "\"version\":1")).1, older);
        assert!(refused(&changed(&message, "\"shard\":0", "\"shard\":256")).1.starts_with("not a message"));
        let no_list = changed(&message, "\"requests\":[]", "\"requests\":{}");
        assert!(read_requests(&Keyring::none(), &no_list).unwrap_err().1.starts_with("not a message"));
    }

    #[test]
    fn every_verdict_comes_back_as_it_went() {
        let hash = Some(UserHash([7; 32]));
        let id = RequestId::from_u128(9);
        let told = Told { hash, cents: Some(5), remaining: Some(0) };
        let verdicts = [
            Verdict::Replayed { original: RequestId::from_u128(8) },
            Verdict::KeyReused,
            Verdict::StaleEpoch { current: 4, raise: Some(RaiseCount(7)) },
            Verdict::StaleEpoch { current: 4, raise: None },
        ];
        let verdicts = verdicts.into_iter().chain(Outcome::ALL.map(Verdict::Decided));
        let replies: Vec<Reply> =
            verdicts.flat_map(|verdict| [told, Told::default()].map(|told| Reply { id, verdict, told })).collect();
        assert_eq!(read_replies(&keys(), "r", &write_replies(&keys(), "r", &replies)), Ok(replies));
    }
}
