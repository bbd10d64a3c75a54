//! What must hold in every state, and what must happen in some, so that the walk proves something.

use crate::Protocol;
use crate::bounds::Bounds;
use crate::decide::Cents;
use crate::state::{Answer, Asked, Attempt, Event, Row, Stage, State};
use stateright::Property;

/// The names of the properties.
pub mod property {
    pub const A1: &str = "A1: what is answered 500 or 503 never moves money";
    pub const A1K: &str = "A1k: after a 500 under a key, nothing that was received before is applied";
    pub const A2: &str = "A2: no movement without a request that was sent";
    pub const A3: &str = "A3: each request and each key moves money at most once";
    pub const A4: &str = "A4: what is answered 200 was moved exactly once";
    pub const A5: &str = "A5: each balance is the sum of its movements, and never negative";
    pub const A6: &str = "A6: what is refused never moves money";
    pub const A7: &str = "A7: an allocation row never changes";
    pub const NUMBERED: &str = "movements are numbered in the order of the commits, without a gap";
    pub const GHOSTS: &str = "the void of a stale attempt raises nothing";
    pub const TWICE: &str = "no attempt is published more than twice";
    pub const COUNTED: &str = "a key that was raised has the count of its raise";

    pub const ALWAYS: [&str; 12] = [A1, A1K, A2, A3, A4, A5, A6, A7, NUMBERED, GHOSTS, TWICE, COUNTED];

    pub const RETRY_AFTER_500: &str = "a retry after a 500 is allocated";
    pub const RETRY_AFTER_503: &str = "a retry after a 503 is allocated";
    pub const GHOST_IS_STALE: &str = "an attempt whose client has gone is stale";
    pub const GHOST_IS_ALLOCATED: &str = "an attempt whose client has gone is allocated";
    pub const LATE_COMMIT: &str = "a late commit turns up after a void has waited for it";
    pub const LATE_SUCCESS: &str = "a void finds that its request was allocated";
    pub const LATE_REPLAY: &str = "a void finds that another attempt was allocated";
    pub const AT_ONCE: &str = "a batch is settled at once";
    pub const FROM_ITS_ROW: &str = "a message that comes again is answered from its row";
    pub const RAISED_BY_THE_WORKER: &str = "a deadline that has passed raises the key";
    pub const SUPERSEDED: &str = "a stale attempt is answered 503";
    pub const PUBLISHED_ANEW: &str = "a stale attempt is published anew";

    pub const SOMETIMES: [&str; 12] = [
        RETRY_AFTER_500,
        RETRY_AFTER_503,
        GHOST_IS_STALE,
        GHOST_IS_ALLOCATED,
        LATE_COMMIT,
        LATE_SUCCESS,
        LATE_REPLAY,
        AT_ONCE,
        FROM_ITS_ROW,
        RAISED_BY_THE_WORKER,
        SUPERSEDED,
        PUBLISHED_ANEW,
    ];
}

pub(crate) fn all(protocol: &Protocol) -> Vec<Property<Protocol>> {
    use property as p;
    let mut all = vec![
        Property::always(p::A1, |_, state: &State| told(state, &[Answer::Unexpected, Answer::Unavailable]) == 0),
        Property::always(p::A1K, |_, state: &State| state.attempts.iter().all(|it| !it.fenced || it.moves() == 0)),
        Property::always(p::A2, |_, state: &State| state.attempts.iter().all(|it| it.moves() == 0 || it.is_received())),
        Property::always(p::A3, |_, state: &State| moves_once(state)),
        Property::always(p::A4, successes_have_moved),
        Property::always(p::A5, balances),
        Property::always(p::A6, |_, state: &State| told(state, &[Answer::Refused]) == 0),
        Property::always(p::A7, |_, state: &State| !state.rewritten),
        Property::always(p::NUMBERED, |_, state: &State| !state.misnumbered),
        Property::always(p::GHOSTS, |_, state: &State| !state.ghost_raised),
        Property::always(p::TWICE, |_, state: &State| !state.published_again),
        Property::always(p::COUNTED, |_, state: &State| {
            (state.key.epoch == 0) == (state.key.raise_count == 0) && state.key.raise_count <= state.raises
        }),
    ];
    if protocol.bounds.events {
        all.extend([
            Property::sometimes(p::RETRY_AFTER_500, |_, state: &State| saw(state, Event::RetryAfter500Allocated)),
            Property::sometimes(p::RETRY_AFTER_503, |_, state: &State| saw(state, Event::RetryAfter503Allocated)),
            Property::sometimes(p::GHOST_IS_STALE, |_, state: &State| saw(state, Event::GhostIsStale)),
            Property::sometimes(p::GHOST_IS_ALLOCATED, |_, state: &State| saw(state, Event::GhostIsAllocated)),
            Property::sometimes(p::LATE_COMMIT, |_, state: &State| saw(state, Event::LateCommitAfterAVoidWaited)),
            Property::sometimes(p::LATE_SUCCESS, |_, state: &State| saw(state, Event::LateSuccess)),
            Property::sometimes(p::LATE_REPLAY, |_, state: &State| saw(state, Event::LateReplay)),
            Property::sometimes(p::AT_ONCE, |_, state: &State| saw(state, Event::SettledAtOnce)),
            Property::sometimes(p::FROM_ITS_ROW, |_, state: &State| saw(state, Event::AnsweredFromItsRow)),
            Property::sometimes(p::RAISED_BY_THE_WORKER, |_, state: &State| saw(state, Event::RaisedByTheWorker)),
            Property::sometimes(p::SUPERSEDED, |_, state: &State| saw(state, Event::Superseded)),
            Property::sometimes(p::PUBLISHED_ANEW, |_, state: &State| saw(state, Event::PublishedAnew)),
        ]);
    }
    all
}

/// How many cents the attempts with one of these answers have together.
fn told(state: &State, answers: &[Answer]) -> u8 {
    let told =
        state.attempts.iter().filter(|it| matches!(it.stage, Stage::Answered(answer) if answers.contains(&answer)));
    told.map(|attempt| attempt.moves()).sum()
}

/// A movement and its row come together, at most one for each request and for the key.
fn moves_once(state: &State) -> bool {
    let messages = || state.attempts.iter().flat_map(|attempt| attempt.messages);
    messages().all(|message| message.moves == u8::from(message.row == Row::Moved))
        && state.keyed().map(|attempt| attempt.moves()).sum::<u8>() <= 1
}

fn successes_have_moved(_: &Protocol, state: &State) -> bool {
    let of_key: u8 = state.keyed().map(|attempt| attempt.moves()).sum();
    let told = state.attempts.iter().filter(|attempt| attempt.stage == Stage::Answered(Answer::Success));
    told.into_iter().all(|attempt| if attempt.is_keyed() { of_key == 1 } else { attempt.moves() == 1 })
}

fn balances(protocol: &Protocol, state: &State) -> bool {
    let Bounds { balance, given, .. } = protocol.bounds;
    let moved = |asked| {
        let moves = state.attempts.iter().filter(|attempt| attempt.asked == asked).map(Attempt::moves);
        moves.sum::<u8>().cast_signed()
    };
    let (allocated, reversed, settled) = (moved(Asked::Allocate), moved(Asked::Reverse), moved(Asked::Settle));
    let expected = Cents {
        balance: balance + state.deposited.cast_signed() - allocated + reversed,
        user: given + allocated - reversed - settled,
        left: given - reversed,
    };
    state.cents == expected && expected.balance >= 0 && expected.user >= 0 && expected.left >= 0
}

fn saw(state: &State, event: Event) -> bool {
    state.seen.event == Some(event)
}
