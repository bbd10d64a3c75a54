//! How far a walk goes.

use crate::state::Asked;

/// The bounds of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Attempts under the key.
    pub keyed: usize,
    /// Attempts without a key.
    pub plain: usize,
    /// What the attempts ask for.
    pub asks: Asks,
    /// The payout balance at the start, in cents.
    pub balance: i8,
    /// How many cents the payout user was given before the start, by the one allocation that can be reversed.
    pub given: i8,
    /// How many cents may be paid in.
    pub deposits: u8,
    /// Most messages that a worker settles together: 1 or 2.
    pub batch: u8,
    /// Whether the answer to a worker's COMMIT may fail to come.
    pub doubts: bool,
    /// Whether somebody may ask what became of a request.
    pub look_ups: bool,
    /// How often another key may be raised.
    pub other_raises: u8,
    pub clients: Clients,
    pub promise: Promise,
    /// Record what happens, for the properties which say that something must happen.
    pub events: bool,
    pub states: States,
}

/// What attempts ask for: those under the key all the same, as anything else under it is refused with 422; and those without
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asks {
    pub keyed: Asked,
    pub plain: Asked,
}

/// What clients do. They vanish at any time, and no intake learns of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clients {
    /// They send whenever they like, also while another attempt is open: they hedge.
    Hedge,
    /// A client sends under a key only when its attempts before were answered, or it has left them.
    OneAtATime,
}

/// From when on no attempt under the key that was received before may be applied (A1k).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promise {
    /// From the commit of any raise of the key, and of any void by which somebody gives up on a keyed request, even if
    /// nobody is told. This is more than A1k asks for.
    AtEveryVoid,
    /// From the commit of the void that proves a 500.
    AtTheProof,
    /// From the moment at which a 500 is handed over. This is *not* kept if clients send while another attempt is open.
    AtTheAnswer,
}

/// Which states count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum States {
    /// States that behave alike count as one: see `reduce`.
    Reduced,
    /// The same, but attempts, intakes and workers keep their names, for steps that people can follow.
    Named,
    /// No two states. Epochs would then grow without end, so nobody raises a key that was raised `most_raises` times.
    AsTheyAre { most_raises: u8 },
}

impl Bounds {
    pub const fn new(keyed: usize, plain: usize, balance: i8) -> Self {
        Self {
            keyed,
            plain,
            asks: Asks { keyed: Asked::Allocate, plain: Asked::Allocate },
            balance,
            given: 0,
            deposits: 0,
            batch: 2,
            doubts: true,
            look_ups: true,
            other_raises: 0,
            clients: Clients::Hedge,
            promise: Promise::AtEveryVoid,
            events: false,
            states: States::Reduced,
        }
    }
}
