import { type ChildProcess, fork } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Claim, ClaimOutcome, Fence, IdempotencyStore } from '@waybill/core';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';

/** A store, and what the suite may do to it. What is left out is not tested. */
export interface StoreUnderTest {
  /** A store over the same place each time, as another process has it; or one and the same where that cannot be. */
  open(): IdempotencyStore | Promise<IdempotencyStore>;
  /**
   * The URL of a module whose default export is a function that opens a store over the same place: for what is asked of
   * processes that die or freeze. What the module has to know it finds in `process.env`.
   */
  readonly otherProcess?: string;
  /** Takes the place away, at once, and brings it back, with all that it was told. */
  readonly outage?: { stop(): Promise<unknown>; start(): Promise<unknown> };
  /** How many claims and outcomes are kept. */
  entries?(): Promise<number>;
  close?(): unknown;
}

const lease = 1_500;
/** For what has to keep its claim: a busy machine does not stand still for so long. */
const steadyLease = 4_000;
/** Beyond the lease, for the time that machines take. */
const margin = 5_000;
const window = 60_000;

/**
 * What every idempotency store promises (IDEM-01 to IDEM-04, IDEM-06), as tests of vitest.
 *
 * @param make called once, before the first test
 */
export function defineIdempotencyStoreSuite(name: string, make: () => Promise<StoreUnderTest> | StoreUnderTest): void {
  describe(`idempotency store: ${name}`, () => {
    let place: StoreUnderTest;
    let store: IdempotencyStore;
    let other: IdempotencyStore;
    const children = new Set<Child>();
    const claim = (more: Partial<Claim> = {}): Claim => ({ scope: 'suite', key: randomUUID(), lease, window, ...more });
    const start = async (): Promise<Child> => {
      const child = await Child.start(place.otherProcess ?? '');
      children.add(child);
      return child;
    };

    beforeAll(async () => {
      place = await make();
      store = await place.open();
      other = await place.open();
    }, 180_000);
    afterEach(() => {
      for (const child of children) child.kill();
      children.clear();
    });
    afterAll(async () => {
      await place?.close?.();
    }, 30_000);

    it('runs once, and remembers it', async () => {
      const wanted = claim();
      const work = vi.fn(succeed);
      expect(await store.run(wanted, work)).toBe('ran');
      expect(await store.run(wanted, work)).toBe('duplicate');
      expect(await other.run(wanted, work)).toBe('duplicate');
      expect(work).toHaveBeenCalledTimes(1);
    });

    it('is busy while somebody works', async () => {
      const wanted = claim();
      const work = new Work();
      const running = store.run(wanted, work.run);
      await work.begun;
      const never = vi.fn(succeed);
      expect(await store.run(wanted, never)).toBe('busy');
      expect(await other.run(wanted, never)).toBe('busy');
      work.end(true);
      expect(await running).toBe('ran');
      expect(await other.run(wanted, never)).toBe('duplicate');
      expect(never).not.toHaveBeenCalled();
    });

    it('lets what failed run again at once', async () => {
      const wanted = claim();
      expect(await store.run(wanted, fail)).toBe('failed');
      expect(await other.run(wanted, fail)).toBe('failed');
      expect(await store.run(wanted, succeed)).toBe('ran');
    });

    it('forgets when the window is over, and not before', async () => {
      const wanted = claim({ window: 1_500 });
      const before = performance.now();
      expect(await store.run(wanted, succeed)).toBe('ran');
      expect(await other.run(wanted, succeed)).toBe('duplicate');
      await vi.waitFor(async () => expect(await other.run(wanted, succeed)).toBe('ran'), patience(1_500));
      expect(performance.now() - before).toBeGreaterThan(1_400);
      expect(await store.run(wanted, succeed)).toBe('duplicate');
    });

    it('holds a claim for as long as the work runs', async () => {
      const works = Array.from({ length: 20 }, () => ({ wanted: claim({ lease: steadyLease }), work: new Work() }));
      const running = works.map(({ wanted, work }) => store.run(wanted, work.run));
      await Promise.all(works.map(({ work }) => work.begun));
      const until = performance.now() + 2 * steadyLease;
      while (performance.now() < until) {
        for (const { wanted } of works) expect(await other.run(wanted, succeed)).toBe('busy');
        await wait(lease / 10);
      }
      for (const { work } of works) work.end(true);
      expect(await Promise.all(running)).toEqual(works.map(() => 'ran'));
    }, 30_000);

    it('runs each of a thousand once, though two race for them', async () => {
      const wanted = Array.from({ length: 1_000 }, () => claim());
      const calls = new Map<string, number>();
      const finish = async (one: IdempotencyStore, which: Claim): Promise<ClaimOutcome> => {
        for (;;) {
          const outcome = await one.run(which, async () => {
            calls.set(which.key, (calls.get(which.key) ?? 0) + 1);
            return true;
          });
          if (outcome !== 'busy') return outcome;
          await wait(5);
        }
      };
      const outcomes = await Promise.all(wanted.flatMap((one) => [finish(store, one), finish(other, one)]));
      expect([...calls.values()].filter((count) => count !== 1)).toEqual([]);
      expect(calls.size).toBe(1_000);
      expect(outcomes.filter((outcome) => outcome === 'ran')).toHaveLength(1_000);
      expect(outcomes.filter((outcome) => outcome === 'duplicate')).toHaveLength(1_000);
    }, 60_000);

    it('tells scopes and keys apart, whatever they hold', async () => {
      const scope = randomUUID();
      const pairs = [
        ['', ''],
        ['', 'key'],
        ['key', ''],
        ['a', 'bc'],
        ['ab', 'c'],
        ['a\0b', 'c'],
        ['a', '\0bc'],
        ['case', 'Key'],
        ['case', 'KEY'],
        ['case', 'KEY '],
        ["quote'", "x'; DROP TABLE waybill_idempotency; --"],
        ['back\\slash', '\\'],
        ['{}', '"*?[]%_'],
        ['é', 'e\u0301'],
        ['e\u0301', 'é'],
        ['lone', '\ud800'],
        ['lone', '\udbff'],
        ['emoji', '🚚'.repeat(100)],
        ['long', 'x'.repeat(10_000)],
        ['long', 'x'.repeat(10_001)],
        ['x'.repeat(10_000), 'long'],
      ].map(([start, key]) => claim({ scope: `${scope}${start}`, key: key ?? '' }));
      for (const pair of pairs) expect(await store.run(pair, succeed)).toBe('ran');
      for (const pair of pairs) expect(await other.run(pair, fail)).toBe('duplicate');
    });

    it('frees the claim of a process that died, when its lease ends', async ({ skip }) => {
      if (place.otherProcess === undefined) return skip('it lives in one process');
      const wanted = claim({ lease: steadyLease });
      const child = await start();
      await child.work(wanted, 60_000);
      // Longer than a lease: the child renews it.
      await wait(steadyLease * 1.5);
      expect(await store.run(wanted, succeed)).toBe('busy');
      child.kill();
      await vi.waitFor(async () => expect(await store.run(wanted, succeed)).toBe('ran'), patience(steadyLease));
      expect(await other.run(wanted, fail)).toBe('duplicate');
    }, 60_000);

    it('takes the claim from a process that froze, which is told and marks nothing', async ({ skip }) => {
      if (place.otherProcess === undefined) return skip('it lives in one process');
      const wanted = claim();
      const child = await start();
      await child.work(wanted, 3 * lease);
      child.freeze();
      const work = new Work();
      await vi.waitFor(
        async () => expect(await Promise.race([store.run(wanted, work.run), work.begun])).toBe('begun'),
        patience(lease),
      );
      child.thaw();
      await child.says('lost', margin);
      await child.says('failed', 3 * lease + margin);
      // It has marked nothing, so whoever took it over decides.
      expect(await other.run(wanted, succeed)).toBe('busy');
      work.end(false);
      await vi.waitFor(async () => expect(await other.run(wanted, succeed)).toBe('ran'), patience(lease));
    }, 60_000);

    it('says so when it is away, and goes on when it is back', async ({ skip }) => {
      const { outage } = place;
      if (outage === undefined) return skip('it cannot be away');
      const [held, done, later] = [claim({ lease: 60_000 }), claim(), claim()];
      expect(await store.run(done, succeed)).toBe('ran');
      const work = new Work();
      const running = store.run(held, work.run);
      await work.begun;
      await outage.stop();
      const never = vi.fn(succeed);
      await expect(store.run(later, never)).rejects.toThrow();
      await expect(store.run(done, never)).rejects.toThrow();
      expect(never).not.toHaveBeenCalled();
      await outage.start();
      await vi.waitFor(async () => expect(await store.run(done, never)).toBe('duplicate'), {
        timeout: 30_000,
        interval: 200,
      });
      // A claim outlives the outage of its store, within its lease.
      expect(await other.run(held, never)).toBe('busy');
      work.end(true);
      expect(await running).toBe('ran');
      expect(never).not.toHaveBeenCalled();
    }, 120_000);

    it('cleans up beside the work', async ({ skip }) => {
      if (place.entries === undefined) return skip('it does not say what it keeps');
      const before = await place.entries();
      await Promise.all(Array.from({ length: 300 }, () => store.run(claim({ window: 100 }), succeed)));
      expect(await place.entries()).toBeGreaterThan(before);
      await vi.waitFor(
        async () => {
          await store.run(claim({ window: 100 }), succeed);
          expect(await place.entries?.()).toBeLessThanOrEqual(before + 100);
        },
        { timeout: 20_000, interval: 200 },
      );
    }, 30_000);
  });
}

async function succeed(): Promise<boolean> {
  return true;
}

async function fail(): Promise<boolean> {
  return false;
}

function patience(ms: number): { readonly timeout: number; readonly interval: number } {
  return { timeout: ms + margin, interval: 50 };
}

/** Work that goes on until it is told to end. */
class Work {
  readonly begun: Promise<'begun'>;
  readonly end: (success: boolean) => void;
  readonly run: (fence: Fence) => Promise<boolean>;

  constructor() {
    const begun = Promise.withResolvers<'begun'>();
    const ended = Promise.withResolvers<boolean>();
    this.begun = begun.promise;
    this.end = ended.resolve;
    this.run = () => {
      begun.resolve('begun');
      return ended.promise;
    };
  }
}

const program = fileURLToPath(
  new URL(`./suite-child${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url),
);

/** A process that works on claims, and can be killed, frozen and thawed. */
class Child {
  readonly #process: ChildProcess;
  readonly #said: string[] = [];

  constructor(process: ChildProcess) {
    this.#process = process;
    process.on('message', ({ said, text = '' }: { said: string; text?: string }) => this.#said.push(said, text));
  }

  static async start(module: string): Promise<Child> {
    const child = new Child(fork(program, [module], { execArgv: [] }));
    await child.says('ready', 30_000);
    return child;
  }

  async work(claim: Claim, last: number): Promise<void> {
    this.#process.send({ claim, last });
    await this.says('working', margin);
  }

  async says(word: string, timeout: number): Promise<void> {
    await vi.waitFor(() => expect(this.#said).toContain(word), { timeout, interval: 20 });
  }

  freeze(): void {
    this.#process.kill('SIGSTOP');
  }

  thaw(): void {
    this.#process.kill('SIGCONT');
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }
}
