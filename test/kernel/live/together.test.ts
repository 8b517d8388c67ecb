import { AsyncLocalStorage } from 'node:async_hooks';
import { expect, test } from 'vitest';
import { Together } from '#kernel/live/together.ts';
import { upTo } from '../../support/live.ts';

test('what is asked at the same time is answered together, each with its own, a few at once', async () => {
  const asked: (readonly number[])[] = [];
  let [underWay, most] = [0, 0];
  const together = new Together<number, string>(
    async (keys) => {
      asked.push(keys);
      most = Math.max(most, ++underWay);
      await new Promise(setImmediate);
      underWay--;
      return keys.map((key) => `of ${key}`);
    },
    { most: 4, underWay: 2 },
  );
  expect(await Promise.all(upTo(11).map((n) => together.get(n)))).toEqual(upTo(11).map((n) => `of ${n}`));
  expect({ asked, most }).toEqual({ asked: [upTo(4), upTo(4, 5), upTo(3, 9)], most: 2 });
});

test('what fails is told to all who asked with it, and to nobody after them', async () => {
  const together = new Together<number, number>(
    async (keys) => {
      if (keys.includes(2)) throw new Error(`of ${keys.join()}`);
      return keys;
    },
    { most: 2, underWay: 1 },
  );
  const answers = await Promise.all(upTo(4).map((n) => together.get(n).catch((error: unknown) => String(error))));
  expect(answers).toEqual(['Error: of 1,2', 'Error: of 1,2', 3, 4]);
  expect(await together.get(5)).toBe(5);
});

test('it has nothing of whoever asked first, as that a job may take its time', async () => {
  const asker = new AsyncLocalStorage<string>();
  const together = new Together<string, string>(async (keys) => keys.map(() => String(asker.getStore())), {
    most: 2,
    underWay: 1,
  });
  const answers = ['a', 'b', 'c'].map((one) => asker.run(one, () => together.get(one)));
  expect(await Promise.all(answers)).toEqual(['undefined', 'undefined', 'undefined']);
});
