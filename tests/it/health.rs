//! `/livez` and `/readyz`: who lives, who can work, and what is wrong, in words.

use crate::faults::site::{Role, Site, Way};
use crate::harness::process::Process;
use crate::harness::proxy::{Mode, Protocol};
use crate::harness::servers::Servers;
use crate::harness::{App, assert_allocated, eventually};

async fn says(process: &Process, words: &str) {
    let expected = Some((503, format!("{words}\n")));
    eventually(words, async || process.readiness().await == expected).await;
    assert_eq!(process.metric("earmark_ready").await, Some(0.0));
    assert_eq!(
        process.side("/livez").await,
        Some((200, "alive\n".to_owned())),
        "a process that is not ready is still alive"
    );
}

#[tokio::test]
async fn a_process_says_which_server_it_lacks_and_is_ready_again_by_itself() {
    let site = Site::new(Servers::shared()).await;
    let (intake, worker) = (site.spawn(Role::Intake, None), site.spawn(Role::Worker, None));
    intake.ready().await;
    worker.ready().await;
    let rows = [
        (&intake, Way(Role::Intake, Protocol::Postgres), "intake: postgres is not reachable"),
        (&intake, Way(Role::Intake, Protocol::Amqp), "intake: rabbitmq is not connected"),
        (&worker, Way(Role::Worker, Protocol::Postgres), "worker: postgres is not reachable"),
        (&worker, Way(Role::Worker, Protocol::Amqp), "worker: not consuming from rabbitmq"),
    ];
    for (process, way, words) in rows {
        site.proxy(way).set(Mode::Refuse);
        says(process, words).await;
        site.proxy(way).set(Mode::Pass);
        process.ready().await;
    }
    site.app.finish([intake, worker]).await;
}

#[tokio::test]
async fn an_intake_that_drains_is_not_ready() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let intake = app.start_with("intake", &[("EARMARK_REPLY_TIMEOUT", "3s")]).await;
    let client = app.client(&intake, &business);
    let asking = tokio::spawn(async move { client.create("ann@example.com", 1).await.status });
    app.until_queue_holds(&app.work_queue(), 1).await;
    intake.signal("TERM");
    says(&intake, "intake: draining").await;
    assert_eq!(asking.await.expect("an answer"), 500);
    app.start("worker").await.terminate().await;
    app.finish([intake]).await;
}

#[tokio::test]
async fn an_intake_whose_broker_accepts_no_messages_is_not_ready() {
    let Some(servers) = Servers::alone().await else { return };
    let app = App::on(servers).await;
    let business = app.create_business(1_000);
    let intake = app.start_with("intake", &[("EARMARK_REPLY_TIMEOUT", "1s")]).await;
    let worker = app.start("worker").await;
    let watermark = ["rabbitmqctl", "set_vm_memory_high_watermark", "absolute"];
    app.servers().control(&[watermark.as_slice(), &["1"]].concat()).await;
    // The broker tells a connection only when that one publishes.
    let client = app.client(&intake, &business);
    assert_eq!(client.create("ann@example.com", 1).await.status, 500);
    says(&intake, "intake: rabbitmq accepts no messages").await;
    app.servers().control(&[watermark.as_slice(), &["1GB"]].concat()).await;
    intake.ready().await;
    // The worker settles messages in order, so the request that was held back is settled too.
    assert_allocated(&client.create("ann@example.com", 1).await);
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn while_all_is_well_nobody_logs_a_warning_from_the_first_start_to_the_end() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let processes = [app.start("serve").await, app.start("intake").await, app.start("worker").await];
    let made = app.client(&processes[0], &business).create("ann@example.com", 10).await;
    assert_allocated(&made);
    eventually("the processes have said how they are", async || app.run(&["doctor"]).code() == 0).await;
    let commands: [&[&str]; 8] = [
        &["doctor"],
        &["queues"],
        &["audit"],
        &["workers", "list"],
        &["dead-letters", "list"],
        &["business", "list"],
        &["key", "list", &business.id],
        &["request", &made.request_id()],
    ];
    for command in commands.into_iter().cycle().take(40) {
        // The log level includes lapin's errors, which commands hide by default.
        let run = app.run_with(command, &[("EARMARK_LOG", "info,lapin=info")]).expect_success();
        assert!(!["ERROR", "WARN"].iter().any(|level| run.stderr().contains(level)), "{command:?}: {}", run.stderr());
    }
    for process in processes {
        let trouble = |entry: &serde_json::Value| ["ERROR", "WARN"].iter().any(|level| entry["level"] == *level);
        let troubles: Vec<_> = process.terminate().await.into_iter().filter(trouble).collect();
        assert!(troubles.is_empty(), "{troubles:#?}");
    }
    app.finish([]).await;
}

#[tokio::test]
async fn a_command_says_of_a_queue_that_is_not_there_what_it_has_to_say_and_nothing_else() {
    let app = App::new().await;
    let run = app.run(&["queues"]).expect_success();
    assert!(run.stdout().contains("not there") && run.stderr().is_empty(), "{}{}", run.stdout(), run.stderr());
    let run = app.run(&["doctor"]);
    assert!(run.stdout().contains("is not there") && run.stderr().is_empty(), "{}{}", run.stdout(), run.stderr());
    app.discard().await;
}
