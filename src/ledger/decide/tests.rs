//! Specifies `decide` by cases and by properties. In a table, each row is a request and its expected result.

use super::*;
use crate::ledger::{KeyClaim, Kind, Reference};

const NOW: Millis = 1_000;
const THEN: Moment = Moment { clock: NOW, tolerance: 0 };

fn business(id: u128) -> BusinessId {
    BusinessId::from_u128(id)
}

fn email(text: &str) -> Email {
    Email::parse(text).unwrap()
}

fn asking(id: u128, of: u128, movement: Movement) -> Request {
    let (id, business) = (RequestId::from_u128(id), business(of));
    Request { id, business, movement, deadline: NOW, key: None, reference: None }
}

/// An allocation.
fn request(id: u128, of: u128, user: &str, cents: i64) -> Request {
    let amount = Amount::from_cents(cents).unwrap();
    asking(id, of, Movement::Allocate { email: email(user), amount })
}

fn reversal(id: u128, of: u128, target: u128, cents: Option<i64>) -> Request {
    let amount = cents.map(|cents| Amount::from_cents(cents).unwrap());
    asking(id, of, Movement::Reverse { target: RequestId::from_u128(target), amount })
}

fn settlement(id: u128, of: u128, user: &str, cents: i64) -> Request {
    let amount = Amount::from_cents(cents).unwrap();
    asking(id, of, Movement::Settle { email: email(user), amount })
}

fn keyed(request: Request, key: &str, epoch: i64) -> Request {
    Request { key: Some(KeyClaim { key: IdempotencyKey::new(key).unwrap(), epoch }), ..request }
}

fn accounts(rows: &[(u128, i64, bool)]) -> Accounts {
    let account = |&(id, payout_balance, payouts_enabled)| {
        (business(id), Account { payout_balance, payouts_enabled, ..Account::default() })
    };
    rows.iter().map(account).collect()
}

fn books(rows: &[(u128, i64, bool)]) -> Books {
    Books { accounts: accounts(rows), ..Books::default() }
}

/// Decides the requests of a table, and checks the outcome of each and what is left after it.
fn expect(books: &Books, rows: &[(Request, Outcome, Option<i64>)]) -> Decision {
    let requests: Vec<Request> = rows.iter().map(|(request, ..)| request.clone()).collect();
    let decision = decide(books, &requests, THEN);
    let found = decision.verdicts.iter().zip(&decision.entries).map(|(verdict, entry)| (*verdict, entry.remaining));
    let expected = rows.iter().map(|(_, outcome, remaining)| (Verdict::Decided(*outcome), *remaining));
    assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    decision
}

fn balances(decision: &Decision) -> Vec<(BusinessId, i64)> {
    decision.accounts.iter().map(|(id, account)| (*id, account.payout_balance)).collect()
}

#[test]
fn each_request_is_decided_against_what_the_ones_before_it_left() {
    let rows = [
        (request(1, 1, "ann@example.com", 60), Outcome::Allocated, None),
        (request(2, 1, "bob@example.com", 60), Outcome::InsufficientBalance, None),
        (request(3, 1, "ann@example.com", 40), Outcome::Allocated, None),
        (request(4, 2, "ann@example.com", 1), Outcome::PayoutsDisabled, None),
        (request(5, 3, "ann@example.com", 1), Outcome::Voided, None),
        (Request { deadline: NOW - 1, ..request(6, 1, "ann@example.com", 1) }, Outcome::Voided, None),
        (request(7, 1, "bob@example.com", 1), Outcome::InsufficientBalance, None),
    ];
    let decision = expect(&books(&[(1, 100, true), (2, 100, false)]), &rows);
    assert_eq!(balances(&decision), [(business(1), 0)]);
    assert_eq!(decision.credits, [Credit { business: business(1), email: email("ann@example.com"), cents: 100 }]);
}

#[test]
fn a_late_request_is_applied_within_the_tolerance_and_no_later() {
    let late = Request { deadline: NOW - 5, ..request(1, 1, "ann@example.com", 1) };
    for (tolerance, expected) in [(4, Outcome::Voided), (5, Outcome::Allocated)] {
        let moment = Moment { clock: NOW, tolerance };
        let decision = decide(&books(&[(1, 100, true)]), std::slice::from_ref(&late), moment);
        assert_eq!(decision.verdicts, [Verdict::Decided(expected)]);
    }
}

#[test]
fn an_allocation_is_reversed_in_parts_until_nothing_is_left_also_while_payouts_are_off() {
    let target = Target { email: email("ann@example.com"), is_settlement: false, remaining: 60 };
    let books = Books {
        users: [((business(1), email("ann@example.com")), 60)].into(),
        targets: [((business(1), RequestId::from_u128(1)), target)].into(),
        ..books(&[(1, 100, false), (2, 100, true)])
    };
    let rows = [
        (reversal(2, 1, 1, Some(61)), Outcome::AmountTooLarge, Some(60)),
        (reversal(3, 1, 1, Some(20)), Outcome::Reversed, Some(40)),
        (reversal(4, 1, 1, Some(41)), Outcome::AmountTooLarge, Some(40)),
        (reversal(5, 1, 1, None), Outcome::Reversed, Some(0)),
        (reversal(6, 1, 1, None), Outcome::NothingLeft, Some(0)),
        (reversal(7, 1, 1, Some(1)), Outcome::NothingLeft, Some(0)),
        (reversal(8, 1, 9, None), Outcome::NotReversible, None),
        (reversal(9, 2, 1, None), Outcome::NotReversible, None),
        (reversal(10, 1, 3, None), Outcome::NotReversible, None),
        (Request { deadline: NOW - 1, ..reversal(11, 1, 1, None) }, Outcome::Voided, None),
    ];
    let decision = expect(&books, &rows);
    assert_eq!(decision.entries[3].cents, Some(40), "all that was left");
    assert_eq!(decision.entries[4].cents, Some(0), "nothing");
    assert_eq!(decision.entries[3].email, Some(email("ann@example.com")));
    assert_eq!(balances(&decision), [(business(1), 160)]);
    assert_eq!(decision.credits, [Credit { business: business(1), email: email("ann@example.com"), cents: -60 }]);
}

#[test]
fn what_a_user_was_paid_out_cannot_be_reversed_until_the_settlement_is() {
    let rows = [
        (request(1, 1, "ann@example.com", 60), Outcome::Allocated, None),
        (settlement(2, 1, "ann@example.com", 61), Outcome::InsufficientUserBalance, None),
        (settlement(3, 1, "ann@example.com", 50), Outcome::Settled, Some(10)),
        (settlement(4, 1, "bob@example.com", 1), Outcome::InsufficientUserBalance, None),
        (reversal(5, 1, 1, None), Outcome::InsufficientUserBalance, Some(60)),
        (reversal(6, 1, 1, Some(10)), Outcome::Reversed, Some(50)),
        (reversal(7, 1, 3, Some(20)), Outcome::SettlementReversed, Some(30)),
        (reversal(8, 1, 1, Some(20)), Outcome::Reversed, Some(30)),
        (reversal(9, 1, 3, None), Outcome::SettlementReversed, Some(0)),
        (reversal(10, 1, 3, None), Outcome::NothingLeft, Some(0)),
        (reversal(11, 1, 9, None), Outcome::NotReversible, None),
    ];
    let decision = expect(&books(&[(1, 100, true)]), &rows);
    assert_eq!(balances(&decision), [(business(1), 70)]);
    assert_eq!(decision.credits, [Credit { business: business(1), email: email("ann@example.com"), cents: 30 }]);
}

#[test]
fn movements_are_numbered_without_a_gap_with_the_balance_after_each() {
    let account =
        Account { payout_balance: 100, payouts_enabled: true, seq: 7, moved_at: NOW - 5, ..Account::default() };
    let requests = [
        request(1, 1, "ann@example.com", 60),
        request(2, 1, "ann@example.com", 60),
        reversal(3, 1, 1, Some(10)),
        settlement(4, 1, "ann@example.com", 50),
        reversal(5, 1, 4, None),
    ];
    let decide =
        |account| decide(&Books { accounts: [(business(1), account)].into(), ..Books::default() }, &requests, THEN);
    let moved = |decision: &Decision| -> Vec<_> {
        decision.entries.iter().map(|entry| entry.moved.map(|moved| (moved.seq, moved.payout_balance_after))).collect()
    };
    let decision = decide(account);
    assert_eq!(moved(&decision), [Some((8, 40)), None, Some((9, 50)), Some((10, 50)), Some((11, 50))]);
    let [(_, after)] = decision.accounts.as_slice() else { panic!("{:?}", decision.accounts) };
    assert_eq!((after.seq, after.moved_at), (11, NOW));
    // A clock that goes back does not take the movements with it.
    let decision = decide(Account { moved_at: NOW + 5, ..account });
    assert!(decision.entries.iter().filter_map(|entry| entry.moved).all(|moved| moved.at == NOW + 5));
}

#[test]
fn a_cap_refuses_after_the_switch_and_before_the_balance() {
    let caps = Caps { largest: Some(50), daily: Some(80) };
    let account =
        |payouts_enabled, payout_balance| Account { caps, payouts_enabled, payout_balance, ..Account::default() };
    let accounts =
        [(business(1), account(true, 90)), (business(2), account(false, 90)), (business(3), account(true, 40))];
    let rows = [
        (request(1, 1, "ann@example.com", 51), Outcome::AmountTooLarge, Some(50)),
        (request(2, 1, "ann@example.com", 50), Outcome::Allocated, None),
        (request(3, 1, "ann@example.com", 31), Outcome::DailyLimitReached, None),
        (reversal(4, 1, 2, Some(40)), Outcome::Reversed, Some(10)),
        (request(5, 1, "ann@example.com", 31), Outcome::DailyLimitReached, None),
        (request(6, 1, "ann@example.com", 30), Outcome::Allocated, None),
        (request(7, 2, "ann@example.com", 51), Outcome::PayoutsDisabled, None),
        (request(8, 3, "ann@example.com", 51), Outcome::AmountTooLarge, Some(50)),
        (request(9, 3, "ann@example.com", 50), Outcome::InsufficientBalance, None),
    ];
    expect(&Books { accounts: accounts.into(), ..Books::default() }, &rows);
}

#[test]
fn the_day_of_a_cap_is_that_of_the_movement() {
    const DAY: Millis = 86_400_000;
    let caps = Caps { largest: None, daily: Some(80) };
    let rows = [
        (0, DAY - 1, Outcome::DailyLimitReached),
        (0, DAY, Outcome::Allocated),
        // The last movement was on the next day already.
        (DAY, DAY - 1, Outcome::Allocated),
    ];
    for (moved_at, clock, expected) in rows {
        let allocated = DayTotal { day: 0, cents: 80 };
        let account =
            Account { payout_balance: 100, payouts_enabled: true, caps, moved_at, allocated, ..Account::default() };
        let books = Books { accounts: [(business(1), account)].into(), ..Books::default() };
        let one = Request { deadline: clock, ..request(1, 1, "ann@example.com", 1) };
        let decision = decide(&books, &[one], Moment { clock, tolerance: 0 });
        assert_eq!(decision.verdicts, [Verdict::Decided(expected)], "{moved_at} {clock}");
    }
}

#[test]
fn a_key_debits_once_and_a_void_under_it_raises_its_epoch() {
    let keyed = |id, user, cents, epoch| keyed(request(id, 1, user, cents), "k", epoch);
    let late = Request { deadline: NOW - 1, ..keyed(1, "ann@example.com", 5, 0) };
    let requests = [
        late,
        keyed(2, "ann@example.com", 5, 0),
        keyed(3, "ann@example.com", 500, 1),
        keyed(4, "ann@example.com", 5, 1),
        keyed(5, "ann@example.com", 5, 0),
        keyed(6, "ann@example.com", 6, 1),
    ];
    let decision = decide(&books(&[(1, 100, true)]), &requests, THEN);
    let expected = [
        Verdict::Decided(Outcome::Voided),
        Verdict::StaleEpoch { current: 1, raise: None },
        Verdict::Decided(Outcome::InsufficientBalance),
        Verdict::Decided(Outcome::Allocated),
        Verdict::Replayed { original: RequestId::from_u128(4) },
        Verdict::KeyReused,
    ];
    assert_eq!(decision.verdicts, expected);
    assert_eq!(balances(&decision), [(business(1), 95)]);
    let [change] = decision.keys.as_slice() else { panic!("{:?}", decision.keys) };
    assert_eq!((change.state.epoch, change.is_raised()), (1, true));
    assert_eq!(change.state.success.as_ref().map(|success| success.request), Some(RequestId::from_u128(4)));
}

#[test]
fn a_key_remembers_kind_target_and_every_parameter_and_a_settlement_has_a_key_of_its_own() {
    let reference = Reference::parse("k").unwrap().unwrap();
    let settled = |id, cents| {
        let key = Some(KeyClaim { key: IdempotencyKey::of_settlement(&reference), epoch: 0 });
        Request { key, ..settlement(id, 1, "ann@example.com", cents) }
    };
    let replayed = |original| Verdict::Replayed { original: RequestId::from_u128(original) };
    let rows = [
        (keyed(request(1, 1, "ann@example.com", 60), "k", 0), Verdict::Decided(Outcome::Allocated)),
        (keyed(settlement(2, 1, "ann@example.com", 60), "k", 0), Verdict::KeyReused),
        (keyed(reversal(3, 1, 1, Some(60)), "k", 0), Verdict::KeyReused),
        (settled(4, 20), Verdict::Decided(Outcome::Settled)),
        (settled(5, 20), replayed(4)),
        (settled(6, 21), Verdict::KeyReused),
        (keyed(reversal(7, 1, 1, Some(10)), "r", 0), Verdict::Decided(Outcome::Reversed)),
        (keyed(reversal(8, 1, 1, Some(10)), "r", 0), replayed(7)),
        (keyed(reversal(9, 1, 1, None), "r", 0), Verdict::KeyReused),
        (keyed(reversal(10, 1, 4, Some(10)), "r", 0), Verdict::KeyReused),
        // A success stands also after it was reversed.
        (reversal(11, 1, 4, None), Verdict::Decided(Outcome::SettlementReversed)),
        (settled(12, 20), replayed(4)),
        (reversal(13, 1, 1, None), Verdict::Decided(Outcome::Reversed)),
        (keyed(request(14, 1, "ann@example.com", 60), "k", 0), replayed(1)),
        // What moved nothing is not remembered.
        (keyed(reversal(15, 1, 1, None), "n", 0), Verdict::Decided(Outcome::NothingLeft)),
        (keyed(request(16, 1, "ann@example.com", 1), "n", 0), Verdict::Decided(Outcome::Allocated)),
    ];
    let requests: Vec<Request> = rows.iter().map(|(request, _)| request.clone()).collect();
    let decision = decide(&books(&[(1, 100, true)]), &requests, THEN);
    assert_eq!(decision.verdicts, rows.map(|(_, verdict)| verdict));
}

mod properties {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// The kind of a request, its business, user, amount, what it reverses, and whether it reverses all of it.
    type What = (u8, u128, u8, i64, Index, bool);
    /// What is asked for with its number: whether it is late, if 0; the name of its key and the epoch.
    type Row = (usize, (What, i64, Option<(u8, i64)>));

    /// Requests of three businesses and four users: allocations, settlements, and reversals of requests of the batch. Half
    /// of them are under one of three keys, some of them late.
    fn any_requests() -> impl Strategy<Value = Vec<Request>> {
        let what = (0..6_u8, 1..=3_u128, 0..4_u8, 1..40_i64, any::<Index>(), any::<bool>());
        let one = (what, 0..5_i64, proptest::option::of((0..3_u8, 0..3_i64)));
        proptest::collection::vec(one, 0..40).prop_map(|rows| {
            let numbered = rows.into_iter().enumerate();
            let request = |(id, (what, late, key)): Row| {
                let (what, of, user, cents, target, whole) = what;
                let user = format!("user{user}@example.com");
                let movement = match what {
                    0..3 => request(0, of, &user, cents),
                    3 => settlement(0, of, &user, cents),
                    _ => reversal(0, of, target.index(id + 2) as u128, (!whole).then_some(cents)),
                };
                Request {
                    id: RequestId::from_u128(id as u128),
                    deadline: if late == 0 { NOW - 1 } else { NOW },
                    key: key.map(|(name, epoch)| KeyClaim {
                        key: IdempotencyKey::new(&format!("k{name}")).unwrap(),
                        epoch,
                    }),
                    ..movement
                }
            };
            numbered.map(request).collect()
        })
    }

    fn any_books() -> impl Strategy<Value = Books> {
        let one = (
            0..200_i64,
            proptest::bool::weighted(0.8),
            proptest::option::of(10..40_i64),
            proptest::option::of(50..150_i64),
        );
        proptest::collection::vec(one, 2..=3).prop_map(|rows| {
            let account = |(payout_balance, payouts_enabled, largest, daily)| {
                let caps = Caps { largest, daily };
                Account { payout_balance, payouts_enabled, caps, ..Account::default() }
            };
            let numbered = (1..).zip(rows).map(|(id, row)| (business(id), account(row)));
            Books { accounts: numbered.collect(), ..Books::default() }
        })
    }

    /// What a decision leaves behind for the next one.
    fn apply(books: &mut Books, requests: &[Request], decision: &Decision) {
        books.accounts.extend(decision.accounts.iter().copied());
        books.keys.extend(decision.keys.iter().map(|one| ((one.business, one.key.clone()), one.state.clone())));
        for credit in &decision.credits {
            *books.users.entry((credit.business, credit.email.clone())).or_default() += credit.cents;
        }
        for ((request, verdict), entry) in requests.iter().zip(&decision.verdicts).zip(&decision.entries) {
            let is_settlement = match verdict {
                Verdict::Decided(Outcome::Allocated) => false,
                Verdict::Decided(Outcome::Settled) => true,
                Verdict::Decided(Outcome::Reversed | Outcome::SettlementReversed) => {
                    let target = (request.business, request.movement.target().unwrap());
                    books.targets.get_mut(&target).unwrap().remaining = entry.remaining.unwrap();
                    continue;
                }
                _ => continue,
            };
            let (email, remaining) = (request.movement.email().unwrap().clone(), cents(request, entry));
            books.targets.insert((request.business, request.id), Target { email, is_settlement, remaining });
        }
    }

    /// How much a request moved.
    fn cents(request: &Request, entry: &Entry) -> i64 {
        entry.cents.or(request.movement.amount().map(Amount::cents)).unwrap_or_default()
    }

    fn one_by_one(books: &Books, requests: &[Request]) -> (Vec<Verdict>, Vec<Entry>, Books) {
        let (mut verdicts, mut entries, mut left) = (vec![], vec![], books.clone());
        for request in requests {
            let alone = decide(&left, std::slice::from_ref(request), THEN);
            apply(&mut left, std::slice::from_ref(request), &alone);
            verdicts.extend(alone.verdicts);
            entries.extend(alone.entries);
        }
        (verdicts, entries, left)
    }

    proptest! {
        #[test]
        fn a_batch_gives_what_one_by_one_gives(books in any_books(), requests in any_requests()) {
            let together = decide(&books, &requests, THEN);
            let (verdicts, entries, left) = one_by_one(&books, &requests);
            let mut after = books;
            apply(&mut after, &requests, &together);
            prop_assert_eq!(&together.verdicts, &verdicts);
            prop_assert_eq!(&together.entries, &entries);
            prop_assert_eq!(after, left);
        }

        #[test]
        fn two_batches_give_what_one_gives(books in any_books(), requests in any_requests(), cut in any::<Index>()) {
            let together = decide(&books, &requests, THEN);
            let (first, second) = requests.split_at(cut.index(requests.len() + 1));
            let mut left = books.clone();
            let begun = decide(&left, first, THEN);
            apply(&mut left, first, &begun);
            let ended = decide(&left, second, THEN);
            apply(&mut left, second, &ended);
            let mut after = books;
            apply(&mut after, &requests, &together);
            prop_assert_eq!(together.verdicts, [begun.verdicts, ended.verdicts].concat());
            prop_assert_eq!(together.entries, [begun.entries, ended.entries].concat());
            prop_assert_eq!(after, left);
        }

        #[test]
        fn deposits_are_payout_balances_and_user_balances_and_what_was_settled(books in any_books(), requests in any_requests()) {
            let decision = decide(&books, &requests, THEN);
            let mut after = books.clone();
            apply(&mut after, &requests, &decision);
            for (id, account) in &books.accounts {
                let users: i64 = after.users.iter().filter(|((of, _), _)| of == id).map(|(_, cents)| cents).sum();
                let moved = |outcome| -> i64 {
                    let all = requests.iter().zip(&decision.verdicts).zip(&decision.entries);
                    let of = all.filter(|((r, v), _)| r.business == *id && **v == Verdict::Decided(outcome));
                    of.map(|((request, _), entry)| cents(request, entry)).sum()
                };
                let settled = moved(Outcome::Settled) - moved(Outcome::SettlementReversed);
                prop_assert_eq!(account.payout_balance, after.accounts[id].payout_balance + users + settled);
                prop_assert_eq!(users, moved(Outcome::Allocated) - moved(Outcome::Reversed) - settled);
            }
        }

        #[test]
        fn no_balance_is_ever_negative(books in any_books(), requests in any_requests()) {
            let mut left = books;
            for request in &requests {
                let alone = decide(&left, std::slice::from_ref(request), THEN);
                apply(&mut left, std::slice::from_ref(request), &alone);
                prop_assert!(left.accounts.values().all(|account| account.payout_balance >= 0));
                prop_assert!(left.users.values().all(|cents| *cents >= 0));
                prop_assert!(left.targets.values().all(|target| target.remaining >= 0));
            }
        }

        #[test]
        fn a_reversal_never_exceeds_what_is_left(books in any_books(), requests in any_requests()) {
            let decision = decide(&books, &requests, THEN);
            let mut reversed = BTreeMap::<_, i64>::new();
            for ((request, verdict), entry) in requests.iter().zip(&decision.verdicts).zip(&decision.entries) {
                if matches!(verdict, Verdict::Decided(Outcome::Reversed | Outcome::SettlementReversed)) {
                    let target = request.movement.target().unwrap();
                    *reversed.entry((request.business, target)).or_default() += cents(request, entry);
                }
            }
            for ((of, target), sum) in reversed {
                let original = requests.iter().find(|one| one.id == target && one.business == of).unwrap();
                prop_assert!(original.movement.kind() != Kind::Reverse);
                prop_assert!(sum <= original.movement.amount().unwrap().cents());
            }
        }

        #[test]
        fn movements_are_numbered_without_a_gap_and_say_the_balance_after_each(books in any_books(), requests in any_requests()) {
            let decision = decide(&books, &requests, THEN);
            for (id, account) in &books.accounts {
                let of = requests.iter().zip(&decision.entries).filter(|(request, _)| request.business == *id);
                let moved: Vec<Moved> = of.filter_map(|(_, entry)| entry.moved).collect();
                let seqs: Vec<i64> = moved.iter().map(|moved| moved.seq).collect();
                prop_assert_eq!(seqs, (1..=moved.len() as i64).collect::<Vec<_>>());
                let after = decision.accounts.iter().find(|(of, _)| of == id).map(|(_, account)| *account);
                prop_assert_eq!(after.map(|after| after.seq), moved.last().map(|moved| moved.seq));
                prop_assert_eq!(after.map(|after| after.payout_balance), moved.last().map(|moved| moved.payout_balance_after));
                prop_assert!(after.is_none_or(|after| after.caps == account.caps));
            }
            for ((_, verdict), entry) in requests.iter().zip(&decision.verdicts).zip(&decision.entries) {
                prop_assert_eq!(verdict.outcome().moves(), entry.moved.is_some());
            }
        }

        #[test]
        fn caps_are_never_exceeded(books in any_books(), requests in any_requests()) {
            let decision = decide(&books, &requests, THEN);
            for (id, account) in &books.accounts {
                let all = requests.iter().zip(&decision.verdicts);
                let of = all.filter(|(r, v)| r.business == *id && **v == Verdict::Decided(Outcome::Allocated));
                let amounts: Vec<i64> = of.filter_map(|(request, _)| Some(request.movement.amount()?.cents())).collect();
                prop_assert!(account.caps.largest.is_none_or(|largest| amounts.iter().all(|cents| *cents <= largest)));
                prop_assert!(account.caps.daily.is_none_or(|daily| amounts.iter().sum::<i64>() <= daily));
            }
        }

        #[test]
        fn a_key_moves_money_at_most_once(books in any_books(), requests in any_requests()) {
            let decision = decide(&books, &requests, THEN);
            let mut moved = BTreeMap::<_, u32>::new();
            for (request, verdict) in requests.iter().zip(&decision.verdicts) {
                if let (Some(claim), Verdict::Decided(outcome)) = (&request.key, verdict) {
                    *moved.entry((request.business, claim.key.clone())).or_default() += u32::from(outcome.moves());
                }
            }
            prop_assert!(moved.values().all(|count| *count <= 1), "{:?}", moved);
        }

        #[test]
        fn a_request_is_refused_only_if_what_was_decided_before_it_left_too_little(
            books in any_books(), requests in any_requests()
        ) {
            let mut left = books;
            for request in &requests {
                let alone = decide(&left, std::slice::from_ref(request), THEN);
                let asked = request.movement.amount().map(Amount::cents);
                match alone.verdicts[0] {
                    Verdict::Decided(Outcome::InsufficientBalance) => {
                        prop_assert!(Some(left.accounts[&request.business].payout_balance) < asked);
                    }
                    Verdict::Decided(Outcome::InsufficientUserBalance) => {
                        let target = request.movement.target().map(|target| &left.targets[&(request.business, target)]);
                        let user = request.movement.email().or(target.map(|target| &target.email)).unwrap();
                        let balance = left.users.get(&(request.business, user.clone())).copied().unwrap_or_default();
                        prop_assert!(balance < asked.or(target.map(|target| target.remaining)).unwrap());
                    }
                    Verdict::Decided(Outcome::AmountTooLarge) => {
                        let target = request.movement.target().map(|target| left.targets[&(request.business, target)].remaining);
                        let most = target.or(left.accounts[&request.business].caps.largest);
                        prop_assert!(most < asked);
                    }
                    _ => {}
                }
                apply(&mut left, std::slice::from_ref(request), &alone);
            }
        }
    }
}
