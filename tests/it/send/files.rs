//! The files that people have: whatever separates, encodes and names them.

use super::Payer;
use crate::harness::App;
use crate::harness::process::{Process, Run};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

/// A workbook: a hidden sheet, then a sheet with shared and inline texts, formulas, a date, and columns that are kept.
const WORKBOOK: &[u8] = include_bytes!("../corpus/payouts.xlsx");

async fn paid(app: &App) -> Vec<(String, i64)> {
    let rows = "SELECT email, balance FROM payout_users ORDER BY email";
    sqlx::query_as(rows).fetch_all(&mut app.database().await).await.expect("balances")
}

#[tokio::test]
async fn files_of_every_kind_are_paid_and_their_other_columns_are_kept() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000_000_000), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    let european = "sep=;\r\nKonto;EMAIL;Amount;Note;\r\n1;ann@example.com;\"1.250,00\";\"two\r\nlines; quoted\";\r\n2;bob@example.com;3,50;;\r\n;;;;\r\n";
    let utf16: Vec<u8> = format!("\u{feff}{european}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(payer.path("european.csv"), utf16).expect("written");
    fs::write(payer.path("payouts.xlsx"), WORKBOOK).expect("written");
    payer.write("american.txt", "email\tamount\ncarl@example.com\t\"1,250.00\"\n");
    for file in ["european.csv", "payouts.xlsx", "american.txt"] {
        let run = payer.run(file, &["--yes", "--json", "--amounts", "decimal"]).await;
        assert_eq!(run.code(), 0, "{file}: {}", run.stderr());
    }
    let expected = [("ann", 125_000), ("bob", 350), ("carl", 125_000), ("dora", 30), ("emil", 250_000)];
    let expected: Vec<_> = expected.iter().map(|(name, cents)| (format!("{name}@example.com"), *cents)).collect();
    assert_eq!(paid(&app).await, expected);
    let rows = payer.results("european.results.csv");
    let columns = |row: usize| ["line", "cents", "status", "Konto", "Note"].map(|name| rows[row][name].as_str());
    assert_eq!(columns(0), ["3", "125000", "paid", "1", "two\r\nlines; quoted"]);
    assert_eq!(columns(1), ["5", "350", "paid", "2", ""]);
    let rows = payer.results("payouts.results.csv");
    let columns =
        |row: usize| ["line", "email", "cents", "reference", "Due", "Name"].map(|name| rows[row][name].as_str());
    assert_eq!(columns(0), ["4", "dora@example.com", "30", "1017", "2025-10-13", "Dora"]);
    assert_eq!(columns(1), ["6", "emil@example.com", "250000", "", "", "Émil"]);
    app.finish([process]).await;
}

#[tokio::test]
async fn every_separator_encoding_and_line_end_is_found_out() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    let little = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let big = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
    // Each encoding with two separators and both line ends. The unit tests have all combinations.
    for at in 0..12 {
        let (separator, line_end) = ([",", ";", "\t"][at % 3], ["\n", "\r\n"][at / 6]);
        let rows = [["Nöte", "REFERENCE", "eMail", "Amount"], ["é", "r-1", "ann@example.com", "5"]];
        let text: String = rows.iter().map(|row| row.join(separator) + line_end).collect();
        let marked = format!("\u{feff}{text}");
        let bytes = match (at + at / 6) % 6 {
            0 => text.into_bytes(),
            1 => marked.into_bytes(),
            2 => little(&text),
            3 => little(&marked),
            4 => big(&text),
            _ => big(&marked),
        };
        fs::write(payer.path(&format!("{at}.csv")), bytes).expect("written");
        let summary = payer.send(&format!("{at}.csv")).await;
        // The reference is the same in all of them.
        let replayed = json!(u64::from(at > 0));
        assert_eq!((&summary["paid"]["lines"], &summary["replayed_lines"]), (&json!(1), &replayed), "{at}");
        assert_eq!(payer.results(&format!("{at}.results.csv"))[0]["Nöte"], "é", "{at}");
    }
    assert_eq!(paid(&app).await, [("ann@example.com".to_owned(), 5)]);
    app.finish([process]).await;
}

#[tokio::test]
async fn amounts_that_could_be_meant_in_two_ways_are_shown_and_not_sent() {
    let payer = Payer::new("http://127.0.0.1:1", "sk_live_x");
    payer.write("payouts.csv", "email;amount\nann@example.com;1,250\nbob@example.com;7\n");
    let run = payer.run("payouts.csv", &["--yes", "--amounts", "decimal"]).await;
    let expected = "1,250 in line 2 is 1,250.00 with a decimal point, and 1.25 with a decimal comma";
    assert!(run.code() == 2 && run.stderr().contains(expected), "{}", run.stderr());
    for (arguments, expected) in [
        (
            &["--yes"] as &[&str],
            "line 2: the amount is not a whole number of cents: write 1250 for 12.50, or add --amounts decimal",
        ),
        (&["--yes", "--amounts", "decimal-comma"], "line 2: the amount has more than two decimals"),
        (&["--yes", "--amounts", "decimal-point"], "Connection refused"),
    ] {
        let run = payer.run("payouts.csv", arguments).await;
        assert!(run.code() == 2 && run.stderr().contains(expected), "{}", run.stderr());
    }
}

#[tokio::test]
async fn of_many_bad_lines_the_first_are_named() {
    let payer = Payer::new("http://127.0.0.1:1", "sk_live_x");
    let lines: String = (0..5_000).map(|at| format!("user{at}@example.com,0012\n")).collect();
    payer.write("payouts.csv", &format!("email,amount\n{lines}"));
    let run = payer.run("payouts.csv", &["--yes"]).await;
    let said = run.stderr();
    assert_eq!((run.code(), said.lines().count()), (2, 21), "{said}");
    assert!(said.contains("line 21: the amount begins with a zero") && !said.contains("line 22"), "{said}");
    assert!(said.contains("has 5,000 bad lines (4,980 more are not shown), and nothing was sent"), "{said}");
}

#[tokio::test]
async fn the_standard_input_is_known_by_the_name_of_its_journal() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    payer.write("november.csv", "email,amount\nann@example.com,5\n");
    let piped = |arguments: &str| {
        let call = format!(
            "'{}' send - {arguments} < '{}'",
            env!("CARGO_BIN_EXE_earmark"),
            payer.path("november.csv").display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &format!("cat | {call}")]).envs(payer.environment()).current_dir(&payer.folder);
        command.stdin(Stdio::null()).output().expect("it runs")
    };
    let run = piped("--yes");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.code() == Some(2) && said.contains("add --journal NAME.journal"), "{said}");
    let run = piped("--journal journals/november.csv.journal");
    assert_eq!(run.status.code(), Some(2), "there is no such folder");
    fs::create_dir(payer.path("journals")).expect("a folder");
    let run = piped("--journal journals/november.csv.journal");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.code() == Some(2) && said.contains("nobody can be asked"), "{said}");
    for _ in 0..2 {
        let run = piped("--yes --journal journals/november.csv.journal");
        assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    }
    assert_eq!(payer.results("journals/november.results.csv")[0]["status"], "paid");
    // The same name is the same payment, wherever the journal is and however the file comes.
    let summary = payer.send("november.csv").await;
    assert_eq!((&summary["paid"]["lines"], &summary["replayed_lines"]), (&json!(1), &json!(1)));
    assert_eq!(paid(&app).await, [("ann@example.com".to_owned(), 5)]);
    app.finish([process]).await;
}

/// Writes a file of a million lines, to `path`.
fn write_a_million(path: &std::path::Path) {
    let mut file = std::io::BufWriter::new(fs::File::create(path).expect("a file"));
    file.write_all(b"email,amount,note\n").expect("written");
    for at in 0..1_000_000 {
        writeln!(file, "user{at}@example.com,{},note {at}", at % 97 + 1).expect("written");
    }
    file.flush().expect("written");
}

#[tokio::test]
#[ignore = "takes some minutes, and a program that is built for speed: `make big-send`"]
async fn a_million_lines_are_paid_within_a_minute_in_little_memory() {
    let app = App::new().await;
    let (business, process) = (app.create_business(1_000_000_000_000), app.start("serve").await);
    let payer = Payer::for_business(&business, &process.url());
    write_a_million(&payer.path("payouts.csv"));
    let start = tokio::time::Instant::now();
    let mut run: Process = payer.start("payouts.csv", &["--json"]);
    let mut peak = 0;
    let status = format!("/proc/{}/status", run.id());
    while run.has_ended().is_none() {
        let shown = fs::read_to_string(&status).unwrap_or_default();
        let highest =
            shown.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(highest.unwrap_or(0_u64));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let took = start.elapsed();
    println!("{:.1} s, {:.0} lines/s, {} MiB", took.as_secs_f64(), 1e6 / took.as_secs_f64(), peak / 1024);
    for line in run.log() {
        println!("{line}");
    }
    assert_eq!(run.ended().await.code(), Some(0));
    assert_eq!(app.count("allocated").await, 1_000_000);
    assert!(run.log().iter().any(|line| line.to_string().contains("sending: ")), "it shows how far it is");
    // Again: all of it is in the journal.
    let again = tokio::time::Instant::now();
    let run: Run = payer.run("payouts.csv", &["--yes", "--json"]).await;
    println!("again: {:.1} s: {}", again.elapsed().as_secs_f64(), run.stdout());
    assert_eq!(run.json()["paid"]["lines"], 1_000_000);
    assert!(took.as_secs() < 60 && peak < 150 * 1024, "{took:?}, {peak} KiB");
    app.finish([process]).await;
}
