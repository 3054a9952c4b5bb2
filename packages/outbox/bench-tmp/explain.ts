import pg from 'pg';
import { postgresStatements } from '../dist/dialects/postgres.js';

const pool = new pg.Pool({ connectionString: 'postgres://postgres@127.0.0.1:55432/postgres' });
const t = 'bench.waybill_outbox';
const st = postgresStatements(
  { outbox: t, lanes: `${t}_lanes`, relays: `${t}_relays`, index: (n) => `waybill_outbox_${n}` },
  undefined,
);
await pool.query(`update ${t} set sent_at = null`);
await pool.query(`vacuum analyze ${t}`);
await pool.query(`update ${t}_lanes set owner='me'`);
const req = {
  relay: 'me',
  lanes: Array.from({ length: 64 }, (_, i) => i),
  after: 0,
  limit: 500,
  topicsLeftOut: [],
  keysLeftOut: [],
};
await st.page(
  {
    run: async (text: string, values: unknown[]) => {
      const r = await pool.query(`explain (analyze, buffers) ${text}`, values);
      console.log(r.rows.map((x) => x['QUERY PLAN']).join('\n'));
      return { rows: [], affected: 0 };
    },
  } as never,
  req,
);
await pool.end();
