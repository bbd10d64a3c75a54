//! Walks through every state that the protocol can reach, and collects the properties that break.

use crate::state::State;
use crate::{Action, Bounds, Protocol, States, property};
use stateright::report::{ReportData, ReportDiscovery, Reporter};
use stateright::{Checker, HasDiscoveries, Model, Path};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

/// What a walk found.
#[derive(Debug)]
pub struct Walked {
    /// The number of different states.
    pub states: usize,
    /// The number of steps between states. Steps to a known state count too.
    pub steps: usize,
    /// The largest number of steps from the start to a state.
    pub depth: usize,
    /// The properties that do not hold, and examples of what must happen. Each has the steps that lead there.
    pub found: BTreeMap<&'static str, Vec<String>>,
}

impl Walked {
    /// The properties that do not hold.
    pub fn broken(&self) -> Vec<&'static str> {
        property::ALWAYS.into_iter().filter(|name| self.found.contains_key(name)).collect()
    }

    /// The steps that lead to what was found.
    pub fn trace(&self, name: &str) -> String {
        let steps = self.found.get(name).map_or(&[][..], |steps| steps);
        let mut trace = format!("{name}\n");
        for (number, step) in (1..).zip(steps) {
            let _ = writeln!(trace, "{number:3}. {step}");
        }
        trace
    }
}

impl Protocol {
    /// Looks at every state within the bounds.
    pub fn walk(self, threads: usize) -> Walked {
        walked(&self.checker().threads(threads).spawn_bfs().join())
    }

    /// The same, and prints its progress.
    pub fn walk_aloud(self, threads: usize) -> Walked {
        walked(&self.checker().threads(threads).spawn_bfs().join_and_report(&mut Aloud))
    }

    /// Walks until all of `properties` are found.
    pub fn walk_until(self, properties: &[&'static str], threads: usize) -> Walked {
        let all = HasDiscoveries::AllOf(properties.iter().copied().collect());
        walked(&self.checker().threads(threads).finish_when(all).spawn_bfs().join())
    }

    /// Looks for a shortest way to `property`, with at most `most_steps` steps from the start.
    pub fn search(self, property: &'static str, most_steps: usize) -> Option<Walked> {
        let search = |steps| {
            let found = HasDiscoveries::AllOf([property].into());
            // The checker counts states and this function counts steps. The checker does not look at the last state
            // either.
            walked(&self.checker().finish_when(found).target_max_depth(steps + 2).spawn_bfs().join())
        };
        (1..=most_steps).map(search).find(|walked| walked.found.contains_key(property))
    }

    /// Reaches the states again without the checker, for comparison.
    fn reach(&self) -> Reached {
        let mut reached: Reached = self.init_states().into_iter().collect();
        let mut to_do: Vec<State> = reached.iter().copied().collect();
        let mut actions = vec![];
        while let Some(state) = to_do.pop() {
            self.actions(&state, &mut actions);
            for action in actions.drain(..) {
                let next = self.next_state(&state, action).filter(|next| self.within_boundary(next));
                to_do.extend(next.filter(|next| reached.insert(*next)));
            }
        }
        reached
    }

    /// Compares two sets of states: those that are reached with the reductions, and those that are reached without them
    /// and reduced afterwards.
    pub fn compare(bounds: Bounds, most_raises: u8) -> Compared {
        let reduced = Self { bounds, mutant: None };
        let detailed = Self { bounds: Bounds { states: States::AsTheyAre { most_raises }, ..bounds }, mutant: None };
        let (states, in_detail) = (reduced.reach(), detailed.reach());
        let afterwards: Reached = in_detail.iter().map(|state| reduced.reduce(*state)).collect();
        Compared {
            states: states.len(),
            in_detail: in_detail.len(),
            missed: afterwards.difference(&states).copied().collect(),
            invented: states.difference(&afterwards).copied().collect(),
        }
    }
}

/// The same protocol with and without the reductions.
#[derive(Debug)]
pub struct Compared {
    pub states: usize,
    pub in_detail: usize,
    /// States that are reached only without the reductions.
    pub missed: Vec<State>,
    /// States that are reached only with the reductions.
    pub invented: Vec<State>,
}

type Reached = HashSet<State, BuildHasherDefault<Quick>>;

/// Hashes small numbers quickly. Nobody chooses states to make them collide.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn walked(checker: &impl Checker<Protocol>) -> Walked {
    let found = checker.discoveries().into_iter().map(|(name, path)| (name, steps(path)));
    Walked {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        found: found.collect(),
    }
}

fn steps(path: Path<State, Action>) -> Vec<String> {
    path.into_actions().iter().map(ToString::to_string).collect()
}

struct Aloud;

impl Reporter<Protocol> for Aloud {
    fn report_checking(&mut self, data: ReportData) {
        println!("{:6} s  {:>12} states  {:>14} steps", data.duration.as_secs(), data.unique_states, data.total_states);
    }

    fn report_discoveries(&mut self, _: &Protocol, _: BTreeMap<&'static str, ReportDiscovery<Protocol>>) {}

    fn delay(&self) -> Duration {
        Duration::from_secs(10)
    }
}
