//! A file is sent while everything it depends on is killed. The client itself is killed twice.

use super::{Payer, assert_each_paid_once, sum};
use crate::harness::process::Process;
use crate::harness::servers::Servers;
use crate::harness::{App, assert_allocated, eventually};
use serde_json::json;
use std::net::TcpListener;
use tokio::time::Instant;

const FILE: &str = "payouts.csv";

/// A deployment whose parts are killed and come back at the same addresses.
pub(super) struct Scene {
    pub app: App,
    pub intake: Process,
    pub worker: Process,
    listen: String,
    /// Settings that differ from the usual ones.
    settings: Vec<(&'static str, &'static str)>,
    lines: usize,
    start: Instant,
}

impl Scene {
    pub async fn set(servers: Servers, lines: usize, settings: &[(&'static str, &'static str)]) -> (Self, Payer) {
        let app = App::on(servers).await;
        // The balance covers all lines and the probe exactly. If a line were paid twice, another would stay unpaid.
        let business = app.create_business(sum(lines) + 1);
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let listen = format!("127.0.0.1:{port}");
        let payer = Payer::for_business(&business, &format!("http://{listen}"));
        let intake = app.start_with("intake", &with_listen(settings, &listen)).await;
        let worker = app.start_with("worker", settings).await;
        assert_allocated(&app.client(&intake, &business).create("probe@example.com", 1).await);
        let (settings, start) = (settings.to_vec(), Instant::now());
        (Self { app, intake, worker, listen, settings, lines, start }, payer)
    }

    pub async fn until_paid(&self, percent: usize) {
        let enough = (self.lines * percent / 100) as i64;
        eventually(&format!("{percent}% are paid"), async || self.app.count("allocated").await >= enough).await;
    }

    pub fn say(&self, what: &str) {
        println!("{:>6} ms  {what}", self.start.elapsed().as_millis());
    }

    async fn kill(&self, client: &mut Process) {
        assert!(client.has_ended().is_none(), "it was over before it could be killed: {:#?}", client.log());
        client.kill().await;
        self.say("client killed");
    }

    pub async fn replace_intake(&mut self) {
        self.intake.kill().await;
        self.say("intake killed");
        self.intake = self.app.start_with("intake", &with_listen(&self.settings, &self.listen)).await;
        self.say("intake back");
    }

    pub async fn replace_worker(&mut self) {
        self.worker.kill().await;
        self.say("worker killed");
        self.worker = self.app.start_with("worker", &self.settings).await;
        self.say("worker back");
    }

    pub async fn stop(&self, server: &[&str]) {
        self.app.servers().control(&[&["stop"], server].concat()).await;
        self.say(&format!("{} stopped", server.join(" ")));
    }

    pub async fn start(&self, server: &str) {
        self.app.servers().control(&["start", server]).await;
        self.say(&format!("{server} back"));
    }
}

fn with_listen<'a>(settings: &[(&'static str, &'a str)], listen: &'a str) -> Vec<(&'static str, &'a str)> {
    [settings, &[("EARMARK_LISTEN", listen)]].concat()
}

/// Sends a file with `concurrency` lines at a time, while each part is killed in turn. `rabbitmq` holds the arguments
/// that stop RabbitMQ.
async fn survive(mut scene: Scene, payer: Payer, concurrency: &str, rabbitmq: &[&str]) {
    let habits = ["--concurrency", concurrency];
    payer.write_payouts(FILE, scene.lines);
    let mut client = payer.start(FILE, &habits);
    scene.until_paid(10).await;
    scene.kill(&mut client).await;
    client = payer.start(FILE, &habits);
    scene.until_paid(25).await;
    scene.replace_intake().await;
    scene.until_paid(40).await;
    scene.stop(&["postgres", "--immediate"]).await;
    scene.kill(&mut client).await;
    let to_the_end = [&["--yes", "--json"], habits.as_slice()].concat();
    let last = payer.run(FILE, &to_the_end);
    let breaking = async {
        scene.start("postgres").await;
        scene.until_paid(55).await;
        scene.replace_worker().await;
        scene.until_paid(70).await;
        scene.stop(rabbitmq).await;
        scene.start("rabbitmq").await;
        scene
    };
    let (run, scene) = tokio::join!(last, breaking);
    scene.say(&format!("exit code {}: {}{}", run.code(), run.stdout(), run.stderr()));
    let (lines, summary) = (scene.lines, run.json());
    let all = json!({"lines": lines, "cents": sum(lines)});
    assert_eq!((run.code(), &summary["total"], &summary["paid"]), (0, &all, &all), "{summary}");
    assert_eq!((&summary["undecided"]["lines"], &summary["refused"]), (&json!(0), &json!({})));
    let rows = payer.results("payouts.results.csv");
    assert_eq!(rows.iter().filter(|row| row["status"] == "paid").count(), lines);
    let voided = scene.app.count("voided").await;
    println!(
        "{lines} lines, {} journaled, {voided} attempts voided",
        payer.journal(FILE).matches("\"digest\"").count()
    );
    println!("audit: {}", scene.app.audit());
    let probe = ("probe@example.com".to_owned(), 1);
    assert_each_paid_once(&scene.app, lines, [probe]).await;
    scene.app.finish([scene.intake, scene.worker]).await;
}

#[tokio::test]
async fn a_file_is_paid_once_while_the_client_and_the_service_are_killed() {
    let Some(servers) = Servers::alone().await else { return };
    let quick = [("EARMARK_REPLY_TIMEOUT", "1s"), ("EARMARK_SETTLE_TIMEOUT", "1s"), ("EARMARK_RESOLVE_TIMEOUT", "2s")];
    let (scene, payer) = Scene::set(servers, 400, &quick).await;
    survive(scene, payer, "2", &["rabbitmq"]).await;
}

#[tokio::test]
#[ignore = "takes about a minute: `make big-send`"]
async fn ten_thousand_lines_are_paid_once_while_everything_is_killed() {
    let Some(servers) = Servers::alone().await else { return };
    let (scene, payer) = Scene::set(servers, 10_000, &[]).await;
    // A crash can make RabbitMQ lose the leader of a new queue. A clean restart first prevents that.
    scene.stop(&["rabbitmq"]).await;
    scene.start("rabbitmq").await;
    scene.intake.ready().await;
    scene.worker.ready().await;
    survive(scene, payer, "32", &["rabbitmq", "--immediate"]).await;
}
