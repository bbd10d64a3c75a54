//! Formats numbers, times, money and states for people. Templates pass everything by reference.

use crate::clock;
use crate::ledger::{Cause, Disabled, Outcome, Proof, SettledAs, money};
use std::borrow::Borrow;
use time::OffsetDateTime;

/// Formats cents: `1,234.56` for 123,456.
pub(super) fn money(cents: &i64) -> String {
    money::write(*cents)
}

/// Formats a span of milliseconds: `12 s`, `3 min`, `5 h`, `2 days`.
pub(super) fn span(millis: i64) -> String {
    let seconds = millis.max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Formats how long ago a moment was, such as `3 min`.
pub(super) fn ago(at: &OffsetDateTime) -> String {
    span((clock::now_utc() - *at).whole_milliseconds().try_into().unwrap_or(i64::MAX))
}

/// Formats a moment: `2026-11-23 16:06:17 UTC`.
pub(super) fn moment(at: &OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!("{} {:02}:{:02}:{:02} UTC", at.date(), at.hour(), at.minute(), at.second())
}

/// A number of messages or consumers, with a dash for a queue that the broker does not have.
pub(super) fn depth(value: &Option<u32>) -> String {
    figure(&value.map(u64::from))
}

/// Formats a whole number with separators; a dash if it is unknown.
pub(super) fn figure(value: &Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), grouped)
}

/// Formats a rate: a whole number from ten on, one decimal below; a dash if it is unknown.
pub(super) fn rate(value: &Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if *value >= 10.0 || *value == 0.0 => grouped(value.round() as u64),
        Some(value) => format!("{value:.1}"),
    }
}

/// Formats seconds: `1.2 s`; a dash if unknown.
pub(super) fn seconds(value: &Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} s"))
}

/// Formats milliseconds: `1.2 ms`, `12 ms` or, from 1000 on, `1.2 s`; a dash if unknown.
pub(super) fn millis(value: &Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if *value >= 1000.0 => format!("{:.1} s", value / 1000.0),
        Some(value) if *value >= 10.0 => format!("{value:.0} ms"),
        Some(value) => format!("{value:.1} ms"),
    }
}

/// Formats a whole number with separators: `12,345`.
pub(super) fn grouped(value: impl Borrow<u64>) -> String {
    money::group(*value.borrow())
}

/// Why a message became a dead letter, in words. `name`: the cause's name.
pub(super) fn cause(name: &str) -> &str {
    match Cause::parse(name) {
        Some(Cause::Unreadable) => "cannot be read",
        Some(Cause::Unauthentic) => "is not signed by this deployment",
        Some(Cause::Rejected) => "cannot be stored",
        Some(Cause::WrongShard) => "came to the queue of another shard",
        Some(Cause::DeliveryLimit) => "came back too often",
        Some(Cause::Other) => "no known cause",
        None => name,
    }
}

/// What proves that nothing was debited for a 500, in words.
pub(super) fn proof(proof: Proof) -> &'static str {
    match proof {
        Proof::Inserted => "its row was inserted as voided",
        Proof::Found => "its row already said voided",
        Proof::KeyRaised => "voided, and its key's epoch raised",
        Proof::ForeignId => "its id belongs to another request",
    }
}

/// How a worker settled a request, in words.
pub(super) fn settled_as(how: SettledAs) -> &'static str {
    match how {
        SettledAs::Allocated => "Allocated",
        SettledAs::Reversed => "Reversed",
        SettledAs::SettlementReversed => "Settlement reversed",
        SettledAs::Settled => "Settled",
        SettledAs::InsufficientBalance => "Refused: balance",
        SettledAs::InsufficientUserBalance => "Refused: user's balance",
        SettledAs::DailyLimitReached => "Refused: daily limit",
        SettledAs::AmountTooLarge => "Refused: amount",
        SettledAs::NothingLeft => "Nothing left to reverse",
        SettledAs::NotReversible => "Refused: not reversible",
        SettledAs::PayoutsDisabled => "Refused: payouts off",
        SettledAs::Voided => "Voided: too late",
        SettledAs::Replayed => "Success repeated (key)",
        SettledAs::KeyReused => "Key used before",
        SettledAs::StaleEpoch => "Voided: key's epoch raised",
        SettledAs::Rejected => "Cannot be applied",
        SettledAs::DecidedBefore => "Decided before",
    }
}

/// What an outcome means for the money, in a sentence.
pub(super) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allocated => "The amount was debited and credited, once.",
        Outcome::Reversed => "The amount was taken back from the payout user, once.",
        Outcome::SettlementReversed => "The amount was given back to the payout user, once.",
        Outcome::Settled => "The amount was taken out of the payout user's balance, once: it was paid out elsewhere.",
        Outcome::Voided => "It never moved money, and never will.",
        Outcome::NotReversible => "It named no allocation and no settlement. It moved nothing, and never will.",
        Outcome::NothingLeft => "Nothing was left to reverse. It moved nothing, and never will.",
        Outcome::AmountTooLarge => "The amount was larger than allowed. It moved nothing, and never will.",
        Outcome::DailyLimitReached => "The daily limit did not allow it. It was not debited, and never will be.",
        Outcome::InsufficientUserBalance => {
            "The payout user's balance did not cover it. It moved nothing, and never will."
        }
        Outcome::InsufficientBalance => "The payout balance did not cover it. It was not debited, and never will be.",
        Outcome::PayoutsDisabled => "Payouts were switched off. It was not debited, and never will be.",
    }
}

/// The colour of a webhook's state.
pub(super) fn webhook_grade(state: &str) -> &'static str {
    match state {
        "sound" => "good",
        "failing" => "warn",
        _ => "bad",
    }
}

/// Why a webhook is disabled, in words.
pub(super) fn disabled(why: &Disabled) -> &'static str {
    match why {
        Disabled::Gone => "it answered 410",
        Disabled::Failing => "it failed for too long",
        Disabled::Platform => "its business asked for it",
        Disabled::Operator => "an operator did it",
    }
}

/// A state's name with spaces instead of underscores.
pub(super) fn state(name: &&str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_said_in_the_unit_that_people_would_choose() {
        let cases = [(0, "0 s"), (-5, "0 s"), (119_999, "119 s"), (120_000, "2 min"), (7_200_000, "2 h")];
        for (millis, text) in cases.into_iter().chain([(172_800_000, "2 days")]) {
            assert_eq!(span(millis), text);
        }
    }

    #[test]
    fn figures_are_grouped_and_what_is_not_known_is_a_dash() {
        assert_eq!([0, 12, 1_234, 1_234_567].map(grouped), ["0", "12", "1,234", "1,234,567"]);
        assert_eq!((figure(&None), rate(&None)), ("-".to_owned(), "-".to_owned()));
        assert_eq!([0.0, 0.25, 9.96, 1_234.5].map(|value| rate(&Some(value))), ["0", "0.2", "10.0", "1,235"]);
    }
}
