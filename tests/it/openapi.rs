//! The OpenAPI document: what is committed, what is served and what the service does must agree.

use crate::harness::App;
use crate::harness::http::Client;
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

fn committed() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the document")).expect("JSON")
}

#[test]
fn the_committed_document_is_the_one_that_the_program_prints() {
    let printed = crate::harness::process::Run::new(&["openapi"], vec![]).expect_success().json();
    assert!(printed == committed(), "docs/openapi.json is out of date: write it again with `make openapi`");
}

#[test]
fn the_document_has_every_route_and_no_other() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/intake/routes.rs");
    let source = std::fs::read_to_string(source).expect("the routes");
    let routes = source.split(".route(\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0));
    let routes: BTreeSet<&str> = routes.filter(|route| *route != "/docs/style.css").collect();
    let document = committed();
    let described: BTreeSet<&str> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    assert!(routes.len() > 5);
    assert_eq!(routes, described);
}

/// Collects every `$ref`, to check that each leads somewhere.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| match (name.as_str(), value.as_str()) {
            ("$ref", Some(reference)) => drop(found.insert(reference.trim_start_matches('#').to_owned())),
            _ => references(value, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn the_document_names_no_shape_that_it_does_not_have() {
    let document = committed();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 8, "{found:?}");
    for reference in found {
        assert!(document.pointer(&reference).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn document_and_page_are_served_without_a_key_and_the_page_needs_no_other_host() {
    let app = App::new().await;
    let process = app.start("serve").await;
    let client = Client::new(process.url(), "none");
    let get = async |path: &str| Client::send(client.request(Method::GET, path)).await.expect("an answer");
    let document = get("/openapi.json").await;
    assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
    assert_eq!(document.json(), committed());
    let page = get("/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{policy}");
    let page = String::from_utf8(page.body).expect("UTF-8");
    for path in committed()["paths"].as_object().expect("paths").keys() {
        assert!(page.contains(&format!(" {path}</code></h2>")), "{path}");
    }
    for outside in ["<script", "href=\"http", "src=", "style=", "url("] {
        assert!(!page.contains(outside), "the page has {outside}");
    }
    let style = get("/docs/style.css").await;
    assert_eq!((style.status, style.header("content-type")), (200, Some("text/css; charset=utf-8")));
    assert!(page.contains("href=\"/docs/style.css\""));
    app.finish([process]).await;
}
