import { expect, test } from 'vitest';
import { createDatabase } from '#kernel/db/client.ts';
import { nameLifetimeS, Names } from '#kernel/db/names.ts';

test('a name that nobody used for the life of a connection gives its place to another', async () => {
  const names = new Names({ prefix: 'x ', most: 2, longest: 10 });
  const [begun, over] = [1_000_000, nameLifetimeS * 1000 + 1];
  const first = names.of('select 1', begun);
  expect(first).toMatch(/^x /);
  expect(names.of('select 2', begun)).not.toBe(first);
  expect(names.of('select 10 characters', begun)).toBeUndefined();
  expect(names.of('select 3', begun)).toBeUndefined();
  // One of them is used again.
  expect(names.of('select 1', begun + over - 1)).toBe(first);
  expect(names.of('select 3', begun + over)).toMatch(/^x /);
  expect(names.of('select 2', begun + over + 20_000)).toBeUndefined();
  expect(names.of('select 1', begun + over + 20_000)).toBe(first);

  const url = 'postgresql://nobody@127.0.0.1:1/none';
  const database = createDatabase({ url, directUrl: url, poolMax: 1, applicationName: 'names' });
  expect(database.pool.options).toMatchObject({ maxLifetimeSeconds: nameLifetimeS });
  await database.close();
});
