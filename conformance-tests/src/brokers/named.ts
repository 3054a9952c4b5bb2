import { type Container, containerOnPort, startContainer } from './docker.ts';
import { type BrokerImage, isDefaultVersion } from './images.ts';
import { brokerKinds } from './kinds.ts';
import { isFree } from './ports.ts';
import { untilAnswers } from './probe.ts';
import { SetupError, type Step } from './run.ts';

/** A broker for a person: in a container with a known name, on the port that everybody expects. */
export interface NamedBroker {
  readonly broker: string;
  readonly version: string;
  readonly image: string;
  readonly container: string;
  readonly url: string;
  readonly management: string | undefined;
}

const HOST = 'localhost';
const ANSWERS_WITHIN_MS = 90_000;

export function containerName(image: BrokerImage): string {
  return isDefaultVersion(image) ? `waybill-${image.broker}` : `waybill-${image.broker}-${image.version}`;
}

/**
 * Sees to it that the broker runs in its named container and answers.
 * @throws SetupError when a container of that name is a different one, or the port is taken
 */
export async function bringUp(
  image: BrokerImage,
  resolved: string,
  containers: readonly Container[],
  step: Step,
): Promise<NamedBroker> {
  const name = containerName(image);
  const { port, managementPort, url, management } = placement(image);
  const existing = containers.find((container) => container.name === name);
  if (existing === undefined) {
    await requireFree(managementPort === undefined ? [port] : [port, managementPort], name);
    // Loaded here because it takes longer than all the rest of an `up` that finds the brokers running.
    const { startBroker } = await import('./start.ts');
    await step(`started ${name}`, () => startBroker(image, { name, host: HOST, port, managementPort }));
  } else {
    requireSame(existing, resolved, url);
    await wake(existing, image, port, step);
  }
  return { broker: image.broker, version: image.version, image: resolved, container: name, url, management };
}

function placement(image: BrokerImage) {
  const kind = brokerKinds[image.broker];
  const port = portFrom(kind.portSetting, kind.defaultPort);
  const managementPort = kind.management && portFrom(kind.management.portSetting, kind.management.port);
  return {
    port,
    managementPort,
    url: kind.url({ host: HOST, port }),
    management: managementPort === undefined ? undefined : `http://${HOST}:${managementPort}`,
  };
}

function portFrom(setting: string, usual: number): number {
  const value = process.env[setting] || String(usual);
  const port = Number(value);
  if (Number.isInteger(port) && port > 0 && port < 65_535) return port;
  throw new SetupError(`${setting}=${value} is not a port.`);
}

async function wake(existing: Container, image: BrokerImage, port: number, step: Step): Promise<void> {
  const answers = (): Promise<void> =>
    untilAnswers(() => brokerKinds[image.broker].probe({ host: HOST, port }), ANSWERS_WITHIN_MS);
  if (existing.running) return answers();
  await step(`started ${existing.name} again`, () => startContainer(existing.name).then(answers));
}

function requireSame(existing: Container, resolved: string, url: string): void {
  if (existing.image === resolved && existing.url === url) return;
  throw new SetupError(
    `${existing.name} is ${existing.image} at ${existing.url}, but ${resolved} at ${url} is wanted: run \`npm run brokers -- down\` first.`,
  );
}

async function requireFree(ports: readonly number[], name: string): Promise<void> {
  for (const port of ports) {
    if (await isFree(port)) continue;
    const holder = await containerOnPort(port);
    const who = holder === undefined ? 'something else' : `the container ${holder}`;
    throw new SetupError(`${name} needs port ${port}, which ${who} has: stop that, or set another port (see --help).`);
  }
}
