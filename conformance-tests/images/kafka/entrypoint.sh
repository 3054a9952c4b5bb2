#!/bin/bash
# Starts one KRaft broker from the environment, by the rules of the official apache/kafka image:
# KAFKA_A_B=v becomes a.b=v; two underscores stand for an underscore, three for a dash.
set -euo pipefail

config=/opt/kafka/config/server.properties
run=/opt/kafka/bin/kafka-run-class.sh

properties() {
  local name key
  for name in "${!KAFKA_@}"; do
    case $name in KAFKA_HEAP_OPTS | KAFKA_OPTS) continue ;; esac
    key=${name#KAFKA_}
    key=${key,,}
    key=${key//_/.}
    key=${key//.../-}
    key=${key//../_}
    printf '%s=%s\n' "$key" "${!name}"
  done
}

properties >"$config"

# A restarted container has its data already; formatting again would cost a second Java start.
if [ ! -e "${KAFKA_LOG_DIRS:?set it to the data folder, such as /var/lib/kafka/data}/meta.properties" ]; then
  "$run" kafka.tools.StorageTool format --cluster-id "${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}" --config "$config"
fi

exec "$run" kafka.Kafka "$config"
