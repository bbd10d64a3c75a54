//! Reads the URL of a server from a setting. Errors are texts that follow the setting's name. They repeat no part of
//! the URL, because it contains a password.

use url::{ParseError, Url};

/// The hint for URLs that cannot be read: most often a special character in the password is not encoded.
const ENCODE: &str =
    "in a user name or a password write `@` as %40, `:` as %3A, `/` as %2F, `?` as %3F, `#` as %23, `%` as %25";

/// Parses a URL. It must begin with one of the `schemes` and name at most one host.
pub fn parse(text: &str, schemes: [&str; 2]) -> Result<Url, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    if !schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
        return Err(format!("must begin with {}:// or {}://", schemes[0], schemes[1]));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    refuse_several(authority.rsplit('@').next().unwrap_or_default())?;
    let url = Url::parse(text).map_err(|error| match error {
        ParseError::EmptyHost => "names no host".to_owned(),
        error => format!("cannot be read: {error}; {ENCODE}"),
    })?;
    // An `@` or `#` after the host is the rest of a password in which a `/`, `?` or `#` was not encoded.
    let is_cut =
        url.fragment().is_some() || url.path().contains('@') || url.query_pairs().any(|(name, _)| name.contains('@'));
    if is_cut { Err(format!("has an `@` or a `#` after its host: {ENCODE}")) } else { Ok(url) }
}

/// Refuses `hosts` if it lists several, separated by commas.
pub fn refuse_several(hosts: &str) -> Result<(), String> {
    if hosts.contains(',') {
        return Err("names several hosts, but only one is supported: the primary, or a name or proxy that leads to it"
            .to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (text, said) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("hunter2", "must begin with amqp:// or amqps://"),
            ("user:hunter2@host:5672/x", "must begin with amqp:// or amqps://"),
            ("http://user:hunter2@host", "must begin with amqp:// or amqps://"),
            ("amqp:hunter2", "must begin with amqp:// or amqps://"),
            ("host=localhost password=hunter2", "must begin with amqp:// or amqps://"),
            ("amqp://user:hunter2@", "names no host"),
            ("amqp://user:hunter2@/", "names no host"),
            ("amqp://user:hunter2@:5672/", "names no host"),
            ("amqp://user:hunter2@one,two/", "names several hosts, but only one"),
            ("amqp://user:hunter2@one:1,two:2/", "names several hosts, but only one"),
            ("amqp://user:hunter2@host:99999/", "cannot be read: invalid port number; in a user name"),
            ("amqp://user:hunter2@[::1/", "cannot be read: invalid IPv6 address; in a user name"),
            ("amqp://user:hunter2@[fe80::1%eth0]/", "cannot be read: invalid IPv6 address; in a user name"),
            ("amqp://user:hunter2#x@host/", "cannot be read: invalid port number; in a user name"),
            ("amqp://user:hunter2/x@host/", "cannot be read: invalid port number; in a user name"),
            ("amqp://user:12/hunter2@host/", "has an `@` or a `#` after its host: in a user name"),
            ("amqp://user:12?hunter2@host/", "has an `@` or a `#` after its host: in a user name"),
            ("amqp://user:12#hunter2@host/", "has an `@` or a `#` after its host: in a user name"),
        ] {
            let error = parse(text, ["amqp", "amqps"]).unwrap_err();
            assert!(error.starts_with(said) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_right_is_read() {
        for text in [
            "amqp://host",
            " AMQPS://user:p%40ss@[::1]:5671/%2f?heartbeat=5\n",
            "amqp://user:p@ss,word@host/",
            "amqp://",
        ] {
            assert!(parse(text, ["amqp", "amqps"]).is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_set_nothing_of_it_is_repeated(secret in "[g-z]{12}", wild in "[:@/?#%,\\[\\] a-f0-9]{0,12}", more in any::<String>()) {
            for text in [format!("amqp://user:{secret}{wild}@host{more}"), format!("{wild}{secret}{more}"), more.clone()] {
                if let Err(error) = parse(&text, ["amqp", "amqps"]) {
                    prop_assert!(!error.contains(&secret), "{}", error);
                }
            }
        }
    }
}
