-- An endpoint that fails and was disabled, with an event that waits and a try; and one that works.
INSERT INTO webhooks (business_id, webhook_id, slot, url, secret_version, former_until, cursor, tries, claim, free_at, failing_since, disabled_at, disabled_by) VALUES
    ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000081', 1, 'https://example.com/hooks', 2, '2026-01-03Z', 3, 1, 4, '2026-01-02Z', '2026-01-02Z', '2026-01-07Z', 'failing'),
    ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000082', 2, 'https://example.com/others', 1, 'epoch', 7, 0, 0, 'epoch', NULL, NULL, NULL);
INSERT INTO webhook_retries (business_id, webhook_id, seq, failures, due_at) VALUES
    ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000081', 3, 1, '2026-01-02Z');
INSERT INTO webhook_deliveries (business_id, webhook_id, number, seq, millis, result, status, answer) VALUES
    ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000081', 1, 3, 12, 'refused', 500, 'no');
