//! What clients were told, and what must be true of it.
//!
//! **What a 500 under a key covers.** It covers everything under the key that was *received* before the 500 was *decided*:
//! none of it has debited or ever will, no matter who still waits for it (A1k). From outside, each moment is known only
//! within a limit, and the rules use what is certain:
//!
//! - An attempt was received once its client has read `100 Continue`: the intake says that when its handler asks for the
//!   body, so it has had the head by then. An attempt without it may never have been received, or late: its bytes can wait
//!   in a kernel, in a proxy, behind another request, or in front of a frozen intake. Nobody can tell such a latecomer from
//!   a retry, so the 500 does not cover it.
//! - A 500 was decided no earlier than its request was sent, and no earlier than `decided_at` of its request's row. That
//!   is the start of the transaction that raised the key, or of an earlier one that had voided the row. The moment at which
//!   the client *read* the 500 is of no use: between the decision and that moment, another attempt can be received and
//!   rightly be applied.
//!
//! Attempts that no 500 covers are judged by their own answers. A 200 is the attempt that was applied, unless it is
//! replayed. Any other answer denies its own attempt. Without an answer, or after a 504, the attempt may have been
//! applied.

use crate::harness::raw::Vanishing;
use serde::Serialize;
use std::collections::HashMap;

/// One HTTP attempt, as its client saw it. Times are milliseconds by the clock of this machine, as in the ledger.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Attempt {
    /// The intake's address.
    pub intake: String,
    pub sent: i64,
    /// When its intake had certainly received it.
    pub received: Option<i64>,
    pub ended: i64,
    /// How the client vanished, if it did not wait for the answer.
    pub vanished: Option<Vanishing>,
    /// None: no answer (a broken connection, or the client vanished).
    pub status: Option<u16>,
    pub debited: Option<String>,
    pub request_id: Option<String>,
    pub replayed: bool,
}

impl Attempt {
    /// Whether its own answer allows that this attempt was applied.
    fn may_have_debited(&self) -> bool {
        match self.status {
            None | Some(504) => true,
            Some(200) => !self.replayed,
            Some(_) => false,
        }
    }

    /// Whether it was certainly received before `moment`.
    fn is_before(&self, moment: Option<i64>) -> bool {
        matches!((self.received, moment), (Some(received), Some(moment)) if received < moment)
    }
}

/// One operation of a client. It has its own payout user, whose balance shows how often it was applied.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Operation {
    pub email: String,
    pub amount: i64,
    pub key: Option<String>,
    /// The attempts in the order in which they were planned. Some run at the same time. Without a key there is one.
    pub attempts: Vec<Attempt>,
}

impl Operation {
    /// The last 500 under the key covers what was certainly received before this moment.
    fn denied_at(&self, ledger: &Ledger) -> Option<i64> {
        let denials = self.attempts.iter().filter(|attempt| attempt.status == Some(500));
        denials.map(|attempt| ledger.decided(attempt).unwrap_or(attempt.sent).max(attempt.sent)).max()
    }

    /// Whether a client vanished unnoticed, and somebody was then told that its attempt never debits.
    pub fn has_ghost(&self, ledger: &Ledger) -> bool {
        let denied_at = self.denied_at(ledger);
        let is_unseen = |how| Vanishing::UNSEEN.contains(&how);
        self.attempts.iter().any(|attempt| attempt.vanished.is_some_and(is_unseen) && attempt.is_before(denied_at))
    }

    /// What is wrong with this operation.
    fn violations(&self, ledger: &Ledger) -> Vec<&'static str> {
        let balance = ledger.balance(&self.email);
        let denied_at = self.denied_at(ledger);
        let paid_at =
            self.attempts.iter().filter(|attempt| attempt.status == Some(200)).map(|attempt| attempt.ended).min();
        let broken = |attempt: &Attempt| {
            let expected = match attempt.status {
                None => return false,
                Some(200) => "yes",
                Some(504) => "unknown",
                Some(_) => "no",
            };
            attempt.debited.as_deref() != Some(expected)
        };
        let may_have_debited = |attempt: &Attempt| attempt.may_have_debited() && !attempt.is_before(denied_at);
        let is_paid_and_denied =
            |attempt: &Attempt| attempt.status == Some(200) && !attempt.replayed && attempt.is_before(denied_at);
        let rules = [
            ("A3: applied more than once", ![0, self.amount].contains(&balance)),
            ("A4: a 200 without its debit", paid_at.is_some() && balance != self.amount),
            ("A1, A1k: no funds were debited, it said", balance != 0 && !self.attempts.iter().any(may_have_debited)),
            ("A1k: a 200 for what was received before a 500 of its key", self.attempts.iter().any(is_paid_and_denied)),
            ("A1k: a 500 after the 200 of its key", paid_at.is_some_and(|paid_at| Some(paid_at) < denied_at)),
            ("Earmark-Debited does not fit the status", self.attempts.iter().any(broken)),
            ("a status that this client cannot cause", self.attempts.iter().any(is_foreign)),
        ];
        rules.into_iter().filter_map(|(rule, broken)| broken.then_some(rule)).collect()
    }
}

fn is_foreign(attempt: &Attempt) -> bool {
    attempt.status.is_some_and(|status| ![200, 400, 500, 503, 504].contains(&status))
}

/// A decided request, by its row.
#[derive(Clone, Debug)]
pub struct Row {
    pub email: Option<String>,
    pub outcome: String,
    /// In milliseconds.
    pub decided_at: i64,
}

/// What the ledger says.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The balance of every payout user.
    pub balances: HashMap<String, i64>,
    /// The decided requests by their ids.
    pub rows: HashMap<String, Row>,
}

impl Ledger {
    pub fn balance(&self, email: &str) -> i64 {
        self.balances.get(email).copied().unwrap_or(0)
    }

    fn decided(&self, attempt: &Attempt) -> Option<i64> {
        Some(self.rows.get(attempt.request_id.as_ref()?)?.decided_at)
    }
}

/// Describes everything that is wrong. Empty if the promise was kept.
pub fn violations(operations: &[Operation], ledger: &Ledger) -> Vec<String> {
    let mut found = vec![];
    for operation in operations {
        for rule in operation.violations(ledger) {
            found.push(format!("{rule}: balance {}, {operation:?}", ledger.balance(&operation.email)));
        }
    }
    let known: HashMap<&str, ()> = operations.iter().map(|operation| (operation.email.as_str(), ())).collect();
    for (email, balance) in ledger.balances.iter().filter(|(email, _)| !known.contains_key(email.as_str())) {
        found.push(format!("A2: {email} has {balance}, and nobody asked for it"));
    }
    found
}

/// How often each status was answered.
pub fn statuses(operations: &[Operation]) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for attempt in operations.iter().flat_map(|operation| &operation.attempts) {
        let name = attempt.status.map_or("none".to_owned(), |status| status.to_string());
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attempt in a test: when it was sent, when it was received if that is known, and what it was told when. Status
    /// 201 stands for a replayed 200. The row of an attempt that is told 500 was decided half a second before that.
    #[derive(Clone, Copy)]
    struct Told(i64, Option<i64>, Option<(u16, i64)>);

    fn is_broken(story: &[Told], balance: i64) -> bool {
        let mut ledger =
            Ledger { balances: HashMap::from([("ann@example.com".to_owned(), balance)]), ..Ledger::default() };
        let mut operation = Operation { email: "ann@example.com".to_owned(), amount: 5, ..Operation::default() };
        for (number, &Told(sent, received, told)) in story.iter().enumerate() {
            let (status, ended) = told.unzip();
            let debited = status.map(|status| match status {
                200 | 201 => "yes",
                504 => "unknown",
                _ => "no",
            });
            if let Some((500, ended)) = told {
                let row = Row { email: None, outcome: "voided".to_owned(), decided_at: ended - 500 };
                ledger.rows.insert(number.to_string(), row);
            }
            operation.attempts.push(Attempt {
                sent,
                received,
                ended: ended.unwrap_or(i64::MAX),
                status: status.map(|status| if status == 201 { 200 } else { status }),
                replayed: status == Some(201),
                debited: debited.map(str::to_owned),
                request_id: Some(number.to_string()),
                ..Attempt::default()
            });
        }
        !violations(&[operation], &ledger).is_empty()
    }

    #[test]
    fn an_attempt_alone_is_judged_by_its_own_answer() {
        let kept = [(0, 0), (0, 5), (200, 5), (400, 0), (500, 0), (503, 0), (504, 0), (504, 5)];
        let broken = [(0, 3), (0, 10), (200, 0), (200, 10), (201, 5), (400, 5), (500, 5), (502, 0), (503, 5)];
        for (cases, expected) in [(&kept[..], false), (&broken[..], true)] {
            for &(status, balance) in cases {
                // 0 stands for "no answer".
                let told = (status != 0).then_some((status, 2_000));
                assert_eq!(is_broken(&[Told(0, Some(1), told)], balance), expected, "{status} {balance}");
            }
        }
    }

    #[test]
    fn a_500_speaks_for_all_that_was_surely_received_before_it_was_decided() {
        let (ghost, latecomer) = (Told(0, Some(10), None), Told(0, None, None));
        let denied = Told(1_000, Some(1_010), Some((500, 3_000)));
        let (refused, unknown) = (Some((503, 3_000)), Some((504, 3_000)));
        for (kept, balance) in [
            (vec![ghost, denied], 0),
            // It may have been received after the 500.
            (vec![latecomer, denied], 5),
            // A 503 covers its own attempt alone.
            (vec![ghost, Told(1_000, Some(1_010), refused)], 5),
            (vec![ghost, denied, Told(3_500, Some(3_510), Some((200, 3_600)))], 5),
            (vec![ghost, denied, Told(3_500, None, None)], 5),
            (vec![ghost, denied, Told(3_500, Some(3_510), unknown)], 5),
            // The second attempt is received between the decision and the answer.
            (vec![denied, Told(2_600, Some(2_610), Some((200, 2_700)))], 5),
        ] {
            assert!(!is_broken(&kept, balance));
        }
        for (broken, balance) in [
            (vec![ghost, denied], 5),
            (vec![denied, ghost], 5),
            (vec![ghost, denied, Told(3_500, Some(3_510), Some((503, 3_600)))], 5),
            (vec![Told(0, Some(10), Some((504, 900))), denied], 5),
            // The ghost was applied after all, and the retry replays its success.
            (vec![ghost, denied, Told(3_500, Some(3_510), Some((201, 3_600)))], 5),
            // Two attempts run at once: one is told 500, and the other was received before.
            (vec![denied, Told(1_200, Some(1_210), Some((200, 4_000)))], 5),
            // The 500 is decided after the 200 was told.
            (vec![Told(0, Some(10), Some((200, 900))), denied], 5),
        ] {
            assert!(is_broken(&broken, balance));
        }
    }

    #[test]
    fn nobody_is_paid_who_was_not_named_and_no_answer_contradicts_itself() {
        let stranger = HashMap::from([("bob@example.com".to_owned(), 1)]);
        assert_eq!(violations(&[], &Ledger { balances: stranger, ..Ledger::default() }).len(), 1);
        let lying = Attempt { status: Some(500), debited: Some("yes".to_owned()), ..Attempt::default() };
        let operation = Operation { attempts: vec![lying], ..Operation::default() };
        assert_eq!(violations(&[operation], &Ledger::default()).len(), 1);
    }
}
