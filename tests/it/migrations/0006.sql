-- References, short and long, and the key of an item of a bulk request.
INSERT INTO businesses (business_id, name, payout_balance, payouts_enabled) VALUES ('00000000-0000-4000-8000-000000000600', 'Umbrella', 80, true);
INSERT INTO deposits (business_id, deposit_id, amount) VALUES ('00000000-0000-4000-8000-000000000600', '00000000-0000-4000-8000-000000000621', 100);
INSERT INTO payout_users (business_id, email, hash, balance) VALUES ('00000000-0000-4000-8000-000000000600', 'ann@example.com', decode(repeat('61', 32), 'hex'), 20);
INSERT INTO allocations (business_id, request_id, email, amount, outcome, reference) VALUES
    ('00000000-0000-4000-8000-000000000600', '01900000-0000-7000-8000-000000000641', 'ann@example.com', 10, 'allocated', 'r'),
    ('00000000-0000-4000-8000-000000000600', '01900000-0000-7000-8000-000000000642', 'ann@example.com', 10, 'allocated', repeat('é', 255)),
    ('00000000-0000-4000-8000-000000000600', '01900000-0000-7000-8000-000000000643', 'bob@example.com', 10, 'voided', 'r');
INSERT INTO idempotency_keys (business_id, key, epoch, request_id, email, amount) VALUES
    ('00000000-0000-4000-8000-000000000600', 'payday 0', 0, '01900000-0000-7000-8000-000000000641', 'ann@example.com', 10),
    ('00000000-0000-4000-8000-000000000600', 'payday 1', 3, '01900000-0000-7000-8000-000000000642', 'ann@example.com', 10);
