import { defineWorkspaceCleanup } from '../workspace-cleanup.ts';
// Runs end first: they make files.
import '../runs/cleanup.ts';

const batch = 500;

/** Removes the bytes of a workspace's files. An upload that ends afterwards removes its own. */
defineWorkspaceCleanup('files', async (app, workspaceId, { signal, fence }) => {
  let removed = 0;
  let after = '00000000-0000-0000-0000-000000000000';
  for (;;) {
    const artifacts = await app.db.artifact.findMany({
      where: { workspaceId, id: { gt: after } },
      orderBy: { id: 'asc' },
      select: { id: true, parts: { select: { key: true } } },
      take: batch,
    });
    const last = artifacts.at(-1);
    if (!last) return { removed, left: [] };
    await fence();
    for (const { id, parts } of artifacts) {
      for (const key of [id, ...parts.map((part) => part.key)]) {
        signal.throwIfAborted();
        await app.blobs.remove(key);
      }
    }
    removed += artifacts.length;
    after = last.id;
  }
});
