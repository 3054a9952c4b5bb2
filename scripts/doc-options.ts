/**
 * `node scripts/doc-options.ts`: each page in docs/brokers has a table of the adapter's options; this compares their
 * names with those in the adapter's types, so that no option goes undocumented and none outlives its removal.
 */
import { glob, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';

const root = join(import.meta.dirname, '..');

/** Where the options of a page's adapter are declared. */
const source = (page: string): string =>
  page === 'memory' ? 'packages/core/src/memory/index.ts' : `adapters/${page}/src/options.ts`;

/** The first column of the table under "## Options". */
function documented(text: string): string[] {
  const section = /^## Options\n(.*?)(?=^## )/ms.exec(text)?.[1] ?? '';
  const rows = section.split('\n').filter((line) => /^\| *`/.test(line));
  return rows.flatMap((row) => [...(row.split('|')[1] ?? '').matchAll(/`(\w+)`/g)].map(([, name = '']) => name));
}

/** The fields of the first interface whose name ends in Options. */
function declared(text: string): string[] {
  const body = /^export interface \w+Options[^{]*\{\n(.*?)^\}/ms.exec(text)?.[1] ?? '';
  return [...body.matchAll(/^ {2}readonly (\w+)\??[:(]/gm)].map(([, name = '']) => name);
}

const faults: string[] = [];
for await (const path of glob('docs/brokers/*.md', { cwd: root })) {
  const page = basename(path, '.md');
  const inPage = new Set(documented(await readFile(join(root, path), 'utf8')));
  const inTypes = new Set(declared(await readFile(join(root, source(page)), 'utf8')));
  if (inTypes.size === 0) faults.push(`${source(page)} declares no options`);
  for (const name of inTypes) if (!inPage.has(name)) faults.push(`${path} does not have the option ${name}`);
  for (const name of inPage) if (!inTypes.has(name)) faults.push(`${path} has ${name}, which ${source(page)} does not`);
}
for (const fault of faults) console.error(fault);
process.exitCode = faults.length === 0 ? 0 : 1;
