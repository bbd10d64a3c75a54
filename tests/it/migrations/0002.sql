-- No new table: a business whose allocation was settled as a batch of one.
INSERT INTO businesses (business_id, name, payout_balance, payouts_enabled) VALUES ('00000000-0000-4000-8000-000000000200', 'Initech', 90, true);
INSERT INTO deposits (business_id, deposit_id, amount) VALUES ('00000000-0000-4000-8000-000000000200', '00000000-0000-4000-8000-000000000221', 100);
INSERT INTO payout_users (business_id, email, hash, balance) VALUES ('00000000-0000-4000-8000-000000000200', 'ann@example.com', decode(repeat('21', 32), 'hex'), 10);
INSERT INTO allocations (business_id, request_id, email, amount, outcome) VALUES
    ('00000000-0000-4000-8000-000000000200', '01900000-0000-7000-8000-000000000241', 'ann@example.com', 10, 'allocated');
INSERT INTO idempotency_keys (business_id, key, epoch, request_id, email, amount) VALUES
    ('00000000-0000-4000-8000-000000000200', 'allocated', 0, '01900000-0000-7000-8000-000000000241', 'ann@example.com', 10);
