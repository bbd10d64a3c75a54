//! The overview page: whether all is well, rates, queues and processes; and the actions pause, resume and audit.

use super::guard::Fields;
use super::page::{Confirm, Frame, Trouble, done, page};
use super::snapshot::{Grade, Snapshot, count_of};
use super::{Console, words};
use crate::ledger::{Late, Proof, SettledAs, money};
use crate::ops;
use crate::ops::deployment::Process;
use crate::postgres::{PgConnection, deployments};
use crate::wire::state::Counts;
use askama::Template;
use axum::extract::State;
use axum::response::Response;
use std::sync::Arc;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    snapshot: Arc<Snapshot>,
}

/// The parts of the overview that change. They are sent to open pages every second.
#[derive(Template)]
#[template(path = "parts.html")]
pub(super) struct Parts {
    pub frame: Frame,
    pub snapshot: Arc<Snapshot>,
}

/// The overview page.
pub(super) async fn show(State(console): State<Arc<Console>>, frame: Frame) -> Response {
    page(&Overview { frame, snapshot: console.samples.latest() })
}

/// One line of a table of counts.
pub struct Line {
    pub name: String,
    pub count: u64,
}

impl Snapshot {
    /// The grade of the worst finding.
    pub fn grade(&self) -> Grade {
        self.findings.first().map_or(Grade::Good, |finding| finding.grade)
    }

    /// The worst finding, or that all is well.
    pub fn headline(&self) -> String {
        match self.findings.first() {
            Some(finding) => finding.text.clone(),
            None if self.sample.answered.is_some_and(|rate| rate > 0.0) => "All is well: money moves.".to_owned(),
            None => "All is well: there are no requests right now.".to_owned(),
        }
    }

    pub fn is_paused(&self) -> bool {
        self.standing.paused.is_some()
    }

    /// The CSS class of the tile that shows the age of the oldest request.
    pub fn oldest_grade(&self) -> &'static str {
        match self.sample.oldest {
            Some(age) if age >= super::findings::TOO_OLD_SECONDS => Grade::Bad.as_str(),
            Some(age) if age >= super::findings::OLD_SECONDS => Grade::Warn.as_str(),
            _ => Grade::Good.as_str(),
        }
    }

    /// The number of answers with this status.
    pub fn sent(&self, status: &str) -> u64 {
        count_of(&self.totals.answers, status)
    }

    /// The number of 500s with a proof that nothing was debited.
    pub fn proved(&self) -> u64 {
        self.totals.unexpected.values().sum()
    }

    /// The 500s by the proof that nothing was debited.
    pub fn proofs(&self) -> Vec<Line> {
        lines(&self.totals.unexpected, |proof| Proof::parse(proof).map_or(proof, |proof| words::proof(proof)))
    }

    /// Requests whose reply did not come in time and that had succeeded. Their clients got 200, only later.
    pub fn late_successes(&self) -> u64 {
        [Late::Allocated, Late::Reversed, Late::Settled, Late::Replayed]
            .iter()
            .map(|late| count_of(&self.totals.late, late.as_str()))
            .sum()
    }

    /// What workers decided, with counts. What never happened is left out, except for allocations.
    pub fn outcomes(&self) -> Vec<Line> {
        let shown = |how: &SettledAs| count_of(&self.totals.settled, how.as_str()) > 0 || *how == SettledAs::Allocated;
        let line = |how: &SettledAs| Line {
            name: words::settled_as(*how).to_owned(),
            count: count_of(&self.totals.settled, how.as_str()),
        };
        SettledAs::ALL.iter().filter(|how| shown(how)).map(line).collect()
    }

    /// The statuses that intakes answered with, with counts.
    pub fn answers(&self) -> Vec<Line> {
        lines(&self.totals.answers, |status| status).into_iter().filter(|line| line.count > 0).collect()
    }
}

fn lines(counts: &Counts, name: impl for<'a> Fn(&'a str) -> &'a str) -> Vec<Line> {
    counts.iter().map(|(value, count)| Line { name: name(value).to_owned(), count: *count }).collect()
}

impl Process {
    /// The CSS class and the text of its condition.
    pub fn condition(&self) -> (&'static str, String) {
        if self.is_silent() {
            return ("bad", format!("no report for {}", words::span(self.row.unseen_millis)));
        }
        match [self.state.impediments.clone(), self.state.shards_away()].concat().as_slice() {
            [] if self.state.worker.is_some() && self.state.intake.is_none() => ("good", "consuming".to_owned()),
            [] => ("good", "ready".to_owned()),
            found => ("warn", found.join("; ")),
        }
    }

    /// Whether its intake, worker and relay are connected to Postgres and RabbitMQ, as text.
    pub fn connections(&self) -> String {
        let word = |is_up: bool| if is_up { "connected" } else { "not connected" };
        let of = |name: &str, postgres, rabbitmq| format!("{name}: Postgres {}, RabbitMQ {rabbitmq}", word(postgres));
        let intake = self.state.intake.as_ref();
        let worker = self.state.worker.as_ref();
        let parts = [
            intake.map(|intake| of("intake", intake.postgres_up, word(intake.rabbitmq_up))),
            worker.map(|worker| {
                // A paused worker closes its connections on purpose.
                let rabbitmq = if worker.paused { "paused" } else { word(worker.consuming) };
                of("worker", worker.postgres_up, rabbitmq)
            }),
            self.state.relay.as_ref().map(|relay| format!("relay: Postgres {}", word(relay.postgres_up))),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// Pauses all workers, after a confirmation page.
pub(super) async fn pause(
    State(console): State<Arc<Console>>,
    frame: Frame,
    fields: Fields,
) -> Result<Response, Trouble> {
    if fields.get("confirmed") != "yes" {
        return Ok(ask_to_pause(frame));
    }
    let (prefix, who) = (console.topology.prefix(), frame.name());
    let writing = async |connection: &mut PgConnection| deployments::write_paused(connection, prefix, who).await;
    console.shards.directory().write(writing).await?;
    frame.log("workers paused", &prefix);
    Ok(done("The workers are pausing: each finishes its current batch.", "/"))
}

fn ask_to_pause(frame: Frame) -> Response {
    let consequences = [
        "Each worker finishes its current batch and takes no more messages.",
        "Intakes still accept requests, which wait. Those that wait past their deadline end in 500, and nothing is debited.",
        "Nothing is lost: after Resume the workers continue where they stopped.",
    ];
    page(&Confirm {
        frame,
        question: "Pause all workers?".to_owned(),
        consequences: consequences.map(str::to_owned).to_vec(),
        action: "/workers/pause".to_owned(),
        fields: vec![],
        typed: None,
        button: "Pause the workers".to_owned(),
        is_grave: true,
        back: "/".to_owned(),
    })
}

/// Lets paused workers work again.
pub(super) async fn resume(State(console): State<Arc<Console>>, frame: Frame) -> Result<Response, Trouble> {
    let prefix = console.topology.prefix();
    let writing = async |connection: &mut PgConnection| deployments::write_resumed(connection, prefix).await;
    console.shards.directory().write(writing).await?;
    frame.log("workers resumed", &prefix);
    Ok(done("The workers are resuming.", "/"))
}

/// Audits the ledger now, and records the result under the visitor's name.
pub(super) async fn audit(State(console): State<Arc<Console>>, frame: Frame) -> Result<Response, Trouble> {
    let (audit, noted) = ops::audits::audit_all(&console.shards, frame.name()).await?;
    noted?;
    frame.log("audit", &format!("{} differences", audit.differences.len()));
    let notice = match audit.differences.len() {
        0 => format!("The books balance: {} decided requests were added up.", audit.allocations),
        count => {
            format!(
                "The books do not balance: {count} differences, {} in total.",
                money::write(audit.difference_cents())
            )
        }
    };
    Ok(done(&notice, "/"))
}
