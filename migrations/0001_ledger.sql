-- The ledger. Every primary key begins with the business, and every statement of the request path names it, so that the
-- tables can be spread over several servers by business.

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
COMMENT ON COLUMN businesses.business_id IS 'Made by the service, at random (UUID version 4).';
COMMENT ON COLUMN businesses.name IS 'What people call it. Not unique.';
COMMENT ON COLUMN businesses.balance IS 'The main balance, in cents. Allocations never change it.';
COMMENT ON COLUMN businesses.payout_balance IS 'What can still be allocated, in cents: the sum of deposits less the sum of allocations.';
COMMENT ON COLUMN businesses.payouts_enabled IS 'While false, every request is refused with 403.';
COMMENT ON COLUMN businesses.created_at IS 'When the business was created.';
COMMENT ON CONSTRAINT businesses_name_not_blank ON businesses IS 'People look for a business by its name.';
COMMENT ON CONSTRAINT businesses_balance_not_negative ON businesses IS 'The main balance is never negative.';
COMMENT ON CONSTRAINT businesses_payout_balance_not_negative ON businesses IS 'No allocation beyond the balance, even if the program decides wrongly.';

CREATE TABLE api_keys (
    key_id      uuid        PRIMARY KEY,
    business_id uuid        NOT NULL CONSTRAINT api_keys_business REFERENCES businesses,
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
COMMENT ON COLUMN api_keys.business_id IS 'The business that calls with this key.';
COMMENT ON COLUMN api_keys.kind IS 'secret: may do everything. public: may do nothing; it is refused like an unknown key.';
COMMENT ON COLUMN api_keys.digest IS 'SHA-256 of the whole key.';
COMMENT ON COLUMN api_keys.hint IS 'The key''s last four characters, for people to tell keys apart.';
COMMENT ON COLUMN api_keys.created_at IS 'When the key was created.';
COMMENT ON COLUMN api_keys.revoked_at IS 'The key is refused from this time on. Null while it works.';
COMMENT ON CONSTRAINT api_keys_business ON api_keys IS 'Every key has a business. No statement of the request path checks that again.';
COMMENT ON CONSTRAINT api_keys_kind ON api_keys IS 'Two kinds, told apart by the key''s prefix.';
COMMENT ON CONSTRAINT api_keys_digest ON api_keys IS 'A key is found by its digest.';
COMMENT ON CONSTRAINT api_keys_digest_length ON api_keys IS 'SHA-256 has 32 bytes.';

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
COMMENT ON CONSTRAINT allocations_pkey ON allocations IS 'A request is allocated or voided, never both: only one row can be written.';
COMMENT ON CONSTRAINT allocations_known ON allocations IS 'Only a void may lack the address and the amount.';
COMMENT ON CONSTRAINT allocations_amount_positive ON allocations IS 'An allocation never takes money back.';
COMMENT ON CONSTRAINT allocations_outcome ON allocations IS 'The four outcomes.';

CREATE TABLE idempotency_keys (
    business_id uuid        NOT NULL,
    key         text        NOT NULL,
    epoch       bigint      NOT NULL CONSTRAINT idempotency_keys_epoch CHECK (epoch >= 0),
    request_id  uuid,
    email       text,
    amount      bigint,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (business_id, key),
    CONSTRAINT idempotency_keys_allocation CHECK (num_nulls(request_id, email, amount) IN (0, 3))
);
COMMENT ON TABLE idempotency_keys IS 'One row for each key that was allocated or voided under, kept permanently.';
COMMENT ON COLUMN idempotency_keys.business_id IS 'The business whose key it is.';
COMMENT ON COLUMN idempotency_keys.key IS 'The client''s name for the operation: 1 to 255 visible ASCII characters.';
COMMENT ON COLUMN idempotency_keys.epoch IS 'The number of voids under the key. An attempt of another epoch is never applied.';
COMMENT ON COLUMN idempotency_keys.request_id IS 'The request of the one allocation under the key. Null until there is one.';
COMMENT ON COLUMN idempotency_keys.email IS 'The address of that allocation: the same key for another address is refused with 422. Null until there is one.';
COMMENT ON COLUMN idempotency_keys.amount IS 'The amount of that allocation in cents: the same key for another amount is refused with 422. Null until there is one.';
COMMENT ON COLUMN idempotency_keys.created_at IS 'When the key was first written.';
COMMENT ON CONSTRAINT idempotency_keys_pkey ON idempotency_keys IS 'Two attempts under one key wait for each other here.';
COMMENT ON CONSTRAINT idempotency_keys_epoch ON idempotency_keys IS 'A count of voids is never negative.';
COMMENT ON CONSTRAINT idempotency_keys_allocation ON idempotency_keys IS 'Request, address and amount of the allocation are all null or all set.';

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
