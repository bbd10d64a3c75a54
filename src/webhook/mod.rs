//! What intake and relay both have to know of webhooks: which endpoints are allowed ([`target`], [`address`]), and how
//! a delivery is named and signed ([`signing`]).

pub mod address;
pub mod signing;
pub mod target;

pub use signing::Signer;
pub use target::Target;
