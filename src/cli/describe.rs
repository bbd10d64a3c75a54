//! Describes a running service for its row in `processes`: who it is, and the state of its intake, worker and relay.

use crate::clock;
use crate::intake::Intake;
use crate::ops::queues::Depths;
use crate::ops::state::{Describe, counted_by_intake, counted_by_relay, counted_by_worker};
use crate::postgres::Shards;
use crate::postgres::processes::Presence;
use crate::relay::Relay;
use crate::wire::state::{IntakeState, RelayState, State, WorkerState};
use crate::worker::Worker;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// The identity of this process. `kind`: `serve`, `intake`, `worker` or `relay`.
pub(super) fn presence(kind: &'static str) -> Presence {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Presence {
        process_id: Uuid::new_v4(),
        kind,
        host: host.trim().to_owned(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// The parts of a process that serve.
#[derive(Clone, Default)]
pub(super) struct Parts {
    pub intake: Option<Arc<Intake>>,
    pub worker: Option<Arc<Worker>>,
    pub relay: Option<Arc<Relay>>,
}

/// A function that returns the current state of the process: of its parts, of the shards as each of them sees them, and
/// of the queues.
pub(super) fn describe(parts: Parts, ways: Vec<Shards>, depths: Depths) -> Describe {
    let Parts { intake, worker, relay } = parts;
    Arc::new(move || {
        let mut impediments = intake.as_ref().map(|intake| intake.impediments()).unwrap_or_default();
        impediments.extend(worker.iter().flat_map(|worker| worker.impediments()));
        impediments.extend(relay.iter().flat_map(|relay| relay.impediments()));
        State {
            clock_millis: clock::now_millis(),
            impediments,
            shards: troubles(&ways),
            queues: depths.latest(),
            intake: intake.as_deref().map(of_intake),
            worker: worker.as_deref().map(of_worker),
            relay: relay.as_deref().map(of_relay),
        }
    })
}

/// What any of the parts finds wrong with each shard.
fn troubles(ways: &[Shards]) -> BTreeMap<u8, Option<String>> {
    let mut troubles = BTreeMap::<u8, Option<String>>::new();
    for (shard, trouble) in ways.iter().flat_map(Shards::troubles) {
        let known = troubles.entry(shard).or_default();
        *known = known.take().or(trouble.map(str::to_owned));
    }
    troubles
}

fn of_intake(intake: &Intake) -> IntakeState {
    let status = intake.status();
    IntakeState {
        draining: status.draining,
        postgres_up: status.postgres_up,
        rabbitmq_up: status.broker_up,
        rabbitmq_blocked: status.broker_blocked,
        in_flight: status.in_flight as u64,
        oldest_millis: status.oldest_millis,
        ..counted_by_intake()
    }
}

fn of_worker(worker: &Worker) -> WorkerState {
    let status = worker.status();
    WorkerState {
        postgres_up: status.postgres_up,
        consuming: status.consuming,
        paused: status.paused,
        unacknowledged: status.unacknowledged.into_iter().collect(),
        ..counted_by_worker()
    }
}

fn of_relay(relay: &Relay) -> RelayState {
    let status = relay.status();
    RelayState {
        postgres_up: status.postgres_up,
        in_hand: status.in_hand as u64,
        sound: status.counts.sound,
        failing: status.counts.failing,
        disabled: status.counts.disabled,
        waiting: status.counts.waiting,
        oldest_millis: status.counts.oldest_millis,
        exchange_up: status.exchange_up,
        unpublished_millis: status.unpublished_millis,
        ..counted_by_relay()
    }
}
