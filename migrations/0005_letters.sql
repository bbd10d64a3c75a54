-- Dead letters as rows, so that a person can look at them, choose among them and put them back without the broker counting
-- every look as a delivery.
CREATE TABLE dead_letters (
    dead_letter_id     uuid        CONSTRAINT dead_letters_pkey PRIMARY KEY,
    body          bytea       NOT NULL,
    requests      uuid[]      NOT NULL,
    queue         text,
    cause         text        NOT NULL CONSTRAINT dead_letters_cause CHECK (cause IN ('unreadable', 'rejected', 'delivery_limit', 'other')),
    reason        text        NOT NULL,
    deaths        bigint      NOT NULL CONSTRAINT dead_letters_deaths CHECK (deaths >= 0),
    died_at       timestamptz,
    arrived_at    timestamptz NOT NULL DEFAULT now(),
    replays       integer     NOT NULL DEFAULT 0 CONSTRAINT dead_letters_replays CHECK (replays >= 0),
    replayed_at   timestamptz,
    replayed_by   text,
    dropped_at    timestamptz,
    dropped_by    text,
    CONSTRAINT dead_letters_replayed CHECK ((replays > 0) = (replayed_at IS NOT NULL) AND num_nulls(replayed_at, replayed_by) IN (0, 2)),
    CONSTRAINT dead_letters_dropped CHECK (num_nulls(dropped_at, dropped_by) IN (0, 2))
);
CREATE INDEX dead_letters_open ON dead_letters (arrived_at, dead_letter_id) WHERE replayed_at IS NULL AND dropped_at IS NULL;
CREATE INDEX dead_letters_requests ON dead_letters USING gin (requests);
COMMENT ON TABLE dead_letters IS 'Messages that could not be applied, moved here from the dead-letter queue. No row is ever deleted.';
COMMENT ON COLUMN dead_letters.dead_letter_id IS 'From the message''s id and its body, so that one that is delivered again is the same dead letter.';
COMMENT ON COLUMN dead_letters.body IS 'The message as it was.';
COMMENT ON COLUMN dead_letters.requests IS 'The ids of the requests in it that can be read.';
COMMENT ON COLUMN dead_letters.queue IS 'The work queue it came from, and goes back to. Null if nobody said.';
COMMENT ON COLUMN dead_letters.cause IS 'unreadable, rejected: put by a worker. delivery_limit: by the broker, as it came back too often. other: by the broker for another reason, or by hand.';
COMMENT ON COLUMN dead_letters.reason IS 'In words, without an address or a key.';
COMMENT ON COLUMN dead_letters.deaths IS 'How often the broker says that the message died; 0 if it does not say.';
COMMENT ON COLUMN dead_letters.died_at IS 'When the broker says that it died first; null if it does not say.';
COMMENT ON COLUMN dead_letters.arrived_at IS 'When it became a row.';
COMMENT ON COLUMN dead_letters.replays IS 'How often it was put back into a work queue.';
COMMENT ON COLUMN dead_letters.replayed_at IS 'When last. A dead letter that comes back after that is a new row.';
COMMENT ON COLUMN dead_letters.replayed_by IS 'By whom last.';
COMMENT ON COLUMN dead_letters.dropped_at IS 'When somebody decided that it is of no use any more.';
COMMENT ON COLUMN dead_letters.dropped_by IS 'Who decided that.';
COMMENT ON CONSTRAINT dead_letters_pkey ON dead_letters IS 'A dead letter that is delivered twice is stored once.';
COMMENT ON CONSTRAINT dead_letters_cause ON dead_letters IS 'The closed list of causes.';
COMMENT ON CONSTRAINT dead_letters_deaths ON dead_letters IS 'A count.';
COMMENT ON CONSTRAINT dead_letters_replays ON dead_letters IS 'A count.';
COMMENT ON CONSTRAINT dead_letters_replayed ON dead_letters IS 'Whoever replays says when and who.';
COMMENT ON CONSTRAINT dead_letters_dropped ON dead_letters IS 'Whoever drops says when and who.';

-- A switch for all workers of a deployment.
ALTER TABLE queue_prefixes
    ADD COLUMN paused_at timestamptz,
    ADD COLUMN paused_by text,
    ADD CONSTRAINT queue_prefixes_paused CHECK (num_nulls(paused_at, paused_by) IN (0, 2));
COMMENT ON COLUMN queue_prefixes.paused_at IS 'Since when its workers take nothing from the queues; null while they work.';
COMMENT ON COLUMN queue_prefixes.paused_by IS 'Who paused them.';
COMMENT ON CONSTRAINT queue_prefixes_paused ON queue_prefixes IS 'Whoever pauses says when and who.';

CREATE TABLE audits (
    audit_id         uuid        CONSTRAINT audits_pkey PRIMARY KEY,
    audited_at       timestamptz NOT NULL DEFAULT now(),
    audited_by       text        NOT NULL,
    businesses       bigint      NOT NULL,
    payout_users     bigint      NOT NULL,
    allocations      bigint      NOT NULL,
    differences      bigint      NOT NULL CONSTRAINT audits_differences CHECK (differences >= 0),
    difference_cents bigint      NOT NULL CONSTRAINT audits_difference_cents CHECK (difference_cents >= 0)
);
CREATE INDEX audits_by_time ON audits (audited_at);
COMMENT ON TABLE audits IS 'Every audit of the ledger, and what it found.';
COMMENT ON COLUMN audits.audit_id IS 'Made by the service, at random (UUID version 4).';
COMMENT ON COLUMN audits.audited_at IS 'When it was finished.';
COMMENT ON COLUMN audits.audited_by IS 'Who asked for it; worker for those that workers make by themselves.';
COMMENT ON COLUMN audits.businesses IS 'How many businesses were checked.';
COMMENT ON COLUMN audits.payout_users IS 'How many payout users were checked.';
COMMENT ON COLUMN audits.allocations IS 'How many decided requests there were.';
COMMENT ON COLUMN audits.differences IS 'How many balances and keys were not what the rows say. Anything but 0 needs a person.';
COMMENT ON COLUMN audits.difference_cents IS 'All differences added up, in cents, each without its sign.';
COMMENT ON CONSTRAINT audits_pkey ON audits IS 'One row an audit.';
COMMENT ON CONSTRAINT audits_differences ON audits IS 'A count.';
COMMENT ON CONSTRAINT audits_difference_cents ON audits IS 'Differences do not cancel each other.';
