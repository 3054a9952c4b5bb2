/** Both processes find the database and the broker by these; `npm run brokers -- up --only postgres,redis` starts a pair. */
export const {
  DATABASE_URL = 'postgres://postgres:waybill@localhost:5432/waybill',
  BROKER_URL = 'redis://localhost:6379',
  PORT = '0',
} = process.env;

/** Ends in good order when the process is told to: first what takes new work, then what that work needs. */
export function closeOnSignal(...closers: readonly (() => unknown)[]): void {
  const close = async (): Promise<void> => {
    for (const one of closers) await one();
    process.disconnect?.();
  };
  process.once('SIGTERM', close);
  process.once('SIGINT', close);
}
