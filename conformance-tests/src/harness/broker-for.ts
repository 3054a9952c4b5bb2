import { parseBrokerUrl } from '@waybill/core/adapter';
import { engineVersion } from '../brokers/docker.ts';
import { brokerKinds } from '../brokers/kinds.ts';
import { untilAnswers } from '../brokers/probe.ts';
import { run } from '../brokers/run.ts';
import { type RunningBroker, type StartOptions, startKafka, startRabbitmq } from '../brokers/start.ts';

/** What a harness uses of a running broker. */
export type GivenBroker = Pick<RunningBroker, 'url' | 'management' | 'stop' | 'restart' | 'kill' | 'exec'>;

const starters = { rabbitmq: startRabbitmq, kafka: startKafka } as const;

/** Of a container that is started; a broker by URL is taken as it is. */
export type BrokerOptions = Omit<StartOptions, 'version'>;

/**
 * The broker that `WAYBILL_<NAME>_URL` names, else one in a container of its own. One by URL can be stopped only when
 * `WAYBILL_<NAME>_CONTAINER` names its container.
 *
 * @throws Error when there is no URL and no container engine
 */
export async function brokerFor(name: keyof typeof starters, options: BrokerOptions = {}): Promise<GivenBroker> {
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
  return starters[name](options);
}

interface Named {
  readonly url: string;
  readonly management: string | undefined;
  readonly container: string | undefined;
  readonly setting: string;
}

function byUrl(name: keyof typeof starters, { url, management, container, setting }: Named): GivenBroker {
  const [first] = parseBrokerUrl(url).hosts;
  const { probe, defaultPort } = brokerKinds[name];
  const address = { host: first?.host ?? 'localhost', port: first?.port ?? defaultPort };
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
    exec: async (command) => {
      const output = await run('docker', ['exec', named(), ...command]);
      return { output, stdout: output, stderr: '', exitCode: 0 };
    },
  };
}
