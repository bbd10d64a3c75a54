//! Closed lists of reasons, for answers, logs and metrics: why a request was refused, and by what and how it was voided
//! or settled.

use super::{Outcome, Verdict};

/// Defines a closed list: an enum whose values have names, for programs to read.
macro_rules! closed_list {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$what])* #[doc = concat!("`", $text, "`.")] $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name of the value.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The value with this name, if there is one.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == name)
            }
        }
    };
}
pub(crate) use closed_list;

closed_list! {
    /// What proves that a request which is answered with 500 never debits.
    Proof {
        /// Its row was inserted as voided by the intake that gave up on it.
        Inserted = "inserted",
        /// Its row was there already and says voided: a worker or a look-up was first.
        Found = "found",
        /// Its row says voided, and its key's epoch was raised in the same transaction.
        KeyRaised = "key_raised",
        /// The row under its id is another request's, so no worker can ever insert one for it.
        ForeignId = "foreign_id",
    }
}

closed_list! {
    /// Why a request was refused with 503, or with 429 because of its API key's limits. All but the last happen before
    /// anything is published.
    Refusal {
        Draining = "draining",
        PostgresDown = "postgres_down",
        /// Postgres did not answer a read, or the look-up of an API key, in time. No other request is affected.
        PostgresSlow = "postgres_slow",
        /// The shard of the business takes no requests: `earmark shards close`.
        ShardClosed = "shard_closed",
        RabbitDown = "rabbitmq_down",
        /// A memory or disk alarm of the broker, or a connection that was just lost.
        RabbitBlocked = "rabbitmq_blocked",
        TooManyInFlight = "too_many_in_flight",
        /// Beyond EARMARK_MAX_BULK_CALLS.
        TooManyBulkCalls = "too_many_bulk_calls",
        /// 429: beyond EARMARK_RATE_LIMIT.
        KeyRate = "key_rate",
        /// 429: beyond EARMARK_MAX_IN_FLIGHT_PER_KEY.
        KeyInFlight = "key_in_flight",
        /// 429: beyond EARMARK_MAX_READS_PER_KEY.
        KeyReads = "key_reads",
        /// Its work panicked before anything was published.
        Died = "died",
        /// It was published, and then voided: after it was received, another request under its key was answered with
        /// 500.
        Superseded = "superseded",
    }
}

closed_list! {
    /// The outcome of a request for whose reply its intake had stopped waiting, if it was not voided.
    Late {
        Allocated = "allocated",
        Replayed = "replayed",
        KeyReused = "key_reused",
        Reversed = "reversed",
        Settled = "settled",
        PayoutsDisabled = "payouts_disabled",
        InsufficientBalance = "insufficient_balance",
        /// Any other refusal.
        Refused = "refused",
    }
}

impl From<Verdict> for Late {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Replayed { .. } => Self::Replayed,
            Verdict::KeyReused => Self::KeyReused,
            Verdict::Decided(Outcome::Allocated) => Self::Allocated,
            Verdict::Decided(Outcome::Reversed | Outcome::SettlementReversed) => Self::Reversed,
            Verdict::Decided(Outcome::Settled) => Self::Settled,
            Verdict::Decided(Outcome::PayoutsDisabled) => Self::PayoutsDisabled,
            Verdict::Decided(Outcome::InsufficientBalance) => Self::InsufficientBalance,
            Verdict::Decided(_) | Verdict::StaleEpoch { .. } => Self::Refused,
        }
    }
}

closed_list! {
    /// Who voided a request.
    Voider {
        /// An intake that no longer waited for the reply.
        Intake = "intake",
        /// A look-up of the request after its deadline.
        Lookup = "lookup",
        /// A worker that took it after its deadline.
        WorkerDeadline = "worker_deadline",
        /// A worker, because its key was in another epoch, or had an allocation already.
        WorkerKey = "worker_key",
        /// A worker that could not apply it at all.
        WorkerRejected = "worker_rejected",
    }
}

closed_list! {
    /// How a worker settled a request.
    SettledAs {
        Allocated = "allocated",
        Reversed = "reversed",
        SettlementReversed = "settlement_reversed",
        Settled = "settled",
        InsufficientBalance = "insufficient_balance",
        InsufficientUserBalance = "insufficient_user_balance",
        DailyLimitReached = "daily_limit_reached",
        AmountTooLarge = "amount_too_large",
        NothingLeft = "nothing_left",
        NotReversible = "not_reversible",
        PayoutsDisabled = "payouts_disabled",
        Voided = "voided",
        Replayed = "replayed",
        KeyReused = "key_reused",
        StaleEpoch = "stale_epoch",
        /// It can never be applied.
        Rejected = "rejected",
        /// It had been decided before it arrived. What its row says was repeated.
        DecidedBefore = "decided_before",
    }
}

impl From<Outcome> for SettledAs {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allocated => Self::Allocated,
            Outcome::Reversed => Self::Reversed,
            Outcome::SettlementReversed => Self::SettlementReversed,
            Outcome::Settled => Self::Settled,
            Outcome::InsufficientBalance => Self::InsufficientBalance,
            Outcome::InsufficientUserBalance => Self::InsufficientUserBalance,
            Outcome::DailyLimitReached => Self::DailyLimitReached,
            Outcome::AmountTooLarge => Self::AmountTooLarge,
            Outcome::NothingLeft => Self::NothingLeft,
            Outcome::NotReversible => Self::NotReversible,
            Outcome::PayoutsDisabled => Self::PayoutsDisabled,
            Outcome::Voided => Self::Voided,
        }
    }
}

impl From<Verdict> for SettledAs {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Decided(outcome) => outcome.into(),
            Verdict::Replayed { .. } => Self::Replayed,
            Verdict::KeyReused => Self::KeyReused,
            Verdict::StaleEpoch { .. } => Self::StaleEpoch,
        }
    }
}

impl SettledAs {
    /// Who voided the request, if it was voided by being settled.
    pub fn voider(self) -> Option<Voider> {
        match self {
            Self::Voided => Some(Voider::WorkerDeadline),
            Self::Replayed | Self::KeyReused | Self::StaleEpoch => Some(Voider::WorkerKey),
            _ => None,
        }
    }
}
