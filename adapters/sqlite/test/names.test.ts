import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { ProvisionItem } from '@waybill/core/adapter';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { folder, openRig } from './rig.ts';

/** What core lets through, with what SQL, LIKE and case folding could mistake. */
const hostile = [..."!#$%&'*+-.^_`|~09aAzZxX"];
const name = fc.string({ unit: fc.constantFrom(...hostile), minLength: 1, maxLength: 100 });
const places = fc.uniqueArray(fc.record({ topic: name, group: name }), {
  minLength: 1,
  maxLength: 20,
  selector: ({ topic, group }) => `${topic} ${group}`,
});

test('topics and groups stand in the file under their names, and none is taken for another (SUB-11)', async () => {
  const path = folder();
  let files = 0;
  await fc.assert(
    fc.asyncProperty(places, async (given) => {
      const file = join(path, `${files++}.db`);
      const { connection } = await openRig(file);
      const items = given.map(
        ({ topic, group }): ProvisionItem => ({
          topic: { name: topic, ordered: false, lanes: undefined, options: undefined },
          groups: [{ name: group, temporary: false, startAt: 'latest', options: undefined }],
        }),
      );
      await connection.provision(items, 'create');
      expect(await connection.provision(items, 'verify')).toEqual([]);
      const database = new DatabaseSync(file, { readOnly: true });
      const rows = database
        .prepare('SELECT topics.name AS topic, groups.name AS "group" FROM groups JOIN topics ON topics.id = topic')
        .all();
      database.close();
      const shown = (list: readonly unknown[]): string[] => list.map((one) => JSON.stringify(one)).sort();
      expect(shown(rows)).toEqual(shown([...given, { topic: 't', group: 'g' }]));
      await connection.close();
    }),
    { numRuns: 30 },
  );
});
