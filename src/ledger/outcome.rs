//! What was decided on a request, and what its caller is told. Both lists are closed and in order of precedence: if two
//! values fit, the earlier one applies.

use super::{RaiseCount, RequestId};

/// The decision on one request, as its row says it. Written once, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It never debited, and never will.
    Voided,
    /// The business has payouts switched off.
    PayoutsDisabled,
    /// The payout balance did not cover the amount.
    InsufficientBalance,
    /// The amount was debited from the business and credited to the payout user.
    Allocated,
}

impl Outcome {
    /// Every outcome, in order of precedence.
    pub const ALL: [Self; 4] = [Self::Voided, Self::PayoutsDisabled, Self::InsufficientBalance, Self::Allocated];

    /// The name in the database, in messages and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Voided => "voided",
            Self::PayoutsDisabled => "payouts_disabled",
            Self::InsufficientBalance => "insufficient_balance",
            Self::Allocated => "allocated",
        }
    }

    /// The outcome with this name, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// What the caller of one request is told. Wider than [`Outcome`]: a request that fails because of its idempotency key
/// is voided in its own row, and its caller is told about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An earlier request under the same key, with the same email and amount, was allocated. Its success is repeated.
    Replayed {
        /// The request that was allocated.
        original: RequestId,
    },
    /// An earlier request under the same key, with another email or amount, was allocated.
    KeyReused,
    /// The key is in another epoch (`current`) than the request claims. `raise` is the raise that brought it there.
    /// `None`: it was raised in the batch that decided this request, so after every request of the batch was received.
    StaleEpoch {
        /// The epoch that the key is in.
        current: i64,
        /// The raise that brought it there.
        raise: Option<RaiseCount>,
    },
    /// Decided on its own merits.
    Decided(Outcome),
}

impl Verdict {
    /// What the request's own row says.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Replayed { .. } | Self::KeyReused | Self::StaleEpoch { .. } => Outcome::Voided,
            Self::Decided(outcome) => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_found_by_its_own_name() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
        assert_eq!(Outcome::parse("pending"), None);
    }
}
