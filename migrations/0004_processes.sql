-- Unlogged: the rows are written every second and are worth nothing a minute later. So they need not survive a crash or be
-- copied to a standby, and writing them waits for no disk. The fillfactor keeps the updates on their page.
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
COMMENT ON TABLE processes IS 'The intakes and workers that run, for people to look at. Nothing is decided by these rows.';
COMMENT ON COLUMN processes.process_id IS 'Drawn by the process at random when it starts.';
COMMENT ON COLUMN processes.kind IS 'The command that it runs: serve, intake or worker.';
COMMENT ON COLUMN processes.host IS 'The name of the machine or container.';
COMMENT ON COLUMN processes.pid IS 'Its process id on that machine.';
COMMENT ON COLUMN processes.version IS 'The version of the program.';
COMMENT ON COLUMN processes.started_at IS 'When its row was first written.';
COMMENT ON COLUMN processes.seen_at IS 'When its row was last written. A process writes it every second. One that ends in good order removes its row; other rows are removed after a day.';
COMMENT ON COLUMN processes.state IS 'How the process was then, as JSON: counts since its start, and its connections. No email addresses and no keys.';
COMMENT ON CONSTRAINT processes_pkey ON processes IS 'One row for each process.';
COMMENT ON CONSTRAINT processes_kind ON processes IS 'The commands that run until they are stopped.';
