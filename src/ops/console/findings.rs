//! Finds what is wrong with the deployment, as texts for the top of the overview page, worst first.

use super::snapshot::{self, Finding, Grade, Snapshot};
use super::words::{moment, span};
use crate::ledger::money;
use crate::metrics::labels::Status;
use crate::ops::deployment::Process;

/// The age of the oldest request, in seconds, from which it is a warning. Normally requests are answered within
/// milliseconds.
pub(super) const OLD_SECONDS: f64 = 2.0;
/// The age of the oldest request, in seconds, from which it is an alarm: clients are about to get 500.
pub(super) const TOO_OLD_SECONDS: f64 = 4.0;
/// How long a process that vanished is a finding, in milliseconds. Afterwards it is shown only in the list of
/// processes.
const VANISHED_MILLIS: i64 = 300_000;

/// Everything that is wrong, worst first; empty if all is well.
pub(super) fn find(snapshot: &Snapshot) -> Vec<Finding> {
    if !snapshot.is_current {
        let text = "Postgres does not answer this process. What is shown below is not current.";
        return vec![Finding { grade: Grade::Bad, text: text.to_owned() }];
    }
    let mut found = vec![];
    let mut note = |grade, text: String| found.push(Finding { grade, text });
    note_standing(snapshot, &mut note);
    note_processes(snapshot, &mut note);
    note_queues(snapshot, &mut note);
    note_answers(snapshot, &mut note);
    found.sort_by_key(|finding| std::cmp::Reverse(finding.grade));
    found
}

fn note_processes(snapshot: &Snapshot, note: &mut impl FnMut(Grade, String)) {
    let live: Vec<&Process> = snapshot.processes.iter().filter(|process| !process.is_silent()).collect();
    if !live.iter().any(|process| process.state.worker.is_some()) {
        note(Grade::Bad, "No worker is running: no request is applied.".to_owned());
    }
    if !live.iter().any(|process| process.state.intake.is_some()) {
        note(Grade::Bad, "No intake is running: no request is accepted.".to_owned());
    }
    let all_impeded = live.iter().all(|process| !process.state.impediments.is_empty());
    for process in &live {
        for impediment in process.state.impediments.iter().filter(|text| *text != PAUSED) {
            let grade = if all_impeded { Grade::Bad } else { Grade::Warn };
            note(grade, format!("{impediment} (process {} on {}).", process.row.pid, process.row.host));
        }
    }
    for process in &live {
        for away in process.state.shards_away() {
            let where_seen = format!("process {} on {}", process.row.pid, process.row.host);
            note(Grade::Bad, format!("{away}: requests of its businesses are refused ({where_seen})."));
        }
    }
    let vanished = |process: &&Process| process.is_silent() && process.row.unseen_millis < VANISHED_MILLIS;
    for Process { row, .. } in snapshot.processes.iter().filter(vanished) {
        let text =
            format!("The {} {} on {} has not reported for {}.", row.kind, row.pid, row.host, span(row.unseen_millis));
        note(Grade::Warn, text);
    }
}

/// The impediment that paused workers report. It is left out: the pause is a finding of its own, with the operator's
/// name.
const PAUSED: &str = "worker: paused";

fn note_standing(snapshot: &Snapshot, note: &mut impl FnMut(Grade, String)) {
    if let Some(paused) = &snapshot.standing.paused {
        let since = moment(&paused.paused_at);
        note(Grade::Bad, format!("Workers are paused by {} since {since}: no request is applied.", paused.paused_by));
    }
    if let Some(audit) = snapshot.standing.audit.as_ref().filter(|audit| audit.differences > 0) {
        let (count, sum) = (audit.differences, money::write(audit.difference_cents));
        note(Grade::Bad, format!("The last audit found {count} differences, {sum} in total. See `earmark audit`."));
    }
    match snapshot.standing.open_dead_letters() {
        0 => {}
        1 => note(Grade::Warn, "One dead letter waits for a person.".to_owned()),
        count => note(Grade::Warn, format!("{count} dead letters wait for a person.")),
    }
}

fn note_queues(snapshot: &Snapshot, note: &mut impl FnMut(Grade, String)) {
    let is_paused = snapshot.standing.paused.is_some();
    for queue in snapshot.queues.iter().filter(|queue| queue.consumers == Some(0) && !is_paused) {
        note(Grade::Bad, format!("No worker consumes {}.", queue.name));
    }
    match snapshot.sample.oldest {
        Some(age) if age >= OLD_SECONDS => {
            let grade = if age >= TOO_OLD_SECONDS { Grade::Bad } else { Grade::Warn };
            note(grade, format!("The oldest request has waited for {age:.0} s."));
        }
        Some(_) | None => {}
    }
}

fn note_answers(snapshot: &Snapshot, note: &mut impl FnMut(Grade, String)) {
    let (sent, proved) = (
        snapshot::count_of(&snapshot.totals.answers, Status::Unexpected.as_str()),
        snapshot.totals.unexpected.values().sum::<u64>(),
    );
    if sent > proved {
        note(Grade::Bad, format!("{} answers with 500 have no proof.", sent - proved));
    }
    if snapshot.recent_unknown > 0 {
        let text = format!(
            "{} requests were answered with 504 in the last 15 minutes: their callers do not know the outcome.",
            snapshot.recent_unknown
        );
        note(Grade::Warn, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::deployment;
    use crate::postgres::deployments::Paused;
    use crate::postgres::processes::Present;
    use crate::wire::operator::Queue;
    use crate::wire::state::State;
    use time::OffsetDateTime;
    use uuid::Uuid;

    fn process(state: State, unseen_millis: i64) -> Process {
        let at = OffsetDateTime::UNIX_EPOCH;
        let (process_id, kind, version) = (Uuid::from_u128(1), "serve".to_owned(), "0".to_owned());
        let (host, state_text) = ("here".to_owned(), String::new());
        let row = Present {
            process_id,
            kind,
            host,
            pid: 7,
            version,
            started_at: at,
            seen_at: at,
            unseen_millis,
            state: state_text,
        };
        Process { row, state }
    }

    fn fine() -> Snapshot {
        let state = State { intake: Some(Default::default()), worker: Some(Default::default()), ..State::default() };
        Snapshot { is_current: true, processes: vec![process(state, 100)], ..Snapshot::default() }
    }

    fn texts(snapshot: &Snapshot) -> Vec<String> {
        find(snapshot).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        assert_eq!(find(&fine()), []);
    }

    #[test]
    fn what_is_worst_is_said_first() {
        let mut snapshot = fine();
        snapshot.recent_unknown = 2;
        snapshot.sample.oldest = Some(9.0);
        let found = find(&snapshot);
        assert_eq!(found.iter().map(|finding| finding.grade).collect::<Vec<_>>(), [Grade::Bad, Grade::Warn]);
        assert!(found[0].text.contains("waited for 9 s"), "{found:?}");
    }

    #[test]
    fn a_pause_is_said_once_with_its_author() {
        let mut snapshot = fine();
        snapshot.processes[0].state.impediments = vec![PAUSED.to_owned()];
        snapshot.queues = vec![Queue { name: "q".to_owned(), ready: Some(3), unacknowledged: 0, consumers: Some(0) }];
        snapshot.standing.paused = Some(Paused { paused_at: OffsetDateTime::UNIX_EPOCH, paused_by: "ann".to_owned() });
        let found = texts(&snapshot);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("paused by ann"), "{found:?}");
    }

    #[test]
    fn an_answer_with_500_without_a_proof_is_an_alarm() {
        let mut snapshot = fine();
        snapshot.totals.answers.insert("500".to_owned(), 3);
        snapshot.totals.unexpected.insert("inserted".to_owned(), 3);
        assert_eq!(find(&snapshot), []);
        snapshot.totals.unexpected.insert("inserted".to_owned(), 2);
        assert_eq!(find(&snapshot)[0].grade, Grade::Bad);
    }

    #[test]
    fn a_process_that_vanished_is_named_and_counts_no_more() {
        let mut snapshot = fine();
        snapshot.processes[0].row.unseen_millis = deployment::SILENCE_MILLIS;
        let found = texts(&snapshot);
        assert!(found.iter().any(|text| text.starts_with("No worker is running")), "{found:?}");
        assert!(found.iter().any(|text| text.contains("has not reported for 5 s")), "{found:?}");
    }

    #[test]
    fn a_shard_that_is_away_alone_is_named() {
        let mut snapshot = fine();
        let why = Some("postgres is not reachable".to_owned());
        snapshot.processes[0].state.shards = [(0, None), (3, why.clone())].into();
        let found = texts(&snapshot);
        assert!(found[0].starts_with("shard 3: postgres is not reachable: requests of its"), "{found:?}");
        // If all are away, the process itself says so.
        snapshot.processes[0].state.shards = [(0, why.clone()), (3, why)].into();
        assert_eq!(texts(&snapshot), Vec::<String>::new());
    }

    #[test]
    fn without_postgres_nothing_else_is_claimed() {
        let found = texts(&Snapshot { is_current: false, ..fine() });
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("Postgres does not answer"), "{found:?}");
    }
}
