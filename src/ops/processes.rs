//! The processes of a deployment as they say they are, for people.

use super::state::State;
use crate::ledger::Millis;
use crate::postgres::processes::{self, Present};
use crate::postgres::{Error, Postgres};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

/// A process that says nothing for so long is gone, or cannot reach the database. It says something every second.
const SILENCE_MILLIS: i64 = 5_000;

/// One process of the deployment.
#[derive(Clone, Debug, Serialize)]
pub struct Running {
    pub process_id: Uuid,
    /// `serve`, `intake` or `worker`.
    pub kind: String,
    pub host: String,
    pub pid: i64,
    pub version: String,
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub seen_at: OffsetDateTime,
    /// It has not been heard of for some seconds: what it said of itself may not hold any more.
    pub is_silent: bool,
    /// As it said itself.
    pub state: State,
}

/// All of them, the oldest first.
pub async fn list(postgres: &Postgres) -> Result<Vec<Running>, Error> {
    let present = postgres.read(async |connection| processes::find_present(connection).await).await?;
    Ok(present.into_iter().map(Running::from).collect())
}

impl From<Present> for Running {
    fn from(present: Present) -> Self {
        Self {
            process_id: present.process_id,
            kind: present.kind,
            host: present.host,
            pid: present.pid,
            version: present.version,
            started_at: present.started_at,
            seen_at: present.seen_at,
            is_silent: present.unseen_millis > SILENCE_MILLIS,
            // A newer process may say more, an older one less.
            state: serde_json::from_str(&present.state).unwrap_or_default(),
        }
    }
}

impl Running {
    /// How far its clock is ahead of the database's, in milliseconds.
    pub fn clock_ahead(&self) -> Millis {
        let seen = i64::try_from(self.seen_at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        self.state.clock_millis.saturating_sub(seen)
    }

    /// What it does, in a few words.
    pub fn in_words(&self) -> String {
        match self.state.impediments.as_slice() {
            _ if self.is_silent => "silent".to_owned(),
            [] => "works".to_owned(),
            impediments => impediments.join(", "),
        }
    }
}
