//! Runs work that goes on in a detached task when its caller is gone, so that it never stops half-way.

use futures_util::{FutureExt, TryFutureExt};
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Work that runs while its caller awaits it, and goes on in a task of its own if the caller is dropped, because the
/// client's connection is lost. It costs a task only then.
///
/// The work never learns that its caller is gone, and must not depend on it: a client can vanish unnoticed in many
/// ways.
pub(super) struct Detached<T: 'static> {
    /// `None` once it has ended.
    work: Option<Work<T>>,
}

type Work<T> = Pin<Box<dyn Future<Output = Result<T, Died>> + Send>>;

/// The work panicked, with this text.
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub(super) struct Died(String);

impl Died {
    /// Takes the text of a panic.
    pub(super) fn new(panic: Box<dyn Any + Send>) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        Self(text.or_else(|| panic.downcast_ref().cloned()).unwrap_or_default())
    }
}

impl<T> Detached<T> {
    /// `tracker` counts the work until it has ended.
    pub(super) fn new(tracker: &TaskTracker, work: impl Future<Output = T> + Send + 'static) -> Self {
        let work = AssertUnwindSafe(work).catch_unwind().map_err(Died::new);
        Self { work: Some(Box::pin(tracker.track_future(work))) }
    }
}

impl<T> Future for Detached<T> {
    type Output = Result<T, Died>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Self::Output> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let result = ready!(work.as_mut().poll(context));
        self.work = None;
        Poll::Ready(result)
    }
}

impl<T> Drop for Detached<T> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            // The result is dropped. What the work did is in the ledger.
            runtime.spawn(work.map(drop));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn work_goes_on_after_its_caller_is_gone() {
        let tracker = TaskTracker::new();
        let (tell, told) = oneshot::channel();
        let mut work = Detached::new(&tracker, async {
            tokio::task::yield_now().await;
            tell.send(()).unwrap();
        });
        assert!((&mut work).now_or_never().is_none());
        assert_eq!(tracker.len(), 1);
        drop(work);
        told.await.expect("it went on");
        tracker.close();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn a_panic_is_a_result_and_the_work_has_ended_then() {
        let tracker = TaskTracker::new();
        let mut work = Detached::new(&tracker, async {
            tokio::task::yield_now().await;
            panic!("at {}", 5);
        });
        let died: Result<(), Died> = (&mut work).await;
        assert_eq!(died.unwrap_err().to_string(), "panicked: at 5");
        assert!(tracker.is_empty());
    }
}
