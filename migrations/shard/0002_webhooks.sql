-- Webhooks: where a platform wants its events delivered, and what became of that. Nothing here decides anything about money.

CREATE TABLE webhooks (
    business_id    uuid        NOT NULL CONSTRAINT webhooks_business REFERENCES businesses,
    webhook_id     uuid        NOT NULL,
    slot           smallint    NOT NULL CONSTRAINT webhooks_slot_bounded CHECK (slot BETWEEN 1 AND 10),
    url            text        NOT NULL CONSTRAINT webhooks_url CHECK (char_length(url) BETWEEN 1 AND 2000),
    secret_version integer     NOT NULL DEFAULT 1 CONSTRAINT webhooks_secret_version CHECK (secret_version >= 1),
    former_until   timestamptz NOT NULL DEFAULT 'epoch',
    cursor         bigint      NOT NULL CONSTRAINT webhooks_cursor CHECK (cursor >= 0),
    tries          bigint      NOT NULL DEFAULT 0 CONSTRAINT webhooks_tries CHECK (tries >= 0),
    claim          bigint      NOT NULL DEFAULT 0 CONSTRAINT webhooks_claim CHECK (claim >= 0),
    free_at        timestamptz NOT NULL DEFAULT 'epoch',
    created_at     timestamptz NOT NULL DEFAULT now(),
    failing_since  timestamptz,
    disabled_at    timestamptz,
    disabled_by    text        CONSTRAINT webhooks_disabled_by CHECK (disabled_by IN ('gone', 'failing', 'platform', 'operator')),
    CONSTRAINT webhooks_pkey PRIMARY KEY (business_id, webhook_id),
    CONSTRAINT webhooks_slot UNIQUE (business_id, slot),
    CONSTRAINT webhooks_disabled CHECK ((disabled_at IS NULL) = (disabled_by IS NULL))
    -- Each delivery updates the row. Free space on its page, and no index on what changes, keep the new version on the page.
) WITH (fillfactor = 50);
COMMENT ON TABLE webhooks IS 'The endpoints to which the events of a business are delivered. Each has a cursor of its own, so that none waits for another.';
COMMENT ON COLUMN webhooks.business_id IS 'The business whose events it gets.';
COMMENT ON COLUMN webhooks.webhook_id IS 'Made by the service, at random (UUID version 4).';
COMMENT ON COLUMN webhooks.slot IS 'Its place among those of its business, which bounds their number.';
COMMENT ON COLUMN webhooks.url IS 'Where events are posted. It is checked when it is written, and again before each delivery.';
COMMENT ON COLUMN webhooks.secret_version IS 'How often its secret was drawn. The secret is not stored: it follows from EARMARK_HASH_SECRET, the id and this number.';
COMMENT ON COLUMN webhooks.former_until IS 'Until then deliveries are also signed with the secret of the version before.';
COMMENT ON COLUMN webhooks.cursor IS 'The number of the last event that was delivered, or that waits in webhook_retries.';
COMMENT ON COLUMN webhooks.tries IS 'How many deliveries were tried. The number of the last row in webhook_deliveries.';
COMMENT ON COLUMN webhooks.claim IS 'Grows by one whenever a relay takes the endpoint or gives it back. A relay whose claim is not this one any more changes nothing.';
COMMENT ON COLUMN webhooks.free_at IS 'No relay may take the endpoint before. Ahead while a relay has it, and while the endpoint has asked for a pause.';
COMMENT ON COLUMN webhooks.created_at IS 'When it was created.';
COMMENT ON COLUMN webhooks.failing_since IS 'The first failure since the last success; null if the last delivery was a success.';
COMMENT ON COLUMN webhooks.disabled_at IS 'Since when nothing is delivered; null while it is enabled. Its cursor and its retries stay.';
COMMENT ON COLUMN webhooks.disabled_by IS 'gone: it answered 410. failing: it failed for too long. platform, operator: who asked for it.';
COMMENT ON CONSTRAINT webhooks_pkey ON webhooks IS 'An endpoint that is created twice with one id is created once.';
COMMENT ON CONSTRAINT webhooks_business ON webhooks IS 'Every endpoint has a business.';
COMMENT ON CONSTRAINT webhooks_slot ON webhooks IS 'A place holds one endpoint.';
COMMENT ON CONSTRAINT webhooks_slot_bounded ON webhooks IS 'A business has at most ten endpoints.';
COMMENT ON CONSTRAINT webhooks_url ON webhooks IS 'As the API checks it.';
COMMENT ON CONSTRAINT webhooks_secret_version ON webhooks IS 'The first secret has the number 1.';
COMMENT ON CONSTRAINT webhooks_cursor ON webhooks IS 'Events are numbered from 1.';
COMMENT ON CONSTRAINT webhooks_tries ON webhooks IS 'A count is never negative.';
COMMENT ON CONSTRAINT webhooks_claim ON webhooks IS 'A count is never negative.';
COMMENT ON CONSTRAINT webhooks_disabled_by ON webhooks IS 'The four reasons.';
COMMENT ON CONSTRAINT webhooks_disabled ON webhooks IS 'What is disabled has a reason, and nothing else has one.';

CREATE TABLE webhook_retries (
    business_id uuid        NOT NULL,
    webhook_id  uuid        NOT NULL,
    seq         bigint      NOT NULL,
    failures    integer     NOT NULL CONSTRAINT webhook_retries_failures CHECK (failures >= 0),
    due_at      timestamptz NOT NULL,
    CONSTRAINT webhook_retries_pkey PRIMARY KEY (business_id, webhook_id, seq),
    CONSTRAINT webhook_retries_webhook FOREIGN KEY (business_id, webhook_id) REFERENCES webhooks ON DELETE CASCADE
) WITH (fillfactor = 85);
CREATE INDEX webhook_retries_due ON webhook_retries (business_id, webhook_id, due_at);
COMMENT ON TABLE webhook_retries IS 'Events behind the cursor of an endpoint that are still to be delivered: those that failed, and those that somebody wants again.';
COMMENT ON COLUMN webhook_retries.business_id IS 'The business whose event it is.';
COMMENT ON COLUMN webhook_retries.webhook_id IS 'The endpoint.';
COMMENT ON COLUMN webhook_retries.seq IS 'The number of the event.';
COMMENT ON COLUMN webhook_retries.failures IS 'How often its delivery has failed. 0 if somebody wants it again.';
COMMENT ON COLUMN webhook_retries.due_at IS 'When it is tried next.';
COMMENT ON CONSTRAINT webhook_retries_pkey ON webhook_retries IS 'An event waits once for each endpoint.';
COMMENT ON CONSTRAINT webhook_retries_webhook ON webhook_retries IS 'What waits for an endpoint goes with it.';
COMMENT ON CONSTRAINT webhook_retries_failures ON webhook_retries IS 'A count is never negative.';
COMMENT ON INDEX webhook_retries_due IS 'Finds what is due.';

CREATE TABLE webhook_deliveries (
    business_id uuid        NOT NULL,
    webhook_id  uuid        NOT NULL,
    number      bigint      NOT NULL,
    seq         bigint      NOT NULL,
    tried_at    timestamptz NOT NULL DEFAULT now(),
    millis      bigint      NOT NULL CONSTRAINT webhook_deliveries_millis CHECK (millis >= 0),
    result      text        NOT NULL,
    status      integer,
    answer      text        CONSTRAINT webhook_deliveries_answer CHECK (char_length(answer) <= 1024),
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (business_id, webhook_id, number),
    CONSTRAINT webhook_deliveries_webhook FOREIGN KEY (business_id, webhook_id) REFERENCES webhooks ON DELETE CASCADE
);
COMMENT ON TABLE webhook_deliveries IS 'What became of the last 1,000 tries to deliver to each endpoint, for people.';
COMMENT ON COLUMN webhook_deliveries.business_id IS 'The business whose event it was.';
COMMENT ON COLUMN webhook_deliveries.webhook_id IS 'The endpoint.';
COMMENT ON COLUMN webhook_deliveries.number IS 'Counts the tries of the endpoint from 1.';
COMMENT ON COLUMN webhook_deliveries.seq IS 'The number of the event.';
COMMENT ON COLUMN webhook_deliveries.tried_at IS 'When the try had ended.';
COMMENT ON COLUMN webhook_deliveries.millis IS 'How long it took, in milliseconds.';
COMMENT ON COLUMN webhook_deliveries.result IS 'How it ended: delivered, or what went wrong.';
COMMENT ON COLUMN webhook_deliveries.status IS 'The status of the answer; null if there was none.';
COMMENT ON COLUMN webhook_deliveries.answer IS 'The first kilobyte of the answer; null if there was none.';
COMMENT ON CONSTRAINT webhook_deliveries_pkey ON webhook_deliveries IS 'A try is noted once.';
COMMENT ON CONSTRAINT webhook_deliveries_webhook ON webhook_deliveries IS 'What is known of an endpoint goes with it.';
COMMENT ON CONSTRAINT webhook_deliveries_millis ON webhook_deliveries IS 'Nothing takes less than no time.';
COMMENT ON CONSTRAINT webhook_deliveries_answer ON webhook_deliveries IS 'No more is read.';
