//! The signals that stop a process: the first SIGTERM or SIGINT asks for an orderly stop, the second ends the process
//! at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns a token that the first signal cancels. Fails if the signals cannot be listened for.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        stopping.cancel();
        signals.next().await;
        tracing::warn!("second signal: stopped at once");
        // 128 + SIGINT, what a shell reports for a program that was interrupted.
        std::process::exit(130);
    });
    Ok(stop)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}
