import { bookkeeper } from './bookkeeper.ts';
import { consumer } from './consumer.ts';
import { publisher } from './publisher.ts';

/** The programs that run as members of their own. They use the library as a service does. */
export const programs = { bookkeeper, consumer, publisher };

export type Programs = typeof programs;
export type ProgramArgs<Name extends keyof Programs> = Parameters<Programs[Name]>[1];
