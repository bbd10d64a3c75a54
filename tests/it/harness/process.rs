//! Processes of the real program.

use super::http::http_client;
use super::{PATIENCE, eventually};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

fn program(arguments: &[&str], environment: Vec<(&'static str, String)>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_earmark"));
    command.args(arguments).stdin(Stdio::null());
    // Variables that the shell has set must not change the test.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("EARMARK_")) {
        command.env_remove(name);
    }
    command.envs(environment);
    command
}

/// A command that has ended.
pub struct Run(Output);

impl Run {
    pub fn new(arguments: &[&str], environment: Vec<(&'static str, String)>) -> Self {
        Self(program(arguments, environment).output().expect("the program runs"))
    }

    pub fn code(&self) -> i32 {
        self.0.status.code().expect("an exit code")
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.0.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout(), self.stderr()))
    }

    pub fn expect_success(self) -> Self {
        assert!(self.0.status.success(), "{}{}", self.stdout(), self.stderr());
        self
    }
}

/// A running process and its log. Dropping it kills the process.
pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Process {
    pub fn spawn(arguments: &[&str], environment: Vec<(&'static str, String)>) -> Self {
        Self::start(program(arguments, environment))
    }

    /// The same, with a limit on the number of open files.
    pub fn spawn_limited(files: u32, arguments: &[&str], environment: Vec<(&'static str, String)>) -> Self {
        let program = program(arguments, environment);
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
        limited.arg(program.get_program()).args(program.get_args()).stdin(Stdio::null());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        Self::start(limited)
    }

    fn start(mut program: Command) -> Self {
        let mut child = program.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let log = Arc::new(Mutex::new(vec![]));
        let (lines, stderr) = (Arc::clone(&log), child.stderr.take().expect("stderr"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let entry = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.lock().expect("the log").push(entry);
            }
        });
        Self { child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> Vec<Value> {
        self.log.lock().expect("the log").clone()
    }

    /// How often this message was logged.
    pub fn logged(&self, message: &str) -> usize {
        self.log().iter().filter(|entry| entry["fields"]["message"] == message).count()
    }

    pub async fn until_logged(&self, message: &str) {
        eventually(&format!("the log says `{message}`"), async || self.logged(message) > 0).await;
    }

    /// The address that a setting made the process listen on.
    fn address(&self, setting: &str) -> Option<String> {
        let log = self.log();
        let entry = log.iter().find(|entry| entry["fields"]["setting"] == setting)?;
        Some(entry["fields"]["address"].as_str()?.to_owned())
    }

    pub fn listens(&self) -> bool {
        self.address("EARMARK_LISTEN").is_some()
    }

    /// The URL of the intake. Call this only once the process is ready.
    pub fn url(&self) -> String {
        format!("http://{}", self.address("EARMARK_LISTEN").expect("an intake that listens"))
    }

    /// The URL of the side listener. Call this only once the process is ready.
    pub fn side_url(&self) -> String {
        format!("http://{}", self.address("EARMARK_OPS_LISTEN").expect("a side listener"))
    }

    /// The side listener's answer to `/readyz`: 200, or 503 and what is wrong. `None` if it does not answer.
    pub async fn readiness(&self) -> Option<(u16, String)> {
        self.side("/readyz").await
    }

    /// The status and body of an answer of the side listener; `None` if there is none.
    pub async fn side(&self, path: &str) -> Option<(u16, String)> {
        let url = format!("http://{}{path}", self.address("EARMARK_OPS_LISTEN")?);
        let response = http_client(Duration::from_secs(5)).get(url).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// All metrics, in Prometheus' text format. A process under load on a busy machine may need several tries to answer.
    pub async fn metrics(&self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some((status, text)) = self.side("/metrics").await {
                assert_eq!(status, 200, "{text}");
                return text;
            }
            assert!(Instant::now() < end, "no answer: {:#?}", self.log());
        }
    }

    /// The value of one series. `series` is its name and labels as the text format writes them. `None` if there is no
    /// such series.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics().await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(line.parse().expect("a number"))
    }

    pub async fn is_ready(&self) -> bool {
        self.readiness().await.is_some_and(|(status, _)| status == 200)
    }

    pub async fn ready(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.is_ready().await {
            assert!(Instant::now() < end, "not ready: {:?} {:#?}", self.readiness().await, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal by its name: TERM, KILL, STOP, CONT.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status().expect("a shell");
    }

    /// The most memory that the process has used so far, in MiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|peak| peak.parse::<u64>().ok()).expect("a peak") / 1024
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Waits until the process has ended. Something else must have told it to end.
    pub async fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.has_ended() {
                return status;
            }
            assert!(Instant::now() < end, "still running: {:#?}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops the process with SIGTERM, checks that it exits with success, and returns its log.
    pub async fn terminate(mut self) -> Vec<Value> {
        self.signal("TERM");
        let status = self.ended().await;
        assert!(status.success(), "{status}: {:#?}", self.log());
        self.log()
    }

    /// Kills the process with SIGKILL, and waits until it has ended.
    pub async fn kill(&mut self) {
        self.signal("KILL");
        self.ended().await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
