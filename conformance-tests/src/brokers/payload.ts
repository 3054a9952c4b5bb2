import { cpSync, existsSync, readdirSync, realpathSync } from 'node:fs';
import { basename, delimiter, dirname, join } from 'node:path';
import type { Installer } from './engine.ts';
import type { Payload } from './images.ts';
import { run, SetupError, type Step } from './run.ts';

/**
 * Puts into an empty folder what an image needs beside Debian's packages. It is done on the host, because a build has
 * neither the host's settings of Maven and npm nor its certificates.
 * @throws SetupError that says what is missing and what to do
 */
export async function fetchPayload(
  payload: Payload,
  recipe: string,
  target: string,
  installing: Installer,
  step: Step,
): Promise<void> {
  await fetchers[payload.from](payload.version, recipe, target, installing, step);
}

type Fetch = (version: string, recipe: string, target: string, installing: Installer, step: Step) => Promise<void>;

const fetchers: Readonly<Record<Payload['from'], Fetch>> = {
  maven: async (version, recipe, target, installing, step) => {
    const program = basename(recipe);
    await installing.need(['mvn'], `which fetches the jars of ${program} where its image cannot be pulled`);
    const settings = [`-D${program}.version=${version}`, `-DoutputDirectory=${target}`];
    const args = ['-q', '-B', '-f', join(recipe, 'pom.xml'), ...settings, 'dependency:copy-dependencies'];
    await step(`fetched the jars of ${program} ${version}`, () => run('mvn', args));
  },

  npm: async (version, _recipe, target, _installing, step) => {
    const args = ['install', '--prefix', target, '--no-audit', '--no-fund', '--ignore-scripts', `fauxqs@${version}`];
    await step(`fetched fauxqs ${version}`, () => run('npm', args));
    // Debian's own is too old for it; this one runs it, or nobody would have come this far.
    cpSync(process.execPath, join(target, 'node'));
  },

  'google-cloud-sdk': async (version, _recipe, target) => {
    const lib = join(cloudSdk(), 'platform', 'pubsub-emulator', 'lib');
    const jar = existsSync(lib) ? readdirSync(lib).find((name) => name.endsWith('-all.jar')) : undefined;
    if (!jar?.includes(`-${version}.`)) {
      throw new SetupError(
        `The Google Cloud SDK at ${dirname(dirname(dirname(lib)))} has ${jar ?? 'no Pub/Sub emulator'}, and ${version} is wanted: run \`gcloud components update pubsub-emulator\`, or name an image in WAYBILL_PUBSUB_IMAGE.`,
      );
    }
    cpSync(join(lib, jar), join(target, 'emulator.jar'));
  },
};

/** No package registry has the emulator; the SDK brings it along. */
function cloudSdk(): string {
  const { PATH: path = '' } = process.env;
  const gcloud = path
    .split(delimiter)
    .map((folder) => join(folder, 'gcloud'))
    .find((program) => existsSync(program));
  if (gcloud !== undefined) return dirname(dirname(realpathSync(gcloud)));
  throw new SetupError(
    'The Pub/Sub emulator comes with the Google Cloud SDK, and there is no gcloud on the PATH: install the SDK with its component pubsub-emulator, or name an image in WAYBILL_PUBSUB_IMAGE.',
  );
}
