CREATE TABLE queue_prefixes (
    prefix     text     CONSTRAINT queue_prefixes_pkey PRIMARY KEY,
    partitions smallint NOT NULL CONSTRAINT queue_prefixes_partitions CHECK (partitions BETWEEN 1 AND 64)
);
COMMENT ON TABLE queue_prefixes IS 'The deployments that use this ledger, by the prefix of their queues.';
COMMENT ON COLUMN queue_prefixes.prefix IS 'EARMARK_QUEUE_PREFIX.';
COMMENT ON COLUMN queue_prefixes.partitions IS 'The largest EARMARK_PARTITIONS there ever was: so many work queues may hold messages, and workers empty them all.';
COMMENT ON CONSTRAINT queue_prefixes_pkey ON queue_prefixes IS 'One row a deployment.';
COMMENT ON CONSTRAINT queue_prefixes_partitions ON queue_prefixes IS 'The bounds of the setting.';
