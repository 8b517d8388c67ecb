import { randomBytes, randomUUID } from 'node:crypto';
import { readdirSync, statSync } from 'node:fs';
import { mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDiskBlobStore } from '#kernel/storage/disk.ts';
import type { BlobStore } from '#kernel/storage/store.ts';

let stateDir: string;
let store: BlobStore;
beforeEach(async () => {
  stateDir = await mkdtemp(path.join(tmpdir(), 'blobs-'));
  store = await createDiskBlobStore(stateDir);
});
afterEach(() => rm(stateDir, { recursive: true }));

const maxBytes = 10_000_000;
const from = (text: string): Readable => Readable.from([text], { objectMode: false });

/** Every regular file below the state folder. */
async function files(): Promise<string[]> {
  const entries = await readdir(stateDir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
}

// What every store does is in test/integrations/stores.
describe('disk store', () => {
  it('keeps what it was given for its own user only', async () => {
    await store.put(randomUUID(), from('abc'), { maxBytes });
    const [file = '', ...others] = await files();
    expect(others).toEqual([]);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
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
    expect(await store.sweep(new Date(Date.now() - 24 * 3600 * 1000))).toBe(1);
    expect(await readdir(incoming)).toEqual(['new']);
  });

  it('lists by age, and only files that are where a blob belongs', async () => {
    const [old, young] = [randomUUID(), randomUUID()];
    for (const key of [old, young]) await store.put(key, from('abc'), { maxBytes });
    const yesterday = new Date(Date.now() - 25 * 3600 * 1000);
    for (const file of await files()) if (file.endsWith(old)) await utimes(file, yesterday, yesterday);
    await writeFile(path.join(stateDir, 'blobs', randomUUID()), 'astray');
    await writeFile(path.join(stateDir, 'blobs', 'incoming', randomUUID()), 'on its way');
    const keysBefore = async (before: Date) => {
      const keys: string[] = [];
      for await (const { key } of store.list(before)) keys.push(key);
      return keys;
    };
    expect(await keysBefore(new Date(Date.now() - 24 * 3600 * 1000))).toEqual([old]);
    expect((await keysBefore(new Date(Date.now() + 60_000))).toSorted()).toEqual([old, young].toSorted());
  });
});
