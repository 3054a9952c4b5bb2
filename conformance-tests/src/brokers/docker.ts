import { lastLines, run } from './run.ts';

/**
 * The few questions asked of the engine through its command line, which honours DOCKER_HOST and contexts. Containers
 * are started in `start.ts`.
 */

/** The engine's version, or `undefined` when none answers. */
export async function engineVersion(): Promise<string | undefined> {
  try {
    return (await run('docker', ['version', '--format', '{{.Server.Version}}'])).trim();
  } catch {
    return undefined;
  }
}

export async function imageExists(name: string): Promise<boolean> {
  return (await imageLabel(name, '')) !== undefined;
}

/** A label of a local image, empty when it has none of this name; `undefined` without such an image. */
export async function imageLabel(image: string, name: string): Promise<string | undefined> {
  try {
    const format = `{{index .Config.Labels "${name}"}}`;
    return (await run('docker', ['image', 'inspect', '--format', format, image])).trim();
  } catch {
    return undefined;
  }
}

export async function pullImage(name: string): Promise<void> {
  await run('docker', ['pull', '--quiet', name]);
}

/** What a container of ours says about itself, in labels. */
export const label = {
  /** The broker and its version: `rabbitmq@4.0`. */
  broker: 'waybill.broker',
  url: 'waybill.url',
  /** The base URL of the management API, where there is one. */
  management: 'waybill.management',
  /** The process that will stop it, by `owner.ts`. */
  owner: 'waybill.owner',
} as const;

export interface Container {
  readonly name: string;
  readonly image: string;
  readonly running: boolean;
  /** In words, as the engine puts it: `Up 2 hours`. */
  readonly status: string;
  readonly ports: string;
  readonly broker: string;
  readonly url: string;
  readonly management: string | undefined;
  readonly owner: string | undefined;
}

/** All containers of ours, stopped ones too. */
export async function ourContainers(): Promise<readonly Container[]> {
  const labels = [label.broker, label.url, label.management, label.owner].map((name) => `{{.Label "${name}"}}`);
  const columns = ['{{.Names}}', '{{.Image}}', '{{.State}}', '{{.Status}}', '{{.Ports}}', ...labels];
  const filter = `label=${label.broker}`;
  const rows = await run('docker', ['ps', '--all', '--filter', filter, '--format', columns.join('\t')]);
  return rows.split('\n').filter(Boolean).map(readContainer);
}

function readContainer(row: string): Container {
  const [name = '', image = '', state = '', status = '', ports = '', ...labels] = row.split('\t');
  const [broker = '', url = '', management = '', owner = ''] = labels;
  return {
    name,
    image,
    running: state === 'running',
    status,
    ports,
    broker,
    url,
    management: management || undefined,
    owner: owner || undefined,
  };
}

/** The name of the running container that publishes a host port, if one does. */
export async function containerOnPort(port: number): Promise<string | undefined> {
  const names = await run('docker', ['ps', '--filter', `publish=${port}`, '--format', '{{.Names}}']);
  return names.trim().split('\n')[0] || undefined;
}

export async function startContainer(name: string): Promise<void> {
  await run('docker', ['start', name]);
}

/** The last lines of what a container printed, on either output. */
export async function endOfLog(container: string): Promise<string> {
  return lastLines(await run('sh', ['-c', 'docker logs --tail 15 "$1" 2>&1', 'sh', container]));
}

/** Removes containers in whatever state they are, with their data. */
export async function removeContainers(names: readonly string[]): Promise<void> {
  if (names.length > 0) await run('docker', ['rm', '--force', '--volumes', ...names]);
}
