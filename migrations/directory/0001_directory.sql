-- The directory: what belongs to no shard. It is small and rarely written, and holds no money.

CREATE TABLE shards (
    shard      smallint    CONSTRAINT shards_pkey PRIMARY KEY CONSTRAINT shards_shard CHECK (shard BETWEEN 0 AND 255),
    state      text        NOT NULL CONSTRAINT shards_state CHECK (state IN ('preparing', 'open', 'full', 'closed')),
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE shards IS 'The shards of the ledger. Shard 3 is the schema shard_3 and the work queue <prefix>.allocations.3.';
COMMENT ON COLUMN shards.shard IS 'The number of the shard. The ids of its businesses and requests contain it. No row is ever deleted.';
COMMENT ON COLUMN shards.state IS 'preparing: its schema is being made, and nobody uses it. open: it takes new businesses. full: it takes no new businesses. closed: it takes no requests, while those that it has are decided.';
COMMENT ON COLUMN shards.changed_at IS 'Since when it has this state.';
COMMENT ON CONSTRAINT shards_pkey ON shards IS 'One row for each shard.';
COMMENT ON CONSTRAINT shards_shard ON shards IS 'An id has eight bits for it.';
COMMENT ON CONSTRAINT shards_state ON shards IS 'The four states.';

CREATE TABLE api_keys (
    key_id      uuid        PRIMARY KEY,
    business_id uuid        NOT NULL,
    kind        text        NOT NULL CONSTRAINT api_keys_kind CHECK (kind IN ('secret', 'public')),
    digest      bytea       NOT NULL CONSTRAINT api_keys_digest UNIQUE CONSTRAINT api_keys_digest_length CHECK (octet_length(digest) = 32),
    hint        text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);
CREATE INDEX api_keys_by_business ON api_keys (business_id);
COMMENT ON INDEX api_keys_by_business IS 'Finds the keys of a business. An insert into it costs little, as keys are created rarely.';
COMMENT ON TABLE api_keys IS 'Who may call. The key itself is shown once, when it is created, and stored nowhere.';
COMMENT ON COLUMN api_keys.key_id IS 'The id by which people name the key, for example to revoke it.';
COMMENT ON COLUMN api_keys.business_id IS 'The business that calls with this key. Its row is in the shard that its id names, and was written before this one.';
COMMENT ON COLUMN api_keys.kind IS 'secret: may do everything. public: may do nothing; it is refused like an unknown key.';
COMMENT ON COLUMN api_keys.digest IS 'SHA-256 of the whole key.';
COMMENT ON COLUMN api_keys.hint IS 'The key''s last four characters, for people to tell keys apart.';
COMMENT ON COLUMN api_keys.created_at IS 'When the key was created.';
COMMENT ON COLUMN api_keys.revoked_at IS 'The key is refused from this time on. Null while it works.';
COMMENT ON CONSTRAINT api_keys_kind ON api_keys IS 'Two kinds, told apart by the key''s prefix.';
COMMENT ON CONSTRAINT api_keys_digest ON api_keys IS 'A key is found by its digest.';
COMMENT ON CONSTRAINT api_keys_digest_length ON api_keys IS 'SHA-256 has 32 bytes.';

CREATE TABLE deployments (
    prefix    text        CONSTRAINT deployments_pkey PRIMARY KEY,
    paused_at timestamptz,
    paused_by text,
    CONSTRAINT deployments_paused CHECK (num_nulls(paused_at, paused_by) IN (0, 2))
);
COMMENT ON TABLE deployments IS 'The deployments that use this ledger, by the prefix of their queues.';
COMMENT ON COLUMN deployments.prefix IS 'The EARMARK_QUEUE_PREFIX of the deployment.';
COMMENT ON COLUMN deployments.paused_at IS 'Since when its workers take nothing from the queues. Null while they work.';
COMMENT ON COLUMN deployments.paused_by IS 'Who paused them. Null while they work.';
COMMENT ON CONSTRAINT deployments_pkey ON deployments IS 'One row for each deployment.';
COMMENT ON CONSTRAINT deployments_paused ON deployments IS 'A pause has a time and a name.';

-- Unlogged: the rows are written every second and are worth nothing a minute later. So they need not survive a crash or be
-- copied to a standby, and writing them waits for no disk. The fillfactor keeps the updates on their page.
CREATE UNLOGGED TABLE processes (
    process_id uuid        CONSTRAINT processes_pkey PRIMARY KEY,
    kind       text        NOT NULL CONSTRAINT processes_kind CHECK (kind IN ('serve', 'intake', 'worker', 'relay')),
    host       text        NOT NULL,
    pid        bigint      NOT NULL,
    version    text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    state      jsonb       NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE processes IS 'The intakes and workers that run, for people to look at. Nothing is decided by these rows.';
COMMENT ON COLUMN processes.process_id IS 'Drawn by the process at random when it starts.';
COMMENT ON COLUMN processes.kind IS 'The command that it runs: serve, intake, worker or relay.';
COMMENT ON COLUMN processes.host IS 'The name of the machine or container.';
COMMENT ON COLUMN processes.pid IS 'Its process id on that machine.';
COMMENT ON COLUMN processes.version IS 'The version of the program.';
COMMENT ON COLUMN processes.started_at IS 'When its row was first written.';
COMMENT ON COLUMN processes.seen_at IS 'When its row was last written. A process writes it every second. One that ends in good order removes its row; other rows are removed after a day.';
COMMENT ON COLUMN processes.state IS 'How the process was then, as JSON: counts since its start, and its connections. No email addresses and no keys.';
COMMENT ON CONSTRAINT processes_pkey ON processes IS 'One row for each process.';
COMMENT ON CONSTRAINT processes_kind ON processes IS 'The commands that run until they are stopped.';

-- Dead letters as rows. A look at a message in a queue counts as a delivery, and RabbitMQ drops what was delivered too often.
-- In a table people can look as often as they like, and choose which dead letters to replay.
CREATE TABLE dead_letters (
    dead_letter_id     uuid        CONSTRAINT dead_letters_pkey PRIMARY KEY,
    body          bytea       NOT NULL,
    requests      uuid[]      NOT NULL,
    key_id        text,
    queue         text,
    cause         text        NOT NULL CONSTRAINT dead_letters_cause CHECK (cause IN ('unreadable', 'unauthentic', 'rejected', 'wrong_shard', 'delivery_limit', 'other')),
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
COMMENT ON COLUMN dead_letters.key_id IS 'The name of the key that signed the message; empty if it is not signed. Null if it cannot be read or is not authentic.';
COMMENT ON COLUMN dead_letters.queue IS 'The queue that it came from, as the message says. A replay goes to the work queue of its shard. Null if that is not known.';
COMMENT ON COLUMN dead_letters.cause IS 'unreadable, unauthentic, rejected, wrong_shard: a worker put it into the dead-letter queue. delivery_limit: the broker did, because it was delivered too often. other: the broker did for another reason, or a person did.';
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
COMMENT ON CONSTRAINT dead_letters_cause ON dead_letters IS 'The six causes.';
COMMENT ON CONSTRAINT dead_letters_deaths ON dead_letters IS 'A count is never negative.';
COMMENT ON CONSTRAINT dead_letters_replays ON dead_letters IS 'A count is never negative.';
COMMENT ON CONSTRAINT dead_letters_replayed ON dead_letters IS 'A replay has a time and a name.';
COMMENT ON CONSTRAINT dead_letters_dropped ON dead_letters IS 'A drop has a time and a name.';

CREATE TABLE audits (
    audit_id         uuid        CONSTRAINT audits_pkey PRIMARY KEY,
    audited_at       timestamptz NOT NULL DEFAULT now(),
    audited_by       text        NOT NULL,
    shard            smallint    NOT NULL CONSTRAINT audits_shard REFERENCES shards,
    businesses       bigint      NOT NULL,
    payout_users     bigint      NOT NULL,
    allocations      bigint      NOT NULL,
    differences      bigint      NOT NULL CONSTRAINT audits_differences CHECK (differences >= 0),
    difference_cents bigint      NOT NULL CONSTRAINT audits_difference_cents CHECK (difference_cents >= 0)
);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
COMMENT ON FUNCTION refuse_change() IS 'Refuses every update, delete and truncate of the table that has it as a trigger.';
CREATE TRIGGER audits_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audits FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
COMMENT ON TRIGGER audits_append_only ON audits IS 'What an audit found never changes. earmark doctor checks that this trigger is on.';
ALTER TABLE audits ENABLE ALWAYS TRIGGER audits_append_only;
CREATE INDEX audits_by_time ON audits (shard, audited_at);
COMMENT ON INDEX audits_by_time IS 'Finds the last audit of a shard.';
COMMENT ON TABLE audits IS 'Every audit of a shard, and what it found.';
COMMENT ON COLUMN audits.audit_id IS 'Made by the service, at random (UUID version 4).';
COMMENT ON COLUMN audits.audited_at IS 'When it was finished.';
COMMENT ON COLUMN audits.audited_by IS 'Who asked for it; worker if a worker made it by itself.';
COMMENT ON COLUMN audits.shard IS 'The shard that was audited.';
COMMENT ON COLUMN audits.businesses IS 'How many businesses were checked.';
COMMENT ON COLUMN audits.payout_users IS 'How many payout users were checked.';
COMMENT ON COLUMN audits.allocations IS 'How many decided requests there were.';
COMMENT ON COLUMN audits.differences IS 'How many balances and idempotency keys differ from what the other rows say. If it is not 0, a person has to look.';
COMMENT ON COLUMN audits.difference_cents IS 'All differences added up, in cents, each without its sign.';
COMMENT ON CONSTRAINT audits_shard ON audits IS 'Only a shard is audited.';
COMMENT ON CONSTRAINT audits_pkey ON audits IS 'One row for each audit.';
COMMENT ON CONSTRAINT audits_differences ON audits IS 'A count is never negative.';
COMMENT ON CONSTRAINT audits_difference_cents ON audits IS 'A sum without signs is never negative: differences do not cancel each other.';
