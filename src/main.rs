//! The program `earmark`: parses the command line, starts logging, and runs the command.

use clap::Parser;
use earmark::cli::{self, Cli};
use earmark::postgres::Ear;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    earmark::telemetry::start(&cli.logging, cli.command.is_service(), Ear, &Ear::directive());
    match cli::run_to_end(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("earmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}
