import { consumer } from './consumer.ts';
import { publisher } from './publisher.ts';

/** The programs that run as members of their own. They import the library alone, as a service does. */
export const programs = { consumer, publisher };

export type Programs = typeof programs;
export type ProgramArgs<Name extends keyof Programs> = Parameters<Programs[Name]>[1];
