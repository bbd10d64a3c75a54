//! The program `earmark`: parses the command line, starts logging, and runs the command.

use clap::{CommandFactory, FromArgMatches};
use earmark::cli::{self, Cli, secret_files};
use earmark::postgres::Ear;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match secret_files::fill(Cli::command()) {
        Ok(command) => Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit()),
        Err(error) => {
            eprintln!("earmark: {error}");
            return ExitCode::from(2);
        }
    };
    earmark::telemetry::start(&cli.logging, cli.command.is_service(), Ear, &Ear::directive());
    match cli::run_to_end(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("earmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}
