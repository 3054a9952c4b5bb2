import { getContainerRuntimeClient } from 'testcontainers';
import { freePort } from '../brokers/ports.ts';
import { eventually } from '../eventually.ts';
import type { NetworkLink } from '../harness.ts';
import { brokerFor, type GivenBroker } from './broker-for.ts';
import { type Address, TcpProxy } from './proxy.ts';

const NODES = 3;
const READY_WITHIN = 60_000;

/**
 * The cluster of a URL, which cannot be stopped, or for `1` three nodes in a container: servers of their own beside the
 * one that the container is for.
 */
export async function clusterFor(given: string): Promise<GivenBroker> {
  if (given !== '1') {
    const never = (): never => {
      throw new Error('a cluster by URL cannot be stopped');
    };
    const stays = { url: given, management: undefined, stop: async () => {}, exec: never };
    return { ...stays, restart: never, kill: never, pause: never, unpause: never };
  }
  const { info } = await getContainerRuntimeClient();
  const { host } = info.containerRuntime;
  const nodes: { port: number; bus: number }[] = [];
  for (let i = 0; i < NODES; i++) nodes.push({ port: await freePort(), bus: await freePort() });
  const running = await brokerFor('redis', { ports: nodes.flatMap(({ port, bus }) => [port, bus]) });
  const startNodes = async (): Promise<void> => {
    for (const { port, bus } of nodes) await running.exec(nodeCommand(host, port, bus));
    const ask = ['redis-cli', '-p', String(nodes[0]?.port), 'cluster', 'info'];
    await eventually('the cluster to be complete', async () => (await running.exec(ask)).output, {
      until: (output) => output.includes('cluster_state:ok'),
      within: READY_WITHIN,
    });
  };
  for (const { port, bus } of nodes) await running.exec(nodeCommand(host, port, bus));
  const addresses = nodes.map(({ port }) => `${host}:${port}`);
  const made = await running.exec(['redis-cli', '--cluster', 'create', ...addresses, '--cluster-yes']);
  if (made.exitCode !== 0) throw new Error(`the cluster could not be made: ${made.output}`);
  await startNodes();
  return {
    ...running,
    url: `redis://${addresses.join(',')}`,
    restart: async () => {
      await running.restart();
      await startNodes();
    },
  };
}

/** A node that runs already makes this one end at once, because its port is taken. */
function nodeCommand(host: string, port: number, bus: number): string[] {
  const options = {
    port,
    dir: '/tmp',
    'cluster-enabled': 'yes',
    'cluster-port': bus,
    'cluster-config-file': `nodes-${port}.conf`,
    'cluster-node-timeout': 2_000,
    'cluster-announce-ip': host,
    appendonly: 'yes',
    appendfsync: 'always',
    appenddirname: `aof-${port}`,
    dbfilename: `dump-${port}.rdb`,
    'protected-mode': 'no',
    daemonize: 'yes',
    pidfile: `/tmp/node-${port}.pid`,
  };
  return ['redis-server', ...Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])];
}

/** A proxy for each node, and replies that name the proxies: clients ask a cluster where its nodes are. */
export async function openClusterLink(nodes: readonly Address[], urlOf: (at: Address) => string): Promise<NetworkLink> {
  // Filled before the first client can be.
  const ports = new Map<number, number>();
  const rewriteReplies = () => (chunk: Buffer) => rename(chunk, ports);
  const proxies = await Promise.all(nodes.map((upstream) => TcpProxy.open({ upstream, rewriteReplies })));
  for (const [at, { port }] of nodes.entries()) ports.set(port, proxies[at]?.address.port ?? port);
  const each = (act: (proxy: TcpProxy) => void): void => {
    for (const proxy of proxies) act(proxy);
  };
  const [first] = proxies;
  const url = urlOf(first?.address ?? { host: 'localhost', port: 0 });
  return {
    target: url,
    url,
    cut: async (mode) => each((proxy) => proxy.cut(mode)),
    mend: async () => each((proxy) => proxy.mend()),
    loseReplies: async () => each((proxy) => proxy.loseReplies()),
    close: async () => void (await Promise.all(proxies.map((proxy) => proxy.close()))),
  };
}

/** Ports stand as numbers of their own in CLUSTER SLOTS, and at the end of the line in MOVED. */
function rename(chunk: Buffer, ports: ReadonlyMap<number, number>): Buffer {
  const text = chunk.toString('latin1');
  let renamed = text;
  for (const [from, to] of ports) renamed = renamed.replaceAll(`:${from}\r\n`, `:${to}\r\n`);
  return renamed === text ? chunk : Buffer.from(renamed, 'latin1');
}
