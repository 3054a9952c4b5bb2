/** Checks what each published package would give its users: its exports, its types, its files. */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

async function publishedPackages(): Promise<string[]> {
  const folders = ['conformance-tests'];
  for (const parent of ['packages', 'adapters']) {
    for (const name of await readdir(parent)) folders.push(join(parent, name));
  }
  return folders;
}

let failed = 0;
const scratch = await mkdtemp(join(tmpdir(), 'waybill-packages-'));
try {
  for (const folder of await publishedPackages()) {
    const { name } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as { name: string };
    try {
      await run('publint', ['--strict', folder]);
      const packed = await run('npm', [
        'pack',
        `./${folder}`,
        '--json',
        '--ignore-scripts',
        '--pack-destination',
        scratch,
      ]);
      const parsed = JSON.parse(packed.stdout) as Record<string, { filename: string }>;
      const file = Object.values(parsed)[0]?.filename;
      if (file === undefined) throw new Error('npm pack named no file');
      // ESM only: Node >= 22.12 can require it, which the profile knows as `esm-only`.
      await run('attw', [join(scratch, file), '--profile', 'esm-only']);
      console.log(`ok ${name}`);
    } catch (error) {
      failed++;
      const { stdout, stderr, message } = error as { stdout?: string; stderr?: string; message: string };
      console.log(`not ok ${name}\n${stdout ?? ''}${stderr ?? ''}${message}`);
    }
  }
} finally {
  await rm(scratch, { recursive: true });
}
process.exitCode = failed === 0 ? 0 : 1;
