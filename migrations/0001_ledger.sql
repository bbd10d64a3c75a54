-- The ledger. Every primary key begins with the business, and every statement of the request path names it, so that the
-- tables can be spread over several servers by business.

CREATE TABLE businesses (
    business_id     uuid        PRIMARY KEY,
    name            text        NOT NULL CONSTRAINT businesses_name_not_blank CHECK (btrim(name) <> ''),
    balance         bigint      NOT NULL DEFAULT 0 CONSTRAINT businesses_balance_not_negative CHECK (balance >= 0),
    payout_balance  bigint      NOT NULL DEFAULT 0 CONSTRAINT businesses_payout_balance_not_negative CHECK (payout_balance >= 0),
    payouts_enabled boolean     NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now()
    -- One hot row a business, updated by every batch: room on its page, and no index on a balance, keep the updates HOT.
) WITH (fillfactor = 10);
COMMENT ON TABLE businesses IS 'Who pays: one row a business, the row that every allocation of it debits.';
COMMENT ON COLUMN businesses.business_id IS 'Made by the service, at random (UUID version 4).';
COMMENT ON COLUMN businesses.name IS 'What people call it. Not unique.';
COMMENT ON COLUMN businesses.balance IS 'Main balance in cents. Allocations never touch it.';
COMMENT ON COLUMN businesses.payout_balance IS 'What can still be allocated, in cents: the sum of deposits less the sum of allocations.';
COMMENT ON COLUMN businesses.payouts_enabled IS 'While false, every request is refused with 403.';
COMMENT ON COLUMN businesses.created_at IS 'When the business was created.';
COMMENT ON CONSTRAINT businesses_name_not_blank ON businesses IS 'A business that nobody can name cannot be looked up by people.';
COMMENT ON CONSTRAINT businesses_balance_not_negative ON businesses IS 'Money that is not there cannot be spent.';
COMMENT ON CONSTRAINT businesses_payout_balance_not_negative ON businesses IS 'The last guard behind the decision: no allocation beyond the balance.';

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
COMMENT ON TABLE api_keys IS 'Who may call. The key itself is shown once, when it is created, and stored nowhere.';
COMMENT ON COLUMN api_keys.key_id IS 'What people call the key by when they revoke it.';
COMMENT ON COLUMN api_keys.business_id IS 'The business that calls with this key.';
COMMENT ON COLUMN api_keys.kind IS 'secret: may do everything. public: known, and refused like an unknown key.';
COMMENT ON COLUMN api_keys.digest IS 'SHA-256 of the whole key.';
COMMENT ON COLUMN api_keys.hint IS 'The key''s last four characters, for people to tell keys apart.';
COMMENT ON COLUMN api_keys.created_at IS 'When the key was created.';
COMMENT ON COLUMN api_keys.revoked_at IS 'From when on the key is refused; null while it works.';
COMMENT ON CONSTRAINT api_keys_business ON api_keys IS 'A key always leads to a business: nothing on the request path checks it again.';
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
COMMENT ON COLUMN payout_users.hash IS 'HMAC-SHA256 over the business and the address: what the user shows to see the balance.';
COMMENT ON COLUMN payout_users.balance IS 'In cents: the sum of this user''s allocations.';
COMMENT ON COLUMN payout_users.status IS 'An inactive user cannot look in by hash; allocations still arrive.';
COMMENT ON COLUMN payout_users.created_at IS 'When the first allocation was committed.';
COMMENT ON CONSTRAINT payout_users_hash ON payout_users IS 'A user is found by the hash alone.';
COMMENT ON CONSTRAINT payout_users_hash_length ON payout_users IS 'HMAC-SHA256 has 32 bytes.';
COMMENT ON CONSTRAINT payout_users_balance_not_negative ON payout_users IS 'Allocations only add.';
COMMENT ON CONSTRAINT payout_users_status ON payout_users IS 'Two states.';

CREATE TABLE allocations (
    business_id uuid        NOT NULL,
    request_id  uuid        NOT NULL,
    email       text,
    amount      bigint      CONSTRAINT allocations_amount_positive CHECK (amount > 0),
    outcome     text        NOT NULL CONSTRAINT allocations_outcome CHECK (outcome IN ('allocated', 'insufficient_balance', 'payouts_disabled', 'voided')),
    decided_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT allocations_pkey PRIMARY KEY (business_id, request_id),
    CONSTRAINT allocations_known CHECK (outcome = 'voided' OR num_nulls(email, amount) = 0)
    -- No foreign keys: the worker holds the lock on the business's row when it writes here, and a check by a query a row
    -- would cost the batch more than the insert itself. Nothing ever deletes a business.
);
COMMENT ON TABLE allocations IS 'One row for each decided request, written once and never changed. The row decides: a debit exists if and only if it says allocated.';
COMMENT ON COLUMN allocations.business_id IS 'The business that asked.';
COMMENT ON COLUMN allocations.request_id IS 'One HTTP attempt (UUID version 7, made by the intake).';
COMMENT ON COLUMN allocations.email IS 'The payout user, normalised. Null only where a request was voided by somebody who knew its id alone.';
COMMENT ON COLUMN allocations.amount IS 'In cents. Null where the email is.';
COMMENT ON COLUMN allocations.outcome IS 'allocated: debited and credited in the transaction that wrote this row. Anything else: not debited, for ever.';
COMMENT ON COLUMN allocations.decided_at IS 'Start of the transaction that decided.';
COMMENT ON CONSTRAINT allocations_pkey ON allocations IS 'Lets exactly one of a debit and a void win.';
COMMENT ON CONSTRAINT allocations_known ON allocations IS 'Only a void can be written without knowing what was asked.';
COMMENT ON CONSTRAINT allocations_amount_positive ON allocations IS 'Nothing is taken back by allocating.';
COMMENT ON CONSTRAINT allocations_outcome ON allocations IS 'The closed list of outcomes.';

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
COMMENT ON TABLE idempotency_keys IS 'One row for each key that was allocated or voided under, kept for ever.';
COMMENT ON COLUMN idempotency_keys.business_id IS 'The business whose key it is.';
COMMENT ON COLUMN idempotency_keys.key IS 'The client''s name for the operation: 1 to 255 visible ASCII characters.';
COMMENT ON COLUMN idempotency_keys.epoch IS 'The number of voids under the key. An attempt of another epoch is dead.';
COMMENT ON COLUMN idempotency_keys.request_id IS 'The one allocation under the key, once there is one.';
COMMENT ON COLUMN idempotency_keys.email IS 'What that allocation was for: the same key for another address is refused with 422.';
COMMENT ON COLUMN idempotency_keys.amount IS 'Its amount in cents: likewise.';
COMMENT ON COLUMN idempotency_keys.created_at IS 'When the key was first written.';
COMMENT ON CONSTRAINT idempotency_keys_pkey ON idempotency_keys IS 'Two attempts under one key wait for each other here.';
COMMENT ON CONSTRAINT idempotency_keys_epoch ON idempotency_keys IS 'Counts up from 0.';
COMMENT ON CONSTRAINT idempotency_keys_allocation ON idempotency_keys IS 'An allocation is known whole or not at all.';

CREATE TABLE deposits (
    business_id uuid        NOT NULL CONSTRAINT deposits_business REFERENCES businesses,
    deposit_id  uuid        NOT NULL,
    amount      bigint      NOT NULL CONSTRAINT deposits_amount_not_zero CHECK (amount <> 0),
    note        text        NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT deposits_pkey PRIMARY KEY (business_id, deposit_id)
);
COMMENT ON TABLE deposits IS 'What was put into a payout balance, or taken out of it (negative), by hand. Written once and never changed.';
COMMENT ON COLUMN deposits.business_id IS 'Whose payout balance.';
COMMENT ON COLUMN deposits.deposit_id IS 'Made by the service, at random (UUID version 4).';
COMMENT ON COLUMN deposits.amount IS 'In cents; negative for a withdrawal.';
COMMENT ON COLUMN deposits.note IS 'Why, in words.';
COMMENT ON COLUMN deposits.created_at IS 'When it was entered.';
COMMENT ON CONSTRAINT deposits_business ON deposits IS 'Money belongs to somebody.';
COMMENT ON CONSTRAINT deposits_amount_not_zero ON deposits IS 'A deposit moves something.';
COMMENT ON CONSTRAINT deposits_pkey ON deposits IS 'One row a deposit.';

-- Append-only tables say so themselves: no program, and no hand at a prompt, changes a decision by mistake.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
COMMENT ON FUNCTION refuse_change() IS 'Refuses every update, delete and truncate of the table it guards.';
CREATE TRIGGER allocations_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON allocations FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER deposits_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON deposits FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
