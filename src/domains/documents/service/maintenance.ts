import type { App } from '#kernel/app.ts';
import { service } from '#kernel/app.ts';
import { system, type Actor } from '#kernel/auth/actor.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { parse } from '#kernel/input.ts';
import { defineRetention } from '#kernel/jobs/retention.ts';
import { documentRetentionSet, documentsExpired } from '../events.ts';
import { NewRetention } from '../model.ts';
import { can } from '../policy.ts';
import { Copies } from './copies.ts';
import { askForRemoval, removeDocument } from './deletion.ts';
import { lockDocument, type Written } from './shared.ts';

/** Documents whose removal one transaction asks for. */
const batch = 100;
/** A removal that is not done by then is asked for again, milliseconds. */
const lateMs = 2 * 3600 * 1000;

/** How long workspaces keep their documents. The only writer of document_retention. */
export const Retentions = service('document retentions', (app) => ({
  /** @throws {ValidationError} {NotFound} {Forbidden} */
  async set(actor: Actor, raw: unknown): Promise<Written> {
    const { workspaceId, days } = parse(NewRetention, raw);
    authorize(actor, can.setDocumentRetention, workspaceId);
    return app.transact(actor, async (tx) => {
      // One at a time, so that the events tell the order.
      await tx.db.$queryRaw`select 1 from workspace where id = ${workspaceId}::uuid for no key update`;
      const before = await tx.db.documentRetention.findUnique({ where: { workspaceId } });
      if ((before?.days ?? null) === days) return { id: workspaceId, workspaceId, event: null };
      if (days === null) await tx.db.documentRetention.delete({ where: { workspaceId } });
      else
        await tx.db.documentRetention.upsert({
          where: { workspaceId },
          create: { workspaceId, days },
          update: { days },
        });
      const event = tx.append({ type: documentRetentionSet, workspaceId, subjectId: workspaceId, data: { days } });
      return { id: workspaceId, workspaceId, event };
    });
  },
}));

/** Removes what workspaces do not keep any longer, and what was left behind, once an hour; tells what it did. */
export const maintainDocuments = defineRetention({
  name: 'documents.maintain',
  cron: '47 * * * *',
  timeoutS: 1800,
  async remove(app, signal) {
    const copies = await app.use(Copies).sweep();
    const again = await askAgain(app);
    let expired = 0;
    for (const { workspaceId, days } of await app.db.documentRetention.findMany()) {
      signal.throwIfAborted();
      expired += await expire(app, workspaceId, days, signal);
    }
    return { expired, again, copies };
  },
});

/** Asks for the removal of a workspace's documents that are older than so many days. */
async function expire(app: App, workspaceId: string, days: number, signal: AbortSignal): Promise<number> {
  let removed = 0;
  for (;;) {
    signal.throwIfAborted();
    const old = await app.db.document.findMany({
      where: { workspaceId, removalAskedAt: null, createdAt: { lt: new Date(Date.now() - days * 24 * 3600 * 1000) } },
      orderBy: { id: 'asc' },
      select: { id: true },
      take: batch,
    });
    if (old.length === 0) return removed;
    removed += await app.transact(system, async (tx) => {
      let documents = 0;
      for (const { id } of old) {
        const document = await lockDocument(tx, id);
        if (document && (await askForRemoval(app, tx, document))) documents++;
      }
      if (documents > 0)
        tx.append({ type: documentsExpired, workspaceId, subjectId: workspaceId, data: { documents, days } });
      return documents;
    });
  }
}

/** Queues removals again that have not come to their end: their job was given up. */
async function askAgain(app: App): Promise<number> {
  const late = await app.db.document.findMany({
    where: { removalAskedAt: { lt: new Date(Date.now() - lateMs) } },
    select: { id: true, workspaceId: true },
    take: 1000,
  });
  await app.transact(system, async (tx) => {
    for (const { id, workspaceId } of late) await app.jobs.enqueue(tx, removeDocument, { documentId: id, workspaceId });
  });
  return late.length;
}
