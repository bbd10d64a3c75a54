//! Dashboards, alerts and the runbook, checked against the metrics that the processes really show. When a metric is
//! renamed, no alert may be left that can never fire.

use crate::harness::App;
use crate::harness::process::Run;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ALERTS: &str = "deploy/prometheus/alerts.yml";
const DASHBOARD: &str = "deploy/grafana/earmark.json";
const RUNBOOK: &str = "docs/runbook.md";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn file(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All metrics that an intake, a worker and a relay show together once they have connected.
async fn shown() -> String {
    let app = App::new().await;
    let (intake, worker, relay) = (app.start("intake").await, app.start("worker").await, app.start("relay").await);
    let queue = app.work_queue();
    for (process, label) in [(&intake, "ready"), (&worker, "unacknowledged")] {
        let series = format!("earmark_queue_messages{{queue=\"{queue}\",state=\"{label}\"}}");
        crate::harness::eventually(&series, async || process.metric(&series).await.is_some()).await;
    }
    let text = intake.metrics().await + &worker.metrics().await + &relay.metrics().await;
    app.finish([intake, worker, relay]).await;
    text
}

/// The names of all metrics. The suffixes of histograms are removed.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

/// The metrics that a text names. The suffixes of histograms are removed.
fn metrics_in<'a>(text: &'a str, known: &BTreeSet<&str>) -> BTreeSet<&'a str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let base = |word: &'a str| {
        let of_histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|ending| word.strip_suffix(ending));
        of_histogram.filter(|base| known.contains(base)).unwrap_or(word)
    };
    words.filter(|word| word.starts_with("earmark_")).map(base).collect()
}

/// The labels with values that a text asks for, as they are written: `state="ready"`.
fn labels_in(text: &str) -> BTreeSet<String> {
    let plain = text.replace("\\\"", "\"");
    let mut found = BTreeSet::new();
    for (at, _) in plain.match_indices("=\"") {
        let name: String =
            plain[..at].chars().rev().take_while(|c| c.is_ascii_alphanumeric() || "_!".contains(*c)).collect();
        let name: String = name.trim_start_matches('!').chars().rev().collect();
        let value = plain[at + 2..].split('"').next().unwrap_or_default();
        found.insert(format!("{name}=\"{value}\""));
    }
    found
}

fn alerts() -> BTreeSet<String> {
    let text = file(ALERTS);
    let found: BTreeSet<String> =
        text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect();
    assert!(found.len() >= 6);
    found
}

#[tokio::test]
async fn whatever_is_drawn_or_alerted_on_is_measured_and_whatever_is_measured_is_drawn() {
    let text = shown().await;
    let known = names(&text);
    let (alerts, dashboard, runbook) = (file(ALERTS), file(DASHBOARD), file(RUNBOOK));
    for (name, used) in [(ALERTS, &alerts), (DASHBOARD, &dashboard), (RUNBOOK, &runbook)] {
        let unknown: Vec<&str> =
            metrics_in(used, &known).into_iter().filter(|metric| !known.contains(metric)).collect();
        assert!(unknown.is_empty(), "{name} names metrics that do not exist: {unknown:?}");
        for label in labels_in(used).iter().filter(|label| !label.starts_with("job=")) {
            assert!(text.contains(label.as_str()), "{name} asks for {label}, which no series has");
        }
    }
    let drawn = metrics_in(&dashboard, &known);
    let missing: Vec<&&str> = known.iter().filter(|metric| !drawn.contains(**metric)).collect();
    assert!(missing.is_empty(), "these metrics are not on the dashboard: {missing:?}");
}

#[test]
fn the_dashboard_is_one_that_grafana_can_load() {
    let dashboard: serde_json::Value = serde_json::from_str(&file(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{}", panel["title"]);
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{}", panel["title"]);
    }
}

#[test]
fn every_alert_says_what_to_do_and_the_runbook_knows_no_others() {
    let runbook = file(RUNBOOK);
    let headings: BTreeSet<String> =
        runbook.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect();
    assert_eq!(headings, alerts());
    let text = file(ALERTS);
    for alert in alerts() {
        let link = format!("runbook: {RUNBOOK}#{}\n", alert.to_lowercase());
        assert!(text.contains(&link), "{alert} leads to its heading");
    }
}

#[test]
fn every_command_in_the_runbook_is_one_of_the_program() {
    let runbook = file(RUNBOOK);
    let calls: BTreeSet<Vec<&str>> = runbook
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.strip_prefix("earmark "))
        .map(|call| call.split_whitespace().collect())
        .collect();
    assert!(calls.len() > 5, "{calls:?}");
    for call in calls {
        let path: Vec<&str> = call
            .iter()
            .copied()
            .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with("--"))
            .collect();
        let run = Run::new(&[path.as_slice(), &["--help"]].concat(), vec![]).expect_success();
        for flag in call.iter().filter(|word| word.starts_with("--")) {
            assert!(run.stdout().contains(flag), "earmark {}", call.join(" "));
        }
    }
}

/// Prometheus' own checker. `None` if it is not installed; the test then says so.
fn promtool(test: &str) -> Option<PathBuf> {
    let found = Command::new(root().join("scripts/promtool")).stderr(Stdio::inherit()).output().expect("the script");
    if !found.status.success() {
        eprintln!("skipped: {test}: there is no promtool here");
        return None;
    }
    Some(PathBuf::from(String::from_utf8(found.stdout).expect("a path").trim()))
}

fn accepts(promtool: &Path, arguments: &[&str], input: Stdio) {
    let folder = root().join("deploy/prometheus");
    let run = Command::new(promtool).args(arguments).current_dir(folder).stdin(input).output().expect("promtool runs");
    let said = [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(run.status.success(), "promtool {arguments:?}: {said}");
}

#[tokio::test]
async fn prometheus_finds_nothing_wrong_with_the_metrics() {
    let Some(promtool) = promtool("prometheus_finds_nothing_wrong_with_the_metrics") else { return };
    let path = std::env::temp_dir().join(format!("earmark-metrics-{}", uuid::Uuid::new_v4()));
    // Each process is checked by itself: no series may appear twice in it.
    let app = App::new().await;
    let (intake, worker, relay) = (app.start("intake").await, app.start("worker").await, app.start("relay").await);
    for process in [&intake, &worker, &relay] {
        std::fs::write(&path, process.metrics().await).expect("written");
        accepts(&promtool, &["check", "metrics"], std::fs::File::open(&path).expect("there").into());
    }
    std::fs::remove_file(&path).expect("removed");
    app.finish([intake, worker, relay]).await;
}

#[test]
fn prometheus_takes_the_alerts_and_each_fires_when_it_should() {
    let Some(promtool) = promtool("prometheus_takes_the_alerts_and_each_fires_when_it_should") else { return };
    accepts(&promtool, &["check", "config", "prometheus.yml"], Stdio::null());
    accepts(&promtool, &["check", "rules", "alerts.yml"], Stdio::null());
    accepts(&promtool, &["test", "rules", "alerts_test.yml"], Stdio::null());
    let tested = file("deploy/prometheus/alerts_test.yml");
    for alert in alerts() {
        assert!(
            tested.contains(&format!("        alertname: {alert}\n        exp_alerts:")),
            "no test makes {alert} fire"
        );
    }
}
