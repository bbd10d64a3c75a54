-- Dead letters as rows. A look at a message in a queue counts as a delivery, and RabbitMQ drops what was delivered too often.
-- In a table people can look as often as they like, and choose which dead letters to replay.
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
COMMENT ON INDEX dead_letters_open IS 'Lists the open dead letters by their time. Those that were replayed or dropped cost nothing.';
COMMENT ON INDEX dead_letters_requests IS 'Finds the dead letters of a request.';
COMMENT ON TABLE dead_letters IS 'Messages that could not be applied, moved here from the dead-letter queue. No row is ever deleted.';
COMMENT ON COLUMN dead_letters.dead_letter_id IS 'Made of the message''s id and its body, so that a message that is delivered again is the same dead letter.';
COMMENT ON COLUMN dead_letters.body IS 'The message as it was.';
COMMENT ON COLUMN dead_letters.requests IS 'The ids of the requests in it that can be read.';
COMMENT ON COLUMN dead_letters.queue IS 'The work queue that it came from and is replayed to. Null if that is not known.';
COMMENT ON COLUMN dead_letters.cause IS 'unreadable, rejected: a worker put it into the dead-letter queue. delivery_limit: the broker did, because it was delivered too often. other: the broker did for another reason, or a person did.';
COMMENT ON COLUMN dead_letters.reason IS 'Why it could not be applied, in words, without an address or a key.';
COMMENT ON COLUMN dead_letters.deaths IS 'How often the message became a dead letter, as the broker says; 0 if it does not say.';
COMMENT ON COLUMN dead_letters.died_at IS 'When it first became a dead letter, as the broker says; null if it does not say.';
COMMENT ON COLUMN dead_letters.arrived_at IS 'When this row was written.';
COMMENT ON COLUMN dead_letters.replays IS 'How often it was put back into a work queue.';
COMMENT ON COLUMN dead_letters.replayed_at IS 'When it was last replayed; null if never. If it comes back after that, it is a new row.';
COMMENT ON COLUMN dead_letters.replayed_by IS 'Who last replayed it; null if nobody did.';
COMMENT ON COLUMN dead_letters.dropped_at IS 'When somebody dropped it as of no use; null if nobody did.';
COMMENT ON COLUMN dead_letters.dropped_by IS 'Who dropped it; null if nobody did.';
COMMENT ON CONSTRAINT dead_letters_pkey ON dead_letters IS 'A dead letter that is delivered twice is stored once.';
COMMENT ON CONSTRAINT dead_letters_cause ON dead_letters IS 'The four causes.';
COMMENT ON CONSTRAINT dead_letters_deaths ON dead_letters IS 'A count is never negative.';
COMMENT ON CONSTRAINT dead_letters_replays ON dead_letters IS 'A count is never negative.';
COMMENT ON CONSTRAINT dead_letters_replayed ON dead_letters IS 'A replay has a time and a name.';
COMMENT ON CONSTRAINT dead_letters_dropped ON dead_letters IS 'A drop has a time and a name.';

-- A switch for all workers of a deployment.
ALTER TABLE queue_prefixes
    ADD COLUMN paused_at timestamptz,
    ADD COLUMN paused_by text,
    ADD CONSTRAINT queue_prefixes_paused CHECK (num_nulls(paused_at, paused_by) IN (0, 2));
COMMENT ON COLUMN queue_prefixes.paused_at IS 'Since when its workers take nothing from the queues. Null while they work.';
COMMENT ON COLUMN queue_prefixes.paused_by IS 'Who paused them. Null while they work.';
COMMENT ON CONSTRAINT queue_prefixes_paused ON queue_prefixes IS 'A pause has a time and a name.';

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
COMMENT ON INDEX audits_by_time IS 'Finds the last audit.';
COMMENT ON TABLE audits IS 'Every audit of the ledger, and what it found.';
COMMENT ON COLUMN audits.audit_id IS 'Made by the service, at random (UUID version 4).';
COMMENT ON COLUMN audits.audited_at IS 'When it was finished.';
COMMENT ON COLUMN audits.audited_by IS 'Who asked for it; worker if a worker made it by itself.';
COMMENT ON COLUMN audits.businesses IS 'How many businesses were checked.';
COMMENT ON COLUMN audits.payout_users IS 'How many payout users were checked.';
COMMENT ON COLUMN audits.allocations IS 'How many decided requests there were.';
COMMENT ON COLUMN audits.differences IS 'How many balances and idempotency keys differ from what the other rows say. If it is not 0, a person has to look.';
COMMENT ON COLUMN audits.difference_cents IS 'All differences added up, in cents, each without its sign.';
COMMENT ON CONSTRAINT audits_pkey ON audits IS 'One row for each audit.';
COMMENT ON CONSTRAINT audits_differences ON audits IS 'A count is never negative.';
COMMENT ON CONSTRAINT audits_difference_cents ON audits IS 'A sum without signs is never negative: differences do not cancel each other.';
