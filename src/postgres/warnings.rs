//! Hears the warnings that Postgres sends with an answer.
//!
//! A COMMIT waits for the synchronous standby. If somebody cancels that wait, Postgres answers as if the standby had confirmed,
//! and only a warning before the answer says that it may not have. sqlx does not return warnings. It hands them to `tracing`,
//! in the middle of reading the answer and in the same task. So a layer of `tracing` can note them for the work in hand.

use std::cell::Cell;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The name under which sqlx logs what a server sends beside its answers.
const TARGET: &str = "sqlx::postgres::notice";

tokio::task_local! {
    /// Whether a warning has come during the work of this task.
    static WARNED: Cell<bool>;
}

/// Does `work`, and says whether the server sent a warning meanwhile: any warning, as its text is in the server's language.
pub(super) async fn listen<T>(work: impl Future<Output = T>) -> (T, bool) {
    let listening = async {
        let done = work.await;
        (done, WARNED.with(Cell::get))
    };
    WARNED.scope(Cell::new(false), listening).await
}

/// The layer that notes warnings. The log must have it: without it, [`listen`] hears nothing.
#[derive(Debug)]
pub struct Ear;

impl Ear {
    /// The directive of a log filter that lets warnings through.
    pub fn directive() -> String {
        format!("{TARGET}=warn")
    }
}

impl<S: Subscriber> Layer<S> for Ear {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target() == TARGET && *metadata.level() <= Level::WARN {
            // Outside of `listen` nobody wants to know.
            let _ = WARNED.try_with(|warned| warned.set(true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[tokio::test]
    async fn a_warning_of_the_server_is_heard_by_the_work_that_it_came_to() {
        let _listening = tracing::subscriber::set_default(tracing_subscriber::registry().with(Ear));
        let warn = async || tracing::warn!(target: TARGET, "canceling wait for synchronous replication");
        assert_eq!(listen(async { 1 }).await, (1, false));
        assert!(listen(warn()).await.1);
        assert!(!listen(async {}).await.1, "each work begins without one");
        let others = async {
            tracing::info!(target: TARGET, "a notice");
            tracing::warn!("a warning of our own");
        };
        assert!(!listen(others).await.1);
        warn().await;
    }
}
