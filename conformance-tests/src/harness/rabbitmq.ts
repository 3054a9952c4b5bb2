import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { parseBrokerUrl } from '@waybill/core/adapter';
import amqplib, { type ChannelModel, type ConfirmChannel, type ConsumeMessage } from 'amqplib';
import type { RunningBroker } from '../brokers/start.ts';
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
import { brokerFor } from './broker-for.ts';
import { type Certificate, makeCertificate } from './certificate.ts';
import { type Address, linkThrough, TcpProxy } from './proxy.ts';
import { unusedPort } from './unused-port.ts';

/** Seconds: the shortest that AMQP knows. A lease is three of them. */
const HEARTBEAT = 1;
const LEASE = 3_000;

/**
 * A quorum queue that was declared less than a second before its broker is killed never works again, on 3.10 as on 4.0
 * (measured): its publishes are not confirmed and its consumers are not answered, whatever is restarted. No client can
 * mend that, and no test is about it.
 */
const NEW_QUEUES_SETTLE = 2_000;

/** RabbitMQ, from `WAYBILL_RABBITMQ_URL` (and `…_MANAGEMENT_URL`, `…_CONTAINER`), or from a container of its own. */
export function rabbitmqUnderTest(): AdapterUnderTest {
  return {
    name: 'rabbitmq',
    lease: LEASE,
    start: async () => {
      const running = await brokerFor('rabbitmq');
      const server = new Server(running);
      return {
        url: server.url(),
        inProcess: false,
        openLink: async () => {
          const proxy = await TcpProxy.open({ upstream: server.address });
          return linkThrough(proxy, server.url({ at: proxy.address }));
        },
        stop: async () => {
          await wait(NEW_QUEUES_SETTLE);
          await running.kill();
        },
        start: () => running.restart(),
        restart: () => running.restart(),
        foreign: new Foreign(server),
        doors: doors(server),
        dispose: async () => {
          await server.close();
          await running.stop();
        },
      } satisfies BrokerUnderTest;
    },
  };
}

interface UrlParts {
  readonly scheme?: 'amqp' | 'amqps';
  readonly at?: Address;
  readonly user?: string;
  readonly password?: string;
  readonly vhost?: string;
  readonly params?: Readonly<Record<string, string>>;
}

/** The broker as its plain client and its management see it. */
class Server {
  readonly address: Address;
  readonly #user: string;
  readonly #password: string;
  readonly #management: string;
  #connection: ChannelModel | undefined;
  #channel: Promise<ConfirmChannel> | undefined;

  constructor(running: Pick<RunningBroker, 'url' | 'management'>) {
    const { hosts, user = 'guest', password = 'guest' } = parseBrokerUrl(running.url);
    this.address = { host: hosts[0]?.host ?? 'localhost', port: hosts[0]?.port ?? 5672 };
    this.#user = user;
    this.#password = password;
    this.#management = running.management ?? `http://${this.address.host}:15672`;
  }

  url({
    scheme = 'amqp',
    at = this.address,
    user = this.#user,
    password = this.#password,
    ...parts
  }: UrlParts = {}): string {
    const params = new URLSearchParams({ heartbeat: `${HEARTBEAT}s`, ...parts.params });
    const path = parts.vhost === undefined ? '' : `/${encodeURIComponent(parts.vhost)}`;
    return `${scheme}://${encodeURIComponent(user)}:${encodeURIComponent(password)}@${at.host}:${at.port}${path}?${params}`;
  }

  /** The plain client's own channel, opened anew when the broker was restarted. */
  channel(): Promise<ConfirmChannel> {
    this.#channel ??= this.#open();
    return this.#channel;
  }

  async close(): Promise<void> {
    await this.#channel?.catch(() => {});
    await this.#connection?.close().catch(() => {});
  }

  async #open(): Promise<ConfirmChannel> {
    const { host: hostname, port } = this.address;
    const connection = await amqplib.connect(
      { protocol: 'amqp', hostname, port, username: this.#user, password: this.#password },
      { noDelay: true },
    );
    const forget = (): void => {
      this.#channel = undefined;
    };
    this.#connection = connection;
    connection.on('error', forget);
    connection.on('close', forget);
    const channel = await connection.createConfirmChannel();
    channel.on('error', forget);
    channel.on('close', forget);
    return channel;
  }

  async ask(path: string, init: RequestInit = {}): Promise<Response> {
    const authorization = `Basic ${Buffer.from(`${this.#user}:${this.#password}`).toString('base64')}`;
    const headers = { authorization, 'content-type': 'application/json' };
    return await fetch(`${this.#management}/api/${path}`, { ...init, headers });
  }

  async list<Item>(what: 'queues' | 'exchanges' | 'bindings'): Promise<readonly Item[]> {
    const response = await this.ask(`${what}/%2F`);
    if (!response.ok) throw new Error(`the management API answered ${response.status} for ${what}`);
    return (await response.json()) as Item[];
  }

  async makeUser(name: string, password: string): Promise<void> {
    await this.ask(`users/${name}`, { method: 'PUT', body: JSON.stringify({ password, tags: '' }) });
    const all = { configure: '.*', write: '.*', read: '.*' };
    await this.ask(`permissions/%2F/${name}`, { method: 'PUT', body: JSON.stringify(all) });
  }

  async removeUser(name: string): Promise<void> {
    await this.ask(`users/${name}`, { method: 'DELETE' });
  }
}

interface Queue {
  readonly name: string;
  readonly durable: boolean;
  readonly auto_delete: boolean;
  readonly arguments: Readonly<Record<string, unknown>>;
}

/** As the adapter's page names them. */
const exchangeOf = (prefix = ''): string => `${prefix}waybill.v1.topics`;
const kinds = { group: 'group', 'dead-letters': 'dead' } as const;

class Foreign implements ForeignClient {
  readonly keys = false;
  readonly trim = undefined;
  /** RabbitMQ 4's `max_message_size`; 3.10 takes eight times as much, which no test needs. */
  readonly maxBodyBytes = 16 * 1_024 * 1_024;
  readonly #server: Server;

  constructor(server: Server) {
    this.#server = server;
  }

  publish(topic: string, message: ForeignMessage): Promise<void> {
    return this.#publish(exchangeOf(), topic, message);
  }

  async #publish(exchange: string, routingKey: string, message: ForeignMessage): Promise<void> {
    const channel = await this.#server.channel();
    const { contentType, headers } = message;
    await new Promise<void>((resolve, reject) => {
      channel.publish(
        exchange,
        routingKey,
        Buffer.from(message.body),
        { ...(contentType === undefined ? {} : { contentType }), ...(headers === undefined ? {} : { headers }) },
        (error: unknown) => (error ? reject(error) : resolve()),
      );
    });
  }

  async read(topic: string): ReturnType<ForeignClient['read']> {
    const channel = await this.#server.channel();
    const { queue } = await channel.assertQueue('', { exclusive: true, autoDelete: true });
    await channel.bindQueue(queue, exchangeOf(), topic);
    const copies: ForeignCopy[] = [];
    const { consumerTag } = await channel.consume(queue, (message) => message && copies.push(copyOf(message)), {
      noAck: true,
    });
    return {
      next: async (within) => {
        await eventually('a copy of a message', () => copies.length > 0, { within });
        return copies.shift() as ForeignCopy;
      },
      close: async () => void (await channel.cancel(consumerTag)),
    };
  }

  async #queues(part: 'group' | 'dead-letters', { topic, group, prefix = '' }: Place): Promise<readonly Queue[]> {
    const name = `${prefix}waybill.v1.${kinds[part]}_x_${topic}_x_${group}`;
    const queues = await this.#server.list<Queue>('queues');
    // The lanes of an ordered topic are queues of their own.
    return queues.filter((queue) => queue.name === name || queue.name.startsWith(`${name}_x_`));
  }

  async remove(part: Parameters<ForeignClient['remove']>[0], place: Place): Promise<void> {
    const channel = await this.#server.channel();
    if (part === 'topic') await channel.deleteExchange(exchangeOf(place.prefix));
    else for (const { name } of await this.#queues(part, place)) await channel.deleteQueue(name);
  }

  async exists(part: Parameters<ForeignClient['exists']>[0], place: Place): Promise<boolean> {
    if (part !== 'topic') return (await this.#queues(part, place)).length > 0;
    return (await this.namesWith(place.topic)).length > 0;
  }

  async namesWith(text: string): Promise<readonly string[]> {
    const [queues, exchanges] = await Promise.all([
      this.#server.list<Queue>('queues'),
      this.#server.list<{ name: string }>('exchanges'),
    ]);
    return [...queues, ...exchanges].map(({ name }) => name).filter((name) => name.includes(text));
  }

  async makeOwn(): ReturnType<ForeignClient['makeOwn']> {
    const channel = await this.#server.channel();
    const [exchange, topic, group] = ['exchange', 'key', 'queue'].map((kind) => `own.${kind}.${randomUUID()}`) as [
      string,
      string,
      string,
    ];
    await channel.assertExchange(exchange, 'topic', { durable: true });
    // As an operator may have made it: of another kind, and with an argument of its own.
    await channel.assertQueue(group, { durable: true, arguments: { 'x-max-length': 10_000 } });
    await channel.bindQueue(group, exchange, topic);
    const target = this.#server.url({ params: { exchange } });
    return { target, topic, group, publish: (message) => this.#publish(exchange, topic, message) };
  }

  async retentionFaults(place: Place): Promise<readonly string[]> {
    const queues = [...(await this.#queues('group', place)), ...(await this.#queues('dead-letters', place))];
    const faults = queues.length < 2 ? [`only ${queues.length} queues stand there`] : [];
    for (const { name, durable, auto_delete: autoDelete, arguments: given } of queues) {
      if (!durable) faults.push(`queue ${name} is not durable`);
      if (autoDelete) faults.push(`queue ${name} goes with its last consumer`);
      for (const argument of ['x-expires', 'x-message-ttl', 'x-max-length', 'x-max-length-bytes']) {
        if (given[argument] !== undefined) faults.push(`queue ${name} has ${argument} ${given[argument]}`);
      }
    }
    return faults;
  }
}

function copyOf({ content, properties }: ConsumeMessage): ForeignCopy {
  const headers = Object.fromEntries(
    Object.entries((properties.headers ?? {}) as Record<string, unknown>).map(([name, value]) => [name, String(value)]),
  );
  return { body: content, key: headers['waybill-key'], headers };
}

function doors(server: Server): Doors {
  return {
    closed: async () => {
      const port = await unusedPort();
      const certificate = makeCertificate('localhost');
      const unknownAuthority = await tlsProxy(server, certificate);
      const silent = createServer(() => {}).listen(0);
      const silentPort = (silent.address() as { port: number }).port;
      silent.unref();
      unknownAuthority.unref();
      const at = (where: number): Address => ({ host: 'localhost', port: where });
      const shown = `${server.address.host}:${server.address.port}`;
      const secret = 'correct-horse';
      const wrong: ClosedDoor[] = [
        {
          what: 'a port where nobody listens',
          target: server.url({ at: at(port), password: secret }),
          cause: /ECONNREFUSED|refused/i,
          names: `localhost:${port}`,
          secret,
          final: false,
        },
        {
          what: 'a host that does not exist',
          target: server.url({ at: { host: 'nowhere.invalid', port: 5672 }, password: secret }),
          cause: /ENOTFOUND|EAI_AGAIN|not found|does not exist/i,
          names: 'nowhere.invalid',
          secret,
          final: false,
        },
        {
          what: 'a wrong password',
          target: server.url({ password: secret }),
          cause: /ACCESS_REFUSED|refused|credentials|password/i,
          names: shown,
          secret,
          final: true,
        },
        {
          what: 'a virtual host that does not exist',
          target: server.url({ vhost: 'no-such-vhost' }),
          cause: /no-such-vhost/,
          names: shown,
          secret: undefined,
          final: true,
        },
        {
          what: 'TLS where the broker speaks none',
          target: server.url({ scheme: 'amqps', password: secret }),
          cause: /TLS|SSL/i,
          names: shown,
          secret,
          final: false,
        },
        {
          what: 'a certificate of an unknown authority',
          target: server.url({ scheme: 'amqps', at: unknownAuthority.address, password: secret }),
          cause: /certificate|self.signed/i,
          names: `localhost:${unknownAuthority.address.port}`,
          secret,
          final: false,
        },
        {
          what: 'a host that accepts and says nothing',
          target: server.url({ at: at(silentPort), password: secret }),
          cause: /time|answer/i,
          names: `localhost:${silentPort}`,
          secret,
          final: false,
        },
      ];
      return wrong;
    },
    open: () => openDoors(server),
    unknownParameter: server.url({ params: { nonsense: '1' } }),
  };
}

function tlsProxy(server: Server, { cert, key }: Certificate): Promise<TcpProxy> {
  return TcpProxy.open({ upstream: server.address, tls: { cert, key } });
}

async function openDoors(server: Server): Promise<readonly OpenDoor[]> {
  const certificate = makeCertificate('localhost');
  const folder = await mkdtemp(join(tmpdir(), 'waybill-'));
  const caFile = join(folder, 'ca.pem');
  await writeFile(caFile, certificate.cert);
  const [tls, mutual, amqplain, plain, external] = await Promise.all([
    tlsProxy(server, certificate),
    TcpProxy.open({
      upstream: server.address,
      tls: {
        cert: certificate.cert,
        key: certificate.key,
        ca: certificate.cert,
        requestCert: true,
        rejectUnauthorized: true,
      },
    }),
    TcpProxy.open({ upstream: server.address }),
    TcpProxy.open({ upstream: server.address }),
    // The client takes a mechanism only when it is offered: this broker offers it under another name of that length.
    TcpProxy.open({ upstream: server.address, rewriteReplies: () => offerExternal }),
  ]);
  const user = `user-${randomUUID()}`;
  const password = 'päss:w@rd/%';
  await server.makeUser(user, password);
  const keyFile = join(folder, 'key.pem');
  await writeFile(keyFile, certificate.key);
  const said = (proxy: TcpProxy, mechanism: string) => async (): Promise<void> => {
    if (!proxy.heard.some((bytes) => bytes.includes(mechanism))) throw new Error(`nobody chose ${mechanism}`);
  };
  const closing =
    (proxy: TcpProxy): (() => Promise<void>) =>
    () =>
      proxy.close();
  return [
    {
      what: 'TLS with an authority of its own',
      target: server.url({ scheme: 'amqps', at: tls.address, params: { caFile } }),
      close: closing(tls),
    },
    {
      what: 'TLS with a certificate on either side',
      target: server.url({ scheme: 'amqps', at: mutual.address, params: { caFile, certFile: caFile, keyFile } }),
      close: closing(mutual),
    },
    {
      what: 'a user and a password that a URL has to escape',
      target: server.url({ at: plain.address, user, password }),
      verify: said(plain, 'PLAIN'),
      close: closing(plain),
    },
    {
      what: 'AMQPLAIN',
      target: server.url({ at: amqplain.address, user, password, params: { auth: 'amqplain' } }),
      verify: said(amqplain, 'AMQPLAIN'),
      close: async () => {
        await amqplain.close();
        await server.removeUser(user);
      },
    },
    {
      what: 'EXTERNAL',
      target: server.url({ at: external.address, params: { auth: 'external' } }),
      refused: true,
      verify: said(external, 'EXTERNAL'),
      close: async () => {
        await external.close();
        await rm(folder, { recursive: true });
      },
    },
  ];
}

function offerExternal(chunk: Buffer): Buffer {
  const at = chunk.indexOf('AMQPLAIN');
  if (at >= 0) chunk.write('EXTERNAL', at);
  return chunk;
}
