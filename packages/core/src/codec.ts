import { TextDecoder } from 'node:util';
import { InvalidMessageError } from './errors.ts';
import { jsonFault } from './json-fault.ts';

/** How data becomes bytes and bytes become data. */
export interface Codec {
  /** What stands on a message whose body this codec made. */
  readonly contentType: string;
  /** @throws anything when the data cannot be encoded, or would come back as something else */
  encode(data: unknown): Uint8Array;
  /**
   * @param contentType the message's own; the codec's where the message has none
   * @throws anything when the body is not what it should be
   */
  decode(body: Uint8Array, contentType: string): unknown;
}

/** What raw bytes are published as. */
export const rawContentType = 'application/octet-stream';

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** The decoder for a content type's `charset`; UTF-8 unless it says otherwise. */
function decoderFor(contentType: string): TextDecoder {
  const charset = /;\s*charset="?([^";\s]+)/i.exec(contentType)?.[1];
  return charset === undefined || /^utf-?8$/i.test(charset) ? utf8 : new TextDecoder(charset, { fatal: true });
}

/**
 * The default codec. It refuses what JSON would change in silence: `NaN`, functions, a `Map`, … Allowed are objects
 * with `toJSON`, such as a `Date`, and properties that are `undefined`, which are left out.
 *
 * It reads JSON (`application/json`, any `+json`) and text as such, and hands everything else over as bytes.
 */
export const jsonCodec: Codec = {
  contentType: 'application/json',
  encode(data) {
    let text: string | undefined;
    try {
      text = JSON.stringify(data);
    } catch (cause) {
      const fault = jsonFault(data);
      throw new InvalidMessageError(`data${fault?.path ?? ''}`, fault?.problem ?? 'cannot be written as JSON', {
        cause,
      });
    }
    const fault = jsonFault(data);
    if (fault !== undefined) throw new InvalidMessageError(`data${fault.path}`, fault.problem);
    // Only a toJSON that returns undefined gets here without a text.
    if (text === undefined) throw new InvalidMessageError('data', 'is nothing in JSON');
    return Buffer.from(text);
  },
  decode(body, contentType) {
    const kind = kindOf(contentType);
    if (kind === 'bytes') return body;
    const text = decoderFor(contentType).decode(body);
    return kind === 'text' ? text : JSON.parse(text);
  },
};

export type ContentKind = 'json' | 'text' | 'bytes';

/** How a content type is read without a codec of its own; parameters such as `charset` do not count. */
export function kindOf(contentType: string): ContentKind {
  const essence = essenceOf(contentType);
  if (essence === 'application/json' || essence === 'text/json' || essence.endsWith('+json')) return 'json';
  return essence.startsWith('text/') ? 'text' : 'bytes';
}

/** A media type without its parameters, in lower case. */
export function essenceOf(contentType: string): string {
  const end = contentType.indexOf(';');
  return (end < 0 ? contentType : contentType.slice(0, end)).trim().toLowerCase();
}
