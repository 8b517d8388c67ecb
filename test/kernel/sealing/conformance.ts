import { randomBytes } from 'node:crypto';
import { expect } from 'vitest';
import { SealBroken, UnknownKey } from '#kernel/sealing/errors.ts';
import { bothRings, type KeyRing } from '#kernel/sealing/key-ring.ts';
import { createSealing } from '#kernel/sealing/sealing.ts';

const context = 'test.value:1';
/** Id of the key that a sealed text names. */
const keyOf = (sealed: string) => sealed.split('.')[1];

/** What every source of keys has to do. `make` gives a ring of the keys with these ids, as another process would have it. */
export type MakeRing = (...kids: readonly string[]) => KeyRing;

export const conformance: readonly (readonly [what: string, holds: (make: MakeRing) => Promise<void>])[] = [
  [
    'opens in another process what it sealed, in its place and nowhere else',
    async (make) => {
      const sealing = createSealing(make('a', 'b'));
      expect(sealing.currentKey).toBe('a');
      for (const plain of ['', 'secret', 'x'.repeat(100_000)]) {
        const sealed = await sealing.seal(plain, context);
        expect(keyOf(sealed)).toBe('a');
        expect(sealed).not.toContain(Buffer.from('secret').toString('base64url'));
        const other = createSealing(make('b', 'a'));
        expect(await other.openText(sealed, context)).toBe(plain);
        await expect(other.open(sealed, 'test.value:2')).rejects.toBeInstanceOf(SealBroken);
      }
    },
  ],
  [
    'opens nothing that was damaged, cut, or named after another key',
    async (make) => {
      const [mine, theirs] = [make('a', 'b'), make('a', 'b')];
      const dataKey = randomBytes(32);
      const wrapped = await mine.wrap(dataKey, context);
      expect(await theirs.unwrap('a', wrapped, context)).toEqual(dataKey);
      for (const at of [0, 1, 2, 30, wrapped.length - 40, wrapped.length - 1]) {
        const damaged = Buffer.from(wrapped);
        damaged[at] = (damaged[at] ?? 0) ^ 1;
        await expect(theirs.unwrap('a', damaged, context), `byte ${at}`).rejects.toBeInstanceOf(SealBroken);
      }
      for (const cut of [Buffer.alloc(0), wrapped.subarray(0, 1), wrapped.subarray(0, -1), wrapped.subarray(1)])
        await expect(theirs.unwrap('a', cut, context)).rejects.toBeInstanceOf(SealBroken);
      await expect(theirs.unwrap('b', wrapped, context)).rejects.toBeInstanceOf(SealBroken);
      await expect(theirs.unwrap('a', wrapped, 'test.value:2')).rejects.toBeInstanceOf(SealBroken);
    },
  ],
  [
    'knows its keys, and says when one is missing',
    async (make) => {
      const sealed = await createSealing(make('a')).seal('secret', context);
      const without = createSealing(make('b'));
      expect([without.knowsKey('a'), without.knowsKey('b')]).toEqual([false, true]);
      await expect(without.open(sealed, context)).rejects.toBeInstanceOf(UnknownKey);
    },
  ],
  [
    'rotates, within the source and into another one',
    async (make) => {
      const sealed = await createSealing(make('a')).seal('secret', context);
      const rewrapped = await createSealing(make('b', 'a')).rewrap(sealed, context);
      expect(keyOf(rewrapped)).toBe('b');
      const moving = createSealing(bothRings(make('c'), make('b')));
      expect(moving.knowsKey('b')).toBe(true);
      const moved = await moving.rewrap(rewrapped, context);
      expect(keyOf(moved)).toBe('c');
      expect(await createSealing(make('c')).openText(moved, context)).toBe('secret');
    },
  ],
];
