//! The pure core: what may be asked, what can be decided, and the function that decides.
//!
//! Nothing here waits, reads a clock, logs, or knows that a database or a queue exists. It uses only `std`, and in
//! `spelling` Unicode's tables. So a decision can be tested with a table of cases, and read without knowing where its
//! inputs come from.
//!
//! Reading order: [`amount`], [`email`], [`reference`](mod@reference), [`ids`] (values that are checked when they are
//! made), [`mod@money`], [`movement`], [`request`], [`outcome`], [`reasons`], [`mod@decide`], [`dead_letters`], [`shards`],
//! [`webhooks`].

pub mod amount;
pub mod dead_letters;
pub mod decide;
pub mod email;
pub mod ids;
pub mod money;
pub mod movement;
pub mod outcome;
pub mod reasons;
pub mod reference;
pub mod request;
pub mod shards;
mod spelling;
pub mod webhooks;

pub use amount::Amount;
pub use dead_letters::{Cause, OnReplay};
pub use decide::{
    Account, Accounts, Books, Caps, Credit, DayTotal, Decision, Entry, KeyChange, KeyState, Keys, Moment, Moved,
    Success, Target, Targets, Users, decide,
};
pub use email::Email;
pub use ids::{BusinessId, IdempotencyKey, KeyScope, RequestId, ShardId, UserHash};
pub use movement::{Kind, Movement};
pub use outcome::{Outcome, Told, Verdict};
pub(crate) use reasons::closed_list;
pub use reasons::{Late, Proof, Refusal, SettledAs, Voider};
pub use reference::Reference;
pub use request::{KeyClaim, Millis, RaiseCount, Receipt, Request, list_ids};
pub use shards::{Shard, ShardState};
pub use webhooks::{Delivery, Disabled};
