#!/bin/bash
# The one tool of Kafka's distribution that all its others are made of, at its usual path:
# kafka-run-class.sh org.apache.kafka.tools.TopicCommand --bootstrap-server localhost:9092 --list
set -euo pipefail

archive=/opt/kafka/classes.jsa # made by warm-up.sh
options=(
  -Dorg.slf4j.simpleLogger.showDateTime=true
  "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS"
)
if [ -e "$archive" ]; then options+=("-XX:SharedArchiveFile=$archive"); fi
# shellcheck disable=SC2206 # each of the two can hold several options
options+=(${KAFKA_HEAP_OPTS:-} ${KAFKA_OPTS:-})
exec java "${options[@]}" -cp '/opt/kafka/libs/*' "$@"
