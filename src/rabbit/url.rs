//! Reads `AMQP_URL` by the [specification](https://www.rabbitmq.com/docs/uri-spec), with two differences. A host must
//! be named: a URL without one would mean this machine, which is hardly intended. An empty virtual host means `/`.

use crate::server_url;
use lapin::uri::AMQPUri;
use url::Host;

const PARAMETERS: [&str; 5] = ["auth_mechanism", "channel_max", "connection_timeout", "frame_max", "heartbeat"];

/// Reads one URL, or several with commas between them. A comma elsewhere belongs to its URL.
pub(super) fn parse_several(text: &str) -> Result<Vec<AMQPUri>, String> {
    let lower = text.to_ascii_lowercase();
    let next = |(at, _): (usize, &str)| {
        ["amqp://", "amqps://"].iter().any(|start| lower[at + 1..].trim_start().starts_with(start)).then_some(at)
    };
    let ends = lower.match_indices(',').filter_map(next).chain([text.len()]);
    let mut begin = 0;
    let parts = ends.map(|end| text[std::mem::replace(&mut begin, end + 1)..end].trim());
    parts.map(parse).collect()
}

/// Reads a URL. The error text is meant to follow the name of the setting, and does not contain the password.
fn parse(text: &str) -> Result<AMQPUri, String> {
    let url = server_url::parse(text, ["amqp", "amqps"])?;
    let host = url.host().ok_or("names no host")?;
    if url.query_pairs().any(|(name, _)| !PARAMETERS.contains(&name.as_ref())) {
        return Err(format!("has a parameter that is not known: known are {}", PARAMETERS.join(", ")));
    }
    let mut uri: AMQPUri = url.as_str().parse().map_err(|error| format!("cannot be read: {error}"))?;
    if let Host::Ipv6(address) = host {
        // lapin would take an IPv6 address in brackets for a missing host, and connect to this machine.
        uri.authority.host = address.to_string();
    }
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::uri::AMQPScheme;
    use proptest::prelude::*;

    /// Host, port, user, password and virtual host of a URL.
    fn read(text: &str) -> (String, u16, String, String, String) {
        let AMQPUri { authority, vhost, .. } = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        (authority.host, authority.port, authority.userinfo.username, authority.userinfo.password, vhost)
    }

    #[test]
    fn every_form_is_read_as_it_is_meant() {
        let guest = |host: &str, port, vhost: &str| (host.into(), port, "guest".into(), "guest".into(), vhost.into());
        for (text, expected) in [
            ("amqp://rabbit", guest("rabbit", 5672, "/")),
            ("amqp://rabbit/", guest("rabbit", 5672, "/")),
            ("amqp://rabbit/%2f", guest("rabbit", 5672, "/")),
            ("amqp://rabbit/%2F", guest("rabbit", 5672, "/")),
            ("amqp://rabbit//", guest("rabbit", 5672, "/")),
            ("amqp://rabbit/a%2Fb", guest("rabbit", 5672, "a/b")),
            ("AMQPS://rabbit", guest("rabbit", 5671, "/")),
            ("amqp://10.0.0.7:1/x", guest("10.0.0.7", 1, "x")),
            ("amqp://[2001:db8::1]/x", guest("2001:db8::1", 5672, "x")),
            ("amqps://[::1]:7", guest("::1", 7, "/")),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert_eq!(parse("amqps://rabbit").unwrap().scheme, AMQPScheme::AMQPS);
        let (_, _, user, password, _) = read("amqp://a%40b:p%40s%2Fs%3A%25%23@rabbit");
        assert_eq!((user.as_str(), password.as_str()), ("a@b", "p@s/s:%#"));
    }

    #[test]
    fn several_nodes_may_be_named_and_a_comma_in_a_password_is_no_end() {
        let hosts = |text: &str| -> Vec<String> {
            parse_several(text)
                .unwrap_or_else(|error| panic!("{text}: {error}"))
                .into_iter()
                .map(|uri| uri.authority.host)
                .collect()
        };
        assert_eq!(hosts("amqp://one"), ["one"]);
        assert_eq!(hosts("amqp://one/%2f, AMQPS://two:7/x,amqp://a:b,c@three"), ["one", "two", "three"]);
        for (text, said) in [
            ("amqp://one,two", "names several hosts"),
            ("amqp://one,amqp://", "names no host"),
            ("amqp://one,", "names several hosts"),
            (",amqp://one", "is empty"),
            ("amqp://one,amqp://two?x=y", "has a parameter that is not known"),
        ] {
            let error = parse_several(text).unwrap_err();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    #[test]
    fn what_would_go_elsewhere_than_meant_is_refused() {
        for (text, said) in [
            ("amqp://", "names no host"),
            ("amqp:///vhost", "names no host"),
            ("amqp://user:word@one,two", "names several hosts"),
            ("amqp://rabbit?cacertfile=/x", "has a parameter that is not known: known are auth_mechanism"),
            ("amqp://rabbit?heartbeat=often", "cannot be read: invalid digit"),
            ("amqp://us%ffer@rabbit", "cannot be read: invalid utf-8"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_user_password_and_virtual_host_arrive(user in ".+", password in ".+", vhost in "[a-z].*", address: std::net::Ipv6Addr) {
            let encoded = |text: &str| -> String { url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20") };
            let text = format!("amqp://{}:{}@[{address}]/{}", encoded(&user), encoded(&password), encoded(&vhost));
            prop_assert_eq!(read(&text), (address.to_string(), 5672, user, password, vhost));
        }

        #[test]
        fn whatever_is_set_reading_it_ends(text in any::<String>(), rest in "[:@/?#%,\\[\\]a-f0-9=&]{0,40}") {
            let _ = (parse_several(&text), parse_several(&format!("amqp://{rest},amqp://{rest}")));
        }
    }
}
