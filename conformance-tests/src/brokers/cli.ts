import { parseArgs } from 'node:util';
import { imageBuilder } from './build.ts';
import { type Container, engineVersion, imageExists, ourContainers, removeContainers } from './docker.ts';
import { ensureEngine, installer } from './engine.ts';
import { type BrokerImage, brokerImages, isDefaultVersion, resolveImage, selectImages } from './images.ts';
import { brokerKinds } from './kinds.ts';
import { bringUp, containerName } from './named.ts';
import { isGone } from './owner.ts';
import { CommandError, messageOf, reportStep, SetupError } from './run.ts';

const USAGE = `Usage: npm run brokers -- up|down|status [options]

  up              starts the brokers and prints their URLs; quick when they run already
  down            removes them with their data, and what killed test runs left behind
  status          shows engine, images and containers; fails when no engine answers

  --only LIST     some brokers only, or in another version, or databases: rabbitmq,kafka@4.1,postgres,mariadb
  --images-only   up: sees to engine and images, starts nothing
  --install       up: may install the engine from Debian's packages (as root; CI in the environment implies it)
  --json          prints the results as JSON

Images are the official ones, unless settings name others; where they cannot be pulled they are built from Debian's
packages. Ports are the usual ones, unless settings move them:
${settings()}`;

function settings(): string {
  return brokerImages
    .map((image) => {
      const { portSetting, management } = brokerKinds[image.broker];
      const ports = isDefaultVersion(image) ? [portSetting, ...(management ? [management.portSetting] : [])] : [];
      return `  ${`${image.broker}@${image.version}`.padEnd(14)}${[image.setting, ...ports].join(', ')}`;
    })
    .join('\n');
}

class UsageError extends Error {
  override readonly name = 'UsageError';
}

interface Options {
  /** What `--only` names. */
  readonly only: string | undefined;
  readonly imagesOnly: boolean;
  readonly install: boolean;
  readonly json: boolean;
}

async function up(options: Options): Promise<void> {
  const wanted = selectImages(options.only, options.imagesOnly);
  const installing = installer(options.install, reportStep);
  const engine = await ensureEngine(installing, reportStep);
  const builder = imageBuilder(installing, reportStep);
  const ready = await all(wanted.map(async (image) => ({ image, resolved: await builder.ensure(image) })));
  const containers = await ourContainers();
  await removeContainers(names(containers.filter(isOrphan)));
  if (options.imagesOnly) {
    const images = ready.map(({ image, resolved }) => ({ ...versionOf(image), image: resolved }));
    return show(options, { engine, images }, () => images.map((row) => columns(row.broker, row.version, row.image)));
  }
  const brokers = await all(ready.map(({ image, resolved }) => bringUp(image, resolved, containers, reportStep)));
  show(options, { engine, brokers }, () =>
    brokers.map(({ broker, version, url, management }) =>
      columns(
        broker,
        version,
        `${isDatabase(broker) ? 'DATABASE' : 'BROKER'}_URL=${url}`,
        management && `management ${management}`,
      ),
    ),
  );
}

async function down(options: Options): Promise<void> {
  const containers = (await engineVersion()) === undefined ? [] : await ourContainers();
  const wanted = options.only === undefined ? brokerImages : selectImages(options.only);
  const named = new Set(wanted.map(containerName));
  const removed = names(containers.filter((container) => named.has(container.name) || isOrphan(container)));
  await removeContainers(removed);
  show(options, { removed }, () =>
    removed.length === 0 ? ['nothing to remove'] : removed.map((name) => `removed ${name}`),
  );
}

async function status(options: Options): Promise<void> {
  const engine = await engineVersion();
  if (engine === undefined) {
    process.exitCode = 1;
    return show(options, { engine: null }, () => [
      'no container engine answers; `npm run brokers -- up` says what to do',
    ]);
  }
  const wanted = options.only === undefined ? brokerImages : selectImages(options.only);
  const images = await all(
    wanted.map(async (image) => {
      const resolved = await resolveImage(image);
      return { ...versionOf(image), image: resolved, present: await imageExists(resolved) };
    }),
  );
  const containers = await ourContainers();
  show(options, { engine, images, containers }, () => [
    `engine ${engine}`,
    ...images.map((row) =>
      columns('image', row.broker, row.version, row.image, row.present ? '' : 'not on this machine'),
    ),
    ...containers.map((row) => columns('container', row.name, row.broker, row.status, row.url, row.ports)),
  ]);
}

const commands: Readonly<Record<string, (options: Options) => Promise<void>>> = { up, down, status };

function isDatabase(name: string): boolean {
  return brokerImages.some(({ broker, database }) => broker === name && database);
}

/** A test's container whose test run is gone. */
function isOrphan({ owner }: Container): boolean {
  return owner !== undefined && isGone(owner);
}

function names(containers: readonly Container[]): readonly string[] {
  return containers.map(({ name }) => name);
}

function versionOf({ broker, version }: BrokerImage): { readonly broker: string; readonly version: string } {
  return { broker, version };
}

/** Like `Promise.all`, but a failure is told only when the other work has ended, so that nothing is left half done. */
async function all<T>(work: readonly Promise<T>[]): Promise<readonly T[]> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

function columns(...cells: readonly (string | undefined)[]): string {
  return cells.filter(Boolean).join('  ');
}

function show(options: Options, results: object, lines: () => readonly string[]): void {
  console.log(options.json ? JSON.stringify(results, null, 2) : lines().join('\n'));
}

async function main(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments(args);
  if (values.help) return console.log(USAGE);
  const command = commands[positionals[0] ?? ''];
  if (command === undefined || positionals.length !== 1) throw new UsageError('Say one of up, down and status.');
  await command({
    only: values.only,
    imagesOnly: values['images-only'],
    install: values.install,
    json: values.json,
  });
}

function readArguments(args: readonly string[]) {
  const flag = { type: 'boolean', default: false } as const;
  const options = { only: { type: 'string' }, 'images-only': flag, install: flag, json: flag, help: flag } as const;
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (error) {
    throw new UsageError(messageOf(error));
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof UsageError) console.error(`${error.message}\n\n${USAGE}`);
  else if (error instanceof SetupError || error instanceof CommandError) console.error(error.message);
  else console.error(error);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
