//! The watcher: asks the database again and again whether it can be worked with, over a connection of its own, so that it
//! waits for no other work.

use super::{Error, Postgres, Session, keys};
use crate::ledger::RaiseCount;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often the database is asked. Whatever fails on the way says so at once. A retry under a key may need the count of
/// a raise that another intake made, so within the second after which a client that is told `Retry-After: 1` comes again.
const PING_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is asked at once before it counts as gone. If it is gone, each time takes a moment.
const LOOKS: u32 = 3;
impl Postgres {
    /// Asks until `stop`, and notes the answers in [`Postgres::health`].
    ///
    /// Each time it reads the count of the last raise too. `tell` gets each count that is read, and `None` whenever the
    /// connection is a new one: it may lead to another database.
    pub async fn watch(self, stop: CancellationToken, tell: impl Fn(Option<RaiseCount>)) {
        let health = self.health().clone();
        let mut session = self.session();
        let (mut before, mut looks) = (None, 0);
        while !stop.is_cancelled() {
            if !session.is_open() {
                tell(None);
            }
            let since = Instant::now();
            looks += 1;
            match ask(&mut session).await {
                Ok(count) => {
                    tell(count);
                    health.answered();
                }
                // One lost connection does not mean that the server is gone, nor does a second one lost while it is made.
                Err(error)
                    if health.is_up()
                        && looks < LOOKS
                        && error.may_be_the_connection()
                        && since.elapsed() < PING_INTERVAL =>
                {
                    continue;
                }
                Err(error) => {
                    tell(None);
                    health.failed(&error);
                }
            }
            looks = 0;
            drop(before.take());
            tokio::select! {
                () = tokio::time::sleep(PING_INTERVAL) => {}
                () = stop.cancelled() => {}
                // The old connection is kept until the new one is open: on a server without room for another connection,
                // the new one would otherwise be given the place of the old one, and prove nothing.
                () = health.doubted() => before = Some(std::mem::replace(&mut session, self.session())),
            }
        }
    }
}

/// Proves that the session is what it was set to, and reads the count of the last raise. A count that cannot be read does
/// not make the database unusable, so it is `None` then; a lost connection is an error.
async fn ask(session: &mut Session) -> Result<Option<RaiseCount>, Error> {
    session.prove().await?;
    match session.run(keys::read_raises).await {
        Ok(count) => Ok(Some(count)),
        Err(error @ Error::Away(_)) => Err(error),
        Err(_) => Ok(None),
    }
}
