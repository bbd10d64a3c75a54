//! Whether something was published for an HTTP request, as values: the right to publish once, the proof that nothing was
//! published, and what was published last.

use super::session::Session;
use crate::ledger::{Refusal, Request};
use crate::trace;
use std::sync::{Arc, Mutex, PoisonError};

/// The proof that nothing was handed to the publisher for an HTTP request, and nothing ever will be.
#[derive(Debug)]
pub struct NeverPublished(Refusal);

impl NeverPublished {
    pub fn why(&self) -> Refusal {
        self.0
    }
}

/// The right to publish for one HTTP request. Whoever gives it up instead gets the proof that nothing was published.
#[derive(Debug)]
pub struct Unpublished(Trail);

/// What was published last for one HTTP request, for the one who finds that its work has died.
#[derive(Clone, Debug, Default)]
pub struct Trail(Arc<Mutex<Option<Request>>>);

impl Unpublished {
    /// One for each HTTP request, made where its work is started.
    pub fn for_one_request() -> (Self, Trail) {
        let trail = Trail::default();
        (Self(trail.clone()), trail)
    }

    pub fn never(self, why: Refusal) -> NeverPublished {
        NeverPublished(why)
    }

    /// Ends the state of being unpublished, at the call of publish and not a moment later.
    pub fn publish(self, session: &Session, request: &Request, trace: Option<trace::Context>) -> Published {
        let published = Published(self.0);
        published.publish_again(session, request, trace);
        published
    }
}

/// Something was published for an HTTP request.
pub struct Published(Trail);

impl Published {
    /// Publishes anew, once the attempt before is dead.
    pub fn publish_again(&self, session: &Session, request: &Request, trace: Option<trace::Context>) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.clone());
        session.publish(request, trace);
    }
}

impl Trail {
    /// The id of what was published last, for the log.
    pub fn published(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|request| request.id.to_string())
    }

    /// What must be resolved after the work has died; the proof if nothing was published. The work must be gone.
    pub fn after_death(&self) -> Result<NeverPublished, Box<Request>> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(request) => Err(Box::new(request)),
            None => Ok(NeverPublished(Refusal::Died)),
        }
    }
}
