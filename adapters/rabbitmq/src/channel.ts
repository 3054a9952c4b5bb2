import type { Channel } from 'amqplib';
import type { Link } from './link.ts';

/** For what may fail: a failed request closes its channel, with all that is on it. */
export async function onScratchChannel<T>(link: Link, work: (channel: Channel) => Promise<T>): Promise<T> {
  const channel = await link.model.createChannel();
  let closed = false;
  channel.on('error', () => {});
  channel.on('close', () => {
    closed = true;
  });
  try {
    return await work(channel);
  } finally {
    if (!closed) await closeChannel(channel);
  }
}

/** Never rejects. amqplib's own promise never settles when the connection is lost before the broker's answer. */
export function closeChannel(channel: Channel): Promise<void> {
  return new Promise((resolve) => {
    channel.once('close', resolve);
    channel.close().then(resolve, () => resolve());
  });
}
