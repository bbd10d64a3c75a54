//! What was decided on a request, and what its caller is told. Both lists are closed and in order of precedence: if two
//! values fit, the earlier one applies.

use super::{RaiseCount, RequestId, UserHash};

/// The decision on one request, as its row says it. Written once, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It never moved money, and never will.
    Voided,
    /// The business has payouts switched off.
    PayoutsDisabled,
    /// What should be reversed is no allocation and no settlement.
    NotReversible,
    /// Nothing is left of what should be reversed.
    NothingLeft,
    /// More than is left of what should be reversed, or than the business allows for one allocation.
    AmountTooLarge,
    /// The business's total for the day does not allow it.
    DailyLimitReached,
    /// The payout balance did not cover the amount.
    InsufficientBalance,
    /// The payout user's balance did not cover the amount.
    InsufficientUserBalance,
    /// The amount was given back to the payout user: the settlement did not take place.
    SettlementReversed,
    /// The amount was taken back from the payout user, to the payout balance.
    Reversed,
    /// The amount was taken out of the payout user's balance.
    Settled,
    /// The amount was debited from the business and credited to the payout user.
    Allocated,
}

impl Outcome {
    /// Every outcome, in order of precedence.
    pub const ALL: [Self; 12] = [
        Self::Voided,
        Self::PayoutsDisabled,
        Self::NotReversible,
        Self::NothingLeft,
        Self::AmountTooLarge,
        Self::DailyLimitReached,
        Self::InsufficientBalance,
        Self::InsufficientUserBalance,
        Self::SettlementReversed,
        Self::Reversed,
        Self::Settled,
        Self::Allocated,
    ];

    /// The name in the database, in messages and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Voided => "voided",
            Self::PayoutsDisabled => "payouts_disabled",
            Self::NotReversible => "not_reversible",
            Self::NothingLeft => "nothing_left",
            Self::AmountTooLarge => "amount_too_large",
            Self::DailyLimitReached => "daily_limit_reached",
            Self::InsufficientBalance => "insufficient_balance",
            Self::InsufficientUserBalance => "insufficient_user_balance",
            Self::SettlementReversed => "settlement_reversed",
            Self::Reversed => "reversed",
            Self::Settled => "settled",
            Self::Allocated => "allocated",
        }
    }

    /// The outcome with this name, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }

    /// Whether the request moved money.
    pub fn moves(self) -> bool {
        matches!(self, Self::Allocated | Self::Settled | Self::Reversed | Self::SettlementReversed)
    }
}

/// What the caller of one request is told beside the verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The payout user's hash, of an allocation.
    pub hash: Option<UserHash>,
    /// How much was moved, in cents, of a reversal.
    pub cents: Option<i64>,
    /// How much was left then, in cents, as `Entry::remaining` says.
    pub remaining: Option<i64>,
}

/// What the caller of one request is told. Wider than [`Outcome`]: a request that fails because of its idempotency key
/// is voided in its own row, and its caller is told about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An earlier request under the same key that asked for the same has succeeded. Its success is repeated.
    Replayed {
        /// The request that succeeded.
        original: RequestId,
    },
    /// An earlier request under the same key that asked for something else has succeeded.
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
