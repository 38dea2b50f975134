#!/bin/sh
# Run once, by the image, when the database is made: the roles of migrations/0001_roles.sql, with their passwords.
set -eu

for role in sep_migrate sep_ingest sep_trading sep_training sep_read; do
    printf "CREATE ROLE %s LOGIN PASSWORD '%s';\n" "$role" "$(cat "/run/secrets/$role")"
done | psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname="$POSTGRES_DB"

psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname="$POSTGRES_DB" <<SQL
ALTER DATABASE "$POSTGRES_DB" OWNER TO sep_migrate;
ALTER SCHEMA public OWNER TO sep_migrate;
SQL
