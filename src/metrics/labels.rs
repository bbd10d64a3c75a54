//! The labels of the metrics. Each is a closed list, so that every series is there from the start.

use crate::ledger::{Cause, Late, Proof, Refusal, SettledAs, Voider, closed_list};

/// A closed list of values of one label.
pub trait Label: Copy + 'static {
    /// The label.
    const NAME: &'static str;
    const ALL: &'static [Self];
    fn as_str(self) -> &'static str;
    /// Its place in [`Label::ALL`].
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
    /// The endpoints of an intake.
    Route {
        Create = "/payout/create",
        CreateBulk = "/payout/create/bulk",
        Balance = "/balance",
        PayoutUser = "/payout/user",
        Requests = "/payout/requests",
        RequestById = "/payout/requests/{request_id}",
        Other = "other",
    }
}

closed_list! {
    /// The statuses that an intake answers with.
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
    /// The parts of settling a batch that take time.
    Phase {
        /// Everything in one statement.
        AtOnce = "at_once",
        /// Step by step: the transaction opened, businesses and keys locked and read.
        Lock = "lock",
        /// Step by step: everything written.
        Write = "write",
        /// Step by step: committed.
        Commit = "commit",
        /// Replies sent, and the batch acknowledged.
        Reply = "reply",
    }
}

closed_list! {
    /// What Postgres answers to what it does not do.
    Trouble {
        /// There is no connection.
        Away = "away",
        ReadOnly = "read_only",
        /// Its disk is full.
        Full = "full",
        /// A deadlock, a crash of a part of it, and what else passes by itself.
        Transient = "transient",
        /// It gave up on a lock or a statement.
        TooSlow = "too_slow",
        /// It does not do this, whatever the data.
        Refused = "refused",
        /// The answer was lost.
        Unknown = "unknown",
        /// The data cannot be stored.
        Data = "data",
        /// What is stored does not fit this program.
        Fatal = "fatal",
    }
}

closed_list! {
    /// What a connection to the broker is for.
    Role {
        IntakeReplies = "intake_replies",
        IntakeRequests = "intake_requests",
        WorkerRequests = "worker_requests",
        WorkerReplies = "worker_replies",
        /// Looks at the depth of queues.
        Watch = "watch",
        /// Does what a person has asked for.
        Command = "command",
    }
}
