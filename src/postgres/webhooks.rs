//! Webhooks: endpoints, the events that wait for them, and what became of the last deliveries.
//!
//! A relay has an endpoint for as long as its claim is the endpoint's last one. Every statement of a relay names its
//! claim, so a relay that was frozen while another took the endpoint over changes nothing. Giving an endpoint back ends the
//! claim too: a statement that prolongs it, and comes late, would keep the endpoint from everybody.

use super::Error;
use crate::ledger::webhooks::{Change, MOST_DELIVERIES, MOST_ENDPOINTS, MOST_WAITING, Next, STATES};
use crate::ledger::{BusinessId, Delivery, Disabled};
use sqlx::PgConnection;
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// An endpoint of a business.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// The endpoint.
    pub webhook_id: Uuid,
    /// Where events are posted.
    pub url: String,
    /// How often its secret was drawn.
    pub secret_version: i32,
    /// Until when the secret before this one signs too. In the past if it does not.
    pub former_until: OffsetDateTime,
    /// The number of the last event that was delivered or waits.
    pub cursor: i64,
    /// How many events behind the cursor wait.
    pub waiting: i64,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// The first failure since the last success; `None` if the last delivery was a success.
    pub failing_since: Option<OffsetDateTime>,
    /// Since when nothing is delivered; `None` while it is enabled.
    pub disabled_at: Option<OffsetDateTime>,
    /// Why it is disabled.
    pub disabled_by: Option<Disabled>,
}

impl Webhook {
    /// How it stands, in a word: `sound`, `failing` or `disabled`.
    pub fn state(&self) -> &'static str {
        let [sound, failing, disabled] = STATES;
        match (self.disabled_at, self.failing_since) {
            (Some(_), _) => disabled,
            (None, Some(_)) => failing,
            (None, None) => sound,
        }
    }
}

/// Stores a new endpoint in a free place. It gets the events after `after`, or those from now on. Nothing is stored if
/// there is no place, no such business, no event of that number yet, or an endpoint with this id. If another takes the
/// place meanwhile, the constraint `webhooks_slot` is violated.
pub async fn write_new(
    connection: &mut PgConnection,
    business: BusinessId,
    webhook: Uuid,
    url: &str,
    after: Option<i64>,
) -> Result<(), Error> {
    sqlx::query!(
        "/* write_webhook */
         INSERT INTO webhooks (business_id, webhook_id, slot, url, cursor)
         SELECT b.business_id, $2, s.slot::smallint, $3, COALESCE($4, b.seq)
         FROM businesses b CROSS JOIN generate_series(1, $5::int) AS s (slot)
         WHERE b.business_id = $1 AND COALESCE($4 <= b.seq, true)
           AND NOT EXISTS (SELECT FROM webhooks w WHERE w.business_id = $1 AND w.slot = s.slot)
         ORDER BY s.slot LIMIT 1
         ON CONFLICT (business_id, webhook_id) DO NOTHING",
        business as BusinessId,
        webhook,
        url,
        after,
        i32::from(MOST_ENDPOINTS)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The endpoints of a business, the oldest first; only one of them, if `webhook` names it.
pub async fn find_all(
    connection: &mut PgConnection,
    business: BusinessId,
    webhook: Option<Uuid>,
) -> Result<Vec<Webhook>, Error> {
    Ok(sqlx::query_as!(
        Webhook,
        r#"/* find_webhooks */
        SELECT webhook_id, url, secret_version, former_until, cursor, created_at, failing_since, disabled_at,
               disabled_by AS "disabled_by: Disabled",
               (SELECT count(*) FROM webhook_retries r WHERE r.business_id = $1 AND r.webhook_id = w.webhook_id) AS "waiting!"
        FROM webhooks w WHERE business_id = $1 AND ($2::uuid IS NULL OR webhook_id = $2) ORDER BY created_at, webhook_id"#,
        business as BusinessId,
        webhook
    )
    .fetch_all(connection)
    .await?)
}

/// One endpoint; `None` if the business has none with this id.
pub async fn find_one(
    connection: &mut PgConnection,
    business: BusinessId,
    webhook: Uuid,
) -> Result<Option<Webhook>, Error> {
    Ok(find_all(connection, business, Some(webhook)).await?.pop())
}

/// Removes an endpoint with all that waits for it; false if there is none.
pub async fn remove_one(connection: &mut PgConnection, business: BusinessId, webhook: Uuid) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* remove_webhook */ DELETE FROM webhooks WHERE business_id = $1 AND webhook_id = $2",
        business as BusinessId,
        webhook
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Draws the next secret after `version`, which signs on for `overlap`; false if there is no such endpoint. Twice is
/// the same as once.
pub async fn write_rotated(
    connection: &mut PgConnection,
    business: BusinessId,
    webhook: Uuid,
    version: i32,
    overlap: Duration,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* write_rotated */
         UPDATE webhooks SET secret_version = GREATEST(secret_version, $3 + 1),
                former_until = CASE WHEN secret_version = $3 THEN now() + make_interval(secs => $4) ELSE former_until END
         WHERE business_id = $1 AND webhook_id = $2",
        business as BusinessId,
        webhook,
        version,
        overlap.as_secs_f64()
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Disables an endpoint; false if there is none. One that is disabled stays as it is.
pub async fn write_disabled(
    connection: &mut PgConnection,
    business: BusinessId,
    webhook: Uuid,
    by: Disabled,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* write_disabled */
         UPDATE webhooks SET disabled_at = COALESCE(disabled_at, now()), disabled_by = COALESCE(disabled_by, $3)
         WHERE business_id = $1 AND webhook_id = $2",
        business as BusinessId,
        webhook,
        by as Disabled
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Enables an endpoint; false if there is none. It goes on where it stopped, and what waits is due at once. One that is
/// enabled stays as it is.
pub async fn write_enabled(connection: &mut PgConnection, business: BusinessId, webhook: Uuid) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* write_enabled */
         WITH due AS (
             UPDATE webhook_retries r SET due_at = LEAST(due_at, now()) FROM webhooks w
             WHERE r.business_id = $1 AND r.webhook_id = $2 AND w.business_id = $1 AND w.webhook_id = $2
               AND w.disabled_at IS NOT NULL
         )
         UPDATE webhooks SET disabled_at = NULL, disabled_by = NULL,
                failing_since = CASE WHEN disabled_at IS NULL THEN failing_since END
         WHERE business_id = $1 AND webhook_id = $2",
        business as BusinessId,
        webhook
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Puts an event behind the cursor among those that wait, due now; false if it is not behind the cursor, or if too many
/// wait. Twice is the same as once.
pub async fn write_again(
    connection: &mut PgConnection,
    business: BusinessId,
    webhook: Uuid,
    seq: i64,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "/* write_again */
         INSERT INTO webhook_retries (business_id, webhook_id, seq, failures, due_at)
         SELECT w.business_id, w.webhook_id, $3, 0, now() FROM webhooks w
         WHERE w.business_id = $1 AND w.webhook_id = $2 AND w.cursor >= $3 AND (
             SELECT count(*) FROM webhook_retries r WHERE r.business_id = $1 AND r.webhook_id = $2 AND r.seq <> $3) < $4
         ON CONFLICT (business_id, webhook_id, seq) DO UPDATE SET due_at = LEAST(webhook_retries.due_at, excluded.due_at)",
        business as BusinessId,
        webhook,
        seq,
        MOST_WAITING
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A try to deliver.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Counts the tries of the endpoint from 1.
    pub number: i64,
    /// The number of the event.
    pub seq: i64,
    /// When it had ended.
    pub tried_at: OffsetDateTime,
    /// How long it took, in milliseconds.
    pub millis: i64,
    /// How it ended.
    pub result: Delivery,
    /// The status of the answer, if there was one.
    pub status: Option<i32>,
    /// The first kilobyte of the answer, if there was one.
    pub answer: Option<String>,
}

/// The last tries of an endpoint before number `before`, the newest first, at most `limit`.
pub async fn read_tried(
    connection: &mut PgConnection,
    business: BusinessId,
    webhook: Uuid,
    before: i64,
    limit: i64,
) -> Result<Vec<Tried>, Error> {
    Ok(sqlx::query_as!(
        Tried,
        r#"/* read_tried */
        SELECT number, seq, tried_at, millis, result AS "result: Delivery", status, answer FROM webhook_deliveries
        WHERE business_id = $1 AND webhook_id = $2 AND number < $3 ORDER BY number DESC LIMIT $4"#,
        business as BusinessId,
        webhook,
        before,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// An endpoint that a relay has taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The business.
    pub business: BusinessId,
    /// The endpoint.
    pub webhook: Uuid,
    /// The right to work on it: the number of this claim.
    pub claim: i64,
    /// Where events are posted.
    pub url: String,
    /// Which of its secrets signs.
    pub secret_version: i32,
    /// Whether the secret before it signs too.
    pub signs_twice: bool,
    /// The number of the last event that was delivered or waits.
    pub cursor: i64,
    /// The number of the last event that may be delivered. Later ones may be missing on a synchronous standby.
    pub last: i64,
    /// How many events behind the cursor wait.
    pub waiting: i64,
    /// How many deliveries were tried.
    pub tries: i64,
    /// For how long it has failed, in milliseconds; `None` if its last delivery was a success.
    pub failing_millis: Option<i64>,
}

/// Takes endpoints for which there is work and which no relay has, for as long as `lease`: at most `sound` of those
/// that work, and `failing` of those that fail. Those that nobody has had for longest come first.
///
/// The commit of this statement comes after every event that it has seen. So these events are on the synchronous
/// standby.
pub async fn lock_due(
    connection: &mut PgConnection,
    sound: i64,
    failing: i64,
    lease: Duration,
) -> Result<Vec<Taken>, Error> {
    Ok(sqlx::query_as!(
        Taken,
        r#"/* lock_due_webhooks */
        WITH due AS (
            SELECT w.business_id, w.webhook_id, b.seq, w.failing_since IS NOT NULL AS fails, w.free_at
            FROM webhooks w JOIN businesses b USING (business_id)
            WHERE w.disabled_at IS NULL AND w.free_at <= now() AND (
                EXISTS (SELECT FROM webhook_retries r
                        WHERE r.business_id = w.business_id AND r.webhook_id = w.webhook_id AND r.due_at <= now())
                OR b.seq > w.cursor AND (SELECT count(*) FROM webhook_retries r
                                         WHERE r.business_id = w.business_id AND r.webhook_id = w.webhook_id) < $4)
        ), ranked AS (
            SELECT *, row_number() OVER (PARTITION BY fails ORDER BY free_at) AS place FROM due
        ), chosen AS (
            SELECT w.business_id, w.webhook_id, r.seq FROM webhooks w JOIN ranked r USING (business_id, webhook_id)
            WHERE r.place <= CASE WHEN r.fails THEN $2::bigint ELSE $1::bigint END
              AND w.disabled_at IS NULL AND w.free_at <= now()
            FOR NO KEY UPDATE OF w SKIP LOCKED
        )
        UPDATE webhooks w SET claim = claim + 1, free_at = now() + make_interval(secs => $3) FROM chosen c
        WHERE w.business_id = c.business_id AND w.webhook_id = c.webhook_id
        RETURNING w.business_id AS "business: BusinessId", w.webhook_id AS webhook, w.claim, w.url, w.secret_version,
                  w.former_until > now() AS "signs_twice!", w.cursor, c.seq AS last, w.tries,
                  (SELECT count(*) FROM webhook_retries r
                   WHERE r.business_id = w.business_id AND r.webhook_id = w.webhook_id) AS "waiting!",
                  (extract(epoch FROM now() - w.failing_since) * 1000)::bigint AS failing_millis"#,
        sound,
        failing,
        lease.as_secs_f64(),
        MOST_WAITING
    )
    .fetch_all(connection)
    .await?)
}

/// Prolongs claims by `lease` from now on. Returns those that still hold.
pub async fn mark_held(
    connection: &mut PgConnection,
    held: &[(BusinessId, Uuid, i64)],
    lease: Duration,
) -> Result<Vec<(BusinessId, Uuid, i64)>, Error> {
    let rows = sqlx::query!(
        r#"/* mark_held_webhooks */
        UPDATE webhooks w SET free_at = now() + make_interval(secs => $4)
        FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS h (business_id, webhook_id, claim)
        WHERE w.business_id = h.business_id AND w.webhook_id = h.webhook_id AND w.claim = h.claim
        RETURNING w.business_id AS "business: BusinessId", w.webhook_id AS webhook, w.claim"#,
        &held.iter().map(|(business, _, _)| *business).collect::<Vec<_>>() as &[BusinessId],
        &held.iter().map(|(_, webhook, _)| *webhook).collect::<Vec<_>>(),
        &held.iter().map(|(_, _, claim)| *claim).collect::<Vec<_>>(),
        lease.as_secs_f64()
    );
    Ok(rows.map(|row| (row.business, row.webhook, row.claim)).fetch_all(connection).await?)
}

/// Gives an endpoint back: another relay may take it at once. Does nothing if the claim does not hold any more.
pub async fn mark_free(connection: &mut PgConnection, taken: &Taken) -> Result<(), Error> {
    sqlx::query!(
        "/* mark_free_webhook */
         UPDATE webhooks SET free_at = now(), claim = claim + 1 WHERE business_id = $1 AND webhook_id = $2 AND claim = $3",
        taken.business as BusinessId,
        taken.webhook,
        taken.claim
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An event behind the cursor that is due.
#[derive(Clone, Debug)]
pub struct Due {
    /// The number of the event.
    pub seq: i64,
    /// How often it has failed.
    pub failures: i32,
    /// Since when it is due.
    pub due_at: OffsetDateTime,
}

/// What is due for an endpoint, what has waited longest first, at most `limit`.
pub async fn find_due(
    connection: &mut PgConnection,
    business: BusinessId,
    webhook: Uuid,
    limit: i64,
) -> Result<Vec<Due>, Error> {
    Ok(sqlx::query_as!(
        Due,
        "/* find_due_retries */
         SELECT seq, failures, due_at FROM webhook_retries
         WHERE business_id = $1 AND webhook_id = $2 AND due_at <= now() ORDER BY due_at, seq LIMIT $3",
        business as BusinessId,
        webhook,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// Notes a try, and what it does to the endpoint: moves the cursor up to the event, or the event among those that wait,
/// or disables the endpoint. `None`, and nothing is noted, if the claim does not hold any more; else whether the
/// endpoint is enabled. Twice is the same as once. `failures`: how often the event has failed now. With `gives_back`
/// another relay may take the endpoint after the pause, and the claim does not hold any more.
pub async fn write_tried(
    connection: &mut PgConnection,
    taken: &Taken,
    tried: &Tried,
    change: Change,
    failures: u32,
    gives_back: bool,
) -> Result<Option<bool>, Error> {
    let again = match change.next {
        Next::Again(wait) => Some(wait.as_secs_f64()),
        Next::Done | Next::Stays => None,
    };
    let pause = change.pause.as_secs_f64();
    Ok(sqlx::query_scalar!(
        r#"/* write_tried */
        WITH held AS (
            UPDATE webhooks SET cursor = GREATEST(cursor, $4), tries = GREATEST(tries, $5),
                   failing_since = CASE WHEN $6 THEN NULL ELSE COALESCE(failing_since, now()) END,
                   disabled_at = CASE WHEN $7::text IS NULL THEN disabled_at ELSE COALESCE(disabled_at, now()) END,
                   disabled_by = COALESCE(disabled_by, $7),
                   free_at = CASE WHEN $8 THEN now() + make_interval(secs => $9) ELSE free_at END,
                   claim = CASE WHEN $8 THEN claim + 1 ELSE claim END
            WHERE business_id = $1 AND webhook_id = $2 AND claim = $3
            RETURNING business_id, webhook_id, disabled_at IS NULL AS is_enabled
        ), waits AS (
            INSERT INTO webhook_retries (business_id, webhook_id, seq, failures, due_at)
            SELECT business_id, webhook_id, $10, $11, now() + make_interval(secs => $12) FROM held WHERE $12::float8 IS NOT NULL
            ON CONFLICT (business_id, webhook_id, seq) DO UPDATE SET failures = excluded.failures, due_at = excluded.due_at
        ), done AS (
            DELETE FROM webhook_retries r USING held h
            WHERE $6 AND r.business_id = h.business_id AND r.webhook_id = h.webhook_id AND r.seq = $10
        ), forgotten AS (
            DELETE FROM webhook_deliveries d USING held h
            WHERE d.business_id = h.business_id AND d.webhook_id = h.webhook_id AND d.number <= $5 - $13
        ), noted AS (
            INSERT INTO webhook_deliveries (business_id, webhook_id, number, seq, millis, result, status, answer)
            SELECT business_id, webhook_id, $5, $10, $14, $15, $16, $17 FROM held
            ON CONFLICT (business_id, webhook_id, number) DO NOTHING
        )
        SELECT bool_and(is_enabled) AS is_enabled FROM held"#,
        taken.business as BusinessId,
        taken.webhook,
        taken.claim,
        if change.next == Next::Stays { 0 } else { tried.seq },
        tried.number,
        change.next == Next::Done,
        change.disabled as Option<Disabled>,
        gives_back,
        pause,
        tried.seq,
        i32::try_from(failures).unwrap_or(i32::MAX),
        again,
        MOST_DELIVERIES,
        tried.millis,
        tried.result as Delivery,
        tried.status,
        tried.answer.as_deref()
    )
    .fetch_one(connection)
    .await?)
}

/// How the endpoints of a shard stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Endpoints whose last delivery was a success.
    pub sound: i64,
    /// Endpoints whose last delivery failed.
    pub failing: i64,
    /// Endpoints that are disabled.
    pub disabled: i64,
    /// Events that wait behind the cursors of endpoints that are not disabled.
    pub waiting: i64,
    /// The age of the oldest event beyond the cursor of an endpoint whose last delivery was a success, in milliseconds;
    /// 0 if there is none. Nothing but a relay keeps it waiting.
    pub oldest_millis: i64,
}

impl Counts {
    /// Adds those of another shard.
    pub fn add(&mut self, other: Self) {
        self.sound += other.sound;
        self.failing += other.failing;
        self.disabled += other.disabled;
        self.waiting += other.waiting;
        self.oldest_millis = self.oldest_millis.max(other.oldest_millis);
    }
}

/// Counts the endpoints of a shard.
pub async fn count_all(connection: &mut PgConnection) -> Result<Counts, Error> {
    Ok(sqlx::query_as!(
        Counts,
        r#"/* count_webhooks */
        SELECT count(*) FILTER (WHERE w.disabled_at IS NULL AND w.failing_since IS NULL) AS "sound!",
               count(*) FILTER (WHERE w.disabled_at IS NULL AND w.failing_since IS NOT NULL) AS "failing!",
               count(*) FILTER (WHERE w.disabled_at IS NOT NULL) AS "disabled!",
               (SELECT count(*) FROM webhook_retries r JOIN webhooks v USING (business_id, webhook_id)
                WHERE v.disabled_at IS NULL) AS "waiting!",
               COALESCE(max((extract(epoch FROM now() - COALESCE(a.moved_at, d.moved_at)) * 1000)::bigint), 0) AS "oldest_millis!"
        FROM webhooks w JOIN businesses b USING (business_id)
        LEFT JOIN allocations a ON a.business_id = w.business_id AND a.seq = w.cursor + 1 AND a.seq IS NOT NULL
             AND b.seq > w.cursor AND w.disabled_at IS NULL AND w.failing_since IS NULL
        LEFT JOIN deposits d ON d.business_id = w.business_id AND d.seq = w.cursor + 1
             AND b.seq > w.cursor AND w.disabled_at IS NULL AND w.failing_since IS NULL"#
    )
    .fetch_one(connection)
    .await?)
}
