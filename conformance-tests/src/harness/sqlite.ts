import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { promisify } from 'node:util';
import { sqlite } from '@waybill/sqlite';
import { eventually } from '../eventually.ts';
import type {
  AdapterUnderTest,
  BrokerUnderTest,
  ClosedDoor,
  CutMode,
  Doors,
  ForeignClient,
  ForeignCopy,
  ForeignMessage,
  NetworkLink,
  OpenDoor,
  Place,
} from '../harness.ts';
import { InProcessLink } from './in-process-link.ts';

/** A disk that others write to as well can stand still for a second, and with it whoever writes to the file. */
const LEASE = 2_000;

/** A file in a folder of its own; members are processes that open the same file. */
export function sqliteUnderTest(): AdapterUnderTest {
  return {
    name: 'sqlite',
    lease: LEASE,
    start: async () => {
      const disk = new Disk();
      return {
        url: `sqlite:${disk.path}`,
        inProcess: false,
        openLink: async () => openLink(disk),
        stop: () => disk.powerCut(),
        start: async () => disk.powerUp(),
        restart: async () => {
          await disk.powerCut();
          disk.powerUp();
        },
        foreign: new Foreign(disk),
        doors: doors(disk),
        dispose: async () => disk.remove(),
      } satisfies BrokerUnderTest;
    },
  };
}

/**
 * Where the file stands. A power cut leaves what had reached the disk by then: the file and its write-ahead log, and
 * nothing that was in memory. So one is played by taking the lock that every commit needs, making a copy of the two,
 * and moving the original out of the way; it comes back as that copy. Whoever has the original open must notice that
 * it is gone, and find all that was confirmed in what comes back. The original stays locked: nobody can commit there
 * any more. That SQLite flushes before it confirms is its own promise, and cannot be seen from here.
 */
class Disk {
  readonly #root = mkdtempSync(join(tmpdir(), 'waybill-sqlite-'));
  readonly #folder = join(this.#root, 'data');
  readonly path = join(this.#folder, 'orders.db');
  readonly #locks: DatabaseSync[] = [];
  #outages = 0;

  constructor() {
    mkdirSync(this.#folder);
  }

  /** A folder of its own for something else. */
  folder(name: string): string {
    const folder = join(this.#root, name);
    mkdirSync(folder, { recursive: true });
    return folder;
  }

  /** Until the end: one that nobody refers to is closed, which unlocks it. */
  keepLocked(database: DatabaseSync): void {
    this.#locks.push(database);
  }

  get #image(): string {
    return join(this.#root, `image-${this.#outages}`);
  }

  async powerCut(): Promise<void> {
    const lock = new DatabaseSync(this.path, { timeout: 5_000 });
    lock.exec('BEGIN IMMEDIATE');
    this.keepLocked(lock);
    this.#outages++;
    mkdirSync(this.#image);
    // By another process: where this one closes a file, it drops SQLite's locks on it.
    await promisify(execFile)('cp', [this.path, `${this.path}-wal`, this.#image]);
    renameSync(this.#folder, join(this.#root, `lost-${this.#outages}`));
  }

  powerUp(): void {
    renameSync(this.#image, this.#folder);
  }

  remove(): void {
    for (const lock of this.#locks) lock.close();
    rmSync(this.#root, { recursive: true, force: true });
  }
}

/**
 * A way of its own to the file, by a symbolic link. A reset is real: the link is taken away, as a volume that is
 * unmounted, and the adapter has to notice it by itself. There is no real thing that a file does and that looks like
 * the other two, calls that hang for ever and answers that are lost after their work was done; those are played at
 * the adapter interface, where they show what core makes of a broker that does so.
 */
function openLink(disk: Disk): NetworkLink {
  const path = join(disk.folder(`link-${randomUUID()}`), 'orders.db');
  const url = `sqlite:${path}`;
  const played = new InProcessLink();
  let mode: CutMode | 'deaf' | undefined;
  const connectPath = (): void => symlinkSync(disk.path, path);
  connectPath();
  const mend = (): void => {
    if (mode === 'reset') connectPath();
    else if (mode !== undefined) played.mend();
    mode = undefined;
  };
  return {
    target: played.wrap(sqlite.fromUrl(url)),
    url,
    cut: async (how) => {
      if (mode === 'reset') return;
      if (how === 'reset' && mode === undefined) {
        rmSync(path);
        mode = 'reset';
      } else {
        played.cut(how);
        mode = 'blackhole';
      }
    },
    mend: async () => mend(),
    loseReplies: async () => {
      played.loseReplies();
      mode = 'deaf';
    },
    close: async () => mend(),
  };
}

/** A program that knows SQLite and the tables, as `docs/brokers/sqlite.md` describes them. */
class Foreign implements ForeignClient {
  readonly keys = true;
  readonly maxBodyBytes = undefined;
  readonly #disk: Disk;

  constructor(disk: Disk) {
    this.#disk = disk;
  }

  async publish(topic: string, { body, key, contentType, headers }: ForeignMessage): Promise<void> {
    this.#run(
      'INSERT INTO inbox (topic, key, content_type, headers, body) VALUES (?, ?, ?, ?, ?)',
      topic,
      key ?? null,
      contentType ?? null,
      headers === undefined ? null : JSON.stringify(headers),
      body,
    );
  }

  async read(topic: string): ReturnType<ForeignClient['read']> {
    type Row = { readonly body: Uint8Array; readonly key: string | null; readonly headers: string | null };
    const [end] = this.#all<{ log_end: number }>('SELECT log_end FROM topics WHERE name = ?', topic);
    let next = end?.log_end ?? 0;
    const sql = 'SELECT body, key, headers FROM log WHERE topic = ? AND position = ?';
    return {
      next: async (within) => {
        const row = await eventually('a copy of a message', () => this.#all<Row>(sql, topic, next)[0], { within });
        next++;
        const { body, key, headers } = row as Row;
        const copy: ForeignCopy = { body, key: key ?? undefined, headers: JSON.parse(headers ?? '{}') };
        return copy;
      },
      close: async () => {},
    };
  }

  async remove(part: Parameters<ForeignClient['remove']>[0], place: Place): Promise<void> {
    const { topic, group } = namesOf(place);
    const groupOf =
      'SELECT groups.id FROM groups JOIN topics ON topics.id = topic WHERE topics.name = ? AND groups.name = ?';
    if (part === 'topic') this.#run('DELETE FROM topics WHERE name = ?', topic);
    if (part === 'group') this.#run(`DELETE FROM groups WHERE id IN (${groupOf})`, topic, group);
    if (part === 'dead-letters') this.#run(`DELETE FROM dead_letters WHERE grp IN (${groupOf})`, topic, group);
  }

  async exists(part: Parameters<ForeignClient['exists']>[0], place: Place): Promise<boolean> {
    const { topic, group } = namesOf(place);
    const names = this.#names();
    // A group's dead letters are a part of it, and need nothing to be made.
    return names.includes(part === 'topic' ? topic : `${topic}/${group}`);
  }

  async namesWith(text: string): Promise<readonly string[]> {
    return this.#names().filter((name) => name.includes(text));
  }

  async makeOwn(): ReturnType<ForeignClient['makeOwn']> {
    const [topic, group] = [`own topic ${randomUUID()}`, 'own group'];
    this.#run('INSERT INTO topics (name) VALUES (?)', topic);
    this.#run('INSERT INTO groups (topic, name, next) SELECT id, ?, log_end FROM topics WHERE name = ?', group, topic);
    return { target: `sqlite:${this.#disk.path}`, topic, group, publish: (message) => this.publish(topic, message) };
  }

  async retentionFaults(place: Place): Promise<readonly string[]> {
    const { topic, group } = namesOf(place);
    const rows = this.#all<{ expires_at: number | null }>(
      'SELECT expires_at FROM groups JOIN topics ON topics.id = topic WHERE topics.name = ? AND groups.name = ?',
      topic,
      group,
    );
    if (rows.length !== 1) return [`${rows.length} groups stand there`];
    return rows[0]?.expires_at === null ? [] : ['the group expires'];
  }

  readonly trim = async (topic: string): Promise<void> => {
    this.#run('DELETE FROM messages WHERE place >> 40 = (SELECT id FROM topics WHERE name = ?)', topic);
    this.#run('UPDATE topics SET log_start = log_end, bytes = 0 WHERE name = ?', topic);
  };

  #names(): string[] {
    return this.#all<{ name: string }>(
      `SELECT name FROM topics
       UNION SELECT topics.name || '/' || groups.name FROM groups JOIN topics ON topics.id = groups.topic`,
    ).map(({ name }) => name);
  }

  #run(sql: string, ...values: (string | Uint8Array | null)[]): void {
    this.#open((database) => database.prepare(sql).run(...values));
  }

  #all<Row>(sql: string, ...values: (string | number)[]): Row[] {
    return this.#open((database) => database.prepare(sql).all(...values) as Row[]);
  }

  /** For each call anew, because the file may be another one after a power cut. */
  #open<T>(use: (database: DatabaseSync) => T): T {
    const database = new DatabaseSync(this.#disk.path, { timeout: 5_000 });
    try {
      return use(database);
    } finally {
      database.close();
    }
  }
}

function namesOf({ topic, group, prefix = '' }: Place): { readonly topic: string; readonly group: string } {
  return { topic: prefix + topic, group };
}

function doors(disk: Disk): Doors {
  return {
    closed: async () => closedDoors(disk),
    open: async () => openDoors(disk.folder(join('open', 'with space & ümläut #1'))),
    unknownParameter: `sqlite:${disk.path}?nonsense=1`,
  };
}

function closedDoors(disk: Disk): readonly ClosedDoor[] {
  const folder = disk.folder('closed');
  const at = (name: string): string => join(folder, name);
  const make = (name: string, sql: string): DatabaseSync => {
    const database = new DatabaseSync(at(name));
    database.exec(sql);
    return database;
  };
  const door = (what: string, name: string, cause: RegExp, final = true): ClosedDoor => ({
    what,
    target: `sqlite:${at(name)}`,
    cause,
    names: at(name),
    secret: undefined,
    final,
  });
  writeFileSync(at('notes.txt'), 'These are notes, and no database.\n'.repeat(100));
  make('other.db', 'CREATE TABLE customers (name TEXT)').close();
  make('newer.db', 'PRAGMA user_version = 99; PRAGMA application_id = 0x5759424c; CREATE TABLE t (x)').close();
  disk.keepLocked(make('locked.db', 'BEGIN EXCLUSIVE'));
  symlinkSync(at('loop.db'), at('loop.db'));
  return [
    door('a folder that does not exist', join('nowhere', 'orders.db'), /no folder/),
    door('a folder instead of a file', '', /is a folder/),
    door('a file that is no database', 'notes.txt', /not a database/),
    door("another program's database", 'other.db', /another program/),
    door('a file of a newer version', 'newer.db', /newer @waybill\/sqlite/),
    door('a file that another program has locked', 'locked.db', /locked/, false),
    door('a link that leads to itself', 'loop.db', /ELOOP/, false),
  ].map((one) => (one.target === `sqlite:${folder}/` ? { ...one, names: folder } : one));
}

function openDoors(folder: string): readonly OpenDoor[] {
  const path = (name: string): string => join(folder, name);
  const encoded = path('encoded.db').split('/').map(encodeURIComponent).join('/');
  return [
    { what: 'a relative path', target: `sqlite:${encodeURI(relative('.', path('relative.db'))).replace('#', '%23')}` },
    { what: 'a percent-encoded path', target: `sqlite:${encoded}` },
    { what: 'three slashes', target: `sqlite://${encoded}` },
    { what: 'options', target: sqlite({ path: path('options.db'), retainFor: '1h', retainBytes: 1_000 }) },
    { what: 'a looser flush', target: `sqlite:${dirname(encoded)}/normal.db?synchronous=normal&busyTimeout=10s` },
  ];
}
