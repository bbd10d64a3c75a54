use clap::Parser;
use earmark::cli::Cli;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    earmark::telemetry::start(&cli.logging);
    match earmark::cli::run(cli.command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("earmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}
