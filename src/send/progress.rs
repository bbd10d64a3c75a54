//! What a person sees meanwhile: a bar on a terminal, warnings in a log.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often the log of a run without a terminal repeats that it is waiting for better times.
const REMINDER: Duration = Duration::from_secs(30);

pub struct Progress {
    bar: ProgressBar,
    warned: Mutex<Option<Instant>>,
}

impl Progress {
    /// Shown on stderr, if that is a terminal. `lines`: how many are to be sent.
    pub fn new(lines: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(lines), ProgressDrawTarget::stderr());
        let style = "{wide_bar} {pos}/{len} lines, {per_sec}, {eta} left {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, warned: Mutex::default() }
    }

    /// So many lines more have been dealt with.
    pub fn advance(&self, lines: usize) {
        self.bar.set_message("");
        self.bar.inc(lines as u64);
    }

    /// Something has to be tried again.
    pub fn trouble(&self, why: &str) {
        self.bar.set_message(format!("(trying again: {why})"));
        let Ok(mut warned) = self.warned.lock() else { return };
        if self.bar.is_hidden() && warned.is_none_or(|last| last.elapsed() >= REMINDER) {
            *warned = Some(Instant::now());
            tracing::warn!(why, "trying again");
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
