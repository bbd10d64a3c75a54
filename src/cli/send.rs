//! `earmark send`: pays every line of a file.

use super::print_json;
use crate::config::parse_duration;
use crate::send::client::{Client, Settings};
use crate::send::progress::Progress;
use crate::send::results;
use crate::send::{self, Batch, file};
use crate::shutdown;
use crate::wire::operator::{Summary, Tally};
use anyhow::{anyhow, bail, ensure};
use clap::Args;
use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Exits with 0 if every line is paid, with 1 if some lines are refused and the rest is paid, with 2 if some lines are
/// undecided: then run the same command again.
#[derive(Args)]
pub struct Arguments {
    /// The file of payouts: a .csv with the columns email, amount and optionally reference, or a .jsonl or .ndjson with
    /// these fields. Amounts are in cents. A journal and a table of results are written next to the file
    file: PathBuf,
    /// The address of the service: https://host
    #[arg(long, env = "EARMARK_URL")]
    url: String,
    /// A secret API key of the business that pays. Set it as a variable: other users of the machine can see command
    /// lines
    #[arg(long, env = "EARMARK_API_KEY", hide_env_values = true)]
    api_key: String,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// How many lines are sent at the same time. 32 reach more than a thousand lines a second and leave room for others
    #[arg(long, env = "EARMARK_SEND_CONCURRENCY", default_value = "32", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// How long an attempt may take before it is repeated. It must be longer than the service needs to find out what
    /// became of a request: EARMARK_REPLY_TIMEOUT and EARMARK_RESOLVE_TIMEOUT together
    #[arg(long, env = "EARMARK_SEND_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print one line of JSON instead of text
    #[arg(long)]
    json: bool,
}

/// The exit code if some lines are undecided, or the command failed before it sent any.
const UNFINISHED: u8 = 2;

/// Sends the file. Never fails: an error is printed and becomes exit code 2.
pub(super) async fn run(arguments: Arguments) -> ExitCode {
    match send(&arguments).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("earmark: {error:#}");
            ExitCode::from(UNFINISHED)
        }
    }
}

async fn send(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let settings =
        Settings { url: arguments.url.clone(), api_key: arguments.api_key.clone(), timeout: arguments.timeout };
    let client = Client::new(&settings)?;
    let mut batch = Batch::open(&arguments.file, read(&arguments.file)?)?;
    see_that_it_is_known(&batch, &client).await?;
    let before = results::sum_up(&batch);
    let mut stopped = None;
    if before.undecided.lines > 0 {
        consent(&arguments.file, &before, arguments.yes)?;
        let (stop, progress) = (shutdown::on_signal()?, Progress::new(before.undecided.lines));
        let sent = batch.send(&client, arguments.concurrency.into(), &progress, &stop).await;
        progress.finish();
        stopped = sent.err();
    }
    let (summary, table) = (results::sum_up(&batch), results::path_of(&arguments.file));
    results::write(&batch, &table)?;
    if arguments.json {
        print_json(&summary)?;
    } else {
        print_for_people(&summary, &table);
    }
    if let Some(error) = stopped {
        eprintln!("earmark: stopped: {error:#}");
    }
    Ok(exit_code(&summary))
}

fn read(path: &Path) -> anyhow::Result<Vec<file::Line>> {
    let lines = match file::read(path)? {
        Ok(lines) => lines,
        Err(bad) => {
            for line in &bad {
                eprintln!("{line}");
            }
            bail!("{} has {} bad lines, and nothing was sent", path.display(), bad.len());
        }
    };
    ensure!(!lines.is_empty(), "{} has no lines to send", path.display());
    Ok(lines)
}

/// Checks that the service knows a payment of the journal for this API key. Otherwise the journal belongs to another
/// deployment or business, and its paid lines are not paid here.
async fn see_that_it_is_known(batch: &Batch, client: &Client) -> anyhow::Result<()> {
    let Some(receipt) = batch.any_receipt() else { return Ok(()) };
    let progress = Progress::new(0);
    let known = send::knows(client, receipt, &progress).await;
    progress.finish();
    ensure!(
        known.map_err(|reason| anyhow!(reason))?,
        "the journal has payments that the service does not know for this key: use the URL and API key of the earlier \
         run; or rename the file, to pay all of it here"
    );
    Ok(())
}

fn consent(file: &Path, summary: &Summary, yes: bool) -> anyhow::Result<()> {
    let Summary { total, paid, undecided, .. } = summary;
    eprintln!("{}: {} lines, {} cents", file.display(), total.lines, total.cents);
    if paid.lines > 0 {
        eprintln!("paid already: {} lines, {} cents", paid.lines, paid.cents);
    }
    if yes {
        return Ok(());
    }
    ensure!(
        stdin().is_terminal(),
        "stdin is no terminal, so nobody can be asked: add --yes to send without confirmation"
    );
    eprintln!("Send {} lines, {} cents? Type yes:", undecided.lines, undecided.cents);
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    ensure!(answer.trim() == "yes", "nothing was sent");
    Ok(())
}

fn print_for_people(summary: &Summary, table: &Path) {
    let row = |what: &str, tally: &Tally| println!("{what:<10} {:>9} lines {:>20} cents", tally.lines, tally.cents);
    row("total", &summary.total);
    row("paid", &summary.paid);
    for (reason, tally) in &summary.refused {
        println!("{:<10} {:>9} lines {:>20} cents  {reason}", "refused", tally.lines, tally.cents);
    }
    row("undecided", &summary.undecided);
    println!("results of each line: {}", table.display());
    if summary.replayed_lines > 0 {
        eprintln!("{} lines were already paid, by an interrupted run or in another file", summary.replayed_lines);
    }
    if summary.undecided.lines > 0 {
        eprintln!("to continue, run the same command again: nobody is paid twice");
    }
}

fn exit_code(summary: &Summary) -> ExitCode {
    match (summary.undecided.lines, summary.refused.is_empty()) {
        (0, true) => ExitCode::SUCCESS,
        (0, false) => ExitCode::FAILURE,
        _ => ExitCode::from(UNFINISHED),
    }
}
