#!/bin/sh
# As the official image does: a first start makes the cluster, the superuser and the database of the environment.
set -eu
: "${POSTGRES_PASSWORD:?}" "${POSTGRES_USER:=postgres}"

if [ "$1" = postgres ] && [ ! -e "$PGDATA/PG_VERSION" ]; then
  printf '%s' "$POSTGRES_PASSWORD" >/tmp/password
  initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256
  rm /tmp/password
  printf '%s\n' 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  printf '%s\n' "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
  # Nobody can reach it from outside before it is complete.
  pg_ctl --wait --options="-c listen_addresses=''" start
  if [ "${POSTGRES_DB:=$POSTGRES_USER}" != postgres ]; then createdb --username="$POSTGRES_USER" "$POSTGRES_DB"; fi
  pg_ctl --wait --mode=fast stop
fi
exec "$@"
