import type { Run } from '#prisma';
import type { App } from '../app.ts';
import { system } from '../auth/actor.ts';
import type { Transaction } from '../db/transact.ts';
import { knowsRunKind, runKind } from './kinds.ts';
import { eventOf, fence, lockRow, queued, requeued, runColumns, unlockText, type Hold, type Woken } from './row.ts';
import type { Steps } from './steps.ts';

const takeText = `
  update run set attempt = attempt + 1, worker_id = $2,
    lease_until = clock_timestamp() + make_interval(secs => $3::float8),
    status = case when status = 'CANCELING' then status else 'RUNNING'::run_status end, phase = $4,
    started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp()
  where id = $1 returning ${runColumns},
    (select jsonb_object_agg(s.name, jsonb_build_object('status', s.status, 'output', s.output))
     from run_step s where s.run_id = run.id) as steps`;
const olderText = `
  select o.id, o.host_id from run o, run r
  where r.id = $1 and o.lock_key = r.lock_key and ${queued('o')} and o.id <> r.id
    and (o.created_at, o.id) < (r.created_at, r.id)
  order by o.created_at, o.id limit 1 for update of o`;
const renewText = (locked: string) => `
  update run set lease_until = clock_timestamp() + make_interval(secs => $1::float8)
  where id in (
    select id from run
    where id = any($2::uuid[]) and worker_id = $3 and lease_until > clock_timestamp() and status in ('RUNNING', 'CANCELING')
    for update ${locked}
  )
  returning id, attempt, status`;

/** A run as its execution begins. */
export interface Taken extends Run {
  /** Steps by name; null: it has none. */
  readonly steps: Steps | null;
}

/** How workers get runs, keep them and give them back. */
export const holding = (app: App) => ({
  /**
   * Takes a run for execution: raises its attempt, which fences every earlier execution. Null when it is not to be
   * taken: another worker has it, its lock is held or an older run waits for it, it is over, or it is not for this
   * host or program.
   */
  async take(id: string, worker: { workerId: string; hostId: string }): Promise<Taken | null> {
    const { taken } = await app.transact<{ taken?: Promise<Taken[]> }>(system, async (tx) => {
      const [older, run] = await Promise.all([lockOlder(tx, id), lockRow(tx, id)]);
      // A RUNNING one of a lost worker is first put back by the reconciler, which counts the loss.
      if (!run || (run.status !== 'QUEUED' && !(run.status === 'CANCELING' && run.leaseUntil === null))) return {};
      if (!knowsRunKind(run.kind)) return {};
      const kind = runKind(run.kind);
      if (!kind.versions.includes(run.inputVersion)) return {};
      if (run.hostId !== null && run.hostId !== worker.hostId) return {};
      if (run.lockKey) {
        if (older && (await tx.sql('select from run_lock where run_id = $1', [id])).length === 0) {
          await app.jobs.wakeRun(tx, older);
          return {}; // the older one wakes this one when it ends
        }
        tx.send('insert into run_lock (key, run_id) values ($1, $2) on conflict do nothing', [run.lockKey, id]);
        const [lock] = await tx.sql<{ runId: string }>('select run_id from run_lock where key = $1', [run.lockKey]);
        if (lock?.runId !== id) return {}; // its holder wakes this run when it ends
      }
      if (!(await hasRoom(app, tx, run))) {
        // It was not begun: another one may have the lock.
        if (run.lockKey) tx.send(unlockText, [run.lockKey, id]);
        // The next one that ends wakes it; the reconciler leaves it alone for a while.
        tx.send('update run set updated_at = clock_timestamp() where id = $1', [id]);
        return {};
      }
      const begin = run.phase === kind.initial && run.status === 'QUEUED' ? kind.begin(run.input as never) : run.phase;
      const taken = tx.sql<Taken>(takeText, [id, worker.workerId, app.limits.runLeaseS, begin]);
      tx.append({
        type: run.phase === begin ? kind.resumed : eventOf(kind, begin),
        workspaceId: run.workspaceId,
        subjectId: id,
        run,
        from: run.phase,
        to: begin,
      });
      // Not waited for: it goes out with the event and the commit. When it fails, so do they.
      return { taken };
    });
    return (await taken)?.[0] ?? null;
  },

  /**
   * Extends the leases of a worker's runs. Answers with those that it still holds and which of them must stop.
   * @param wait for those whose row somebody has locked; without it they are left out
   */
  async renew(
    workerId: string,
    runIds: readonly string[],
    wait = true,
  ): Promise<{ id: string; attempt: number; status: string }[]> {
    const { rows } = await app.database.query<{ id: string; attempt: number; status: string }>(
      wait ? renewText('') : renewText('skip locked'),
      [app.limits.runLeaseS, runIds, workerId],
    );
    return rows;
  },

  /** Gives a run that this worker holds back to the queue; it goes on at its first incomplete step. @throws {Fenced} */
  async handBack(tx: Transaction, hold: Hold): Promise<void> {
    const run = await fence(tx, hold);
    await tx.db.run.update({
      where: { id: run.id },
      data: { leaseUntil: null, workerId: null, ...(run.status === 'RUNNING' ? { status: 'QUEUED' as const } : {}) },
    });
    requeued(tx, run);
    await app.jobs.wakeRun(tx, run);
  },

  /** Wakes queued runs whose wake-up this process got and could not follow. */
  async wakeAgain(ids: readonly string[]): Promise<void> {
    const runs = await app.db.run.findMany({
      where: { id: { in: [...ids] }, status: { in: ['QUEUED', 'CANCELING'] } },
      select: { id: true, hostId: true },
    });
    await app.jobs.wakeRuns(runs);
  },
});

/**
 * The oldest run that waits for the same lock and came before this one; null: none. Locked before the run itself, so
 * that one that is just ending is seen to have ended, and in the order in which all lock runs of one key.
 */
async function lockOlder(tx: Transaction, id: string): Promise<Woken | null> {
  const [older] = await tx.sql<Woken>(olderText, [id]);
  return older ?? null;
}

/** Whether a run may begin, as far as its workspace's other runs go; decided one at a time for each workspace and kind. */
async function hasRoom(app: App, tx: Transaction, run: Run): Promise<boolean> {
  const kind = runKind(run.kind);
  if (!kind.hasRoom || run.attempt > 0 || run.status !== 'QUEUED') return true;
  // Not waited for: what is asked behind it sees what was committed before it was given.
  tx.send('select pg_advisory_xact_lock(hashtextextended($1, 0))', [`${run.kind} ${run.workspaceId}`]);
  return kind.hasRoom(tx, run, app);
}
