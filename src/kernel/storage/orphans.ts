import type { App } from '../app.ts';
import { defineRetention } from '../jobs/retention.ts';

/** Older than any upload: its row, which is made first, would be there. */
const graceMs = 24 * 3600 * 1000;
const batch = 1000;

export interface OrphanBounds {
  readonly before: Date;
  /** So many unknown blobs are suspicious when fewer are known. */
  readonly suspicious?: number;
  /** Most that are removed in one run: those that are kept in memory. */
  readonly most?: number;
}

/**
 * Removes blobs that neither a file nor a part of one knows: of servers that died between storing and recording, and of
 * removals that failed.
 *
 * @throws when most of what is stored is unknown, which is rather another server's storage, or another database
 */
export async function removeOrphans(
  app: App,
  signal: AbortSignal,
  { before, suspicious = 1000, most = 100_000 }: OrphanBounds,
): Promise<{ blobs: number; bytes: number }> {
  const unknown: { key: string; sizeBytes: number }[] = [];
  let known = 0;
  const sort = async (blobs: readonly { key: string; sizeBytes: number }[]): Promise<void> => {
    const { rows } = await app.database.pool.query<{ key: string }>(
      `select id as key from artifact where id = any($1::uuid[])
       union all select key from artifact_part where key = any($1::uuid[])`,
      [blobs.map(({ key }) => key)],
    );
    const kept = new Set(rows.map(({ key }) => key));
    known += kept.size;
    unknown.push(...blobs.filter(({ key }) => !kept.has(key)));
  };

  let next: { key: string; sizeBytes: number }[] = [];
  for await (const { key, sizeBytes } of app.blobs.list(before)) {
    signal.throwIfAborted();
    next.push({ key, sizeBytes });
    if (next.length < batch) continue;
    await sort(next);
    next = [];
    if (unknown.length >= most) break;
  }
  await sort(next);
  // A database that has no file at all is a new one, or was restored to before the first.
  const isEmpty = unknown.length > 0 && known === 0 && (await app.db.artifact.count()) === 0;
  if (isEmpty || (unknown.length >= suspicious && unknown.length > known)) {
    throw new Error(
      `${unknown.length} of ${unknown.length + known} stored files are unknown to the database: is it the storage of another server? None was removed`,
    );
  }
  let bytes = 0;
  for (const { key, sizeBytes } of unknown) {
    signal.throwIfAborted();
    await app.blobs.remove(key);
    bytes += sizeBytes;
  }
  return { blobs: unknown.length, bytes };
}

/** Once a day, as it lists all that is stored. */
export const orphanedBlobs = defineRetention({
  name: 'kernel.orphanedBlobs',
  cron: '47 3 * * *',
  timeoutS: 3600,
  remove: (app, signal) => removeOrphans(app, signal, { before: new Date(Date.now() - graceMs) }),
});
