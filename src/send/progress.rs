//! Shows the progress of `earmark send`: a bar on a terminal; without a terminal, warnings in the log.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The least time between two warnings in the log, in a run without a terminal.
const REMINDER: Duration = Duration::from_secs(30);

/// The progress of one run.
pub struct Progress {
    bar: ProgressBar,
    warned: Mutex<Option<Instant>>,
}

impl Progress {
    /// Starts the bar on stderr, if that is a terminal. `lines`: how many will be sent.
    pub fn new(lines: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(lines), ProgressDrawTarget::stderr());
        let style = "{wide_bar} {pos}/{len} lines, {per_sec}, {eta} left {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, warned: Mutex::default() }
    }

    /// Adds lines that are done.
    pub fn advance(&self, lines: usize) {
        self.bar.set_message("");
        self.bar.inc(lines as u64);
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
