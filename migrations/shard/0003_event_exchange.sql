-- The events of a shard for consumers on the broker: which relay publishes them, and how far. Nothing here decides anything
-- about money.

CREATE TABLE event_exchange (
    only_row boolean     NOT NULL DEFAULT true CONSTRAINT event_exchange_pkey PRIMARY KEY,
    claim    bigint      NOT NULL DEFAULT 0 CONSTRAINT event_exchange_claim CHECK (claim >= 0),
    free_at  timestamptz NOT NULL DEFAULT 'epoch',
    CONSTRAINT event_exchange_only_row CHECK (only_row)
) WITH (fillfactor = 50);
INSERT INTO event_exchange DEFAULT VALUES;
COMMENT ON TABLE event_exchange IS 'One row: which relay publishes the events of this shard.';
COMMENT ON COLUMN event_exchange.only_row IS 'Always true.';
COMMENT ON COLUMN event_exchange.claim IS 'Grows by one whenever another relay takes over.';
COMMENT ON COLUMN event_exchange.free_at IS 'Another relay may take over then. Kept ahead by the one that publishes.';
COMMENT ON CONSTRAINT event_exchange_pkey ON event_exchange IS 'There is one row.';
COMMENT ON CONSTRAINT event_exchange_only_row ON event_exchange IS 'There is one row.';
COMMENT ON CONSTRAINT event_exchange_claim ON event_exchange IS 'A count is never negative.';

CREATE TABLE event_exchange_cursors (
    business_id uuid        NOT NULL CONSTRAINT event_exchange_cursors_business REFERENCES businesses,
    cursor      bigint      NOT NULL CONSTRAINT event_exchange_cursors_cursor CHECK (cursor >= 1),
    moved_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT event_exchange_cursors_pkey PRIMARY KEY (business_id)
) WITH (fillfactor = 50);
COMMENT ON TABLE event_exchange_cursors IS 'How far the events of each business are published. A business of which nothing is published yet has no row.';
COMMENT ON COLUMN event_exchange_cursors.business_id IS 'The business.';
COMMENT ON COLUMN event_exchange_cursors.cursor IS 'The broker has confirmed all events up to this number.';
COMMENT ON COLUMN event_exchange_cursors.moved_at IS 'When the cursor moved last. The business that waits longest comes first.';
COMMENT ON CONSTRAINT event_exchange_cursors_pkey ON event_exchange_cursors IS 'A business has one cursor.';
COMMENT ON CONSTRAINT event_exchange_cursors_business ON event_exchange_cursors IS 'Every cursor has a business.';
COMMENT ON CONSTRAINT event_exchange_cursors_cursor ON event_exchange_cursors IS 'Events are numbered from 1.';
