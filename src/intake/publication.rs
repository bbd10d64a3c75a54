//! Says in values whether something was published for an HTTP request, or for one item of a bulk call: the right to
//! publish once, the proof that nothing was published, and what was published last.

use super::session::BrokerSession;
use crate::ledger::{Refusal, Request};
use crate::trace;
use std::sync::{Arc, Mutex, PoisonError};

/// The proof that nothing was handed to the publisher for an HTTP request, and nothing ever will be.
#[derive(Debug)]
pub struct NeverPublished(Refusal);

impl NeverPublished {
    /// Why the request was refused.
    pub fn why(&self) -> Refusal {
        self.0
    }
}

/// The right to publish for one HTTP request. Giving it up instead, with [`Self::never`], gives the proof that nothing
/// was published.
#[derive(Debug)]
pub struct Unpublished(Trail);

/// What was published last for one HTTP request. It outlives the request's work, and says after a panic what has to be
/// resolved.
#[derive(Clone, Debug, Default)]
pub struct Trail(Arc<Mutex<Option<Request>>>);

impl Unpublished {
    /// To be called once for each HTTP request or item of a bulk call, where its work is started.
    pub fn for_one_request() -> (Self, Trail) {
        let trail = Trail::default();
        (Self(trail.clone()), trail)
    }

    /// Gives up the right to publish, for this reason.
    pub fn never(self, why: Refusal) -> NeverPublished {
        NeverPublished(why)
    }

    /// Publishes a request. From the moment of this call on, nothing proves that nothing was published.
    pub fn publish(self, session: &BrokerSession, request: &Request, trace: Option<trace::Context>) -> Published {
        let published = Published(self.0);
        published.publish_again(session, request, trace);
        published
    }
}

/// Something was published for an HTTP request.
pub struct Published(Trail);

impl Published {
    /// Publishes another attempt. The attempt before must be voided.
    pub fn publish_again(&self, session: &BrokerSession, request: &Request, trace: Option<trace::Context>) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.clone());
        session.publish(request, trace);
    }
}

impl Trail {
    /// The id of the request that was published last, for the log.
    pub fn published(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|request| request.id.to_string())
    }

    /// After the work has died and is gone: the proof, if nothing was published; else the request that has to be
    /// resolved.
    pub fn after_death(&self) -> Result<NeverPublished, Box<Request>> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(request) => Err(Box::new(request)),
            None => Ok(NeverPublished(Refusal::Died)),
        }
    }
}
