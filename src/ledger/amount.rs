//! An amount of money: whole cents, never a fraction, never a float.

/// What one allocation moves, in cents: 1 to 100,000,000 ($1,000,000.00).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

/// Why a number is not an [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmountError {
    /// Below [`Amount::MIN_CENTS`].
    BelowMinimum,
    /// Above [`Amount::MAX_CENTS`].
    AboveMaximum,
}

impl Amount {
    /// The smallest amount, in cents.
    pub const MIN_CENTS: i64 = 1;
    /// The largest amount, in cents.
    pub const MAX_CENTS: i64 = 100_000_000;

    /// Checks a number of cents.
    pub fn from_cents(cents: i64) -> Result<Self, AmountError> {
        match cents {
            ..Self::MIN_CENTS => Err(AmountError::BelowMinimum),
            Self::MIN_CENTS..=Self::MAX_CENTS => Ok(Self(cents)),
            _ => Err(AmountError::AboveMaximum),
        }
    }

    /// The amount in cents.
    pub fn cents(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_between_one_cent_and_a_million_dollars() {
        assert_eq!(Amount::from_cents(0), Err(AmountError::BelowMinimum));
        assert_eq!(Amount::from_cents(i64::MIN), Err(AmountError::BelowMinimum));
        assert_eq!(Amount::from_cents(1).unwrap().cents(), 1);
        assert_eq!(Amount::from_cents(100_000_000).unwrap().cents(), 100_000_000);
        assert_eq!(Amount::from_cents(100_000_001), Err(AmountError::AboveMaximum));
        assert_eq!(Amount::from_cents(i64::MAX), Err(AmountError::AboveMaximum));
    }
}
