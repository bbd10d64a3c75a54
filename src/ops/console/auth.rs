//! Authentication of the console: tokens, signed session cookies, CSRF tokens, and the limit on wrong tokens.
//!
//! A session is a cookie with the visitor's name and role, an expiry time, and a MAC over all of it. The key of the MAC
//! is derived from the secret and the tokens, which all processes share. So a session is valid at every process, and a
//! change of a token ends all sessions.

use crate::secret::HashSecret;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use subtle::ConstantTimeEq;

/// The name of the session cookie.
pub const SESSION: &str = "earmark_session";
/// How long a session lasts: 12 hours, in milliseconds.
pub const SESSION_MILLIS: i64 = 12 * 60 * 60 * 1000;
/// The shortest token that is allowed, in characters. Shorter ones could be guessed.
pub const MIN_TOKEN_LEN: usize = 16;
const MAX_NAME_CHARS: usize = 40;

/// What a visitor may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read everything except whole addresses.
    Read,
    /// Read everything, and act.
    Full,
}

impl Role {
    /// The name of the role in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read-only",
            Self::Full => "full",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Read, Self::Full].into_iter().find(|role| role.as_str() == text)
    }
}

/// The person or program that sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// What the visitor may do.
    pub role: Role,
    /// The name given at sign-in. It is not checked, and is used for the log.
    pub name: String,
    /// The CSRF token that every form of this session must contain; empty for a program, which sends its token with
    /// every request.
    pub csrf: String,
}

/// The tokens (as MACs), and the key that signs sessions.
pub struct Access {
    key: [u8; 32],
    full: Option<[u8; 32]>,
    read: Option<[u8; 32]>,
}

impl Access {
    /// `full` and `read` are the tokens for the two roles. Without any token everybody who reaches the listener has the
    /// full role, so the listener must not be reachable from other machines.
    pub fn new(secret: &HashSecret, full: Option<&str>, read: Option<&str>) -> Self {
        let both = [full, read].map(|token| format!("{:?}", token)).join(",");
        let mut access = Self { key: secret.console_key(both.as_bytes()), full: None, read: None };
        access.full = full.map(|token| access.mac("token", token));
        access.read = read.map(|token| access.mac("token", token));
        access
    }

    /// Whether no token is set.
    pub fn is_open(&self) -> bool {
        self.full.is_none() && self.read.is_none()
    }

    /// The role of a token; `None` for a wrong one. Takes the same time for every wrong token.
    pub fn role_of(&self, token: &str) -> Option<Role> {
        let shown = self.mac("token", token);
        let is = |known: &Option<[u8; 32]>| known.is_some_and(|known| bool::from(known.ct_eq(&shown)));
        let (full, read) = (is(&self.full), is(&self.read));
        if full { Some(Role::Full) } else { read.then_some(Role::Read) }
    }

    /// Opens a session and returns its cookie's value. `now`: in milliseconds since 1970.
    pub fn open_session(&self, role: Role, name: &str, now: i64) -> String {
        let (until, nonce) = (now.saturating_add(SESSION_MILLIS), rand::random::<u64>());
        let payload = hex::encode(format!("{}|{until}|{nonce:016x}|{name}", role.as_str()));
        format!("{payload}.{}", hex::encode(self.mac("session", &payload)))
    }

    /// The visitor of a session cookie; `None` if the cookie is forged, changed or expired.
    pub fn visitor(&self, cookie: &str, now: i64) -> Option<Visitor> {
        let (payload, seal) = cookie.split_once('.')?;
        let seal = hex::decode(seal).ok()?;
        if !bool::from(self.mac("session", payload)[..].ct_eq(&seal)) {
            return None;
        }
        let text = String::from_utf8(hex::decode(payload).ok()?).ok()?;
        let mut parts = text.splitn(4, '|');
        let role = Role::parse(parts.next()?)?;
        let until: i64 = parts.next()?.parse().ok()?;
        let (_nonce, name) = (parts.next()?, parts.next()?.to_owned());
        (now < until).then(|| Visitor { role, name, csrf: hex::encode(self.mac("form", payload)) })
    }

    /// A MAC over the text. `purpose` keeps MACs of tokens, sessions and forms apart.
    fn mac(&self, purpose: &str, text: &str) -> [u8; 32] {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            unreachable!("HMAC takes keys of any length")
        };
        mac.update(purpose.as_bytes());
        mac.update(b":");
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// Whether the CSRF token of a form equals that of the session. Compares in constant time.
pub fn is_same(one: &str, other: &str) -> bool {
    !one.is_empty() && bool::from(one.as_bytes().ct_eq(other.as_bytes()))
}

/// Removes control characters from a name and shortens it; `None` if nothing is left.
pub fn clean_name(name: &str) -> Option<String> {
    let printable: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect();
    let trimmed = printable.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// Whether a `Host` header names this machine (`localhost` or a loopback address). While no token is set, this check
/// stops DNS rebinding: another site's page whose name resolves to 127.0.0.1 could otherwise act through a visitor's
/// browser.
pub fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _port)) => address,
        None => host.split_once(':').map_or(host, |(name, _port)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether an `Origin` header names this console, which the request reached under `host`.
pub fn is_own_origin(origin: &str, host: &str) -> bool {
    let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    own.is_some_and(|own| own.eq_ignore_ascii_case(host))
}

/// How many wrong tokens one IP address may send in a minute.
const ATTEMPTS: u32 = 10;
const ATTEMPTS_MILLIS: i64 = 60_000;
/// The largest number of IP addresses that are counted at the same time.
const MOST_ADDRESSES: usize = 4096;

/// Counts wrong tokens by IP address, each with the time of the first in its minute.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<HashMap<IpAddr, (u32, i64)>>);

impl Attempts {
    /// Whether the address may send no more tokens this minute. `now`: in milliseconds since 1970.
    pub fn are_spent(&self, from: IpAddr, now: i64) -> bool {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.get(&from).is_some_and(|(count, since)| *count >= ATTEMPTS && now < since + ATTEMPTS_MILLIS)
    }

    /// Counts a wrong token.
    pub fn note(&self, from: IpAddr, now: i64) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.retain(|_, (_, since)| now < *since + ATTEMPTS_MILLIS);
        if counted.len() < MOST_ADDRESSES {
            counted.entry(from).or_insert((0, now)).0 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(full: Option<&str>, read: Option<&str>) -> Access {
        Access::new(&"11".repeat(32).parse().unwrap(), full, read)
    }

    #[test]
    fn each_token_has_its_role_and_no_other_has_any() {
        let access = access(Some("full-token-of-ours"), Some("read-token-of-ours"));
        assert_eq!(access.role_of("full-token-of-ours"), Some(Role::Full));
        assert_eq!(access.role_of("read-token-of-ours"), Some(Role::Read));
        for wrong in ["", "full-token-of-our", "full-token-of-ours ", "FULL-TOKEN-OF-OURS"] {
            assert_eq!(access.role_of(wrong), None, "{wrong}");
        }
        assert_eq!(self::access(None, None).role_of(""), None);
    }

    #[test]
    fn a_session_holds_in_every_process_with_the_same_tokens_until_it_is_over() {
        let (one, other) = (access(Some("t"), None), access(Some("t"), None));
        let cookie = one.open_session(Role::Full, "ann|b", 1_000);
        let visitor = other.visitor(&cookie, 2_000).unwrap();
        assert_eq!((visitor.role, visitor.name.as_str()), (Role::Full, "ann|b"));
        assert_eq!(visitor, one.visitor(&cookie, 1_000 + SESSION_MILLIS - 1).unwrap());
        assert_eq!(one.visitor(&cookie, 1_000 + SESSION_MILLIS), None);
        assert_ne!(visitor.csrf, one.visitor(&one.open_session(Role::Full, "ann|b", 1_000), 1_000).unwrap().csrf);
    }

    #[test]
    fn a_session_that_was_changed_or_made_under_other_tokens_is_none() {
        let access = access(Some("t"), Some("r"));
        let cookie = access.open_session(Role::Read, "ann", 0);
        let (payload, seal) = cookie.split_once('.').unwrap();
        let raised =
            hex::encode(String::from_utf8(hex::decode(payload).unwrap()).unwrap().replace("read-only", "full"));
        assert_eq!(access.visitor(&format!("{raised}.{seal}"), 1), None);
        assert_eq!(access.visitor(payload, 1), None);
        assert_eq!(access.visitor(&format!("{payload}."), 1), None);
        assert_eq!(self::access(Some("t"), Some("s")).visitor(&cookie, 1), None);
        assert_eq!(self::access(Some("t"), None).visitor(&cookie, 1), None);
        assert!(access.visitor(&cookie, 1).is_some());
    }

    #[test]
    fn only_names_of_this_machine_are_loopback_hosts() {
        for host in ["localhost", "localhost:9090", "127.0.0.1:9090", "127.9.9.9", "[::1]:9090", "[::1]"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in
            ["", "example.com", "localhost.example.com:9090", "127.0.0.1.example.com", "10.0.0.1:9090", "[::2]:1"]
        {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn a_form_of_another_site_has_another_origin() {
        assert!(is_own_origin("http://127.0.0.1:9090", "127.0.0.1:9090"));
        assert!(is_own_origin("https://ops.example.com", "ops.example.com"));
        for origin in ["null", "", "http://127.0.0.1:9091", "http://evil.example", "127.0.0.1:9090"] {
            assert!(!is_own_origin(origin, "127.0.0.1:9090"), "{origin}");
        }
    }

    #[test]
    fn after_ten_wrong_tokens_an_address_waits_out_its_minute_and_others_do_not() {
        let attempts = Attempts::default();
        let (one, other): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        for now in 0..10 {
            assert!(!attempts.are_spent(one, now));
            attempts.note(one, now);
        }
        assert!(attempts.are_spent(one, 10));
        assert!(!attempts.are_spent(other, 10));
        assert!(!attempts.are_spent(one, ATTEMPTS_MILLIS));
    }

    #[test]
    fn a_name_is_one_short_line() {
        assert_eq!(clean_name("  ann\n").as_deref(), Some("ann"));
        assert_eq!(clean_name(" \t"), None);
        assert_eq!(clean_name(&"x".repeat(100)).unwrap().len(), MAX_NAME_CHARS);
    }
}
