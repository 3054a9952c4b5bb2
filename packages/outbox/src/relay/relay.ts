import { randomUUID } from 'node:crypto';
import type { Bus, CloseOptions } from '@waybill/core';
import {
  Alarm,
  backOff,
  ClosedError,
  ConfigError,
  systemClock as clock,
  duration,
  Heap,
  InvalidMessageError,
  sleep,
} from '@waybill/core/adapter';
import { send } from '@waybill/core/outbox';
import type { SqlDatabase } from '@waybill/sql';
import { Declarations, messageOf, type RawRow, withoutJson } from '../row.ts';
import type { Statements } from '../statements.ts';
import type { Relay, RelayState, RelayStats } from '../types.ts';
import { Cancellation } from './cancellation.ts';
import { Hand, type Item, type KeyQueue, shut } from './hand.ts';
import { Marker } from './marker.ts';
import type { RelaySettings } from './options.ts';
import { Poller } from './poller.ts';
import { refusalOf, textOf } from './refusal.ts';
import { Share } from './share.ts';
import { Upkeep } from './upkeep.ts';
import { Weather } from './weather.ts';

export interface RelaySetup {
  readonly bus: Bus;
  readonly database: SqlDatabase;
  readonly statements: Statements;
  readonly settings: RelaySettings;
}

/** Rows of one read. */
const pageSize = 500;
/** Bytes of bodies in hand; one that is larger goes alone. */
const mostBytes = 33_554_432;
/** Keys with more rows than we want in hand, that one pass names to the database to leave them out. */
const mostKeysLeftOut = 50;
/** Milliseconds after which a pass through a long backlog begins anew, to see what was committed behind its back. */
const longestPass = 1_000;

/**
 * Sends what is in the table. It reads its lanes in passes, each from the oldest row on, so a row is found whenever its
 * transaction was committed. One message of a key is on its way at a time, the others of the key wait behind it.
 *
 * Order rests on three rules. A pass takes no row of a key of which an earlier row was left behind in the table (see
 * `KeyQueue.opensAt`). It takes no row that was written after it began, because an earlier one of its key may have been
 * committed behind the first page's back. And the table itself keeps back what comes behind a row that has failed.
 */
export class OutboxRelay implements Relay {
  readonly closed: Promise<void>;
  readonly #setup: RelaySetup;
  readonly #relay = randomUUID();
  readonly #hand = new Hand();
  readonly #weather = new Weather();
  readonly #cancellation = new Cancellation();
  readonly #declarations = new Declarations();
  readonly #share: Share;
  readonly #marker: Marker;
  readonly #poller: Poller;
  readonly #upkeep: Upkeep;
  /** For rows that are due again, and topics to be tried. */
  readonly #alarm: Alarm;
  readonly #due = new Heap<number>((a, b) => a < b);
  readonly #ended: PromiseWithResolvers<void>;
  #listening: AsyncDisposable | undefined;
  #resting = false;
  #state: RelayState = 'running';
  #databaseProblem: string | undefined;
  #pass = 0;
  /** The pass that is under way is to be broken off and begun anew. */
  #anew = false;
  /** The last pass came to the end of the table. */
  #whole = true;
  #reading: Promise<void> = Promise.resolve();
  #roomMade: (() => void) | undefined;
  #emptied: (() => void) | undefined;
  readonly #shed = new Set<number>();
  /** Of the bodies that were read last, so that no more is asked for than fits. */
  #averageBytes = 1_024;
  #inFlight = 0;
  #sent = 0;
  #failed = 0;
  #dead = 0;
  #closing: Promise<void> | undefined;

  constructor(setup: RelaySetup) {
    const { database, statements, settings, bus } = setup;
    if (typeof bus?.publish !== 'function') throw new ConfigError('bus', 'is not a bus of connect()');
    this.#setup = setup;
    this.#ended = Promise.withResolvers<void>();
    this.closed = this.#ended.promise;
    this.closed.catch(() => {});
    this.#poller = new Poller(settings.pollInterval);
    this.#alarm = new Alarm(clock, () => this.#ring());
    const trouble = (error: unknown): void => this.#trouble(error);
    const recovered = (): void => this.#recovered();
    this.#share = new Share(this.#relay, database, statements, settings.lease, {
      gained: () => this.#gained(),
      lost: (lanes) => this.#abandon(new Set(lanes)),
      shed: (lanes) => this.#letGo(lanes),
      expired: () => this.#expired(),
      renewed: () => this.#giveBackEmpty(),
      recovered,
      trouble,
    });
    this.#marker = new Marker(database, statements, this.#relay, settings.keepSent > 0, {
      marked: (items, as) => this.#marked(items, as),
      trouble,
      recovered,
    });
    this.#upkeep = new Upkeep({
      database,
      statements,
      keepSent: settings.keepSent,
      lease: settings.lease,
      chosen: () => this.#share.held.has(0),
      observeEvery: settings.observe === undefined ? undefined : settings.observeEvery,
      observe: async () => this.#observe(),
      trouble,
      warn: (text) => settings.logger.warn(text),
    });
  }

  get state(): RelayState {
    return this.#state === 'running' && this.#databaseProblem !== undefined ? 'recovering' : this.#state;
  }

  /** @throws what the database says */
  async start(): Promise<void> {
    const { bus, database, statements } = this.#setup;
    try {
      await this.#share.start();
      if (statements.channel !== undefined) {
        this.#listening = await database.listen?.(statements.channel, () => this.#poller.wake());
      }
    } catch (error) {
      await this.#share.stop();
      throw error;
    }
    this.#reading = this.#read();
    this.#upkeep.start();
    bus.closed.then(
      () => this.#fail(new ClosedError('the bus of this relay')),
      (error: unknown) => this.#fail(error),
    );
  }

  /** Something may have been published in this process. */
  stir(): void {
    this.#poller.stir();
  }

  async stats(): Promise<RelayStats> {
    const { database, statements } = this.#setup;
    const backlog = await statements.backlog(database).catch(() => undefined);
    const problem = this.#databaseProblem ?? this.#weather.problem;
    return {
      state: this.state,
      ...(problem !== undefined && { problem }),
      sent: this.#sent,
      failed: this.#failed,
      dead: this.#dead,
      inFlight: this.#inFlight,
      lanes: this.#share.held.size,
      backlog,
    };
  }

  close(options: CloseOptions = {}): Promise<void> {
    this.#closing ??= this.#close(duration(options.timeout ?? '25s', 'timeout'));
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // Reading

  async #read(): Promise<void> {
    for (let failures = 0; this.#state === 'running'; ) {
      try {
        const found = this.#share.alive ? await this.#readPass() : 0;
        if (failures > 0) this.#recovered();
        failures = 0;
        if (await this.#rests(found > 0)) continue;
        await this.#poller.next(found > 0);
      } catch (error) {
        if (this.#state !== 'running') return;
        this.#trouble(error);
        failures++;
        await this.#poller.rest(backOff(failures, { initial: 100, max: 5_000 }));
      }
    }
  }

  /**
   * Publishers notify only while a relay rests, because that costs them. True when it has just said so: then it looks
   * once more, for what was committed meanwhile.
   */
  async #rests(found: boolean): Promise<boolean> {
    if (this.#listening === undefined) return false;
    const resting = !found && (this.#resting || this.#poller.quiet);
    if (resting === this.#resting) return false;
    await this.#setup.statements.rest?.(this.#setup.database, this.#relay, resting);
    this.#resting = resting;
    return resting;
  }

  /** Reads from the oldest row to the newest, page by page, as there is room. Returns how many rows were new to us. */
  async #readPass(): Promise<number> {
    const { database, statements } = this.#setup;
    const pass = ++this.#pass;
    const began = clock.monotonic();
    this.#anew = false;
    this.#hand.open(pass);
    const topicsLeftOut = this.#weather.begin(pass, this.#whole);
    this.#whole = false;
    // Lanes that are gained during the pass wait for the next one, which sees all of their rows in order.
    const lanes = [...this.#share.held.keys()];
    const keysLeftOut: (readonly [string, string])[] = [];
    let found = 0;
    for (let after = 0, upTo = Number.MAX_SAFE_INTEGER; lanes.length > 0; ) {
      const limit = await this.#room();
      if (limit === 0) return found;
      this.#hand.forgetLeft();
      const asked = clock.monotonic();
      const page = await statements.page(database, {
        relay: this.#relay,
        lanes,
        after,
        upTo,
        limit,
        idsLeftOut: this.#hand.idsAfter(after),
        topicsLeftOut,
        keysLeftOut,
      });
      const rows = await this.#withBodies(page);
      const now = clock.monotonic();
      this.#poller.took(now - asked);
      // What is taken now would be sent and, with the marker stopped, sent again by the next relay.
      if (this.#state !== 'running') return found;
      // Lanes have come, gone or changed since this was asked: rows of them may have been left behind.
      if (this.#anew || !this.#share.alive) {
        this.#poller.wake();
        return found;
      }
      if (rows.length > 0) this.#averageBytes = Math.max(64, averageBytes(rows));
      for (const row of rows) if (this.#accept(row, pass, keysLeftOut)) found++;
      const last = rows.at(-1);
      if (last === undefined || (page.length < limit && rows.length === page.length)) break;
      upTo = Math.min(upTo, Number(last['newest']));
      after = Number(last['id']);
      if (now - began > longestPass) {
        // The rest after a look is for tables that are slow to look at in vain.
        if (found > 0) this.#poller.took(0);
        this.#poller.wake();
        return found;
      }
    }
    this.#whole = true;
    return found;
  }

  /** Of a page as many rows as there is memory for, at least one, and with the bodies that it has left out. */
  async #withBodies(page: readonly RawRow[]): Promise<readonly RawRow[]> {
    let count = 0;
    for (let left = mostBytes - this.#hand.bytes; count < page.length; count++) {
      left -= Number(page[count]?.['size']);
      if (left < 0 && count > 0) break;
    }
    const rows = page.slice(0, count);
    const large = rows.filter(({ body }) => body === null).map(({ id }) => Number(id));
    if (large.length === 0) return rows;
    const found = await this.#setup.statements.bodies(this.#setup.database, large);
    const bodies = new Map(found.map(({ id, body }) => [Number(id), body]));
    return rows.map((row) => (row['body'] === null ? { ...row, body: bodies.get(Number(row['id'])) } : row));
  }

  /** How many rows may be read. Waits until it is worth while; 0 when reading is over. */
  async #room(): Promise<number> {
    const { maxInFlight } = this.#setup.settings;
    const enough = Math.min(pageSize, Math.ceil(maxInFlight / 2));
    for (;;) {
      if (this.#state !== 'running') return 0;
      // What is only to be marked is small, but a database that does not take the marks must not be read on and on.
      const room = Math.min(maxInFlight - this.#hand.unsent, 2 * maxInFlight - this.#hand.size);
      const fits = Math.floor((mostBytes - this.#hand.bytes) / this.#averageBytes);
      if (room >= enough && (fits >= enough || this.#hand.bytes * 2 <= mostBytes)) {
        return Math.max(1, Math.min(pageSize, room, fits));
      }
      await new Promise<void>((resolve) => {
        this.#roomMade = resolve;
      });
    }
  }

  /** Takes a row into our hands, unless it has to wait in the table. */
  #accept(row: RawRow, pass: number, keysLeftOut: (readonly [string, string])[]): boolean {
    const id = Number(row['id']);
    const lane = Number(row['lane']);
    // Somebody else has sent or purged it while its body was being read.
    if (this.#hand.has(id) || row['body'] === undefined) return false;
    const fence = this.#share.held.get(lane);
    if (fence === undefined || fence !== Number(row['fence'])) {
      // Somebody else's by now, or its dead rows were purged: the next heartbeat says which.
      if (fence !== undefined) this.#share.hurry();
      return false;
    }
    const topic = row['topic'] as string;
    const key = row['message_key'];
    const queue = typeof key === 'string' ? this.#hand.queueOf(topic, key) : undefined;
    if (queue !== undefined && !this.#opens(queue, pass, keysLeftOut)) return false;
    if (!this.#weather.admits(topic, pass, queue?.busy === true)) return false;
    const failed = Boolean(row['failed']);
    const { message, fault } = this.#messageOf(row);
    const item: Item = {
      id,
      lane,
      message,
      fault,
      bytes: message.body.byteLength,
      attempts: Number(row['attempts']),
      failed,
      queue,
    };
    this.#hand.add(item);
    if (queue === undefined) this.#send(item);
    else {
      if (failed) this.#hand.gate(queue, shut);
      if (queue.busy) queue.waiting.push(item);
      else this.#send(item);
    }
    return true;
  }

  /** What cannot be read is given up on as what no broker takes: it must not keep all others. */
  #messageOf(row: RawRow): Pick<Item, 'message' | 'fault'> {
    try {
      return { message: messageOf(row, this.#declarations), fault: undefined };
    } catch (cause) {
      const fault = new InvalidMessageError('row', `cannot be read: ${textOf(cause)}`, { cause });
      return { message: messageOf(withoutJson(row), this.#declarations), fault };
    }
  }

  #opens(queue: KeyQueue, pass: number, keysLeftOut: (readonly [string, string])[]): boolean {
    if (queue.opensAt > pass) return false;
    // One key with a long backlog must not fill our hands.
    if (queue.waiting.length < Math.max(1, this.#setup.settings.maxInFlight >> 3)) return true;
    this.#hand.gate(queue, pass + 1);
    if (keysLeftOut.length < mostKeysLeftOut) keysLeftOut.push([queue.topic, queue.key]);
    return false;
  }

  // Sending

  #send(item: Item): void {
    if (item.queue !== undefined) item.queue.busy = true;
    this.#inFlight++;
    const lot = this.#cancellation.take();
    const { signal } = lot.controller;
    const sent =
      item.fault === undefined ? send(this.#setup.bus, item.message, { signal }) : Promise.reject(item.fault);
    sent.then(
      () => {
        this.#cancellation.done(lot);
        this.#inFlight--;
        this.#arrived(item);
      },
      (error: unknown) => {
        this.#cancellation.done(lot);
        this.#inFlight--;
        this.#refused(item, error, signal);
      },
    );
  }

  #arrived(item: Item): void {
    this.#sent++;
    if (this.#weather.answered(item.message.topic.name, this.#pass)) this.#passAnew();
    this.#hand.arrived(item);
    this.#madeRoom();
    this.#marker.sent(item);
    // The mark may come later: whoever reads the table before it sends this one again, and the next one after it.
    if (item.queue !== undefined) this.#next(item.queue);
  }

  #next(queue: KeyQueue): void {
    queue.busy = false;
    if (queue.waiting.length === 0) this.#hand.tidy(queue);
    else if (this.#share.alive) {
      const wasFull = queue.waiting.length === Math.max(1, this.#setup.settings.maxInFlight >> 3) >> 1;
      this.#send(queue.waiting.shift() as Item);
      if (wasFull) this.#poller.wake();
    } else this.#hand.drop(queue, this.#pass + 1);
  }

  #refused(item: Item, error: unknown, signal: AbortSignal): void {
    const refusal = refusalOf(error, signal);
    if (refusal === 'refused' || refusal === 'hopeless') this.#failure(item, error, refusal === 'hopeless');
    else {
      const { queue } = item;
      if (queue !== undefined) {
        queue.busy = false;
        this.#hand.drop(queue, this.#pass + 1);
      }
      this.#hand.remove(item);
      this.#giveBackEmpty();
      if (refusal === 'away') this.#away(item.message.topic.name, textOf(error));
      this.#madeRoom();
      if (refusal === 'closed') this.#fail(error);
    }
  }

  #away(topic: string, reason: string): void {
    const until = this.#weather.away(topic, reason);
    this.#hand.dropWhere((queue) => queue.topic === topic, this.#pass + 1);
    if (until === undefined) return;
    this.#setup.settings.logger.warn(`outbox: topic "${topic}" cannot be reached, trying again`, { reason });
    this.#ringAt(until);
  }

  #failure(item: Item, error: unknown, hopeless: boolean): void {
    const { maxAttempts, retryDelay, hold, logger } = this.#setup.settings;
    const { queue, message } = item;
    const topic = message.topic.name;
    const attempts = item.attempts + 1;
    const dead = hopeless || attempts >= maxAttempts;
    this.#failed++;
    if (this.#weather.answered(topic, this.#pass)) this.#passAnew();
    if (dead) {
      this.#dead++;
      logger.error(`outbox: message ${message.id} for topic "${topic}" was given up on after ${attempts} attempts`, {
        reason: textOf(error),
      });
    }
    if (queue !== undefined) {
      queue.busy = false;
      this.#hand.drop(queue, shut);
    }
    const after = backOff(attempts, retryDelay);
    this.#marker.failed(item, { id: item.id, attempts, after, error: textOf(error), dead, holds: dead && hold });
    if (!dead) this.#ringAt(clock.monotonic() + after);
  }

  #marked(items: readonly Item[], as: 'sent' | 'failed'): void {
    let again = false;
    for (const item of items) {
      this.#hand.remove(item);
      const { queue } = item;
      // It was this message that kept its key shut; from now on the table tells what may go of it.
      if (queue !== undefined && (as === 'failed' || item.failed)) {
        this.#hand.gate(queue, this.#pass + 1);
        again = true;
      }
    }
    if (again) this.#poller.wake();
    this.#giveBackEmpty();
    this.#madeRoom();
  }

  // Lanes

  #gained(): void {
    // One that we had let go of may have come back, after it was somebody else's.
    for (const lane of this.#shed) if (this.#share.held.has(lane)) this.#shed.delete(lane);
    this.#passAnew();
  }

  #letGo(lanes: readonly number[]): void {
    for (const lane of lanes) this.#shed.add(lane);
    this.#abandon(this.#shed);
    this.#giveBackEmpty();
  }

  /** Lets go of what waits: it is somebody else's, or has to be read anew. */
  #abandon(lanes: ReadonlySet<number>): void {
    this.#hand.dropWhere((_, first) => lanes.has(first.lane), this.#pass + 1);
    this.#madeRoom();
  }

  /** Nobody may be sure of anything until the next heartbeat. */
  #expired(): void {
    this.#cancellation.cancelAll();
    this.#hand.dropWhere(() => true, this.#pass + 1);
    this.#madeRoom();
  }

  /** Of the lanes that we let go of those of which nothing is in hand any more. */
  #giveBackEmpty(): void {
    if (this.#shed.size === 0) return;
    const empty = [...this.#shed].filter((lane) => this.#hand.countOf(lane) === 0);
    if (empty.length === 0) return;
    for (const lane of empty) this.#shed.delete(lane);
    this.#share.giveBack(empty).catch((error: unknown) => {
      for (const lane of empty) this.#shed.add(lane);
      this.#trouble(error);
    });
  }

  // Waking

  #passAnew(): void {
    this.#anew = true;
    this.#poller.wake();
  }

  #madeRoom(): void {
    this.#roomMade?.();
    this.#roomMade = undefined;
    if (this.#hand.size === 0) this.#emptied?.();
  }

  #ringAt(time: number): void {
    // What is not in it is found by the next look that nothing wakes.
    if (this.#due.size < 10_000) this.#due.push(time);
    this.#alarm.at(time);
  }

  #ring(): void {
    const now = clock.monotonic();
    while ((this.#due.peek() ?? shut) <= now) this.#due.pop();
    this.#alarm.at(this.#due.peek() ?? shut);
    this.#poller.wake();
  }

  // Trouble

  #trouble(error: unknown): void {
    const text = textOf(error);
    if (this.#databaseProblem === undefined) {
      this.#setup.settings.logger.warn('outbox: the database failed, trying again', { reason: text });
    }
    this.#databaseProblem = text;
  }

  #recovered(): void {
    if (this.#databaseProblem === undefined) return;
    this.#databaseProblem = undefined;
    this.#setup.settings.logger.info('outbox: the database answers again');
    this.#poller.wake();
  }

  async #observe(): Promise<void> {
    const { observe, logger } = this.#setup.settings;
    const stats = await this.stats();
    try {
      observe?.(stats);
    } catch (error) {
      logger.error('outbox: the observer failed', { reason: textOf(error) });
    }
  }

  // The end

  #fail(error: unknown): void {
    if (this.#state !== 'running') return;
    this.#setup.settings.logger.error('outbox: the relay has ended', { reason: textOf(error) });
    this.#closing ??= this.#close(1_000, error);
    this.#closing.catch(() => {});
  }

  async #close(timeout: number, error?: unknown): Promise<void> {
    this.#state = 'draining';
    const until = clock.monotonic() + timeout;
    this.#poller.stop();
    this.#alarm.stop();
    this.#hand.dropWhere(() => true, shut);
    this.#madeRoom();
    await within(timeout, this.#drain());
    this.#cancellation.cancelAll();
    this.#marker.stop();
    // The database may be away: what is not given back is free when its lease ends.
    const giveBack = async (): Promise<void> => {
      await Promise.all([this.#reading, this.#share.stop(), this.#upkeep.stop()]);
      const { database, statements } = this.#setup;
      const free = [...this.#share.held.keys(), ...this.#shed].filter((lane) => this.#hand.countOf(lane) === 0);
      await this.#share.giveBack(free);
      await statements.leave(database, this.#relay);
    };
    await within(
      Math.max(500, until - clock.monotonic()),
      Promise.allSettled([giveBack(), this.#listening?.[Symbol.asyncDispose]()]).then(() => {}),
    );
    this.#state = error === undefined ? 'closed' : 'failed';
    if (error === undefined) this.#ended.resolve();
    else this.#ended.reject(error);
  }

  #drain(): Promise<void> {
    if (this.#hand.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#emptied = resolve;
    });
  }
}

function averageBytes(rows: readonly RawRow[]): number {
  let bytes = 0;
  for (const row of rows) bytes += Number(row['size']);
  return bytes / rows.length;
}

/** Waits for something that never rejects, but not for longer than that; leaves no timer behind. */
async function within(milliseconds: number, work: Promise<void>): Promise<void> {
  const done = new AbortController();
  await Promise.race([work, sleep(clock, milliseconds, done.signal)]);
  done.abort();
}
