import { imageExists } from './docker.ts';
import { SetupError } from './run.ts';

/** The databases among them carry no messages, but stand beside a broker: for outbox, inbox and idempotency stores. */
export type BrokerName = 'rabbitmq' | 'kafka' | 'redis' | 'sqs' | 'elasticmq' | 'pubsub' | DatabaseName;
export type DatabaseName = 'postgres' | 'mariadb';

/** One version of one broker, and where its image comes from. */
export interface BrokerImage {
  readonly broker: BrokerName;
  readonly version: string;
  /** What a machine with a registry pulls. */
  readonly official: string;
  /** The tag under which a machine without one builds it. */
  readonly local: string;
  /** The environment variable that puts another image in its place. */
  readonly setting: string;
  readonly build: BuildRecipe;
  /** Started only where it is asked for by name: not what `up` alone is for. */
  readonly onDemand?: true;
  /** A database is started only where it is asked for by name, too; its image is made with the brokers'. */
  readonly database?: true;
}

export interface BuildRecipe {
  /** Below `conformance-tests/images/`. */
  readonly folder: string;
  readonly debian: 'trixie' | 'bookworm';
  /** What no Debian package has, and the host therefore puts beside the Dockerfile. */
  readonly payload?: Payload;
}

/** Where the host gets it from, and in which version; the Dockerfile finds it under `payload/`. */
export interface Payload {
  readonly from: 'maven' | 'npm' | 'google-cloud-sdk';
  readonly version: string;
}

/** The first version of a broker is its default. */
export const brokerImages: readonly BrokerImage[] = [
  {
    broker: 'rabbitmq',
    version: '4.0',
    official: 'rabbitmq:4.0-management',
    local: 'waybill/rabbitmq:4.0',
    setting: 'WAYBILL_RABBITMQ_IMAGE',
    build: { folder: 'rabbitmq', debian: 'trixie' },
  },
  {
    broker: 'rabbitmq',
    version: '3.10',
    official: 'rabbitmq:3.10-management',
    local: 'waybill/rabbitmq:3.10',
    setting: 'WAYBILL_RABBITMQ_3_10_IMAGE',
    build: { folder: 'rabbitmq-3.10', debian: 'bookworm' },
  },
  {
    broker: 'kafka',
    version: '4.3',
    official: 'apache/kafka:4.3.1',
    local: 'waybill/kafka:4.3',
    setting: 'WAYBILL_KAFKA_IMAGE',
    build: { folder: 'kafka', debian: 'trixie', payload: { from: 'maven', version: '4.3.1' } },
  },
  {
    broker: 'kafka',
    version: '4.1',
    official: 'apache/kafka:4.1.0',
    local: 'waybill/kafka:4.1',
    setting: 'WAYBILL_KAFKA_4_1_IMAGE',
    build: { folder: 'kafka', debian: 'trixie', payload: { from: 'maven', version: '4.1.0' } },
  },
  {
    broker: 'redis',
    version: '8.0',
    official: 'redis:8.0',
    local: 'waybill/redis:8.0',
    setting: 'WAYBILL_REDIS_IMAGE',
    build: { folder: 'redis', debian: 'trixie' },
  },
  {
    broker: 'redis',
    version: '7.0',
    official: 'redis:7.0',
    local: 'waybill/redis:7.0',
    setting: 'WAYBILL_REDIS_7_0_IMAGE',
    build: { folder: 'redis', debian: 'bookworm' },
  },
  // fauxqs, which speaks SNS too.
  {
    broker: 'sqs',
    version: '2.4',
    official: 'kibertoad/fauxqs:2.4.1',
    local: 'waybill/sqs:2.4',
    setting: 'WAYBILL_SQS_IMAGE',
    build: { folder: 'sqs', debian: 'trixie', payload: { from: 'npm', version: '2.4.1' } },
  },
  // SQS without SNS, and closer to AWS's than fauxqs.
  {
    broker: 'elasticmq',
    version: '1.7',
    official: 'softwaremill/elasticmq:1.7.1',
    local: 'waybill/elasticmq:1.7',
    setting: 'WAYBILL_ELASTICMQ_IMAGE',
    build: { folder: 'elasticmq', debian: 'trixie', payload: { from: 'maven', version: '1.7.1' } },
    onDemand: true,
  },
  // Google's emulator; the version is that of its jar.
  {
    broker: 'pubsub',
    version: '0.8',
    official: 'gcr.io/google.com/cloudsdktool/google-cloud-cli:emulators',
    local: 'waybill/pubsub:0.8',
    setting: 'WAYBILL_PUBSUB_IMAGE',
    build: { folder: 'pubsub', debian: 'trixie', payload: { from: 'google-cloud-sdk', version: '0.8' } },
  },
  {
    broker: 'postgres',
    version: '17',
    official: 'postgres:17',
    local: 'waybill/postgres:17',
    setting: 'WAYBILL_POSTGRES_IMAGE',
    build: { folder: 'postgres', debian: 'trixie' },
    database: true,
  },
  {
    broker: 'mariadb',
    version: '11.8',
    official: 'mariadb:11.8',
    local: 'waybill/mariadb:11.8',
    setting: 'WAYBILL_MARIADB_IMAGE',
    build: { folder: 'mariadb', debian: 'trixie' },
    database: true,
  },
];

/**
 * The image of a broker's version; without a version that of `WAYBILL_RABBITMQ_VERSION` (`…KAFKA…`), which lets a
 * whole test run go against another version, and else the default.
 * @throws SetupError for an unknown broker or version, with the ones there are
 */
export function brokerImage(broker: string, version?: string): BrokerImage {
  const wanted = version ?? (process.env[`WAYBILL_${broker.toUpperCase()}_VERSION`] || undefined);
  const found = brokerImages.find((image) => image.broker === broker && (wanted ?? image.version) === image.version);
  if (found !== undefined) return found;
  const known = brokerImages.map((image) => `${image.broker}@${image.version}`).join(', ');
  throw new SetupError(
    `There is no image for ${broker}${wanted === undefined ? '' : `@${wanted}`}; there are ${known}.`,
  );
}

/**
 * Reads `rabbitmq,kafka@4.1`; nothing means every broker in its default version that is not on demand, and, where
 * nothing is to be started, the databases.
 */
export function selectImages(only: string | undefined, imagesOnly = false): readonly BrokerImage[] {
  const usual = brokerImages.filter(({ onDemand, database }) => !onDemand && (imagesOnly || !database));
  const names = only?.split(',') ?? [...new Set(usual.map((image) => image.broker))];
  return [
    ...new Set(
      names.map((name) => {
        const [broker = '', version] = name.trim().split('@');
        return brokerImage(broker, version);
      }),
    ),
  ];
}

export function isDefaultVersion(image: BrokerImage): boolean {
  return brokerImages.find(({ broker }) => broker === image.broker) === image;
}

/** The image named by its setting, if any. */
export function chosenImage(image: BrokerImage): string | undefined {
  return process.env[image.setting] || undefined;
}

/** What to start: the image of the setting, or the one built on this machine, or the official one. */
export async function resolveImage(image: BrokerImage): Promise<string> {
  return chosenImage(image) ?? ((await imageExists(image.local)) ? image.local : image.official);
}
