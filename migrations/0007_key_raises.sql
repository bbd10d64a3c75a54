-- Epochs of keys are raised in one order, that of the counts: whoever raises adds one here, after locking the keys, and
-- holds this row to the commit. So a count that was read says that every raise up to it is committed.
CREATE TABLE key_raises (
    only_row boolean DEFAULT true CONSTRAINT key_raises_pkey PRIMARY KEY CONSTRAINT key_raises_only_row CHECK (only_row),
    count    bigint  NOT NULL CONSTRAINT key_raises_count CHECK (count >= 0)
    -- One hot row: room on its page keeps the updates HOT.
) WITH (fillfactor = 10);
INSERT INTO key_raises (count) VALUES (0);
COMMENT ON TABLE key_raises IS 'How many transactions have raised epochs of idempotency keys. One row.';
COMMENT ON COLUMN key_raises.only_row IS 'Always true.';
COMMENT ON COLUMN key_raises.count IS 'Counts up by one with each transaction that raises, in the order of their commits.';
COMMENT ON CONSTRAINT key_raises_pkey ON key_raises IS 'There is one count.';
COMMENT ON CONSTRAINT key_raises_only_row ON key_raises IS 'There is one count.';
COMMENT ON CONSTRAINT key_raises_count ON key_raises IS 'Counts up from 0.';

ALTER TABLE idempotency_keys
    ALTER COLUMN epoch SET DEFAULT 0,
    ADD COLUMN raise_count bigint NOT NULL DEFAULT 0;
-- What was raised before this migration was raised before anybody can ask.
UPDATE idempotency_keys SET raise_count = 1 WHERE epoch > 0;
UPDATE key_raises SET count = 1;
ALTER TABLE idempotency_keys
    -- An epoch whose raise is not known could be taken for one that was raised before anybody asked.
    ADD CONSTRAINT idempotency_keys_raised CHECK ((epoch = 0) = (raise_count = 0) AND raise_count >= 0);
COMMENT ON COLUMN idempotency_keys.raise_count IS 'The count of key_raises with which the key came into its epoch; 0 in epoch 0. An attempt may use the epoch only if its request was received after that.';
COMMENT ON CONSTRAINT idempotency_keys_raised ON idempotency_keys IS 'Every raise has a count.';
COMMENT ON TABLE idempotency_keys IS 'One row for each key that anything was decided under, kept permanently.';
