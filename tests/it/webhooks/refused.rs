//! Endpoints that lead to where nobody from outside should get: refused when they are created, and again at each
//! delivery.

use super::{LOCAL, create, deliveries, id_of, post, serving, shown, until_seqs};
use crate::harness::hook::{Hook, Reply};
use crate::harness::{App, eventually};
use crate::reversals::allocate;
use serde_json::json;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

/// A port that counts the connections to it.
async fn trap() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("[::]:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    (port, count)
}

#[tokio::test]
async fn no_form_of_an_address_that_is_not_public_can_be_a_webhook() {
    let app = App::new().await;
    let business = app.create_business(5);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[fe80::1]",
        "[fd00::1]",
        "[2002:7f00:1::]",
    ] {
        let answer = post(&client, "/webhooks", Some(json!({"url": format!("https://{host}/")}))).await;
        let expected = json!({"url": ["The url must lead to a public address."]});
        assert_eq!((answer.status, answer.json()), (400, expected), "{host}");
    }
    for url in ["http://example.com/", "ftp://example.com/", "file:///etc/passwd", "//example.com", "https://"] {
        let answer = post(&client, "/webhooks", Some(json!({"url": url}))).await;
        assert_eq!(answer.status, 400, "{url}");
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn what_leads_to_an_address_that_is_not_public_is_never_connected_to() {
    let app = App::new().await;
    let business = app.create_business(5);
    let (port, connections) = trap().await;
    let proxy = format!("http://127.0.0.1:{port}");
    // Proxies of the environment would connect in the relay's place, to whatever the name leads to then.
    let settings = [
        ("HTTPS_PROXY", proxy.as_str()),
        ("HTTP_PROXY", &proxy),
        ("ALL_PROXY", &proxy),
        ("https_proxy", &proxy),
        ("EARMARK_WEBHOOK_RETRIES", "100ms"),
    ];
    let process = app.start_with("serve", &settings).await;
    let client = app.client(&process, &business);
    // As if the URL had been allowed when it was created, or the name had led elsewhere then.
    let urls = [
        format!("https://127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}/"),
        format!("https://localhost:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://[::ffff:127.0.0.1]:{port}/"),
    ];
    for url in &urls {
        let id = id_of(&create(&client, "https://example.com/").await);
        app.execute(&format!(
            "UPDATE webhooks SET url = '{url}', cursor = 0 WHERE webhook_id = '{id}';
             DELETE FROM webhook_retries; DELETE FROM webhook_deliveries WHERE webhook_id = '{id}'"
        ))
        .await;
        eventually(&format!("{url} is refused"), async || {
            let tried = deliveries(&client, &id).await;
            tried.len() > 2 && tried.iter().take(2).all(|one| one["result"] == "forbidden")
        })
        .await;
        assert_eq!(shown(&client, &id).await["state"], "failing");
        super::call(&client, reqwest::Method::DELETE, &format!("/webhooks/{id}"), None).await;
    }
    assert_eq!(connections.load(Ordering::Relaxed), 0, "nobody was connected to");
    app.finish([process]).await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (app, process, _, client, hook) = serving(&[("EARMARK_WEBHOOK_RETRIES", "1h")]).await;
    for status in [301, 302, 303, 307, 308] {
        let path = format!("/{status}");
        hook.answers(&path, Reply::status(status).with("location", &hook.at("/elsewhere")));
        let id = id_of(&create(&client, &hook.at(&path)).await);
        eventually("it is refused", async || {
            let tried = deliveries(&client, &id).await;
            tried.first().is_some_and(|one| one["result"] == "refused" && one["status"] == status)
        })
        .await;
    }
    assert_eq!(hook.got("/elsewhere").len(), 0);
    app.finish([process]).await;
}

#[tokio::test]
async fn an_exception_of_one_process_does_not_hold_in_another() {
    let app = App::new().await;
    let business = app.create_business(5);
    let hook = Hook::start().await;
    let intake = app.start_with("intake", &[LOCAL]).await;
    let relay = app.start_with("relay", &[("EARMARK_WEBHOOK_RETRIES", "100ms")]).await;
    let client = app.client(&intake, &business);
    let id = id_of(&create(&client, &hook.at("/a")).await);
    eventually("the relay refuses it", async || {
        deliveries(&client, &id).await.first().is_some_and(|one| one["result"] == "forbidden")
    })
    .await;
    assert_eq!(hook.got("/a").len(), 0);
    relay.terminate().await;
    let relay = app.start_with("relay", &[LOCAL, ("EARMARK_WEBHOOK_RETRIES", "100ms")]).await;
    eventually("it comes", async || !hook.got("/a").is_empty()).await;
    until_seqs(&hook, "/a", &[1]).await;
    app.finish([intake, relay]).await;
}

/// A library that answers questions about names from a file (Debian: `libnss-wrapper`).
fn names_library() -> Option<String> {
    let found = ["x86_64", "aarch64"].map(|kind| format!("/usr/lib/{kind}-linux-gnu/libnss_wrapper.so"));
    let found = found.into_iter().find(|path| Path::new(path).exists());
    if found.is_none() {
        eprintln!("skipped: libnss-wrapper is not installed");
    }
    found
}

#[tokio::test]
async fn a_name_that_changes_its_address_after_it_was_checked_leads_to_nobody_inside() {
    let Some(library) = names_library() else { return };
    let name = "hooks.example.test";
    let (hook, certificate) = Hook::start_with_tls(IpAddr::from([127, 0, 0, 2]), name).await;
    let port = hook.url.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).expect("a port");
    // Nobody inside may get a connection, on the same port.
    let inside = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), port)).await.expect("the port");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("names-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let [names, roots] = ["hosts", "roots.pem"].map(|file| folder.join(file).to_string_lossy().into_owned());
    std::fs::write(&roots, certificate).expect("written");
    let lead_to = |addresses: &[&str]| {
        let lines: String = addresses.iter().map(|address| format!("{address} {name}\n")).collect();
        std::fs::write(folder.join("new"), lines).and_then(|()| std::fs::rename(folder.join("new"), &names))
    };
    lead_to(&["127.0.0.2"]).expect("written");
    let settings = [
        ("LD_PRELOAD", library.as_str()),
        ("NSS_WRAPPER_HOSTS", &names),
        ("SSL_CERT_FILE", &roots),
        ("EARMARK_WEBHOOK_EXCEPTIONS", "127.0.0.2"),
        ("EARMARK_WEBHOOK_RETRIES", "100ms"),
    ];
    let app = App::new().await;
    let process = app.start_with("serve", &settings).await;
    let client = app.client(&process, &app.create_business(1_000));
    // Each delivery has to connect anew.
    hook.answers("/a", Reply::status(200).with("connection", "close"));
    let id = id_of(&create(&client, &hook.at("/a")).await);
    until_seqs(&hook, "/a", &[1]).await;
    lead_to(&["127.0.0.1"]).expect("written");
    allocate(&client, "ann@example.com", 1).await;
    eventually("it is refused again and again", async || {
        let tried = deliveries(&client, &id).await;
        tried.iter().take(3).all(|one| one["result"] == "forbidden")
    })
    .await;
    // Of two addresses the one that is allowed is connected to.
    lead_to(&["127.0.0.1", "127.0.0.2"]).expect("written");
    until_seqs(&hook, "/a", &[1, 2]).await;
    let nobody = tokio::time::timeout(Duration::from_millis(1), inside.accept()).await;
    assert!(nobody.is_err(), "{nobody:?}");
    app.finish([process]).await;
    std::fs::remove_dir_all(&folder).expect("removed");
}
