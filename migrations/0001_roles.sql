-- Who may use this database, and TimescaleDB where the server has it.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') THEN
        CREATE EXTENSION IF NOT EXISTS timescaledb;
    END IF;
END
$$;

-- Roles are the server's, not the database's: another database of this project may have made them. Without a
-- password nobody logs in; who runs the server sets one.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['sep_migrate', 'sep_ingest', 'sep_trading', 'sep_training', 'sep_read'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database's migration was quicker
            END;
        END IF;
    END LOOP;
END
$$;

-- Nobody else: by default every user of the server may connect, and make temporary tables.
DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO sep_migrate, sep_ingest, sep_trading, sep_training, sep_read', current_database()
    );
    -- Bulk loading copies into a temporary table.
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO sep_ingest', current_database());
END
$$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO sep_ingest, sep_trading, sep_training, sep_read;

GRANT SELECT ON schema_migrations TO sep_read;
