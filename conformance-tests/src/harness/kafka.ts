import { randomUUID } from 'node:crypto';
import { createServer } from 'node:net';
import { nameMaker, parseBrokerUrl } from '@waybill/core/adapter';
import { kafka } from '@waybill/kafka';
import { type Admin, ConfigResourceTypes, Kafka, logLevel, type Producer } from 'kafkajs';
import { getContainerRuntimeClient } from 'testcontainers';
import { kafkaEnvironment } from '../brokers/kinds.ts';
import { freePort } from '../brokers/ports.ts';
import { eventually } from '../eventually.ts';
import type {
  AdapterUnderTest,
  BrokerUnderTest,
  ClosedDoor,
  Doors,
  ForeignClient,
  ForeignCopy,
  ForeignMessage,
  OpenDoor,
  Place,
} from '../harness.ts';
import { brokerFor, type GivenBroker } from './broker-for.ts';
import { makeCertificate } from './certificate.ts';
import { rewriteAdvertised } from './kafka-addresses.ts';
import { type Address, linkThrough, type ProxyOptions, TcpProxy } from './proxy.ts';
import { unusedPort } from './unused-port.ts';

/** A setting of a topic without effect on what the suite looks at, which tells one topic from the next of its name. */
const MARK = 'file.delete.delay.ms';
const MARKED = '59999';

/** The shortest session that a broker allows unless it is told otherwise. */
const LEASE = 6_000;

/** Kafka, from `WAYBILL_KAFKA_URL` (and `…_CONTAINER`), or from a container of its own. */
export function kafkaUnderTest(): AdapterUnderTest {
  return {
    name: 'kafka',
    lease: LEASE,
    start: async () => {
      const { running, sasl } = await start();
      const [first] = parseBrokerUrl(running.url).hosts;
      const address = { host: first?.host ?? 'localhost', port: first?.port ?? 9092 };
      const foreign = new Foreign(address);
      return {
        url: urlOf(address),
        inProcess: false,
        openLink: async () => {
          const proxy = await proxyTo(address);
          return linkThrough(proxy, urlOf(proxy.address));
        },
        stop: () => running.kill(),
        start: () => running.restart(),
        restart: () => running.restart(),
        foreign,
        doors: doors(address, running, sasl),
        dispose: async () => {
          await foreign.close();
          await running.stop();
        },
      } satisfies BrokerUnderTest;
    },
  };
}

const urlOf = ({ host, port }: Address): string => `kafka://${host}:${port}`;

/** A proxy that clients do not leave when they are told the broker's address. */
function proxyTo(upstream: Address, options: Pick<ProxyOptions, 'tls'> = {}): Promise<TcpProxy> {
  return TcpProxy.open({ ...options, upstream, rewriteReplies: (proxy) => rewriteAdvertised(upstream, proxy) });
}

const USER = 'app';
// All that a URL has to escape, within what a container without a locale can read.
const PASSWORD = 'pa:ss@w/o%rd';

interface Started {
  readonly running: GivenBroker;
  /** The listener that asks who one is; `undefined` where the environment named the broker. */
  readonly sasl: Address | undefined;
}

async function start(): Promise<Started> {
  if (process.env['WAYBILL_KAFKA_URL']) return { running: await brokerFor('kafka'), sasl: undefined };
  const { info } = await getContainerRuntimeClient();
  const { host } = info.containerRuntime;
  const [port, saslPort] = [await freePort(), await freePort()];
  const { KAFKA_LISTENERS, KAFKA_ADVERTISED_LISTENERS, KAFKA_LISTENER_SECURITY_PROTOCOL_MAP } = kafkaEnvironment({
    host,
    port,
  });
  const modules = 'org.apache.kafka.common.security';
  const environment = {
    KAFKA_LISTENERS: `${KAFKA_LISTENERS},SASL://:${saslPort}`,
    KAFKA_ADVERTISED_LISTENERS: `${KAFKA_ADVERTISED_LISTENERS},SASL://${host}:${saslPort}`,
    KAFKA_LISTENER_SECURITY_PROTOCOL_MAP: `${KAFKA_LISTENER_SECURITY_PROTOCOL_MAP},SASL:SASL_PLAINTEXT`,
    KAFKA_SASL_ENABLED_MECHANISMS: 'PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER',
    KAFKA_LISTENER_NAME_SASL_PLAIN_SASL_JAAS_CONFIG: `${modules}.plain.PlainLoginModule required user_${USER}="${PASSWORD}";`,
    KAFKA_LISTENER_NAME_SASL_SCRAM___SHA___256_SASL_JAAS_CONFIG: `${modules}.scram.ScramLoginModule required;`,
    KAFKA_LISTENER_NAME_SASL_SCRAM___SHA___512_SASL_JAAS_CONFIG: `${modules}.scram.ScramLoginModule required;`,
    KAFKA_LISTENER_NAME_SASL_OAUTHBEARER_SASL_JAAS_CONFIG: `${modules}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";`,
  };
  return {
    running: await brokerFor('kafka', { port, ports: [saslPort], environment }),
    sasl: { host, port: saslPort },
  };
}

/** Names that Waybill makes hold no dot, which Kafka takes for the same as an underscore. */
const ownName = nameMaker(/[A-Za-z0-9_-]/, 249);

/** Kafka's `message.max.bytes` without what the framing of one record takes. */
const MAX_BODY = 1_048_588 - 120;

class Foreign implements ForeignClient {
  readonly keys = true;
  readonly maxBodyBytes = MAX_BODY;
  readonly #kafka: Kafka;
  #admin: Promise<Admin> | undefined;
  #producer: Promise<Producer> | undefined;

  constructor({ host, port }: Address) {
    this.#kafka = new Kafka({
      brokers: [`${host}:${port}`],
      logLevel: logLevel.NOTHING,
      retry: { initialRetryTime: 50, retries: 8 },
    });
  }

  #connectedAdmin(): Promise<Admin> {
    this.#admin ??= (async () => {
      const admin = this.#kafka.admin();
      await admin.connect();
      return admin;
    })();
    return this.#admin;
  }

  #connectedProducer(): Promise<Producer> {
    this.#producer ??= (async () => {
      const producer = this.#kafka.producer({ allowAutoTopicCreation: false, metadataMaxAge: 5_000 });
      await producer.connect();
      return producer;
    })();
    return this.#producer;
  }

  async close(): Promise<void> {
    await (await this.#producer?.catch(() => undefined))?.disconnect().catch(() => {});
    await (await this.#admin?.catch(() => undefined))?.disconnect().catch(() => {});
  }

  async publish(topic: string, { body, key, contentType, headers }: ForeignMessage): Promise<void> {
    const producer = await this.#connectedProducer();
    const all = { ...headers, ...(contentType === undefined ? {} : { 'content-type': contentType }) };
    await producer.send({
      topic,
      acks: -1,
      messages: [
        { key: key ?? null, value: Buffer.from(body), ...(Object.keys(all).length === 0 ? {} : { headers: all }) },
      ],
    });
  }

  async read(topic: string): ReturnType<ForeignClient['read']> {
    const admin = await this.#connectedAdmin();
    const groupId = `foreign-${randomUUID()}`;
    // Pinned beforehand: the client looks for the end of the topic only some time after it has joined.
    const ends = await admin.fetchTopicOffsets(topic);
    await admin.setOffsets({
      groupId,
      topic,
      partitions: ends.map(({ partition, high }) => ({ partition, offset: high })),
    });
    const consumer = this.#kafka.consumer({ groupId, maxWaitTimeInMs: 100, allowAutoTopicCreation: false });
    const copies: ForeignCopy[] = [];
    await consumer.connect();
    await consumer.subscribe({ topic });
    await consumer.run({
      eachMessage: async ({ message }) => {
        const headers = Object.fromEntries(
          Object.entries(message.headers ?? {}).map(([name, value]) => [name, String(value)]),
        );
        copies.push({ body: message.value ?? Buffer.alloc(0), key: message.key?.toString(), headers });
      },
    });
    return {
      next: async (within) => {
        await eventually('a copy of a message', () => copies.length > 0, { within });
        return copies.shift() as ForeignCopy;
      },
      close: async () => {
        await consumer.disconnect();
        await admin.deleteGroups([groupId]);
      },
    };
  }

  /** The topics that belong to a group, as the adapter's page names them. */
  async #topics(part: 'group' | 'dead-letters', { topic, group, prefix = '' }: Place): Promise<readonly string[]> {
    const name = prefix + ownName(topic, group, part === 'group' ? 'retry' : 'dead');
    const all = await this.#listTopics();
    return all.filter((one) => one === name);
  }

  /** kafkajs refuses the whole list when one of its topics, which may be another test's, goes away meanwhile. */
  async #listTopics(): Promise<readonly string[]> {
    const admin = await this.#connectedAdmin();
    for (let tries = 1; ; tries++) {
      try {
        return await admin.listTopics();
      } catch (error) {
        const goneMeanwhile = (error as { type?: string }).type === 'UNKNOWN_TOPIC_OR_PARTITION';
        if (!goneMeanwhile || tries === 10) throw error;
      }
    }
  }

  async remove(part: Parameters<ForeignClient['remove']>[0], place: Place): Promise<void> {
    const admin = await this.#connectedAdmin();
    const topics = part === 'topic' ? [`${place.prefix ?? ''}${place.topic}`] : await this.#topics(part, place);
    if (topics.length === 0) return;
    // A group with members cannot be deleted: what can go from under them is the topic of its retries. Its members may
    // make it again before anybody sees that it is gone: the new one is without the mark.
    await admin.alterConfigs({
      validateOnly: false,
      resources: topics.map((name) => ({
        type: ConfigResourceTypes.TOPIC,
        name,
        configEntries: [{ name: MARK, value: MARKED }],
      })),
    });
    await eventually('the topics are marked', async () => (await this.#marked(topics)).length === topics.length);
    await admin.deleteTopics({ topics: [...topics] });
    await eventually('the topics are gone', async () => (await this.#marked(topics)).length === 0);
  }

  async #marked(topics: readonly string[]): Promise<readonly string[]> {
    const admin = await this.#connectedAdmin();
    const all = await this.#listTopics();
    const left = topics.filter((topic) => all.includes(topic));
    if (left.length === 0) return [];
    const { resources } = await admin.describeConfigs({
      includeSynonyms: false,
      resources: left.map((name) => ({ type: ConfigResourceTypes.TOPIC, name, configNames: [MARK] })),
    });
    return resources
      .filter(({ configEntries }) => configEntries.some(({ configValue }) => configValue === MARKED))
      .map(({ resourceName }) => resourceName);
  }

  async exists(part: Parameters<ForeignClient['exists']>[0], place: Place): Promise<boolean> {
    if (part === 'topic') return (await this.#listTopics()).includes(`${place.prefix ?? ''}${place.topic}`);
    return (await this.#topics(part, place)).length > 0;
  }

  async namesWith(text: string): Promise<readonly string[]> {
    const admin = await this.#connectedAdmin();
    const [topics, { groups }] = await Promise.all([this.#listTopics(), admin.listGroups()]);
    const names = [...topics, ...groups.map(({ groupId }) => `group ${groupId}`)];
    return names.filter((name) => name.includes(text) || name.includes(ownName(text)));
  }

  async makeOwn(): ReturnType<ForeignClient['makeOwn']> {
    const admin = await this.#connectedAdmin();
    const [topic, group] = [`own-topic-${randomUUID()}`, `own-group-${randomUUID()}`];
    await admin.createTopics({ topics: [{ topic, numPartitions: 2 }], waitForLeaders: false });
    await eventually('the topic can be used', async () => (await admin.fetchTopicOffsets(topic)).length === 2);
    await admin.setOffsets({
      groupId: group,
      topic,
      partitions: [
        { partition: 0, offset: '0' },
        { partition: 1, offset: '0' },
      ],
    });
    const { brokers } = await admin.describeCluster();
    const { host = 'localhost', port = 9092 } = brokers[0] ?? {};
    return { target: urlOf({ host, port }), topic, group, publish: (message) => this.publish(topic, message) };
  }

  async retentionFaults(place: Place): Promise<readonly string[]> {
    const admin = await this.#connectedAdmin();
    const [retries, letters] = await Promise.all([this.#topics('group', place), this.#topics('dead-letters', place)]);
    const delays = (await this.#listTopics()).filter((name) => name.startsWith('waybill-delay.'));
    const faults: string[] = [];
    if (retries.length === 0) faults.push('there is no topic for retries');
    if (letters.length === 0) faults.push('there is no topic for dead letters');
    const { resources } = await admin.describeConfigs({
      includeSynonyms: false,
      resources: [...retries, ...letters, ...delays].map((name) => ({
        type: ConfigResourceTypes.TOPIC,
        name,
        configNames: ['retention.ms', 'retention.bytes', 'cleanup.policy'],
      })),
    });
    for (const { resourceName, configEntries } of resources) {
      const value = (name: string): string | undefined =>
        configEntries.find(({ configName }) => configName === name)?.configValue;
      if (value('cleanup.policy') === 'compact') continue;
      if (value('retention.ms') !== '-1') faults.push(`topic ${resourceName} keeps for ${value('retention.ms')} ms`);
      if (value('retention.bytes') !== '-1')
        faults.push(`topic ${resourceName} keeps ${value('retention.bytes')} bytes`);
    }
    return faults;
  }

  readonly trim = async (topic: string): Promise<void> => {
    const admin = await this.#connectedAdmin();
    const ends = await admin.fetchTopicOffsets(topic);
    await admin.deleteTopicRecords({
      topic,
      partitions: ends.map(({ partition, high }) => ({ partition, offset: high })),
    });
  };
}

function doors(address: Address, running: GivenBroker, sasl: Address | undefined): Doors {
  const url = (at: Address, credentials = '', params = ''): string =>
    `kafka://${credentials}${at.host}:${at.port}${params}`;
  return {
    closed: async () => {
      const nobody = { host: 'localhost', port: await unusedPort() };
      const { cert, key } = makeCertificate('localhost');
      const unknownAuthority = await proxyTo(address, { tls: { cert, key } });
      unknownAuthority.unref();
      const silent = createServer(() => {}).listen(0);
      silent.unref();
      const silence = { host: 'localhost', port: (silent.address() as { port: number }).port };
      const secret = 'correct-horse';
      const wrong: ClosedDoor[] = [
        {
          what: 'a port where nobody listens',
          target: url(nobody, `app:${secret}@`),
          cause: /ECONNREFUSED|refused/i,
          names: `localhost:${nobody.port}`,
          secret,
          final: false,
        },
        {
          what: 'a host that does not exist',
          target: url({ host: 'nowhere.invalid', port: 9092 }),
          cause: /ENOTFOUND|EAI_AGAIN|not found|does not exist/i,
          names: 'nowhere.invalid',
          secret: undefined,
          final: false,
        },
        {
          what: 'TLS where the broker speaks none',
          target: url(address, '', '?ssl=true'),
          cause: /TLS|SSL|reset|closed|ECONNRESET/i,
          names: `${address.host}:${address.port}`,
          secret: undefined,
          final: false,
        },
        {
          what: 'a certificate of an unknown authority',
          target: url(unknownAuthority.address, '', '?ssl=true'),
          cause: /certificate|self.signed/i,
          names: `localhost:${unknownAuthority.address.port}`,
          secret: undefined,
          final: false,
        },
        {
          what: 'a host that accepts and says nothing',
          target: url(silence),
          cause: /time|answer/i,
          names: `localhost:${silence.port}`,
          secret: undefined,
          final: false,
        },
      ];
      if (sasl !== undefined) {
        wrong.push({
          what: 'a wrong password',
          target: url(sasl, `${USER}:${secret}@`),
          cause: /authentication|SASL|credentials|password/i,
          names: `${sasl.host}:${sasl.port}`,
          secret,
          final: true,
        });
      }
      return wrong;
    },
    open: () => openDoors(address, running, sasl),
    unknownParameter: url(address, '', '?nonsense=1'),
  };
}

async function openDoors(
  address: Address,
  running: GivenBroker,
  sasl: Address | undefined,
): Promise<readonly OpenDoor[]> {
  if (sasl === undefined) {
    throw new Error(
      'a broker by URL has no listener for SASL that is known here: leave WAYBILL_KAFKA_URL out for this',
    );
  }
  await makeScramUser(running, address);
  const { cert, key } = makeCertificate('localhost');
  const [tls, mutual, saslTls, plain, aws] = await Promise.all([
    proxyTo(address, { tls: { cert, key } }),
    proxyTo(address, { tls: { cert, key, ca: cert, requestCert: true, rejectUnauthorized: true } }),
    proxyTo(sasl, { tls: { cert, key } }),
    proxyTo(sasl),
    proxyTo(sasl),
  ]);
  const at = ({ host, port }: Address): string => `${host}:${port}`;
  const credentials = { username: USER, password: PASSWORD };
  const escaped = `${USER}:${encodeURIComponent(PASSWORD)}@`;
  return [
    {
      what: 'TLS with an authority of its own',
      target: kafka({ brokers: at(tls.address), ssl: { ca: cert } }),
      close: () => tls.close(),
    },
    {
      what: 'TLS with a certificate on either side',
      target: kafka({ brokers: at(mutual.address), ssl: { ca: cert, cert, key } }),
      close: () => mutual.close(),
    },
    {
      what: 'SASL PLAIN with a password that a URL has to escape',
      target: `kafka://${escaped}${at(plain.address)}`,
      verify: said(plain, 'PLAIN'),
      close: () => plain.close(),
    },
    {
      what: 'SASL PLAIN over TLS',
      target: kafka({
        brokers: at(saslTls.address),
        ssl: { ca: cert },
        sasl: { mechanism: 'plain', ...credentials },
      }),
      close: () => saslTls.close(),
    },
    {
      what: 'SCRAM-SHA-256',
      target: kafka({ brokers: at(sasl), sasl: { mechanism: 'scram-sha-256', ...credentials } }),
    },
    { what: 'SCRAM-SHA-512', target: `kafka://${escaped}${at(sasl)}?saslMechanism=scram-sha-512` },
    {
      what: 'OAUTHBEARER',
      target: kafka({
        brokers: at(sasl),
        sasl: { mechanism: 'oauthbearer', oauthBearerProvider: async () => ({ value: unsecuredToken() }) },
      }),
    },
    {
      what: 'AWS',
      target: kafka({
        brokers: at(aws.address),
        sasl: {
          mechanism: 'aws',
          authorizationIdentity: 'AIDA',
          accessKeyId: 'AKIA',
          secretAccessKey: 'x',
          sessionToken: '',
        },
      }),
      refused: true,
      verify: said(aws, 'AWS'),
      close: () => aws.close(),
    },
  ];
}

function said(proxy: TcpProxy, mechanism: string): () => Promise<void> {
  return async () => {
    if (!proxy.heard.some((bytes) => bytes.includes(mechanism))) throw new Error(`nobody chose ${mechanism}`);
  };
}

async function makeScramUser(running: GivenBroker, { host, port }: Address): Promise<void> {
  // One after the other: the broker takes one change of a user at a time.
  for (const mechanism of ['SCRAM-SHA-256', 'SCRAM-SHA-512']) {
    const { exitCode, output } = await running.exec([
      '/opt/kafka/bin/kafka-run-class.sh',
      'kafka.admin.ConfigCommand',
      ...['--bootstrap-server', `${host}:${port}`],
      ...['--alter', '--add-config', `${mechanism}=[iterations=4096,password=${PASSWORD}]`],
      ...['--entity-type', 'users', '--entity-name', USER],
    ]);
    if (exitCode !== 0) throw new Error(`the ${mechanism} user could not be made: ${output.slice(-1_000)}`);
  }
}

/** A JSON web token without signature, which a broker takes unless it is told where to look for keys. */
function unsecuredToken(): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1_000);
  return `${part({ alg: 'none' })}.${part({ sub: USER, iat: now, exp: now + 3_600 })}.`;
}
