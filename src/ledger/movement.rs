//! What a request asks for: one of the three ways in which money moves.

use super::{Amount, Email, RequestId};

/// The kind of a movement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// From the business's payout balance to a payout user.
    Allocate,
    /// Back from where an earlier movement took it.
    Reverse,
    /// Out of a payout user's balance: it was paid out elsewhere.
    Settle,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Allocate, Self::Reverse, Self::Settle];

    /// The name in the database, in messages and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allocate => "allocate",
            Self::Reverse => "reverse",
            Self::Settle => "settle",
        }
    }

    /// The kind with this name, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What a request asks for, with every parameter that has an influence on the decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Movement {
    /// `amount` from the payout balance to the payout user `email`.
    Allocate {
        /// The payout user.
        email: Email,
        /// How much.
        amount: Amount,
    },
    /// Takes an allocation or a settlement back.
    Reverse {
        /// The request that moved the money.
        target: RequestId,
        /// How much; `None` for all that is left of it.
        amount: Option<Amount>,
    },
    /// `amount` out of the balance of the payout user `email`.
    Settle {
        /// The payout user.
        email: Email,
        /// How much.
        amount: Amount,
    },
}

impl Movement {
    /// The movement with these parts; `None` if the kind needs another part, or has no place for one.
    pub fn of(kind: Kind, email: Option<Email>, amount: Option<Amount>, target: Option<RequestId>) -> Option<Self> {
        match (kind, email, amount, target) {
            (Kind::Allocate, Some(email), Some(amount), None) => Some(Self::Allocate { email, amount }),
            (Kind::Settle, Some(email), Some(amount), None) => Some(Self::Settle { email, amount }),
            (Kind::Reverse, None, amount, Some(target)) => Some(Self::Reverse { target, amount }),
            _ => None,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Allocate { .. } => Kind::Allocate,
            Self::Reverse { .. } => Kind::Reverse,
            Self::Settle { .. } => Kind::Settle,
        }
    }

    /// The payout user, if the request names one. A reversal names what it reverses instead.
    pub fn email(&self) -> Option<&Email> {
        match self {
            Self::Allocate { email, .. } | Self::Settle { email, .. } => Some(email),
            Self::Reverse { .. } => None,
        }
    }

    /// The amount, if the request names one.
    pub fn amount(&self) -> Option<Amount> {
        match self {
            Self::Allocate { amount, .. } | Self::Settle { amount, .. } => Some(*amount),
            Self::Reverse { amount, .. } => *amount,
        }
    }

    /// What a reversal reverses.
    pub fn target(&self) -> Option<RequestId> {
        match self {
            Self::Reverse { target, .. } => Some(*target),
            Self::Allocate { .. } | Self::Settle { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_movement_is_made_of_its_parts_and_of_no_others() {
        let email = || Some(Email::parse("ann@example.com").unwrap());
        let (amount, target) = (Amount::from_cents(5).ok(), Some(RequestId::from_u128(7)));
        let reversals = [amount, None].map(|amount| Movement::Reverse { target: RequestId::from_u128(7), amount });
        let of_a_user = [Kind::Allocate, Kind::Settle].map(|kind| Movement::of(kind, email(), amount, None).unwrap());
        for movement in reversals.into_iter().chain(of_a_user) {
            let parts = (movement.email().cloned(), movement.amount(), movement.target());
            assert_eq!(Movement::of(movement.kind(), parts.0, parts.1, parts.2), Some(movement));
        }
        for kind in [Kind::Allocate, Kind::Settle] {
            assert_eq!(Movement::of(kind, None, amount, None), None);
            assert_eq!(Movement::of(kind, email(), None, None), None);
            assert_eq!(Movement::of(kind, email(), amount, target), None);
        }
        assert_eq!(Movement::of(Kind::Reverse, email(), amount, target), None);
        assert_eq!(Movement::of(Kind::Reverse, None, amount, None), None);
    }

    #[test]
    fn every_kind_is_found_by_its_own_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("deposit"), None);
    }
}
