import { randomUUID } from 'node:crypto';
import { expect } from 'vitest';
import type { Counter } from '#kernel/rates/counters.ts';
import { until } from '../../support/embedded.ts';

/** Clocks of stores round to milliseconds. */
const rounding = 10;

/** What every store of counts has to do. `other` is the same store as another process has it. */
export const conformance: readonly (readonly [what: string, holds: (one: Counter, other: Counter) => Promise<void>])[] =
  [
    [
      'counts for all, up and down, in the window that the first point began',
      async (one, other) => {
        const key = randomUUID();
        expect(await one.get(key)).toBeNull();
        const begun = Date.now();
        const first = await one.add(key, 5, 60);
        expect(first.points).toBe(5);
        const { points, resetAt } = await other.add(key, -2, 600);
        expect(points).toBe(3);
        for (const end of [first.resetAt.getTime(), resetAt.getTime(), (await one.get(key))?.resetAt.getTime() ?? 0]) {
          expect(end).toBeGreaterThanOrEqual(begun + 60_000 - rounding);
          expect(end).toBeLessThanOrEqual(Date.now() + 60_000 + rounding);
        }
        expect((await one.get(key))?.points).toBe(3);
      },
    ],
    [
      'loses none of many at once',
      async (one, other) => {
        const key = randomUUID();
        const counts = await Promise.all(
          Array.from({ length: 40 }, async (_, i) => (i % 2 ? one : other).add(key, 1, 60)),
        );
        expect(counts.map(({ points }) => points).toSorted((a, b) => a - b)).toEqual(
          Array.from({ length: 40 }, (_, i) => i + 1),
        );
      },
    ],
    [
      'begins a new window when one has ended',
      async (one, other) => {
        const key = randomUUID();
        await one.add(key, 5, 1);
        await until('it has ended', async () => (await other.get(key)) === null);
        expect((await other.add(key, 2, 60)).points).toBe(2);
      },
    ],
    [
      'forgets one key for all, and no other',
      async (one, other) => {
        const [key, another] = [randomUUID(), randomUUID()];
        await one.add(key, 5, 60);
        await one.add(another, 5, 60);
        await other.remove(key);
        expect(await one.get(key)).toBeNull();
        expect((await one.get(another))?.points).toBe(5);
        await other.remove(key);
      },
    ],
  ];
