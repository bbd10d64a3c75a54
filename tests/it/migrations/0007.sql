-- A key that was raised by the second transaction that raises, and one that never was.
INSERT INTO businesses (business_id, name) VALUES ('00000000-0000-4000-8000-000000000700', 'Hooli');
UPDATE key_raises SET count = 2;
INSERT INTO allocations (business_id, request_id, email, amount, outcome) VALUES
    ('00000000-0000-4000-8000-000000000700', '01900000-0000-7000-8000-000000000741', 'ann@example.com', 10, 'voided');
INSERT INTO idempotency_keys (business_id, key, epoch, raise_count) VALUES
    ('00000000-0000-4000-8000-000000000700', 'raised', 1, 2),
    ('00000000-0000-4000-8000-000000000700', 'not raised', 0, 0);
