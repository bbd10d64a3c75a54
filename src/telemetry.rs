//! Logs: to stderr, readable alone, never with an address, a key or a body in them.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How the program logs.
#[derive(Args, Debug)]
pub struct Logging {
    /// What is logged: a level, or levels by module (`info`, `earmark::worker=debug`)
    #[arg(long, env = "EARMARK_LOG", default_value = "info", global = true)]
    log: EnvFilter,
    /// Lines for people, or JSON objects for programs
    #[arg(long, env = "EARMARK_LOG_FORMAT", default_value = "text", global = true)]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Starts logging; to be called once. A command that ends says itself what it found out, so the broker's library keeps
/// silent then unless it is asked for: it logs each no of the broker as an error, for one that a queue is not there.
pub fn start(logging: &Logging, is_service: bool) {
    let levels = logging.log.to_string();
    let silent = if is_service || levels.contains("lapin") { "" } else { ",lapin=off" };
    let filter = EnvFilter::new(levels + silent);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match logging.log_format {
        Format::Text => logs.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        Format::Json => logs.json().init(),
    }
}
