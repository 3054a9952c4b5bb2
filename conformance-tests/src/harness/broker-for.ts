import { parseBrokerUrl } from '@waybill/core/adapter';
import { engineVersion } from '../brokers/docker.ts';
import type { BrokerName } from '../brokers/images.ts';
import { brokerKinds } from '../brokers/kinds.ts';
import { type Address, untilAnswers } from '../brokers/probe.ts';
import { run } from '../brokers/run.ts';
import { type RunningBroker, type StartOptions, startForTest } from '../brokers/start.ts';

/** What a harness uses of a running broker. */
export type GivenBroker = Pick<
  RunningBroker,
  'url' | 'management' | 'stop' | 'restart' | 'kill' | 'pause' | 'unpause' | 'exec'
>;

/** Of a container that is started; a broker by URL is taken as it is. */
export type BrokerOptions = Omit<StartOptions, 'version'>;

/**
 * The broker that `WAYBILL_<NAME>_URL` names, else one in a container of its own. One by URL can be stopped only when
 * `WAYBILL_<NAME>_CONTAINER` names its container.
 *
 * @throws Error when there is no URL and no container engine
 */
export async function brokerFor(name: BrokerName, options: BrokerOptions = {}): Promise<GivenBroker> {
  const prefix = `WAYBILL_${name.toUpperCase()}`;
  const url = process.env[`${prefix}_URL`];
  if (url) {
    return byUrl(name, {
      url,
      management: process.env[`${prefix}_MANAGEMENT_URL`] || undefined,
      container: process.env[`${prefix}_CONTAINER`] || undefined,
      setting: `${prefix}_CONTAINER`,
    });
  }
  if ((await engineVersion()) === undefined) {
    throw new Error(
      `there is no broker to test ${name} on: no container engine answers and ${prefix}_URL is not set; run \`npm run brokers -- up\`, or name a broker by its URL`,
    );
  }
  return startForTest(name, options);
}

interface Named {
  readonly url: string;
  readonly management: string | undefined;
  readonly container: string | undefined;
  readonly setting: string;
}

function byUrl(name: BrokerName, { url, management, container, setting }: Named): GivenBroker {
  const { probe } = brokerKinds[name];
  const address = addressIn(url, brokerKinds[name].defaultPort);
  const named = (): string => {
    if (container !== undefined) return container;
    throw new Error(
      `the broker at ${address.host}:${address.port} cannot be stopped: name its container in ${setting}`,
    );
  };
  return {
    url,
    management,
    stop: async () => {},
    kill: async () => void (await run('docker', ['kill', named()])),
    restart: async () => {
      await run('docker', ['restart', '--time', '10', named()]);
      await untilAnswers(() => probe(address), 90_000);
    },
    pause: async () => void (await run('docker', ['pause', named()])),
    unpause: async () => void (await run('docker', ['unpause', named()])),
    exec: async (command) => {
      const output = await run('docker', ['exec', named(), ...command]);
      return { output, stdout: output, stderr: '', exitCode: 0 };
    },
  };
}

/** Brokers of a cloud are named by region or project, and their emulators by `endpoint`. */
function addressIn(url: string, defaultPort: number): Address {
  const { hosts, params } = parseBrokerUrl(url);
  const endpoint = params.get('endpoint');
  const [, host = 'localhost', port] =
    endpoint === undefined ? [] : (/^(?:https?:\/\/)?([^:/]+):(\d+)/.exec(endpoint) ?? []);
  if (port !== undefined) return { host, port: Number(port) };
  return { host: hosts[0]?.host ?? 'localhost', port: hosts[0]?.port ?? defaultPort };
}
