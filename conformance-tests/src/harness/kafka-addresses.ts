import type { Address } from './proxy.ts';

/**
 * Changes the address that a Kafka broker advertises into the proxy's, so that clients stay behind the proxy after the
 * first answer. Every answer that tells a broker's address has its host as text and its port in four bytes behind it,
 * whatever the version of the message: that pattern is replaced, and the frame's length with it.
 */
export function rewriteAdvertised(advertised: Address, proxy: Address): (chunk: Buffer) => Buffer {
  let buffered: Buffer = Buffer.alloc(0);
  return (chunk) => {
    buffered = buffered.length === 0 ? chunk : Buffer.concat([buffered, chunk]);
    const frames: Buffer[] = [];
    while (buffered.length >= 4) {
      const end = 4 + buffered.readInt32BE(0);
      if (buffered.length < end) break;
      frames.push(rewriteFrame(buffered.subarray(4, end), advertised, proxy));
      buffered = buffered.subarray(end);
    }
    return Buffer.concat(frames);
  };
}

function rewriteFrame(frame: Buffer, advertised: Address, proxy: Address): Buffer {
  const pattern = Buffer.concat([Buffer.from(advertised.host), int32(advertised.port)]);
  const parts: Buffer[] = [];
  let from = 0;
  for (let at = frame.indexOf(pattern); at >= 0; at = frame.indexOf(pattern, at + 1)) {
    const length = textLength(frame, at, advertised.host, proxy.host);
    if (length === undefined) continue;
    parts.push(frame.subarray(from, at - length.length), length, Buffer.from(proxy.host), int32(proxy.port));
    from = at + pattern.length;
  }
  parts.push(frame.subarray(from));
  const rewritten = Buffer.concat(parts);
  return Buffer.concat([int32(rewritten.length), rewritten]);
}

/** The length that stands before a text, for the new text: two bytes, or one byte that is one more than it. */
function textLength(frame: Buffer, at: number, before: string, after: string): Buffer | undefined {
  if (at >= 2 && frame.readInt16BE(at - 2) === before.length) {
    const bytes = Buffer.alloc(2);
    bytes.writeInt16BE(after.length);
    return bytes;
  }
  if (at >= 1 && frame[at - 1] === before.length + 1) return Buffer.of(after.length + 1);
  return undefined;
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}
