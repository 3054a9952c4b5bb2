import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createSecureServer, type ServerHttp2Session } from 'node:http2';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { type Message, PubSub, type Subscription } from '@google-cloud/pubsub';
import { parseBrokerUrl } from '@waybill/core/adapter';
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
import { makeCertificate } from './certificate.ts';
import { type Address, linkThrough, TcpProxy } from './proxy.ts';
import { unusedPort } from './unused-port.ts';

/** The shortest deadline that a Pub/Sub subscription can have. */
const LEASE = 10_000;

/** Milliseconds that a broker which is restarted is away at least. */
const RESTART = 1_000;

/** Google's emulator, from `WAYBILL_PUBSUB_URL` (and `…_CONTAINER`), or in a container of its own. */
export function pubsubUnderTest(): AdapterUnderTest {
  return {
    name: 'pubsub',
    lease: LEASE,
    start: async () => {
      const running = await brokerFor('pubsub');
      const server = serverOf(running.url);
      /*
       * The emulator keeps everything in memory and has no way to keep it elsewhere, so ending it would end its data,
       * which the service never does. What clients see of a broker that goes down is brought about instead: this proxy
       * resets their connections and takes no new ones, and behind it the emulator is frozen, so that it does nothing.
       */
      const front = await TcpProxy.open({ upstream: server.address });
      const stop = async (): Promise<void> => {
        front.cut('reset');
        await running.pause();
      };
      const start = async (): Promise<void> => {
        await running.unpause();
        front.mend();
      };
      return {
        url: server.url({ at: front.address }),
        inProcess: false,
        openLink: async () => {
          const proxy = await TcpProxy.open({ upstream: server.address });
          return linkThrough(proxy, server.url({ at: proxy.address }));
        },
        stop,
        start,
        restart: async () => {
          await stop();
          await wait(RESTART);
          await start();
        },
        foreign: new Foreign(server, server.url({ at: front.address })),
        doors: doors(server),
        dispose: async () => {
          await front.close();
          await server.client.close();
          await running.stop();
        },
      } satisfies BrokerUnderTest;
    },
  };
}

interface UrlParts {
  readonly at?: Address;
  readonly params?: Readonly<Record<string, string>>;
}

interface Server {
  readonly address: Address;
  readonly client: PubSub;
  url(parts?: UrlParts): string;
}

function serverOf(running: string): Server {
  const { hosts, params } = parseBrokerUrl(running);
  const project = hosts[0]?.host ?? 'waybill';
  const [host = 'localhost', port = '8085'] = (params.get('endpoint') ?? '').split(':');
  const address = { host, port: Number(port) };
  return {
    address,
    // The universe is named, else the client looks for Google's metadata server to ask it.
    client: new PubSub({
      projectId: project,
      apiEndpoint: `${host}:${port}`,
      emulatorMode: true,
      clientOptions: { universeDomain: 'googleapis.com' },
    }),
    url: ({ at = address, params: more = {} } = {}) =>
      `pubsub://${project}?${new URLSearchParams({ endpoint: `${at.host}:${at.port}`, ...more })}`,
  };
}

const kinds = { group: 'group', 'dead-letters': 'dead' } as const;
/** Of our own making, beside the topic itself. */
const ownName = (kind: 'group' | 'dead' | 'retry', { topic, group, prefix = '' }: Place): string =>
  `${prefix}waybill.v1.${kind}_x_${topic}_x_${group}`;

class Foreign implements ForeignClient {
  readonly keys = true;
  /** Nothing makes the emulator forget what its retention has not ended, which takes ten minutes at least. */
  readonly trim = undefined;
  /** The service's limit; the emulator has none. */
  readonly maxBodyBytes = 9_990_000;
  readonly #client: PubSub;
  readonly #url: string;

  constructor(server: Server, url: string) {
    this.#client = server.client;
    this.#url = url;
  }

  async publish(topic: string, { body, key, contentType, headers }: ForeignMessage): Promise<void> {
    await this.#client
      .topic(topic, { batching: { maxMessages: 1 }, messageOrdering: key !== undefined })
      .publishMessage({
        data: Buffer.from(body),
        attributes: {
          ...headers,
          ...(contentType === undefined ? {} : { 'content-type': contentType }),
          // Pub/Sub takes no message without anything.
          ...(body.byteLength === 0 ? { empty: 'true' } : {}),
        },
        ...(key === undefined ? {} : { orderingKey: key }),
      });
  }

  async read(topic: string): ReturnType<ForeignClient['read']> {
    const [subscription] = await this.#client.topic(topic).createSubscription(`reader.${randomUUID()}`);
    const copies: ForeignCopy[] = [];
    subscription.on('message', (message) => {
      copies.push(copyOf(message));
      message.ack();
    });
    subscription.on('error', () => {});
    return {
      next: async (within) => {
        await eventually('a copy of a message', () => copies.length > 0, { within });
        return copies.shift() as ForeignCopy;
      },
      close: async () => {
        await subscription.close();
        await subscription.delete();
      },
    };
  }

  async remove(part: Parameters<ForeignClient['remove']>[0], place: Place): Promise<void> {
    if (part === 'topic') {
      await this.#client.topic(`${place.prefix ?? ''}${place.topic}`).delete();
      return;
    }
    const name = ownName(kinds[part], place);
    await this.#client.subscription(name).delete();
    if (part === 'dead-letters') await this.#client.topic(name).delete();
  }

  async exists(part: Parameters<ForeignClient['exists']>[0], place: Place): Promise<boolean> {
    const object =
      part === 'topic'
        ? this.#client.topic(`${place.prefix ?? ''}${place.topic}`)
        : this.#client.subscription(ownName(kinds[part], place));
    return (await object.exists())[0];
  }

  async namesWith(text: string): Promise<readonly string[]> {
    const [[topics], [subscriptions], [snapshots]] = await Promise.all([
      this.#client.getTopics(),
      this.#client.getSubscriptions(),
      this.#client.getSnapshots(),
    ]);
    const names = [...topics, ...subscriptions, ...snapshots].map(({ name }) => name);
    return names.map((name) => name.slice(name.lastIndexOf('/') + 1)).filter((name) => name.includes(text));
  }

  async makeOwn(): ReturnType<ForeignClient['makeOwn']> {
    const [topic, group] = ['topic', 'subscription'].map((kind) => `own.${kind}.${randomUUID()}`) as [string, string];
    await this.#client.createTopic(topic);
    // As an operator may have made it: with settings of its own.
    await this.#client.topic(topic).createSubscription(group, { ackDeadlineSeconds: 45, retainAckedMessages: true });
    return { target: this.#url, topic, group, publish: (message) => this.publish(topic, message) };
  }

  async retentionFaults(place: Place): Promise<readonly string[]> {
    const faults: string[] = [];
    for (const kind of ['group', 'retry', 'dead'] as const) {
      const subscription: Subscription = this.#client.subscription(ownName(kind, place));
      const [{ expirationPolicy, messageRetentionDuration }] = await subscription.getMetadata();
      if (expirationPolicy?.ttl) faults.push(`subscription ${subscription.name} expires`);
      // The most that the emulator takes; the service takes more.
      if (Number(messageRetentionDuration?.seconds) < 7 * 86_400) {
        faults.push(`subscription ${subscription.name} keeps messages for ${messageRetentionDuration?.seconds} s only`);
      }
    }
    return faults;
  }
}

function copyOf({ data, attributes, orderingKey }: Message): ForeignCopy {
  return { body: data, key: orderingKey || attributes['waybill-key'], headers: { ...attributes } };
}

function doors(server: Server): Doors {
  return {
    closed: async () => {
      const port = await unusedPort();
      const certificate = makeCertificate('localhost');
      const unknownAuthority = await TcpProxy.open({
        upstream: server.address,
        tls: { cert: certificate.cert, key: certificate.key, ALPNProtocols: ['h2'] },
      });
      const silent = createServer(() => {}).listen(0);
      const silentPort = (silent.address() as { port: number }).port;
      silent.unref();
      unknownAuthority.unref();
      const at = (where: number): Address => ({ host: 'localhost', port: where });
      const shown = `${server.address.host}:${server.address.port}`;
      const wrong: Omit<ClosedDoor, 'secret'>[] = [
        {
          what: 'a port where nobody listens',
          target: server.url({ at: at(port) }),
          cause: /ECONNREFUSED|refused/i,
          names: `localhost:${port}`,
          final: false,
        },
        {
          what: 'a host that does not exist',
          target: server.url({ at: { host: 'nowhere.invalid', port: 8085 } }),
          cause: /ENOTFOUND|EAI_AGAIN|resol|does not exist/i,
          names: 'nowhere.invalid',
          final: false,
        },
        {
          what: 'TLS where the broker speaks none',
          target: server.url({ params: { tls: 'true' } }),
          cause: /TLS|SSL/i,
          names: shown,
          final: false,
        },
        {
          what: 'a certificate of an unknown authority',
          target: server.url({ at: unknownAuthority.address, params: { tls: 'true' } }),
          cause: /certificate|self.signed/i,
          names: `localhost:${unknownAuthority.address.port}`,
          final: false,
        },
        {
          what: 'a key file that does not exist',
          target: server.url({ at: unknownAuthority.address, params: { tls: 'true', keyFile: '/no/such/key.json' } }),
          cause: /key\.json/,
          names: '/no/such/key.json',
          final: true,
        },
        {
          what: 'a host that accepts and says nothing',
          target: server.url({ at: at(silentPort) }),
          cause: /time|answer/i,
          names: `localhost:${silentPort}`,
          final: false,
        },
      ];
      return wrong.map((door) => ({ ...door, secret: undefined }));
    },
    open: () => openDoors(server),
    unknownParameter: server.url({ params: { nonsense: '1' } }),
  };
}

async function openDoors(server: Server): Promise<readonly OpenDoor[]> {
  const certificate = makeCertificate('localhost');
  const folder = await mkdtemp(join(tmpdir(), 'waybill-'));
  const caFile = join(folder, 'ca.pem');
  const keyFile = join(folder, 'key.json');
  await writeFile(caFile, certificate.cert);
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2_048 });
  const key = {
    type: 'service_account',
    project_id: 'waybill',
    private_key_id: randomUUID(),
    private_key: privateKey.export({ type: 'pkcs8', format: 'pem' }),
    client_email: 'tests@waybill.iam.gserviceaccount.com',
  };
  await writeFile(keyFile, JSON.stringify(key));
  const tls = { cert: certificate.cert, key: certificate.key, ALPNProtocols: ['h2'] };
  const plain = await TcpProxy.open({ upstream: server.address, tls });
  const guard = await openGuard(certificate);
  return [
    {
      what: 'TLS with an authority of its own',
      target: server.url({ at: plain.address, params: { tls: 'true', caFile } }),
      close: () => plain.close(),
    },
    {
      // The emulator takes anybody, so a server of our own looks at what comes with the calls.
      what: 'the key of a service account',
      target: server.url({ at: guard.address, params: { tls: 'true', caFile, keyFile } }),
      refused: true,
      verify: async () => {
        const [, claims = ''] = (guard.shown() ?? '').split('.');
        const { iss } = JSON.parse(Buffer.from(claims, 'base64url').toString() || '{}');
        if (iss !== key.client_email) throw new Error(`the key was not used; the server was shown ${guard.shown()}`);
      },
      close: async () => {
        guard.close();
        await rm(folder, { recursive: true });
      },
    },
  ];
}

interface Guard {
  readonly address: Address;
  /** The authorization of the last call. */
  readonly shown: () => string | undefined;
  readonly close: () => void;
}

/** A server of gRPC over TLS that refuses every call. */
async function openGuard({ cert, key }: Pick<ReturnType<typeof makeCertificate>, 'cert' | 'key'>): Promise<Guard> {
  let shown: string | undefined;
  const sessions = new Set<ServerHttp2Session>();
  const guard = createSecureServer({ cert, key });
  guard.on('session', (session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
  });
  guard.on('stream', (stream, headers) => {
    shown = headers.authorization;
    const unauthenticated = { 'grpc-status': '16', 'grpc-message': 'refused' };
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', ...unauthenticated }, { endStream: true });
  });
  await new Promise<void>((resolve) => guard.listen(0, resolve));
  return {
    address: { host: 'localhost', port: (guard.address() as { port: number }).port },
    shown: () => shown,
    close: () => {
      guard.close();
      for (const session of sessions) session.destroy();
    },
  };
}
