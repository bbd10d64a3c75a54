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
use std::collections::{HashMap, HashSet};

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
    /// What `Earmark-Moved` said.
    pub moved: Option<String>,
    pub request_id: Option<String>,
    pub replayed: bool,
}

impl Attempt {
    /// Whether its own answer allows that this attempt was applied.
    fn may_have_moved(&self) -> bool {
        match self.status {
            None | Some(504) => true,
            Some(200) => !self.replayed && self.says_moved(),
            Some(_) => false,
        }
    }

    fn says_moved(&self) -> bool {
        self.moved.as_deref() == Some("yes")
    }

    /// Whether it was told that money was moved, by this attempt or an earlier one.
    pub fn is_paid(&self) -> bool {
        self.status == Some(200) && self.says_moved()
    }

    /// Whether it was certainly received before `moment`.
    fn is_before(&self, moment: Option<i64>) -> bool {
        matches!((self.received, moment), (Some(received), Some(moment)) if received < moment)
    }
}

/// What a client wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Asked {
    /// To allocate to a payout user of its own.
    #[default]
    Allocate,
    /// To take back the amount of this request.
    Reverse(String),
    /// To take back all that is left of this request, at most the amount. It has no key.
    ReverseAll(String),
    /// To settle. Its name is its reference, which is its key.
    Settle,
}

/// One operation of a client. The rows with its name show how often it was applied.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Operation {
    /// No other operation has it. An allocation's is the address of its payout user.
    pub name: String,
    pub asked: Asked,
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

    /// Whether an application of this operation may move so many cents.
    pub fn fits(&self, cents: i64) -> bool {
        match self.asked {
            Asked::ReverseAll(_) => (1..=self.amount).contains(&cents),
            Asked::Allocate | Asked::Reverse(_) | Asked::Settle => cents == self.amount,
        }
    }

    /// What is wrong with this operation.
    fn violations(&self, ledger: &Ledger) -> Vec<&'static str> {
        let moved = ledger.moved(&self.name);
        let denied_at = self.denied_at(ledger);
        let paid_at = self.attempts.iter().filter(|attempt| attempt.is_paid()).map(|attempt| attempt.ended).min();
        // Only of a reversal can nothing be left.
        let is_reversal = matches!(self.asked, Asked::Reverse(_) | Asked::ReverseAll(_));
        let broken = |attempt: &Attempt| {
            let expected: &[&str] = match attempt.status {
                None => return false,
                Some(200) if is_reversal => &["yes", "no"],
                Some(200) => &["yes"],
                Some(504) => &["unknown"],
                Some(_) => &["no"],
            };
            !attempt.moved.as_ref().is_some_and(|moved| expected.contains(&moved.as_str()))
        };
        let may_have_moved = |attempt: &Attempt| attempt.may_have_moved() && !attempt.is_before(denied_at);
        let is_paid_and_denied =
            |attempt: &Attempt| attempt.is_paid() && !attempt.replayed && attempt.is_before(denied_at);
        let rules = [
            ("A3: applied more than once", moved.len() > 1),
            ("A3: another amount than was asked for", !moved.iter().all(|&cents| self.fits(cents))),
            ("A4: a 200 without its movement", paid_at.is_some() && moved.is_empty()),
            ("A1, A1k: no funds were moved, it said", !moved.is_empty() && !self.attempts.iter().any(may_have_moved)),
            ("A1k: a 200 for what was received before a 500 of its key", self.attempts.iter().any(is_paid_and_denied)),
            ("A1k: a 500 after the 200 of its key", paid_at.is_some_and(|paid_at| Some(paid_at) < denied_at)),
            ("Earmark-Moved does not fit the status", self.attempts.iter().any(broken)),
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
    /// What each application of an operation moved, in cents, by the operation's name.
    pub moved: HashMap<String, Vec<i64>>,
    /// The decided requests by their ids.
    pub rows: HashMap<String, Row>,
}

impl Ledger {
    pub fn moved(&self, name: &str) -> &[i64] {
        self.moved.get(name).map_or(&[], Vec::as_slice)
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
            found.push(format!("{rule}: moved {:?}, {operation:?}", ledger.moved(&operation.name)));
        }
    }
    let known: HashSet<&str> = operations.iter().map(|operation| operation.name.as_str()).collect();
    for (name, moved) in ledger.moved.iter().filter(|(name, _)| !known.contains(name.as_str())) {
        found.push(format!("A2: {name} moved {moved:?}, and nobody asked for it"));
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

    fn is_broken(story: &[Told], moved: &[i64]) -> bool {
        let mut ledger =
            Ledger { moved: HashMap::from([("ann@example.com".to_owned(), moved.to_vec())]), ..Ledger::default() };
        let mut operation = Operation { name: "ann@example.com".to_owned(), amount: 5, ..Operation::default() };
        for (number, &Told(sent, received, told)) in story.iter().enumerate() {
            let (status, ended) = told.unzip();
            let moved = status.map(|status| match status {
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
                moved: moved.map(str::to_owned),
                request_id: Some(number.to_string()),
                ..Attempt::default()
            });
        }
        !violations(&[operation], &ledger).is_empty()
    }

    #[test]
    fn an_attempt_alone_is_judged_by_its_own_answer() {
        let (none, once, twice, other): (&[i64], &[i64], &[i64], &[i64]) = (&[], &[5], &[5, 5], &[3]);
        let kept = [(0, none), (0, once), (200, once), (400, none), (500, none), (503, none), (504, none), (504, once)];
        let broken = [
            (0, other),
            (0, twice),
            (200, none),
            (200, twice),
            (201, once),
            (400, once),
            (500, once),
            (502, none),
            (503, once),
        ];
        for (cases, expected) in [(&kept[..], false), (&broken[..], true)] {
            for &(status, moved) in cases {
                // 0 stands for "no answer".
                let told = (status != 0).then_some((status, 2_000));
                assert_eq!(is_broken(&[Told(0, Some(1), told)], moved), expected, "{status} {moved:?}");
            }
        }
    }

    #[test]
    fn a_500_speaks_for_all_that_was_surely_received_before_it_was_decided() {
        let (ghost, latecomer) = (Told(0, Some(10), None), Told(0, None, None));
        let denied = Told(1_000, Some(1_010), Some((500, 3_000)));
        let (refused, unknown) = (Some((503, 3_000)), Some((504, 3_000)));
        for (kept, moved) in [
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
            assert!(!is_broken(&kept, if moved == 0 { &[] } else { &[5] }));
        }
        for broken in [
            vec![ghost, denied],
            vec![denied, ghost],
            vec![ghost, denied, Told(3_500, Some(3_510), Some((503, 3_600)))],
            vec![Told(0, Some(10), Some((504, 900))), denied],
            // The ghost was applied after all, and the retry replays its success.
            vec![ghost, denied, Told(3_500, Some(3_510), Some((201, 3_600)))],
            // Two attempts run at once: one is told 500, and the other was received before.
            vec![denied, Told(1_200, Some(1_210), Some((200, 4_000)))],
            // The 500 is decided after the 200 was told.
            vec![Told(0, Some(10), Some((200, 900))), denied],
        ] {
            assert!(is_broken(&broken, &[5]));
        }
    }

    #[test]
    fn nobody_is_paid_who_was_not_named_and_no_answer_contradicts_itself() {
        let stranger = HashMap::from([("bob@example.com".to_owned(), vec![1])]);
        assert_eq!(violations(&[], &Ledger { moved: stranger, ..Ledger::default() }).len(), 1);
        let lying = Attempt { status: Some(500), moved: Some("yes".to_owned()), ..Attempt::default() };
        let operation = Operation { attempts: vec![lying], ..Operation::default() };
        assert_eq!(violations(&[operation], &Ledger::default()).len(), 1);
    }

    #[test]
    fn a_reversal_of_all_may_move_what_is_left_or_nothing() {
        let broken = |asked: Asked, said: &str, moved: &[i64]| {
            let attempt = Attempt { status: Some(200), moved: Some(said.to_owned()), ..Attempt::default() };
            let operation =
                Operation { name: "r".to_owned(), asked, amount: 5, attempts: vec![attempt], ..Operation::default() };
            let moved = HashMap::from([("r".to_owned(), moved.to_vec())]);
            !violations(&[operation], &Ledger { moved, ..Ledger::default() }).is_empty()
        };
        let (all, part) = (|| Asked::ReverseAll("id".to_owned()), || Asked::Reverse("id".to_owned()));
        for (asked, said, moved) in
            [(all(), "yes", &[3_i64][..]), (all(), "no", &[]), (part(), "yes", &[5]), (part(), "no", &[])]
        {
            assert!(!broken(asked.clone(), said, moved), "{asked:?} {said} {moved:?}");
        }
        for (asked, said, moved) in [
            (all(), "yes", &[6_i64][..]),
            (all(), "yes", &[]),
            (all(), "no", &[3]),
            (part(), "yes", &[3]),
            (part(), "yes", &[5, 5]),
            (Asked::Settle, "no", &[]),
        ] {
            assert!(broken(asked.clone(), said, moved), "{asked:?} {said} {moved:?}");
        }
    }
}
