//! `earmark send`: pays, takes back or settles every line of a file.

use super::print_json;
use crate::config::parse_duration;
use crate::ledger::{Kind, money};
use crate::send::amounts::Written;
use crate::send::checked::{self, BadLines, Checked};
use crate::send::client::{Business, Client, Settings};
use crate::send::file::{File, Unusable};
use crate::send::progress::Progress;
use crate::send::repeats::{self, Likely};
use crate::send::results::Sums;
use crate::send::{self, Batch, identity, results, source};
use crate::shutdown;
use crate::wire::operator::Tally;
use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use std::collections::BTreeMap;
use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Exits with 0 if every line is done, with 1 if some lines are refused and the rest is done, with 2 if some lines are
/// undecided: then run the same command again. With --dry-run: with 1 if some lines would be refused.
#[derive(Args)]
pub struct Arguments {
    /// The file of payouts: CSV or an Excel workbook (.xlsx) with the columns email, amount and optionally reference, or
    /// JSON lines with these fields. A column kind says allocate (or nothing), reverse (with the request id in a column
    /// target, without an email, and without an amount for all that is left) or settle (with a reference). `-` reads the
    /// standard input, and needs --journal. A journal and a table of results are written next to the file
    file: PathBuf,
    /// How amounts are written: cents (1250 is 12.50), or decimal (1,250.00 or 1.250,00; which one is found out)
    #[arg(long, value_enum, default_value = "cents")]
    amounts: Amounts,
    /// Where the journal is, which knows what is done. The table of results is written next to it
    #[arg(long)]
    journal: Option<PathBuf>,
    /// The address of the service: https://host
    #[arg(long, env = "EARMARK_URL")]
    url: String,
    /// A secret API key of the business that pays. Set it as a variable: other users of the machine can see command
    /// lines
    #[arg(long, env = "EARMARK_API_KEY", hide_env_values = true)]
    api_key: String,
    /// Ask the service what it would answer to each line, and move no money. Each call of up to 1,000 lines is answered as
    /// if nobody else called; the sum of all is compared with the balance. The table is NAME.dry-run.csv
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// With --yes, also send what was likely done before
    #[arg(long)]
    allow_repeats: bool,
    /// How many lines are sent at the same time, in bulk calls of up to 1,000. 4,000 keep the service busy, which leaves
    /// half of its places to others. Of reversals and settlements at most 32 take the place of a bulk call
    #[arg(long, env = "EARMARK_SEND_CONCURRENCY", default_value = "4000", value_parser = clap::value_parser!(u16).range(1..=16_000))]
    concurrency: u16,
    /// How long an attempt may take before it is repeated. It must be longer than the service needs to find out what
    /// became of a bulk call: twice EARMARK_REPLY_TIMEOUT, and EARMARK_RESOLVE_TIMEOUT
    #[arg(long, env = "EARMARK_SEND_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print one line of JSON instead of text
    #[arg(long)]
    json: bool,
}

/// How amounts are written.
#[derive(Clone, Copy, ValueEnum)]
enum Amounts {
    /// Whole cents: 1250 is 12.50
    Cents,
    /// 1,250.00 or 1.250,00: found out from all amounts of the file
    Decimal,
    /// 1,250.00
    DecimalPoint,
    /// 1.250,00
    DecimalComma,
}

impl From<Amounts> for Written {
    fn from(amounts: Amounts) -> Self {
        match amounts {
            Amounts::Cents => Self::Cents,
            Amounts::Decimal => Self::Decimal,
            Amounts::DecimalPoint => Self::DecimalPoint,
            Amounts::DecimalComma => Self::DecimalComma,
        }
    }
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

/// What is sent, and where its journal is.
struct Place<'a> {
    /// What the file is called in messages.
    shown: String,
    /// The name that idempotency keys depend on.
    name: String,
    file: &'a Path,
    journal: PathBuf,
}

impl<'a> Place<'a> {
    fn of(arguments: &'a Arguments) -> anyhow::Result<Self> {
        let (file, journal) = (arguments.file.as_path(), arguments.journal.clone());
        if file == Path::new(source::STDIN) {
            let journal = journal.context("the standard input has no name: add --journal NAME.journal. Lines without a reference are known by that name")?;
            let name = identity::file_name(&journal);
            let name = name.strip_suffix(".journal").unwrap_or(&name).to_owned();
            return Ok(Self { shown: "the standard input".to_owned(), name, file, journal });
        }
        let name = identity::file_name(file);
        let journal = journal.unwrap_or_else(|| file.with_file_name(format!("{name}.journal")));
        Ok(Self { shown: file.display().to_string(), name, file, journal })
    }
}

async fn send(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let settings =
        Settings { url: arguments.url.clone(), api_key: arguments.api_key.clone(), timeout: arguments.timeout };
    let client = Client::new(&settings)?;
    let place = Place::of(arguments)?;
    let (file, checked) = read(&place, arguments.amounts.into())?;
    let open = if arguments.dry_run { Batch::of_dry_run } else { Batch::open };
    let mut batch = open(file, checked, place.name.clone(), &place.journal)?;
    let progress = Progress::of_sending(0);
    let business = send::business(&client, &progress).await.map_err(|why| anyhow!("{}: {why}", arguments.url))?;
    see_that_it_is_known(&batch, &client, &progress).await?;
    let before = results::sum_up(&batch);
    let undecided = count_undecided(&before);
    let (mut missing, mut stopped) = (0, None);
    if undecided > 0 {
        missing = show(&place, &batch, &before, &business, &arguments.url);
        let has_repeats = show_repeats(&batch, &client, &progress).await?;
        progress.finish();
        if !arguments.dry_run {
            consent(arguments, &before, &business, has_repeats)?;
        }
        let progress = if arguments.dry_run { Progress::of_trying } else { Progress::of_sending };
        let (stop, progress) = (shutdown::on_signal()?, progress(undecided));
        let sent = batch.send(&client, arguments.concurrency.into(), &progress, &stop).await;
        progress.finish();
        stopped = sent.err();
    }
    progress.finish();
    let (kinds, table) = (results::sum_up(&batch), results::path_of(&place.journal, batch.is_dry_run()));
    results::write(&batch, &table)?;
    let code = exit_code(&kinds, arguments.dry_run && missing > 0);
    print(arguments, &batch, kinds, &table)?;
    if let Some(error) = stopped {
        eprintln!("earmark: stopped: {error:#}");
    }
    Ok(code)
}

fn read(place: &Place<'_>, written: Written) -> anyhow::Result<(File, Checked)> {
    let shown = &place.shown;
    let file = match File::open(place.file, written)? {
        Ok(file) => file,
        Err(Unusable::BadLine(line)) => bail!("{shown}, {line}. Nothing was sent"),
        Err(Unusable::Amounts(wrong)) => bail!("{shown}: {wrong}. Nothing was sent"),
    };
    let progress = Progress::of_checking();
    let checked = checked::check(file.rows()?, &place.name, |rows| progress.advance(rows));
    progress.finish();
    let checked = match checked.with_context(|| format!("{shown} cannot be read"))? {
        Ok(checked) => checked,
        Err(BadLines { first, count }) => {
            for line in &first {
                eprintln!("{line}");
            }
            let more = count - first.len() as u64;
            let more = if more > 0 { format!(" ({} more are not shown)", money::group(more)) } else { String::new() };
            bail!("{shown} has {} bad lines{more}, and nothing was sent", money::group(count));
        }
    };
    ensure!(!checked.is_empty(), "{shown} has no lines to send");
    Ok((file, checked))
}

/// Checks that the service knows something of the journal that is done, for this API key. Otherwise the journal belongs
/// to another deployment or business, and what is done there is not done here.
async fn see_that_it_is_known(batch: &Batch, client: &Client, progress: &Progress) -> anyhow::Result<()> {
    let Some(receipt) = batch.any_receipt() else { return Ok(()) };
    let known = send::knows(client, receipt, progress).await;
    ensure!(
        known.map_err(|reason| anyhow!(reason))?,
        "the journal has lines that are done and that the service does not know for this key: use the URL and API key of \
         the earlier run; or rename the file, to send all of it here"
    );
    Ok(())
}

/// `5 lines, 12.50 (1,250 cents)`
fn sum(Tally { lines, cents }: &Tally) -> String {
    format!("{} lines, {} ({} cents)", money::group(*lines), money::write(*cents), money::group(cents.unsigned_abs()))
}

/// The undecided lines of a kind. Of a reversal without an amount nobody knows the sum before it is done.
fn sum_undecided(Sums { undecided, of_all_that_is_left, .. }: &Sums) -> String {
    match of_all_that_is_left {
        0 => sum(undecided),
        count => format!("{}, and all that is left with {} of them", sum(undecided), money::group(*count)),
    }
}

fn count_undecided(kinds: &BTreeMap<Kind, Sums>) -> u64 {
    kinds.values().map(|sums| sums.undecided.lines).sum()
}

/// Shows what is in the file, and who pays. Returns how many cents the payout balance lacks.
fn show(place: &Place<'_>, batch: &Batch, kinds: &BTreeMap<Kind, Sums>, business: &Business, url: &str) -> i128 {
    let file = batch.file();
    let total = |(kind, sums): (&Kind, &Sums)| format!("{}{}", prefix(*kind), sum(&sums.total));
    eprintln!("{}: {}", place.shown, kinds.iter().map(total).collect::<Vec<_>>().join("; "));
    if let Some(sheet) = file.sheet() {
        eprintln!("the sheet is {sheet}");
    }
    if !file.kept_names().is_empty() {
        eprintln!("columns that are only kept for the results: {}", file.kept_names().join(", "));
    }
    eprintln!("amounts are read so that {}", file.notation().example());
    for (kind, sums) in kinds.iter().filter(|(_, sums)| sums.done.lines > 0) {
        eprintln!("{} already: {}", done(*kind), sum(&sums.done));
    }
    eprintln!("{} pays, at {url}", plain(&business.name));
    let before = i128::from(business.payout_balance);
    let after = before - kinds.get(&Kind::Allocate).map_or(0, |sums| sums.undecided.cents);
    let without = if kinds.contains_key(&Kind::Reverse) { ", without what is taken back" } else { "" };
    if after < 0 {
        eprintln!(
            "payout balance: {}. {} are missing{without}: some lines will be refused",
            money::write(before),
            money::write(-after)
        );
    } else {
        eprintln!("payout balance: {} before, {} after{without}", money::write(before), money::write(after));
    }
    if !business.payouts_enabled {
        eprintln!("payouts of the business are switched off: all payouts will be refused");
    }
    (-after).max(0)
}

/// What stands before the sum of a kind.
fn prefix(kind: Kind) -> &'static str {
    match kind {
        Kind::Allocate => "",
        Kind::Reverse => "to take back ",
        Kind::Settle => "to settle ",
    }
}

/// What a line of this kind is when it is done.
fn done(kind: Kind) -> &'static str {
    match kind {
        Kind::Allocate => "paid",
        Kind::Reverse => "reversed",
        Kind::Settle => "settled",
    }
}

/// A text of the service without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Shows what would likely be done twice. Returns whether there is any.
async fn show_repeats(batch: &Batch, client: &Client, progress: &Progress) -> anyhow::Result<bool> {
    let twins = batch.checked().twins();
    if let Some((number, first)) = twins.first {
        eprintln!(
            "likely done twice: {} are the same as an earlier line, such as line {number} as line {first}",
            sum(&twins.tally)
        );
    }
    let repeats = repeats::find(batch, client, progress).await?;
    let show = |likely: &Likely, what: &str| {
        if let Some(number) = likely.first {
            eprintln!(
                "likely done twice: {} or more were {what} within the last days, such as line {number}",
                sum(&likely.tally)
            );
        }
    };
    show(&repeats.references, "done under their reference, but not from a file,");
    show(&repeats.payments, "paid to the same addresses with the same amounts");
    show(&repeats.reversals, "taken back from the same requests with the same amounts");
    Ok(twins.first.is_some() || !repeats.are_none())
}

fn consent(
    arguments: &Arguments,
    kinds: &BTreeMap<Kind, Sums>,
    business: &Business,
    has_repeats: bool,
) -> anyhow::Result<()> {
    if arguments.yes {
        let may_send = !has_repeats || arguments.allow_repeats;
        ensure!(may_send, "nothing was sent: add --allow-repeats if what is likely done twice is meant so");
        return Ok(());
    }
    let can_ask = stdin().is_terminal() && arguments.file != Path::new(source::STDIN);
    ensure!(can_ask, "stdin is no terminal, so nobody can be asked: add --yes to send without confirmation");
    let left = kinds.iter().filter(|(_, sums)| sums.undecided.lines > 0);
    let all: Vec<String> = left.map(|(kind, sums)| format!("{}{}", prefix(*kind), sum_undecided(sums))).collect();
    let anyway = if has_repeats { ", though some of it was likely done before" } else { "" };
    eprintln!("Send {} for {}{anyway}? Type yes:", all.join("; "), plain(&business.name));
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    ensure!(answer.trim() == "yes", "nothing was sent");
    Ok(())
}

fn print(arguments: &Arguments, batch: &Batch, kinds: BTreeMap<Kind, Sums>, table: &Path) -> anyhow::Result<()> {
    if arguments.json {
        return print_json(&results::summary(batch, kinds));
    }
    for (kind, sums) in &kinds {
        print_for_people(*kind, sums, batch.is_dry_run());
    }
    println!("results of each line: {}", table.display());
    if batch.replayed() > 0 {
        let lines = money::group(batch.replayed());
        let word = if kinds.len() == 1 && kinds.contains_key(&Kind::Allocate) { "paid" } else { "done" };
        eprintln!("{lines} lines were already {word}, by an interrupted run or in another file");
    }
    if batch.is_dry_run() {
        eprintln!("this was a dry run: no money moved");
    } else if count_undecided(&kinds) > 0 {
        eprintln!("to continue, run the same command again: nobody is paid twice");
    }
    Ok(())
}

fn print_for_people(kind: Kind, sums: &Sums, is_dry_run: bool) {
    let row = |what: &str, Tally { lines, cents }: &Tally, reason: &str| {
        let (lines, amount) = (money::group(*lines), money::write(*cents));
        let row = format!(
            "{what:<10} {lines:>9} lines {amount:>20} ({} cents)  {reason}",
            money::group(cents.unsigned_abs())
        );
        println!("{}", row.trim_end());
    };
    row("total", &sums.total, prefix(kind).trim_end());
    row(done(kind), &sums.done, "");
    if is_dry_run {
        row("possible", &sums.possible, "");
    }
    for (reason, tally) in &sums.refused {
        row("refused", tally, &plain(reason));
    }
    row("undecided", &sums.undecided, "");
}

/// `is_short`: a dry run has found that the balance does not cover all.
fn exit_code(kinds: &BTreeMap<Kind, Sums>, is_short: bool) -> ExitCode {
    match (count_undecided(kinds), kinds.values().all(|sums| sums.refused.is_empty()) && !is_short) {
        (0, true) => ExitCode::SUCCESS,
        (0, false) => ExitCode::FAILURE,
        _ => ExitCode::from(UNFINISHED),
    }
}
