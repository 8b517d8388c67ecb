import { expect, test } from 'vitest';
import { Latest } from '#kernel/latest.ts';

test('the latest are kept, and what is set again is one of them', () => {
  const latest = new Latest<string, number>(2).set('a', 1).set('b', 2).set('a', 3);
  expect([...latest]).toEqual([
    ['b', 2],
    ['a', 3],
  ]);
  latest.set('c', 4);
  expect([...latest.keys()]).toEqual(['a', 'c']);
  // To look makes nothing later.
  expect(latest.get('a')).toBe(3);
  latest.set('d', 5);
  expect([...latest.keys()]).toEqual(['c', 'd']);
  for (let i = 0; i < 1000; i++) latest.set(String(i), i);
  expect([...latest.values()]).toEqual([998, 999]);
});
