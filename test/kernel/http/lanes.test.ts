import { expect, test } from 'vitest';
import { Lanes } from '#kernel/http/lanes.ts';

test('a person has so many at once, in order; others do not wait; a failure gives its place back', async () => {
  const lanes = new Lanes(2);
  const begun: string[] = [];
  const ends = new Map<string, PromiseWithResolvers<void>>();
  const work = (key: string | null, name: string) =>
    lanes.run(key, async () => {
      begun.push(name);
      const end = Promise.withResolvers<void>();
      ends.set(name, end);
      await end.promise;
      return name;
    });
  const all = ['a1', 'a2', 'a3', 'a4'].map((name) => work('a', name));
  const others = [work('b', 'b1'), work(null, 'stranger')];
  expect(begun).toEqual(['a1', 'a2', 'b1', 'stranger']);
  ends.get('a2')?.reject(new Error('broken'));
  await expect(all[1]).rejects.toThrow('broken');
  expect(begun.at(-1)).toBe('a3');
  expect(begun).toHaveLength(5);
  for (const name of ['a1', 'a3', 'b1', 'stranger']) ends.get(name)?.resolve();
  expect(await Promise.all([all[0], all[2], ...others])).toEqual(['a1', 'a3', 'b1', 'stranger']);
  ends.get('a4')?.resolve();
  expect(await all[3]).toBe('a4');
});
