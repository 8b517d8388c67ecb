import { randomBytes, randomUUID } from 'node:crypto';
import { PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeEach, describe, expect, test, type TestContext } from 'vitest';
import { sha256Hex } from '#kernel/crypto.ts';
import { Conflict, NotFound } from '#kernel/errors.ts';
import { UploadMismatch, UploadTooLarge, type BlobStore, type ListedBlob } from '#kernel/storage/store.ts';

/** A store to be held to its contract. */
export interface Subject {
  readonly store: BlobStore;
  /** What uploads that did not end have left, where it can be counted. */
  leftovers(): Promise<number>;
  stop(): Promise<void>;
}

export interface Abilities {
  /** Of several writers of one key, one succeeds. */
  readonly oneWriterWins: boolean;
  /** A size that the store takes in several pieces, bytes. */
  readonly large: number;
}

const maxBytes = 100_000_000;
export const from = (...parts: (string | Buffer)[]): Readable => Readable.from(parts, { objectMode: false });

/** What every store of blobs must do, whatever is behind it. */
export function conformance(
  name: string,
  abilities: Abilities,
  start: (context: TestContext) => Promise<Subject>,
): void {
  describe(`${name} conforms`, () => {
    let started: Promise<Subject> | undefined;
    let subject: Subject;
    let store: BlobStore;
    // Of the first test: only a test can be skipped.
    beforeEach(async (context) => {
      started ??= start(context);
      subject = await started;
      store = subject.store;
    }, 180_000);
    afterAll(async () => (await started?.catch(() => undefined))?.stop());

    const listed = async (before: Date): Promise<Map<string, ListedBlob>> => {
      const found = new Map<string, ListedBlob>();
      for await (const blob of store.list(before)) found.set(blob.key, blob);
      return found;
    };
    const later = () => new Date(Date.now() + 60_000);

    test.each([
      ['small', 300],
      ['in several pieces', abilities.large],
      ['of exactly one piece', 5 * 1024 * 1024],
      ['empty', 0],
    ])('keeps what it was given: %s', async (_, size) => {
      const key = randomUUID();
      const data = randomBytes(size);
      const pieces = size ? [data.subarray(0, 7), ...cut(data.subarray(7), 65_536)] : [];
      const stored = await store.put(key, from(...pieces), { maxBytes });
      expect(stored).toEqual({ sizeBytes: size, sha256: sha256Hex(data) });
      expect((await store.stat(key))?.sizeBytes).toBe(size);
      const { stream, sizeBytes } = await store.get(key);
      expect(sizeBytes).toBe(size);
      expect((await buffer(stream)).equals(data)).toBe(true);
      await store.remove(key);
      await store.remove(key);
      expect(await store.stat(key)).toBeNull();
      await expect(store.get(key)).rejects.toThrow(NotFound);
    });

    test('gives ranges, and refuses those that are not within the blob', async () => {
      const key = randomUUID();
      await store.put(key, from('abcdef'), { maxBytes });
      for (const [range, expected] of [
        [{ start: 2 }, 'cdef'],
        [{ end: 1 }, 'ab'],
        [{ start: 1, end: 1 }, 'b'],
        [{ start: 0, end: 5 }, 'abcdef'],
      ] as const) {
        const { stream, sizeBytes } = await store.get(key, range);
        expect([(await buffer(stream)).toString(), sizeBytes]).toEqual([expected, 6]);
      }
      for (const range of [{ start: 6 }, { end: 6 }, { start: 3, end: 2 }, { start: -1 }, { start: 2, end: 6 }])
        await expect(store.get(key, range)).rejects.toThrow(RangeError);
    });

    test('does not replace a blob', async () => {
      const key = randomUUID();
      const results = await Promise.allSettled(
        Array.from({ length: 8 }, (_, i) => store.put(key, from(`writer ${i}`), { maxBytes })),
      );
      const won = results.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
      const lost = results.flatMap((one): unknown[] => (one.status === 'rejected' ? [one.reason] : []));
      expect(lost.filter((reason) => !(reason instanceof Conflict))).toEqual([]);
      expect(won.length).toBeGreaterThan(0);
      expect(won.length).toBeLessThanOrEqual(abilities.oneWriterWins ? 1 : 8);
      const kept = sha256Hex(await buffer((await store.get(key)).stream));
      expect(won.map(({ sha256 }) => sha256)).toContain(kept);
      await expect(store.put(key, from('late'), { maxBytes })).rejects.toThrow(Conflict);
      expect(sha256Hex(await buffer((await store.get(key)).stream))).toBe(kept);
    });

    test.each([
      ['small', randomBytes(30)],
      ['in several pieces', randomBytes(abilities.large)],
    ])('keeps nothing of what is too long, not as declared, or broken off: %s', async (_, data) => {
      const keys: string[] = [];
      const before = await subject.leftovers();
      const expected = { sizeBytes: data.length, sha256: sha256Hex(data) };
      const put = (source: Readable, most = maxBytes) => {
        const key = randomUUID();
        keys.push(key);
        return store.put(key, source, { maxBytes: most, expect: expected });
      };
      const other = Buffer.from(data);
      other[data.length - 1] = (other[data.length - 1] ?? 0) ^ 1;
      await expect(put(from(...cut(data, 65_536)), data.length - 1)).rejects.toThrow(UploadTooLarge);
      await expect(put(from(...cut(data, 65_536), 'x'))).rejects.toThrow(UploadTooLarge);
      await expect(put(from(...cut(other, 65_536)))).rejects.toThrow(UploadMismatch);
      await expect(put(from(...cut(data.subarray(1), 65_536)))).rejects.toThrow(UploadMismatch);
      const broken = Readable.from(
        (async function* () {
          yield* cut(data.subarray(0, -1), 65_536);
          throw new Error('cable cut');
        })(),
      );
      await expect(put(broken)).rejects.toThrow('cable cut');
      const gone = new PassThrough();
      setImmediate(() => gone.destroy());
      await expect(put(gone)).rejects.toThrow('Premature close');
      for (const key of keys) expect(await store.stat(key)).toBeNull();
      const all = await listed(later());
      expect(keys.filter((key) => all.has(key))).toEqual([]);
      expect(await subject.leftovers()).toBe(before);
      await expect(put(from(...cut(data, 65_536)))).resolves.toEqual(expected);
    });

    test('stops at once when it is aborted', async () => {
      const before = await subject.leftovers();
      for (const already of [Buffer.from('ab'), randomBytes(abilities.large)]) {
        const stalled = new PassThrough({ highWaterMark: 1e9 });
        stalled.write(already);
        const abort = new AbortController();
        const reason = new Error('stopping');
        const key = randomUUID();
        const put = store.put(key, stalled, { maxBytes, signal: abort.signal });
        await expect.poll(() => stalled.readableLength, { timeout: 20_000 }).toBe(0);
        abort.abort(reason);
        await expect(put).rejects.toBe(reason);
        expect(stalled.destroyed).toBe(true);
        await expect(store.put(key, from('x'), { maxBytes, signal: abort.signal })).rejects.toBe(reason);
        expect(await store.stat(key)).toBeNull();
      }
      expect(await subject.leftovers()).toBe(before);
    });

    test('lists what was stored before a time, and nothing else', async () => {
      const keys = [randomUUID(), randomUUID(), randomUUID()];
      for (const key of keys) await store.put(key, from(key), { maxBytes });
      const all = await listed(later());
      expect(keys.map((key) => all.get(key)?.sizeBytes)).toEqual([36, 36, 36]);
      const old = await listed(new Date(Date.now() - 3_600_000));
      expect(keys.filter((key) => old.has(key))).toEqual([]);
      await store.remove(keys[0] ?? '');
      expect((await listed(later())).has(keys[0] ?? '')).toBe(false);
    });

    const uuid = '0190b6d0-0000-7000-8000-00000000abcd';
    test.each([
      '',
      '..',
      '../../etc/passwd',
      '/etc/passwd',
      `../${uuid}`,
      `${uuid}/..`,
      `${uuid}\0`,
      `${uuid}\n`,
      ` ${uuid}`,
      uuid.toUpperCase(),
      `${uuid}.tmp`,
      'incoming',
      '..%2f..%2f',
      '０190b6d0-0000-7000-8000-00000000abcd',
      'x'.repeat(300),
    ])('refuses the key %j', async (key) => {
      await expect(store.put(key, from('x'), { maxBytes })).rejects.toThrow(TypeError);
      await expect(store.get(key)).rejects.toThrow(TypeError);
      await expect(store.stat(key)).rejects.toThrow(TypeError);
      await expect(store.remove(key)).rejects.toThrow(TypeError);
    });
  });
}

/** In pieces, as a network brings it. */
export function cut(data: Buffer, size: number): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < data.length; at += size) pieces.push(data.subarray(at, at + size));
  return pieces;
}
