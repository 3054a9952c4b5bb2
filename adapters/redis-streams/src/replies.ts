/** What scripts and commands reply, read with care: it comes from outside. */
import type { Entry } from './message.ts';

export function asList(reply: unknown): readonly unknown[] {
  return Array.isArray(reply) ? reply : [];
}

export function asText(reply: unknown): string {
  return Buffer.isBuffer(reply) ? reply.toString() : reply === null || reply === undefined ? '' : String(reply);
}

export function asNumber(reply: unknown): number {
  return typeof reply === 'number' ? reply : Number(asText(reply));
}

export function asEntry(id: unknown, fields: unknown): Entry {
  return { id: asText(id), fields: asList(fields) as readonly Buffer[] };
}

/** An entry of one of a group's streams, by its place in the keys of scripts. */
export interface Found {
  readonly stream: number;
  readonly entry: Entry;
  readonly deliveries: number;
}

/** `{ stream, id, deliveries, fields }` each. */
export function asFound(reply: unknown): Found[] {
  return asList(reply).map((one) => {
    const [stream, id, deliveries, fields] = asList(one);
    return { stream: asNumber(stream), entry: asEntry(id, fields), deliveries: asNumber(deliveries) };
  });
}

/** The reply of XREAD and XREADGROUP: entries by stream. */
export function asStreams(reply: unknown): { readonly key: string; readonly entries: readonly Entry[] }[] {
  return asList(reply).map((one) => {
    const [key, entries] = asList(one);
    return {
      key: asText(key),
      entries: asList(entries).map((entry) => {
        const [id, fields] = asList(entry);
        return asEntry(id, fields);
      }),
    };
  });
}
