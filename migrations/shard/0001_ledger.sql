-- The ledger of one shard: a set of businesses with every row of theirs. The statements name no schema: the session that
-- applies this file works in the schema of the shard, and so does everybody who uses the tables.

CREATE TABLE businesses (
    business_id     uuid        PRIMARY KEY,
    name            text        NOT NULL CONSTRAINT businesses_name_not_blank CHECK (btrim(name) <> ''),
    balance         bigint      NOT NULL DEFAULT 0 CONSTRAINT businesses_balance_not_negative CHECK (balance >= 0),
    payout_balance  bigint      NOT NULL DEFAULT 0 CONSTRAINT businesses_payout_balance_not_negative CHECK (payout_balance >= 0),
    payouts_enabled boolean     NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now()
    -- Every batch updates the row of its business. Free space on its page, and no index on a balance, let Postgres write the
    -- new version of the row to the same page without touching an index (a HOT update).
) WITH (fillfactor = 10);
COMMENT ON TABLE businesses IS 'Who pays. One row for each business; every allocation debits the row of its business.';
COMMENT ON COLUMN businesses.business_id IS 'Made by the service at random (UUID version 8). Bits 40 to 47 are the number of the shard: the last two digits of the second group.';
COMMENT ON COLUMN businesses.name IS 'What people call it. Not unique.';
COMMENT ON COLUMN businesses.balance IS 'The main balance, in cents. Allocations never change it.';
COMMENT ON COLUMN businesses.payout_balance IS 'What can still be allocated, in cents: the sum of deposits less the sum of allocations.';
COMMENT ON COLUMN businesses.payouts_enabled IS 'While false, every request is refused with 403.';
COMMENT ON COLUMN businesses.created_at IS 'When the business was created.';
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
COMMENT ON COLUMN payout_users.balance IS 'In cents: the sum of this user''s allocations.';
COMMENT ON COLUMN payout_users.status IS 'An inactive user cannot see the balance by hash, but still receives allocations.';
COMMENT ON COLUMN payout_users.created_at IS 'When the first allocation was committed.';
COMMENT ON CONSTRAINT payout_users_pkey ON payout_users IS 'One address is one user of a business.';
COMMENT ON CONSTRAINT payout_users_hash ON payout_users IS 'A user is found by the hash alone.';
COMMENT ON CONSTRAINT payout_users_hash_length ON payout_users IS 'HMAC-SHA256 has 32 bytes.';
COMMENT ON CONSTRAINT payout_users_balance_not_negative ON payout_users IS 'Allocations only add to it.';
COMMENT ON CONSTRAINT payout_users_status ON payout_users IS 'active and inactive.';

CREATE TABLE allocations (
    business_id uuid        NOT NULL,
    request_id  uuid        NOT NULL,
    email       text,
    amount      bigint      CONSTRAINT allocations_amount_positive CHECK (amount > 0),
    outcome     text        NOT NULL CONSTRAINT allocations_outcome CHECK (outcome IN ('allocated', 'insufficient_balance', 'payouts_disabled', 'voided')),
    decided_at  timestamptz NOT NULL DEFAULT now(),
    reference   text        CONSTRAINT allocations_reference CHECK (char_length(reference) BETWEEN 1 AND 255),
    CONSTRAINT allocations_pkey PRIMARY KEY (business_id, request_id),
    CONSTRAINT allocations_known CHECK (outcome = 'voided' OR num_nulls(email, amount) = 0)
    -- No foreign keys: the worker has locked the row of the business when it writes here, and nothing ever deletes a business.
    -- Postgres would check a foreign key by one query for each row, which would cost more than the insert itself.
);
COMMENT ON TABLE allocations IS 'One row for each decided request, written once and never changed. The row decides: the request debits if and only if its row says allocated.';
COMMENT ON COLUMN allocations.business_id IS 'The business that asked.';
COMMENT ON COLUMN allocations.request_id IS 'One attempt (UUID version 7, minted by the intake).';
COMMENT ON COLUMN allocations.email IS 'The address of the payout user, normalised. Null only if the request was voided by its id alone.';
COMMENT ON COLUMN allocations.amount IS 'In cents. Null if the email is null.';
COMMENT ON COLUMN allocations.outcome IS 'allocated: debited and credited in the transaction that wrote this row. Anything else: not debited, permanently.';
COMMENT ON COLUMN allocations.decided_at IS 'The start of the transaction that wrote this row.';
COMMENT ON COLUMN allocations.reference IS 'The client''s own name for what it pays, trimmed; null if it gave none. Not unique.';
COMMENT ON CONSTRAINT allocations_reference ON allocations IS 'As the API checks it. Without a reference the column is null, never empty.';
COMMENT ON CONSTRAINT allocations_pkey ON allocations IS 'A request is allocated or voided, never both: only one row can be written.';
COMMENT ON CONSTRAINT allocations_known ON allocations IS 'Only a void may lack the address and the amount.';
COMMENT ON CONSTRAINT allocations_amount_positive ON allocations IS 'An allocation never takes money back.';
COMMENT ON CONSTRAINT allocations_outcome ON allocations IS 'The four outcomes.';

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

CREATE TABLE idempotency_keys (
    business_id uuid        NOT NULL,
    key         text        NOT NULL,
    epoch       bigint      NOT NULL DEFAULT 0 CONSTRAINT idempotency_keys_epoch CHECK (epoch >= 0),
    request_id  uuid,
    email       text,
    amount      bigint,
    created_at  timestamptz NOT NULL DEFAULT now(),
    raise_count bigint      NOT NULL DEFAULT 0,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (business_id, key),
    CONSTRAINT idempotency_keys_allocation CHECK (num_nulls(request_id, email, amount) IN (0, 3)),
    -- An epoch above 0 needs the count of its raise: without it, any attempt could use the epoch.
    CONSTRAINT idempotency_keys_raised CHECK ((epoch = 0) = (raise_count = 0) AND raise_count >= 0)
);
COMMENT ON TABLE idempotency_keys IS 'One row for each key under which anything was decided, kept permanently.';
COMMENT ON COLUMN idempotency_keys.business_id IS 'The business whose key it is.';
COMMENT ON COLUMN idempotency_keys.key IS 'The client''s name for the operation: 1 to 255 visible ASCII characters. For an item of a bulk call under a key: that key, a blank, and the item''s place, counted from 0.';
COMMENT ON COLUMN idempotency_keys.epoch IS 'The number of voids under the key. An attempt of another epoch is never applied.';
COMMENT ON COLUMN idempotency_keys.request_id IS 'The request of the one allocation under the key. Null until there is one.';
COMMENT ON COLUMN idempotency_keys.email IS 'The address of that allocation: the same key for another address is refused with 422. Null until there is one.';
COMMENT ON COLUMN idempotency_keys.amount IS 'The amount of that allocation in cents: the same key for another amount is refused with 422. Null until there is one.';
COMMENT ON COLUMN idempotency_keys.created_at IS 'When the key was first written.';
COMMENT ON CONSTRAINT idempotency_keys_pkey ON idempotency_keys IS 'Two attempts under one key wait for each other here.';
COMMENT ON CONSTRAINT idempotency_keys_epoch ON idempotency_keys IS 'A count of voids is never negative.';
COMMENT ON CONSTRAINT idempotency_keys_allocation ON idempotency_keys IS 'Request, address and amount of the allocation are all null or all set.';
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
    CONSTRAINT deposits_pkey PRIMARY KEY (business_id, deposit_id)
);
COMMENT ON TABLE deposits IS 'What was put into a payout balance, or taken out of it (negative), by hand. Written once and never changed.';
COMMENT ON COLUMN deposits.business_id IS 'The business whose payout balance is changed.';
COMMENT ON COLUMN deposits.deposit_id IS 'Made by the service, at random (UUID version 4).';
COMMENT ON COLUMN deposits.amount IS 'In cents; negative for a withdrawal.';
COMMENT ON COLUMN deposits.note IS 'The reason, in words. May be empty.';
COMMENT ON COLUMN deposits.created_at IS 'When it was made.';
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
