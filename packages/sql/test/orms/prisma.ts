import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

/** The part of a generated client that the tests use, as Prisma writes it. */
export interface PrismaClient {
  $connect(): Promise<void>;
  $disconnect(): Promise<void>;
  $on: unknown;
  $extends: unknown;
  $queryRawUnsafe<T = unknown>(query: string, ...values: unknown[]): Promise<T>;
  $executeRawUnsafe(query: string, ...values: unknown[]): Promise<number>;
  $transaction<P extends Promise<unknown>[]>(work: [...P], options?: { isolationLevel?: string }): Promise<unknown[]>;
  $transaction<R>(
    work: (tx: Omit<PrismaClient, '$connect' | '$disconnect' | '$on' | '$use' | '$extends'>) => Promise<R>,
    options?: { maxWait?: number; timeout?: number },
  ): Promise<R>;
  readonly order: { create(args: { data: { id: string; total: number } }): Promise<unknown> };
}

const schema = `
generator client {
  provider = "prisma-client"
  output   = "./generated"
}
datasource db {
  provider = "postgresql"
}
model Order {
  id    String @id
  total Int

  @@map("orders")
}
`;

let generated: Promise<PrismaConstructor> | undefined;

export function prismaClient(): Promise<PrismaConstructor> {
  generated ??= generate();
  return generated;
}

type PrismaConstructor = new (options: { adapter: unknown }) => PrismaClient;

/** Generates a client into an ignored folder. Its engine, which Prisma would download, has no part in that. */
async function generate(): Promise<PrismaConstructor> {
  const folder = join(import.meta.dirname, '../../../../.cache/prisma-test');
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'schema.prisma'), schema);
  const prisma = join(dirname(createRequire(import.meta.url).resolve('prisma/package.json')), 'build/index.js');
  await promisify(execFile)(process.execPath, [prisma, 'generate', '--schema', 'schema.prisma'], {
    cwd: folder,
    env: {
      ...process.env,
      PRISMA_SCHEMA_ENGINE_BINARY: '/bin/true',
      CHECKPOINT_DISABLE: '1',
      PRISMA_HIDE_UPDATE_MESSAGE: '1',
    },
  });
  return (await import(pathToFileURL(join(folder, 'generated/client.ts')).href)).PrismaClient;
}
