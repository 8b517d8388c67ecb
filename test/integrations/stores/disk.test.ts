import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createDiskBlobStore } from '#kernel/storage/disk.ts';
import { conformance } from './conformance.ts';

conformance('the disk', { oneWriterWins: true, large: 12_000_000 }, async () => {
  const stateDir = await mkdtemp(path.join(tmpdir(), 'blobs-'));
  return {
    store: await createDiskBlobStore(stateDir),
    leftovers: async () => (await readdir(path.join(stateDir, 'blobs', 'incoming'))).length,
    stop: () => rm(stateDir, { recursive: true }),
  };
});
