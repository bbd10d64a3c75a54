//! The examples in `docs/clients.md`, taken from its text and run: each pays once, whatever is lost, and stops at a refusal.
//! Those that go on with what another defines are run behind it. Those that verify webhooks get genuine and forged ones.

use crate::harness::http::Client;
use crate::harness::proxy::{Moment, Protocol, Proxy, Side, Trap};
use crate::harness::scripted::{PAID, Scripted, busy};
use crate::harness::{App, SECRET, assert_allocated, eventually};
use earmark::clock;
use earmark::ledger::{BusinessId, Email};
use earmark::secret::HashSecret;
use earmark::webhook::signing;
use standardwebhooks::Webhook;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The only block in this language in the document.
fn example(language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let fence = format!("\n```{language}\n");
    let mut blocks = text.split(&fence).skip(1);
    let block = blocks.next().and_then(|rest| rest.split("\n```").next()).unwrap_or_else(|| panic!("no {language}"));
    assert!(blocks.next().is_none(), "two blocks of {language}");
    block.to_owned()
}

fn is_installed(interpreter: &str) -> bool {
    let asking = Command::new(interpreter).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if asking.is_err() {
        eprintln!("skipped: {interpreter} is not installed");
    }
    asking.is_ok()
}

/// The folder in which an example runs, and the service that it uses.
struct Stage {
    folder: std::path::PathBuf,
    url: String,
    key: String,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Stage {
    fn new(url: &str, key: &str, file: &str, code: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("example-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(file), code).expect("written");
        Self { folder, url: url.to_owned(), key: key.to_owned() }
    }

    /// A command that runs an example. Every run finds the same folder.
    fn command(&self, interpreter: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(interpreter);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command.env("EARMARK_URL", &self.url).env("EARMARK_API_KEY", &self.key);
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        command
    }

    /// Runs an example once.
    async fn run(&self, interpreter: &'static str, arguments: &[&str]) -> Output {
        let mut command = self.command(interpreter, arguments);
        tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("it runs")
    }
}

/// Runs an example against a server whose `Retry-After` values are odd, and then tests how it reads many more of them.
/// For that, `reading` replaces what follows `end` in the example.
async fn bears_any_retry_after(interpreter: &'static str, file: &str, code: &str, end: &str, reading: &str) {
    if !is_installed(interpreter) {
        return;
    }
    let answers = [busy("Wed, 21 Oct 2015 07:28:00 GMT"), busy("inf"), PAID.to_owned()];
    let server = Scripted::start(answers.to_vec()).await;
    let paid = Stage::new(&server.url, "sk_live_x", file, code).run(interpreter, &[file]).await;
    assert_eq!((paid.status.code(), String::from_utf8_lossy(&paid.stdout).as_ref()), (Some(0), "00\n"), "{paid:?}");
    assert_eq!(server.requests().len(), answers.len());

    let ahead = |seconds| httpdate::fmt_http_date(clock::now() + Duration::from_secs(seconds));
    let (soon, late) = (ahead(100), ahead(100_000));
    let rows = [
        ("0", 0.0, 0.0),
        ("7", 7.0, 7.0),
        ("300", 300.0, 300.0),
        ("99999999999", 300.0, 300.0),
        (soon.as_str(), 10.0, 100.0),
        (late.as_str(), 300.0, 300.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", 0.0, 0.0),
        ("-5", 0.0, 0.0),
        ("1.5", 0.0, 0.0),
        ("inf", 0.0, 0.0),
        ("nan", 0.0, 0.0),
        ("soon", 0.0, 0.0),
        ("", 0.0, 0.0),
    ];
    let (start, _) = code.split_once(end).unwrap_or_else(|| panic!("{file} ends with {end}"));
    let mut arguments = vec![file];
    arguments.extend(rows.map(|(text, _, _)| text));
    let output = Stage::new("", "", file, &format!("{start}\n{reading}\n")).run(interpreter, &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().count(), rows.len(), "{output:?}");
    for (line, (text, least, most)) in said.lines().zip(rows) {
        let wait: f64 = line.parse().unwrap_or_else(|_| panic!("{text}: {line}"));
        assert!((least..=most).contains(&wait), "{text}: {wait}");
    }
}

#[tokio::test]
async fn the_example_in_python_bears_any_retry_after() {
    let reading = "for text in sys.argv[1:]: print(asked_wait(text))";
    bears_any_retry_after("python3", "pay.py", &example("python"), "\ntry:\n    payout = ", reading).await;
}

#[tokio::test]
async fn the_example_in_javascript_bears_any_retry_after() {
    let reading = "for (const text of process.argv.slice(2)) console.log(askedWait(text));";
    bears_any_retry_after("node", "pay.mjs", &example("javascript"), "\nconst payout = ", reading).await;
}

#[tokio::test]
async fn the_example_in_php_bears_any_retry_after() {
    let reading = r#"foreach (array_slice($argv, 1) as $text) { echo asked_wait($text), "\n"; }"#;
    bears_any_retry_after("php", "pay.php", &example("php"), "\ntry {", reading).await;
}

#[tokio::test]
async fn the_example_in_ruby_bears_any_retry_after() {
    let reading = "ARGV.each { |text| puts asked_wait(text) }";
    bears_any_retry_after("ruby", "pay.rb", &example("ruby"), "\nbegin\n  payout = ", reading).await;
}

/// Checks that an example is refused while there is no balance, is paid once after a top-up although the first answer
/// is lost, and is told the same when it runs again.
async fn pays_once(language: &str, interpreter: &'static str, file: &'static str) {
    let code = example(language);
    if !is_installed(interpreter) {
        return;
    }
    let app = App::new().await;
    let (business, process) = (app.create_business(0), app.start("serve").await);
    let upstream = process.url().trim_start_matches("http://").parse().expect("an address");
    let proxy = Proxy::start(Protocol::Opaque, upstream).await.expect("a proxy");
    let stage = Stage::new(&format!("http://{}", proxy.address()), &business.secret_key, file, &code);

    let refused = stage.run(interpreter, &[file]).await;
    let said = format!("{}{}", String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert!(!refused.status.success() && said.contains("Insufficient payout balance"), "{said}");

    app.run(&["business", "fund", &business.id, "--amount", "2500"]).expect_success();
    proxy.arm(Trap { at: Moment::Said, side: Side::Before });
    let id = BusinessId::from_u128(uuid::Uuid::parse_str(&business.id).expect("an id").as_u128());
    let secret: HashSecret = SECRET.parse().expect("a secret");
    let hash = hex::encode(secret.user_hash(id, &Email::parse("ann@example.com").expect("an address")).0);
    for _ in 0..2 {
        let paid = stage.run(interpreter, &[file]).await;
        assert!(paid.status.success(), "{}", String::from_utf8_lossy(&paid.stderr));
        assert!(String::from_utf8_lossy(&paid.stdout).contains(&hash), "{}", String::from_utf8_lossy(&paid.stdout));
        assert!(!proxy.is_armed(), "the first answer was lost");
    }
    let client = app.client(&process, &business);
    assert_eq!((client.user_balance("ann@example.com").await, client.payout_balance().await), (1_250, 1_250));
    app.finish([process]).await;
}

#[tokio::test]
async fn the_example_in_curl_pays_once() {
    if is_installed("curl") {
        pays_once("sh", "sh", "pay.sh").await;
    }
}

#[tokio::test]
async fn the_example_in_python_pays_once() {
    pays_once("python", "python3", "pay.py").await;
}

#[tokio::test]
async fn the_example_in_javascript_pays_once() {
    pays_once("javascript", "node", "pay.mjs").await;
}

#[tokio::test]
async fn the_example_in_php_pays_once() {
    pays_once("php", "php", "pay.php").await;
}

#[tokio::test]
async fn the_example_in_ruby_pays_once() {
    pays_once("ruby", "ruby", "pay.rb").await;
}

#[tokio::test]
async fn the_example_of_reconciling_finds_what_was_not_noted() {
    if !is_installed("python3") {
        return;
    }
    let app = App::new().await;
    let (business, process) = (app.create_business(10_000), app.start("serve").await);
    let client = app.client(&process, &business);
    let pay = async |reference: &str| {
        let body = serde_json::json!({"email": "ann@example.com", "amount": 625, "reference": reference});
        let request = client.create_request("ann@example.com", 625).json(&body);
        assert_allocated(&Client::send(request).await.expect("an answer"));
    };
    // The example has to read several pages.
    let code = example("python reconcile").replace("\"limit\": 1000", "\"limit\": 1");
    let stage = Stage::new(&process.url(), &business.secret_key, "reconcile.py", &code);
    let arguments = ["reconcile.py", "2020-01-01T00:00:00Z", "2120-01-01T00:00:00Z"];
    let said = async || {
        let output = stage.run("python3", &arguments).await;
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    pay("invoice-1017").await;
    assert_eq!(said().await, (Some(1), "invoice-1017: noted 1250, paid 625\n".to_owned()));
    pay("invoice-1017").await;
    assert_eq!(said().await, (Some(0), String::new()));
    pay("invoice-1018").await;
    assert_eq!(said().await, (Some(1), "invoice-1018: noted 0, paid 625\n".to_owned()));
    app.finish([process]).await;
}

/// A language of the examples: its name, its interpreter, the file of a program, and where the example begins to pay.
type Language = (&'static str, &'static str, &'static str, &'static str);
const CURL: Language = ("sh", "sh", "pay.sh", "\npost /payout/create");
const PYTHON: Language = ("python", "python3", "pay.py", "\ntry:\n    payout = ");
const JAVASCRIPT: Language = ("javascript", "node", "pay.mjs", "\nconst payout = ");
const PHP: Language = ("php", "php", "pay.php", "\ntry {");
const RUBY: Language = ("ruby", "ruby", "pay.rb", "\nbegin\n  payout = ");

/// The example of a language up to where it pays, and then another one that goes on there.
fn going_on(language: &Language, what: &str) -> String {
    let (name, _, _, end) = language;
    let code = example(name);
    let (start, _) = code.split_once(end).unwrap_or_else(|| panic!("{name} pays"));
    format!("{start}\n{}\n", example(&format!("{name} {what}")))
}

/// Checks that an example takes back and settles once although the first answer is lost, says the same when it runs
/// again, and stops at a refusal.
async fn takes_back_once(language: Language, expected: [&str; 2]) {
    let (code, (_, interpreter, file, _)) = (going_on(&language, "take back"), language);
    if !is_installed(interpreter) {
        return;
    }
    let app = App::new().await;
    let (business, process) = (app.create_business(2_500), app.start("serve").await);
    let client = app.client(&process, &business);
    let id = client.create("ann@example.com", 1_250).await.request_id();
    let upstream = process.url().trim_start_matches("http://").parse().expect("an address");
    let proxy = Proxy::start(Protocol::Opaque, upstream).await.expect("a proxy");
    let stage = Stage::new(&format!("http://{}", proxy.address()), &business.secret_key, file, &code);
    proxy.arm(Trap { at: Moment::Said, side: Side::Before });
    for _ in 0..2 {
        let run = stage.run(interpreter, &[file, &id]).await;
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success(), "{said} {}", String::from_utf8_lossy(&run.stderr));
        assert!(expected.iter().all(|text| said.contains(text)), "{said}");
        assert!(!proxy.is_armed(), "the first answer was lost");
    }
    assert_eq!((client.user_balance("ann@example.com").await, client.payout_balance().await), (0, 1_500));
    assert_eq!((app.count("reversed").await, app.count("settled").await), (1, 1));
    let refused = stage.run(interpreter, &[file, "0198c0de-0000-7000-8000-00000a11ca7e"]).await;
    let said = format!("{}{}", String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert!(!refused.status.success() && said.contains("Not found"), "{said}");
    app.finish([process]).await;
}

#[tokio::test]
async fn the_example_in_curl_takes_back_and_settles_once() {
    if is_installed("curl") {
        takes_back_once(CURL, [r#""reversed":250,"remaining":1000"#, r#""balance":0"#]).await;
    }
}

#[tokio::test]
async fn the_example_in_python_takes_back_and_settles_once() {
    takes_back_once(PYTHON, ["250 1000\n", "\n0\n"]).await;
}

#[tokio::test]
async fn the_example_in_javascript_takes_back_and_settles_once() {
    takes_back_once(JAVASCRIPT, ["250 1000\n", "\n0\n"]).await;
}

#[tokio::test]
async fn the_example_in_php_takes_back_and_settles_once() {
    takes_back_once(PHP, ["250 1000\n", "\n0\n"]).await;
}

#[tokio::test]
async fn the_example_in_ruby_takes_back_and_settles_once() {
    takes_back_once(RUBY, ["250 1000\n", "\n0\n"]).await;
}

/// A program that runs until it is dropped, with all that it has started.
struct Running(Child);

impl Running {
    /// Starts an example that prints into a file.
    fn start(stage: &Stage, interpreter: &str, file: &str, prints: &Path) -> Self {
        let prints = std::fs::File::create(prints).expect("a file");
        let mut command = stage.command(interpreter, &[file]);
        command.process_group(0).stdout(prints);
        Self(command.spawn().expect("it runs"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

/// Checks that an example prints every event once, also while it waits for it, and goes on where it was killed.
async fn follows_events(language: Language, code: String, shown: impl Fn(u64, &str, u64) -> String) {
    let (_, interpreter, file, _) = language;
    if !is_installed(interpreter) {
        return;
    }
    let app = App::new().await;
    let (business, process) = (app.create_business(2_500), app.start("serve").await);
    let (client, stage) =
        (app.client(&process, &business), Stage::new(&process.url(), &business.secret_key, file, &code));
    let prints = stage.folder.join("prints");
    let has_printed = async |text: String| {
        eventually(&format!("{file} prints {text}"), async || {
            std::fs::read_to_string(&prints).unwrap_or_default().contains(&text)
        })
        .await;
    };
    let running = Running::start(&stage, interpreter, file, &prints);
    has_printed(shown(1, "balance.deposited", 2_500)).await;
    assert_allocated(&client.create("ann@example.com", 100).await);
    has_printed(shown(2, "allocation.created", 100)).await;
    // The number is written after the event is printed.
    eventually("the cursor is kept", async || {
        std::fs::read_to_string(stage.folder.join("events.cursor")).is_ok_and(|text| text.trim() == "2")
    })
    .await;
    drop(running);
    assert_allocated(&client.create("ann@example.com", 200).await);
    let running = Running::start(&stage, interpreter, file, &prints);
    has_printed(shown(3, "allocation.created", 200)).await;
    let printed = std::fs::read_to_string(&prints).expect("a file");
    assert!(!printed.contains(&shown(2, "allocation.created", 100)), "{printed}");
    drop(running);
    app.finish([process]).await;
}

fn as_a_line(seq: u64, kind: &str, amount: u64) -> String {
    format!("{seq} {kind} {amount}\n")
}

#[tokio::test]
async fn the_example_in_curl_follows_events() {
    if is_installed("curl") {
        let shown = |seq: u64, kind: &str, _: u64| format!(r#"{{"seq":{seq},"type":"{kind}""#);
        follows_events(CURL, example("sh events"), shown).await;
    }
}

#[tokio::test]
async fn the_example_in_python_follows_events() {
    follows_events(PYTHON, going_on(&PYTHON, "events"), as_a_line).await;
}

#[tokio::test]
async fn the_example_in_javascript_follows_events() {
    follows_events(JAVASCRIPT, going_on(&JAVASCRIPT, "events"), as_a_line).await;
}

#[tokio::test]
async fn the_example_in_php_follows_events() {
    follows_events(PHP, going_on(&PHP, "events"), as_a_line).await;
}

#[tokio::test]
async fn the_example_in_ruby_follows_events() {
    follows_events(RUBY, going_on(&RUBY, "events"), as_a_line).await;
}

/// Checks that an example shows the type of an event that is genuine, and refuses everything else.
fn verifies(interpreter: &str, file: &str, code: &str) {
    if !is_installed(interpreter) {
        return;
    }
    let stage = Stage::new("", "", file, code);
    let said = |secret: &str, id: &str, timestamp: &str, signatures: &str, body: &str| {
        std::fs::write(stage.folder.join("body"), body).expect("written");
        let body = std::fs::File::open(stage.folder.join("body")).expect("a file");
        let mut command = stage.command(interpreter, &[file, id, timestamp, signatures]);
        let output = command.env("WEBHOOK_SECRET", secret).stdin(body).output().expect("it runs");
        let [said, complained] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
        (output.status.code(), said, complained)
    };
    let sign = |secret: &str, id: &str, timestamp: i64, body: &str| {
        Webhook::new(secret).expect("a key").sign(id, timestamp, body.as_bytes()).expect("a signature")
    };
    // Keys and bodies as they may be: with a byte 0, with `+` and `/` in base64, beyond ASCII, with an empty line at the end.
    let mut key = [0xfb; 32];
    key[0] = 0;
    let (secret, another) = (signing::show(key), signing::show([7; 32]));
    let (id, body) =
        ("evt_01_7", "{\"seq\": 7, \"type\": \"allocation.created\", \"data\": {\"reference\": \"café\"}}\n\n");
    let seconds = clock::now_millis() / 1_000;
    let now = seconds.to_string();
    let right = sign(&secret, id, seconds, body);
    let wrong = sign(&another, id, seconds, body);
    let unknown = right.replace("v1,", "v2,");

    let genuine = [
        ("one signature", 0, right.clone()),
        ("the second matches", 0, format!("{wrong} {right}")),
        ("the first matches", 0, format!("{right} {wrong}")),
        ("beside an unknown version", 0, format!("v1a,AAAA {right} {unknown}")),
        ("four minutes old", -240, sign(&secret, id, seconds - 240, body)),
        ("four minutes ahead", 240, sign(&secret, id, seconds + 240, body)),
    ];
    for (what, later, signatures) in genuine {
        let (status, shown, complained) = said(&secret, id, &(seconds + later).to_string(), &signatures, body);
        assert_eq!((status, complained.as_str()), (Some(0), ""), "{file}: {what}");
        assert!(shown.contains("allocation.created"), "{file}: {what}: {shown}");
    }

    let (old, ahead) = ((seconds - 360).to_string(), (seconds + 360).to_string());
    let (signed_old, signed_ahead) = (sign(&secret, id, seconds - 360, body), sign(&secret, id, seconds + 360, body));
    let (changed, shortened) = (body.replace('7', "8"), body.trim_end());
    let (bare, padded) = (secret.trim_start_matches("whsec_"), format!("{secret}="));
    let renamed = secret.replace("whsec_", "notes_");
    let refused = [
        ("a changed body", secret.as_str(), id, now.as_str(), right.as_str(), changed.as_str()),
        ("a body without its end", &secret, id, &now, &right, shortened),
        ("no body", &secret, id, &now, &right, ""),
        ("another id", &secret, "evt_01_8", &now, &right, body),
        ("an id beyond ASCII", &secret, "é", &now, &right, body),
        ("another secret", &another, id, &now, &right, body),
        ("six minutes old", &secret, id, &old, &signed_old, body),
        ("six minutes ahead", &secret, id, &ahead, &signed_ahead, body),
        ("another time", &secret, id, &ahead, &right, body),
        ("no signature", &secret, id, &now, "", body),
        ("no base64", &secret, id, &now, "v1,*%é", body),
        ("only a version", &secret, id, &now, "v1,", body),
        ("no version", &secret, id, &now, right.trim_start_matches("v1,"), body),
        ("an unknown version", &secret, id, &now, &unknown, body),
        ("a wrong signature", &secret, id, &now, &wrong, body),
        ("a time that is no number", &secret, id, "abc", &right, body),
        ("a huge time", &secret, id, "99999999999999999999999", &right, body),
        ("no time", &secret, id, "", &right, body),
        ("a secret without its prefix", bare, id, &now, &right, body),
        ("a secret with another prefix", &renamed, id, &now, &right, body),
        ("a secret with too much padding", &padded, id, &now, &right, body),
        ("a secret that is no base64", "whsec_*%é", id, &now, &right, body),
        ("an empty key", "whsec_", id, &now, &sign("whsec_", id, seconds, body), body),
        ("no secret", "", id, &now, &sign("", id, seconds, body), body),
    ];
    for (what, secret, id, timestamp, signatures, body) in refused {
        let expected = (Some(1), String::new(), "refused\n".to_owned());
        assert_eq!(said(secret, id, timestamp, signatures, body), expected, "{file}: {what}");
    }
}

#[test]
fn the_example_in_sh_verifies_a_webhook() {
    if is_installed("openssl") {
        verifies("sh", "verify.sh", &example("sh verify"));
    }
}

#[test]
fn the_example_in_python_verifies_a_webhook() {
    verifies("python3", "verify.py", &example("python verify"));
}

#[test]
fn the_example_in_javascript_verifies_a_webhook() {
    verifies("node", "verify.mjs", &example("javascript verify"));
}

#[test]
fn the_example_in_php_verifies_a_webhook() {
    verifies("php", "verify.php", &example("php verify"));
}

#[test]
fn the_example_in_ruby_verifies_a_webhook() {
    verifies("ruby", "verify.rb", &example("ruby verify"));
}
