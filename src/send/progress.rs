//! Shows the progress of `earmark send`: a bar on a terminal, else a line now and then.

use crate::ledger::money::group;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long it takes without a terminal until the first line, and how long from each line to the next.
const FIRST: Duration = Duration::from_secs(1);
const NEXT: Duration = Duration::from_secs(10);
/// The least time between two warnings in the log, in a run without a terminal.
const REMINDER: Duration = Duration::from_secs(30);

/// What the bar shows if it is known how many lines there are.
const BAR: &str = "{wide_bar} {count}/{total} lines, {rate}/s, {eta} left {msg}";

/// The progress of a part of a run.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    next_line: Mutex<Instant>,
    warned: Mutex<Option<Instant>>,
}

impl Progress {
    /// Starts to check a file, of which it is not known how many lines it has.
    pub fn of_checking() -> Self {
        Self::new("checking", None, "{msg} {count} lines, {rate}/s")
    }

    /// Starts to send so many lines.
    pub fn of_sending(lines: u64) -> Self {
        Self::new("sending", Some(lines), BAR)
    }

    /// Starts a dry run of so many lines.
    pub fn of_trying(lines: u64) -> Self {
        Self::new("trying", Some(lines), BAR)
    }

    /// The bar is on stderr, if that is a terminal.
    fn new(what: &'static str, lines: Option<u64>, style: &str) -> Self {
        let bar = ProgressBar::with_draw_target(lines, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(style) {
            let style = style
                .with_key("count", |state: &ProgressState, text: &mut dyn Write| {
                    let _ = text.write_str(&group(state.pos()));
                })
                .with_key("total", |state: &ProgressState, text: &mut dyn Write| {
                    let _ = text.write_str(&group(state.len().unwrap_or(0)));
                })
                .with_key("rate", |state: &ProgressState, text: &mut dyn Write| {
                    let _ = text.write_str(&group(state.per_sec() as u64));
                });
            bar.set_style(style);
        }
        if lines.is_none() {
            bar.set_message(what);
        }
        Self { bar, what, next_line: Mutex::new(Instant::now() + FIRST), warned: Mutex::default() }
    }

    /// Adds lines that are done.
    pub fn advance(&self, lines: u64) {
        if self.bar.length().is_some() {
            self.bar.set_message("");
        }
        self.bar.inc(lines);
        let Ok(mut next) = self.next_line.lock() else { return };
        if self.bar.is_hidden() && Instant::now() >= *next {
            *next = Instant::now() + NEXT;
            let of = self.bar.length().map(|total| format!(" of {}", group(total))).unwrap_or_default();
            eprintln!("{}: {}{of} lines", self.what, group(self.bar.position()));
        }
    }

    /// Shows why an attempt has to be repeated.
    pub fn trouble(&self, why: &str) {
        self.bar.set_message(format!("(trying again: {why})"));
        let Ok(mut warned) = self.warned.lock() else { return };
        if self.bar.is_hidden() && warned.is_none_or(|last| last.elapsed() >= REMINDER) {
            *warned = Some(Instant::now());
            tracing::warn!(why, "attempt failed, trying again");
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
