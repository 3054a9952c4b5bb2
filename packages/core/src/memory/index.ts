import type { Adapter, AdapterFactory } from '../adapter.ts';
import { ConfigError } from '../errors.ts';
import { checkName } from '../names.ts';
import { checkOptions, param, parseBrokerUrl, readParams } from '../url.ts';
import { Broker } from './broker/broker.ts';
import { clientOf, type MemoryBroker } from './client.ts';
import { MemoryConnection } from './connection.ts';

export type { StoredMessage } from './broker/message.ts';
export type { MemoryBroker, MemoryTopic, PlainMessage } from './client.ts';

export interface MemoryOptions {
  /** Shares the broker with everybody in this process who names it so. Default: a broker of this adapter alone. */
  readonly name?: string;
  /** Bytes of the largest body. Default: 1 MiB. */
  readonly maxMessageBytes?: number;
  /** Messages that a topic keeps for `seek` and `earliest` although all groups have read them. Default: 10,000. */
  readonly retainMessages?: number;
  /** Bytes of bodies that it keeps for them. Default: 64 MiB. */
  readonly retainBytes?: number;
}

const defaults = { maxMessageBytes: 1_024 * 1_024, retainMessages: 10_000, retainBytes: 64 * 1_024 * 1_024 };

export interface MemoryFactory extends AdapterFactory {
  /** @throws ConfigError for an option that is unknown or out of range */
  (options?: MemoryOptions): Adapter;
}

/**
 * The broker in this process: for tests, for examples, and for services that are one process and may forget.
 *
 * URL: `memory:` is a broker of its own for each bus, `memory:name` one for the process. Parameters as the options:
 * `memory:orders?maxMessageBytes=65536`. An adapter made by `memory()` can be given to several buses, which then share
 * its broker.
 *
 * Delivery: at least once, with a lease on each delivery. A retry goes back with its attempt number and leaves others
 * in peace; on ordered topics one message of a key is out at a time, and the key waits for its retry. Delays, dead
 * letters, counts of deliveries, lag, seek and replay are exact. Everything is gone with the process. While a bus is
 * connected the process stays alive, as with any broker.
 *
 * Unsupported: nothing.
 */
export const memory: MemoryFactory = Object.defineProperty(
  Object.assign(adapterOf, { schemes: ['memory'], fromUrl }),
  'name',
  { value: 'memory' },
);

/**
 * The broker that `memory:name` connects to, for tests: to publish as a stranger, to delete what is in use, to cut the
 * network. `bus.native('memory')` is the same for any broker.
 *
 * @throws ConfigError for a name that is not 1 to 100 token characters
 */
export function memoryBroker(name: string): MemoryBroker {
  return clientOf(sharedBroker(name, {}));
}

const brokers = new Map<string, Broker>();

function adapterOf(options: MemoryOptions = {}): Adapter {
  checkOptions(options, ['name', ...Object.keys(defaults)], '');
  for (const [name, value] of Object.entries({ ...defaults, ...options })) {
    if (name !== 'name' && !(Number.isInteger(value) && Number(value) >= 0)) {
      throw new ConfigError(name, `${value} is not a whole number`, { adapter: 'memory' });
    }
  }
  const broker = options.name === undefined ? newBroker('memory:', options) : sharedBroker(options.name, options);
  const { maxMessageBytes = defaults.maxMessageBytes } = options;
  return {
    name: 'memory',
    target: broker.target,
    connect: async (context) => new MemoryConnection(context, { broker, native: clientOf(broker), maxMessageBytes }),
  };
}

function fromUrl(text: string): Adapter {
  const url = parseBrokerUrl(text);
  if (url.hosts.length > 0 || url.user !== undefined) {
    throw new ConfigError('url', `"${url.shown}" has a host; write memory: or memory:name`, { adapter: 'memory' });
  }
  const options = readParams(url, {
    maxMessageBytes: param.integer,
    retainMessages: param.integer,
    retainBytes: param.integer,
  });
  return adapterOf(url.path ? { ...options, name: url.path } : options);
}

function sharedBroker(name: string, options: MemoryOptions): Broker {
  checkName('name', name);
  let broker = brokers.get(name);
  if (broker === undefined) {
    broker = newBroker(`memory:${name}`, options);
    brokers.set(name, broker);
  }
  const { messages, bytes } = broker.retention;
  if ((options.retainMessages ?? messages) !== messages || (options.retainBytes ?? bytes) !== bytes) {
    throw new ConfigError(
      'retainMessages',
      `the broker ${broker.target} keeps ${messages} messages and ${bytes} bytes, as it was first opened with`,
      { adapter: 'memory' },
    );
  }
  return broker;
}

function newBroker(target: string, options: MemoryOptions): Broker {
  const { retainMessages: messages, retainBytes: bytes } = { ...defaults, ...options };
  return new Broker(target, { messages, bytes });
}
