import type { App } from '../app.ts';
import type { Run } from '#prisma';
import type { Appended, Transaction } from '../db/transact.ts';
import { IllegalTransition } from '../errors.ts';
import type { Ending } from './ending.ts';
import { leadsTo, phaseOf, runKind } from './kinds.ts';
import { isTerminal, statusTransitions } from './model.ts';
import { eventOf, fence, roomFor, type Hold } from './row.ts';

/** How long a run waits for a person where its kind says nothing else, seconds. */
const defaultWaitS = 30 * 24 * 3600;

const moveText = `
  update run set phase = $2, status = $3::text::run_status, status_reason = $4, updated_at = clock_timestamp() where id = $1`;

/** Tells of it. */
const moved = (tx: Transaction, run: Run, to: string): Appended =>
  tx.append({
    type: eventOf(runKind(run.kind), to),
    workspaceId: run.workspaceId,
    subjectId: run.id,
    run,
    from: run.phase,
    to,
  });

/** How runs go from phase to phase, and wait for people in between. */
export const moving = (app: App, ends: Ending) => ({
  /**
   * Moves a run that this worker holds to another phase that is not an end. An execution that repeats an earlier one
   * passes the phases again that the run has left behind: those moves do nothing.
   * @returns the phase that it is in
   * @throws {Fenced} when the worker no longer holds it
   * @throws {IllegalTransition}
   */
  async moveTo(tx: Transaction, hold: Hold, to: string, reason?: string): Promise<string> {
    const run = await fence(tx, hold);
    const kind = runKind(run.kind);
    if (run.phase === to) return to;
    const from = phaseOf(kind, run.phase);
    if (!from.next.includes(to)) {
      if (hold.attempt > 1 && leadsTo(kind, to, run.phase)) return run.phase;
      throw new IllegalTransition(run.phase, to, from.next);
    }
    const { status } = phaseOf(kind, to);
    if (isTerminal(status) || status === 'WAITING')
      throw new Error(`${to} is no phase that a worker executes ${kind.name} in: its execution returns it`);
    tx.send(moveText, [run.id, to, run.status === 'CANCELING' ? run.status : status, reason ?? run.statusReason]);
    moved(tx, run, to);
    return to;
  },

  /**
   * Lets a run that this worker holds wait for a person: without a worker, a lease or a slot, for as long as `waitS` of
   * its kind says. It keeps its lock. One that was told to stop meanwhile ends instead.
   * @throws {Fenced}
   */
  async wait(
    tx: Transaction,
    hold: Hold,
    { phase: to, reason }: { readonly phase: string; readonly reason?: string | undefined },
  ): Promise<Appended> {
    const run = await fence(tx, hold);
    const kind = runKind(run.kind);
    if (run.status === 'CANCELING')
      return ends.end(tx, run, { phase: kind.ends.canceled(run.phase), reason: 'The run was canceled.' });
    const from = phaseOf(kind, run.phase);
    // An execution that only looks again at what waits leaves it where it is.
    if (run.phase !== to && !from.next.includes(to)) throw new IllegalTransition(run.phase, to, from.next);
    await tx.db.run.update({
      where: { id: run.id },
      data: {
        status: 'WAITING',
        phase: to,
        statusReason: reason ?? null,
        leaseUntil: null,
        workerId: null,
        deadlineAt: new Date(Date.now() + (kind.waitS ?? defaultWaitS) * 1000),
      },
    });
    await kind.onWait?.(tx, run, to, app);
    const waiting = await roomFor(tx, run);
    if (waiting) await app.jobs.wakeRun(tx, waiting);
    tx.afterCommit(() => app.metrics.runTransitions.inc({ kind: kind.name, from: run.status, to: 'WAITING' }));
    return moved(tx, run, to);
  },

  /**
   * Lets a run whose row the caller has locked go on after its wait: a worker takes it, and goes on at its first step
   * that is not complete. It has its whole `deadlineS` again.
   * @throws {IllegalTransition} when it does not wait, or not for this
   */
  async resume(
    tx: Transaction,
    run: Run,
    { phase: to, reason }: { readonly phase: string; readonly reason?: string | undefined },
  ): Promise<Appended> {
    const kind = runKind(run.kind);
    const from = phaseOf(kind, run.phase);
    if (run.status !== 'WAITING') throw new IllegalTransition(run.status, 'QUEUED', statusTransitions[run.status]);
    if (!from.next.includes(to)) throw new IllegalTransition(run.phase, to, from.next);
    const { status } = phaseOf(kind, to);
    if (isTerminal(status) || status === 'WAITING') throw new Error(`${kind.name} does not go on in ${to}`);
    await tx.db.run.update({
      where: { id: run.id },
      data: {
        status: 'QUEUED',
        phase: to,
        statusReason: reason ?? null,
        deadlineAt: new Date(Date.now() + kind.deadlineS * 1000),
      },
    });
    await app.jobs.wakeRun(tx, run);
    tx.afterCommit(() => app.metrics.runTransitions.inc({ kind: kind.name, from: 'WAITING', to: 'QUEUED' }));
    return moved(tx, run, to);
  },
});
