import { randomUUID } from 'node:crypto';
import { type ExecResult, GenericContainer, getContainerRuntimeClient, type WaitStrategy } from 'testcontainers';
import { endOfLog, label } from './docker.ts';
import { type BrokerImage, type BrokerName, brokerImage, resolveImage } from './images.ts';
import { brokerKinds } from './kinds.ts';
import { thisProcess } from './owner.ts';
import { freePort } from './ports.ts';
import { type Address, type Probe, untilAnswers } from './probe.ts';
import { messageOf } from './run.ts';

const START_ATTEMPTS = 5;
const READY_WITHIN_MS = 90_000;
const STOP_WITHIN_MS = 10_000;
const OPEN_FILES = 10_000;

export interface StartOptions {
  /** Such as `'3.10'`; by default that of `WAYBILL_RABBITMQ_VERSION` (`…KAFKA…`), or the first in the table of images. */
  readonly version?: string;
  /** The host port; by default a free one. It stays the same over restarts either way. */
  readonly port?: number;
  /** Further ports of the container, published under the same numbers. */
  readonly ports?: readonly number[];
  /** In place of the command by which the broker is usually started. */
  readonly command?: readonly string[];
  /** More environment for the container, such as `{ KAFKA_AUTO_CREATE_TOPICS_ENABLE: 'false' }`. */
  readonly environment?: Readonly<Record<string, string>>;
}

/** A broker in a container of its own. Whoever starts it stops it. */
export interface RunningBroker extends Address, AsyncDisposable {
  readonly url: string;
  /** The base URL of RabbitMQ's management API. */
  readonly management: string | undefined;
  readonly image: string;
  readonly containerName: string;
  /** Removes the container and its data, in whatever state it is. Doing it again does nothing. */
  stop(): Promise<void>;
  /** Ends the broker in good order, unless it was killed, and resolves when it answers again; port and data stay. */
  restart(): Promise<void>;
  /** Ends the broker at once (SIGKILL). `restart()` brings it back. */
  kill(): Promise<void>;
  /** Freezes the broker: its connections stay open and nothing answers. */
  pause(): Promise<void>;
  unpause(): Promise<void>;
  exec(command: readonly string[]): Promise<ExecResult>;
}

/** Starts a broker for a test; its address holds a port that nobody else uses. */
export async function startForTest(broker: BrokerName, options: StartOptions = {}): Promise<RunningBroker> {
  const image = brokerImage(broker, options.version);
  for (let attempt = 1; ; attempt++) {
    try {
      return await startBroker(image, {
        name: `waybill-test-${broker}-${randomUUID().slice(0, 8)}`,
        port: options.port ?? (await freePort()),
        ports: options.ports ?? [],
        environment: options.environment ?? {},
        ...(options.command && { command: options.command }),
        owner: thisProcess(),
      });
    } catch (error) {
      // Another process can take a free port before the container has it.
      if (!isPortTaken(error) || options.port !== undefined || attempt === START_ATTEMPTS) throw error;
    }
  }
}

function isPortTaken(error: unknown): boolean {
  return /port is already allocated|address already in use/.test(String(error));
}

export interface Placement {
  readonly name: string;
  /** By default the name under which testcontainers reaches the engine, which is not always this machine. */
  readonly host?: string;
  readonly port: number;
  /** By default a free one. */
  readonly managementPort?: number | undefined;
  readonly ports?: readonly number[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly command?: readonly string[];
  /** The process that will stop it; without one the container stays until it is removed by name. */
  readonly owner?: string;
}

/** Starts a container, and resolves when the broker in it answers. */
export async function startBroker(image: BrokerImage, placement: Placement): Promise<RunningBroker> {
  const kind = brokerKinds[image.broker];
  const { container: engine, info } = await getContainerRuntimeClient();
  const address = { host: placement.host ?? info.containerRuntime.host, port: placement.port };
  const resolved = await resolveImage(image);
  const { managementPort = await freePort() } = placement;
  const more = (placement.ports ?? []).map((port) => ({ host: port, container: port }));
  const ports = [{ host: placement.port, container: kind.containerPort(placement.port) }, ...more];
  if (kind.management !== undefined) ports.push({ host: managementPort, container: kind.management.port });

  const url = kind.url(address);
  const management = kind.management && `http://${address.host}:${managementPort}`;
  const container = engine.dockerode.getContainer(placement.name);
  const remove = async (): Promise<void> => {
    await container.remove({ force: true, v: true }).catch(unlessMissing);
  };
  const started = await new GenericContainer(resolved)
    .withName(placement.name)
    // RabbitMQ names its data after its host.
    .withHostname(image.broker)
    .withLabels({
      [label.broker]: `${image.broker}@${image.version}`,
      [label.url]: url,
      [label.management]: management ?? '',
      [label.owner]: placement.owner ?? '',
    })
    .withEnvironment({ ...kind.environment(address), ...placement.environment })
    .withExposedPorts(...ports)
    .withCommand([...(placement.command ?? kind.command ?? [])])
    // Some engines allow a thousand million open files, and Erlang makes room for all of them.
    .withUlimits({ nofile: { soft: OPEN_FILES, hard: OPEN_FILES } })
    .withWaitStrategy(new UntilAnswers(kind.probe, address))
    // The reaper has an image too, and a machine that had to build the broker's cannot pull that one either.
    .withAutoCleanup(placement.owner !== undefined && resolved !== image.local)
    .start()
    .catch(async (error: unknown) => {
      await remove();
      throw new Error(`${placement.name} (${resolved}) did not start: ${messageOf(error)}`, { cause: error });
    });

  return {
    ...address,
    url,
    management,
    image: resolved,
    containerName: placement.name,
    stop: remove,
    restart: () => started.restart({ timeout: STOP_WITHIN_MS }),
    kill: async () => void (await container.kill({ signal: 'SIGKILL' })),
    pause: async () => void (await container.pause()),
    unpause: async () => void (await container.unpause()),
    exec: (command) => started.exec([...command]),
    [Symbol.asyncDispose]: remove,
  };
}

function unlessMissing(error: { readonly statusCode?: number }): void {
  if (error.statusCode !== 404) throw error;
}

type StartedContainer = Parameters<WaitStrategy['waitUntilReady']>[0];

/** Has testcontainers wait, at every start and restart, until the broker answers a probe from out here. */
class UntilAnswers implements WaitStrategy {
  readonly #probe: Probe;
  readonly #address: Address;
  #timeoutMs: number | undefined;

  constructor(probe: Probe, address: Address) {
    this.#probe = probe;
    this.#address = address;
  }

  async waitUntilReady(container: StartedContainer): Promise<void> {
    const stopped = async (): Promise<string | undefined> => {
      const { State: state } = await container.inspect();
      return state.Running ? undefined : `the container stopped with exit code ${state.ExitCode}`;
    };
    try {
      await untilAnswers(() => this.#probe(this.#address), this.getStartupTimeout(), stopped);
    } catch (error) {
      throw new Error(`${messageOf(error)}; the end of its log:\n${await endOfLog(container.id)}`, { cause: error });
    }
  }

  withStartupTimeout(timeoutMs: number): this {
    this.#timeoutMs = timeoutMs;
    return this;
  }

  isStartupTimeoutSet(): boolean {
    return this.#timeoutMs !== undefined;
  }

  getStartupTimeout(): number {
    return this.#timeoutMs ?? READY_WITHIN_MS;
  }
}
