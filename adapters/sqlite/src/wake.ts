import { closeSync, type FSWatcher, openSync, realpathSync, utimesSync, watch } from 'node:fs';
import type { Clock, Timer } from '@waybill/core/adapter';
import type { Settings } from './options.ts';

interface Watched {
  /** Counts the commits of other connections. */
  version(): number;
  /** Looks whether the file is still in its place; false while it is not. */
  look(): boolean;
  /** Somebody else has written. */
  changed(): void;
}

/** All of this process, by file: they need no detour through the file system. */
const neighbours = new Map<string, Set<Wake>>();
let turns = 0;

/**
 * How those who have the same file open wake each other: by touching a file beside it, after the commit. (The write-ahead
 * log itself is written before its commit can be seen, measured: who looks then sees nothing. And the database must
 * not be watched, because where watching opens it, closing it again drops SQLite's locks.) Where that does not come
 * through (a network file system, a container's mount) polling finds it.
 */
export class Wake {
  readonly #settings: Settings;
  readonly #clock: Clock;
  readonly #watched: Watched;
  #file: string;
  #signal: string;
  #watcher: FSWatcher | undefined;
  #timer: Timer | undefined;
  #version: number;
  #closed = false;

  constructor(settings: Settings, clock: Clock, watched: Watched) {
    this.#settings = settings;
    this.#clock = clock;
    this.#watched = watched;
    // Behind a symbolic link stands the same file.
    this.#file = realpathSync(settings.path);
    this.#signal = `${this.#file}-wake`;
    this.#version = watched.version();
    this.#join();
    this.#watch();
    this.#poll();
  }

  /**
   * To be called after a commit that has something for members. Those of this process are told in turn, because who is
   * told first gets a single message.
   *
   * @param own tells those of this connection
   */
  all(own: () => void): void {
    const all = [...(neighbours.get(this.#file) ?? [])];
    const first = turns++;
    for (let i = 0; i < all.length; i++) {
      const one = all[(first + i) % all.length] as Wake;
      queueMicrotask(one === this ? own : () => one.#look());
    }
    const now = this.#clock.now() / 1_000;
    try {
      utimesSync(this.#signal, now, now);
    } catch {
      this.#watch(); // somebody removed it; the others poll meanwhile
    }
  }

  /** The file was opened again, perhaps another one. */
  reopened(): void {
    this.#leave();
    this.#file = realpathSync(this.#settings.path);
    this.#signal = `${this.#file}-wake`;
    this.#version = this.#watched.version();
    this.#join();
    this.#watch();
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#watcher?.close();
    this.#leave();
  }

  #join(): void {
    const others = neighbours.get(this.#file) ?? new Set();
    neighbours.set(this.#file, others.add(this));
  }

  #leave(): void {
    const others = neighbours.get(this.#file);
    others?.delete(this);
    if (others?.size === 0) neighbours.delete(this.#file);
  }

  #watch(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
    try {
      closeSync(openSync(this.#signal, 'a'));
      const watcher = watch(this.#signal, { persistent: false }, (event) => {
        if (event === 'rename') this.#forget(watcher);
        this.#look();
      });
      watcher.on('error', () => this.#forget(watcher));
      this.#watcher = watcher;
    } catch {
      // No watching here: polling is enough.
    }
  }

  #forget(watcher: FSWatcher): void {
    watcher.close();
    if (this.#watcher === watcher) this.#watcher = undefined;
  }

  /** Also what keeps the process alive while the bus is open, as a socket would. */
  #poll(): void {
    this.#timer = this.#clock.setTimeout(() => {
      if (this.#watcher === undefined) this.#watch();
      this.#look();
      if (!this.#closed) this.#poll();
    }, this.#settings.pollInterval);
  }

  #look(): void {
    if (this.#closed || !this.#watched.look()) return;
    let version: number;
    try {
      version = this.#watched.version();
    } catch {
      return; // the next write or read tells what is wrong
    }
    if (version === this.#version) return;
    this.#version = version;
    this.#watched.changed();
  }
}
