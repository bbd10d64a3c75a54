//! Dead letters: why a message became one, and what a replay would do with its requests.

use super::{Millis, Outcome, closed_list};

closed_list! {
    /// Why a message became a dead letter.
    Cause {
        /// A worker could not read it.
        Unreadable = "unreadable",
        /// It was not signed with a key that the worker knows: whoever sent it is nobody who may move money.
        Unauthentic = "unauthentic",
        /// A worker could read it, and the ledger could not store it.
        Rejected = "rejected",
        /// It came to the queue of another shard than its own.
        WrongShard = "wrong_shard",
        /// It came back too often, usually because it ends every worker that takes it.
        DeliveryLimit = "delivery_limit",
        /// The broker had another reason, or somebody put it there by hand.
        Other = "other",
    }
}

/// What a replay does for one request of a dead letter. It cannot do harm: if the request has a row, the row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReplay {
    /// Allocated before. Nothing moves, its reply is repeated.
    StaysAllocated,
    /// Voided before. It never debits.
    StaysVoided,
    /// Refused before. It never debits.
    StaysRefused,
    /// Undecided, and its deadline has passed.
    WillBeVoided,
    /// Undecided, and in time.
    WillBeDecided,
    /// Another request has its id, so no worker can apply it.
    ComesBack,
    /// It is not authentic, so it is not replayed.
    Never,
}

impl OnReplay {
    /// Every value, in order.
    pub const ALL: [Self; 7] = [
        Self::StaysAllocated,
        Self::StaysVoided,
        Self::StaysRefused,
        Self::WillBeVoided,
        Self::WillBeDecided,
        Self::ComesBack,
        Self::Never,
    ];

    /// What a replay would do now. `decided`: the outcome in the request's row, if it has one. `now` and `deadline`: by
    /// the same clock.
    pub fn predict(decided: Option<Outcome>, deadline: Millis, now: Millis) -> Self {
        match decided {
            Some(Outcome::Voided) => Self::StaysVoided,
            Some(outcome) if outcome.moves() => Self::StaysAllocated,
            Some(_) => Self::StaysRefused,
            None if now > deadline => Self::WillBeVoided,
            None => Self::WillBeDecided,
        }
    }

    /// The name for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StaysAllocated => "stays_allocated",
            Self::StaysVoided => "stays_voided",
            Self::StaysRefused => "stays_refused",
            Self::WillBeVoided => "will_be_voided",
            Self::WillBeDecided => "will_be_decided",
            Self::ComesBack => "comes_back",
            Self::Never => "never",
        }
    }

    /// The explanation for people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::StaysAllocated => "allocated before: nothing moves again, its reply is repeated",
            Self::StaysVoided => "voided before: it stays voided, no funds move",
            Self::StaysRefused => "refused before: it stays refused, no funds move",
            Self::WillBeVoided => "undecided and past its deadline: it will be voided, no funds move",
            Self::WillBeDecided => "undecided and in time: it will be decided on its merits, and may debit",
            Self::ComesBack => "its id belongs to another request: it comes back as a dead letter",
            Self::Never => "its message is not authentic: it is never replayed, no funds move",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_never_changes_what_was_decided_and_voids_what_is_late() {
        let (early, late) = (5, 15);
        for now in [early, late] {
            assert_eq!(OnReplay::predict(Some(Outcome::Allocated), 10, now), OnReplay::StaysAllocated);
            assert_eq!(OnReplay::predict(Some(Outcome::Voided), 10, now), OnReplay::StaysVoided);
            assert_eq!(OnReplay::predict(Some(Outcome::PayoutsDisabled), 10, now), OnReplay::StaysRefused);
            assert_eq!(OnReplay::predict(Some(Outcome::InsufficientBalance), 10, now), OnReplay::StaysRefused);
            assert_eq!(OnReplay::predict(Some(Outcome::Reversed), 10, now), OnReplay::StaysAllocated);
        }
        assert_eq!(OnReplay::predict(None, 10, early), OnReplay::WillBeDecided);
        assert_eq!(OnReplay::predict(None, 10, 10), OnReplay::WillBeDecided);
        assert_eq!(OnReplay::predict(None, 10, late), OnReplay::WillBeVoided);
    }

    #[test]
    fn every_cause_is_found_by_its_own_name() {
        for &cause in Cause::ALL {
            assert_eq!(Cause::parse(cause.as_str()), Some(cause));
        }
        assert_eq!(Cause::parse("bad luck"), None);
    }
}
