import { setTimeout as pause } from 'node:timers/promises';
import type { Application, RunTrigger } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { NotFound } from '#kernel/errors.ts';
import { isId } from '#kernel/ids.ts';
import type { RunContext } from '#kernel/runs/context.ts';
import { isLost } from '#kernel/runs/host.ts';
import { defineRunKind } from '#kernel/runs/kinds.ts';
import { openRun, Runs } from '#kernel/runs/runs.ts';
import { applicationDeleted, applicationRemovalAsked } from '../events.ts';
import { applicationDeletionPhases, type ApplicationDeletionInput } from '../model.ts';
import { can } from '../policy.ts';
import { askForRemoval, takeOff } from './cleanup.ts';
import { removalWatchers } from './ports.ts';
import { lockApplication, type Written } from './shared.ts';

/** Deployments whose rows one transaction removes. */
const batch = 100;
const pollMs = 1000;

/** Removes an application: what runs and lies on its host, then its rows. Every part is safe to repeat. */
export const applicationDeletionKind = defineRunKind<ApplicationDeletionInput>({
  name: 'ApplicationDeletion',
  versions: [1],
  phases: applicationDeletionPhases,
  initial: 'PENDING',
  ends: { canceled: () => 'CANCELED', failed: () => 'FAILED' },
  steps: () => ['host', 'rows'],
  begin: () => 'REMOVING',
  deadlineS: 6 * 3600,
  async execute(context: RunContext<ApplicationDeletionInput>) {
    const { app, input } = context;
    const { applicationId: id } = input;
    const { left } = await context.step('host', { timeoutS: 3600 }, async (step) => {
      const report = await takeOff(app, { id }, { signal: step.signal, fence: () => context.fence() });
      for (const line of report.left) await step.log(line);
      await step.log('Its instances are ended, its address is closed, its files are removed.');
      return { left: [...report.left] };
    });
    await context.progress(0.5);
    await context.step('rows', { timeoutS: 3600 }, async (step) => {
      const total = await app.db.deployment.count({ where: { applicationId: id } });
      for (let removed = 0; ;) {
        step.signal.throwIfAborted();
        const some = await app.db.deployment.findMany({
          where: { applicationId: id },
          select: { id: true },
          take: batch,
        });
        if (some.length === 0) break;
        const ids = some.map((one) => one.id);
        const gone = await context.write((tx) => app.use(Runs).remove(tx, ids));
        removed += gone;
        if (gone === 0) {
          // One that came in spite of all has to end first.
          for (const one of ids) await app.use(Runs).stop(one);
          await pause(pollMs, undefined, { signal: step.signal });
        }
        await context.progress(0.5 + (0.5 * Math.min(removed, total)) / Math.max(total, 1));
      }
      await context.write(async (tx, { workspaceId }) => {
        for (const { gone } of removalWatchers) await gone(app, tx, id);
        const { count } = await tx.db.application.deleteMany({ where: { id } });
        if (count > 0) tx.append({ type: applicationDeleted, workspaceId, subjectId: id });
      });
      return null;
    });
    return { phase: 'REMOVED', ...(left.length > 0 ? { reason: left.join(' ') } : {}) };
  },
  onCreate: async () => undefined,
  async retryInput(_tx, run) {
    return run.input as ApplicationDeletionInput;
  },
});

/** Deletes applications. */
export const ApplicationDeletions = service('application deletions', (app) => ({
  /**
   * Takes an application off its address at once, tells its deployments to stop, and queues the run that removes it. One
   * that is being deleted already is answered with the run that does it.
   * @throws {NotFound} {Forbidden}
   */
  async delete(actor: Actor, id: string): Promise<Written> {
    if (!isId(id)) throw new NotFound('Application', id);
    return app.transact(actor, async (tx) => {
      // What it is a preview of is locked first, everywhere.
      const preview = await tx.db.preview.findUnique({ where: { applicationId: id }, select: { ofId: true } });
      if (preview) await lockApplication(tx, preview.ofId);
      const application = await lockApplication(tx, id);
      authorizeRow(actor, can.deleteApplication, application, 'Application', id);
      for (const { asked } of removalWatchers) await asked(app, tx, id);
      return { workspaceId: application.workspaceId, ...(await removeWithin(app, tx, application)) };
    });
  },
}));

/**
 * Takes an application off its address, tells its deployments to stop, and queues the run that removes it, unless there
 * is one. The caller has locked it.
 * @returns the run; without an event it was there already
 */
export async function removeWithin(
  app: App,
  tx: Transaction,
  application: Application,
  trigger: RunTrigger = 'API',
): Promise<{ readonly id: string; readonly event: Appended | null }> {
  const { id, workspaceId } = application;
  const lockKey = `application:${id}`;
  const under = await tx.db.run.findFirst({ where: { kind: applicationDeletionKind.name, lockKey, ...openRun } });
  if (under) return { id: under.id, event: null };
  const runs = app.use(Runs);
  const open = await tx.db.run.findMany({
    where: { lockKey, ...openRun },
    select: { id: true },
    orderBy: { id: 'asc' },
  });
  const host = application.hostId && (await tx.db.host.findUnique({ where: { id: application.hostId } }));
  for (const run of open) {
    // Nobody is there who would end it; its fence keeps it from going on when its host comes back.
    if (host && isLost(host)) await runs.giveUpWithin(tx, run.id, 'The application is deleted, and its host is lost.');
    else await runs.stopWithin(tx, run.id);
  }
  if (!application.removalAskedAt) tx.append({ type: applicationRemovalAsked, workspaceId, subjectId: id });
  await askForRemoval(app, tx, application);
  const input = { applicationId: id, name: application.name };
  const started = await runs.create(tx, {
    kind: applicationDeletionKind,
    workspaceId,
    input,
    lockKey,
    trigger,
  });
  return { id: started.id, event: started.event };
}
