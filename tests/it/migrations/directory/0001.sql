-- A shard in each state in which it is used, and the keys of a business.
INSERT INTO shards (shard, state) VALUES (0, 'open'), (1, 'full'), (2, 'closed');
INSERT INTO api_keys (key_id, business_id, kind, digest, hint, revoked_at) VALUES
    ('00000000-0000-4000-8000-000000000011', '00000000-0000-4000-8000-000000000001', 'secret', decode(repeat('11', 32), 'hex'), 'aaaa', NULL),
    ('00000000-0000-4000-8000-000000000012', '00000000-0000-4000-8000-000000000001', 'public', decode(repeat('12', 32), 'hex'), 'bbbb', now());
-- A process of each kind; one was last heard of long ago.
INSERT INTO processes (process_id, kind, host, pid, version, seen_at, state) VALUES
    ('00000000-0000-4000-8000-000000000401', 'serve', 'one', 1, '0.1.0', now(), '{}'),
    ('00000000-0000-4000-8000-000000000402', 'intake', 'two', 7, '0.1.0', now(), '{"figures": {"requests": 3}}'),
    ('00000000-0000-4000-8000-000000000403', 'worker', 'three', 4194304, '0.0.1', now() - interval '2 days', '{}');
-- A dead letter of each cause: open, replayed, dropped, and dropped after a replay. A deployment that is paused.
INSERT INTO dead_letters (dead_letter_id, body, requests, key_id, queue, cause, reason, deaths, died_at, replays, replayed_at, replayed_by, dropped_at, dropped_by) VALUES
    ('00000000-0000-4000-8000-000000000501', 'no message', '{}', NULL, NULL, 'unreadable', 'not a message', 0, NULL, 0, NULL, NULL, NULL, NULL),
    ('00000000-0000-4000-8000-000000000502', '{}', '{01900000-0000-7000-8000-000000000541}', 'k1', 'earmark.allocations.0', 'rejected', 'refused by the schema', 1, now(), 2, now(), 'ann', NULL, NULL),
    ('00000000-0000-4000-8000-000000000503', '\x00ff', '{01900000-0000-7000-8000-000000000542,01900000-0000-7000-8000-000000000543}', '', 'earmark.allocations.0', 'delivery_limit', 'came back too often', 21, now(), 0, NULL, NULL, now(), 'bob'),
    ('00000000-0000-4000-8000-000000000504', '', '{}', NULL, 'earmark.allocations.2', 'other', 'put by hand', 0, NULL, 1, now(), 'ann', now(), 'bob');
INSERT INTO dead_letters (dead_letter_id, body, requests, cause, reason, deaths) VALUES
    ('00000000-0000-4000-8000-000000000505', '{}', '{}', 'unauthentic', 'it is not signed', 0),
    ('00000000-0000-4000-8000-000000000506', '{}', '{}', 'wrong_shard', 'of another shard', 0);
INSERT INTO deployments (prefix, paused_at, paused_by) VALUES ('earmark', NULL, NULL), ('paused', now(), 'ann');
INSERT INTO audits (audit_id, audited_by, shard, businesses, payout_users, allocations, differences, difference_cents) VALUES
    ('00000000-0000-4000-8000-000000000551', 'worker', 0, 3, 3, 7, 0, 0),
    ('00000000-0000-4000-8000-000000000552', 'ann', 1, 3, 3, 7, 1, 250);
