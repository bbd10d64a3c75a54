//! Every serialised shape: [`messages`] go through the queues, [`answers`] are told over HTTP, [`operator`] is what commands
//! print with `--json`, [`state`] what processes say of themselves.

pub mod answers;
pub mod messages;
pub mod operator;
pub mod state;

use serde::Serialize;

/// Serialises a shape of these modules. They hold text and numbers only, which JSON always can.
pub fn to_json<T: Serialize>(shape: &T) -> Vec<u8> {
    serde_json::to_vec(shape).unwrap_or_default()
}
