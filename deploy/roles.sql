-- The roles of Earmark in Postgres. An administrator runs this once, connected to Earmark's database:
--
--     psql "postgres://postgres@db/earmark" -f deploy/roles.sql
--
-- Then `earmark migrate` makes the tables as earmark_owner, and grants each role what it needs, at every run. Nobody logs in
-- with these roles: give each program a user of its own, and make it a member:
--
--     CREATE ROLE earmark_migrator LOGIN PASSWORD '…' IN ROLE earmark_owner;
--     CREATE ROLE intake_1         LOGIN PASSWORD '…' IN ROLE earmark_intake;
--     CREATE ROLE worker_1         LOGIN PASSWORD '…' IN ROLE earmark_worker;
--     CREATE ROLE relay_1          LOGIN PASSWORD '…' IN ROLE earmark_relay;
--     CREATE ROLE console_1        LOGIN PASSWORD '…' IN ROLE earmark_console;
--
-- Running it again does no harm. docs/operations.md says who may do what.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['earmark_owner', 'earmark_intake', 'earmark_worker', 'earmark_relay', 'earmark_console'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), wanted);
    END LOOP;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CREATE ON DATABASE %I TO earmark_owner', current_database());
END
$$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
-- Whoever owns this schema makes and owns all tables.
CREATE SCHEMA IF NOT EXISTS earmark AUTHORIZATION earmark_owner;
