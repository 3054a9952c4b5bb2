import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SNS } from '@aws-sdk/client-sns';
import { type Message, type MessageAttributeValue, SQS } from '@aws-sdk/client-sqs';
import { nameMaker, parseBrokerUrl, splitName } from '@waybill/core/adapter';
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
  TopologyPart,
} from '../harness.ts';
import { brokerFor } from './broker-for.ts';
import { makeCertificate } from './certificate.ts';
import { type Address, linkThrough, TcpProxy } from './proxy.ts';
import { unusedPort } from './unused-port.ts';

const LEASE = 2_000;
const REGION = 'us-east-1';

/**
 * SQS and SNS on fauxqs, from `WAYBILL_SQS_URL` (and `…_CONTAINER`), or from a container of its own. With
 * `WAYBILL_SQS_EMULATOR=elasticmq` SQS alone on ElasticMQ, from `WAYBILL_ELASTICMQ_URL` or a container of its own: there
 * a topic is one queue (`fanOut=queue` in the URL).
 */
export function sqsUnderTest(): AdapterUnderTest {
  return {
    name: 'sqs',
    lease: LEASE,
    start: async () => {
      const running = await brokerFor(emulator());
      const services = new Services(running.url);
      return {
        url: services.url(),
        inProcess: false,
        openLink: async () => {
          const proxy = await TcpProxy.open({ upstream: services.address });
          return linkThrough(proxy, services.url({ at: proxy.address }));
        },
        stop: () => running.kill(),
        start: () => running.restart(),
        restart: () => running.restart(),
        foreign: new Foreign(services),
        doors: doors(services),
        dispose: async () => {
          services.close();
          await running.stop();
        },
      } satisfies BrokerUnderTest;
    },
  };
}

function emulator(): 'sqs' | 'elasticmq' {
  const chosen = process.env['WAYBILL_SQS_EMULATOR'] || 'fauxqs';
  if (chosen === 'fauxqs') return 'sqs';
  if (chosen === 'elasticmq') return 'elasticmq';
  throw new Error(`WAYBILL_SQS_EMULATOR=${chosen} is none of fauxqs, elasticmq`);
}

interface UrlParts {
  readonly at?: Address;
  readonly scheme?: 'http' | 'https';
  readonly key?: string;
  readonly secret?: string;
  readonly params?: Readonly<Record<string, string>>;
}

/** Both services as the plain SDK sees them. */
class Services {
  readonly address: Address;
  /** Whether a topic is an SNS topic, or a queue. */
  readonly fanOut: 'topic' | 'queue';
  readonly sqs: SQS;
  readonly sns: SNS;

  constructor(brokerUrl: string) {
    const { params } = parseBrokerUrl(brokerUrl);
    const endpoint = new URL(params.get('endpoint') ?? 'http://localhost:4566');
    this.fanOut = params.get('fanOut') === 'queue' ? 'queue' : 'topic';
    this.address = { host: endpoint.hostname, port: Number(endpoint.port) };
    const credentials = { accessKeyId: 'foreign', secretAccessKey: 'foreign' };
    const config = { region: REGION, endpoint: endpoint.origin, credentials };
    this.sqs = new SQS({ ...config, useQueueUrlAsEndpoint: false });
    this.sns = new SNS(config);
  }

  url({ at = this.address, scheme = 'http', key, secret, params }: UrlParts = {}): string {
    const query = new URLSearchParams({
      endpoint: `${scheme}://${at.host}:${at.port}`,
      // Short, because `close` waits for polls that are out, and a black hole has to be noticed in the time of a test.
      pollWait: '1s',
      requestTimeout: '4s',
      fanOut: this.fanOut,
      ...params,
    });
    const user = key === undefined ? '' : `${encodeURIComponent(key)}:${encodeURIComponent(secret ?? '')}@`;
    return `sqs://${user}${REGION}?${query}`;
  }

  close(): void {
    this.sqs.destroy();
    this.sns.destroy();
  }

  async queueUrl(name: string): Promise<string | undefined> {
    return await this.sqs.getQueueUrl({ QueueName: name }).then(
      ({ QueueUrl }) => QueueUrl,
      () => undefined,
    );
  }

  async topicArns(): Promise<readonly string[]> {
    const arns: string[] = [];
    if (this.fanOut === 'queue') return arns;
    let NextToken: string | undefined;
    do {
      const page = await this.sns.listTopics(NextToken === undefined ? {} : { NextToken });
      arns.push(...(page.Topics ?? []).flatMap(({ TopicArn }) => TopicArn ?? []));
      NextToken = page.NextToken;
    } while (NextToken !== undefined);
    return arns;
  }

  async queueUrls(): Promise<readonly string[]> {
    const urls: string[] = [];
    let NextToken: string | undefined;
    do {
      const page = await this.sqs.listQueues({ MaxResults: 1_000, ...(NextToken === undefined ? {} : { NextToken }) });
      urls.push(...(page.QueueUrls ?? []));
      NextToken = page.NextToken;
    } while (NextToken !== undefined);
    return urls;
  }

  /** A queue of its own, subscribed with raw delivery. */
  async subscribed(topicArn: string, name: string): Promise<string> {
    const { QueueUrl } = await this.sqs.createQueue({ QueueName: name });
    const { Attributes } = await this.sqs.getQueueAttributes({ QueueUrl, AttributeNames: ['QueueArn'] });
    const Endpoint = Attributes?.QueueArn;
    await this.sns.subscribe({
      TopicArn: topicArn,
      Protocol: 'sqs',
      Endpoint,
      Attributes: { RawMessageDelivery: 'true' },
    });
    return QueueUrl as string;
  }
}

// As the adapter's page names them.
const queueName = nameMaker(/[A-Za-z0-9_-]/, 75);
const topicName = nameMaker(/[A-Za-z0-9_-]/, 251);
const LONGEST_UNCUT = 74;

const kinds = { group: 'group', 'dead-letters': 'dead' } as const;
const both = (name: string): readonly string[] => [name, `${name}.fifo`];
const lastPart = (arnOrUrl: string, by: string): string => arnOrUrl.slice(arnOrUrl.lastIndexOf(by) + 1);
const readable = (name: string): string => splitName(name).join('/');

class Foreign implements ForeignClient {
  /** The message groups of FIFO. */
  readonly keys = 'ordered';
  readonly trim = undefined;
  /** SNS takes 256 KiB with all attributes, and bytes travel as base64. */
  readonly maxBodyBytes = Math.floor((256 * 1_024 - 128) / 4) * 3;
  readonly #services: Services;

  constructor(services: Services) {
    this.#services = services;
  }

  async publish(topic: string, message: ForeignMessage): Promise<void> {
    const place = await this.#topic({ topic });
    if (place === undefined) throw new Error(`there is no topic ${topic}`);
    await this.#publish(place, message);
  }

  /** @param place the ARN of an SNS topic, or the URL of a queue */
  async #publish(place: string, { body, key, contentType, headers = {} }: ForeignMessage): Promise<void> {
    const text = Buffer.from(body).toString('utf8');
    const isText = Buffer.from(text).equals(body) && isPlain(text);
    const Message = isText ? text : Buffer.from(body).toString('base64');
    const all = {
      ...headers,
      ...(contentType === undefined ? {} : { 'content-type': contentType }),
      ...(isText ? {} : { 'waybill-body': 'base64' }),
    };
    const MessageAttributes = Object.fromEntries(
      Object.entries(all).map(([name, StringValue]) => [name, { DataType: 'String', StringValue }]),
    );
    const fifo = place.endsWith('.fifo');
    // FIFO asks for both; a message without a key is a group of its own.
    const order = { MessageGroupId: key ?? randomUUID(), MessageDeduplicationId: randomUUID() };
    const { sqs, sns } = this.#services;
    if (place.startsWith('arn:'))
      await sns.publish({ TopicArn: place, Message, MessageAttributes, ...(fifo && order) });
    else await sqs.sendMessage({ QueueUrl: place, MessageBody: Message, MessageAttributes, ...(fifo && order) });
  }

  async read(topic: string): ReturnType<ForeignClient['read']> {
    const arn = await this.#topic({ topic });
    if (arn === undefined) throw new Error(`there is no topic ${topic} to read from`);
    const copy = arn.startsWith('arn:');
    // A topic that is a queue has no copies to give: what is read here, nobody else gets.
    const QueueUrl = copy ? await this.#services.subscribed(arn, `foreign-${randomUUID()}`) : arn;
    const copies: ForeignCopy[] = [];
    return {
      next: async (within) => {
        const end = performance.now() + within;
        while (copies.length === 0) {
          if (performance.now() > end) throw new Error(`no copy of a message within ${within} ms`);
          const { Messages = [] } = await this.#services.sqs.receiveMessage({
            QueueUrl,
            MaxNumberOfMessages: 10,
            WaitTimeSeconds: 1,
            MessageAttributeNames: ['All'],
          });
          copies.push(...Messages.map(copyOf));
        }
        return copies.shift() as ForeignCopy;
      },
      close: async () => {
        if (copy) await this.#services.sqs.deleteQueue({ QueueUrl });
      },
    };
  }

  /** The ARN of the SNS topic, or the URL of the queue that the topic is. */
  async #topic({ topic, prefix = '' }: Pick<Place, 'topic' | 'prefix'>): Promise<string | undefined> {
    if (this.#services.fanOut === 'queue') return this.#firstQueue(queueName(`${prefix}waybill-v1-topic`, topic));
    const names = both(topicName(`${prefix}waybill-v1-topic`, topic));
    return (await this.#services.topicArns()).find((arn) => names.includes(lastPart(arn, ':')));
  }

  async #queue(part: 'group' | 'dead-letters', place: Place): Promise<string | undefined> {
    const { topic, group, prefix = '' } = place;
    if (part === 'group' && this.#services.fanOut === 'queue') {
      const url = await this.#topic(place);
      return url !== undefined && (await this.#groupOf(url)) === group ? url : undefined;
    }
    return this.#firstQueue(queueName(`${prefix}waybill-v1-${kinds[part]}`, topic, group));
  }

  /** Whose the one queue is that is a topic. */
  async #groupOf(QueueUrl: string): Promise<string | undefined> {
    const { Tags } = await this.#services.sqs.listQueueTags({ QueueUrl });
    const owner = Tags?.['waybill-group'];
    return owner === undefined ? undefined : Buffer.from(owner, 'base64').toString();
  }

  async #firstQueue(name: string): Promise<string | undefined> {
    for (const one of both(name)) {
      const url = await this.#services.queueUrl(one);
      if (url !== undefined) return url;
    }
    return undefined;
  }

  async remove(part: TopologyPart, place: Place): Promise<void> {
    const found = await (part === 'topic' ? this.#topic(place) : this.#queue(part, place));
    if (found === undefined) return;
    const { sqs, sns } = this.#services;
    if (found.startsWith('arn:')) await sns.deleteTopic({ TopicArn: found });
    else await sqs.deleteQueue({ QueueUrl: found });
  }

  async exists(part: TopologyPart, place: Place): Promise<boolean> {
    return (await (part === 'topic' ? this.#topic(place) : this.#queue(part, place))) !== undefined;
  }

  async namesWith(text: string): Promise<readonly string[]> {
    const [arns, urls] = await Promise.all([this.#services.topicArns(), this.#services.queueUrls()]);
    const queues = await Promise.all(
      urls.map(async (QueueUrl) => {
        const name = lastPart(QueueUrl, '/');
        if (name.length <= LONGEST_UNCUT) return name;
        // SQS's limit may have cut it; then its tag has all of it.
        const { Tags } = await this.#services.sqs.listQueueTags({ QueueUrl }).catch(() => ({ Tags: undefined }));
        return Tags?.['waybill-name'] ?? name;
      }),
    );
    return [...arns.map((arn) => lastPart(arn, ':')), ...queues].map(readable).filter((name) => name.includes(text));
  }

  async makeOwn(): ReturnType<ForeignClient['makeOwn']> {
    const [topic, group] = [`own-topic-${randomUUID()}`, `own-queue-${randomUUID()}`];
    if (this.#services.fanOut === 'queue') {
      const { QueueUrl } = await this.#services.sqs.createQueue({ QueueName: topic });
      const publish = (message: ForeignMessage): Promise<void> => this.#publish(QueueUrl as string, message);
      return { target: this.#services.url(), topic, group: topic, publish };
    }
    const { TopicArn } = await this.#services.sns.createTopic({ Name: topic });
    await this.#services.subscribed(TopicArn as string, group);
    return {
      target: this.#services.url(),
      topic,
      group,
      publish: (message) => this.#publish(TopicArn as string, message),
    };
  }

  async retentionFaults(place: Place): Promise<readonly string[]> {
    const names = {
      group: await this.#queue('group', place),
      dead: await this.#queue('dead-letters', place),
      ...(this.#services.fanOut === 'queue' ? {} : { delay: await this.#services.queueUrl('waybill-v1-delay') }),
    };
    const faults: string[] = [];
    for (const [what, QueueUrl] of Object.entries(names)) {
      if (QueueUrl === undefined) {
        faults.push(`the ${what} queue does not stand there`);
        continue;
      }
      const { Attributes } = await this.#services.sqs.getQueueAttributes({ QueueUrl, AttributeNames: ['All'] });
      // ElasticMQ keeps messages for ever, and has no such attribute.
      if (this.#services.fanOut === 'queue' && Attributes?.MessageRetentionPeriod === undefined) continue;
      const days = Number(Attributes?.MessageRetentionPeriod) / 86_400;
      if (days !== 14) faults.push(`the ${what} queue keeps messages for ${days} days`);
    }
    return faults;
  }
}

/** Whether XML, and so SQS, can carry it as it is. */
function isPlain(text: string): boolean {
  return [...text].every((c) => c >= ' ' || c === '\n' || c === '\r' || c === '\t') && text !== '';
}

function copyOf({ Body = '', MessageAttributes = {} }: Message): ForeignCopy {
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(MessageAttributes as Record<string, MessageAttributeValue>)) {
    headers[name] = value.StringValue ?? '';
  }
  const encoding = headers['waybill-body'];
  const body = encoding === 'empty' ? Buffer.alloc(0) : Buffer.from(Body, encoding === 'base64' ? 'base64' : 'utf8');
  return { body, key: headers['waybill-key'], headers };
}

function doors(services: Services): Doors {
  return {
    closed: async () => {
      const port = await unusedPort();
      const certificate = makeCertificate('localhost');
      const unknownAuthority = await TcpProxy.open({ upstream: services.address, tls: certificate });
      unknownAuthority.unref();
      const silent = createTcpServer(() => {}).listen(0);
      silent.unref();
      const silentPort = (silent.address() as { port: number }).port;
      const refusing = await listening((request, response) => {
        request.resume();
        // What AWS answers to a wrong access key; emulators take any.
        response.writeHead(403, { 'content-type': 'application/x-amz-json-1.0' });
        response.end(
          JSON.stringify({
            __type: 'com.amazon.coral.service#UnrecognizedClientException',
            message: 'The security token included in the request is invalid.',
          }),
        );
      });
      const secret = 'correct-horse';
      const key = 'AKIATEST';
      const at = (where: number): Address => ({ host: 'localhost', port: where });
      const shown = `${services.address.host}:${services.address.port}`;
      const wrong: ClosedDoor[] = [
        {
          what: 'a port where nobody listens',
          target: services.url({ at: at(port), key, secret }),
          cause: /ECONNREFUSED|refused/i,
          names: `localhost:${port}`,
          secret,
          final: false,
        },
        {
          what: 'a host that does not exist',
          target: services.url({ at: { host: 'nowhere.invalid', port: 4566 }, key, secret }),
          cause: /ENOTFOUND|EAI_AGAIN|not found|does not exist/i,
          names: 'nowhere.invalid',
          secret,
          final: false,
        },
        {
          what: 'a wrong access key',
          target: services.url({ at: at(portOf(refusing)), key, secret }),
          cause: /credentials|UnrecognizedClient/i,
          names: `localhost:${portOf(refusing)}`,
          secret,
          final: true,
        },
        {
          what: 'TLS where the service speaks none',
          target: services.url({ scheme: 'https', key, secret }),
          cause: /TLS|SSL/i,
          names: shown,
          secret,
          final: false,
        },
        {
          what: 'a certificate of an unknown authority',
          target: services.url({ scheme: 'https', at: unknownAuthority.address, key, secret }),
          cause: /certificate|self.signed/i,
          names: `localhost:${unknownAuthority.address.port}`,
          secret,
          final: false,
        },
        {
          what: 'a host that accepts and says nothing',
          target: services.url({ at: at(silentPort), key, secret }),
          cause: /time|answer/i,
          names: `localhost:${silentPort}`,
          secret,
          final: false,
        },
      ];
      return wrong;
    },
    open: () => openDoors(services),
    unknownParameter: services.url({ params: { nonsense: '1' } }),
  };
}

async function listening(listener: RequestListener): Promise<Server> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, resolve));
  server.unref();
  return server;
}

const portOf = (server: Server): number => (server.address() as { port: number }).port;

async function openDoors(services: Services): Promise<readonly OpenDoor[]> {
  const certificate = makeCertificate('localhost');
  const folder = await mkdtemp(join(tmpdir(), 'waybill-'));
  const caFile = join(folder, 'ca.pem');
  const keyFile = join(folder, 'key.pem');
  await writeFile(caFile, certificate.cert);
  await writeFile(keyFile, certificate.key);
  const [tls, mutual, plain] = await Promise.all([
    TcpProxy.open({ upstream: services.address, tls: certificate }),
    TcpProxy.open({
      upstream: services.address,
      tls: { ...certificate, ca: certificate.cert, requestCert: true, rejectUnauthorized: true },
    }),
    TcpProxy.open({ upstream: services.address }),
  ]);
  const key = 'AKIAWAYBILL';
  return [
    {
      what: 'TLS with an authority of its own',
      target: services.url({ scheme: 'https', at: tls.address, key, secret: 's', params: { caFile } }),
      close: () => tls.close(),
    },
    {
      what: 'TLS with a certificate on either side',
      target: services.url({
        scheme: 'https',
        at: mutual.address,
        key,
        secret: 's',
        params: { caFile, certFile: caFile, keyFile },
      }),
      close: () => mutual.close(),
    },
    {
      what: 'an access key in the URL',
      target: services.url({ at: plain.address, key, secret: 'pä/ss:w@rd%' }),
      verify: async () => {
        if (!plain.heard.some((bytes) => bytes.includes(`Credential=${key}/`)))
          throw new Error('nobody signed with the access key');
      },
      close: async () => {
        await plain.close();
        await rm(folder, { recursive: true });
      },
    },
  ];
}
