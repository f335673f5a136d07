-- What must be there before the migrations: three roles that nobody logs in as, and a schema. Every server runs it when the
-- read models are opened and leaves alone what is there. A login that may not create roles or schemas finds them made: run this
-- file as whoever may, then `GRANT ringforge_owner, ringforge_project, ringforge_query TO login`.
--
-- ringforge_owner    owns the tables; migrates, and makes and drops slices of history
-- ringforge_project  writes, and reads what is of no single tenant
-- ringforge_query    reads what is of the tenant that its transaction names under seal
DO $$
DECLARE
    role text;
BEGIN
    -- Roles are of the whole server: other databases of it may be opened at this moment.
    PERFORM pg_advisory_xact_lock(hashtext('ringforge roles'));
    FOREACH role IN ARRAY ARRAY['ringforge_owner', 'ringforge_project', 'ringforge_query'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        IF NOT pg_has_role(current_user, role, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role);
        END IF;
    END LOOP;
    IF to_regnamespace('ringforge') IS NULL THEN
        CREATE SCHEMA ringforge AUTHORIZATION ringforge_owner;
        GRANT USAGE ON SCHEMA ringforge TO ringforge_project, ringforge_query;
    END IF;
END
$$;
