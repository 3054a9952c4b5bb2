#!/bin/sh
# As the official image does: a first start makes the data folder, root's password and the database of the environment.
set -eu
: "${MARIADB_ROOT_PASSWORD:?}"

if [ "$1" = mariadbd ] && [ ! -e /var/lib/mysql/complete ]; then
  rm -rf /var/lib/mysql/*
  mariadb-install-db --datadir=/var/lib/mysql --auth-root-authentication-method=normal --skip-test-db
  mariadbd --bootstrap --datadir=/var/lib/mysql <<SQL
FLUSH PRIVILEGES;
ALTER USER 'root'@'localhost' IDENTIFIED BY '$MARIADB_ROOT_PASSWORD';
CREATE USER 'root'@'%' IDENTIFIED BY '$MARIADB_ROOT_PASSWORD';
GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;
CREATE DATABASE \`${MARIADB_DATABASE:-test}\`;
SQL
  touch /var/lib/mysql/complete
fi
exec "$@"
