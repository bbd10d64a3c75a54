//! Earmark beside what it is compared with, in one run, in interleaved rounds, on private servers.
//!
//! `make bench` runs everything, `make bench-quick` what fits into three minutes. Every answer is checked, and the audit
//! must be clean afterwards, or the figures do not count.

#![expect(unreachable_pub, reason = "nothing imports this program")]

mod contenders;
mod load;
mod processes;
mod report;

use clap::{Parser, Subcommand};
use contenders::Kind;
use load::{Outcome, Pace, Workload};
use processes::{Process, free_address, run_earmark, until_answers, usage};
use report::{Report, Row, median};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// More than the intake takes at once, so that some must be refused.
const OVERLOADING: usize = 6_000;
const ONE: &str = "one business";
/// Each byte of the secret for users' hashes.
const SECRET: &str = "be";

#[derive(Parser)]
struct Arguments {
    /// Fewer rounds, shorter, and without growth
    #[arg(long)]
    quick: bool,
    /// Only measure Earmark under this number of connections, for profiling
    #[arg(long)]
    only: Option<usize>,
    /// Only measure growth
    #[arg(long)]
    growth: bool,
    /// Only measure overload
    #[arg(long)]
    overload: bool,
    /// Only measure bulk
    #[arg(long)]
    bulk: bool,
    /// Only measure deployments with several shards, each beside one with one
    #[arg(long)]
    shards: bool,
    /// With `only`: so many requests a second instead of as many as can be
    #[arg(long)]
    rate: Option<f64>,
    /// With `only`: over how many businesses the requests are spread
    #[arg(long, default_value_t = 1)]
    businesses: usize,
    /// With `only`: every request with an `Idempotency-Key`
    #[arg(long)]
    keyed: bool,
    /// How many workers Earmark runs with
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, env = "DATABASE_URL", hide = true)]
    database_url: String,
    #[arg(long, env = "AMQP_URL", hide = true)]
    amqp_url: String,
    #[command(subcommand)]
    contender: Option<Contender>,
}

#[derive(Subcommand)]
enum Contender {
    /// Be one of the processes that Earmark is compared with
    #[command(hide = true)]
    Contender {
        kind: Kind,
        #[command(flatten)]
        settings: contenders::Settings,
    },
}

/// The contenders use the same allocator as Earmark.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments = Arguments::parse();
    let mut runtime = if arguments.contender.is_some() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        // The load costs least on one thread.
        tokio::runtime::Builder::new_current_thread()
    };
    runtime.enable_all().build().expect("a runtime").block_on(async {
        match arguments.contender {
            Some(Contender::Contender { kind, settings }) => contenders::run(kind, settings).await,
            None => measure(arguments).await,
        }
    });
}

/// One thing to be measured: where it answers, and the processes behind it.
struct Target {
    name: String,
    address: SocketAddr,
    processes: Vec<Process>,
}

/// The private servers and the databases in them.
struct Place {
    database_url: String,
    amqp_url: String,
    postgres_pid: Option<u32>,
    rabbitmq_pid: Option<u32>,
}

fn server_pid(name: &str) -> Option<u32> {
    let folder = std::env::var("EARMARK_LOCAL").ok()?;
    std::fs::read_to_string(format!("{folder}/{name}.pid")).ok()?.trim().parse().ok()
}

/// A business with more money than a bench can spend.
struct Funded {
    id: String,
    api_key: String,
}

fn create_business(database_url: &str) -> Funded {
    let balance = "4000000000000000";
    let arguments =
        ["business", "create", "--name", "Bench", "--payout-balance", balance, "--enable-payouts", "--json"];
    let shown = run_earmark(&arguments, database_url);
    let text = |name: &str| shown[name].as_str().expect("a string").to_owned();
    Funded { id: text("business_id"), api_key: text("secret_key") }
}

impl Place {
    async fn create_database(&self, name: &str) -> String {
        let mut connection = PgConnection::connect(&self.database_url).await.expect("the server");
        for sql in [format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("a database");
        }
        let (server, _) = self.database_url.rsplit_once('/').expect("a URL with a database");
        let url = format!("{server}/{name}");
        run_earmark(&["migrate"], &url);
        // For the contenders, which use the tables of the first shard.
        let sql = format!("ALTER DATABASE {name} SET search_path = shard_0");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("a search path");
        url
    }

    /// Starts intake and worker as separate processes, with `more` settings. With `echo` the worker asks no database.
    async fn earmark(
        &self,
        name: &str,
        database_url: &str,
        workers: usize,
        echo: bool,
        more: &[(&'static str, &str)],
    ) -> Target {
        let (address, ops) = (free_address(), free_address());
        let prefix =
            format!("bench-{}-{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"), std::process::id());
        let settings = |ops: SocketAddr| {
            let own = [
                ("DATABASE_URL", database_url.to_owned()),
                ("AMQP_URL", self.amqp_url.clone()),
                ("EARMARK_QUEUE_PREFIX", prefix.clone()),
                ("EARMARK_HASH_SECRET", SECRET.repeat(32)),
                // The audit reads every row once an hour, and would disturb a measurement.
                ("EARMARK_AUDIT_INTERVAL", "0s".to_owned()),
                ("EARMARK_LISTEN", address.to_string()),
                ("EARMARK_OPS_LISTEN", ops.to_string()),
                ("EARMARK_LOG", "warn".to_owned()),
            ];
            own.into_iter().chain(more.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect::<Vec<_>>()
        };
        let mut processes = vec![];
        if echo {
            let own = std::env::current_exe().expect("this program");
            processes.push(Process::start("worker", own, &["contender", "echo"], &settings(ops)));
        } else {
            for _ in 0..workers {
                let ops = free_address();
                processes.push(Process::start("worker", processes::earmark(), &["worker"], &settings(ops)));
                until_ready(ops).await;
            }
        }
        processes.push(Process::start("intake", processes::earmark(), &["intake"], &settings(ops)));
        until_ready(ops).await;
        Target { name: name.to_owned(), address, processes }
    }

    async fn contender(&self, name: &str, kind: &str, connections: u32) -> Target {
        let database = format!("bench_{kind}_{connections}");
        let database_url = self.create_database(&database).await;
        let business = create_business(&database_url).id;
        let address = free_address();
        let own = std::env::current_exe().expect("this program");
        let (listen, connections) = (address.to_string(), connections.to_string());
        let arguments =
            ["contender", kind, "--listen", &listen, "--connections", &connections, "--business", &business];
        let settings = [("DATABASE_URL", database_url), ("AMQP_URL", self.amqp_url.clone())];
        let process = Process::start("server", own, &arguments, &settings);
        until_answers(address).await;
        Target { name: name.to_owned(), address, processes: vec![process] }
    }

    /// Runs a load against a target, and returns what it cost.
    async fn run(
        &self,
        target: &Target,
        label: &str,
        workload: &Workload,
        connections: usize,
        pace: Pace,
        time: Duration,
    ) -> Row {
        let watched: Vec<(String, u32)> = target
            .processes
            .iter()
            .map(|process| (process.name.clone(), process.pid()))
            .chain(self.postgres_pid.map(|pid| ("postgres".to_owned(), pid)))
            .chain(self.rabbitmq_pid.map(|pid| ("rabbitmq".to_owned(), pid)))
            .chain([("load".to_owned(), std::process::id())])
            .collect();
        let own =
            |pid| if pid == std::process::id() { processes::own_usage(pid).unwrap_or_default() } else { usage(pid) };
        let warm_up = Duration::from_millis(700);
        let before: Vec<f64> = watched.iter().map(|(_, pid)| own(*pid).cpu_seconds).collect();
        let outcome = load::run(target.address, workload, connections, pace, warm_up, time).await;
        let (mut cpu, mut rss) = (BTreeMap::<String, f64>::new(), BTreeMap::<String, f64>::new());
        let counted = outcome.per_second() * (time + warm_up).as_secs_f64();
        for ((name, pid), before) in watched.iter().zip(before) {
            let after = own(*pid);
            *cpu.entry(name.clone()).or_default() += (after.cpu_seconds - before) * 1e6 / counted.max(1.0);
            *rss.entry(name.clone()).or_default() += after.rss_mib;
        }
        row(&target.name, label, connections, &outcome, cpu, rss)
    }
}

fn row(
    name: &str,
    workload: &str,
    connections: usize,
    outcome: &Outcome,
    cpu_us_per_request: BTreeMap<String, f64>,
    rss_mib: BTreeMap<String, f64>,
) -> Row {
    Row {
        name: name.to_owned(),
        workload: workload.to_owned(),
        connections,
        requests_per_second: outcome.per_second(),
        p50_ms: outcome.quantile_ms(0.5),
        p99_ms: outcome.quantile_ms(0.99),
        refused_per_second: outcome.unavailable as f64 / outcome.seconds,
        refusal_p99_ms: outcome.refusal_latency.value_at_quantile(0.99) as f64 / 1_000.0,
        cpu_us_per_request,
        rss_mib,
        wrong_answers: outcome.other,
    }
}

async fn until_ready(ops: SocketAddr) {
    for _ in 0..600 {
        let ops = ops.to_string();
        let asked = std::process::Command::new(processes::earmark()).args(["ready", "--ops-listen", &ops]).output();
        if asked.is_ok_and(|output| output.status.success()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not ready: see target/bench");
}

fn say(row: &Row) {
    println!(
        "{:<24} {:<28} {:>5} conns {:>8.0}/s  p50 {:>7.2} ms  p99 {:>7.2} ms",
        row.name, row.workload, row.connections, row.requests_per_second, row.p50_ms, row.p99_ms
    );
    if row.refused_per_second > 0.0 {
        println!("    refused {:.0}/s, p99 {:.0} ms", row.refused_per_second, row.refusal_p99_ms);
    }
}

async fn measure(arguments: Arguments) {
    let place = Place {
        database_url: arguments.database_url.clone(),
        amqp_url: arguments.amqp_url.clone(),
        postgres_pid: server_pid("postgres"),
        rabbitmq_pid: server_pid("rabbitmq"),
    };
    let database_url = place.create_database("bench_earmark").await;
    let business = create_business(&database_url);
    let one = Workload::even(vec![business.api_key]);
    let earmark = place.earmark("earmark", &database_url, arguments.workers, false, &[]).await;
    let time = Duration::from_secs(if arguments.quick { 3 } else { 5 });
    if arguments.growth {
        growth(&place, &arguments, time).await;
        return;
    }
    if arguments.overload {
        overloaded(&place, time).await;
        return;
    }
    if arguments.bulk {
        let rows = bulk(&place, &earmark, &one, arguments.quick, time).await;
        drop(earmark);
        audit(&database_url);
        let report = Report { contenders: rows, ratios: BTreeMap::new() };
        report.print();
        return report.assert_right();
    }
    if arguments.shards {
        drop(earmark);
        let report = Report { contenders: sharded(&place, &arguments, time).await, ratios: BTreeMap::new() };
        report.print();
        return report.assert_right();
    }
    if let Some(connections) = arguments.only {
        let api_keys = (0..arguments.businesses).map(|_| create_business(&database_url).api_key).collect();
        let label = format!("businesses: {}", arguments.businesses);
        let spread = Workload { keyed: arguments.keyed, ..Workload::even(api_keys) };
        for _ in 0..3 {
            let pace = arguments.rate.map_or(Pace::Closed, Pace::Open);
            let row = place.run(&earmark, &label, &spread, connections, pace, time).await;
            say(&row);
            println!("    {:.0?} µs, {:.0?} MiB", row.cpu_us_per_request, row.rss_mib);
        }
        return;
    }
    let mut rows = saturation(&place, &earmark, &one, &database_url, &arguments, time).await;
    let saturated =
        rows.iter().filter(|row| row.name == "earmark").map(|row| row.requests_per_second).fold(0.0, f64::max);
    rows.extend(workloads(&place, &earmark, &one, &database_url, &arguments, time).await);
    rows.extend(bulk(&place, &earmark, &one, arguments.quick, time).await);
    rows.extend(paced(&place, &earmark, &one, saturated, time).await);
    rows.extend(overloaded(&place, time).await);
    rows.extend(fairness(&place, &earmark, &one, &database_url, time).await);
    if !arguments.quick {
        rows.extend(growth(&place, &arguments, time).await);
    }
    drop(earmark);
    audit(&database_url);
    conclude(rows);
}

/// Checks that the books balance. Otherwise the measurements do not count.
fn audit(database_url: &str) {
    let audit = run_earmark(&["audit", "--json"], database_url);
    assert_eq!(audit["differences"], serde_json::json!([]), "the figures do not count");
    println!("audit: {} allocations, no difference", audit["allocations"]);
}

fn conclude(contenders: Vec<Row>) {
    let mut report = Report { contenders, ratios: BTreeMap::new() };
    let earmark = report.best("earmark", ONE);
    report.ratios = BTreeMap::from([
        ("vs_plain_transaction", earmark / report.best("plain transaction", ONE)),
        ("vs_best_direct", earmark / report.best("one statement", ONE)),
        ("vs_echo_ceiling", earmark / report.best("echo worker", ONE)),
    ]);
    report.print();
    report.write();
    report.assert_right();
}

/// All clients use one business, as fast as they can.
async fn saturation(
    place: &Place,
    earmark: &Target,
    one: &Workload,
    database_url: &str,
    arguments: &Arguments,
    time: Duration,
) -> Vec<Row> {
    let echo = place.earmark("echo worker", database_url, 1, true, &[]).await;
    let http = place.contender("http alone", "http", 1).await;
    let plain = place.contender("plain transaction", "plain", 20).await;
    let mut best: Option<(f64, Target)> = None;
    for connections in [1, 2, 4, 8] {
        let target = place.contender("one statement", "direct", connections).await;
        let row =
            place.run(&target, &format!("pool of {connections}"), one, 256, Pace::Closed, Duration::from_secs(2)).await;
        say(&row);
        if best.as_ref().is_none_or(|(most, _)| row.requests_per_second > *most) {
            best = Some((row.requests_per_second, target));
        }
    }
    let (_, direct) = best.expect("one is best");
    let counts: &[usize] = if arguments.quick { &[256, 1024] } else { &[64, 256, 1024, 2048] };
    let mut rows = vec![];
    for &connections in counts {
        let targets = [earmark, &echo, &http, &plain, &direct];
        let mut rounds: Vec<Vec<Row>> = targets.iter().map(|_| vec![]).collect();
        for _ in 0..if arguments.quick { 1 } else { 3 } {
            for (target, rounds) in targets.iter().zip(&mut rounds) {
                let row = place.run(target, ONE, one, connections, Pace::Closed, time).await;
                say(&row);
                rounds.push(row);
            }
        }
        rows.extend(rounds.into_iter().map(median));
    }
    rows
}

/// A business with little to send, alone and beside one that floods the service.
async fn fairness(place: &Place, earmark: &Target, one: &Workload, database_url: &str, time: Duration) -> Vec<Row> {
    let small = Workload::even(vec![create_business(database_url).api_key]);
    let alone = place.run(earmark, "a small business alone", &small, 16, Pace::Closed, time).await;
    let (flood, beside) = tokio::join!(
        place.run(earmark, "another that floods", one, 1_024, Pace::Closed, time),
        place.run(earmark, "the small one beside it", &small, 16, Pace::Closed, time),
    );
    let rows = vec![alone, flood, beside];
    rows.iter().for_each(say);
    rows
}

/// Earmark under other workloads, each beside the first one.
async fn workloads(
    place: &Place,
    earmark: &Target,
    one: &Workload,
    database_url: &str,
    arguments: &Arguments,
    time: Duration,
) -> Vec<Row> {
    let api_keys: Vec<String> = (0..1_000).map(|_| create_business(database_url).api_key).collect();
    let thousand = Workload::even(api_keys);
    let all = [
        ("one business again", one.clone()),
        ("1,000 businesses", thousand.clone()),
        ("1,000 businesses, Zipf", thousand.zipf()),
        ("every request with a key", Workload { keyed: true, ..one.clone() }),
    ];
    let mut rounds: Vec<Vec<Row>> = all.iter().map(|_| vec![]).collect();
    for _ in 0..if arguments.quick { 1 } else { 3 } {
        for ((label, workload), rounds) in all.iter().zip(&mut rounds) {
            let row = place.run(earmark, label, workload, 1_024, Pace::Closed, time).await;
            say(&row);
            rounds.push(row);
        }
    }
    let mut rows: Vec<Row> = rounds.into_iter().map(median).collect();
    // This business has less money than a run asks for.
    let poor = run_earmark(
        &["business", "create", "--name", "Poor", "--payout-balance", "90000000", "--enable-payouts", "--json"],
        database_url,
    );
    let poor = Workload::even(vec![poor["secret_key"].as_str().expect("a key").to_owned()]);
    let poor = Workload { insufficient: 0.3, ..poor };
    let row = place.run(earmark, "30 % insufficient balance", &poor, 1_024, Pace::Closed, time).await;
    say(&row);
    rows.push(row);
    rows
}

/// Bulk calls on one business from several callers. Then requests posted alone beside sixteen such callers.
async fn bulk(place: &Place, earmark: &Target, one: &Workload, quick: bool, time: Duration) -> Vec<Row> {
    let bulk = Workload { bulk: Some(1_000), ..one.clone() };
    // This takes longer than elsewhere: with 64 callers a call takes half a second and more.
    let time = time * 2;
    let callers: &[usize] = if quick { &[4, 16] } else { &[1, 4, 16, 64] };
    let mut rounds: Vec<Vec<Row>> = callers.iter().map(|_| vec![]).collect();
    for _ in 0..if quick { 1 } else { 3 } {
        for (&callers, rounds) in callers.iter().zip(&mut rounds) {
            let row = place.run(earmark, "bulk of 1,000", &bulk, callers, Pace::Closed, time).await;
            say(&row);
            rounds.push(row);
        }
    }
    let (beside, alone) = tokio::join!(
        place.run(earmark, "bulk beside requests alone", &bulk, 16, Pace::Closed, time),
        place.run(earmark, "alone beside bulk", one, 16, Pace::Closed, time),
    );
    let beside = vec![beside, alone];
    beside.iter().for_each(say);
    rounds.into_iter().map(median).chain(beside).collect()
}

/// Earmark at a fixed pace: alone, at half of what it can do, and at five times that.
async fn paced(place: &Place, earmark: &Target, one: &Workload, saturated: f64, time: Duration) -> Vec<Row> {
    let mut rows = vec![];
    rows.push(place.run(earmark, "one connection", one, 1, Pace::Closed, time).await);
    rows.push(place.run(earmark, "half the rate, open loop", one, 512, Pace::Open(saturated / 2.0), time * 2).await);
    rows.push(place.run(earmark, "five times the rate", one, OVERLOADING, Pace::Open(saturated * 5.0), time).await);
    rows.iter().for_each(say);
    rows
}

/// Deployments with more and more shards in one Postgres: many businesses, one business, bulk, and look-ups by hash. A
/// hash that was not looked up before is looked for in every shard.
async fn sharded(place: &Place, arguments: &Arguments, time: Duration) -> Vec<Row> {
    let mut rows = vec![];
    let mut targets = vec![];
    for shards in [1, 2, 4, 8] {
        targets.push(Sharded::start(place, shards, arguments.workers).await);
    }
    for (label, connections) in [("1,000 businesses", 1_024), (ONE, 1_024), ("bulk of 1,000, 1,000 businesses", 16)] {
        let mut rounds: Vec<Vec<Row>> = targets.iter().map(|_| vec![]).collect();
        for _ in 0..if arguments.quick { 1 } else { 3 } {
            for (target, rounds) in targets.iter().zip(&mut rounds) {
                let workload = match label {
                    ONE => Workload::even(target.api_keys[..1].to_vec()),
                    "1,000 businesses" => Workload::even(target.api_keys.clone()),
                    _ => Workload { bulk: Some(1_000), ..Workload::even(target.api_keys.clone()) },
                };
                let row = place.run(&target.earmark, label, &workload, connections, Pace::Closed, time).await;
                say(&row);
                println!("    {:.0?} µs, {:.0?} MiB", row.cpu_us_per_request, row.rss_mib);
                rounds.push(row);
            }
        }
        rows.extend(rounds.into_iter().map(median));
    }
    for target in targets.drain(..) {
        target.end();
    }
    for shards in [1, 16, 64] {
        let target = Sharded::start(place, shards, arguments.workers).await;
        let allocating = Workload::even(target.api_keys.clone());
        place.run(&target.earmark, "to have users", &allocating, 256, Pace::Closed, time).await;
        let hashes = target.hashes(shards).await;
        let again = hashes.iter().take(100).cloned().collect();
        for (label, hashes) in [("look-up by hash, first", hashes), ("look-up by hash, again", again)] {
            for connections in [1, 16] {
                let workload = Workload::look_up(hashes.clone());
                let row = place.run(&target.earmark, label, &workload, connections, Pace::Closed, time).await;
                say(&row);
                println!("    {:.0?} µs", row.cpu_us_per_request);
                rows.push(row);
            }
        }
        target.end();
    }
    rows
}

/// A deployment with several shards and 1,000 businesses in them.
struct Sharded {
    earmark: Target,
    database_url: String,
    api_keys: Vec<String>,
}

impl Sharded {
    async fn start(place: &Place, shards: usize, workers: usize) -> Self {
        let database_url = place.create_database(&format!("bench_shards_{shards}")).await;
        for _ in 1..shards {
            run_earmark(&["shards", "add"], &database_url);
        }
        // A business goes to the shard with the fewest, so they are spread evenly.
        let api_keys = (0..1_000).map(|_| create_business(&database_url).api_key).collect();
        let earmark = place.earmark(&format!("{shards} shards"), &database_url, workers, false, &[]).await;
        Self { earmark, database_url, api_keys }
    }

    /// The hashes of all payout users.
    async fn hashes(&self, shards: usize) -> Vec<String> {
        let mut connection = PgConnection::connect(&self.database_url).await.expect("the database");
        let mut hashes = vec![];
        for shard in 0..shards {
            let sql = format!("SELECT encode(hash, 'hex') FROM shard_{shard}.payout_users");
            let found = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_all(&mut connection).await;
            hashes.extend(found.expect("hashes"));
        }
        hashes
    }

    fn end(self) {
        drop(self.earmark);
        audit(&self.database_url);
    }
}

/// Offers Earmark five times what it can do. A slow database limits it here, because this machine cannot send five
/// times what it can serve.
async fn overloaded(place: &Place, time: Duration) -> Vec<Row> {
    let database_url = place.create_database("bench_slow").await;
    let business = Workload::even(vec![create_business(&database_url).api_key]);
    let mut connection = PgConnection::connect(&database_url).await.expect("the database");
    // `commit_delay` is in microseconds. It applies whether or not other transactions commit meanwhile.
    for setting in ["commit_delay = 100000", "commit_siblings = 0"] {
        let sql = format!("ALTER DATABASE bench_slow SET {setting}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("a slow database");
    }
    let target = place
        .earmark("earmark, slow commits", &database_url, 1, false, &[("EARMARK_BATCH", "512"), ("EARMARK_PACK", "64")])
        .await;
    let able = place.run(&target, "as fast as it can", &business, 4_000, Pace::Closed, time).await;
    let pace = Pace::Open(able.requests_per_second * 5.0);
    let rows = vec![able, place.run(&target, "five times that", &business, OVERLOADING, pace, time).await];
    rows.iter().for_each(say);
    drop(target);
    audit(&database_url);
    rows
}

/// Earmark on 10,000,000 allocations of 1,000,000 users, beside an empty ledger.
async fn growth(place: &Place, arguments: &Arguments, time: Duration) -> Vec<Row> {
    let mut targets = vec![];
    for (name, grown) in [("earmark, empty", false), ("earmark, grown", true)] {
        let database_url = place.create_database(if grown { "bench_grown" } else { "bench_empty" }).await;
        let business = create_business(&database_url);
        if grown {
            println!("filling 10,000,000 rows ...");
            fill(&database_url, &business.id).await;
        }
        let target = place.earmark(name, &database_url, arguments.workers, false, &[]).await;
        targets.push((target, Workload::even(vec![business.api_key]), database_url));
    }
    let mut rounds: Vec<Vec<Row>> = targets.iter().map(|_| vec![]).collect();
    for _ in 0..3 {
        for ((target, workload, _), rounds) in targets.iter().zip(&mut rounds) {
            let row = place.run(target, "growth", workload, 1_024, Pace::Closed, time).await;
            say(&row);
            rounds.push(row);
        }
    }
    for (target, _, database_url) in targets {
        drop(target);
        audit(&database_url);
    }
    rounds.into_iter().map(median).collect()
}

/// Writes rows as the service would have written them, one a millisecond until some hours ago, in a few large
/// statements.
async fn fill(database_url: &str, business: &str) {
    let mut connection = PgConnection::connect(database_url).await.expect("the database");
    // HMAC-SHA256 of the user, as the service makes it: RFC 2104 with the secret's bytes.
    let pad = |byte: u8| {
        let secret = u8::from_str_radix(SECRET, 16).expect("a byte");
        format!("'\\x{}{}'::bytea", format!("{:02x}", secret ^ byte).repeat(32), format!("{byte:02x}").repeat(32))
    };
    let (inner, outer) = (pad(0x36), pad(0x5c));
    let statements = [
        format!(
            "INSERT INTO payout_users (business_id, email, hash, balance)
             SELECT '{business}', email,
                    sha256({outer} || sha256({inner} || 'payout-user'::bytea || uuid_send('{business}') || email::bytea)), 100
             FROM (SELECT 'user' || n || '@example.com' AS email FROM generate_series(0, 999999) n) u"
        ),
        format!(
            "INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome, seq, payout_balance_after, moved_at)
             SELECT '{business}', (lpad(to_hex(begun + n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
                    'allocate', 'user' || (n::bigint * 7919 % 1000000) || '@example.com', 10, 'allocated',
                    seq + n, payout_balance - 10 * n::bigint, now()
             FROM generate_series(1, 10000000) n, (SELECT (extract(epoch FROM now()) * 1000)::bigint - 20000000 AS begun) t, businesses"
        ),
        "UPDATE businesses SET payout_balance = payout_balance - 100000000, seq = seq + 10000000".to_owned(),
        "VACUUM ANALYZE".to_owned(),
        "CHECKPOINT".to_owned(),
    ];
    for sql in statements {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("filled");
    }
}
