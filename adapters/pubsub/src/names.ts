import { createHash, randomUUID } from 'node:crypto';
import { type NameOverrides, nameMaker } from '@waybill/core/adapter';

/** Pub/Sub's rule for the names of topics, subscriptions and snapshots. */
const allowed = /[A-Za-z0-9\-_.~+%]/;
const valid = /^(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}$/i;

const make = nameMaker(allowed, 255);

/** Where a group lives, as full resource names. */
export interface GroupPlace {
  readonly topic: string;
  readonly subscription: string;
  /** Topic and subscription of the same name; `undefined` where messages are retried by the member that has them. */
  readonly retry: Pair | undefined;
  readonly deadLetters: Pair;
}

/** A topic with the one subscription that reads it. */
export interface Pair {
  readonly topic: string;
  readonly subscription: string;
}

/** Every name that this adapter uses on the broker (CFG-04). `v1` is the version of the wire format and topology. */
export class BrokerNames {
  readonly #project: string;
  readonly #prefix: string;
  readonly #overrides: NameOverrides;

  constructor(project: string, prefix: string, overrides: NameOverrides) {
    this.#project = `projects/${project}`;
    this.#prefix = prefix;
    this.#overrides = overrides;
  }

  get project(): string {
    return this.#project;
  }

  /**
   * A topic bears its own name, so that programs without Waybill find it. What Pub/Sub does not allow is escaped; and
   * what then is too short, or begins as no name may, gets `waybill` before it.
   */
  topic(topic: string): string {
    return this.#path('topics', this.#overrides.topic?.(topic) ?? topicName(this.#prefix + topic));
  }

  group(topic: string, group: string, retries: boolean): GroupPlace {
    return {
      topic: this.topic(topic),
      subscription: this.#path(
        'subscriptions',
        this.#overrides.group?.(topic, group) ?? this.#own('group', topic, group),
      ),
      retry: retries
        ? this.#pair(this.#overrides.retry?.(topic, group) ?? this.#own('retry', topic, group))
        : undefined,
      deadLetters: this.#pair(this.#overrides.deadLetter?.(topic, group) ?? this.#own('dead', topic, group)),
    };
  }

  /** Subscription and snapshot for a look that leaves others in peace. */
  look(): { readonly subscription: string; readonly snapshot: string } {
    const name = this.#own('look', randomUUID());
    return { subscription: this.#path('subscriptions', name), snapshot: this.#path('snapshots', name) };
  }

  /** A snapshot that the user made. */
  snapshot(name: string): string {
    return this.#path('snapshots', name);
  }

  #pair(name: string): Pair {
    return { topic: this.#path('topics', name), subscription: this.#path('subscriptions', name) };
  }

  #own(kind: string, ...parts: readonly string[]): string {
    const name = make(`${this.#prefix}waybill.v1.${kind}`, ...parts);
    return valid.test(name) ? name : make('waybill', `${this.#prefix}waybill.v1.${kind}`, ...parts);
  }

  /** A name that the user chose may name another project as well. */
  #path(kind: 'topics' | 'subscriptions' | 'snapshots', name: string): string {
    return name.startsWith('projects/') ? name : `${this.#project}/${kind}/${name}`;
  }
}

function topicName(name: string): string {
  const made = make(name);
  return valid.test(made) ? made : make('waybill', name);
}

/** Stands for a foreign message that has neither an id nor a position. */
export function hashOf(body: Uint8Array): string {
  return createHash('sha256').update(body).digest('hex').slice(0, 32);
}
