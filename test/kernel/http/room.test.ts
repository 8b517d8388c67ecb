import { describe, expect, test, vi } from 'vitest';
import { hasTooManyValues } from '#kernel/http/limits.ts';
import { Room, smallBytes } from '#kernel/http/room.ts';

describe('values of a request, before it is parsed', () => {
  const request = (variables: unknown) => JSON.stringify({ query: '{ a(b: [1, 2]) }', variables });

  test('as many as an operation may have pass, whatever they are', () => {
    for (const value of [1, 'a', {}, [], { a: 1 }])
      expect(hasTooManyValues(request({ list: Array.from({ length: 2400 }, () => value) }), 1)).toBe(false);
    expect(hasTooManyValues(request({ list: Array.from({ length: 4990 }, () => ({})) }), 1)).toBe(false);
  });

  test.each(['{}', '[]', '1', '"a"', '[1,1]'])('many of %s do not', (value) => {
    expect(hasTooManyValues(`{"variables":{"a":[${`${value},`.repeat(20_000)}1]}}`, 1)).toBe(true);
  });

  test('a batch may have as many for each of its operations', () => {
    const one = request({ list: Array.from({ length: 4000 }, () => ({})) });
    const batch = `[${Array.from({ length: 5 }, () => one).join()}]`;
    expect([hasTooManyValues(batch, 5), hasTooManyValues(batch, 1)]).toEqual([false, true]);
  });

  test('what stands in texts is none, however they are escaped', () => {
    for (const text of ['[{,'.repeat(20_000), '\\",[{'.repeat(20_000), `${'x'.repeat(9)}\\`, '\\\\"'])
      expect(hasTooManyValues(request({ text }), 1)).toBe(false);
    expect(hasTooManyValues(`{"text":"\\\\","a":[${'{},'.repeat(20_000)}1]}`, 1)).toBe(true);
    expect(hasTooManyValues('{"never ended', 1)).toBe(false);
  });
});

describe('room for large requests', () => {
  const big = smallBytes + 1;

  test('is given in turn; small ones need none, and one that is larger than all of it comes alone', async () => {
    const room = new Room(2 * big, 60_000);
    const entered: number[] = [];
    const [first, second] = await Promise.all([room.enter(big), room.enter(big)]);
    const third = room.enter(big).then((leave) => (entered.push(3), leave));
    const huge = room.enter(9 * big).then((leave) => (entered.push(9), leave));
    expect(room.tryEnter(big)).toBe(false);
    (await room.enter(smallBytes))();
    expect([room.tryEnter(smallBytes), entered]).toEqual([true, []]);
    first();
    first();
    (await third)();
    expect(entered).toEqual([3]);
    second();
    (await huge)();
    expect(entered).toEqual([3, 9]);
  });

  test('is given back after a while by whoever keeps it', async () => {
    vi.useFakeTimers();
    try {
      const room = new Room(big, 1000);
      await room.enter(big);
      const next = room.enter(big);
      await vi.advanceTimersByTimeAsync(1000);
      (await next)();
      expect(room.tryEnter(big)).toBe(true);
    } finally {
      vi.useRealTimers();
    }
  });
});
