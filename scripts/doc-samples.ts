/**
 * `node scripts/doc-samples.ts`: compiles the TypeScript of README and docs as it stands there, so that no page shows
 * what does not exist. A block ` ```ts name.ts ` belongs to that file of its page, after the blocks of that name before
 * it; a block without a name is a file of its own.
 *
 * Some of these files are used elsewhere and stand in the repository; one that differs from its page is a failure.
 * `--write` brings them up to date.
 */
import { spawnSync } from 'node:child_process';
import { glob, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** Files that are more than samples, by page and name. */
const used: Readonly<Record<string, string>> = {
  'docs/writing-an-adapter.md/array-adapter.ts': 'conformance-tests/test/array-adapter.generated.ts',
};

const root = join(import.meta.dirname, '..');
const folder = join(root, '.cache/samples');

/** The files of a page by name. */
function samplesOf(text: string): Map<string, string> {
  const samples = new Map<string, string>();
  let unnamed = 0;
  for (const [, named, code = ''] of text.matchAll(/^```ts(?: +(\S+))?\n(.*?)^```$/gms)) {
    const name = named ?? `sample-${++unnamed}.ts`;
    const before = samples.get(name);
    samples.set(name, before === undefined ? code : `${before}\n${code}`);
  }
  return samples;
}

async function store(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, text);
}

/** @returns whether the repository has it as it stands in the page */
async function bringUpToDate(page: string, path: string, code: string): Promise<boolean> {
  const text = `// Made from ${page} by scripts/doc-samples.ts; change it there.\n${code}`;
  if ((await readFile(join(root, path), 'utf8').catch(() => '')) === text) return true;
  if (process.argv.includes('--write')) {
    await store(join(root, path), text);
    return true;
  }
  console.error(`${path} is not what stands in ${page}; run: node scripts/doc-samples.ts --write`);
  return false;
}

const compilerOptions = {
  composite: false,
  noEmit: true,
  declaration: false,
  declarationMap: false,
  sourceMap: false,
  typeRoots: ['../../node_modules/@types'],
  // Each sample is a module, as it would be in a reader's editor, where these are a matter of taste.
  moduleDetection: 'force',
  noUnusedLocals: false,
  noPropertyAccessFromIndexSignature: false,
};

await rm(folder, { recursive: true, force: true });
let count = 0;
let upToDate = true;
for await (const page of glob(['README.md', 'CONTRIBUTING.md', 'docs/**/*.md'], { cwd: root })) {
  for (const [name, code] of samplesOf(await readFile(join(root, page), 'utf8'))) {
    await store(join(folder, page.replaceAll('/', '-').replace(basename(page), basename(page, '.md')), name), code);
    count++;
    const path = used[`${page}/${name}`];
    if (path !== undefined && !(await bringUpToDate(page, path, code))) upToDate = false;
  }
}
await store(
  join(folder, 'tsconfig.json'),
  JSON.stringify({ extends: '../../tsconfig.base.json', compilerOptions, include: ['**/*.ts'] }),
);
const { status } = spawnSync('tsc', ['-p', folder], { stdio: 'inherit' });
console.log(`${count} samples ${status === 0 ? 'compile' : 'do not compile'}`);
process.exitCode = status === 0 && upToDate ? 0 : 1;
