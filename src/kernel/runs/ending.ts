import type { Run, RunStatus } from '#prisma';
import type { App } from '../app.ts';
import { system } from '../auth/actor.ts';
import type { Appended, Transaction } from '../db/transact.ts';
import { IllegalTransition } from '../errors.ts';
import { phaseOf, runKind } from './kinds.ts';
import { isTerminal, statusMayBecome, statusTransitions } from './model.ts';
import { fencedBy, sendCompletion, type Completed } from './steps.ts';
import { eventOf, fence, queued, roomFor, unlockText, type Hold, type Woken } from './row.ts';

const endText = `
  update run set status = $2::text::run_status, phase = $3, status_reason = $4, completed_at = clock_timestamp(),
    lease_until = null, worker_id = null, updated_at = clock_timestamp()
  where id = $1`;
const endStepsText = `
  update run_step set status = case when status = 'RUNNING' then $2::text::step_status else 'SKIPPED' end,
    completed_at = case when status = 'RUNNING' then clock_timestamp() end, updated_at = clock_timestamp()
  where run_id = $1 and status in ('RUNNING', 'PENDING') returning name, attempt, status`;
/** Of a run that is as its worker knows it, and fails where it is not: it holds it, nobody told it to stop, no step is open. */
const endHeldText = `
  with ended as (
    update run set status = $2::text::run_status, phase = $3, status_reason = $4, completed_at = clock_timestamp(),
      lease_until = null, worker_id = null, updated_at = clock_timestamp()
    where id = $1 and attempt = $5 and worker_id = $6 and status = 'RUNNING' and phase = $7
      and not exists (select 1 from run_step where run_id = $1 and status = 'RUNNING')
    returning id
  ), skipped as (
    update run_step set status = 'SKIPPED', updated_at = clock_timestamp()
    where run_id = (select id from ended) and status = 'PENDING'
  )
  select 1 / count(*) from ended`;
const nextText = `
  select id, host_id from run where lock_key = $1 and ${queued('run')} and id <> $2 order by created_at, id limit 1`;

interface End {
  readonly phase: string;
  readonly reason?: string | undefined;
  readonly timedOut?: boolean;
}

/** The status that an end gives a run. @throws {IllegalTransition} */
function statusOf(run: Run, end: End): RunStatus {
  const kind = runKind(run.kind);
  const phase = phaseOf(kind, end.phase);
  if (!isTerminal(phase.status)) throw new Error(`${end.phase} is no end of ${kind.name}`);
  const from = phaseOf(kind, run.phase);
  if (!from.next.includes(end.phase)) throw new IllegalTransition(run.phase, end.phase, from.next);
  const status = end.timedOut ? 'TIMED_OUT' : phase.status;
  if (!statusMayBecome(run.status, status)) {
    throw new IllegalTransition(run.status, status, statusTransitions[run.status]);
  }
  return status;
}

/** How runs end. */
export const ending = (app: App) => {
  /** What is behind the end of a run: its lock goes, who waited is woken, its kind and everybody else are told. */
  const over = async (tx: Transaction, run: Run, end: End, status: RunStatus): Promise<Appended> => {
    const kind = runKind(run.kind);
    if (run.lockKey) tx.send(unlockText, [run.lockKey, run.id]);
    const [[next], waiting] = await Promise.all([
      run.lockKey ? tx.sql<Woken>(nextText, [run.lockKey, run.id]) : [],
      roomFor(tx, run),
      kind.onEnd?.(tx, run, end.phase, app),
    ]);
    if (next) await app.jobs.wakeRun(tx, next);
    if (waiting) await app.jobs.wakeRun(tx, waiting);
    tx.afterCommit(() => {
      app.metrics.runTransitions.inc({ kind: kind.name, from: run.status, to: status });
      app.metrics.runSeconds.observe({ kind: kind.name, status }, (Date.now() - run.createdAt.getTime()) / 1000);
      app.wakeUps.publish(`l:${run.id}`);
    });
    return tx.append({
      type: eventOf(kind, end.phase),
      workspaceId: run.workspaceId,
      subjectId: run.id,
      run,
      from: run.phase,
      to: end.phase,
    });
  };

  const verbs = {
    /**
     * Ends a run whose execution is over, as that knows it, with its last step: one round trip, but for what its lock and
     * its kind ask.
     * @throws {Fenced} and where it is not as it is known: then `finish` says what it is
     */
    async finishKnown(hold: Hold, run: Run, end: End, last: Completed | null): Promise<void> {
      const status = statusOf(run, end);
      const transaction = app.transact(system, async (tx) => {
        if (last) sendCompletion(tx, hold, last);
        const { runId, attempt, workerId } = hold;
        tx.send(endHeldText, [runId, status, end.phase, end.reason ?? null, attempt, workerId, run.phase]);
        await over(tx, run, end, status);
      });
      await fencedBy(run.id, transaction);
    },

    /** Ends a run that this worker holds. @throws {Fenced} */
    async finish(tx: Transaction, hold: Hold, end: End): Promise<Appended> {
      return verbs.end(tx, await fence(tx, hold), end);
    },

    /** Ends a run whose row the caller has locked: terminal state, lock released, next one woken. */
    async end(tx: Transaction, run: Run, end: End): Promise<Appended> {
      const status = statusOf(run, end);
      tx.send(endText, [run.id, status, end.phase, end.reason ?? null]);
      const stepStatus = status === 'CANCELED' ? 'CANCELED' : 'FAILED';
      const steps = await tx.sql<{ name: string; attempt: number; status: string }>(endStepsText, [run.id, stepStatus]);
      for (const step of steps) {
        if (step.status === 'SKIPPED') continue;
        tx.append({
          type: runKind(run.kind).step.failed,
          workspaceId: run.workspaceId,
          subjectId: run.id,
          run,
          from: 'RUNNING',
          to: stepStatus,
          data: { step: step.name, attempt: step.attempt },
        });
      }
      return over(tx, run, end, status);
    },
  };
  return verbs;
};
export type Ending = ReturnType<typeof ending>;
