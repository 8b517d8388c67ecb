import { expect, test } from 'vitest';
import { isId, newId } from '#kernel/ids.ts';

test('ids are UUIDs of version 7: all different, in the order in which they were made, of the time when they were', () => {
  const before = Date.now();
  const ids = Array.from({ length: 20_000 }, newId);
  const after = Date.now();
  expect(new Set(ids).size).toBe(ids.length);
  expect(ids.toSorted()).toEqual(ids);
  for (const id of ids) {
    if (!isId(id) || !/^.{14}7.{4}[89ab]/.test(id)) throw new Error(`${id} is no UUID of version 7`);
    const ms = Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16);
    if (ms < before || ms > after) throw new Error(`${id} is not of its time`);
  }
});
