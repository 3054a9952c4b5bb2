import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { imageExists, imageLabel, pullImage } from './docker.ts';
import type { Installer } from './engine.ts';
import { type BrokerImage, type BuildRecipe, chosenImage } from './images.ts';
import { fetchPayload } from './payload.ts';
import { messageOf, run, SetupError, type Step } from './run.ts';

const IMAGES = fileURLToPath(new URL('../../images/', import.meta.url));
/** Ignored by git: programs of others do not belong into a repository. */
const CACHE = fileURLToPath(new URL('../../../.cache/images/', import.meta.url));
/** On images built here: what they were built from, so that a changed Dockerfile is built again. */
const SOURCE_LABEL = 'waybill.source';

export interface Builder {
  /**
   * Sees to it that the image that `resolveImage` would name is on this machine: pulled, or built where it cannot be.
   * @throws SetupError that says why neither worked and what to do
   */
  ensure(image: BrokerImage): Promise<string>;
}

export function imageBuilder(installing: Installer, step: Step): Builder {
  const bases = new Map<string, Promise<void>>();
  const ensureBase = (debian: BuildRecipe['debian']): Promise<void> => {
    const base = bases.get(debian) ?? makeBase(debian, installing, step);
    bases.set(debian, base);
    return base;
  };

  const build = async (image: BrokerImage, source: string): Promise<void> => {
    const [context] = await Promise.all([buildContext(image.build, installing, step), ensureBase(image.build.debian)]);
    const label = `${SOURCE_LABEL}=${source}`;
    const debian = `DEBIAN=${image.build.debian}`;
    await step(`built ${image.local}`, () =>
      run('docker', ['build', '--quiet', '--label', label, '--build-arg', debian, '--tag', image.local, context]),
    );
  };

  return {
    async ensure(image) {
      const chosen = chosenImage(image);
      if (chosen !== undefined) return pullChosen(image, chosen, step);
      const source = fingerprint(image.build);
      const built = await imageLabel(image.local, SOURCE_LABEL);
      if (built === source) return image.local;
      if (built === undefined) {
        const failure = await pullUnlessThere(image.official, step);
        if (failure === undefined) return image.official;
        console.error(
          `${image.official} cannot be pulled (${failure}), so it is built from packages; ${image.setting} can name another.`,
        );
      }
      await build(image, source);
      return image.local;
    },
  };
}

async function pullChosen(image: BrokerImage, chosen: string, step: Step): Promise<string> {
  const failure = await pullUnlessThere(chosen, step);
  if (failure === undefined) return chosen;
  throw new SetupError(`${image.setting}=${chosen} is neither on this machine nor can it be pulled: ${failure}`);
}

/** Gives the reason when the image is not there and cannot be had. */
async function pullUnlessThere(name: string, step: Step): Promise<string | undefined> {
  if (await imageExists(name)) return undefined;
  try {
    await step(`pulled ${name}`, () => pullImage(name));
    return undefined;
  } catch (error) {
    return messageOf(error).split('\n').at(-1);
  }
}

function fingerprint(recipe: BuildRecipe): string {
  const hash = createHash('sha256').update(JSON.stringify(recipe));
  const folder = join(IMAGES, recipe.folder);
  for (const file of readdirSync(folder).sort()) hash.update(file).update(readFileSync(join(folder, file)));
  return hash.digest('hex');
}

/** Makes Debian's slim base image with the mirror that this machine's own packages come from. */
async function makeBase(debian: string, installing: Installer, step: Step): Promise<void> {
  const tag = `debian:${debian}-slim`;
  if ((await pullUnlessThere(tag, step)) === undefined) return;
  await installing.need(['mmdebstrap'], `which makes ${tag} where it cannot be pulled`);
  await step(`made ${tag}`, () => bootstrap(debian, tag));
}

async function bootstrap(debian: string, tag: string): Promise<void> {
  const pipe = 'mmdebstrap --quiet --variant=minbase "$1" - "$2" | docker import - "$3"';
  await run('bash', ['-o', 'pipefail', '-c', pipe, 'bash', debian, await debianMirror(), tag]);
}

async function debianMirror(): Promise<string> {
  const format = '$(LABEL) $(REPO_URI)';
  const targets = await run('apt-get', ['indextargets', '--format', format, 'Identifier: Packages']);
  const mirror = /^Debian (\S+)$/m.exec(targets)?.[1];
  if (mirror !== undefined) return mirror;
  throw new SetupError('No Debian mirror is known to apt: run `apt-get update` first.');
}

/** The folder that `docker build` is given: the recipe's own, or a copy of it with the payload beside. */
async function buildContext(recipe: BuildRecipe, installing: Installer, step: Step): Promise<string> {
  const folder = join(IMAGES, recipe.folder);
  if (recipe.payload === undefined) return folder;
  const context = join(CACHE, `${recipe.folder}-${recipe.payload.version}`);
  mkdirSync(context, { recursive: true });
  cpSync(folder, context, { recursive: true });
  const payload = join(context, 'payload');
  if (existsSync(payload)) return context;
  // Only a complete folder gets the final name: an interrupted download must not pass for one.
  const partial = `${payload}.partial`;
  rmSync(partial, { recursive: true, force: true });
  mkdirSync(partial);
  await fetchPayload(recipe.payload, folder, partial, installing, step);
  renameSync(partial, payload);
  return context;
}
