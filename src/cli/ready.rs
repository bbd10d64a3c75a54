//! `earmark ready`: asks `/readyz` of a process. It is the health check in containers, which have no curl.

use anyhow::Context;
use clap::Args;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
pub struct Arguments {
    /// The side listener of the process: address:port
    #[arg(long, env = "EARMARK_OPS_LISTEN")]
    ops_listen: SocketAddr,
}

/// How long connecting may take, and how long each read of the answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the process and prints its answer. Returns exit code 1 if the process is not ready.
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let address = arguments.ops_listen;
    let answer = ask(address).with_context(|| format!("nothing answers on {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    print!("{body}");
    let is_ready = head.split(' ').nth(1) == Some("200");
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
