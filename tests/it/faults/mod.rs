//! Attempts to break the promise that a 500 never debits, neither at that moment nor later.
//!
//! [`site`] is a deployment in which every connection runs through a proxy of the tests. [`told`] holds what its
//! clients were told, and the rules that must hold (A1 to A8, L1). [`load`] has the clients. [`moments`] tries each
//! failpoint and each decisive message once. [`failover`] loses the primary of Postgres. [`campaign`] tries everything at once
//! from a seed.

mod campaign;
mod failover;
mod ghosts;
mod keys;
pub mod load;
mod moments;
mod resolve;
pub mod site;
pub mod told;
