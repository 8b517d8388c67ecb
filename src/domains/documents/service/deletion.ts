import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import type { Document } from '#prisma';
import type { App } from '#kernel/app.ts';
import { system } from '#kernel/auth/actor.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { defineJob } from '#kernel/jobs/define.ts';
import { openRun, Runs } from '#kernel/runs/runs.ts';
import { Artifacts } from '#kernel/storage/artifacts.ts';
import { defineWorkspaceCleanup } from '#kernel/workspace-cleanup.ts';
import { documentDeleted, documentRemovalAsked } from '../events.ts';
import { lockDocument } from './shared.ts';

/** Cells, and runs, that one statement removes. */
const cellBatch = 20_000;
const runBatch = 50;
const pollMs = 500;
/** How long runs that were told to stop are waited for, before the job tries again later, milliseconds. */
const patienceMs = 120_000;

/** Removes what a document has. Every part is safe to repeat. */
export const removeDocument = defineJob({
  name: 'documents.remove',
  payload: z.object({ documentId: z.string(), workspaceId: z.string() }),
  attempts: 10,
  retryDelayS: 5,
  timeoutS: 3600,
  workspaceOf: ({ workspaceId }) => workspaceId,
  async handle({ documentId }, { app, signal }) {
    await remove(app, documentId, signal);
  },
});

/** Cells of a workspace that is being deleted, in small statements; the rest goes with its rows. */
defineWorkspaceCleanup('documents', async (app, workspaceId, { signal, fence }) => {
  const documents = await app.db.document.findMany({ where: { workspaceId }, select: { id: true } });
  for (const { id } of documents) {
    await fence();
    await removeCells(app, id, signal);
  }
  return { removed: documents.length, left: [] };
});

/** Hides a document that the caller has locked, tells its runs to stop, and queues its removal. */
export async function askForRemoval(app: App, tx: Transaction, document: Document): Promise<Appended | null> {
  const event = await hide(app, tx, document);
  const { id, workspaceId } = document;
  if (event) await app.jobs.enqueue(tx, removeDocument, { documentId: id, workspaceId });
  return event;
}

async function hide(
  app: App,
  tx: Transaction,
  { id, workspaceId, removalAskedAt }: Document,
): Promise<Appended | null> {
  if (removalAskedAt) return null;
  await tx.db.document.update({ where: { id }, data: { removalAskedAt: new Date() } });
  for (const run of await runsOf(tx.db, id, true)) await app.use(Runs).stopWithin(tx, run);
  return tx.append({ type: documentRemovalAsked, workspaceId, subjectId: id });
}

/** Extractions of a document and exports of what they found, in ascending order. */
async function runsOf(db: Pick<App['db'], 'run'>, documentId: string, openOnly: boolean): Promise<string[]> {
  const runs = await db.run.findMany({
    where: {
      OR: [{ extractionJob: { documentId } }, { tableExport: { job: { documentId } } }],
      ...(openOnly ? openRun : {}),
    },
    orderBy: { id: 'asc' },
    select: { id: true },
  });
  return runs.map(({ id }) => id);
}

/** @returns how many files are gone, those that were exported of it among them */
async function remove(app: App, id: string, signal: AbortSignal): Promise<number> {
  const document = await app.db.document.findUnique({ where: { id } });
  if (!document?.removalAskedAt) return 0;
  const { workspaceId } = document;
  await ended(app, id, signal);

  // What was exported may have been extracted in its turn: it goes as any document, with its jobs and what they made.
  const produced = await app.db.document.findMany({
    where: { exportedBy: { job: { documentId: id } } },
    select: { id: true },
  });
  let files = 1;
  for (const one of produced) {
    signal.throwIfAborted();
    await app.transact(system, async (tx) => {
      const found = await lockDocument(tx, one.id);
      if (found) await hide(app, tx, found);
    });
    files += await remove(app, one.id, signal);
  }
  await removeCells(app, id, signal);
  const runs = await runsOf(app.db, id, false);
  for (let from = 0; from < runs.length; from += runBatch) {
    signal.throwIfAborted();
    const some = runs.slice(from, from + runBatch);
    await app.transact(system, (tx) => app.use(Runs).remove(tx, some));
  }
  const data = { jobs: runs.length, files };
  await app
    .use(Artifacts)
    .remove(
      { workspaceId, id: document.artifactId },
      { within: (tx) => void tx.append({ type: documentDeleted, workspaceId, subjectId: id, data }) },
    );
  return files;
}

/** Waits until all runs of a document are over. @throws when they are not in time: the job comes back */
async function ended(app: App, documentId: string, signal: AbortSignal): Promise<void> {
  const begun = performance.now();
  for (;;) {
    signal.throwIfAborted();
    const open = await runsOf(app.db, documentId, true);
    if (open.length === 0) return;
    if (performance.now() - begun > patienceMs) throw new Error(`${open.length} runs of a document have not ended`);
    for (const run of open) await app.use(Runs).stop(run);
    await pause(pollMs, undefined, { signal });
  }
}

/** In small statements: a document may have millions. */
async function removeCells(app: App, documentId: string, signal: AbortSignal): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    const { rowCount } = await app.database.pool.query(
      `delete from extracted_cell where ctid = any(array(
         select c.ctid from extracted_table t join extracted_cell c on c.table_id = t.id
         where t.document_id = $1 limit ${cellBatch}))`,
      [documentId],
    );
    if ((rowCount ?? 0) === 0) return;
  }
}
