//! Specifies `decide` by cases and by properties. In a table, each row is a request and its expected result.

use super::*;
use crate::ledger::KeyClaim;

const NOW: Millis = 1_000;

fn business(id: u128) -> BusinessId {
    BusinessId::from_u128(id)
}

fn request(id: u128, of: u128, email: &str, cents: i64) -> Request {
    Request {
        id: RequestId::from_u128(id),
        business: business(of),
        email: Email::parse(email).unwrap(),
        amount: Amount::from_cents(cents).unwrap(),
        deadline: NOW,
        key: None,
        reference: None,
    }
}

fn accounts(rows: &[(u128, i64, bool)]) -> Accounts {
    let account = |&(id, payout_balance, payouts_enabled)| (business(id), Account { payout_balance, payouts_enabled });
    rows.iter().map(account).collect()
}

#[test]
fn each_request_is_decided_against_what_the_ones_before_it_left() {
    let rows = [
        (request(1, 1, "ann@example.com", 60), Outcome::Allocated),
        (request(2, 1, "bob@example.com", 60), Outcome::InsufficientBalance),
        (request(3, 1, "ann@example.com", 40), Outcome::Allocated),
        (request(4, 2, "ann@example.com", 1), Outcome::PayoutsDisabled),
        (request(5, 3, "ann@example.com", 1), Outcome::Voided),
        (Request { deadline: NOW - 1, ..request(6, 1, "ann@example.com", 1) }, Outcome::Voided),
        (request(7, 1, "bob@example.com", 1), Outcome::InsufficientBalance),
    ];
    let requests: Vec<Request> = rows.iter().map(|(request, _)| request.clone()).collect();
    let decision = decide(&accounts(&[(1, 100, true), (2, 100, false)]), &Keys::new(), &requests, NOW);
    let expected: Vec<Verdict> = rows.iter().map(|(_, outcome)| Verdict::Decided(*outcome)).collect();
    assert_eq!(decision.verdicts, expected);
    assert_eq!(decision.balances, [(business(1), 0)]);
    let email = Email::parse("ann@example.com").unwrap();
    assert_eq!(decision.credits, [Credit { business: business(1), email, cents: 100 }]);
}

#[test]
fn a_key_debits_once_and_a_void_under_it_raises_its_epoch() {
    let key = IdempotencyKey::new("k").unwrap();
    let keyed = |id, email, cents, epoch| {
        let key = Some(KeyClaim { key: key.clone(), epoch });
        Request { key, ..request(id, 1, email, cents) }
    };
    let late = Request { deadline: NOW - 1, ..keyed(1, "ann@example.com", 5, 0) };
    let requests = [
        late,
        keyed(2, "ann@example.com", 5, 0),
        keyed(3, "ann@example.com", 500, 1),
        keyed(4, "ann@example.com", 5, 1),
        keyed(5, "ann@example.com", 5, 0),
        keyed(6, "ann@example.com", 6, 1),
    ];
    let decision = decide(&accounts(&[(1, 100, true)]), &Keys::new(), &requests, NOW);
    let expected = [
        Verdict::Decided(Outcome::Voided),
        Verdict::StaleEpoch { current: 1, raise: None },
        Verdict::Decided(Outcome::InsufficientBalance),
        Verdict::Decided(Outcome::Allocated),
        Verdict::Replayed { original: RequestId::from_u128(4) },
        Verdict::KeyReused,
    ];
    assert_eq!(decision.verdicts, expected);
    assert_eq!(decision.balances, [(business(1), 95)]);
    let [change] = decision.keys.as_slice() else { panic!("{:?}", decision.keys) };
    assert_eq!((change.state.epoch, change.is_raised()), (1, true));
    assert_eq!(change.state.allocated.as_ref().map(|(id, _, _)| *id), Some(RequestId::from_u128(4)));
}

mod properties {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Requests of three businesses, to four users, half of them under one of three keys, some of them late.
    fn any_requests() -> impl Strategy<Value = Vec<Request>> {
        let one = (1..=3_u128, 0..4_u8, 1..40_i64, 0..5_i64, proptest::option::of((0..3_u8, 0..3_i64)));
        proptest::collection::vec(one, 0..40).prop_map(|rows| {
            let numbered = rows.into_iter().enumerate();
            numbered
                .map(|(index, (of, user, cents, late, key))| Request {
                    deadline: if late == 0 { NOW - 1 } else { NOW },
                    key: key.map(|(name, epoch)| KeyClaim {
                        key: IdempotencyKey::new(&format!("k{name}")).unwrap(),
                        epoch,
                    }),
                    ..request(index as u128, of, &format!("user{user}@example.com"), cents)
                })
                .collect()
        })
    }

    fn any_accounts() -> impl Strategy<Value = Accounts> {
        proptest::collection::vec((0..200_i64, proptest::bool::weighted(0.8)), 2..=3).prop_map(|rows| {
            let numbered = (1..).zip(rows).map(|(id, (balance, enabled))| (id, balance, enabled));
            accounts(&numbered.collect::<Vec<_>>())
        })
    }

    /// What a decision leaves behind for the next one.
    fn apply(accounts: &mut Accounts, keys: &mut Keys, decision: &Decision) {
        for (id, balance) in &decision.balances {
            accounts.get_mut(id).unwrap().payout_balance = *balance;
        }
        for change in &decision.keys {
            keys.insert((change.business, change.key.clone()), change.state.clone());
        }
    }

    fn sums(credits: &[Credit]) -> BTreeMap<(BusinessId, Email), i64> {
        let mut sums = BTreeMap::new();
        for credit in credits {
            *sums.entry((credit.business, credit.email.clone())).or_default() += credit.cents;
        }
        sums
    }

    proptest! {
        #[test]
        fn a_batch_gives_what_one_by_one_gives(accounts in any_accounts(), requests in any_requests()) {
            let together = decide(&accounts, &Keys::new(), &requests, NOW);
            let (mut accounts_left, mut keys_left) = (accounts.clone(), Keys::new());
            let (mut verdicts, mut credits) = (vec![], vec![]);
            for request in &requests {
                let alone = decide(&accounts_left, &keys_left, std::slice::from_ref(request), NOW);
                apply(&mut accounts_left, &mut keys_left, &alone);
                verdicts.extend(alone.verdicts);
                credits.extend(alone.credits);
            }
            let (mut accounts_after, mut keys_after) = (accounts, Keys::new());
            apply(&mut accounts_after, &mut keys_after, &together);
            prop_assert_eq!(&together.verdicts, &verdicts);
            prop_assert_eq!(sums(&together.credits), sums(&credits));
            prop_assert_eq!(accounts_after, accounts_left);
            prop_assert_eq!(keys_after, keys_left);
        }

        #[test]
        fn money_is_conserved_and_no_balance_is_negative(accounts in any_accounts(), requests in any_requests()) {
            let decision = decide(&accounts, &Keys::new(), &requests, NOW);
            let mut after = accounts.clone();
            apply(&mut after, &mut Keys::new(), &decision);
            prop_assert!(after.values().all(|account| account.payout_balance >= 0));
            for (id, account) in &accounts {
                let credited: i64 = decision.credits.iter().filter(|c| c.business == *id).map(|c| c.cents).sum();
                prop_assert_eq!(account.payout_balance - after[id].payout_balance, credited);
                let allocated: i64 = requests
                    .iter()
                    .zip(&decision.verdicts)
                    .filter(|(r, v)| r.business == *id && **v == Verdict::Decided(Outcome::Allocated))
                    .map(|(r, _)| r.amount.cents())
                    .sum();
                prop_assert_eq!(credited, allocated);
            }
        }

        #[test]
        fn a_key_allocates_at_most_once(accounts in any_accounts(), requests in any_requests()) {
            let decision = decide(&accounts, &Keys::new(), &requests, NOW);
            let mut allocated = BTreeMap::<_, u32>::new();
            for (request, verdict) in requests.iter().zip(&decision.verdicts) {
                if let (Some(claim), Verdict::Decided(Outcome::Allocated)) = (&request.key, verdict) {
                    *allocated.entry((request.business, claim.key.clone())).or_default() += 1;
                }
            }
            prop_assert!(allocated.values().all(|count| *count == 1), "{:?}", allocated);
        }

        #[test]
        fn a_request_is_refused_only_if_what_was_decided_before_it_left_too_little(
            accounts in any_accounts(), requests in any_requests()
        ) {
            let decision = decide(&accounts, &Keys::new(), &requests, NOW);
            let mut left = accounts;
            for (request, verdict) in requests.iter().zip(&decision.verdicts) {
                let Some(account) = left.get_mut(&request.business) else { continue };
                match verdict {
                    Verdict::Decided(Outcome::Allocated) => account.payout_balance -= request.amount.cents(),
                    Verdict::Decided(Outcome::InsufficientBalance) => {
                        prop_assert!(account.payout_balance < request.amount.cents());
                    }
                    _ => {}
                }
            }
        }
    }
}
