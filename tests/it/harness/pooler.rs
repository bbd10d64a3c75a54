//! A real PgBouncer before the real Postgres.

use super::eventually;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A running pooler. Dropping it ends it.
pub struct Pooler {
    child: Child,
    folder: PathBuf,
    /// The database, through the pooler.
    pub url: String,
}

impl Pooler {
    /// Starts a pooler in front of the server of `database_url`. It ignores `options`, as people set it up for clients
    /// that send them. `None` if this machine has no PgBouncer.
    pub async fn start(database_url: &str, mode: &str) -> Option<Self> {
        if Command::new("pgbouncer").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: pgbouncer is not installed (`make test` installs it if it runs as root)");
            return None;
        }
        // The port was free a moment ago, and the kernel does not give it to another process so soon.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let (server, database) = database_url.rsplit_once('/').expect("a URL with a database");
        let folder = std::env::temp_dir().join(format!("earmark-pooler-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).expect("a folder");
        let settings = folder.join("pgbouncer.ini");
        std::fs::write(&settings, configuration(server, mode, port)).expect("written");
        let mut command = Command::new("pgbouncer");
        if is_root() {
            command.args(["-u", "nobody"]);
        }
        let child = command.arg(&settings).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let pooler = Self { child, folder, url: format!("postgres://earmark@127.0.0.1:{port}/{database}") };
        eventually("the pooler listens", async || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        Some(pooler)
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("it runs");
    id.stdout.starts_with(b"0")
}

/// `server`: the URL of the server without the database.
fn configuration(server: &str, mode: &str, port: u16) -> String {
    let (_, rest) = server.split_once("://").expect("a URL");
    let (login, address) = rest.rsplit_once('@').expect("a user in the URL");
    let login = login
        .split_once(':')
        .map_or(format!("user={login}"), |(user, password)| format!("user={user} password={password}"));
    let (host, server_port) = address.split_once(':').unwrap_or((address, "5432"));
    format!(
        "[databases]\n\
         * = host={host} port={server_port} {login}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         pool_mode = {mode}\n\
         default_pool_size = 40\n\
         ignore_startup_parameters = options, extra_float_digits\n"
    )
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
