//! Why something came out as it did: closed lists, for answers, logs and counts.

use super::{Outcome, Verdict};

/// Defines a closed list: an enum whose values have names, for programs to read.
macro_rules! closed_list {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$what])* $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name of the value.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The value of that name.
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
        /// Its row was there, and said voided: a worker, or a look-up, was first.
        Found = "found",
        /// Its row says voided, and its key's epoch was raised in the same transaction.
        KeyRaised = "key_raised",
        /// The row under its id is another request's, so that no worker can ever insert one for it.
        ForeignId = "foreign_id",
    }
}

closed_list! {
    /// Why a request was refused with 503, or for its API key's sake with 429: before anything was published, but for the
    /// last.
    Refusal {
        Draining = "draining",
        PostgresDown = "postgres_down",
        /// A read, or the look-up of an API key, that Postgres did not answer in time; nobody else is concerned.
        PostgresSlow = "postgres_slow",
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
        /// Its work ended by a panic before anything was published.
        Died = "died",
        /// It was published, and voided: a 500 was told under its key after it was received.
        Superseded = "superseded",
    }
}

closed_list! {
    /// What a request that its intake had given up on turned out to be, if not voided.
    Late {
        Allocated = "allocated",
        Replayed = "replayed",
        KeyReused = "key_reused",
        PayoutsDisabled = "payouts_disabled",
        InsufficientBalance = "insufficient_balance",
    }
}

closed_list! {
    /// Who voided a request.
    Voider {
        /// An intake that waited in vain.
        Intake = "intake",
        /// Somebody who asked what became of it, after its deadline.
        Lookup = "lookup",
        /// A worker that took it after its deadline.
        WorkerDeadline = "worker_deadline",
        /// A worker, because its key had moved on, or had an allocation already.
        WorkerKey = "worker_key",
        /// A worker that could not apply it at all.
        WorkerRejected = "worker_rejected",
    }
}

closed_list! {
    /// How a worker settled a request.
    SettledAs {
        Allocated = "allocated",
        InsufficientBalance = "insufficient_balance",
        PayoutsDisabled = "payouts_disabled",
        Voided = "voided",
        Replayed = "replayed",
        KeyReused = "key_reused",
        StaleEpoch = "stale_epoch",
        /// It can never be applied.
        Rejected = "rejected",
        /// It had been decided before it came: what its row says was told again.
        DecidedBefore = "decided_before",
    }
}

impl From<Verdict> for SettledAs {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Decided(Outcome::Allocated) => Self::Allocated,
            Verdict::Decided(Outcome::InsufficientBalance) => Self::InsufficientBalance,
            Verdict::Decided(Outcome::PayoutsDisabled) => Self::PayoutsDisabled,
            Verdict::Decided(Outcome::Voided) => Self::Voided,
            Verdict::Replayed { .. } => Self::Replayed,
            Verdict::KeyReused => Self::KeyReused,
            Verdict::StaleEpoch { .. } => Self::StaleEpoch,
        }
    }
}

impl SettledAs {
    /// Who voided the request, if that was what happened to its row.
    pub fn voider(self) -> Option<Voider> {
        match self {
            Self::Voided => Some(Voider::WorkerDeadline),
            Self::Replayed | Self::KeyReused | Self::StaleEpoch => Some(Voider::WorkerKey),
            Self::Allocated
            | Self::InsufficientBalance
            | Self::PayoutsDisabled
            | Self::Rejected
            | Self::DecidedBefore => None,
        }
    }
}
