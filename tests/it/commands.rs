//! The commands, as people and programs use them.

use crate::harness::http::Client;
use crate::harness::process::{Process, Run};
use crate::harness::{App, ENVELOPE_KEYS, SECRET, assert_allocated, eventually};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn migrating_twice_is_harmless_and_starting_without_is_refused() {
    let app = App::new().await;
    app.run(&["migrate"]).expect_success();
    let empty = format!("{}-empty", app.prefix);
    let url = app.servers().create_database(&empty).await;
    for command in ["serve", "intake", "worker"] {
        let mut process = app.spawn(command, &[("DATABASE_URL", &url)]);
        assert_eq!(process.ended().await.code(), Some(1));
        eventually("it says what to do", async || {
            process.log().iter().any(|line| line.as_str().is_some_and(|line| line.contains("run `earmark migrate`")))
        })
        .await;
    }
    app.servers().drop_database(&empty).await;
    app.start("worker").await.terminate().await;
    app.finish([]).await;
}

#[tokio::test]
async fn a_business_is_created_listed_and_funded() {
    let app = App::new().await;
    let arguments =
        ["business", "create", "--name", "Acme", "--payout-balance", "1000000", "--enable-payouts", "--json"];
    let created = app.run(&arguments).expect_success().json();
    let mut names: Vec<&String> = created.as_object().expect("an object").keys().collect();
    names.sort();
    assert_eq!(names, ["business_id", "name", "payout_balance", "payouts_enabled", "public_key", "secret_key"]);
    assert_eq!((&created["payout_balance"], &created["payouts_enabled"]), (&json!(1_000_000), &json!(true)));
    let id = created["business_id"].as_str().expect("an id");
    let funded = app.run(&["business", "fund", id, "--amount", "500", "--json"]).expect_success().json();
    assert_eq!(funded["payout_balance"], 1_000_500);
    app.run(&["business", "fund", id, "--amount", "-1000500"]).expect_success();
    let overdrawn = app.run(&["business", "fund", id, "--amount", "-1"]);
    assert_eq!(overdrawn.code(), 1);
    assert!(overdrawn.stderr().contains("does not cover"), "{}", overdrawn.stderr());
    let listed = app.run(&["business", "list", "--json"]).expect_success().json();
    assert_eq!((&listed[0]["name"], &listed[0]["payout_balance"]), (&json!("Acme"), &json!(0)));
    assert!(app.run(&["business", "list"]).expect_success().stdout().contains("Acme"));
    let nobody = uuid::Uuid::new_v4().to_string();
    for arguments in [["fund", &nobody, "--amount=1"].as_slice(), &["enable-payouts", &nobody]] {
        let run = app.run(&[&["business"], arguments].concat());
        assert_eq!(run.code(), 1);
        assert!(run.stderr().contains("there is no business"), "{}", run.stderr());
    }
    app.assert_clean_audit();
    app.start("worker").await.terminate().await;
    app.finish([]).await;
}

#[tokio::test]
async fn a_revoked_key_stops_working_in_a_running_intake_within_five_seconds_and_others_stay_their_own_businesses() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let others: Vec<_> = (1..=8).map(|cents| app.create_business(cents)).collect();
    let process = app.start("serve").await;
    // The service looks up again, all at once, the keys that are in use at the same time.
    let others: Vec<Client> = others.iter().map(|other| app.client(&process, other)).collect();
    let use_others = async || {
        for (cents, other) in (1..).zip(&others) {
            assert_eq!(other.payout_balance().await, cents);
        }
    };
    use_others().await;
    let created = app.run(&["key", "create", &business.id, "--json"]).expect_success().json();
    let second = Client::new(process.url(), created["key"].as_str().expect("a key"));
    assert_allocated(&second.create("ann@example.com", 1).await);
    app.run(&["key", "revoke", created["key_id"].as_str().expect("an id")]).expect_success();
    let revoked = Instant::now();
    eventually("it is refused", async || {
        use_others().await;
        second.create("ann@example.com", 1).await.status == 401
    })
    .await;
    assert!(revoked.elapsed() < Duration::from_secs(5), "{:?}", revoked.elapsed());
    use_others().await;
    assert_allocated(&app.client(&process, &business).create("ann@example.com", 1).await);
    let listed = app.run(&["key", "list", &business.id]).expect_success().stdout();
    assert_eq!((listed.matches("revoked").count(), listed.matches("works").count()), (1, 2), "{listed}");
    app.finish([process]).await;
}

#[tokio::test]
async fn nothing_of_a_key_is_stored_but_its_digest_and_its_end() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT k::text FROM api_keys k").fetch_all(&mut app.database().await).await.expect("keys");
    assert_eq!(rows.len(), 2);
    let digest = hex::encode(earmark::api_key::digest(&business.secret_key));
    assert!(rows.iter().any(|row| row.contains(&digest)));
    assert!(rows.iter().all(|row| !row.contains(&business.secret_key) && !row.contains(&business.secret_key[8..20])));
    app.start("worker").await.terminate().await;
    app.finish([]).await;
}

#[tokio::test]
async fn the_audit_finds_every_row_that_was_tampered_with() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    assert_allocated(&client.create("ann@example.com", 10).await);
    let second = client.create_with_key("key-1", "bob@example.com", 10).await;
    assert_eq!(client.reverse_part("key-2", &second.request_id(), 4).await.status, 200);
    assert_eq!(client.settle("bob@example.com", 2, "t").await.status, 200);
    process.terminate().await;
    app.assert_clean_audit();
    for table in ["allocations", "deposits"] {
        app.execute(&format!("ALTER TABLE {table} DISABLE TRIGGER {table}_append_only")).await;
    }
    app.execute("ALTER TABLE idempotency_keys DISABLE TRIGGER idempotency_keys_only_rise").await;
    let tampering = [
        (
            "UPDATE businesses SET payout_balance = payout_balance + 1",
            "UPDATE businesses SET payout_balance = payout_balance - 1",
            "payout_balance",
        ),
        (
            "UPDATE payout_users SET balance = balance + 1 WHERE email LIKE 'ann%'",
            "UPDATE payout_users SET balance = balance - 1 WHERE email LIKE 'ann%'",
            "user_balance",
        ),
        (
            "UPDATE idempotency_keys SET amount = 11 WHERE key = 'key-1'",
            "UPDATE idempotency_keys SET amount = 10 WHERE key = 'key-1'",
            "idempotency_key",
        ),
        (
            "UPDATE idempotency_keys SET target = business_id WHERE key = 'key-2'",
            "UPDATE idempotency_keys k SET target = a.target FROM allocations a WHERE a.request_id = k.request_id AND key = 'key-2'",
            "idempotency_key",
        ),
        (
            "UPDATE allocations SET remaining = remaining + 1 WHERE kind = 'reverse'",
            "UPDATE allocations SET remaining = remaining - 1 WHERE kind = 'reverse'",
            "reversed",
        ),
        (
            "UPDATE deposits SET payout_balance_after = payout_balance_after + 1",
            "UPDATE deposits SET payout_balance_after = payout_balance_after - 1",
            "balance_after",
        ),
        (
            "UPDATE allocations SET seq = seq + 1 WHERE kind = 'settle'",
            "UPDATE allocations SET seq = seq - 1 WHERE kind = 'settle'",
            "sequence",
        ),
        (
            "UPDATE allocations SET moved_at = moved_at - interval '1 day' WHERE kind = 'settle'",
            "UPDATE allocations SET moved_at = moved_at + interval '1 day' WHERE kind = 'settle'",
            "sequence",
        ),
        ("UPDATE businesses SET seq = seq + 1", "UPDATE businesses SET seq = seq - 1", "sequence"),
        (
            "UPDATE businesses SET day_total = day_total + 1",
            "UPDATE businesses SET day_total = day_total - 1",
            "day_total",
        ),
        (
            "UPDATE businesses SET largest_allocation = 9, limited_after = 2",
            "UPDATE businesses SET largest_allocation = NULL, limited_after = 0",
            "largest_allocation",
        ),
        (
            "UPDATE businesses SET daily_limit = 19, limited_after = 2",
            "UPDATE businesses SET daily_limit = NULL, limited_after = 0",
            "daily_limit",
        ),
    ];
    let mut database = app.database().await;
    for (tamper, fix, kind) in tampering {
        sqlx::query(tamper).execute(&mut database).await.expect("tampered");
        let audit = app.audit();
        assert_eq!(audit["differences"].as_array().map(Vec::len), Some(1), "{audit}");
        assert_eq!(audit["differences"][0]["kind"], kind);
        assert!(app.run(&["audit"]).stdout().contains("DIFFERENCE"));
        sqlx::query(fix).execute(&mut database).await.expect("fixed");
        app.assert_clean_audit();
    }
    app.finish([]).await;
}

#[tokio::test]
async fn a_decision_cannot_be_changed_even_by_hand() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    assert_allocated(&app.client(&process, &business).create("ann@example.com", 10).await);
    let mut database = app.database().await;
    for change in [
        "UPDATE allocations SET outcome = 'voided'",
        "DELETE FROM allocations",
        "TRUNCATE allocations",
        "UPDATE deposits SET amount = 5",
        "DELETE FROM deposits",
    ] {
        let refused = sqlx::query(change).execute(&mut database).await.expect_err(change).to_string();
        assert!(refused.contains("append-only"), "{change}: {refused}");
    }
    app.finish([process]).await;
}

#[tokio::test]
async fn a_bad_setting_stops_the_start_with_its_name_and_without_its_secrets() {
    let app = App::new().await;
    let rows = [
        ("EARMARK_HASH_SECRET", "5ec7e7", "EARMARK_HASH_SECRET"),
        ("EARMARK_HASH_SECRET", "not hexadecimal at all", "EARMARK_HASH_SECRET"),
        ("EARMARK_ENVELOPE_KEYS", "k1:5ec7e7", "EARMARK_ENVELOPE_KEYS key 1"),
        ("EARMARK_REPLY_TIMEOUT", "20s", "EARMARK_SHUTDOWN_GRACE"),
        ("EARMARK_REPLY_TIMEOUT", "0s", "EARMARK_REPLY_TIMEOUT"),
        ("EARMARK_SETTLE_TIMEOUT", "6s", "EARMARK_RESOLVE_TIMEOUT"),
        ("EARMARK_REPLY_TIMEOUT", "soon", "--reply-timeout"),
        ("EARMARK_REPLY_TIMEOUT", "500000000000y", "must be at most 366 days"),
        ("EARMARK_LISTEN", "nowhere", "--listen"),
        ("EARMARK_QUEUE_PREFIX", "a b", "EARMARK_QUEUE_PREFIX"),
        ("AMQP_URL", "http://secret-word@x", "AMQP_URL"),
        ("DATABASE_URL", "secret-word", "DATABASE_URL"),
        ("EARMARK_PACK", "0", "--pack"),
        ("EARMARK_FAILPOINT", "everywhere", "EARMARK_FAILPOINT"),
    ];
    for (name, value, expected) in rows {
        let mut process = app.spawn("intake", &[(name, value)]);
        assert!(!process.ended().await.success(), "{name}={value}");
        let said = |text: &str| process.log().iter().any(|line| line.to_string().contains(text));
        eventually(&format!("{name}={value} is refused by name"), async || said(expected)).await;
        assert!(!said("5ec7e7") && !said("secret-word"), "{:?}", process.log());
    }
    app.start("worker").await.terminate().await;
    app.finish([]).await;
}

#[tokio::test]
async fn logs_hold_no_address_no_key_and_no_body() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    let process = app.start_with("serve", &[("EARMARK_LOG", "earmark=trace")]).await;
    let client = app.client(&process, &business);
    assert_allocated(&client.create_with_key("order-77", "ann.private@example.com", 10).await);
    assert_eq!(client.create("ann.private@example.com", 5_000).await.status, 400);
    assert_eq!(
        Client::send(client.request(Method::POST, "/payout/create").body("secret body"))
            .await
            .expect("an answer")
            .status,
        401
    );
    let log = serde_json::to_string(&process.log()).expect("a log");
    for word in ["ann.private", "order-77", "secret body", &business.secret_key[8..24], crate::harness::SECRET] {
        assert!(!log.contains(word), "{word} in {log}");
    }
    assert!(log.contains("listening"));
    app.finish([process]).await;
}

#[test]
fn a_database_that_is_not_there_is_said_so() {
    let run = Run::new(&["business", "list"], vec![("DATABASE_URL", "postgres://127.0.0.1:1/nothing".to_owned())]);
    assert_eq!(run.code(), 1);
    assert!(run.stderr().starts_with("earmark: "), "{}", run.stderr());
    assert_eq!(run.stdout(), "");
}

#[tokio::test]
async fn secrets_may_come_from_files_and_then_are_in_no_environment() {
    let app = App::new().await;
    let business = app.create_business(100);
    let folder = std::env::temp_dir().join(&app.prefix);
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).expect("written");
        path.to_string_lossy().into_owned()
    };
    let usual = || {
        let plain = [
            ("DATABASE_URL", app.database_url.clone()),
            ("AMQP_URL", app.amqp_url.clone()),
            ("EARMARK_QUEUE_PREFIX", app.prefix.clone()),
            ("EARMARK_LISTEN", "127.0.0.1:0".to_owned()),
            ("EARMARK_OPS_LISTEN", "127.0.0.1:0".to_owned()),
            ("EARMARK_LOG_FORMAT", "json".to_owned()),
        ];
        plain.to_vec()
    };
    let secret = ("EARMARK_HASH_SECRET_FILE", file("secret", &format!("{SECRET}\n")));
    let keys = ("EARMARK_ENVELOPE_KEYS_FILE", file("keys", ENVELOPE_KEYS));
    let environment = [usual(), vec![secret.clone(), keys]].concat();
    let process = Process::spawn(&["serve"], environment);
    process.ready().await;
    // The same secret as that of the other processes.
    let other = app.start("serve").await;
    let client = app.client(&process, &business);
    let told = client.create("ann@example.com", 10).await;
    assert_allocated(&told);
    let again = app.client(&other, &business).create("ann@example.com", 10).await;
    assert_eq!(again.json()["hash"], told.json()["hash"]);
    let wrong = |command: &str, settings: &[(&'static str, String)], words: &str| {
        let run = Run::new(&[command], [usual(), settings.to_vec()].concat());
        assert!(run.code() == 2 && run.stderr().contains(words), "{words}: {}", run.stderr());
        assert!(!run.stderr().contains(SECRET), "no secret is shown");
    };
    // Any command refuses: `openapi` would end by itself.
    let set = ("EARMARK_HASH_SECRET", SECRET.to_owned());
    wrong("openapi", &[secret, set], "EARMARK_HASH_SECRET and EARMARK_HASH_SECRET_FILE are both set");
    wrong("openapi", &[("EARMARK_HASH_SECRET_FILE", file("empty", "\n"))], "the file is empty");
    wrong("openapi", &[("EARMARK_HASH_SECRET_FILE", "/nowhere".to_owned())], "EARMARK_HASH_SECRET_FILE=/nowhere: ");
    wrong(
        "openapi",
        &[("DATABASE_URL_FILE", file("url", "postgres://localhost/x"))],
        "DATABASE_URL and DATABASE_URL_FILE are both set",
    );
    wrong("intake", &[], "--hash-secret");
    let help = Run::new(&["intake", "--help"], vec![]).stdout();
    assert!(help.contains("Or in the file EARMARK_HASH_SECRET_FILE"), "{help}");
    std::fs::remove_dir_all(folder).expect("removed");
    app.finish([process, other]).await;
}
