import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseBrokerUrl } from '@waybill/core/adapter';
import { Cluster, Redis } from 'ioredis';
import type {
  AdapterUnderTest,
  BrokerUnderTest,
  ClosedDoor,
  Doors,
  ForeignClient,
  ForeignCopy,
  ForeignMessage,
  NetworkLink,
  OpenDoor,
  Place,
} from '../harness.ts';
import { brokerFor, type GivenBroker } from './broker-for.ts';
import { type Certificate, makeCertificate } from './certificate.ts';
import { type Address, linkThrough, TcpProxy } from './proxy.ts';
import { clusterFor, openClusterLink } from './redis-streams-cluster.ts';
import { unusedPort } from './unused-port.ts';

const LEASE = 2_000;

/**
 * Redis Streams, from `WAYBILL_REDIS_URL` (and `…_CONTAINER`), or from a container of its own. With `WAYBILL_REDIS_CLUSTER`
 * a cluster: the one of this URL, or for `1` three nodes in a container.
 */
export function redisStreamsUnderTest(): AdapterUnderTest {
  return {
    name: 'redis-streams',
    lease: LEASE,
    start: async () => {
      const cluster = process.env['WAYBILL_REDIS_CLUSTER'];
      const running = cluster ? await clusterFor(cluster) : await brokerFor('redis');
      const server = new Server(running, Boolean(cluster));
      return {
        url: server.url(),
        inProcess: false,
        openLink: () =>
          server.isCluster ? openClusterLink(server.addresses, (at) => server.url({ at })) : openLink(server),
        stop: () => running.kill(),
        start: () => running.restart(),
        restart: () => running.restart(),
        foreign: new Foreign(server),
        doors: doors(server),
        dispose: async () => {
          server.close();
          await running.stop();
        },
      } satisfies BrokerUnderTest;
    },
  };
}

async function openLink(server: Server): Promise<NetworkLink> {
  const proxy = await TcpProxy.open({ upstream: server.address });
  return linkThrough(proxy, server.url({ at: proxy.address }));
}

interface UrlParts {
  readonly scheme?: 'redis' | 'rediss';
  readonly at?: Address;
  readonly user?: string;
  readonly password?: string;
  readonly db?: number;
  readonly params?: Readonly<Record<string, string>>;
}

/** The server as its plain client sees it. */
class Server {
  readonly addresses: readonly Address[];
  readonly isCluster: boolean;
  readonly #user: string | undefined;
  readonly #password: string | undefined;
  readonly #db: number;
  #client: Redis | Cluster | undefined;

  constructor({ url }: Pick<GivenBroker, 'url'>, isCluster: boolean) {
    const { hosts, user, password, path } = parseBrokerUrl(url);
    this.addresses = hosts.map(({ host, port = 6379 }) => ({ host, port }));
    this.isCluster = isCluster;
    this.#user = user;
    this.#password = password;
    this.#db = Number(path ?? 0);
  }

  get address(): Address {
    return this.addresses[0] ?? { host: 'localhost', port: 6379 };
  }

  url({ scheme = 'redis', at = this.address, user = this.#user, password = this.#password, ...parts }: UrlParts = {}) {
    const login = password === undefined ? '' : `${encodeURIComponent(user ?? '')}:${encodeURIComponent(password)}@`;
    const mode = this.isCluster ? { mode: 'cluster' } : {};
    const params = new URLSearchParams({ commandTimeout: '2s', ...mode, ...parts.params });
    return `${scheme}://${login}${at.host}:${at.port}/${parts.db ?? this.#db}?${params}`;
  }

  /** Comes back by itself when the server was restarted. */
  get client(): Redis | Cluster {
    this.#client ??= this.open();
    return this.#client;
  }

  open(): Redis | Cluster {
    const login = {
      ...(this.#user === undefined ? {} : { username: this.#user }),
      ...(this.#password === undefined ? {} : { password: this.#password }),
    };
    const client = this.isCluster
      ? new Cluster([...this.addresses], { redisOptions: login })
      : new Redis({ ...this.address, db: this.#db, ...login });
    return client.on('error', () => {});
  }

  async keys(): Promise<string[]> {
    const { client } = this;
    if (client instanceof Redis) return client.keys('*');
    // Before the first answer it does not know all nodes.
    await client.cluster('INFO');
    return (await Promise.all(client.nodes('master').map((node) => node.keys('*')))).flat();
  }

  close(): void {
    this.#client?.disconnect();
  }
}

/** As the adapter's page names them. */
const streamOf = ({ topic, prefix = '' }: Omit<Place, 'group'>): string => `${prefix}${topic}`;
const ownKey = (place: Place, kind: string): string => `waybill:v1:{${streamOf(place)}}:${kind}:${place.group}`;

class Foreign implements ForeignClient {
  readonly keys = false;
  /** 512 MiB, which no test needs. */
  readonly maxBodyBytes = undefined;
  readonly trim: (topic: string) => Promise<void>;
  readonly #server: Server;

  constructor(server: Server) {
    this.#server = server;
    this.trim = async (topic) => void (await server.client.xtrim(topic, 'MAXLEN', 0));
  }

  publish(topic: string, message: ForeignMessage): Promise<void> {
    return this.#publish(topic, message);
  }

  async #publish(topic: string, { body, contentType, headers = {} }: ForeignMessage): Promise<void> {
    const { client } = this.#server;
    // An ordered topic is a stream per lane; a program that knows nothing of lanes takes the first.
    const first = `waybill:v1:{${topic}/0}:lane-lane`;
    const stream = (await client.exists(first)) === 1 ? first : topic;
    const fields = Object.entries({
      ...headers,
      ...(contentType === undefined ? {} : { 'content-type': contentType }),
    });
    await client.xadd(stream, '*', 'body', Buffer.from(body), ...fields.flat());
  }

  async read(topic: string): ReturnType<ForeignClient['read']> {
    const { client } = this.#server;
    const reader = this.#server.open();
    const last = await client.xrevrange(topic, '+', '-', 'COUNT', 1);
    let after = last[0]?.[0] ?? '0-0';
    return {
      next: async (within) => {
        const reply = await reader.xreadBuffer('COUNT', 1, 'BLOCK', within, 'STREAMS', topic, after);
        const entry = reply?.[0]?.[1][0];
        if (entry === undefined) throw new Error(`no message within ${within} ms`);
        after = String(entry[0]);
        return copyOf(entry[1]);
      },
      close: async () => reader.disconnect(),
    };
  }

  async remove(part: Parameters<ForeignClient['remove']>[0], place: Place): Promise<void> {
    const { client } = this.#server;
    if (part === 'dead-letters') await client.del(ownKey(place, 'dead'));
    if (part === 'group') await client.xgroup('DESTROY', streamOf(place), place.group);
    if (part === 'topic') await client.del(streamOf(place), `waybill:v1:{${streamOf(place)}}:topic`);
  }

  async exists(part: Parameters<ForeignClient['exists']>[0], place: Place): Promise<boolean> {
    const { client } = this.#server;
    const stream = streamOf(place);
    if (part === 'dead-letters') return (await client.exists(ownKey(place, 'dead'))) === 1;
    if (part === 'topic') return (await client.exists(stream, `waybill:v1:{${stream}}:topic`)) > 0;
    return (await this.#groupsOf(stream)).includes(place.group);
  }

  async #groupsOf(stream: string): Promise<readonly string[]> {
    const { client } = this.#server;
    if ((await client.type(stream)) !== 'stream') return [];
    const groups = (await client.xinfo('GROUPS', stream)) as unknown[][];
    return groups.map((flat) => String(flat[1]));
  }

  async namesWith(text: string): Promise<readonly string[]> {
    const keys = await this.#server.keys();
    const names: string[] = [];
    for (const key of keys.filter((one) => one.includes(text)).sort()) {
      names.push(key, ...(await this.#groupsOf(key)).map((group) => `${key}/${group}`));
    }
    return names;
  }

  async makeOwn(): ReturnType<ForeignClient['makeOwn']> {
    const topic = `own stream ${randomUUID()}`;
    const group = 'own group';
    await this.#server.client.xgroup('CREATE', topic, group, '$', 'MKSTREAM');
    return { target: this.#server.url(), topic, group, publish: (message) => this.#publish(topic, message) };
  }

  async retentionFaults({ topic }: Place): Promise<readonly string[]> {
    const { client } = this.#server;
    const keys = (await this.#server.keys()).filter((key) => key.includes(topic));
    const faults = keys.length < 3 ? [`only ${keys.length} keys stand there`] : [];
    for (const key of keys) {
      const expiry = await client.pttl(key);
      if (expiry >= 0) faults.push(`${key} expires in ${expiry} ms`);
    }
    return faults;
  }
}

function copyOf(fields: readonly Buffer[]): ForeignCopy {
  const headers: Record<string, string> = {};
  let body = new Uint8Array();
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const value = fields[i + 1] as Buffer;
    if (String(fields[i]) === 'body') body = new Uint8Array(value);
    else headers[String(fields[i])] = String(value);
  }
  return { body, key: headers['waybill-key'], headers };
}

function doors(server: Server): Doors {
  return {
    closed: async () => {
      const all = await closedDoors(server);
      // A cluster has one database.
      return server.isCluster ? all.filter(({ what }) => !what.includes('database')) : all;
    },
    // A cluster sends its clients to its nodes, past every proxy in front of one.
    open: async () => (server.isCluster ? [] : openDoors(server)),
    unknownParameter: server.url({ params: { nonsense: '1' } }),
  };
}

function tlsProxy(server: Server, { cert, key }: Certificate): Promise<TcpProxy> {
  return TcpProxy.open({ upstream: server.address, tls: { cert, key } });
}

async function closedDoors(server: Server): Promise<readonly ClosedDoor[]> {
  const port = await unusedPort();
  const unknownAuthority = await tlsProxy(server, makeCertificate('localhost'));
  const silent = createServer(() => {}).listen(0);
  const silentPort = (silent.address() as { port: number }).port;
  silent.unref();
  unknownAuthority.unref();
  const at = (where: number): Address => ({ host: 'localhost', port: where });
  const shown = `${server.address.host}:${server.address.port}`;
  const secret = 'correct-horse';
  return [
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
      target: server.url({ at: { host: 'nowhere.invalid', port: 6379 }, password: secret }),
      cause: /ENOTFOUND|EAI_AGAIN|not found|does not exist/i,
      names: 'nowhere.invalid',
      secret,
      final: false,
    },
    {
      what: 'a wrong password',
      target: server.url({ user: 'nobody', password: secret }),
      cause: /WRONGPASS|refused|password/i,
      names: shown,
      secret,
      final: true,
    },
    {
      what: 'a database that does not exist',
      target: server.url({ db: 4_711 }),
      cause: /4711|DB index/,
      names: shown,
      secret: undefined,
      final: true,
    },
    {
      what: 'TLS where the server speaks none',
      target: server.url({ scheme: 'rediss', password: secret }),
      cause: /TLS|SSL/i,
      names: shown,
      secret,
      final: false,
    },
    {
      what: 'a certificate of an unknown authority',
      target: server.url({ scheme: 'rediss', at: unknownAuthority.address, password: secret }),
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
}

async function openDoors(server: Server): Promise<readonly OpenDoor[]> {
  const certificate = makeCertificate('localhost');
  const folder = await mkdtemp(join(tmpdir(), 'waybill-'));
  const caFile = join(folder, 'ca.pem');
  const keyFile = join(folder, 'key.pem');
  await writeFile(caFile, certificate.cert);
  await writeFile(keyFile, certificate.key);
  const { cert, key } = certificate;
  const [tls, mutual, named] = await Promise.all([
    tlsProxy(server, certificate),
    TcpProxy.open({
      upstream: server.address,
      tls: { cert, key, ca: cert, requestCert: true, rejectUnauthorized: true },
    }),
    TcpProxy.open({ upstream: server.address }),
  ]);
  const user = `user-${randomUUID()}`;
  const password = 'päss:w@rd/%';
  await server.client.acl('SETUSER', user, 'on', `>${password}`, '~*', '&*', '+@all');
  return [
    {
      what: 'TLS with an authority of its own',
      target: server.url({ scheme: 'rediss', at: tls.address, params: { caFile } }),
      close: () => tls.close(),
    },
    {
      what: 'TLS with a certificate on either side',
      target: server.url({ scheme: 'rediss', at: mutual.address, params: { caFile, certFile: caFile, keyFile } }),
      close: () => mutual.close(),
    },
    {
      what: 'a user and a password that a URL has to escape',
      target: server.url({ at: named.address, user, password }),
      verify: async () => {
        if (!named.heard.some((bytes) => bytes.includes(user))) throw new Error(`nobody came as ${user}`);
      },
      close: async () => {
        await named.close();
        await server.client.acl('DELUSER', user);
        await rm(folder, { recursive: true });
      },
    },
    {
      what: 'another database',
      target: server.url({ db: 1 }),
    },
  ];
}
