//! The labels of the metrics and their values. Each label has a closed list of values, so that every series exists from
//! the start.

use crate::ledger::{Cause, Delivery, Late, Proof, Refusal, SettledAs, Voider, closed_list};

/// A label: an enum whose variants are all its values.
pub trait Label: Copy + 'static {
    /// The name of the label.
    const NAME: &'static str;
    /// All values, in order.
    const ALL: &'static [Self];
    /// The value as Prometheus shows it.
    fn as_str(self) -> &'static str;
    /// The value's position in [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($($list:ident: $label:literal,)+) => { $(
        impl Label for $list {
            const NAME: &'static str = $label;
            const ALL: &'static [Self] = Self::ALL;

            fn as_str(self) -> &'static str {
                self.as_str()
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    )+ };
}

label! {
    Cause: "reason",
    Delivery: "result",
    Late: "outcome",
    Phase: "phase",
    Proof: "proof",
    Refusal: "reason",
    Role: "connection",
    Route: "route",
    SettledAs: "outcome",
    Status: "status",
    Trouble: "kind",
    Voider: "by",
}

closed_list! {
    /// The endpoints of an intake. `other`: any other path.
    Route {
        Create = "/payout/create",
        CreateBulk = "/payout/create/bulk",
        Reverse = "/payout/requests/{request_id}/reverse",
        Settle = "/payout/user/settle",
        Balance = "/balance",
        Business = "/business",
        PayoutUser = "/payout/user",
        Statement = "/payout/user/statement",
        Events = "/events",
        /// And all below it.
        Webhooks = "/webhooks",
        Requests = "/payout/requests",
        RequestById = "/payout/requests/{request_id}",
        Other = "other",
    }
}

closed_list! {
    /// The HTTP statuses of an intake's answers.
    Status {
        Ok = "200",
        BadRequest = "400",
        Unauthorized = "401",
        Forbidden = "403",
        NotFound = "404",
        MethodNotAllowed = "405",
        Timeout = "408",
        TooLarge = "413",
        MediaType = "415",
        Unprocessable = "422",
        TooMany = "429",
        Unexpected = "500",
        Unavailable = "503",
        Unknown = "504",
        Other = "other",
    }
}

impl From<u16> for Status {
    fn from(code: u16) -> Self {
        match code {
            200 => Self::Ok,
            400 => Self::BadRequest,
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::Timeout,
            413 => Self::TooLarge,
            415 => Self::MediaType,
            422 => Self::Unprocessable,
            429 => Self::TooMany,
            500 => Self::Unexpected,
            503 => Self::Unavailable,
            504 => Self::Unknown,
            _ => Self::Other,
        }
    }
}

closed_list! {
    /// The steps of settling a batch, whose durations are measured. A batch is settled at once or step by step.
    Phase {
        /// At once: the whole batch in one statement.
        AtOnce = "at_once",
        /// Step by step: opening the transaction, locking and reading businesses and keys.
        Lock = "lock",
        /// Step by step: writing all rows.
        Write = "write",
        /// Step by step: the commit.
        Commit = "commit",
        /// Sending the replies, and acknowledging the batch's messages.
        Reply = "reply",
    }
}

closed_list! {
    /// The kinds of errors of Postgres.
    Trouble {
        /// There is no connection.
        Away = "away",
        /// The server accepts no writes.
        ReadOnly = "read_only",
        /// The server's disk is full.
        Full = "full",
        /// It passes by itself, such as a deadlock or the crash of a server process.
        Transient = "transient",
        /// Waiting for a lock, or a statement, took too long.
        TooSlow = "too_slow",
        /// The server refuses the statement, whatever the data.
        Refused = "refused",
        /// The answer was lost, so it is unknown whether the statement took effect.
        Unknown = "unknown",
        /// The data cannot be stored.
        Data = "data",
        /// The stored data does not fit this program.
        Fatal = "fatal",
    }
}

closed_list! {
    /// The purposes of connections to the broker.
    Role {
        IntakeReplies = "intake_replies",
        IntakeRequests = "intake_requests",
        WorkerRequests = "worker_requests",
        WorkerReplies = "worker_replies",
        /// Publishes events to the exchange.
        RelayEvents = "relay_events",
        /// Polls the depth of queues.
        Watch = "watch",
        /// Used by commands and actions of operators.
        Command = "command",
    }
}
