//! Keeps the requests that wait for a reply, and passes the replies to them.

use crate::ledger::RequestId;
use crate::metrics::METRICS;
use crate::wire::messages::Reply;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// What may reach a waiter. If the connection is lost, nothing does.
#[derive(Debug)]
pub enum Event {
    /// The outcome has come.
    Reply(Reply),
    /// The broker returned or refused the message. It may have been delivered all the same.
    Trouble,
}

/// All waiters of one session with the broker.
#[derive(Debug, Default)]
pub struct Waiters {
    /// By request id. `None` once the connection is lost.
    waiting: Mutex<Option<HashMap<u128, oneshot::Sender<Event>>>>,
    /// Notified after each message of replies.
    replied: Notify,
}

impl Waiters {
    /// Nobody waits yet.
    pub fn new() -> Self {
        Self { waiting: Mutex::new(Some(HashMap::new())), replied: Notify::new() }
    }

    /// Registers a waiter. To be called before the request is published, so that no reply can come too early.
    pub fn register(self: &Arc<Self>, id: RequestId) -> Waiter {
        let (sender, receiver) = oneshot::channel();
        if let Some(waiting) = self.lock().as_mut() {
            waiting.insert(id.as_u128(), sender);
        }
        Waiter { id, receiver, waiters: Arc::clone(self) }
    }

    /// Passes the event to the request with this id, if it still waits.
    pub fn wake(&self, id: u128, event: Event) {
        let waiter = self.lock().as_mut().and_then(|waiting| waiting.remove(&id));
        match waiter {
            Some(waiter) => drop(waiter.send(event)),
            None => {
                METRICS.replies_without_waiter.inc();
                tracing::debug!(request_id = %RequestId::from_u128(id), "reply without a waiter");
            }
        }
    }

    /// Passes these replies to the requests that wait for them.
    pub fn deliver(&self, replies: Vec<Reply>) {
        for reply in replies {
            self.wake(reply.id.as_u128(), Event::Reply(reply));
        }
        self.replied.notify_waiters();
    }

    /// Returns once no waiter has this id. Looks at once, and again after each message of replies.
    pub async fn answered(&self, id: u128) {
        loop {
            let replied = self.replied.notified();
            if !self.lock().as_ref().is_some_and(|waiting| waiting.contains_key(&id)) {
                return;
            }
            replied.await;
        }
    }

    /// The request that has waited longest: ids rise with time.
    pub fn oldest(&self) -> Option<RequestId> {
        self.lock().as_ref()?.keys().min().copied().map(RequestId::from_u128)
    }

    /// Wakes all waiters because the connection is lost, and all that register from now on.
    pub fn fail_all(&self) {
        self.lock().take();
    }

    /// A guard that wakes all waiters when it is dropped, by a panic too. The task that delivers replies holds it:
    /// without that task no waiter would be woken.
    pub fn fail_when_dropped(self: &Arc<Self>) -> FailGuard {
        FailGuard(Arc::clone(self))
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u128, oneshot::Sender<Event>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls [`Waiters::fail_all`] when it is dropped.
#[derive(Debug)]
pub struct FailGuard(Arc<Waiters>);

impl Drop for FailGuard {
    fn drop(&mut self) {
        self.0.fail_all();
    }
}

/// One request's registration, removed when it is dropped.
#[derive(Debug)]
pub struct Waiter {
    id: RequestId,
    receiver: oneshot::Receiver<Event>,
    waiters: Arc<Waiters>,
}

impl Waiter {
    /// Waits for the first event; `None` if the connection is lost.
    pub async fn wait(&mut self) -> Option<Event> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiters.lock().as_mut() {
            waiting.remove(&self.id.as_u128());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_connection_wakes_all_who_wait_and_all_who_come_later() {
        let waiters = Arc::new(Waiters::new());
        let mut early = waiters.register(RequestId::from_u128(1));
        waiters.fail_all();
        let mut late = waiters.register(RequestId::from_u128(2));
        assert!(early.wait().await.is_none());
        assert!(late.wait().await.is_none());
    }

    #[tokio::test]
    async fn a_waiter_that_is_gone_leaves_nothing_behind() {
        let waiters = Arc::new(Waiters::new());
        drop(waiters.register(RequestId::from_u128(1)));
        assert!(waiters.lock().as_ref().unwrap().is_empty());
        waiters.wake(1, Event::Trouble);
    }
}
