//! Processes under measurement: started, watched and stopped.

use serde_json::Value;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder).expect("target/bench");
    folder
}

/// Finds a free address. If another process takes it first, the start fails visibly.
pub fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address")
}

/// A process. Dropping it kills it.
pub struct Process {
    child: Child,
    pub name: String,
}

impl Process {
    pub fn start(name: &str, program: PathBuf, arguments: &[&str], settings: &[(&str, String)]) -> Self {
        let log = File::create(folder().join(format!("{name}.log"))).expect("a log");
        let child = Command::new(program)
            .args(arguments)
            .envs(settings.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        Self { child, name: name.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn earmark() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_earmark"))
}

/// Runs a command of the program, and reads what it prints.
pub fn run_earmark(arguments: &[&str], database_url: &str) -> Value {
    let output = Command::new(earmark()).args(arguments).env("DATABASE_URL", database_url).output().expect("it runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Waits until something answers on an address.
pub async fn until_answers(address: SocketAddr) {
    for _ in 0..600 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nothing answers on {address}");
}

/// CPU time used so far, and memory in use now, of a process and all that it has started. The clock ticks of Linux are
/// hundredths of a second.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub rss_mib: f64,
}

pub fn usage(pid: u32) -> Usage {
    let mut usage = own_usage(pid).unwrap_or_default();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if parent(child) == Some(pid)
            && let Some(own) = own_usage(child)
        {
            usage.cpu_seconds += own.cpu_seconds;
            usage.rss_mib += own.rss_mib;
        }
    }
    usage
}

/// The fields after the name, which may hold blanks itself.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

pub fn own_usage(pid: u32) -> Option<Usage> {
    let stat = stat(pid)?;
    let ticks: f64 = [11, 12].iter().filter_map(|&field| stat.get(field)?.parse::<f64>().ok()).sum();
    let pages: f64 = stat.get(21)?.parse().ok()?;
    Some(Usage { cpu_seconds: ticks / 100.0, rss_mib: pages * 4096.0 / 1024.0 / 1024.0 })
}
