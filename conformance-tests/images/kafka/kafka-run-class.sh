#!/bin/bash
# The one tool of Kafka's distribution that all its others are made of, at its usual path:
# kafka-run-class.sh org.apache.kafka.tools.TopicCommand --bootstrap-server localhost:9092 --list
# shellcheck disable=SC2086 # the options are several words
exec java ${KAFKA_HEAP_OPTS:-} ${KAFKA_OPTS:-} -Dorg.slf4j.simpleLogger.showDateTime=true -cp '/opt/kafka/libs/*' "$@"
