-- A dead letter of each cause: open, replayed, dropped, and dropped after a replay. A deployment that is paused.
INSERT INTO dead_letters (dead_letter_id, body, requests, queue, cause, reason, deaths, died_at, replays, replayed_at, replayed_by, dropped_at, dropped_by) VALUES
    ('00000000-0000-4000-8000-000000000501', 'no message', '{}', NULL, 'unreadable', 'not a message', 0, NULL, 0, NULL, NULL, NULL, NULL),
    ('00000000-0000-4000-8000-000000000502', '{}', '{01900000-0000-7000-8000-000000000541}', 'earmark.allocations', 'rejected', 'refused by the schema', 1, now(), 2, now(), 'ann', NULL, NULL),
    ('00000000-0000-4000-8000-000000000503', '\x00ff', '{01900000-0000-7000-8000-000000000542,01900000-0000-7000-8000-000000000543}', 'earmark.allocations', 'delivery_limit', 'came back too often', 21, now(), 0, NULL, NULL, now(), 'bob'),
    ('00000000-0000-4000-8000-000000000504', '', '{}', 'earmark.allocations.2', 'other', 'put by hand', 0, NULL, 1, now(), 'ann', now(), 'bob');
INSERT INTO queue_prefixes (prefix, partitions, paused_at, paused_by) VALUES ('paused', 2, now(), 'ann');
INSERT INTO audits (audit_id, audited_by, businesses, payout_users, allocations, differences, difference_cents) VALUES
    ('00000000-0000-4000-8000-000000000551', 'worker', 3, 3, 7, 0, 0),
    ('00000000-0000-4000-8000-000000000552', 'ann', 3, 3, 7, 1, 250);
