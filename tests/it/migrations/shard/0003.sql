-- The events of a business that are published up to the fifth.
INSERT INTO event_exchange_cursors (business_id, cursor) VALUES ('00000000-0000-4000-8000-000000000001', 5);
