import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { createDiskBlobStore } from '#kernel/storage/disk.ts';
import { conformance, from } from './conformance.ts';

conformance('the disk', { oneWriterWins: true, large: 12_000_000 }, async () => {
  const stateDir = await mkdtemp(path.join(tmpdir(), 'blobs-'));
  return {
    store: await createDiskBlobStore(stateDir),
    leftovers: async () => (await readdir(path.join(stateDir, 'blobs', 'incoming'))).length,
    stop: () => rm(stateDir, { recursive: true }),
  };
});

test('a folder that cannot be used is a typed error, and it goes on when the folder is back', async () => {
  const stateDir = await mkdtemp(path.join(tmpdir(), 'blobs-'));
  const store = await createDiskBlobStore(stateDir);
  const blobs = path.join(stateDir, 'blobs');
  const [key, other] = [randomUUID(), randomUUID()];
  await store.put(key, from('kept'), { maxBytes: 100 });
  await rename(blobs, `${blobs}.away`);
  // A file where the folder was: nothing can be made there, also not by root.
  await writeFile(blobs, '');
  const refused = { code: 'STORAGE_UNAVAILABLE' };
  await expect(store.put(other, from('lost'), { maxBytes: 100 })).rejects.toMatchObject(refused);
  await expect(store.get(key)).rejects.toMatchObject(refused);
  await expect(store.stat(key)).rejects.toMatchObject(refused);
  await expect(store.remove(key)).rejects.toMatchObject(refused);
  await expect(store.sweep(new Date())).rejects.toMatchObject(refused);
  await rm(blobs);
  await rename(`${blobs}.away`, blobs);
  expect(await store.stat(key)).toMatchObject({ sizeBytes: 4 });
  await store.put(other, from('kept'), { maxBytes: 100 });
  await rm(stateDir, { recursive: true });
});
