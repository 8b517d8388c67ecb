import type { Run } from '#prisma';
import type { App } from '../app.ts';
import { system, type Actor } from '../auth/actor.ts';
import { authorizeRow } from '../auth/policy.ts';
import type { Appended, Transaction } from '../db/transact.ts';
import { IllegalTransition, NotFound } from '../errors.ts';
import { isId } from '../ids.ts';
import type { Ending } from './ending.ts';
import { runKind } from './kinds.ts';
import { isTerminal } from './model.ts';
import { runPolicy } from './policy.ts';
import { lockRow } from './row.ts';

/** How runs are told to stop, and given up. */
export const stopping = (app: App, ends: Ending) => {
  const verbs = {
    /**
     * Tells a run to stop. A queued one is CANCELED at once; a running one is CANCELING until its worker has ended it.
     * @throws {NotFound} {Forbidden} {IllegalTransition} when it is over already
     */
    async cancel(actor: Actor, id: string): Promise<{ id: string; event: Appended | null }> {
      if (!isId(id)) throw new NotFound('Run', id);
      return app.transact(actor, async (tx) => {
        const run = await lockRow(tx, id);
        authorizeRow(actor, runPolicy.verbs.cancelRun, run, 'Run', id);
        return { id, event: await verbs.tellToStop(tx, run) };
      });
    },

    /** Tells a run that is not over to stop, for the server itself. */
    async stop(id: string): Promise<void> {
      await app.transact(system, (tx) => verbs.stopWithin(tx, id));
    },

    /** The same in the caller's transaction. */
    async stopWithin(tx: Transaction, id: string): Promise<void> {
      const run = await lockRow(tx, id);
      if (run && !isTerminal(run.status)) await verbs.tellToStop(tx, run);
    },

    /** Ends a run that was told to stop, whoever holds it. @returns false when it is over already */
    async giveUp(id: string, reason: string): Promise<boolean> {
      return app.transact(system, (tx) => verbs.giveUpWithin(tx, id, reason));
    },

    /** The same in the caller's transaction. */
    async giveUpWithin(tx: Transaction, id: string, reason: string): Promise<boolean> {
      const run = await lockRow(tx, id);
      if (!run || isTerminal(run.status)) return false;
      // What a worker holds, or holds no more, is canceled by way of CANCELING.
      const held = run.status === 'RUNNING' || run.status === 'WAITING';
      if (held) await verbs.tellToStop(tx, run);
      const phase = runKind(run.kind).ends.canceled(run.phase);
      await ends.end(tx, held ? { ...run, status: 'CANCELING' } : run, { phase, reason });
      return true;
    },

    /** Tells a run whose row is locked to stop. @throws {IllegalTransition} when it is over already */
    async tellToStop(tx: Transaction, run: Run): Promise<Appended | null> {
      const kind = runKind(run.kind);
      const { id } = run;
      if (run.status === 'CANCELING') return null;
      if (isTerminal(run.status)) throw new IllegalTransition(run.status, 'CANCELING', []);
      if (run.status === 'QUEUED' && run.attempt === 0) {
        return ends.end(tx, run, {
          phase: kind.ends.canceled(run.phase),
          reason: 'It was canceled before it began.',
        });
      }
      await tx.db.run.update({
        where: { id },
        data: { status: 'CANCELING', cancelRequestedAt: new Date() },
      });
      const event = tx.append({
        type: kind.canceling,
        workspaceId: run.workspaceId,
        subjectId: id,
        run,
        from: run.status,
        to: 'CANCELING',
      });
      // A queued run that began before has things to clean up: a worker takes it once more, to end it.
      if (run.status !== 'RUNNING') await app.jobs.wakeRun(tx, run);
      tx.afterCommit(() => app.wakeUps.publish(`c:${id}`));
      return event;
    },
  };
  return verbs;
};
