//! The watcher: it asks again and again whether the database can be worked with. It has a connection of its own, so it waits
//! for no other work.

use super::{Error, Postgres, Session, keys};
use crate::ledger::RaiseCount;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often the watcher asks. It must be well below a second: a client that is told `Retry-After: 1` comes again after a
/// second, and by then its intake has to know the raises of other intakes.
const PING_INTERVAL: Duration = Duration::from_millis(250);
/// How often the watcher of a shard finds out whether the standby still confirms commits, if one has to. Each time costs the
/// server a small commit.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);
/// How often in a row the watcher asks, without a pause, before the database counts as gone.
const LOOKS: u32 = 3;

impl Postgres {
    /// Asks until `stop`, and notes the answers in [`Postgres::health`].
    ///
    /// In a shard it also reads the count of the last raise. `tell` gets each count, and `None` whenever the connection is
    /// lost or new, as a new one may lead to another database.
    pub async fn watch(self, stop: CancellationToken, tell: impl Fn(Option<RaiseCount>)) {
        let health = self.health().clone();
        let mut session = self.session();
        let (mut before, mut looks, mut known) = (None, 0, None);
        while !stop.is_cancelled() {
            if !session.is_open() {
                known = None;
                tell(None);
            }
            let since = Instant::now();
            looks += 1;
            let fresh = known.filter(|(_, confirmed): &(_, Instant)| confirmed.elapsed() < CONFIRM_INTERVAL);
            let fresh = fresh.map(|(count, _)| count);
            match ask(&mut session, self.shard.is_some(), fresh).await {
                Ok(count) => {
                    if count != fresh {
                        known = count.map(|count| (count, since));
                    }
                    tell(count);
                    health.answered();
                }
                // A lost connection does not mean that the server is gone, nor does a second one: it asks again at once.
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
                // The old connection stays open until the new one is. If it were closed first, a server that takes no more
                // connections would have room for the new one, and the watcher would not notice.
                () = health.doubted() => before = Some(std::mem::replace(&mut session, self.session())),
            }
        }
    }
}

/// Checks the session, and reads the count of the last raise of a shard. If it is not `fresh`, the standby has to confirm it. The
/// count is `None` if it cannot be read now, because the database can be used without it; but a lost connection is an error, and
/// so are a schema without the count and a standby that does not confirm.
async fn ask(session: &mut Session, is_shard: bool, fresh: Option<RaiseCount>) -> Result<Option<RaiseCount>, Error> {
    session.prove().await?;
    if !is_shard {
        return Ok(None);
    }
    match session.run(async |connection| keys::read_raises(connection, fresh).await).await {
        Ok(count) => Ok(Some(count)),
        Err(error @ (Error::Away(_) | Error::Refused(_) | Error::Unknown(_))) => Err(error),
        Err(_) => Ok(None),
    }
}
