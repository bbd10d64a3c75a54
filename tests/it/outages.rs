//! Servers and processes that go away and come back.

use crate::harness::http::Client;
use crate::harness::process::Process;
use crate::harness::servers::Servers;
use crate::harness::{App, assert_allocated, eventually};
use std::time::Duration;
use tokio::time::Instant;

/// The first success must come this soon after the last fault has ended.
const RECOVERY: Duration = Duration::from_secs(10);

/// The service loses a server by a restart and then by a crash. It refuses requests at once meanwhile, and serves again
/// by itself when the server is back.
async fn survives(server: &str) {
    let Some(servers) = Servers::alone().await else { return };
    let app = App::on(servers).await;
    let business = app.create_business(1_000_000);
    let (intake, worker) = (app.start("intake").await, app.start("worker").await);
    let client = app.client(&intake, &business);
    assert_allocated(&client.create("ann@example.com", 1).await);
    // The restart comes first, because a crash can make RabbitMQ lose the leader of a new queue.
    for stop in [["stop", server].as_slice(), &["stop", server, "--immediate"]] {
        app.servers().control(stop).await;
        eventually("it refuses", async || client.create("bob@example.com", 1).await.status == 503).await;
        let refused = Instant::now();
        assert_eq!(client.create("bob@example.com", 1).await.status, 503);
        assert!(refused.elapsed() < Duration::from_secs(1), "a refusal comes at once");
        eventually("neither is ready", async || !intake.is_ready().await && !worker.is_ready().await).await;
        app.servers().control(&["start", server]).await;
        succeeds_again(&client, &[&intake, &worker]).await;
        eventually("both are ready", async || intake.is_ready().await && worker.is_ready().await).await;
    }
    assert_eq!(client.user_balance("ann@example.com").await, 1);
    app.finish([intake, worker]).await;
}

async fn succeeds_again(client: &Client, processes: &[&Process]) {
    let back = Instant::now();
    while client.create("carl@example.com", 1).await.status != 200 {
        let logs = || processes.iter().map(|process| process.log()).collect::<Vec<_>>();
        assert!(back.elapsed() < RECOVERY, "no success within {RECOVERY:?} of the server's return: {:#?}", logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_restart_and_a_crash_of_postgres_are_survived() {
    survives("postgres").await;
}

#[tokio::test]
async fn a_restart_and_a_crash_of_rabbitmq_are_survived() {
    survives("rabbitmq").await;
}

#[tokio::test]
async fn a_killed_worker_is_replaced_by_the_next() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let intake = app.start("intake").await;
    let client = app.client(&intake, &business);
    let mut worker: Process = app.start("worker").await;
    for _ in 0..3 {
        assert_allocated(&client.create("ann@example.com", 1).await);
        worker.kill().await;
        worker = app.start("worker").await;
    }
    assert_allocated(&client.create("ann@example.com", 1).await);
    assert_eq!(client.user_balance("ann@example.com").await, 4);
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_queue_that_refuses_everything_is_tried_over_other_channels_until_it_takes_messages_again() {
    let Some(servers) = Servers::alone().await else { return };
    let app = App::on(servers).await;
    let business = app.create_business(1_000);
    let intake = app.start("intake").await;
    let client = app.client(&intake, &business);
    let pattern = format!("^{}$", app.work_queue().replace('.', "\\."));
    let full = ["rabbitmqctl", "set_policy", "full", &pattern, "{\"max-length\":0}", "--apply-to", "queues"];
    app.servers().control(&full).await;
    // Nobody takes the first message, and so the queue refuses all others.
    eventually("two channels in a row are replaced", async || {
        client.create("ann@example.com", 1).await;
        intake.logged("a channel takes nothing, and is replaced") >= 2
    })
    .await;
    app.servers().control(&["rabbitmqctl", "clear_policy", "full"]).await;
    let worker = app.start("worker").await;
    eventually("it takes messages again", async || client.create("ann@example.com", 1).await.status == 200).await;
    app.finish([intake, worker]).await;
}
