-- A business that pays, with every outcome and every kind of key; and one that does not pay yet.
INSERT INTO businesses (business_id, name, balance, payout_balance, payouts_enabled) VALUES
    ('00000000-0000-4000-8000-000000000001', 'Acme', 700, 500, true),
    ('00000000-0000-4000-8000-000000000002', 'Globex', 0, 0, false);
INSERT INTO deposits (business_id, deposit_id, amount, note) VALUES
    ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000021', 1000, 'opening'),
    ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000022', -100, '');
INSERT INTO payout_users (business_id, email, hash, balance, status) VALUES
    ('00000000-0000-4000-8000-000000000001', 'ann@example.com', decode(repeat('31', 32), 'hex'), 250, 'active'),
    ('00000000-0000-4000-8000-000000000001', 'bob@example.com', decode(repeat('32', 32), 'hex'), 150, 'inactive');
INSERT INTO allocations (business_id, request_id, email, amount, outcome) VALUES
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000041', 'ann@example.com', 250, 'allocated'),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000042', 'bob@example.com', 150, 'allocated'),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000043', 'ann@example.com', 9000, 'insufficient_balance'),
    ('00000000-0000-4000-8000-000000000002', '01900000-0000-7000-8000-000000000044', 'ann@example.com', 10, 'payouts_disabled'),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000045', 'cid@example.com', 20, 'voided'),
    ('00000000-0000-4000-8000-000000000001', '01900000-0000-7000-8000-000000000046', NULL, NULL, 'voided');
INSERT INTO idempotency_keys (business_id, key, epoch, raise_count, request_id, email, amount) VALUES
    ('00000000-0000-4000-8000-000000000001', 'allocated at once', 0, 0, '01900000-0000-7000-8000-000000000041', 'ann@example.com', 250),
    ('00000000-0000-4000-8000-000000000001', 'allocated after a void', 1, 1, '01900000-0000-7000-8000-000000000042', 'bob@example.com', 150),
    ('00000000-0000-4000-8000-000000000001', 'voided twice', 2, 2, NULL, NULL, NULL);
-- References, short and long, and the key of an item of a bulk request.
INSERT INTO businesses (business_id, name, payout_balance, payouts_enabled) VALUES ('00000000-0000-4000-8000-000000000600', 'Umbrella', 80, true);
INSERT INTO deposits (business_id, deposit_id, amount) VALUES ('00000000-0000-4000-8000-000000000600', '00000000-0000-4000-8000-000000000621', 100);
INSERT INTO payout_users (business_id, email, hash, balance) VALUES ('00000000-0000-4000-8000-000000000600', 'ann@example.com', decode(repeat('61', 32), 'hex'), 20);
INSERT INTO allocations (business_id, request_id, email, amount, outcome, reference) VALUES
    ('00000000-0000-4000-8000-000000000600', '01900000-0000-7000-8000-000000000641', 'ann@example.com', 10, 'allocated', 'r'),
    ('00000000-0000-4000-8000-000000000600', '01900000-0000-7000-8000-000000000642', 'ann@example.com', 10, 'allocated', repeat('é', 255)),
    ('00000000-0000-4000-8000-000000000600', '01900000-0000-7000-8000-000000000643', 'bob@example.com', 10, 'voided', 'r');
INSERT INTO idempotency_keys (business_id, key, epoch, raise_count, request_id, email, amount) VALUES
    ('00000000-0000-4000-8000-000000000600', 'payday 0', 0, 0, '01900000-0000-7000-8000-000000000641', 'ann@example.com', 10),
    ('00000000-0000-4000-8000-000000000600', 'payday 1', 3, 2, '01900000-0000-7000-8000-000000000642', 'ann@example.com', 10);
-- A key that was raised by the second transaction that raises, and one that never was.
INSERT INTO businesses (business_id, name) VALUES ('00000000-0000-4000-8000-000000000700', 'Hooli');
UPDATE key_raises SET count = 2;
INSERT INTO allocations (business_id, request_id, email, amount, outcome) VALUES
    ('00000000-0000-4000-8000-000000000700', '01900000-0000-7000-8000-000000000741', 'ann@example.com', 10, 'voided');
INSERT INTO idempotency_keys (business_id, key, epoch, raise_count) VALUES
    ('00000000-0000-4000-8000-000000000700', 'raised', 1, 2),
    ('00000000-0000-4000-8000-000000000700', 'not raised', 0, 0);
