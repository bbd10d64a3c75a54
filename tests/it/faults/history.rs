//! What clients were told, and what must be true of it.

use serde::Serialize;
use std::collections::HashMap;

/// One HTTP attempt, as its client saw it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Attempt {
    /// Milliseconds since the start of the run.
    pub sent: u128,
    pub ended: u128,
    /// None: no answer (a broken connection, or the client hung up).
    pub status: Option<u16>,
    pub debited: Option<String>,
    pub request_id: Option<String>,
}

/// One thing that a client wanted done, for a payout user of its own, whose balance so tells how often it was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Operation {
    pub email: String,
    pub amount: i64,
    pub key: Option<String>,
    /// In order. Without a key there is one.
    pub attempts: Vec<Attempt>,
}

impl Operation {
    /// Whether what its client was told means that nothing was debited, ever.
    ///
    /// A 500 speaks for all that was sent under the key before it; every other "no" for its own attempt.
    fn is_denied(&self) -> bool {
        let mut denied = true;
        for attempt in &self.attempts {
            denied = match attempt.status {
                Some(500) => true,
                Some(400..=499 | 503) => denied,
                Some(_) | None => false,
            };
        }
        denied
    }

    fn is_confirmed(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.status == Some(200))
    }

    /// What is wrong with this operation, given its user's balance.
    fn violations(&self, balance: i64) -> Vec<&'static str> {
        let broken = |attempt: &Attempt| {
            let expected = match attempt.status {
                None => return false,
                Some(200) => "yes",
                Some(504) => "unknown",
                Some(_) => "no",
            };
            attempt.debited.as_deref() != Some(expected)
        };
        let mut later = self.attempts.iter().skip_while(|attempt| attempt.status != Some(200));
        let rules = [
            ("A3: applied more than once", ![0, self.amount].contains(&balance)),
            ("A4: a 200 without its debit", self.is_confirmed() && balance != self.amount),
            ("A1: no funds were debited, it said", !self.is_confirmed() && self.is_denied() && balance != 0),
            ("A1k: a 500 after the 200 of its key", later.any(|attempt| attempt.status == Some(500))),
            ("Earmark-Debited does not fit the status", self.attempts.iter().any(broken)),
            ("a status that this client cannot cause", self.attempts.iter().any(is_foreign)),
        ];
        rules.into_iter().filter_map(|(rule, broken)| broken.then_some(rule)).collect()
    }
}

fn is_foreign(attempt: &Attempt) -> bool {
    attempt.status.is_some_and(|status| ![200, 400, 500, 503, 504].contains(&status))
}

/// Everything that is wrong, in words; nothing if the promise was kept. `balances` has every payout user there is.
pub fn violations(operations: &[Operation], balances: &HashMap<String, i64>) -> Vec<String> {
    let mut found = vec![];
    for operation in operations {
        let balance = balances.get(&operation.email).copied().unwrap_or(0);
        for rule in operation.violations(balance) {
            found.push(format!("{rule}: balance {balance}, {operation:?}"));
        }
    }
    let known: HashMap<&str, ()> = operations.iter().map(|operation| (operation.email.as_str(), ())).collect();
    for (email, balance) in balances.iter().filter(|(email, _)| !known.contains_key(email.as_str())) {
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

    fn operation(statuses: &[u16]) -> Operation {
        let attempts = statuses.iter().map(|&status| Attempt {
            status: Some(status).filter(|status| *status != 0),
            debited: match status {
                0 => None,
                200 => Some("yes".to_owned()),
                504 => Some("unknown".to_owned()),
                _ => Some("no".to_owned()),
            },
            ..Attempt::default()
        });
        Operation { email: "ann@example.com".to_owned(), amount: 5, key: None, attempts: attempts.collect() }
    }

    fn is_broken(statuses: &[u16], balance: i64) -> bool {
        let balances = HashMap::from([("ann@example.com".to_owned(), balance)]);
        !violations(&[operation(statuses)], &balances).is_empty()
    }

    #[test]
    fn the_rules_tell_a_kept_promise_from_a_broken_one() {
        // 0 stands for "no answer".
        let kept: [(&[u16], i64); 12] = [
            (&[200], 5),
            (&[500], 0),
            (&[503], 0),
            (&[400], 0),
            (&[504], 0),
            (&[504], 5),
            (&[0], 0),
            (&[0], 5),
            (&[0, 503], 5),
            (&[0, 500], 0),
            (&[0, 500, 200], 5),
            (&[500, 0], 5),
        ];
        let broken: [(&[u16], i64); 11] = [
            (&[200], 0),
            (&[200], 10),
            (&[500], 5),
            (&[503], 5),
            (&[400], 5),
            (&[0], 10),
            (&[0], 3),
            (&[0, 500], 5),
            (&[0, 500, 503], 5),
            (&[200, 500], 5),
            (&[502], 0),
        ];
        for (statuses, balance) in kept {
            assert!(!is_broken(statuses, balance), "{statuses:?} {balance}");
        }
        for (statuses, balance) in broken {
            assert!(is_broken(statuses, balance), "{statuses:?} {balance}");
        }
        let stranger = HashMap::from([("bob@example.com".to_owned(), 1)]);
        assert_eq!(violations(&[], &stranger).len(), 1);
        let mut lying = operation(&[500]);
        lying.attempts[0].debited = Some("yes".to_owned());
        assert_eq!(violations(&[lying], &HashMap::new()).len(), 1);
    }
}
