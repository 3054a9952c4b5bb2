/** Into how many pieces an outbox is cut: what relays share among themselves. Written into every row, so it never changes. */
export const laneCount = 64;

/**
 * The lane of a key: 32-bit FNV-1a over the UTF-16 code units of topic, a zero and key. All relays and all publishers,
 * of every version, have to agree on it.
 */
export function laneOf(topic: string, key: string): number {
  let hash = 0x811c9dc5;
  const mix = (text: string): void => {
    for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  };
  mix(topic);
  hash = Math.imul(hash, 0x01000193);
  mix(key);
  // The low bits of FNV alone are weak for short texts.
  return ((hash ^ (hash >>> 15)) >>> 0) % laneCount;
}

let next = Math.floor(Math.random() * laneCount);

/** The lane of a message without a key: each in turn. */
export function anyLane(): number {
  next = (next + 1) % laneCount;
  return next;
}
