//! A cluster of Citus. Most of these tests need one: run them with `DATABASE_URL` at its coordinator and
//! `EARMARK_TEST_CREATE_DATABASE` set. Elsewhere they are skipped.

use crate::harness::{App, assert_allocated};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

async fn is_citus(app: &App) -> bool {
    let found = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')");
    found.fetch_one(&mut app.database().await).await.expect("an answer")
}

/// A deployment on a cluster, with two shards; `None` if there is no cluster.
async fn cluster() -> Option<App> {
    let app = App::with_shards(2).await;
    if is_citus(&app).await {
        return Some(app);
    }
    eprintln!("skipped: DATABASE_URL is no coordinator of Citus");
    app.discard().await;
    None
}

/// The node of each shard.
fn nodes(app: &App) -> BTreeMap<u64, Option<String>> {
    let listed = app.run(&["shards", "list", "--json"]).expect_success().json();
    let node = |shard: &Value| (shard["shard"].as_u64().expect("a number"), shard["node"].as_str().map(str::to_owned));
    listed.as_array().expect("a list").iter().map(node).collect()
}

/// A node that the shard is not on.
async fn another(app: &App, node: &str) -> String {
    let all = "SELECT nodename || ':' || nodeport FROM pg_dist_node WHERE shouldhaveshards";
    let all: Vec<String> = sqlx::query_scalar(all).fetch_all(&mut app.database().await).await.expect("nodes");
    all.into_iter().find(|other| other != node).expect("a second node")
}

#[tokio::test]
async fn without_a_cluster_a_shard_has_no_node_and_cannot_be_moved() {
    let app = App::with_shards(1).await;
    if !is_citus(&app).await {
        assert_eq!(nodes(&app), BTreeMap::from([(0, None)]));
        let refused = app.run(&["shards", "move", "0", "--to", "db-1:5432"]);
        assert!(refused.code() != 0 && refused.stderr().contains("no Citus cluster"), "{}", refused.stderr());
        let unreadable = app.run(&["shards", "move", "0", "--to", "db-1"]);
        assert!(unreadable.stderr().contains("--to takes host:port"), "{}", unreadable.stderr());
    }
    app.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_moves_under_load_loses_nothing_and_answers_on() {
    let Some(app) = cluster().await else { return };
    let business = app.create_business_in(0, 1_000_000);
    let (intake, worker) = (app.start("intake").await, app.start("worker").await);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let asking = (0..8).map(|asker| {
        let (client, stop, done) = (app.client(&intake, &business), Arc::clone(&stop), Arc::clone(&done));
        tokio::spawn(async move {
            let (mut last, mut longest, mut allocated) = (Instant::now(), Duration::ZERO, 0);
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let answer = client.create(&format!("user{asker}-{number}@example.com"), 1).await;
                match answer.status {
                    200 => {
                        allocated += 1;
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    500 | 503 => {}
                    _ => panic!("{answer:?}"),
                }
            }
            (allocated, longest.max(last.elapsed()))
        })
    });
    let asking: Vec<_> = asking.collect();
    let wait_for_more = async || {
        let before = done.load(Ordering::Relaxed);
        crate::harness::eventually("it goes on", async || done.load(Ordering::Relaxed) > before + 100).await;
    };
    wait_for_more().await;
    let first = nodes(&app)[&0].clone().expect("a node");
    let second = another(&app, &first).await;
    for to in [&second, &first] {
        let moved = app.run(&["shards", "move", "0", "--to", to]).expect_success();
        assert!(moved.stderr().contains(&format!("shard 0 is on {to}")), "{}", moved.stderr());
        assert_eq!(nodes(&app)[&0].as_ref(), Some(to));
        wait_for_more().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut allocated = 0;
    for asking in asking {
        let (own, longest) = asking.await.expect("it ends");
        allocated += own;
        assert!(longest < Duration::from_secs(10), "{longest:?} without a success");
    }
    let audit = app.audit();
    assert_eq!(
        (&audit["allocated"], &audit["payout_users"]),
        (&Value::from(allocated.to_string()), &Value::from(allocated))
    );
    let changed = sqlx::query("UPDATE allocations SET amount = 2").execute(&mut app.database_of(0).await).await;
    let refused = changed.expect_err("the trigger has moved as well").to_string();
    assert!(refused.contains("append-only"), "{refused}");
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn a_move_to_nowhere_is_refused_in_words() {
    let Some(app) = cluster().await else { return };
    let node = nodes(&app)[&1].clone().expect("a node");
    let other = another(&app, &node).await;
    let already = app.run(&["shards", "move", "1", "--to", &node]).expect_success().stderr();
    assert!(already.contains("already"), "{already}");
    let unknown =
        [("1", "nowhere:1", "there is no node nowhere:1, only"), ("7", other.as_str(), "there is no shard 7")];
    for (shard, to, said) in unknown {
        let refused = app.run(&["shards", "move", shard, "--to", to]);
        assert!(refused.code() != 0 && refused.stderr().contains(said), "{}", refused.stderr());
    }
    app.discard().await;
}

#[tokio::test]
async fn a_migration_of_a_distributed_schema_is_applied_command_by_command() {
    let Some(app) = cluster().await else { return };
    let node = nodes(&app)[&0].clone().expect("a node");
    // As if the schema had been distributed before its first migration.
    for table in ["allocations", "deposits", "businesses", "payout_users", "idempotency_keys", "key_raises"] {
        app.execute(&format!("DROP TABLE shard_0.{table}")).await;
    }
    for function in ["refuse_change()", "refuse_batch()", "in_schema(text)"] {
        app.execute(&format!("DROP FUNCTION shard_0.{function}")).await;
    }
    app.execute("DELETE FROM shard_0._sqlx_migrations").await;
    app.run(&["migrate"]).expect_success();
    assert_eq!(nodes(&app)[&0], Some(node.clone()));
    let business = app.create_business_in(0, 1_000);
    let serve = app.start("serve").await;
    assert_allocated(&app.client(&serve, &business).create("ann@example.com", 10).await);
    // Citus has not passed on these triggers, as they also speak of TRUNCATE.
    let doctor = app.run(&["doctor"]).stdout();
    let said = format!("nothing guards shard_0.allocations on {node} and shard_0.deposits on {node}");
    assert!(doctor.contains(&said), "{doctor}");
    app.finish([serve]).await;
}
