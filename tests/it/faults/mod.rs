//! Attempts to break the promise that a 500 never debits, neither then nor later.
//!
//! [`site`] is a deployment whose every connection runs through a proxy of ours; [`told`] is what its clients were
//! told, and the rules that it must not break (A1 to A8, L1); [`load`] are the clients. [`moments`] tries each failpoint
//! and each decisive message once, [`campaign`] everything at once from a seed.

mod campaign;
mod ghosts;
mod keys;
mod load;
mod moments;
mod resolve;
pub mod site;
mod told;
