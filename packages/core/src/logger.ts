/** What Waybill asks of a logger: `console`, pino and winston all fit. Texts never hold passwords or bodies. */
export interface Logger {
  debug(text: string, details?: object): void;
  info(text: string, details?: object): void;
  warn(text: string, details?: object): void;
  error(text: string, details?: object): void;
}

const nothing = (): void => {};

/** The logger of `logger: false`. */
export const silent: Logger = { debug: nothing, info: nothing, warn: nothing, error: nothing };

/** The default: warnings and errors go to the console, the rest is dropped. */
export const consoleLogger: Logger = {
  debug: nothing,
  info: nothing,
  warn: (text, details) => (details === undefined ? console.warn(text) : console.warn(text, details)),
  error: (text, details) => (details === undefined ? console.error(text) : console.error(text, details)),
};
