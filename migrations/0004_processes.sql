-- Unlogged: written every second and worth nothing a minute later, so it need not survive a crash, be copied to a standby,
-- or make anybody wait for a disk.
CREATE UNLOGGED TABLE processes (
    process_id uuid        CONSTRAINT processes_pkey PRIMARY KEY,
    kind       text        NOT NULL CONSTRAINT processes_kind CHECK (kind IN ('serve', 'intake', 'worker')),
    host       text        NOT NULL,
    pid        bigint      NOT NULL,
    version    text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    state      jsonb       NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE processes IS 'The intakes and workers that run, for people to look at. Nothing is decided by it.';
COMMENT ON COLUMN processes.process_id IS 'Drawn by the process at its start.';
COMMENT ON COLUMN processes.kind IS 'The command that it runs.';
COMMENT ON COLUMN processes.host IS 'The name of its machine or container.';
COMMENT ON COLUMN processes.pid IS 'Its number on that machine.';
COMMENT ON COLUMN processes.version IS 'The version of the program.';
COMMENT ON COLUMN processes.started_at IS 'When it was first heard of.';
COMMENT ON COLUMN processes.seen_at IS 'When it was last heard of. A process says every second that it is there; one that ends in good order removes its row, and others are removed after a day.';
COMMENT ON COLUMN processes.state IS 'How it was then: figures since its start, and connections. No addresses, no keys.';
COMMENT ON CONSTRAINT processes_pkey ON processes IS 'One row a process.';
COMMENT ON CONSTRAINT processes_kind ON processes IS 'The commands that run until they are stopped.';
