import { randomBytes, randomUUID } from 'node:crypto';
import { readdirSync, statSync } from 'node:fs';
import { mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sha256Hex } from '#kernel/crypto.ts';
import { Conflict, NotFound } from '#kernel/errors.ts';
import { createDiskBlobStore } from '#kernel/storage/disk.ts';
import { UploadMismatch, UploadTooLarge, type BlobStore } from '#kernel/storage/store.ts';

let stateDir: string;
let store: BlobStore;
beforeEach(async () => {
  stateDir = await mkdtemp(path.join(tmpdir(), 'blobs-'));
  store = await createDiskBlobStore(stateDir);
});
afterEach(() => rm(stateDir, { recursive: true }));

const maxBytes = 10_000_000;
const from = (...parts: (string | Buffer)[]): Readable => Readable.from(parts, { objectMode: false });

/** Every regular file below the state folder. */
async function files(): Promise<string[]> {
  const entries = await readdir(stateDir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
}

describe('disk store', () => {
  it('keeps what it was given, privately', async () => {
    const key = randomUUID();
    const data = randomBytes(300_000);
    const stored = await store.put(key, from(data.subarray(0, 7), data.subarray(7)), { maxBytes });
    expect(stored).toEqual({ sizeBytes: data.length, sha256: sha256Hex(data) });
    expect((await store.stat(key))?.sizeBytes).toBe(data.length);
    const { stream, sizeBytes } = await store.get(key);
    expect(sizeBytes).toBe(data.length);
    expect((await buffer(stream)).equals(data)).toBe(true);
    const [file = '', ...others] = await files();
    expect(others).toEqual([]);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    await store.remove(key);
    await store.remove(key);
    expect(await store.stat(key)).toBeNull();
    await expect(store.get(key)).rejects.toThrow(NotFound);
  });

  it('keeps an empty blob', async () => {
    const key = randomUUID();
    expect(await store.put(key, from(), { maxBytes: 0 })).toEqual({ sizeBytes: 0, sha256: sha256Hex('') });
    expect(await buffer((await store.get(key)).stream)).toHaveLength(0);
  });

  it.each([
    [{ start: 2 }, 'cdef'],
    [{ end: 1 }, 'ab'],
    [{ start: 1, end: 1 }, 'b'],
    [{ start: 0, end: 5 }, 'abcdef'],
  ])('gives the range %j', async (range, expected) => {
    const key = randomUUID();
    await store.put(key, from('abcdef'), { maxBytes });
    const { stream, sizeBytes } = await store.get(key, range);
    expect([(await buffer(stream)).toString(), sizeBytes]).toEqual([expected, 6]);
  });

  it.each([{ start: 6 }, { end: 6 }, { start: 3, end: 2 }, { start: -1 }])('refuses the range %j', async (range) => {
    const key = randomUUID();
    await store.put(key, from('abcdef'), { maxBytes });
    await expect(store.get(key, range)).rejects.toThrow(RangeError);
  });

  it('never replaces a blob, however many writers there are', async () => {
    const key = randomUUID();
    const results = await Promise.allSettled(
      Array.from({ length: 8 }, (_, i) => store.put(key, from(`writer ${i}`), { maxBytes })),
    );
    const won = results.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    const lost = results.flatMap((one): unknown[] => (one.status === 'rejected' ? [one.reason] : []));
    expect(won).toHaveLength(1);
    for (const reason of lost) expect(reason).toBeInstanceOf(Conflict);
    expect(sha256Hex(await buffer((await store.get(key)).stream))).toBe(won[0]?.sha256);
    expect(await files()).toHaveLength(1);
    await expect(store.put(key, from('late'), { maxBytes })).rejects.toThrow(Conflict);
  });

  it('keeps nothing of what is too long, not as declared, or broken off', async () => {
    const expected = { sizeBytes: 3, sha256: sha256Hex('abc') };
    const put = (source: Readable, expect?: typeof expected) =>
      store.put(randomUUID(), source, { maxBytes: 5, expect });
    await expect(put(from('abc', 'def'))).rejects.toThrow(UploadTooLarge);
    await expect(put(from('abcd'), expected)).rejects.toThrow(UploadTooLarge);
    await expect(put(from('abd'), expected)).rejects.toThrow(UploadMismatch);
    await expect(put(from('ab'), expected)).rejects.toThrow(UploadMismatch);
    const broken = new PassThrough();
    broken.write('ab');
    setImmediate(() => broken.destroy(new Error('cable cut')));
    await expect(put(broken)).rejects.toThrow('cable cut');
    const later = Readable.from(
      (async function* () {
        yield 'ab';
        await setTimeout(20);
        throw new Error('cable cut later');
      })(),
    );
    await expect(put(later)).rejects.toThrow('cable cut later');
    const gone = new PassThrough();
    setImmediate(() => gone.destroy());
    await expect(put(gone)).rejects.toThrow('Premature close');
    expect(await files()).toEqual([]);
    await expect(put(from('abc'), expected)).resolves.toEqual(expected);
  });

  it('stops at once when it is aborted', async () => {
    const stalled = new PassThrough();
    stalled.write('ab');
    const abort = new AbortController();
    const reason = new Error('stopping');
    const put = store.put(randomUUID(), stalled, { maxBytes, signal: abort.signal });
    await expect.poll(files).toHaveLength(1);
    abort.abort(reason);
    await expect(put).rejects.toBe(reason);
    expect(stalled.destroyed).toBe(true);
    await expect(store.put(randomUUID(), from('x'), { maxBytes, signal: abort.signal })).rejects.toBe(reason);
    expect(await files()).toEqual([]);
  });

  it('streams: what is not yet on disk does not grow with the blob', async () => {
    const chunk = randomBytes(65_536);
    const total = 300;
    const incoming = path.join(stateDir, 'blobs', 'incoming');
    let sent = 0;
    let mostHeld = 0;
    const source = new Readable({
      read() {
        const [file] = readdirSync(incoming);
        const written = file === undefined ? 0 : statSync(path.join(incoming, file)).size;
        mostHeld = Math.max(mostHeld, sent * chunk.length - written);
        this.push(sent++ < total ? chunk : null);
      },
    });
    const { sizeBytes } = await store.put(randomUUID(), source, { maxBytes: 1e9 });
    expect(sizeBytes).toBe(total * chunk.length);
    expect(mostHeld).toBeLessThan(8 * chunk.length);
  });

  it('removes what a crash left behind, but not what is being uploaded', async () => {
    const incoming = path.join(stateDir, 'blobs', 'incoming');
    await writeFile(path.join(incoming, 'old'), 'x');
    await writeFile(path.join(incoming, 'new'), 'x');
    const yesterday = new Date(Date.now() - 25 * 3600 * 1000);
    await utimes(path.join(incoming, 'old'), yesterday, yesterday);
    await createDiskBlobStore(stateDir);
    expect(await readdir(incoming)).toEqual(['new']);
  });

  const uuid = '0190b6d0-0000-7000-8000-00000000abcd';
  it.each([
    '',
    '.',
    '..',
    '../../etc/passwd',
    '/etc/passwd',
    `../${uuid}`,
    `${uuid}/..`,
    `${uuid}\0`,
    `${uuid}\n`,
    ` ${uuid}`,
    uuid.toUpperCase(),
    `{${uuid}}`,
    `${uuid}.tmp`,
    'incoming',
    '..%2f..%2f',
    '0190b6d0-0000-7000-8000-00000000ab..',
    '０190b6d0-0000-7000-8000-00000000abcd',
    'x'.repeat(300),
  ])('refuses the key %j', async (key) => {
    await expect(store.put(key, from('x'), { maxBytes })).rejects.toThrow(TypeError);
    await expect(store.get(key)).rejects.toThrow(TypeError);
    await expect(store.stat(key)).rejects.toThrow(TypeError);
    await expect(store.remove(key)).rejects.toThrow(TypeError);
    expect(await files()).toEqual([]);
  });
});
