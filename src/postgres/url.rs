//! Reads `DATABASE_URL`: the forms that libpq takes, as far as the driver supports them.

use crate::server_url;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use url::{Host, Url};

/// The parameters that the driver knows. Others are not passed on to it: it would log them with their values, which may be
/// secrets.
const PARAMETERS: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
];

/// Reads a URL. The error is the end of a sentence that begins with the name of the setting. It never has the password.
pub(super) fn parse(text: &str) -> Result<PgConnectOptions, String> {
    let mut url = server_url::parse(&with_host(text), ["postgres", "postgresql"])?;
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let (known, unknown): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(name, _)| is_known(name));
    for (name, _) in unknown {
        tracing::warn!(parameter = name, "DATABASE_URL has a parameter without effect");
    }
    for (_, value) in known.iter().filter(|(name, _)| ["host", "hostaddr", "port"].contains(&name.as_str())) {
        server_url::refuse_several(value)?;
    }
    let address = match url.host() {
        Some(Host::Ipv6(address)) => Some(address.to_string()),
        Some(Host::Domain(_) | Host::Ipv4(_)) | None => None,
    };
    url.query_pairs_mut().clear().extend_pairs(&known);
    if let Some(address) = address.filter(|_| !names_host(&url)) {
        // The driver would take `[::1]`, with its brackets, for the name of a host.
        url.query_pairs_mut().append_pair("hostaddr", &address);
    }
    PgConnectOptions::from_url(&url)
        .map_err(|error| format!("cannot be read: {}{}", culprit(&known), innermost(&error)))
}

fn is_known(name: &str) -> bool {
    PARAMETERS.contains(&name) || name == "options" || name.starts_with("options[")
}

fn names_host(url: &Url) -> bool {
    url.query_pairs().any(|(name, _)| name == "host" || name == "hostaddr")
}

/// Adds the host `localhost` to a URL such as `postgres://user@/database?host=/folder`. The parser needs a host before the
/// path, and the driver uses the one in `host`.
fn with_host(text: &str) -> String {
    let is_named = ["?host=", "&host=", "?hostaddr=", "&hostaddr="].iter().any(|name| text.contains(name));
    let split = text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('/')?)));
    match split {
        Some((scheme, (user, path))) if is_named && user.ends_with('@') => format!("{scheme}://{user}localhost/{path}"),
        _ => text.to_owned(),
    }
}

/// The name of the wrong parameter and a colon, to begin a message with; empty if no parameter is wrong by itself.
fn culprit(parameters: &[(String, String)]) -> String {
    let is_wrong = |(name, value): &&(String, String)| {
        let alone = Url::parse_with_params("postgres://", [(name, value)]);
        alone.is_ok_and(|url| PgConnectOptions::from_url(&url).is_err())
    };
    parameters.iter().find(is_wrong).map(|(name, _)| format!("{name}: ")).unwrap_or_default()
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Host or folder of the socket, port, user and database.
    fn read(text: &str) -> (String, u16, String, Option<String>) {
        let options = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let socket = options.get_socket().map(|folder| folder.display().to_string());
        let host = socket.unwrap_or_else(|| options.get_host().to_owned());
        (host, options.get_port(), options.get_username().to_owned(), options.get_database().map(str::to_owned))
    }

    #[test]
    fn every_form_is_read_as_it_is_meant() {
        let is = |host: &str, port| (host.to_owned(), port, "ann".to_owned(), Some("books".to_owned()));
        for (text, expected) in [
            ("postgres://ann@db/books", is("db", 5432)),
            ("POSTGRESQL://ann:secret@db:5433/books", is("db", 5433)),
            ("postgres://ann@10.0.0.7/books?sslmode=verify-full", is("10.0.0.7", 5432)),
            ("postgres://ann@[::1]/books", is("::1", 5432)),
            ("postgres://ann@[2001:db8::1]:5433/books?sslmode=require", is("2001:db8::1", 5433)),
            ("postgres://ann@[::1]/books?host=db", is("db", 5432)),
            ("postgres://ann@db/books?hostaddr=::1", is("::1", 5432)),
            ("postgres:///books?user=ann&host=/var/run/postgresql", is("/var/run/postgresql", 5432)),
            ("postgres://ann@%2Fvar%2Frun%2Fpostgresql/books", is("/var/run/postgresql", 5432)),
            ("postgres://ann@%2Ftmp:5433/books", is("/tmp", 5433)),
            ("postgres://ann:p%40ss@/books?host=/cloudsql/a:b:c", is("/cloudsql/a:b:c", 5432)),
            ("postgres://db?user=ann&dbname=books&port=5433", is("db", 5433)),
            ("postgres://ann@db/books?channel_binding=require&sslpassword=secret", is("db", 5432)),
            (" postgres://ann@db/books\n", is("db", 5432)),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert_eq!(read("postgres://ann@db").3, None, "the server takes the user's name for it");
        assert_eq!(read("postgres://a%40b:x@db/b%20c").2, "a@b");
        assert_eq!(read("postgres://a%40b:x@db/b%20c").3.as_deref(), Some("b c"));
    }

    #[test]
    fn what_would_go_elsewhere_than_meant_is_refused() {
        for (text, said) in [
            ("mysql://ann:hunter2@db/books", "must begin with postgres:// or postgresql://"),
            ("host=db password=hunter2", "must begin with postgres:// or postgresql://"),
            ("jdbc:postgresql://ann:hunter2@db/books", "must begin with postgres:// or postgresql://"),
            ("postgres://ann:hunter2@/books", "names no host"),
            ("postgres://ann:hunter2@one,two/books", "names several hosts"),
            ("postgres://ann:hunter2@one:1,two:2/books", "names several hosts"),
            ("postgres://ann:hunter2@db/books?host=one,two", "names several hosts"),
            ("postgres://ann:hunter2@db/books?hostaddr=::1,::2", "names several hosts"),
            ("postgres://ann:hun/ter2@db/books", "cannot be read: invalid port number; in a user name"),
            ("postgres://ann:hunter2@db/books?sslmode=sometimes", "cannot be read: sslmode: "),
            ("postgres://ann:hunter2@db/books?sslmode=require&port=x", "cannot be read: port: invalid digit"),
            ("postgres://ann:hunter2@db/books?hostaddr=db", "cannot be read: hostaddr: invalid IP address"),
            ("postgres://ann:%ffhunter2@db/books", "cannot be read: invalid utf-8"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(said) && !error.contains("ter2"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_user_password_and_database_arrive(user in ".+", password in ".+", database in "[a-z].*", address: std::net::Ipv6Addr) {
            let encoded = |text: &str| -> String { url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20") };
            let text = format!("postgres://{}:{}@[{address}]/{}", encoded(&user), encoded(&password), encoded(&database));
            prop_assert_eq!(read(&text), (address.to_string(), 5432, user, Some(database)));
            let shown = format!("{:?}", parse(&text));
            prop_assert!(shown.contains(&format!("password: Some({password:?})")), "{}", shown);
        }

        #[test]
        fn whatever_is_set_reading_it_ends(text in any::<String>(), rest in "[:@/?#%,\\[\\]a-f0-9=&]{0,40}") {
            let _ = (parse(&text), parse(&format!("postgres://{rest}")));
        }
    }
}
