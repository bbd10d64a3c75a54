-- The ledger of one shard: a set of businesses with every row of theirs. The statements name no schema: the session that
-- applies this file works in the schema of the shard, and so does everybody who uses the tables.

CREATE TABLE businesses (
    business_id     uuid        PRIMARY KEY,
    name            text        NOT NULL CONSTRAINT businesses_name_not_blank CHECK (btrim(name) <> ''),
    balance         bigint      NOT NULL DEFAULT 0 CONSTRAINT businesses_balance_not_negative CHECK (balance >= 0),
    payout_balance  bigint      NOT NULL DEFAULT 0 CONSTRAINT businesses_payout_balance_not_negative CHECK (payout_balance >= 0),
    payouts_enabled boolean     NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now(),
    seq             bigint      NOT NULL DEFAULT 0 CONSTRAINT businesses_seq_not_negative CHECK (seq >= 0),
    moved_at        timestamptz NOT NULL DEFAULT 'epoch',
    day             date        NOT NULL DEFAULT 'epoch',
    day_total       bigint      NOT NULL DEFAULT 0 CONSTRAINT businesses_day_total_not_negative CHECK (day_total >= 0),
    largest_allocation bigint   CONSTRAINT businesses_largest_allocation_positive CHECK (largest_allocation > 0),
    daily_limit     bigint      CONSTRAINT businesses_daily_limit_positive CHECK (daily_limit > 0),
    limited_after   bigint      NOT NULL DEFAULT 0 CONSTRAINT businesses_limited_after CHECK (limited_after >= 0)
    -- Every batch updates the row of its business. Free space on its page, and no index on a balance, let Postgres write the
    -- new version of the row to the same page without touching an index (a HOT update).
) WITH (fillfactor = 10);
COMMENT ON TABLE businesses IS 'Who pays. One row for each business; every movement locks the row of its business.';
COMMENT ON COLUMN businesses.business_id IS 'Made by the service at random (UUID version 8). Bits 40 to 47 are the number of the shard: the last two digits of the second group.';
COMMENT ON COLUMN businesses.name IS 'What people call it. Not unique.';
COMMENT ON COLUMN businesses.balance IS 'The main balance, in cents. Allocations never change it.';
COMMENT ON COLUMN businesses.payout_balance IS 'What can still be allocated, in cents: the sum of deposits less the sum of allocations, and plus what of these was reversed.';
COMMENT ON COLUMN businesses.payouts_enabled IS 'While false, every allocation is refused with 403.';
COMMENT ON COLUMN businesses.created_at IS 'When the business was created.';
COMMENT ON COLUMN businesses.seq IS 'How many movements there were, deposits and withdrawals included. Each has its number in its row: 1, 2, 3 and so on without a gap, in the order of their commits.';
COMMENT ON COLUMN businesses.moved_at IS 'No later movement has an earlier time. Whole milliseconds. Usually the time of the last one.';
COMMENT ON COLUMN businesses.day IS 'The last day (UTC) on which something was allocated.';
COMMENT ON COLUMN businesses.day_total IS 'The sum of the allocations of that day, in cents. What was reversed later still counts.';
COMMENT ON COLUMN businesses.largest_allocation IS 'The largest amount of one allocation, in cents. Null: no limit of its own.';
COMMENT ON COLUMN businesses.daily_limit IS 'The largest sum of the allocations of one day (UTC), in cents. Null: no limit.';
COMMENT ON COLUMN businesses.limited_after IS 'The last movement before its present limits. Every later one was decided with them, so an audit can judge it.';
COMMENT ON CONSTRAINT businesses_limited_after ON businesses IS 'Movements are numbered from 1.';
COMMENT ON CONSTRAINT businesses_seq_not_negative ON businesses IS 'A count is never negative.';
COMMENT ON CONSTRAINT businesses_day_total_not_negative ON businesses IS 'A sum of allocations is never negative.';
COMMENT ON CONSTRAINT businesses_largest_allocation_positive ON businesses IS 'To allow nothing, payouts are switched off.';
COMMENT ON CONSTRAINT businesses_daily_limit_positive ON businesses IS 'To allow nothing, payouts are switched off.';
COMMENT ON CONSTRAINT businesses_name_not_blank ON businesses IS 'People look for a business by its name.';
COMMENT ON CONSTRAINT businesses_balance_not_negative ON businesses IS 'The main balance is never negative.';
COMMENT ON CONSTRAINT businesses_payout_balance_not_negative ON businesses IS 'No allocation beyond the balance, even if the program decides wrongly.';

CREATE TABLE payout_users (
    business_id uuid        NOT NULL,
    email       text        NOT NULL,
    hash        bytea       NOT NULL CONSTRAINT payout_users_hash UNIQUE CONSTRAINT payout_users_hash_length CHECK (octet_length(hash) = 32),
    balance     bigint      NOT NULL CONSTRAINT payout_users_balance_not_negative CHECK (balance >= 0),
    status      text        NOT NULL DEFAULT 'active' CONSTRAINT payout_users_status CHECK (status IN ('active', 'inactive')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT payout_users_pkey PRIMARY KEY (business_id, email)
) WITH (fillfactor = 85);
COMMENT ON TABLE payout_users IS 'Who is paid: created by the first allocation to an address.';
COMMENT ON COLUMN payout_users.business_id IS 'The business that pays. The same address under two businesses is two users.';
COMMENT ON COLUMN payout_users.email IS 'The normalised address: trimmed, lower case.';
COMMENT ON COLUMN payout_users.hash IS 'HMAC-SHA256 over the business and the address. A user shows it to see the balance.';
COMMENT ON COLUMN payout_users.balance IS 'In cents: the sum of this user''s allocations, less what of them was reversed, less the settlements, plus what of these was reversed.';
COMMENT ON COLUMN payout_users.status IS 'An inactive user cannot see the balance by hash, but still receives allocations.';
COMMENT ON COLUMN payout_users.created_at IS 'When the first allocation was committed.';
COMMENT ON CONSTRAINT payout_users_pkey ON payout_users IS 'One address is one user of a business.';
COMMENT ON CONSTRAINT payout_users_hash ON payout_users IS 'A user is found by the hash alone.';
COMMENT ON CONSTRAINT payout_users_hash_length ON payout_users IS 'HMAC-SHA256 has 32 bytes.';
COMMENT ON CONSTRAINT payout_users_balance_not_negative ON payout_users IS 'Nothing is settled or taken back beyond the balance, even if the program decides wrongly.';
COMMENT ON CONSTRAINT payout_users_status ON payout_users IS 'active and inactive.';

-- The columns are in the order of their sizes, so that no room is lost between them.
CREATE TABLE allocations (
    business_id uuid        NOT NULL,
    request_id  uuid        NOT NULL,
    decided_at  timestamptz NOT NULL DEFAULT now(),
    amount      bigint      CONSTRAINT allocations_amount_not_negative CHECK (amount >= 0),
    seq         bigint,
    payout_balance_after bigint,
    moved_at    timestamptz,
    remaining   bigint      CONSTRAINT allocations_remaining_not_negative CHECK (remaining >= 0),
    target      uuid,
    kind        text        CONSTRAINT allocations_kind CHECK (kind IN ('allocate', 'reverse', 'settle')),
    outcome     text        NOT NULL CONSTRAINT allocations_outcome CHECK (outcome IN (
        'allocated', 'reversed', 'settlement_reversed', 'settled', 'insufficient_balance', 'insufficient_user_balance',
        'daily_limit_reached', 'amount_too_large', 'nothing_left', 'not_reversible', 'payouts_disabled', 'voided')),
    email       text,
    reference   text        CONSTRAINT allocations_reference CHECK (char_length(reference) BETWEEN 1 AND 255),
    CONSTRAINT allocations_pkey PRIMARY KEY (business_id, request_id),
    CONSTRAINT allocations_known CHECK (
        outcome = 'voided' OR kind IS NOT NULL AND (kind = 'reverse' OR email IS NOT NULL AND amount IS NOT NULL)),
    CONSTRAINT allocations_target CHECK ((target IS NOT NULL) = (kind IS NOT DISTINCT FROM 'reverse')),
    CONSTRAINT allocations_moved CHECK (
        (seq IS NOT NULL) = (outcome IN ('allocated', 'reversed', 'settlement_reversed', 'settled'))
        AND (seq IS NULL) = (payout_balance_after IS NULL) AND (seq IS NULL) = (moved_at IS NULL)
        AND (seq IS NULL OR email IS NOT NULL AND amount IS NOT NULL AND amount > 0))
    -- No foreign keys: the worker has locked the row of the business when it writes here, and nothing ever deletes a business.
    -- Postgres would check a foreign key by one query for each row, which would cost more than the insert itself.
);
COMMENT ON TABLE allocations IS 'One row for each decided request of any kind, written once and never changed. The row decides: the request moves money if and only if its row says so.';
COMMENT ON COLUMN allocations.business_id IS 'The business that asked.';
COMMENT ON COLUMN allocations.request_id IS 'One attempt (UUID version 7, minted by the intake).';
COMMENT ON COLUMN allocations.decided_at IS 'The start of the transaction that wrote this row.';
COMMENT ON COLUMN allocations.amount IS 'In cents. Of a reversal: what it took back, or was asked to. Null if that is not known, or if the kind is null.';
COMMENT ON COLUMN allocations.seq IS 'The number of the movement among those of its business, from 1 without a gap, in the order of their commits. Null if no money moved.';
COMMENT ON COLUMN allocations.payout_balance_after IS 'The payout balance after the movement, in cents. Null if no money moved.';
COMMENT ON COLUMN allocations.moved_at IS 'When the movement was. Never before one with a smaller seq. Null if no money moved.';
COMMENT ON COLUMN allocations.remaining IS 'What was left then, in cents. Of a reversal: of what it reverses. Of a settlement: of the balance of its payout user. Of an allocation that was too large: what is allowed. Null for all others.';
COMMENT ON COLUMN allocations.target IS 'The request that a reversal reverses. Null for all others.';
COMMENT ON COLUMN allocations.kind IS 'allocate: from the payout balance to a payout user. reverse: back. settle: out of a payout user''s balance. Null only if the request was voided by its id alone.';
COMMENT ON COLUMN allocations.outcome IS 'allocated, reversed, settlement_reversed, settled: the money moved in the transaction that wrote this row. Anything else: it did not move, and never will.';
COMMENT ON COLUMN allocations.email IS 'The address of the payout user, normalised. Null if the kind is null, and for a reversal that was voided or has no target.';
COMMENT ON COLUMN allocations.reference IS 'The client''s own name for what it pays, trimmed; null if it gave none. Not unique.';
COMMENT ON CONSTRAINT allocations_reference ON allocations IS 'As the API checks it. Without a reference the column is null, never empty.';
COMMENT ON CONSTRAINT allocations_pkey ON allocations IS 'A request moves money or is voided, never both: only one row can be written.';
COMMENT ON CONSTRAINT allocations_known ON allocations IS 'Only a void and a reversal may lack the address and the amount.';
COMMENT ON CONSTRAINT allocations_target ON allocations IS 'A reversal reverses something, and nothing else does.';
COMMENT ON CONSTRAINT allocations_moved ON allocations IS 'What moved money has a number, the balance after it, a time, a payout user and an amount. What did not has no number.';
COMMENT ON CONSTRAINT allocations_amount_not_negative ON allocations IS 'No movement goes backwards: that is a reversal, of its own row.';
COMMENT ON CONSTRAINT allocations_remaining_not_negative ON allocations IS 'A reversal never takes more than is left.';
COMMENT ON CONSTRAINT allocations_kind ON allocations IS 'The three kinds.';
COMMENT ON CONSTRAINT allocations_outcome ON allocations IS 'The twelve outcomes.';

-- The history uses these indexes and the primary key. An allocated row without a reference is only in the first one.
--
-- The first index has 1,024 hash buckets of addresses instead of the addresses themselves. So new rows go to the ends of
-- 1,024 ranges of the index, and not to a place of their own each. Measured on four million rows, this adds 6 µs to an insert at
-- any size; an index of the addresses adds 7 µs with two million rows and 10 to 13 µs with four million. A search reads about
-- a thousandth of the business's rows: 3 ms with two million.
CREATE INDEX allocations_by_email ON allocations (business_id, (hashtextextended(email, 0) & 1023), request_id);
CREATE INDEX allocations_by_reference ON allocations (business_id, reference, request_id) WHERE reference IS NOT NULL;
CREATE INDEX allocations_refused ON allocations (business_id, outcome, request_id) WHERE outcome <> 'allocated';
COMMENT ON INDEX allocations_by_email IS 'Finds the requests for an address. Each of 1,024 hash buckets holds about a thousandth of all addresses.';
COMMENT ON INDEX allocations_by_reference IS 'Finds the requests with a reference. Rows without one cost nothing.';
COMMENT ON INDEX allocations_refused IS 'Finds the requests that were not allocated. Allocated rows cost nothing.';

-- Movements in the order of their commits: balances at a time, and what happened since. New entries of a business go to one
-- place, the end of its range.
CREATE UNIQUE INDEX allocations_by_seq ON allocations (business_id, seq) WHERE seq IS NOT NULL;
-- What is left of an allocation is in its last reversal.
CREATE INDEX allocations_reversals ON allocations (business_id, target, seq) WHERE target IS NOT NULL AND seq IS NOT NULL;
COMMENT ON INDEX allocations_by_seq IS 'Finds a movement by its number, which only one has.';
COMMENT ON INDEX allocations_reversals IS 'Finds the last reversal of a request. Other rows cost nothing.';

CREATE TABLE idempotency_keys (
    business_id uuid        NOT NULL,
    scope       text        NOT NULL CONSTRAINT idempotency_keys_scope CHECK (scope IN ('client', 'settlement')),
    key         text        NOT NULL,
    epoch       bigint      NOT NULL DEFAULT 0 CONSTRAINT idempotency_keys_epoch CHECK (epoch >= 0),
    request_id  uuid,
    kind        text,
    email       text,
    amount      bigint,
    target      uuid,
    created_at  timestamptz NOT NULL DEFAULT now(),
    raise_count bigint      NOT NULL DEFAULT 0,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (business_id, scope, key),
    CONSTRAINT idempotency_keys_success CHECK (
        CASE WHEN request_id IS NULL THEN num_nonnulls(kind, email, amount, target) = 0
             WHEN kind IN ('allocate', 'settle') THEN num_nulls(email, amount) = 0 AND target IS NULL
             ELSE kind IS NOT DISTINCT FROM 'reverse' AND target IS NOT NULL AND email IS NULL END),
    -- An epoch above 0 needs the count of its raise: without it, any attempt could use the epoch.
    CONSTRAINT idempotency_keys_raised CHECK ((epoch = 0) = (raise_count = 0) AND raise_count >= 0)
);
COMMENT ON TABLE idempotency_keys IS 'One row for each key under which anything was decided, kept permanently.';
COMMENT ON COLUMN idempotency_keys.business_id IS 'The business whose key it is.';
COMMENT ON COLUMN idempotency_keys.scope IS 'client: the key is from an Idempotency-Key. settlement: it is the reference of a settlement.';
COMMENT ON COLUMN idempotency_keys.key IS 'The client''s name for the operation. As an Idempotency-Key: 1 to 255 visible ASCII characters; for an item of a bulk call under a key: that key, a blank, and the item''s place, counted from 0.';
COMMENT ON COLUMN idempotency_keys.epoch IS 'The number of voids under the key. An attempt of another epoch is never applied.';
COMMENT ON COLUMN idempotency_keys.request_id IS 'The request of the one success under the key. Null until there is one.';
COMMENT ON COLUMN idempotency_keys.kind IS 'What that request asked for: the same key for something else is refused with 422. Null until there is a success.';
COMMENT ON COLUMN idempotency_keys.email IS 'For which address. Null for a reversal, and until there is a success.';
COMMENT ON COLUMN idempotency_keys.amount IS 'How much it asked for, in cents. Null for a reversal of all that was left, and until there is a success.';
COMMENT ON COLUMN idempotency_keys.target IS 'What it reversed. Null for other kinds, and until there is a success.';
COMMENT ON COLUMN idempotency_keys.created_at IS 'When the key was first written.';
COMMENT ON CONSTRAINT idempotency_keys_pkey ON idempotency_keys IS 'Two attempts under one key wait for each other here.';
COMMENT ON CONSTRAINT idempotency_keys_epoch ON idempotency_keys IS 'A count of voids is never negative.';
COMMENT ON CONSTRAINT idempotency_keys_scope ON idempotency_keys IS 'The two scopes.';
COMMENT ON CONSTRAINT idempotency_keys_success ON idempotency_keys IS 'What the success asked for is all null or all there, as its kind needs it.';
COMMENT ON COLUMN idempotency_keys.raise_count IS 'The count of the raise that brought the key into its epoch; 0 in epoch 0. Only an attempt that was received after this raise may use the epoch.';
COMMENT ON CONSTRAINT idempotency_keys_raised ON idempotency_keys IS 'An epoch above 0 has the count of its raise, and epoch 0 has none.';

-- The count gives all raises of epochs one order. A transaction that raises epochs adds one to it, after it has locked the
-- keys, and holds this row until its commit. So when a count can be read, every raise up to it is committed.
CREATE TABLE key_raises (
    only_row boolean DEFAULT true CONSTRAINT key_raises_pkey PRIMARY KEY CONSTRAINT key_raises_only_row CHECK (only_row),
    count    bigint  NOT NULL CONSTRAINT key_raises_count CHECK (count >= 0)
    -- Free space on the page lets Postgres write each new version of the row to the same page.
) WITH (fillfactor = 10);
INSERT INTO key_raises (count) VALUES (0);
COMMENT ON TABLE key_raises IS 'How many transactions have raised epochs of idempotency keys. One row.';
COMMENT ON COLUMN key_raises.only_row IS 'Always true.';
COMMENT ON COLUMN key_raises.count IS 'Grows by one with each transaction that raises epochs, in the order of their commits.';
COMMENT ON CONSTRAINT key_raises_pkey ON key_raises IS 'The table has one row.';
COMMENT ON CONSTRAINT key_raises_only_row ON key_raises IS 'The table has one row.';
COMMENT ON CONSTRAINT key_raises_count ON key_raises IS 'A count is never negative.';

CREATE TABLE deposits (
    business_id uuid        NOT NULL CONSTRAINT deposits_business REFERENCES businesses,
    deposit_id  uuid        NOT NULL,
    amount      bigint      NOT NULL CONSTRAINT deposits_amount_not_zero CHECK (amount <> 0),
    note        text        NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    seq         bigint      NOT NULL,
    payout_balance_after bigint NOT NULL,
    moved_at    timestamptz NOT NULL,
    CONSTRAINT deposits_seq UNIQUE (business_id, seq),
    CONSTRAINT deposits_pkey PRIMARY KEY (business_id, deposit_id)
);
COMMENT ON TABLE deposits IS 'What was put into a payout balance, or taken out of it (negative), by hand. Written once and never changed.';
COMMENT ON COLUMN deposits.business_id IS 'The business whose payout balance is changed.';
COMMENT ON COLUMN deposits.deposit_id IS 'Made by the service, at random (UUID version 4).';
COMMENT ON COLUMN deposits.amount IS 'In cents; negative for a withdrawal.';
COMMENT ON COLUMN deposits.note IS 'The reason, in words. May be empty.';
COMMENT ON COLUMN deposits.created_at IS 'When it was made.';
COMMENT ON COLUMN deposits.seq IS 'The number of the movement among those of its business, allocations and the like included.';
COMMENT ON COLUMN deposits.payout_balance_after IS 'The payout balance after it, in cents.';
COMMENT ON COLUMN deposits.moved_at IS 'When the money moved. Never before a movement with a smaller seq.';
COMMENT ON CONSTRAINT deposits_seq ON deposits IS 'Only one movement has a number.';
COMMENT ON CONSTRAINT deposits_business ON deposits IS 'Every deposit has a business.';
COMMENT ON CONSTRAINT deposits_amount_not_zero ON deposits IS 'A deposit of nothing is a mistake.';
COMMENT ON CONSTRAINT deposits_pkey ON deposits IS 'A deposit that is sent twice is made once.';

-- The database itself refuses to change append-only tables. So neither a program nor a person in psql changes a decision by
-- mistake.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
COMMENT ON FUNCTION refuse_change() IS 'Refuses every update, delete and truncate of the table that has it as a trigger.';
CREATE TRIGGER allocations_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON allocations FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER deposits_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON deposits FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
COMMENT ON TRIGGER allocations_append_only ON allocations IS 'A decision never changes. earmark doctor checks that this trigger is on.';
COMMENT ON TRIGGER deposits_append_only ON deposits IS 'A deposit never changes. earmark doctor checks that this trigger is on.';

-- Epochs and the count of their raises only rise, and the success under a key is written once: on that a 500 under a key relies.
CREATE FUNCTION refuse_key_setback() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.epoch >= OLD.epoch AND NEW.raise_count >= OLD.raise_count
       AND (NEW.request_id, NEW.kind, NEW.email, NEW.amount, NEW.target)
           IS NOT DISTINCT FROM (OLD.request_id, OLD.kind, OLD.email, OLD.amount, OLD.target) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'what a key says is never taken back' USING ERRCODE = 'restrict_violation';
END
$$;
COMMENT ON FUNCTION refuse_key_setback() IS 'Refuses to lower an epoch, and to change the success of a key that has one.';
CREATE FUNCTION refuse_count_setback() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the count of raises only rises' USING ERRCODE = 'restrict_violation';
END
$$;
COMMENT ON FUNCTION refuse_count_setback() IS 'Refuses the change.';
-- The function is called only where it matters. The condition names few columns, as the type of a column in it cannot be changed.
CREATE TRIGGER idempotency_keys_only_rise BEFORE UPDATE ON idempotency_keys FOR EACH ROW
    WHEN (NEW.epoch < OLD.epoch OR NEW.raise_count < OLD.raise_count OR OLD.request_id IS NOT NULL)
    EXECUTE FUNCTION refuse_key_setback();
CREATE TRIGGER key_raises_only_rise BEFORE UPDATE ON key_raises FOR EACH ROW
    WHEN (NEW.count <= OLD.count) EXECUTE FUNCTION refuse_count_setback();
COMMENT ON TRIGGER idempotency_keys_only_rise ON idempotency_keys IS 'An epoch never falls, and a success stays. earmark doctor checks that this trigger is on.';
COMMENT ON TRIGGER key_raises_only_rise ON key_raises IS 'The count never falls. earmark doctor checks that this trigger is on.';

-- The guards also hold in a session that replays the log of another server (session_replication_role).
ALTER TABLE allocations ENABLE ALWAYS TRIGGER allocations_append_only;
ALTER TABLE deposits ENABLE ALWAYS TRIGGER deposits_append_only;
ALTER TABLE idempotency_keys ENABLE ALWAYS TRIGGER idempotency_keys_only_rise;
ALTER TABLE key_raises ENABLE ALWAYS TRIGGER key_raises_only_rise;

-- Whoever may read the table may read every row. Which rows a role may add is said by a policy of its own
-- (migrations/grants/shard.sql). The owner of the table may add any.
ALTER TABLE allocations ENABLE ROW LEVEL SECURITY;
CREATE POLICY allocations_read ON allocations FOR SELECT USING (true);
COMMENT ON POLICY allocations_read ON allocations IS 'Rows are not hidden from anybody who may read the table: what keeps a void from being written must be seen.';

-- An intake may change no business, and asks for this alone. It waits for whoever has the row. So no movement is dated p_at or
-- earlier any more once this has returned.
CREATE FUNCTION mark_past(p_business uuid, p_at timestamptz) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF p_at >= clock_timestamp() THEN
        RETURN false;
    END IF;
    UPDATE businesses SET moved_at = p_at + interval '1 millisecond' WHERE business_id = p_business AND moved_at <= p_at;
    RETURN true;
END
$$;
COMMENT ON FUNCTION mark_past(uuid, timestamptz) IS 'True if the moment is over, and from then on no movement of the business is dated at it or before. It changes the row only if the last movement was not later anyway.';
-- It works in this schema and with no temporary table of the caller.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION mark_past(uuid, timestamptz) SET search_path = %I, pg_temp', current_schema());
END
$$;

-- One statement settles a batch. If a business, a key or a row is not as expected, the statement calls this function, which
-- undoes all of it.
CREATE FUNCTION refuse_batch() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a request or a key of the batch was written before' USING ERRCODE = 'EM001';
END
$$;
COMMENT ON FUNCTION refuse_batch() IS 'Ends the statement that calls it with the error EM001, which undoes everything that the statement wrote.';

-- A decision that is written into the schema of another shard would stand beside the true one, and a void there would prove
-- nothing. So every statement that decides names the schema that it means.
CREATE FUNCTION in_schema(wanted text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF current_schema() = wanted THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION 'a statement for % came to %', wanted, current_schema() USING ERRCODE = 'EM002';
END
$$;
COMMENT ON FUNCTION in_schema(text) IS 'True if the session works in this schema. Otherwise it ends the statement that calls it with the error EM002.';

-- A row can be seen here and be missing on the synchronous standby: when the wait of its COMMIT for the standby was cancelled, and
-- after a crash during that wait. Such a row is gone after a failover, so nobody may be told what it says. A statement that calls
-- this function writes a little into the log and so waits for the standby itself, after everything that it can see.
CREATE FUNCTION await_standby() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('synchronous_standby_names') <> '' AND NOT pg_is_in_recovery() THEN
        PERFORM pg_logical_emit_message(true, 'earmark', '');
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION await_standby() IS 'Always true. If a standby has to confirm commits, the transaction that calls it has something to commit: its COMMIT is answered when everything that it saw is on the standby.';
