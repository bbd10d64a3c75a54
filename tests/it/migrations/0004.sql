-- A process of each kind; one was last heard of long ago.
INSERT INTO processes (process_id, kind, host, pid, version, seen_at, state) VALUES
    ('00000000-0000-4000-8000-000000000401', 'serve', 'one', 1, '0.1.0', now(), '{}'),
    ('00000000-0000-4000-8000-000000000402', 'intake', 'two', 7, '0.1.0', now(), '{"figures": {"requests": 3}}'),
    ('00000000-0000-4000-8000-000000000403', 'worker', 'three', 4194304, '0.0.1', now() - interval '2 days', '{}');
