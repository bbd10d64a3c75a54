//! Each session checks that it has the settings that the program asked for.

use crate::harness::pooler::Pooler;
use crate::harness::servers::Servers;
use crate::harness::{App, assert_allocated, eventually};

/// Makes each row of the ledger record the settings of the session that wrote it.
async fn note_settings(app: &App) {
    app.execute(
        "CREATE TABLE noted (synchronous_commit text, lock_timeout text, isolation text, seqscan text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO noted VALUES (current_setting('synchronous_commit'), current_setting('lock_timeout'),
                                       current_setting('transaction_isolation'), current_setting('enable_seqscan'));
             RETURN NULL;
         END
         $$;
         CREATE TRIGGER note AFTER INSERT ON allocations FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
}

async fn noted(app: &App) -> Vec<(String, String, String, String)> {
    let reading = sqlx::query_as("SELECT DISTINCT synchronous_commit, lock_timeout, isolation, seqscan FROM noted");
    reading.fetch_all(&mut app.database().await).await.expect("rows")
}

/// Gives the database the worst settings as its defaults.
async fn mistune(app: &App) {
    app.execute(&format!(
        "ALTER DATABASE \"{0}\" SET synchronous_commit = off;
         ALTER DATABASE \"{0}\" SET default_transaction_isolation = 'repeatable read'",
        app.prefix
    ))
    .await;
}

#[tokio::test]
async fn behind_a_pooler_that_drops_settings_every_session_has_them_all_the_same() {
    let app = App::new().await;
    let Some(pooler) = Pooler::start(&app.database_url, "session").await else { return app.discard().await };
    let business = app.create_business(1_000);
    note_settings(&app).await;
    mistune(&app).await;
    let settings = [("DATABASE_URL", pooler.url.as_str()), ("EARMARK_REPLY_TIMEOUT", "1s")];
    let (intake, worker) = (app.start_with("intake", &settings).await, app.start_with("worker", &settings).await);
    let client = app.client(&intake, &business);
    assert_allocated(&client.create("ann@example.com", 1).await);
    assert_allocated(&client.create_with_key("k", "ann@example.com", 1).await);
    // A void must be as durable as a debit.
    worker.terminate().await;
    assert_eq!(client.create("ann@example.com", 1).await.status, 500);
    let expected = ["on", "3s", "read committed", "off"].map(str::to_owned);
    let [commit, lock, isolation, seqscan] = expected;
    assert_eq!(noted(&app).await, [(commit, lock, isolation, seqscan)]);
    let worker = app.start("worker").await;
    app.finish([intake, worker]).await;
}

#[tokio::test]
async fn what_a_server_promises_beyond_a_commit_stays() {
    let app = App::new().await;
    let business = app.create_business(1_000);
    note_settings(&app).await;
    app.execute(&format!("ALTER DATABASE \"{}\" SET synchronous_commit = remote_apply", app.prefix)).await;
    let process = app.start("serve").await;
    assert_allocated(&app.client(&process, &business).create("ann@example.com", 1).await);
    assert!(noted(&app).await.iter().all(|noted| noted.0 == "remote_apply"), "{:?}", noted(&app).await);
    app.finish([process]).await;
}

#[tokio::test]
async fn a_pooler_that_lets_others_into_a_session_is_refused_at_the_start() {
    let app = App::new().await;
    for mode in ["transaction", "statement"] {
        let Some(pooler) = Pooler::start(&app.database_url, mode).await else { return app.discard().await };
        let settings = [("DATABASE_URL", pooler.url.as_str())];
        for command in ["intake", "worker", "migrate", "doctor"] {
            let run = app.run_with(&[command], &settings);
            let said = run.stdout() + &run.stderr();
            assert!(run.code() != 0 && said.contains("pooler") && said.contains("session mode"), "{command}: {said}");
        }
    }
    app.discard().await;
}

#[tokio::test]
async fn a_database_that_is_not_in_utf_8_is_refused_at_the_start() {
    let app = App::new().await;
    let name = format!("{}-latin1", app.prefix);
    app.execute(&format!(
        "CREATE DATABASE \"{name}\" ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    ))
    .await;
    let url = app.database_url.replace(&app.prefix, &name);
    for command in ["migrate", "serve"] {
        let run = app.run_with(&[command], &[("DATABASE_URL", &url)]);
        let said = run.stdout() + &run.stderr();
        assert!(run.code() != 0 && said.contains("is in LATIN1 and must be in UTF8"), "{command}: {said}");
    }
    app.execute(&format!("DROP DATABASE \"{name}\"")).await;
    app.discard().await;
}

/// A certificate of X.509 version 1, as Citus makes itself one, put where the server looks for it.
const OLD_CERTIFICATE: &str = "umask 077 && openssl req -new -newkey rsa:2048 -nodes -subj /CN=localhost \
    -keyout server.key -out server.csr 2>/dev/null && openssl x509 -req -in server.csr -signkey server.key -days 2 \
    -out server.crt 2>/dev/null && openssl x509 -in server.crt -noout -text | grep -q \"Version: 1 \"";

#[tokio::test]
async fn a_certificate_that_cannot_be_read_stops_the_start_and_the_error_says_which_setting_helps() {
    let Some(servers) = Servers::alone().await else { return };
    let app = App::on(servers).await;
    app.execute(&format!("COPY (SELECT 1) TO PROGRAM '{}'", OLD_CERTIFICATE.replace('\'', "''"))).await;
    app.execute("ALTER SYSTEM SET ssl = on").await;
    app.execute("SELECT pg_reload_conf()").await;
    let url = app.database_url.replace("sslmode=disable", "sslmode=prefer");
    let list = || app.run_with(&["business", "list"], &[("DATABASE_URL", &url)]);
    eventually("the server offers TLS", async || list().code() != 0).await;
    let said = list().stderr();
    let mut serving = app.spawn("worker", &[("DATABASE_URL", &url)]);
    let ended = serving.ended().await;
    app.execute("ALTER SYSTEM RESET ssl").await;
    app.execute("SELECT pg_reload_conf()").await;
    let log = serving.log().iter().map(ToString::to_string).collect();
    for said in [said, log] {
        assert!(said.contains("X.509 version 1") && said.contains("sslmode=disable"), "{said}");
    }
    assert!(!ended.success(), "the process ends, because this trouble does not pass");
    app.run(&["business", "list"]).expect_success();
    app.discard().await;
}
