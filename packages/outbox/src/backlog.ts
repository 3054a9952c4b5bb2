import type { Backlog } from './statements.ts';
import type { OutboxBacklog } from './types.ts';

export function backlogOf({ pending, retrying, dead, age }: Backlog): OutboxBacklog {
  return { pending, retrying, dead, oldest: age ?? 0 };
}
