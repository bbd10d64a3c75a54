-- What each role may do in a shard. `earmark migrate` runs this every time, if the schema belongs to earmark_owner.

REVOKE ALL ON SCHEMA :schema FROM PUBLIC, earmark_intake, earmark_worker, earmark_relay, earmark_console;
REVOKE ALL ON ALL TABLES IN SCHEMA :schema FROM PUBLIC, earmark_intake, earmark_worker, earmark_relay, earmark_console;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA :schema FROM PUBLIC, earmark_intake, earmark_worker, earmark_relay, earmark_console;
GRANT USAGE ON SCHEMA :schema TO earmark_intake, earmark_worker, earmark_relay, earmark_console;
GRANT SELECT ON _sqlx_migrations, businesses, allocations, deposits TO earmark_intake, earmark_worker, earmark_relay, earmark_console;
-- Every process that runs looks once a second whether the shard is there.
GRANT SELECT ON key_raises TO earmark_intake, earmark_worker, earmark_relay;
GRANT EXECUTE ON FUNCTION await_standby(), in_schema(text) TO earmark_intake, earmark_worker, earmark_relay, earmark_console;

-- An intake reads, and decides nothing but that a request is void: of that it tells in the same transaction all who might still
-- try it under its key. It cannot debit: it may change no balance, and of the rows that decide it may write voids only.
GRANT SELECT ON payout_users, idempotency_keys TO earmark_intake;
GRANT INSERT (business_id, request_id, kind, target, email, amount, outcome, reference) ON allocations TO earmark_intake;
GRANT INSERT (business_id, scope, key), UPDATE (epoch, raise_count) ON idempotency_keys TO earmark_intake;
GRANT UPDATE (count) ON key_raises TO earmark_intake;
GRANT EXECUTE ON FUNCTION mark_past(uuid, timestamptz) TO earmark_intake;
-- Which rows each of them may add. (Citus forgets that a policy is a restrictive one, so there is none.)
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = 'allocations'::regclass AND polname = 'allocations_voids') THEN
        CREATE POLICY allocations_voids ON allocations FOR INSERT TO earmark_intake WITH CHECK (outcome = 'voided');
        COMMENT ON POLICY allocations_voids ON allocations IS 'An intake decides nothing but that a request is void.';
        CREATE POLICY allocations_decisions ON allocations FOR INSERT TO earmark_worker WITH CHECK (true);
        COMMENT ON POLICY allocations_decisions ON allocations IS 'A worker decides.';
    END IF;
END
$$;
-- Platforms manage their webhooks.
GRANT SELECT, INSERT, UPDATE (secret_version, former_until, disabled_at, disabled_by, failing_since), DELETE ON webhooks TO earmark_intake;
GRANT SELECT, INSERT, UPDATE (due_at) ON webhook_retries TO earmark_intake;
GRANT SELECT ON webhook_deliveries TO earmark_intake;

-- A worker moves money between the balances that there are. It adds nothing to them from outside, and changes no business.
GRANT INSERT ON allocations TO earmark_worker;
GRANT UPDATE (payout_balance, seq, moved_at, day, day_total) ON businesses TO earmark_worker;
GRANT SELECT, INSERT, UPDATE (balance) ON payout_users TO earmark_worker;
GRANT SELECT, INSERT, UPDATE (epoch, raise_count, request_id, kind, email, amount, target) ON idempotency_keys TO earmark_worker;
GRANT UPDATE (count) ON key_raises TO earmark_worker;
GRANT EXECUTE ON FUNCTION refuse_batch() TO earmark_worker;

-- A relay tells what happened.
GRANT SELECT, UPDATE (cursor, tries, claim, free_at, failing_since, disabled_at, disabled_by) ON webhooks TO earmark_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_retries TO earmark_relay;
GRANT SELECT, INSERT, DELETE ON webhook_deliveries TO earmark_relay;
GRANT SELECT, UPDATE ON event_exchange TO earmark_relay;
GRANT SELECT, INSERT, UPDATE ON event_exchange_cursors TO earmark_relay;

-- People, with the command line or the console: they make businesses, fund and limit them, and switch them and their webhooks.
GRANT SELECT ON payout_users, idempotency_keys, key_raises, webhooks, webhook_retries, webhook_deliveries, event_exchange,
    event_exchange_cursors TO earmark_console;
GRANT INSERT, UPDATE (payouts_enabled, largest_allocation, daily_limit, limited_after, payout_balance, seq, moved_at) ON businesses TO earmark_console;
GRANT INSERT ON deposits TO earmark_console;
GRANT UPDATE (disabled_at, disabled_by, failing_since) ON webhooks TO earmark_console;
GRANT INSERT, UPDATE (due_at) ON webhook_retries TO earmark_console;
