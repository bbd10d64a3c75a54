//! Logging: to stderr, as text or JSON. No log line contains an email address, an API key or a body.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How the program logs.
#[derive(Args, Debug)]
pub struct Logging {
    /// What is logged: a level for everything, or levels by module (`info`, `earmark::worker=debug`)
    #[arg(long, env = "EARMARK_LOG", default_value = "info", global = true)]
    log: EnvFilter,
    /// The format of log lines: text for people, or JSON objects for programs
    #[arg(long, env = "EARMARK_LOG_FORMAT", default_value = "text", global = true)]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Starts logging. Must be called once.
///
/// `is_service`: whether the process runs until it is stopped. Other commands report errors themselves, so `lapin`'s
/// log is off for them unless `--log` names it: it logs each refusal of the broker as an error, even that a queue does
/// not exist.
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
