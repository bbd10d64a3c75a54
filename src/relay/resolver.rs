//! Finds the addresses of names, and gives out only those that a delivery may go to. The HTTP client connects to what
//! it gets from here and to nothing else. So what was checked is what is connected to, however often a name changes its
//! address.

use crate::webhook::target::Exceptions;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::SocketAddr;

/// The name leads to no address that a delivery may go to.
#[derive(Debug, thiserror::Error)]
#[error("the name leads to no public address")]
pub(super) struct NotPublic;

/// A resolver for the HTTP client.
pub(super) struct Checked(pub Exceptions);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let exceptions = self.0.clone();
        Box::pin(async move {
            // The client sets the port itself.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(keep_allowed(found, &exceptions)?.into_iter()) as Addrs)
        })
    }
}

fn keep_allowed(
    found: impl Iterator<Item = SocketAddr>,
    exceptions: &Exceptions,
) -> Result<Vec<SocketAddr>, NotPublic> {
    let allowed: Vec<SocketAddr> = found.filter(|address| exceptions.allow(address.ip())).collect();
    if allowed.is_empty() { Err(NotPublic) } else { Ok(allowed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_addresses_only_the_public_ones_are_given_out() {
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
        let keep = |found: &[&str]| keep_allowed(found.iter().map(|text| address(text)), &Exceptions::default());
        assert_eq!(keep(&["127.0.0.1", "1.1.1.1", "::ffff:10.0.0.1"]).unwrap(), [address("1.1.1.1")]);
        assert!(keep(&["127.0.0.1", "::1", "64:ff9b::7f00:1"]).is_err());
        assert!(keep(&[]).is_err());
    }
}
