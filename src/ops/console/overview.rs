//! The first page: whether all is well, in one glance, and what people do about it: pause, resume, audit.

use super::findings::Grade;
use super::guard::Fields;
use super::page::{Confirm, Frame, Trouble, done, page};
use super::samples::{self, Process, Snapshot};
use super::{Console, money, words};
use crate::postgres::{PgConnection, audits, partitions};
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

/// The parts of the overview that change, for a page that is open.
#[derive(Template)]
#[template(path = "parts.html")]
pub struct Parts {
    pub frame: Frame,
    pub snapshot: Arc<Snapshot>,
}

pub async fn show(State(console): State<Arc<Console>>, frame: Frame) -> Response {
    page(&Overview { frame, snapshot: console.samples.latest() })
}

/// One line of a list of counts.
pub struct Line {
    pub name: String,
    pub count: u64,
}

impl Snapshot {
    pub fn grade(&self) -> Grade {
        self.findings.first().map_or(Grade::Good, |finding| finding.grade)
    }

    /// The worst in one sentence, or that all is well.
    pub fn headline(&self) -> String {
        match self.findings.first() {
            Some(finding) => finding.text.clone(),
            None if self.sample.answered.is_some_and(|rate| rate > 0.0) => "All is well: money moves.".to_owned(),
            None => "All is well: nobody asks for anything right now.".to_owned(),
        }
    }

    pub fn is_paused(&self) -> bool {
        self.standing.paused.is_some()
    }

    /// Which tile of what age is bad, for its looks.
    pub fn oldest_grade(&self) -> &'static str {
        match self.sample.oldest {
            Some(age) if age >= super::findings::TOO_OLD_SECONDS => Grade::Bad.as_str(),
            Some(age) if age >= super::findings::OLD_SECONDS => Grade::Warn.as_str(),
            _ => Grade::Good.as_str(),
        }
    }

    pub fn sent(&self, status: &str) -> u64 {
        samples::count_of(&self.totals.answers, status)
    }

    pub fn proved(&self) -> u64 {
        self.totals.unexpected.values().sum()
    }

    /// 500s by what proves them.
    pub fn proofs(&self) -> Vec<Line> {
        lines(&self.totals.unexpected, |proof| match proof {
            "inserted" => "its row was inserted as voided",
            "found" => "its row already said voided",
            "key_raised" => "voided, and its key's epoch raised",
            "foreign_id" => "its id belongs to another request",
            other => other,
        })
    }

    /// Requests that were given up on, and had been allocated all the same: their callers got their 200 late.
    pub fn late_successes(&self) -> u64 {
        samples::count_of(&self.totals.late, "allocated") + samples::count_of(&self.totals.late, "replayed")
    }

    pub fn outcomes(&self) -> Vec<Line> {
        lines(&self.totals.settled, |outcome| match outcome {
            "allocated" => "Allocated",
            "insufficient_balance" => "Refused: balance",
            "payouts_disabled" => "Refused: payouts off",
            "voided" => "Voided: too late",
            "replayed" => "Success repeated (key)",
            "key_reused" => "Key used before",
            "stale_epoch" => "Voided: key moved on",
            "rejected" => "Cannot be applied",
            "decided_before" => "Decided before",
            other => other,
        })
    }

    pub fn answers(&self) -> Vec<Line> {
        lines(&self.totals.answers, |status| status).into_iter().filter(|line| line.count > 0).collect()
    }
}

fn lines(counts: &crate::ops::state::Counts, name: impl Fn(&str) -> &str) -> Vec<Line> {
    counts.iter().map(|(value, count)| Line { name: name(value).to_owned(), count: *count }).collect()
}

impl Process {
    /// How it is, in words, and with which look.
    pub fn condition(&self) -> (&'static str, String) {
        if !self.is_live() {
            return ("bad", format!("not heard of for {}", words::span(self.row.unseen_millis)));
        }
        match self.state.impediments.as_slice() {
            [] if self.state.worker.is_some() && self.state.intake.is_none() => ("good", "consumes".to_owned()),
            [] => ("good", "ready".to_owned()),
            found => ("warn", found.join("; ")),
        }
    }

    pub fn connections(&self) -> String {
        let word = |is_up: bool| if is_up { "connected" } else { "away" };
        let of = |name: &str, postgres, rabbitmq| format!("{name}: Postgres {}, RabbitMQ {rabbitmq}", word(postgres));
        let intake = self.state.intake.as_ref();
        let worker = self.state.worker.as_ref();
        let parts = [
            intake.map(|intake| of("intake", intake.postgres_up, word(intake.rabbitmq_up))),
            worker.map(|worker| {
                // A paused worker gives its connections up on purpose.
                let rabbitmq = if worker.paused { "paused" } else { word(worker.consuming) };
                of("worker", worker.postgres_up, rabbitmq)
            }),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// Has all workers take nothing more.
pub async fn pause(State(console): State<Arc<Console>>, frame: Frame, fields: Fields) -> Result<Response, Trouble> {
    if fields.get("confirmed") != "yes" {
        return Ok(ask_to_pause(frame));
    }
    let (prefix, who) = (console.topology.prefix(), frame.name());
    let writing = async |connection: &mut PgConnection| partitions::write_paused(connection, prefix, who).await;
    console.postgres.write(writing).await?;
    frame.log("workers paused", &prefix);
    Ok(done("The workers are told to pause: each finishes the batch in hand.", "/"))
}

fn ask_to_pause(frame: Frame) -> Response {
    let consequences = [
        "Each worker finishes the batch in hand and takes nothing more.",
        "Requests go on being taken, and wait. Those that wait longer than their time end in 500, undebited.",
        "Nothing is lost: after Resume the workers go on where they stopped.",
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

/// Lets them work again.
pub async fn resume(State(console): State<Arc<Console>>, frame: Frame) -> Result<Response, Trouble> {
    let prefix = console.topology.prefix();
    let writing = async |connection: &mut PgConnection| partitions::write_resumed(connection, prefix).await;
    console.postgres.write(writing).await?;
    frame.log("workers resumed", &prefix);
    Ok(done("The workers are told to go on.", "/"))
}

/// Audits the ledger now.
pub async fn audit(State(console): State<Arc<Console>>, frame: Frame) -> Result<Response, Trouble> {
    let audit = audits::audit(&console.postgres).await?;
    let who = frame.name();
    let writing = async |connection: &mut PgConnection| audits::write_audit(connection, &audit, who).await;
    console.postgres.write(writing).await?;
    frame.log("audit", &format!("{} differences", audit.differences.len()));
    let notice = match audit.differences.len() {
        0 => format!("The books balance: {} decided requests were added up.", audit.allocations),
        count => {
            format!("The books do not balance: {count} differences, {} in sum.", money::write(audit.difference_cents()))
        }
    };
    Ok(done(&notice, "/"))
}
