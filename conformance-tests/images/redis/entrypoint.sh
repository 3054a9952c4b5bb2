#!/bin/sh
# As the official image does: no protected mode, because the container's network is its protection.
set -eu
if [ "$1" = redis-server ]; then
  shift
  exec redis-server --protected-mode no "$@"
fi
exec "$@"
