CREATE TABLE queue_prefixes (
    prefix     text     CONSTRAINT queue_prefixes_pkey PRIMARY KEY,
    partitions smallint NOT NULL CONSTRAINT queue_prefixes_partitions CHECK (partitions BETWEEN 1 AND 64)
);
COMMENT ON TABLE queue_prefixes IS 'The deployments that use this ledger, by the prefix of their queues.';
COMMENT ON COLUMN queue_prefixes.prefix IS 'The EARMARK_QUEUE_PREFIX of the deployment.';
COMMENT ON COLUMN queue_prefixes.partitions IS 'The largest EARMARK_PARTITIONS that the deployment ever had. That many work queues may hold messages, and workers take from all of them.';
COMMENT ON CONSTRAINT queue_prefixes_pkey ON queue_prefixes IS 'One row for each deployment.';
COMMENT ON CONSTRAINT queue_prefixes_partitions ON queue_prefixes IS 'The bounds of EARMARK_PARTITIONS.';
