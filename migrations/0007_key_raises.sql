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

ALTER TABLE idempotency_keys
    ALTER COLUMN epoch SET DEFAULT 0,
    ADD COLUMN raise_count bigint NOT NULL DEFAULT 0;
-- An epoch that was raised before this migration was raised before any request that is still to come: count 1 says that.
UPDATE idempotency_keys SET raise_count = 1 WHERE epoch > 0;
UPDATE key_raises SET count = 1;
ALTER TABLE idempotency_keys
    -- An epoch above 0 needs the count of its raise: without it, any attempt could use the epoch.
    ADD CONSTRAINT idempotency_keys_raised CHECK ((epoch = 0) = (raise_count = 0) AND raise_count >= 0);
COMMENT ON COLUMN idempotency_keys.raise_count IS 'The count of the raise that brought the key into its epoch; 0 in epoch 0. Only an attempt that was received after this raise may use the epoch.';
COMMENT ON CONSTRAINT idempotency_keys_raised ON idempotency_keys IS 'An epoch above 0 has the count of its raise, and epoch 0 has none.';
COMMENT ON TABLE idempotency_keys IS 'One row for each key under which anything was decided, kept permanently.';
