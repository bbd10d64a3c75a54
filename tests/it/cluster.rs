//! A cluster of three RabbitMQ nodes that loses a node or a link under load. At the end the money is checked, and that no
//! client was told anything wrong or unknown. Between two successes there are at most [`RECOVERY`].
//!
//! Two nodes are cut off from each other by freezing what passes their bytes on (`scripts/lib/cluster.sh`). So nothing
//! arrives and nothing fails, as in a network that swallows everything. A connection that closes would be noticed at once.
//! Network namespaces would do the same, and need root.

use crate::faults::load::{Habits, Load};
use crate::faults::site::Site;
use crate::faults::told::{Operation, statuses};
use crate::harness::http::http_client;
use crate::harness::process::Process;
use crate::harness::servers::Servers;
use crate::harness::{App, PATIENCE, eventually};
use earmark::clock;
use futures_util::FutureExt;
use serde_json::Value;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The longest time without a success that a fault may cost.
const RECOVERY: Duration = Duration::from_secs(10);
/// As many clients as keep every part busy, and leave the machine some time.
const CLIENTS: u64 = 8;
const HABITS: Habits = Habits {
    keyed: 0.5,
    hang_up: 0.0,
    vanish: 0.0,
    hedge: 0.0,
    onward: 0.3,
    pause: Duration::from_millis(50),
    operations: usize::MAX,
};

/// What the management API of the first node says.
async fn ask(app: &App, path: &str) -> Option<Value> {
    let url = format!("{}/api/{path}", management(app));
    http_client(Duration::from_secs(10)).get(url).send().await.ok()?.json().await.ok()
}

/// The number in the name of a node.
fn number(node: &Value) -> Option<String> {
    let (name, _) = node.as_str()?.split_once('@')?;
    Some(name.rsplit_once('-')?.1.to_owned())
}

/// The node of the copy that leads the work queue, and the one to which the active worker is connected.
async fn leader_and_active(app: &App) -> (String, String) {
    let path = format!("queues/%2F/{}", app.work_queue());
    let found = RefCell::default();
    eventually("the queue has a leader and an active worker", async || {
        let Some(queue) = ask(app, &path).await else { return false };
        let consumers = queue["consumer_details"].as_array().cloned().unwrap_or_default();
        let active = consumers.iter().find(|consumer| consumer["active"] == true);
        let active = active.and_then(|active| number(&active["channel_details"]["node"]));
        *found.borrow_mut() = number(&queue["leader"]).zip(active);
        found.borrow().is_some()
    })
    .await;
    found.take().expect("just found")
}

/// Whether all nodes run together and each has its copy of the work queue.
async fn is_whole(app: &App) -> bool {
    let path = format!("queues/%2F/{}", app.work_queue());
    let (queue, nodes) = (ask(app, &path).await.unwrap_or_default(), ask(app, "nodes").await.unwrap_or_default());
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    let runs = |node: &Value| node["running"] == true && count(&node["partitions"]) == 0;
    count(&queue["online"]) == 3 && count(&nodes) == 3 && nodes.as_array().is_some_and(|nodes| nodes.iter().all(runs))
}

/// Waits until the cluster is whole and stays so for some seconds: nodes that could not hear each other may find that out
/// when they can again, and restart. False if it takes longer than `time`.
async fn is_whole_within(app: &App, time: Duration) -> bool {
    let (mut seen, end) = (0, Instant::now() + time);
    while seen < 4 && Instant::now() < end {
        seen = if is_whole(app).await { seen + 1 } else { 0 };
        sleep(Duration::from_secs(1)).await;
    }
    seen == 4
}

async fn until_whole(app: &App) {
    assert!(is_whole_within(app, PATIENCE).await, "the nodes do not come together again");
}

/// Waits for more successes.
async fn goes_on(app: &App) {
    let before = app.count("allocated").await;
    eventually("requests are allocated", async || app.count("allocated").await >= before + 50).await;
}

async fn stop(app: &App, node: &str, how: &[&str]) {
    app.servers().control(&[&["cluster", "stop", node], how].concat()).await;
}

/// Waits until the doctor, who asks the management API at `url`, says these words. That API may be some seconds behind.
async fn until_doctor_says(app: &App, url: &str, level: &str, words: &str) {
    eventually(words, async || {
        let shown = app.run_with(&["doctor", "--json"], &[("RABBITMQ_MANAGEMENT_URL", url)]).json();
        let says = |check: &Value| check["found"].as_str().is_some_and(|found| found.contains(words));
        shown["checks"].as_array().expect("checks").iter().any(|check| check["level"] == level && says(check))
    })
    .await;
}

fn management(app: &App) -> String {
    app.servers().management_url.clone().expect("a management API")
}

/// Kills a node with `kill -9`, and starts it when requests are allocated again.
async fn kill(app: &App, node: &str) {
    stop(app, node, &["--immediate"]).await;
    goes_on(app).await;
    // The first node has the management API.
    if node != "1" {
        until_doctor_says(app, &management(app), "warning", "2 online").await;
    }
    app.servers().control(&["cluster", "start", node]).await;
}

/// Freezes a node for so long.
async fn freeze(app: &App, node: &str, time: Duration) {
    app.servers().control(&["cluster", "pause", node]).await;
    sleep(time).await;
    app.servers().control(&["cluster", "resume", node]).await;
    // In RabbitMQ 3.10 the nodes may not agree that all of them are back: this one is then restarted by the others once a
    // minute, without end. Whoever sees that restarts it by hand.
    if !is_whole_within(app, Duration::from_secs(40)).await {
        eprintln!("node {node} did not come back by itself");
        stop(app, node, &["--immediate"]).await;
        app.servers().control(&["cluster", "start", node]).await;
    }
}

/// The longest time between two successes after `since`, or before the first.
fn longest_pause(operations: &[Operation], since: i64) -> Duration {
    let attempts = operations.iter().flat_map(|operation| &operation.attempts);
    let mut successes: Vec<i64> =
        attempts.filter(|attempt| attempt.status == Some(200)).map(|attempt| attempt.ended).collect();
    successes.push(since);
    successes.retain(|&ended| ended >= since);
    successes.sort_unstable();
    let longest = successes.windows(2).map(|pair| pair[1] - pair[0]).max().expect("successes");
    Duration::from_millis(longest.unsigned_abs())
}

/// Runs an intake and two workers under load while `fault` happens, and checks everything.
async fn survives(name: &str, fault: impl AsyncFnOnce(&App)) {
    let Some(servers) = Servers::cluster().await else { return };
    let site = Site::without_proxies(servers).await;
    let processes: [Process; 3] =
        [site.app.start("intake").await, site.app.start("worker").await, site.app.start("worker").await];
    let client = site.app.client(&processes[0], &site.business);
    let load = Load::new(client, vec![processes[0].url()]);
    let told = tokio::spawn({
        let load = load.clone();
        async move { load.run("ann", 1, CLIENTS, HABITS).await }
    });
    eventually("the cluster is whole", async || is_whole(&site.app).await).await;
    goes_on(&site.app).await;
    let since = clock::now_millis();
    let logs = || processes.iter().map(Process::log).collect::<Vec<_>>();
    let surviving = async {
        fault(&site.app).await;
        until_whole(&site.app).await;
        goes_on(&site.app).await;
    };
    if let Err(panic) = AssertUnwindSafe(surviving).catch_unwind().await {
        eprintln!("{name}: {:#?}", logs());
        resume_unwind(panic);
    }
    load.stop.cancel();
    let operations = told.await.expect("the clients");
    let (pause, told) = (longest_pause(&operations, since), statuses(&operations));
    eprintln!("{name}: {pause:?} without a success at most; answers: {told:?}");
    if pause > Duration::from_secs(5) {
        eprintln!("{:#?}", logs());
    }
    assert!(pause < RECOVERY, "{name}: {pause:?} without a success: {:#?}", logs());
    assert!(!told.contains_key("504") && !told.contains_key("none"), "{name}: {told:?}: {:#?}", logs());
    for process in processes {
        process.terminate().await;
    }
    site.verify(&operations).await;
    site.app.finish([]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_of_the_active_worker_is_killed() {
    survives("the node of the active worker is killed", async |app| {
        let (_, active) = leader_and_active(app).await;
        kill(app, &active).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_of_the_active_worker_hangs() {
    survives("the node of the active worker hangs for 15 s", async |app| {
        let (_, active) = leader_and_active(app).await;
        freeze(app, &active, Duration::from_secs(15)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make cluster-test"]
async fn the_leader_of_the_work_queue_is_killed() {
    survives("the leader of the work queue is killed", async |app| {
        let (leader, _) = leader_and_active(app).await;
        kill(app, &leader).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make cluster-test"]
async fn each_node_hangs_in_turn_for_30_s() {
    for node in ["1", "2", "3"] {
        survives(&format!("node {node} hangs for 30 s"), async |app| {
            freeze(app, node, Duration::from_secs(30)).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make cluster-test"]
async fn the_link_between_the_leader_and_each_other_node_is_cut() {
    for number in [0, 1] {
        survives("the link between the leader and another node is cut for 30 s", async |app| {
            let (leader, active) = leader_and_active(app).await;
            let others = ["1", "2", "3"].map(str::to_owned).into_iter().filter(|node| *node != leader);
            // First the one that the active worker is connected to.
            let mut others: Vec<String> = others.collect();
            others.sort_by_key(|node| (*node != active, node.clone()));
            let other = &others[number];
            app.servers().control(&["cluster", "cut", &leader, other]).await;
            sleep(Duration::from_secs(30)).await;
            app.servers().control(&["cluster", "mend", &leader, other]).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make cluster-test"]
async fn all_three_nodes_are_restarted_one_after_the_other() {
    survives("all three nodes are restarted one after the other", async |app| {
        for node in ["1", "2", "3"] {
            stop(app, node, &[]).await;
            app.servers().control(&["cluster", "start", node]).await;
            until_whole(app).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_doctor_says_where_each_queue_is_and_when_copies_are_missing() {
    let Some(servers) = Servers::cluster().await else { return };
    let app = App::on(servers).await;
    let worker = app.start("worker").await;
    let url = management(&app);
    until_whole(&app).await;
    let queue = app.dead_letter_queue();
    until_doctor_says(&app, &url, "ok", &format!("{}: on 3 of 3 nodes", app.work_queue())).await;
    until_doctor_says(&app, &url, "ok", &format!("{queue}: on 3 of 3 nodes")).await;
    let found = ask(&app, &format!("queues/%2F/{queue}")).await.expect("the queue");
    let members = found["members"].as_array().expect("members");
    let leaves = members.iter().find(|member| **member != found["leader"]).and_then(Value::as_str);
    let leave =
        format!("rabbit_quorum_queue:delete_member(<<\"/\">>, <<\"{queue}\">>, '{}').", leaves.expect("a node"));
    app.servers().control(&["cluster", "rabbitmqctl", "1", "eval", &leave]).await;
    until_doctor_says(&app, &url, "warning", &format!("{queue}: on 2 of 3 nodes")).await;
    until_doctor_says(&app, "http://127.0.0.1:1", "warning", "management API").await;
    until_doctor_says(&app, "ftp://host", "failure", "RABBITMQ_MANAGEMENT_URL must begin with http:// or https://")
        .await;
    app.finish([worker]).await;
}
