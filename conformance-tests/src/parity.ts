/** `npm run parity -- results.json`: writes `docs/parity.md` from the results; `--check` only says whether it is stale. */
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { promises, type Section } from './contract.ts';
import type { Verdict } from './report.ts';

const USAGE = 'Usage: npm run parity -- [--check] results.json';

const cells: Readonly<Record<Verdict['status'], string>> = {
  passed: 'yes',
  failed: 'FAILS',
  unsupported: 'no',
  pending: 'later',
};

/** The table as Markdown. */
export function parityTable(verdicts: readonly Verdict[]): string {
  const adapters = [...new Set(verdicts.map(({ adapter }) => adapter))];
  const notes: string[] = [];
  const note = (text: string): string => {
    const at = notes.indexOf(text);
    return `<sup>${at >= 0 ? at + 1 : notes.push(text)}</sup>`;
  };
  const cell = (adapter: string, id: string): string => {
    const verdict = verdicts.find((one) => one.adapter === adapter && one.id === id);
    if (verdict === undefined) return '';
    const { status, reason } = verdict;
    return status === 'unsupported' ? `${cells[status]}${note(`${adapter}: ${reason}`)}` : cells[status];
  };
  const sections = [...new Set(promises.map(({ section }) => section))];
  const tables = sections.map((section) =>
    [
      `## ${headline(section)}`,
      '',
      row(['', 'promise', ...adapters]),
      row(['---', '---', ...adapters.map(() => '---')]),
      ...promises
        .filter((one) => one.section === section)
        .map(({ id, title }) => row([id, title, ...adapters.map((adapter) => cell(adapter, id))])),
    ].join('\n'),
  );
  return `${[
    '# Parity',
    'What each adapter keeps of the contract. Generated from the results of the conformance suite by `npm run parity`; do not edit.',
    '*yes*: every test of the promise passed. *no*: the broker cannot keep it, or a part of it; the note says why, and the option that asks for it throws an `UnsupportedError`. *later*: no test exists yet.',
    ...tables,
    ...(notes.length === 0 ? [] : ['## Notes', notes.map((text, at) => `${at + 1}. ${text}`).join('\n')]),
  ].join('\n\n')}\n`;
}

function headline(section: Section): string {
  const text = section.replaceAll('-', ' ');
  return `${text[0]?.toUpperCase()}${text.slice(1)}`;
}

function row(texts: readonly string[]): string {
  return `| ${texts.map((text) => text.replaceAll('|', '\\|')).join(' | ')} |`;
}

async function main(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    options: { check: { type: 'boolean', default: false } },
    allowPositionals: true,
  });
  const [results] = positionals;
  if (results === undefined || positionals.length > 1) {
    console.error(USAGE);
    return 2;
  }
  const file = resolve(dirname(fileURLToPath(import.meta.url)), '../../docs/parity.md');
  const table = parityTable(JSON.parse(await readFile(results, 'utf8')) as Verdict[]);
  const shown = relative(process.cwd(), file);
  if (!values.check) {
    await writeFile(file, table);
    console.log(`wrote ${shown}`);
    return 0;
  }
  const before = await readFile(file, 'utf8').catch(() => '');
  if (before === table) return 0;
  console.error(`${shown} is stale; run \`npm run parity -- ${results}\` and commit it. The first difference:`);
  const [old, now] = [before.split('\n'), table.split('\n')];
  const at = now.findIndex((line, n) => line !== old[n]);
  console.error(`  - ${old[at] ?? ''}\n  + ${now[at] ?? ''}`);
  return 1;
}

if (process.argv[1] !== undefined && fileURLToPath(import.meta.url) === resolve(process.argv[1])) {
  process.exitCode = await main(process.argv.slice(2));
}
