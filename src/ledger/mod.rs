//! The pure core: what may be asked, what can be decided, and the function that decides.
//!
//! Nothing here waits, reads a clock, logs, or knows that a database or a queue exists. It uses `std`, and in `spelling`
//! Unicode's tables, so that a decision can be tested with a table, and read without knowing where its inputs come from.
//!
//! Reading order: [`amount`], [`email`], [`reference`](mod@reference), [`ids`] (values that cannot be wrong), [`request`],
//! [`outcome`], [`mod@decide`], [`letters`].

pub mod amount;
pub mod decide;
pub mod email;
pub mod ids;
pub mod letters;
pub mod outcome;
pub mod reference;
pub mod request;
mod spelling;

pub use amount::Amount;
pub use decide::{Account, Accounts, Credit, Decision, KeyChange, KeyState, Keys, decide};
pub use email::Email;
pub use ids::{BusinessId, IdempotencyKey, RequestId, UserHash};
pub use letters::{Cause, OnReplay};
pub use outcome::{Outcome, Verdict};
pub use reference::Reference;
pub use request::{KeyClaim, Millis, RaiseCount, Receipt, Request, list_ids};
