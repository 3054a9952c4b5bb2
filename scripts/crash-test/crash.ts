/** The director of one run: kills and restarts for so many rounds, waits until all is handled, and checks. */
import { createWriteStream, type WriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { connect, type Lag } from '@waybill/core';
import { type Books, differencesIn, readBooks } from './books.ts';
import { Member } from './member.ts';
import { bookings, type Count, group, type Role } from './programs.ts';
import { Random } from './random.ts';
import { furnish, openShop, type Shop } from './shop.ts';
import { type Pair, type Surroundings, surroundingsOf } from './surroundings.ts';

export interface CrashOptions {
  readonly rounds: number;
  /** Processes of each of the three kinds. */
  readonly each: number;
  readonly seed: number;
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
}

export interface CrashReport extends Pair {
  readonly seed: number;
  readonly rounds: number;
  readonly each: number;
  readonly kills: Readonly<Record<Role, number>>;
  readonly restarts: { readonly database: number; readonly broker: number };
  readonly rowsCommitted: number;
  /** Transactions that were rolled back on purpose, as far as was told. */
  readonly rolledBack: number;
  /** Transactions of the service that the database's restarts ended. */
  readonly interrupted: number;
  /** Events with their effect in the ledger. */
  readonly eventsHandled: number;
  /** Deliveries that the inbox knew already. */
  readonly duplicates: number;
  /** Attempts that were rolled back because the handler threw, on purpose. */
  readonly failedAttempts: number;
  readonly seconds: number;
  /** What does not agree; empty when the test has passed. */
  readonly differences: readonly string[];
}

const roles: readonly Role[] = ['service', 'relay', 'consumer'];
/** Milliseconds of activity before a kill. */
const activity = { from: 50, to: 600 } as const;
/** Milliseconds after which a process is killed even if it had nothing to do: it may wait for one that is gone. */
const patience = 10_000;
/** Of the rounds, as many kill whatever the process is at: also while it starts. */
const unprepared = 0.2;
/**
 * Of the rounds, as many kill at the word that something is done: between the broker's confirm and its mark in the outbox,
 * or between the inbox's commit and the ack.
 */
const aimedAt = 0.4;
/** Beside one of each in a run, however short. */
const restartsPerRound = 1 / 15;
/** Milliseconds without any progress after which the rest is taken for lost. */
const standstill = 60_000;
/** The same when neither outbox nor broker has anything left. */
const lostForGood = 10_000;
const progressEvery = 5_000;

export async function crash(pair: Pair, options: CrashOptions): Promise<CrashReport> {
  await using surroundings = await surroundingsOf(pair);
  await using shop = openShop(surroundings.shop);
  await furnish(shop, pair.database);
  const bus = await connect(surroundings.broker);
  await bus.provision([{ topic: bookings, groups: [group] }]);
  await bus.close();
  await using run = await Run.begin(pair, options, surroundings, shop);
  return await run.toTheEnd();
}

/** Where everything stands on the way. */
interface Standing {
  readonly committed: number;
  readonly pending: number;
  readonly handled: number;
  readonly lag: Lag | undefined;
}

class Run implements AsyncDisposable {
  readonly #pair: Pair;
  readonly #options: CrashOptions;
  readonly #surroundings: Surroundings;
  readonly #shop: Shop;
  readonly #random: Random;
  readonly #members: readonly Member[];
  readonly #counts = new Map<Count, number>();
  readonly #restarts = { database: 0, broker: 0 };
  /** Rejects when a process has ended by itself, or the whole is called off. */
  readonly #broken = Promise.withResolvers<never>();
  readonly #begun = performance.now();
  readonly #log: WriteStream;
  #said = 0;

  static async begin(pair: Pair, options: CrashOptions, surroundings: Surroundings, shop: Shop): Promise<Run> {
    const folder = 'out/crash-test';
    await mkdir(folder, { recursive: true });
    return new Run(
      pair,
      options,
      surroundings,
      shop,
      createWriteStream(`${folder}/${pair.database}-${pair.broker}.log`),
    );
  }

  constructor(pair: Pair, options: CrashOptions, surroundings: Surroundings, shop: Shop, log: WriteStream) {
    this.#pair = pair;
    this.#options = options;
    this.#surroundings = surroundings;
    this.#shop = shop;
    this.#log = log;
    this.#random = new Random(options.seed);
    this.#broken.promise.catch(() => {});
    options.signal.addEventListener('abort', () => this.#broken.reject(options.signal.reason), { once: true });
    this.#members = roles.flatMap((role) => Array.from({ length: options.each }, () => this.#member(role)));
  }

  async toTheEnd(): Promise<CrashReport> {
    const { rounds } = this.#options;
    for (const member of this.#members) member.start();
    for (let round = 1; round <= rounds; round++) {
      await this.#unlessBroken(this.#round(round));
      this.#sayNowAndThen(() => this.#progress(round));
    }
    const stuck = await this.#unlessBroken(this.#settle());
    const differences = [...stuck];
    for (const member of [...this.#of('relay'), ...this.#of('consumer')]) {
      await member.stop().catch((error: Error) => differences.push(error.message));
    }
    const books = await readBooks(this.#shop);
    const wrong = differencesIn(books);
    if (wrong.length > 0) wrong.push(await this.#deadLetters());
    return this.#report(books, [...differences, ...wrong]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#members.map((member) => member.retire()));
    this.#log.end();
  }

  // Rounds

  async #round(round: number): Promise<void> {
    const random = this.#random;
    const outage = this.#outageOf(round);
    const member = random.pick(this.#members);
    const prepared = !random.chance(unprepared);
    const aimed = random.chance(aimedAt);
    const moment = random.between(activity.from, activity.to);
    const over = outage?.();
    over?.catch(() => {});
    if (prepared) await Promise.race([member.active, wait(patience, undefined, { ref: false })]);
    await wait(moment);
    if (aimed) await Promise.race([member.nextWord, wait(activity.to, undefined, { ref: false })]);
    await member.kill();
    member.start();
    await over;
  }

  /** One of each falls into every run, the others where they may. */
  #outageOf(round: number): (() => Promise<void>) | undefined {
    const { restartable } = this.#surroundings;
    const random = this.#random;
    const due = restartable.findIndex((_, at) => round === Math.ceil((this.#options.rounds * (at + 1)) / 3));
    const by = random.between(0, Math.max(0, restartable.length - 1));
    const chosen = restartable[due >= 0 ? due : random.chance(restartsPerRound) ? by : -1];
    if (chosen === undefined) return undefined;
    const how = random.chance(0.5) ? 'killed' : 'in good order';
    const pause = random.between(0, 1_000);
    return async () => {
      this.#note('director', `the ${chosen.what} is restarted, ${how}\n`);
      await chosen.restart(how, pause);
      this.#restarts[chosen.what]++;
    };
  }

  // The end

  /** Waits until everything is relayed and handled; returns what keeps it from that. */
  async #settle(): Promise<string[]> {
    await Promise.all(this.#of('service').map((member) => member.stop()));
    await using bus = await connect(this.#surroundings.broker, { connectTimeout: '1m', logger: false });
    let last = '';
    let moved = performance.now();
    for (;;) {
      const standing = await this.#standing(() => bus.lag(bookings, group));
      const { committed, pending, handled, lag } = standing;
      const left = lag === undefined ? Number.NaN : lag.waiting + lag.delayed + lag.inFlight;
      if (pending === 0 && handled >= committed && left === 0) return [];
      const text = `${committed} rows, ${pending} in the outbox, ${handled} handled, ${left} left at the broker`;
      if (text !== last) moved = performance.now();
      last = text;
      const allowed = pending === 0 && left === 0 && lag?.exact === true ? lostForGood : standstill;
      if (performance.now() - moved > allowed) return [`nothing moves any more: ${text} (${JSON.stringify(lag)})`];
      this.#sayNowAndThen(() => `waiting for the rest: ${text}`);
      await wait(200);
    }
  }

  async #standing(lag: () => Promise<Lag>): Promise<Standing> {
    const [row] = await this.#shop.run(
      'SELECT (SELECT count(*) FROM orders) AS committed, (SELECT count(DISTINCT event) FROM ledger) AS handled',
    );
    const { pending } = await this.#shop.outbox.status({ limit: 1 });
    return {
      committed: Number(row?.['committed']),
      handled: Number(row?.['handled']),
      pending,
      lag: await lag().catch(() => undefined),
    };
  }

  async #deadLetters(): Promise<string> {
    try {
      await using bus = await connect(this.#surroundings.broker, { connectTimeout: '1m', logger: false });
      const letters = bus.deadLetters(bookings, group);
      const [{ value: count }, first, lag] = [
        await letters.count(),
        await letters.peek({ limit: 5 }),
        await bus.lag(bookings, group),
      ];
      const ids = first.map(({ id, reason }) => `${id} ${reason}`).join(', ');
      return `the broker has ${count} dead letters${ids === '' ? '' : ` (${ids})`} and a lag of ${JSON.stringify(lag)}`;
    } catch (error) {
      return `the broker does not say what it has: ${error}`;
    }
  }

  #report({ orders, ledger }: Books, differences: readonly string[]): CrashReport {
    return {
      ...this.#pair,
      seed: this.#options.seed,
      rounds: this.#options.rounds,
      each: this.#options.each,
      kills: { service: this.#kills('service'), relay: this.#kills('relay'), consumer: this.#kills('consumer') },
      restarts: this.#restarts,
      rowsCommitted: orders.length,
      rolledBack: this.#count('rolledBack'),
      interrupted: this.#count('interrupted'),
      eventsHandled: new Set(ledger.map(({ event }) => event)).size,
      duplicates: this.#count('duplicate'),
      failedAttempts: this.#count('failed'),
      seconds: Math.round((performance.now() - this.#begun) / 100) / 10,
      differences,
    };
  }

  // Small parts

  #member(role: Role): Member {
    const order = () => ({
      role,
      shop: this.#surroundings.shop,
      broker: this.#surroundings.broker,
      seed: this.#random.between(0, 2 ** 31),
    });
    return new Member(role, order, {
      counted: (count, by) => void this.#counts.set(count, this.#count(count) + by),
      printed: (text) => this.#note(role, text),
      ended: (error) => this.#broken.reject(error),
    });
  }

  #note(who: Role | 'director', text: string): void {
    if (this.#log.writableEnded) return;
    this.#log.write(text.replace(/^(?=.)/gm, `${new Date().toISOString()} ${who}: `));
  }

  #of(role: Role): readonly Member[] {
    return this.#members.filter((member) => member.role === role);
  }

  #kills(role: Role): number {
    return this.#of(role).reduce((total, { kills }) => total + kills, 0);
  }

  #count(count: Count): number {
    return this.#counts.get(count) ?? 0;
  }

  #unlessBroken<T>(step: Promise<T>): Promise<T> {
    step.catch(() => {});
    return Promise.race([step, this.#broken.promise]);
  }

  #progress(round: number): string {
    const kills = roles.map((role) => `${role} ${this.#kills(role)}`).join(', ');
    const { database, broker } = this.#restarts;
    const figures = `${this.#count('committed')} rows told committed, ${this.#count('ran')} handled`;
    return `round ${round} of ${this.#options.rounds}: killed ${kills}; restarted database ${database}, broker ${broker}; ${figures}`;
  }

  #sayNowAndThen(line: () => string): void {
    const now = performance.now();
    if (now - this.#said < progressEvery) return;
    this.#said = now;
    this.#options.say(`${this.#pair.database} with ${this.#pair.broker}: ${line()}`);
  }
}
