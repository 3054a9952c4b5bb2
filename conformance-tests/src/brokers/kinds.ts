import { elasticmqEnvironment } from './elasticmq.ts';
import { fauxqsEnvironment } from './fauxqs.ts';
import type { BrokerName } from './images.ts';
import {
  type Address,
  type Probe,
  probeHttp,
  probeKafka,
  probeMysql,
  probePostgres,
  probeRabbitmq,
  probeRedis,
} from './probe.ts';

/** What the container of a broker needs and offers, the same for the official image and for ours. */
export interface BrokerKind {
  /** The port that a person expects. */
  readonly defaultPort: number;
  /** The environment variable that moves it, for machines where something else has it. */
  readonly portSetting: string;
  readonly management?: { readonly port: number; readonly portSetting: string };
  /** The port inside the container for a given one outside. */
  containerPort(port: number): number;
  environment(at: Address): Readonly<Record<string, string>>;
  /** By default what the image starts by itself. */
  readonly command?: readonly string[];
  url(at: Address): string;
  readonly probe: Probe;
}

/** Every write is on the disk before it is confirmed: what was confirmed is there after a kill. */
export const redisCommand = ['redis-server', '--appendonly', 'yes', '--appendfsync', 'always'] as const;

export const pubsubCommand = ['gcloud', 'beta', 'emulators', 'pubsub', 'start', '--host-port=0.0.0.0:8085'] as const;

export const postgresEnvironment = { POSTGRES_PASSWORD: 'waybill', POSTGRES_DB: 'waybill' } as const;

/** Room for the pools of many test processes. Every commit is flushed, which is the default. */
export const postgresCommand = ['postgres', '-c', 'max_connections=300'] as const;

/** Every commit is flushed, which is the default. */
export const mariadbEnvironment = { MARIADB_ROOT_PASSWORD: 'waybill', MARIADB_DATABASE: 'waybill' } as const;

export const brokerKinds: Readonly<Record<BrokerName, BrokerKind>> = {
  rabbitmq: {
    defaultPort: 5672,
    portSetting: 'WAYBILL_RABBITMQ_PORT',
    management: { port: 15672, portSetting: 'WAYBILL_RABBITMQ_MANAGEMENT_PORT' },
    containerPort: () => 5672,
    environment: () => rabbitmqEnvironment,
    url: ({ host, port }) => `amqp://guest:guest@${host}:${port}`,
    probe: probeRabbitmq,
  },
  kafka: {
    defaultPort: 9092,
    portSetting: 'WAYBILL_KAFKA_PORT',
    // The same inside as outside: then the advertised address also serves the tools that run in the container.
    containerPort: (port) => port,
    environment: kafkaEnvironment,
    url: ({ host, port }) => `kafka://${host}:${port}`,
    probe: probeKafka,
  },
  redis: {
    defaultPort: 6379,
    portSetting: 'WAYBILL_REDIS_PORT',
    containerPort: () => 6379,
    environment: () => ({}),
    command: redisCommand,
    url: ({ host, port }) => `redis://${host}:${port}`,
    probe: probeRedis,
  },
  sqs: {
    defaultPort: 4566,
    portSetting: 'WAYBILL_SQS_PORT',
    containerPort: () => 4566,
    environment: () => fauxqsEnvironment,
    url: ({ host, port }) => `sqs://us-east-1?endpoint=http://${host}:${port}`,
    probe: (at) => probeHttp(at, '/health'),
  },
  elasticmq: {
    defaultPort: 9324,
    portSetting: 'WAYBILL_ELASTICMQ_PORT',
    containerPort: () => 9324,
    environment: () => elasticmqEnvironment,
    url: ({ host, port }) => `sqs://us-east-1?endpoint=http://${host}:${port}&fanOut=queue`,
    probe: (at) => probeHttp(at, '/health'),
  },
  pubsub: {
    defaultPort: 8085,
    portSetting: 'WAYBILL_PUBSUB_PORT',
    containerPort: () => 8085,
    environment: () => ({}),
    command: pubsubCommand,
    url: ({ host, port }) => `pubsub://waybill?endpoint=${host}:${port}`,
    probe: (at) => probeHttp(at, '/'),
  },
  postgres: {
    defaultPort: 5432,
    portSetting: 'WAYBILL_POSTGRES_PORT',
    containerPort: () => 5432,
    environment: () => postgresEnvironment,
    command: postgresCommand,
    url: ({ host, port }) => `postgres://postgres:waybill@${host}:${port}/waybill`,
    probe: probePostgres,
  },
  mariadb: {
    defaultPort: 3306,
    portSetting: 'WAYBILL_MARIADB_PORT',
    containerPort: () => 3306,
    environment: () => mariadbEnvironment,
    url: ({ host, port }) => `mysql://root:waybill@${host}:${port}/waybill`,
    probe: probeMysql,
  },
};

/**
 * A single node that keeps its metadata in Mnesia brings its quorum queues back before its exchanges: what a delay hands
 * on in between waits for this time-out and is sent again. Three minutes by default, five seconds here: no client can
 * shorten it, and `docs/brokers/rabbitmq.md` tells users to set it.
 */
export const rabbitmqEnvironment = {
  RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-rabbit dead_letter_worker_publisher_confirm_timeout 5000',
} as const;

/** The settings of one KRaft node, in the way the official image takes them: `KAFKA_A_B` is `a.b`. */
export function kafkaEnvironment({ host, port }: Address): Readonly<Record<string, string>> {
  const controller = 19_093;
  return {
    KAFKA_NODE_ID: '1',
    KAFKA_PROCESS_ROLES: 'broker,controller',
    KAFKA_CONTROLLER_QUORUM_VOTERS: `1@localhost:${controller}`,
    KAFKA_CONTROLLER_LISTENER_NAMES: 'CONTROLLER',
    KAFKA_LISTENERS: `PLAINTEXT://:${port},CONTROLLER://:${controller}`,
    KAFKA_ADVERTISED_LISTENERS: `PLAINTEXT://${host}:${port}`,
    KAFKA_LISTENER_SECURITY_PROTOCOL_MAP: 'CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT',
    KAFKA_LOG_DIRS: '/var/lib/kafka/data',
    // One node holds every replica; few partitions make internal topics quick to create.
    KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR: '1',
    KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS: '4',
    KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR: '1',
    KAFKA_TRANSACTION_STATE_LOG_MIN_ISR: '1',
    KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS: '4',
    KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR: '1',
    KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR: '1',
    KAFKA_SHARE_COORDINATOR_STATE_TOPIC_NUM_PARTITIONS: '4',
    // By default a new group waits 3 s for members that may still come.
    KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS: '0',
    // A killed broker may not come back before its old session has ended: 9 s by default.
    KAFKA_BROKER_SESSION_TIMEOUT_MS: '3000',
    KAFKA_BROKER_HEARTBEAT_INTERVAL_MS: '500',
    KAFKA_HEAP_OPTS: '-Xmx512m',
  };
}
