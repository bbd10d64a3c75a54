-- A business that pays, with every kind of movement, several outcomes and every kind of key; and one that does not pay yet.
INSERT INTO businesses (business_id, name, balance, payout_balance, payouts_enabled, seq, moved_at, day, day_total, largest_allocation, daily_limit) VALUES
    ('00000000-0000-4000-8000-000000000001', 'Acme', 700, 550, true, 7, '2026-01-02 00:00:07Z', '2026-01-02', 400, 9000, 10000),
    ('00000000-0000-4000-8000-000000000002', 'Globex', 0, 0, false, 0, '2026-01-02', 'epoch', 0, NULL, NULL);
INSERT INTO deposits (business_id, deposit_id, amount, note, seq, payout_balance_after, moved_at) VALUES
    ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000021', 1000, 'opening', 1, 1000, '2026-01-02 00:00:01Z'),
    ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000022', -100, '', 2, 900, '2026-01-02 00:00:02Z');
INSERT INTO payout_users (business_id, email, hash, balance, status) VALUES
    ('00000000-0000-4000-8000-000000000001', 'ann@example.com', decode(repeat('31', 32), 'hex'), 200, 'active'),
    ('00000000-0000-4000-8000-000000000001', 'bob@example.com', decode(repeat('32', 32), 'hex'), 130, 'inactive');
INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome, seq, payout_balance_after, moved_at, target, remaining) VALUES
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000041', 'allocate', 'ann@example.com', 250, 'allocated', 3, 650, '2026-01-02 00:00:03Z', NULL, NULL),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000042', 'allocate', 'bob@example.com', 150, 'allocated', 4, 500, '2026-01-02 00:00:04Z', NULL, NULL),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000051', 'reverse', 'ann@example.com', 50, 'reversed', 5, 550, '2026-01-02 00:00:05Z', '01900000-0000-7000-8000-000000000041', 200),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000052', 'settle', 'bob@example.com', 30, 'settled', 6, 550, '2026-01-02 00:00:06Z', NULL, 120),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000053', 'reverse', 'bob@example.com', 10, 'settlement_reversed', 7, 550, '2026-01-02 00:00:07Z', '01900000-0000-7000-8000-000000000052', 20);
INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome, target, remaining) VALUES
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000043', 'allocate', 'ann@example.com', 9000, 'insufficient_balance', NULL, NULL),
    ('00000000-0000-4000-8000-000000000002', '01900000-0000-7000-8000-000000000044', 'allocate', 'ann@example.com', 10, 'payouts_disabled', NULL, NULL),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000045', 'allocate', 'cid@example.com', 20, 'voided', NULL, NULL),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000046', NULL, NULL, NULL, 'voided', NULL, NULL),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000054', 'reverse', NULL, NULL, 'not_reversible', '01900000-0000-7000-8000-000000000045', NULL),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000055', 'reverse', 'ann@example.com', 201, 'amount_too_large', '01900000-0000-7000-8000-000000000041', 200),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000056', 'reverse', NULL, NULL, 'voided', '01900000-0000-7000-8000-000000000041', NULL),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000057', 'settle', 'bob@example.com', 131, 'insufficient_user_balance', NULL, NULL);
INSERT INTO idempotency_keys (business_id, scope, key, epoch, raise_count, request_id, kind, email, amount, target) VALUES
    ('00000000-0000-4000-8000-000000000001', 'client', 'allocated at once', 0, 0, '01900000-0000-7000-8000-000000000041', 'allocate', 'ann@example.com', 250, NULL),
    ('00000000-0000-4000-8000-000000000001', 'client', 'allocated after a void', 1, 1, '01900000-0000-7000-8000-000000000042', 'allocate', 'bob@example.com', 150, NULL),
    ('00000000-0000-4000-8000-000000000001', 'client', 'reversed', 0, 0, '01900000-0000-7000-8000-000000000051', 'reverse', NULL, 50, '01900000-0000-7000-8000-000000000041'),
    ('00000000-0000-4000-8000-000000000001', 'client', 'some of what was left', 0, 0, '01900000-0000-7000-8000-000000000053', 'reverse', NULL, NULL, '01900000-0000-7000-8000-000000000052'),
    ('00000000-0000-4000-8000-000000000001', 'settlement', 'Invoice ä 7', 0, 0, '01900000-0000-7000-8000-000000000052', 'settle', 'bob@example.com', 30, NULL),
    ('00000000-0000-4000-8000-000000000001', 'client', 'voided twice', 2, 2, NULL, NULL, NULL, NULL, NULL);
-- References, short and long, and the key of an item of a bulk request.
INSERT INTO businesses (business_id, name, payout_balance, payouts_enabled, seq, moved_at, day, day_total) VALUES
    ('00000000-0000-4000-8000-000000000600', 'Umbrella', 80, true, 3, '2026-01-02', '2026-01-02', 20);
INSERT INTO deposits (business_id, deposit_id, amount, seq, payout_balance_after, moved_at) VALUES
    ('00000000-0000-4000-8000-000000000600', '00000000-0000-4000-8000-000000000621', 100, 1, 100, '2026-01-02Z');
INSERT INTO payout_users (business_id, email, hash, balance) VALUES ('00000000-0000-4000-8000-000000000600', 'ann@example.com', decode(repeat('61', 32), 'hex'), 20);
INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome, reference, seq, payout_balance_after, moved_at) VALUES
    ('00000000-0000-4000-8000-000000000600', '01900000-0000-7000-8000-000000000641', 'allocate', 'ann@example.com', 10, 'allocated', 'r', 2, 90, '2026-01-02Z'),
    ('00000000-0000-4000-8000-000000000600', '01900000-0000-7000-8000-000000000642', 'allocate', 'ann@example.com', 10, 'allocated', repeat('é', 255), 3, 80, '2026-01-02Z'),
    ('00000000-0000-4000-8000-000000000600', '01900000-0000-7000-8000-000000000643', 'allocate', 'bob@example.com', 10, 'voided', 'r', NULL, NULL, NULL);
INSERT INTO idempotency_keys (business_id, scope, key, epoch, raise_count, request_id, kind, email, amount) VALUES
    ('00000000-0000-4000-8000-000000000600', 'client', 'payday 0', 0, 0, '01900000-0000-7000-8000-000000000641', 'allocate', 'ann@example.com', 10),
    ('00000000-0000-4000-8000-000000000600', 'client', 'payday 1', 3, 2, '01900000-0000-7000-8000-000000000642', 'allocate', 'ann@example.com', 10);
-- A key that was raised by the second transaction that raises, and one that never was.
INSERT INTO businesses (business_id, name) VALUES ('00000000-0000-4000-8000-000000000700', 'Hooli');
UPDATE key_raises SET count = 2;
INSERT INTO allocations (business_id, request_id, kind, email, amount, outcome) VALUES
    ('00000000-0000-4000-8000-000000000700', '01900000-0000-7000-8000-000000000741', 'allocate', 'ann@example.com', 10, 'voided');
INSERT INTO idempotency_keys (business_id, scope, key, epoch, raise_count) VALUES
    ('00000000-0000-4000-8000-000000000700', 'client', 'raised', 1, 2),
    ('00000000-0000-4000-8000-000000000700', 'client', 'not raised', 0, 0);
