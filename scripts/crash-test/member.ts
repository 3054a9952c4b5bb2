import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { settles } from '../../conformance-tests/dist/eventually.js';
import type { Count, Role } from './programs.ts';
import type { ShopAddress } from './shop.ts';

/** Everything a process needs; it stands on its command line. */
export interface MemberOrder {
  readonly role: Role;
  readonly shop: ShopAddress;
  /** The broker's URL. */
  readonly broker: string;
  readonly seed: number;
}

export interface MemberEvents {
  counted(count: Count, by: number): void;
  printed(text: string): void;
  /** It has ended, and nobody had asked for that. */
  ended(error: Error): void;
}

const main = fileURLToPath(new URL('./member-main.ts', import.meta.url));
/** Milliseconds; a broker that was restarted may take its time. */
const startsWithin = 120_000;
const endsWithin = 40_000;

/** One of the three processes, over all its lives. */
export class Member {
  readonly role: Role;
  kills = 0;
  readonly #orderOf: () => MemberOrder;
  readonly #events: MemberEvents;
  #retired = false;
  #child: ChildProcess | undefined;
  #ended: Promise<void> = Promise.resolve();
  #active = Promise.withResolvers<void>();
  #ready = Promise.withResolvers<void>();
  #told = Promise.withResolvers<void>();

  constructor(role: Role, orderOf: () => MemberOrder, events: MemberEvents) {
    this.role = role;
    this.#orderOf = orderOf;
    this.#events = events;
  }

  start(): void {
    if (this.#retired) return;
    const child = fork(main, [JSON.stringify(this.#orderOf())], {
      execArgv: ['--disable-warning=ExperimentalWarning'],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    const active = Promise.withResolvers<void>();
    const ready = Promise.withResolvers<void>();
    this.#child = child;
    this.#active = active;
    this.#ready = ready;
    let last = '';
    const print = (chunk: Buffer): void => {
      const text = chunk.toString();
      last = (last + text).slice(-4_000);
      this.#events.printed(text);
    };
    child.stdout?.on('data', print);
    child.stderr?.on('data', print);
    child.on('message', (told: { readonly ready?: true; readonly count: Count; readonly by: number }) => {
      if (told.ready) return ready.resolve();
      active.resolve();
      this.#told.resolve();
      this.#told = Promise.withResolvers();
      this.#events.counted(told.count, told.by);
    });
    this.#ended = new Promise((resolve) => {
      child.once('error', (error) => this.#events.ended(error));
      // What it printed and told has been read by then.
      child.once('close', (code, signal) => {
        if (this.#child === child) {
          this.#child = undefined;
          this.#events.ended(
            new Error(`the ${this.role} ended by itself with ${signal ?? code}; its last words:\n${last}`),
          );
        }
        resolve();
      });
    });
  }

  /** Resolves when this life of it has done something. */
  get active(): Promise<void> {
    return this.#active.promise;
  }

  /** Resolves when it tells that it has done something more: then what comes after that is not done yet. */
  get nextWord(): Promise<void> {
    return this.#told.promise;
  }

  async kill(): Promise<void> {
    if (this.#child === undefined) return;
    this.kills++;
    this.#end('SIGKILL');
    await this.#ended;
  }

  /** Kills it for good: a round that was broken off may be about to start it again. */
  async retire(): Promise<void> {
    this.#retired = true;
    await this.kill();
  }

  /** Has it end in good order. */
  async stop(): Promise<void> {
    await settles(`the ${this.role} is ready for its work`, this.#ready.promise, startsWithin);
    const child = this.#end('SIGTERM');
    if (child === undefined) return;
    try {
      await settles(`the ${this.role} ends by itself after SIGTERM`, this.#ended, endsWithin);
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
    if (child.exitCode !== 0) throw new Error(`the ${this.role} ended with ${child.signalCode ?? child.exitCode}`);
  }

  #end(signal: NodeJS.Signals): ChildProcess | undefined {
    const child = this.#child;
    this.#child = undefined;
    child?.kill(signal);
    return child;
  }
}
