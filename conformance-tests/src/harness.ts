/** What the suite needs to know of a broker beyond the library's public API: a small harness, written per adapter. */
import type { Adapter, AdapterFactory } from '@waybill/core/adapter';

/** An adapter that the suite is to prove. */
export interface AdapterUnderTest {
  /** As in `Adapter.name`: `kafka`. */
  readonly name: string;
  /** Milliseconds: the shortest lease that tests can ask for with the targets of this harness. */
  readonly lease: number;
  /**
   * Where a member process finds the adapter's factory, as something to `import()`. Default: nothing, and core finds
   * it by its URL.
   */
  readonly module?: string;
  /** What opens its URLs in this process, for an adapter that core does not find by itself. */
  readonly factory?: AdapterFactory;
  /** Starts a broker, or takes the one that the environment names. Rejects loudly when there is neither. */
  start(): Promise<BrokerUnderTest>;
}

/** What `connect` is called with. */
export type Target = string | Adapter;

/** A running broker. Whatever a harness cannot do it leaves out; the tests that need it then fail and say so. */
export interface BrokerUnderTest {
  /** A URL by which any process reaches the broker: what CFG-01 opens. */
  readonly url: string;
  /** What the buses of this process connect to. Default: `url`. */
  target?(): Target;
  /**
   * True where the broker lives in this process. Members then run here too, over a link that is severed for ever when
   * they are killed.
   */
  readonly inProcess: boolean;
  /** A network of its own between one bus and the broker, which can be cut. */
  openLink(): Promise<NetworkLink>;
  /** Ends the broker at once, as a power cut would. */
  stop(): Promise<void>;
  /** Brings it back at the same address with its data; resolves when it answers. */
  start(): Promise<void>;
  /** Stops the broker in good order and brings it back. */
  restart(): Promise<void>;
  /** The plain client of the broker, that knows nothing of Waybill. */
  readonly foreign: ForeignClient;
  /** Other ways in: wrong addresses and credentials, TLS, authentication. */
  readonly doors: Doors;
  /** Removes the broker, or leaves it where the environment named it. */
  dispose(): Promise<void>;
}

/** How a connection ends: at once by a reset, or by nothing getting through any more. */
export type CutMode = 'reset' | 'blackhole';

export interface NetworkLink {
  /** What a bus connects to so that all of its traffic takes this link. */
  readonly target: Target;
  /** The same as a URL, for processes; `undefined` where the broker lives in this process. */
  readonly url: string | undefined;
  /** Ends the open connections and lets no new one through. */
  cut(mode: CutMode): Promise<void>;
  mend(): Promise<void>;
  /**
   * Loses what the broker answers from now on, while what is sent still reaches it, until the next cut. Needed for
   * replies that are lost with their connection.
   */
  loseReplies(): Promise<void>;
  close(): Promise<void>;
}

/** A message as a program without Waybill makes it. */
export interface ForeignMessage {
  readonly body: Uint8Array;
  readonly key?: string;
  readonly contentType?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A message as a program without Waybill sees it: the broker's own fields. */
export interface ForeignCopy {
  readonly body: Uint8Array;
  readonly key: string | undefined;
  /** Text values of all headers, Waybill's own included. */
  readonly headers: Readonly<Record<string, string>>;
}

export interface ForeignReader {
  /** The next copy; rejects when there is none within `within` milliseconds. */
  next(within: number): Promise<ForeignCopy>;
  close(): Promise<void>;
}

/** What a topic is made of on the broker. */
export type TopologyPart = 'topic' | 'group' | 'dead-letters';

export interface ForeignClient {
  /** Whether messages of this broker have keys, without Waybill: all, or those of ordered topics alone. */
  readonly keys: boolean | 'ordered';
  /** Resolves when the broker has stored it. The topic exists. A key is left out where the broker has none. */
  publish(topic: string, message: ForeignMessage): Promise<void>;
  /** Reads a copy of everything that is published to the topic from now on. The topic exists. */
  read(topic: string): Promise<ForeignReader>;
  /** Bytes of the largest body that the broker itself stores (DLQ-06); `undefined` where it has no limit of its own. */
  readonly maxBodyBytes: number | undefined;
  /** Deletes a part of the topology under running subscriptions (LIFE-07). */
  remove(part: TopologyPart, place: Place): Promise<void>;
  /** Whether this part stands on the broker. */
  exists(part: TopologyPart, place: Place): Promise<boolean>;
  /** Names of everything on the broker that holds this text: what a removed group must leave nothing of. */
  namesWith(text: string): Promise<readonly string[]>;
  /**
   * Makes a topic and a group of it under names of the user's own, as programs do that know nothing of Waybill
   * (CFG-04).
   */
  makeOwn(): Promise<OwnTopic>;
  /** Settings that would let a group, its retries or its dead letters expire: a sentence each (RET-01). */
  retentionFaults(place: Place): Promise<readonly string[]>;
  /**
   * Makes the broker forget what a topic's groups have not read yet (RET-02); `undefined` where a group's place cannot
   * be lost.
   */
  readonly trim: ((topic: string) => Promise<void>) | undefined;
}

/** A topic and a group as the bus names them, with the bus's `namePrefix`. */
export interface Place {
  readonly topic: string;
  readonly group: string;
  readonly prefix?: string;
}

/** A topic and a group that stand on the broker already. */
export interface OwnTopic {
  readonly target: Target;
  /** Their names there. */
  readonly topic: string;
  readonly group: string;
  publish(message: ForeignMessage): Promise<void>;
}

export interface Doors {
  /** Ways that must fail (LIFE-04): what is wrong, the URL, what the error must name, and a secret it must not. */
  readonly closed: () => Promise<readonly ClosedDoor[]>;
  /** Ways that must work (CFG-03), one per transport and authentication. */
  readonly open: () => Promise<readonly OpenDoor[]>;
  /** A URL with a parameter that no adapter knows (CFG-01). */
  readonly unknownParameter: string;
}

export interface ClosedDoor {
  /** Such as `a wrong password`. */
  readonly what: string;
  readonly target: Target;
  /** What the error's text must hold: the cause. */
  readonly cause: RegExp;
  /** What the error's text must hold: host and port, path or name. */
  readonly names: string;
  /** What must stand nowhere in it. */
  readonly secret: string | undefined;
  /** True when no second try can help: the error must come without waiting for `connectTimeout`. */
  readonly final: boolean;
}

export interface OpenDoor {
  /** Such as `TLS with a private authority`. */
  readonly what: string;
  readonly target: Target;
  /** True where the broker refuses this way, and only `verify` tells that it was tried. */
  readonly refused?: boolean;
  /** Checks afterwards that this door was really used. */
  verify?(): Promise<void>;
  close?(): Promise<void>;
}
