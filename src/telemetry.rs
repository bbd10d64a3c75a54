//! Logging: to stderr, as text or JSON. No log line contains an email address, an API key or a body.

use clap::{Args, ValueEnum};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

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
///
/// `ear`: a layer that has to hear what the directive `heard` lets through, whatever `--log` says.
pub fn start(logging: &Logging, is_service: bool, ear: impl Layer<Registry> + Send + Sync, heard: &str) {
    let levels = logging.log.to_string();
    let silent = if is_service || levels.contains("lapin") { "" } else { ",lapin=off" };
    let filter = EnvFilter::new(format!("{levels}{silent},{heard}"));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match logging.log_format {
        Format::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        Format::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(ear).with(filter).with(lines).init();
}
