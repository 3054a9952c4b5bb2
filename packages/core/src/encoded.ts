import { checkName } from './names.ts';
import { defineTopic, type TopicDefinition } from './topic.ts';
import type { BrokerOptions, Receipt } from './types.ts';

/** What a topic's declaration says to a broker, as far as it can be written down. */
export interface TopicDeclaration {
  readonly name: string;
  /** `undefined`: not declared, taken as it stands on the broker. */
  readonly ordered: boolean | undefined;
  readonly lanes: number | undefined;
  readonly broker: BrokerOptions | undefined;
}

/** A publish that has been checked and encoded, with its defaults filled in; it may be kept and sent by another process. */
export interface EncodedMessage {
  /** Of messages that share one object the bus looks the topic up once. */
  readonly topic: TopicDeclaration;
  readonly id: string;
  readonly key: string | undefined;
  readonly type: string | undefined;
  readonly contentType: string;
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  /** Times are milliseconds since 1970. */
  readonly publishedAt: number;
  readonly deliverAt: number | undefined;
  readonly expiresAt: number | undefined;
  readonly broker: BrokerOptions | undefined;
}

/** What a bus has for encoded messages. The symbol is shared by all copies of core in a process. */
export const forwarding: unique symbol = Symbol.for('waybill.forward') as never;

export interface Forwarder {
  [forwarding](message: EncodedMessage, options: { readonly signal?: AbortSignal }): Promise<Receipt>;
}

const definitions = new WeakMap<TopicDeclaration, TopicDefinition>();

/** @throws ConfigError for a declaration that no topic can have */
export function definitionOf(declaration: TopicDeclaration): TopicDefinition {
  let definition = definitions.get(declaration);
  if (definition === undefined) {
    const { name, ordered, lanes, broker } = declaration;
    checkName('topic', name);
    definition = defineTopic(name, {
      ...(ordered !== undefined && { ordered }),
      ...(lanes !== undefined && { lanes }),
      ...(broker !== undefined && { broker }),
    });
    definitions.set(declaration, definition);
  }
  return definition;
}
