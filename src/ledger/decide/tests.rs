//! The specification of `decide`: one row a request, its expected result at the row's end.

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
        Verdict::StaleEpoch { current: 1 },
        Verdict::Decided(Outcome::InsufficientBalance),
        Verdict::Decided(Outcome::Allocated),
        Verdict::Replayed,
        Verdict::KeyReused,
    ];
    assert_eq!(decision.verdicts, expected);
    assert_eq!(decision.balances, [(business(1), 95)]);
    let [change] = decision.keys.as_slice() else { panic!("{:?}", decision.keys) };
    assert_eq!((change.state.epoch, change.is_new), (1, true));
    assert_eq!(change.state.allocated.as_ref().map(|(id, _, _)| *id), Some(RequestId::from_u128(4)));
}
