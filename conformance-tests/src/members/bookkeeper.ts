import type { Message } from '@waybill/core';
import type { MemberProgram } from '../member-program.ts';
import { openInbox, type Place } from '../places.ts';

export interface BookkeeperArgs {
  readonly topic: string;
  readonly options: { readonly group: string; readonly lease: number; readonly concurrency: number };
  /** Of the inbox, and of the table into which it writes the id of each message. */
  readonly place: Place;
  readonly table: string;
}

/** Handles messages with an inbox: writes a row for each, somewhere in the middle of its work. Tells `subscribed`. */
export const bookkeeper: MemberProgram<BookkeeperArgs> = async (member, { topic, options, place, table }) => {
  await using opened = await openInbox(place);
  const { inbox, client } = opened.it;
  const bus = await member.connect();
  await bus.subscribe(topic, { ...options, inbox }, async (message: Message, tx) => {
    await somewhile();
    await client.runner(tx).run(`INSERT INTO ${table} (id) VALUES ('${message.id}')`);
    await somewhile();
  });
  member.emit('subscribed');
  await new Promise((resolve) => {
    if (member.closing.aborted) resolve(undefined);
    member.closing.addEventListener('abort', resolve, { once: true });
  });
  await bus.close();
};

/** So that a kill hits every place in a handler. */
function somewhile(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.random() * 4));
}
