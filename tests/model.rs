//! The protocol as a model. A walk looks at every state of it. The model is in `tests/model/`. `docs/model.md` says
//! what it leaves out and what it found.

use earmark_model::{
    Asked, Asks, Bounds, Clients, FUNCTIONS, Mutant, Promise, Protocol, States, Walked, property as p,
};
use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::time::Instant;

fn protocol(bounds: Bounds) -> Protocol {
    Protocol { bounds, mutant: None }
}

/// How many threads walk.
const THREADS: usize = 2;

/// Walks, and checks that every promise is kept.
fn all_is_kept(bounds: Bounds) -> Walked {
    let since = Instant::now();
    let walked = protocol(bounds).walk(THREADS);
    println!("{} states, {} steps, in {:.1?}: {bounds:?}", walked.states, walked.steps, since.elapsed());
    expect_nothing_broken(bounds, &walked);
    walked
}

fn expect_nothing_broken(bounds: Bounds, walked: &Walked) {
    let traces: Vec<String> = walked.broken().into_iter().map(|name| walked.trace(name)).collect();
    assert!(traces.is_empty(), "{bounds:?}\n{}", traces.join("\n"));
}

/// The real promise, as a client who waits for the answer is told it. There are so few attempts that they can keep
/// their names, which makes traces readable.
const NAMED: Bounds = Bounds {
    clients: Clients::OneAtATime,
    promise: Promise::AtTheAnswer,
    states: States::Named,
    ..Bounds::new(2, 0, 1)
};

/// The same, with all numbers kept. That makes so many states that some steps are left out.
const DETAILED: Bounds =
    Bounds { batch: 1, doubts: false, look_ups: false, states: States::AsTheyAre { most_raises: 1 }, ..NAMED };

/// Reversals of a cent against settlements of the same cent.
const RACE: Bounds =
    Bounds { asks: Asks { keyed: Asked::Settle, plain: Asked::Reverse }, given: 1, ..Bounds::new(2, 1, 0) };

/// Reversals under a key beside allocations of what they bring back.
const REVERSALS: Bounds =
    Bounds { asks: Asks { keyed: Asked::Allocate, plain: Asked::Reverse }, given: 1, ..Bounds::new(1, 2, 0) };

/// Each mutant, the bounds in which it is looked for, and the promise that it breaks.
const MUTANTS: [(Mutant, Bounds, &str); 22] = {
    let hedged = Bounds { clients: Clients::Hedge, promise: Promise::AtTheProof, ..DETAILED };
    let every_void = Bounds { promise: Promise::AtEveryVoid, ..NAMED };
    let plain = Bounds { keyed: 0, plain: 2, balance: 2, ..NAMED };
    [
        (Mutant::StaleTakesAnyEpoch, NAMED, p::A1K),
        (Mutant::CountIsTakenAtPublication, NAMED, p::A1K),
        (Mutant::ResolutionDoesNotRaise, NAMED, p::A1K),
        (Mutant::RaiseIsNotStored, DETAILED, p::A1K),
        (Mutant::RaiseIsNotCounted, DETAILED, p::A1K),
        (Mutant::CountIsDrawnBeforeTheCommit, hedged, p::A1K),
        (Mutant::DeadlineVoidDoesNotRaise, every_void, p::A1K),
        (Mutant::StaleVoidRaises, NAMED, p::GHOSTS),
        (Mutant::KeyIsReadWithoutItsLock, NAMED, p::A1K),
        (Mutant::AtOnceIgnoresTheKey, NAMED, p::A1K),
        (Mutant::AtOnceIgnoresTheKey, Bounds { balance: 2, ..NAMED }, p::A3),
        (Mutant::AtOnceIgnoresTheAccount, plain, p::A5),
        (Mutant::AtOnceComparesTheBalance, Bounds { deposits: 1, ..plain }, p::NUMBERED),
        (Mutant::ReversalIgnoresTheUser, RACE, p::A5),
        (Mutant::ReversalIgnoresWhatIsLeft, Bounds { given: 1, balance: 1, ..REVERSALS }, p::A5),
        (Mutant::AtOnceIgnoresTheRows, plain, p::A3),
        (Mutant::StepByStepIgnoresTheRows, plain, p::A1),
        (Mutant::ReplyBeforeTheCommit, plain, p::A4),
        (Mutant::FailedCommitIsTakenForARollback, plain, p::A6),
        (Mutant::FiveHundredWithoutAVoid, plain, p::A1),
        (Mutant::VoidDoesNotWait, plain, p::A1),
        (Mutant::VoidReplacesTheRow, plain, p::A7),
    ]
};

/// Mutants that break nothing within these bounds, because a second protection covers them.
const HARMLESS: [(Mutant, Bounds); 2] = [
    // The intake raises the key itself before it tells anybody 500, also if the worker has said `voided`.
    (Mutant::DeadlineVoidDoesNotRaise, Bounds { promise: Promise::AtTheProof, ..Bounds::new(3, 0, 1) }),
    // The worker tells of a stale attempt only after its void is committed.
    (Mutant::SupersededWithoutAVoid, Bounds::new(3, 0, 1)),
];

mod mutants {
    use super::*;

    #[test]
    fn each_breaks_the_promise_that_it_should() {
        let mut tried = HashSet::new();
        for (mutant, bounds, promise) in MUTANTS {
            // Within the same bounds, the protocol without the mutant breaks nothing.
            if tried.insert(bounds) {
                all_is_kept(bounds);
            }
            let found = Protocol { bounds, mutant: Some(mutant) }.search(promise, 14);
            let found = found.unwrap_or_else(|| panic!("{mutant:?} is not found"));
            println!("{mutant:?}, after {} states: {}", found.states, found.trace(promise));
        }
    }

    #[test]
    fn some_break_nothing_as_the_protocol_is_safe_twice_over_there() {
        for (mutant, bounds) in HARMLESS {
            let walked = Protocol { bounds, mutant: Some(mutant) }.walk(THREADS);
            assert!(walked.broken().is_empty(), "{mutant:?}: {:?}", walked.broken());
        }
    }
}

/// What ties the model to the code.
mod code {
    use super::*;
    use earmark::ledger::{
        Account, Amount, Books, BusinessId, Email, IdempotencyKey, KeyClaim, KeyState, Moment, Movement, Outcome,
        RaiseCount, Receipt, Request, RequestId, Success, Target, Verdict, decide,
    };
    use earmark_model::{CentRequest, Cents, KeyState as ModelKey, Verdict as ModelVerdict, WorkingCopy};

    #[test]
    fn the_functions_whose_steps_the_model_takes_exist() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for path in FUNCTIONS {
            let (module, function) = path.rsplit_once("::").expect("a path");
            let file = source.join(module.replace("::", "/"));
            let text = std::fs::read_to_string(file.with_extension("rs"));
            let text = text.or_else(|_| std::fs::read_to_string(file.join("mod.rs"))).expect(path);
            assert!(text.contains(&format!("fn {function}(")), "{path} is not there");
        }
    }

    #[test]
    fn each_action_names_its_functions_and_no_others() {
        let actions = include_str!("model/src/action.rs");
        let comments = actions.lines().filter_map(|line| line.trim().strip_prefix("/// "));
        let words = comments.flat_map(|line| line.split('`').skip(1).step_by(2)).filter(|word| word.contains("::"));
        let named: BTreeSet<&str> = words.collect();
        assert_eq!(named, BTreeSet::from_iter(FUNCTIONS.iter().copied()));
    }

    #[test]
    fn a_receipt_allows_the_same_epochs() {
        let counts = || [None, Some(0), Some(1), Some(2)].into_iter();
        for (held, raise) in counts().flat_map(|held| counts().map(move |raise| (held, raise))) {
            let count = |count: Option<u8>| count.map(|count| RaiseCount(count.into()));
            let allowed = Receipt::new(count(held)).may_use(count(raise));
            assert_eq!(protocol(Bounds::new(1, 0, 1)).may_use(held, raise), allowed, "{held:?} {raise:?}");
        }
    }

    const BUSINESS: BusinessId = BusinessId::from_u128(1);
    const NOW: i64 = 1_000;

    /// The allocation that reversals take back.
    const GIVEN: RequestId = RequestId::from_u128(98);

    fn ann() -> Email {
        Email::parse("ann@example.com").expect("an address")
    }

    /// The request that asks for the cent that the model asks for.
    fn request(id: u128, ask: CentRequest) -> Request {
        let key = IdempotencyKey::new("key").expect("a key");
        let amount = Amount::from_cents(1).expect("a cent");
        let movement = match ask.asked {
            Asked::Allocate => Movement::Allocate { email: ann(), amount },
            Asked::Settle => Movement::Settle { email: ann(), amount },
            Asked::Reverse => Movement::Reverse { target: GIVEN, amount: Some(amount) },
        };
        Request {
            id: RequestId::from_u128(id),
            business: BUSINESS,
            movement,
            deadline: if ask.late { NOW - 1 } else { NOW },
            key: ask.claim.map(|epoch| KeyClaim { key, epoch: epoch.into() }),
            reference: None,
        }
    }

    fn in_the_model(verdict: Verdict) -> ModelVerdict {
        let small = |number: i64| u8::try_from(number).expect("small");
        match verdict {
            Verdict::Replayed { .. } => ModelVerdict::Replayed,
            Verdict::StaleEpoch { current, raise } => {
                ModelVerdict::Stale { current: small(current), raise: raise.map(|raise| small(raise.0)) }
            }
            Verdict::Decided(Outcome::Allocated | Outcome::Reversed | Outcome::Settled) => ModelVerdict::Moved,
            Verdict::Decided(
                Outcome::InsufficientBalance | Outcome::InsufficientUserBalance | Outcome::NothingLeft,
            ) => ModelVerdict::Refused,
            Verdict::Decided(Outcome::Voided) => ModelVerdict::Voided,
            other => panic!("not in the model: {other:?}"),
        }
    }

    /// The result of a batch in both: verdicts, the payout balance, what the user gained, the key's epoch, whether it was
    /// raised, whether it has a success.
    type Outcomes = (Vec<ModelVerdict>, i64, i64, i64, bool, bool);

    fn by_the_code(cents: Cents, of_key: Asked, key: ModelKey, asks: &[CentRequest]) -> Outcomes {
        let requests: Vec<Request> = (1..).zip(asks).map(|(id, ask)| request(id, *ask)).collect();
        let other = request(99, CentRequest { asked: of_key, claim: None, late: false });
        let stored = KeyState {
            epoch: key.epoch.into(),
            raise: key.raise.map(|raise| RaiseCount(raise.into())),
            success: key.succeeded.then_some(Success { request: other.id, movement: other.movement }),
        };
        let name = (BUSINESS, IdempotencyKey::new("key").expect("a key"));
        let balance = cents.balance.into();
        let account = Account { payout_balance: balance, payouts_enabled: true, ..Account::default() };
        let given = Target { email: ann(), is_settlement: false, remaining: cents.left.into() };
        let books = Books {
            accounts: [(BUSINESS, account)].into(),
            keys: [(name, stored.clone())].into(),
            users: [((BUSINESS, ann()), cents.user.into())].into(),
            targets: [((BUSINESS, GIVEN), given)].into(),
        };
        let decision = decide(&books, &requests, Moment { clock: NOW, tolerance: 0 });
        let balance = decision.accounts.first().map_or(balance, |(_, account)| account.payout_balance);
        let gained = decision.credits.iter().map(|credit| credit.cents).sum();
        let key = decision.keys.first().map_or(stored, |change| change.state.clone());
        let verdicts = decision.verdicts.into_iter().map(in_the_model).collect();
        (verdicts, balance, gained, key.epoch, key.raise.is_none(), key.success.is_some())
    }

    fn by_the_model(cents: Cents, key: ModelKey, asks: &[CentRequest]) -> Outcomes {
        let mut book = WorkingCopy::new(cents, key);
        let verdicts = asks.iter().map(|ask| book.decide(*ask, None)).collect();
        let (balance, gained) = (book.cents.balance.into(), (book.cents.user - cents.user).into());
        (verdicts, balance, gained, book.key.epoch.into(), book.key.raise.is_none(), book.key.succeeded)
    }

    /// All batches of up to so many requests, where those with a key ask for this.
    fn batches(of_key: Asked, all: &[Asked], longest: usize) -> Vec<Vec<CentRequest>> {
        let plain = all.iter().map(|&asked| (asked, None));
        let kinds = plain.chain([0, 1, 2].map(|claim| (of_key, Some(claim))));
        let asks: Vec<CentRequest> =
            kinds.flat_map(|(asked, claim)| [false, true].map(|late| CentRequest { asked, claim, late })).collect();
        let mut batches: Vec<Vec<CentRequest>> = asks.iter().map(|ask| vec![*ask]).collect();
        for _ in 1..longest {
            let longer: Vec<Vec<CentRequest>> =
                batches.iter().flat_map(|batch| asks.iter().map(|ask| [&batch[..], &[*ask]].concat())).collect();
            batches.extend(longer);
        }
        batches
    }

    #[test]
    fn the_decision_on_every_small_batch_is_that_of_the_ledger() {
        const ALL: [Asked; 3] = [Asked::Allocate, Asked::Reverse, Asked::Settle];
        let keys = || {
            let epochs = [0, 1, 2].into_iter();
            epochs
                .flat_map(|epoch| [false, true].map(|succeeded| ModelKey { epoch, raise: Some(epoch * 2), succeeded }))
        };
        let small = || 0..=2_i8;
        let check = |of_key, cents: Cents, key: ModelKey, batch: &[CentRequest]| {
            let (model, code) = (by_the_model(cents, key, batch), by_the_code(cents, of_key, key, batch));
            assert_eq!(model, code, "{batch:?} with {cents:?} and {key:?}");
        };
        let allocations = batches(Asked::Allocate, &ALL[..1], 3);
        for (balance, key) in small().flat_map(|balance| keys().map(move |key| (balance, key))) {
            let cents = Cents { balance, user: 0, left: 0 };
            allocations.iter().for_each(|batch| check(Asked::Allocate, cents, key, batch));
        }
        let users = || small().flat_map(|user| small().map(move |left| (user, left)));
        for of_key in ALL {
            let mixed = batches(of_key, &ALL, 2);
            for ((user, left), key) in users().flat_map(|user| keys().map(move |key| (user, key))) {
                for balance in 0..=1 {
                    mixed.iter().for_each(|batch| check(of_key, Cents { balance, user, left }, key, batch));
                }
            }
        }
    }
}

/// `make model`: minutes, and gigabytes.
mod larger {
    use super::*;

    fn all_is_kept_aloud(bounds: Bounds) {
        let since = Instant::now();
        println!("{bounds:?}");
        let threads = std::thread::available_parallelism().map_or(THREADS, usize::from);
        let walked = protocol(bounds).walk_aloud(threads);
        println!(
            "{} states, {} steps, at most {} from the start, in {:.0?}",
            walked.states,
            walked.steps,
            walked.depth,
            since.elapsed()
        );
        expect_nothing_broken(bounds, &walked);
    }

    #[test]
    #[ignore = "make model"]
    fn five_attempts_under_one_key() {
        all_is_kept_aloud(Bounds::new(5, 0, 1));
    }

    #[test]
    #[ignore = "make model"]
    fn four_attempts_under_a_key_beside_one_without_one() {
        all_is_kept_aloud(Bounds::new(4, 1, 2));
    }

    #[test]
    #[ignore = "make model"]
    fn three_attempts_under_a_key_beside_two_without_one() {
        all_is_kept_aloud(Bounds::new(3, 2, 2));
    }

    #[test]
    #[ignore = "make model"]
    fn few_attempts_under_a_key_beside_many_without_one() {
        all_is_kept_aloud(Bounds::new(2, 3, 2));
        all_is_kept_aloud(Bounds::new(1, 4, 3));
    }

    #[test]
    #[ignore = "make model"]
    fn money_that_comes_in_between() {
        all_is_kept_aloud(Bounds { deposits: 1, ..Bounds::new(4, 0, 0) });
        all_is_kept_aloud(Bounds { deposits: 2, ..Bounds::new(2, 2, 1) });
    }

    #[test]
    #[ignore = "make model"]
    fn clients_who_send_again_when_they_were_answered_or_have_gone_and_not_before() {
        all_is_kept_aloud(Bounds {
            clients: Clients::OneAtATime,
            promise: Promise::AtTheAnswer,
            ..Bounds::new(4, 0, 1)
        });
    }

    #[test]
    #[ignore = "make model"]
    fn counts_that_other_keys_raise_too() {
        all_is_kept_aloud(Bounds { other_raises: 2, states: States::AsTheyAre { most_raises: 2 }, ..DETAILED });
    }
}

mod walks {
    use super::*;

    #[test]
    fn four_attempts_under_one_key() {
        let walked = all_is_kept(Bounds::new(4, 0, 1));
        assert!(walked.states > 100_000, "only {} states", walked.states);
    }

    #[test]
    fn three_attempts_under_a_key_beside_one_without_one() {
        all_is_kept(Bounds::new(3, 1, 2));
    }

    #[test]
    fn two_attempts_under_a_key_beside_two_without_one() {
        all_is_kept(Bounds::new(2, 2, 1));
        all_is_kept(Bounds::new(2, 2, 2));
    }

    #[test]
    fn reversals_and_settlements_of_the_same_money() {
        all_is_kept(Bounds { keyed: 2, plain: 2, ..RACE });
        all_is_kept(Bounds { keyed: 3, plain: 1, given: 2, ..RACE });
    }

    #[test]
    fn reversals_and_settlements_under_a_key_beside_allocations() {
        let under_a_key = |keyed| Bounds { asks: Asks { keyed, plain: Asked::Allocate }, ..RACE };
        all_is_kept(Bounds { keyed: 3, ..under_a_key(Asked::Reverse) });
        all_is_kept(Bounds { keyed: 3, given: 0, balance: 1, ..under_a_key(Asked::Settle) });
        all_is_kept(Bounds { keyed: 2, plain: 2, ..REVERSALS });
    }

    #[test]
    fn attempts_without_a_key() {
        all_is_kept(Bounds::new(1, 3, 2));
        all_is_kept(Bounds::new(0, 4, 2));
        all_is_kept(Bounds { deposits: 2, ..Bounds::new(0, 4, 1) });
    }

    #[test]
    fn money_that_comes_in_between() {
        all_is_kept(Bounds { deposits: 1, ..Bounds::new(3, 0, 0) });
        all_is_kept(Bounds { deposits: 1, ..Bounds::new(2, 1, 1) });
    }

    #[test]
    fn clients_who_send_again_when_they_were_answered_or_have_gone_and_not_before() {
        all_is_kept(Bounds { clients: Clients::OneAtATime, promise: Promise::AtTheAnswer, ..Bounds::new(3, 0, 1) });
    }

    #[test]
    fn counts_that_other_keys_raise_too() {
        all_is_kept(Bounds { other_raises: 1, ..DETAILED });
    }

    /// The promise that the model does not make, because no service can: see `docs/model.md`.
    #[test]
    fn a_500_does_not_speak_of_what_is_received_between_its_proof_and_its_answer() {
        let hedging = Bounds { clients: Clients::Hedge, ..NAMED };
        let walked = protocol(hedging).search(p::A1K, 12).expect("a second attempt, received in between");
        println!("{}", walked.trace(p::A1K));
        all_is_kept(Bounds { promise: Promise::AtTheProof, ..hedging });
    }
}

#[test]
fn what_can_happen_does() {
    let two = Bounds { events: true, promise: Promise::AtTheProof, ..Bounds::new(2, 0, 1) };
    let three = Bounds { keyed: 3, doubts: false, look_ups: false, ..two };
    for name in p::SOMETIMES {
        let bounds = if name == p::RETRY_AFTER_503 { three } else { two };
        let walked = protocol(bounds).walk_until(&[name], THREADS);
        println!("{} states: {}", walked.states, walked.trace(name));
        assert!(walked.found.contains_key(name), "never: {name}");
    }
}

/// The reductions are right: with and without them, the walk reaches the same states.
#[test]
fn the_reductions_lose_nothing() {
    let under_a_key = Bounds { batch: 1, doubts: false, look_ups: false, ..Bounds::new(2, 0, 1) };
    let race = Bounds { look_ups: false, ..Bounds { keyed: 1, plain: 1, ..RACE } };
    let beside = Bounds { look_ups: false, ..Bounds::new(1, 1, 1) };
    for (bounds, most_raises) in [(under_a_key, 2), (beside, 1), (race, 1), (Bounds::new(0, 2, 1), 0)] {
        let since = Instant::now();
        let compared = Protocol::compare(bounds, most_raises);
        println!("{} states for {} in {:.1?}", compared.states, compared.in_detail, since.elapsed());
        assert!(compared.missed.is_empty(), "{} missed, as {:?}", compared.missed.len(), compared.missed[0]);
        assert!(compared.invented.is_empty(), "{} invented, as {:?}", compared.invented.len(), compared.invented[0]);
    }
}
