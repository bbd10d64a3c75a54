//! The URLs of the servers, in the forms that people have.

use crate::harness::proxy::{Mode, Protocol, Proxy};
use crate::harness::{App, assert_allocated, authority, eventually};
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use url::Url;

fn read(url: &str) -> Url {
    Url::parse(url).expect("a URL")
}

/// Forwards from `[::1]` to the same server, and returns the URL with that address. `None` on a machine without IPv6.
async fn over_ipv6(url: &str) -> Option<String> {
    let mut url = read(url);
    let upstream = (url.host_str().expect("a host").to_owned(), url.port().expect("a port"));
    let listener = TcpListener::bind("[::1]:0").await.ok()?;
    url.set_host(Some("[::1]")).expect("a host");
    url.set_port(Some(listener.local_addr().expect("an address").port())).expect("a port");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(upstream).await?;
                copy_bidirectional(&mut stream, &mut server).await
            });
        }
    });
    Some(url.into())
}

#[tokio::test]
async fn servers_are_reached_at_ipv6_addresses() {
    let app = App::new().await;
    let Some((database, broker)) = over_ipv6(&app.database_url).await.zip(over_ipv6(&app.amqp_url).await) else {
        eprintln!("skipped: this machine has no IPv6");
        return app.discard().await;
    };
    let business = app.create_business(100);
    let process = app.start_with("serve", &[("DATABASE_URL", &database), ("AMQP_URL", &broker)]).await;
    assert_allocated(&app.client(&process, &business).create("ann@example.com", 10).await);
    app.finish([process]).await;
}

#[tokio::test]
async fn postgres_is_reached_over_a_unix_socket_in_every_form_of_its_url() {
    let app = App::new().await;
    let business = app.create_business(100);
    let url = read(&app.database_url);
    let folders: String =
        sqlx::query_scalar("SHOW unix_socket_directories").fetch_one(&mut app.database().await).await.expect("folders");
    let (folder, port) = (folders.split(',').next().unwrap_or_default().trim().to_owned(), url.port().unwrap_or(5432));
    if !std::path::Path::new(&folder).join(format!(".s.PGSQL.{port}")).exists() {
        eprintln!("skipped: the server has no socket here");
        return app.discard().await;
    }
    let (encoded, user, database) = (folder.replace('/', "%2F"), url.username(), url.path());
    let password = url.password().unwrap_or("x");
    for form in [
        format!("postgres://{user}:{password}@{encoded}:{port}{database}"),
        format!("postgresql://{user}:{password}@{database}?host={folder}&port={port}"),
        format!("postgres://{database}?host={folder}&port={port}&user={user}&password={password}"),
        format!("postgres://{user}:{password}@nowhere.invalid{database}?host={encoded}&port={port}"),
    ] {
        let listed = app.run_with(&["business", "list"], &[("DATABASE_URL", &form)]).expect_success();
        assert!(listed.stdout().contains(&business.id), "{form}: {}", listed.stdout());
    }
    app.discard().await;
}

#[tokio::test]
async fn a_parameter_without_effect_is_named_and_its_value_is_not() {
    let app = App::new().await;
    let url = format!("{}&channel_binding=require&sslpassword=hunter2", app.database_url);
    let run = app.run_with(&["business", "list"], &[("DATABASE_URL", &url)]).expect_success();
    let said = run.stderr();
    assert!(said.contains("channel_binding") && said.contains("sslpassword") && !said.contains("hunter2"), "{said}");
    app.discard().await;
}

#[tokio::test]
async fn the_root_virtual_host_has_many_spellings() {
    let app = App::new().await;
    let worker = app.start("worker").await;
    let base = read(&app.amqp_url);
    let base = &base[..url::Position::BeforePath];
    for path in ["", "/", "//", "/%2f", "/%2F", "/?heartbeat=5"] {
        let shown = app.run_with(&["queues"], &[("AMQP_URL", &format!("{base}{path}"))]).expect_success();
        assert!(shown.stdout().contains(&app.work_queue()), "{path}: {}", shown.stdout());
    }
    app.finish([worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_works_over_whichever_node_of_its_broker_is_there() {
    let app = App::new().await;
    let business = app.create_business(100);
    let target = authority(&app.amqp_url).to_owned();
    let start = || Proxy::start(Protocol::Amqp, target.parse().expect("an address"));
    let nodes = [start().await.expect("a proxy"), start().await.expect("a proxy")];
    let urls = nodes.each_ref().map(|node| app.amqp_url.replace(&target, &node.address().to_string()));
    let urls = [("AMQP_URL", &*urls.join(","))];
    let process = app.start_with("serve", &urls).await;
    let client = app.client(&process, &business);
    // The first time one of them goes, it may be one that nobody uses.
    for gone in [0, 1, 0] {
        nodes[gone].set(Mode::Refuse);
        nodes[gone].reset_all();
        eventually("it works over the other", async || client.create("ann@example.com", 1).await.status == 200).await;
        nodes[gone].set(Mode::Pass);
    }
    let shown = app.run_with(&["queues"], &urls).expect_success();
    assert!(shown.stdout().contains(&app.work_queue()), "{}", shown.stdout());
    app.finish([process]).await;
}

#[tokio::test]
async fn a_node_that_hangs_does_not_hold_up_the_others() {
    let app = App::new().await;
    let target = authority(&app.amqp_url).to_owned();
    let mut hanging = vec![];
    for _ in 0..9 {
        let node = Proxy::start(Protocol::Amqp, target.parse().expect("an address")).await.expect("a proxy");
        node.set(Mode::BlackHole);
        hanging.push(node);
    }
    let addresses = hanging.iter().map(|node| node.address().to_string()).chain([target.clone()]);
    let urls: Vec<String> = addresses.map(|address| app.amqp_url.replace(&target, &address)).collect();
    let began = Instant::now();
    let process = app.start_with("serve", &[("AMQP_URL", &urls.join(","))]).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    app.finish([process]).await;
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused_by_the_name_of_its_setting() {
    let app = App::new().await;
    for (setting, url, said) in [
        ("AMQP_URL", "amqp://ann:hunter2@/", "AMQP_URL names no host"),
        ("AMQP_URL", "amqp://ann:hunter2@one,two", "AMQP_URL names several hosts"),
        ("AMQP_URL", "amqp://ann:hunter2/@host", "AMQP_URL cannot be read"),
        ("AMQP_URL", "rabbitmq://ann:hunter2@host", "AMQP_URL must begin with amqp:// or amqps://"),
        ("AMQP_URL", "amqps://ann:hunter2@host?verify=none", "AMQP_URL has a parameter that is not known"),
        ("AMQP_URL", "", "AMQP_URL is empty"),
        ("AMQP_URL", "amqp://host,amqp://ann:hunter2@/", "AMQP_URL names no host"),
        ("DATABASE_URL", "postgres://ann:hunter2@/x", "DATABASE_URL names no host"),
        ("DATABASE_URL", "postgres://ann:hunter2@one:1,two:2/x", "DATABASE_URL names several hosts"),
        ("DATABASE_URL", "mysql://ann:hunter2@host/x", "DATABASE_URL must begin with postgres:// or postgresql://"),
        ("DATABASE_URL", "postgres://ann:hunter2#@host/x", "DATABASE_URL cannot be read"),
        ("DATABASE_URL", "postgres://ann:hunter2@host/x?sslmode=on", "DATABASE_URL cannot be read: sslmode"),
    ] {
        let run = app.run_with(&["queues"], &[(setting, url)]);
        let stderr = run.stderr();
        assert!(run.code() == 1 && stderr.contains(said) && !stderr.contains("hunter2"), "{url}: {stderr}");
    }
    app.discard().await;
}
