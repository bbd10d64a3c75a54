//! All serialised formats: [`messages`] in the queues, [`signing`] their signatures, [`answers`] over HTTP, [`operator`] output of commands with
//! `--json`, and [`state`], which each process writes about itself into Postgres.

pub mod answers;
pub mod messages;
pub mod operator;
pub mod signing;
pub mod state;

use serde::Serialize;

/// Serialises a value as JSON. It cannot fail for the types of these modules: they contain only text and numbers.
pub fn to_json<T: Serialize>(shape: &T) -> Vec<u8> {
    serde_json::to_vec(shape).unwrap_or_default()
}

/// Adds to a JSON object, which must not be empty, that it answers a dry run.
pub fn of_a_dry_run(mut object: Vec<u8>) -> Vec<u8> {
    object.pop();
    object.extend_from_slice(br#","dry_run":true}"#);
    object
}
