//! Where a webhook leads: its URL, checked. The addresses behind a name are checked when a delivery connects.

use super::address::is_public;
use crate::ledger::webhooks::MOST_URL_CHARS;
use std::net::IpAddr;
use std::sync::Arc;
use url::{Host, Url};

/// Addresses that are allowed although they are not public, also without TLS. For tests, and for endpoints in the same
/// network.
#[derive(Clone, Debug, Default)]
pub struct Exceptions(Arc<[IpAddr]>);

impl Exceptions {
    /// These addresses and no others.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self(addresses.into_iter().collect())
    }

    /// Whether a delivery may go to this address.
    pub fn allow(&self, address: IpAddr) -> bool {
        is_public(address) || self.0.contains(&address)
    }

    /// Whether the URL names one of the addresses itself.
    fn name(&self, address: Option<IpAddr>) -> bool {
        address.is_some_and(|address| self.0.contains(&address))
    }
}

/// The URL of an endpoint that may be called, unless its name leads to an address that may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(Url);

impl Target {
    /// Checks a URL. The error says what is wrong with it.
    pub fn parse(text: &str, exceptions: &Exceptions) -> Result<Self, &'static str> {
        if text.chars().count() > MOST_URL_CHARS {
            return Err("The url must not be longer than 2000 characters.");
        }
        let wrong = "The url must be a valid https URL.";
        // What the standard for browsers repairs is refused: a mistake would lead somewhere else than it says.
        let is_odd = |char: char| char.is_whitespace() || char.is_control() || char == '\\';
        let has_host = text.split_once("://").is_some_and(|(_, rest)| !rest.starts_with('/'));
        let url = Url::parse(text).ok().filter(|url| has_host && !text.contains(is_odd) && url.port() != Some(0));
        let url = url.ok_or(wrong)?;
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        let is_fit = match url.scheme() {
            "https" => url.has_host(),
            "http" => exceptions.name(address),
            _ => false,
        };
        if !is_fit {
            return Err(wrong);
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err("The url must have no user, no password and no fragment.");
        }
        if address.is_some_and(|address| !exceptions.allow(address)) {
            return Err("The url must lead to a public address.");
        }
        // A longer one could come out of one that fits, as some characters are written in more.
        if url.as_str().len() > MOST_URL_CHARS {
            return Err("The url must not be longer than 2000 characters.");
        }
        Ok(Self(url))
    }

    /// The URL.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_to_public_addresses_is_a_target() {
        let none = Exceptions::default();
        for good in [
            "https://example.com/hooks?a=b",
            "https://example.com:8443",
            "HTTPS://EXAMPLE.com/",
            "https://1.1.1.1/x",
            "https://[2606:4700::1111]/x",
        ] {
            assert!(Target::parse(good, &none).is_ok(), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "http://example.com/",
            "ftp://example.com/",
            "https://",
            "https:example.com",
            "https:///example.com",
            "https:\\\\example.com\\x",
            "https://example.com\\x",
            "https://example.com/a b",
            " https://example.com/",
            "https://exa\nmple.com/",
            "https://example.com/\t",
            "https://example.com:0/",
            "file:///etc/passwd",
            "https://user@example.com/",
            "https://user:pass@example.com/",
            "https://example.com/#x",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://2130706433/",
            "https://0/",
            "https://10.0.0.1/",
            "https://169.254.169.254/latest/meta-data/",
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://１２７.０.０.１/",
            "https://127.0.0.1./",
        ] {
            assert!(Target::parse(bad, &none).is_err(), "{bad}");
        }
        assert!(Target::parse(&format!("https://example.com/{}", "x".repeat(2_000)), &none).is_err());
        assert!(
            Target::parse(&format!("https://example.com/{}", "ä".repeat(1_000)), &none).is_err(),
            "written in more"
        );
    }

    #[test]
    fn an_exception_allows_its_address_and_no_other() {
        let here = Exceptions::new(["127.0.0.1".parse().unwrap()]);
        assert!(Target::parse("http://127.0.0.1:80/x", &here).is_ok());
        assert!(Target::parse("https://127.0.0.1/x", &here).is_ok());
        for bad in
            ["http://127.0.0.2/", "https://127.0.0.2/", "http://[::1]/", "http://example.com/", "http://1.1.1.1/"]
        {
            assert!(Target::parse(bad, &here).is_err(), "{bad}");
        }
        assert!(here.allow("127.0.0.1".parse().unwrap()) && !here.allow("10.0.0.1".parse().unwrap()));
    }
}
