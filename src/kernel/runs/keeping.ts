import type { App } from '../app.ts';
import { system } from '../auth/actor.ts';
import type { Transaction } from '../db/transact.ts';
import type { Ending } from './ending.ts';
import { runKind, runKinds } from './kinds.ts';
import { terminal } from './model.ts';
import { requeued } from './row.ts';

/** Workers that a run may lose before it is given up. */
const maxLostWorkers = 5;
/** Runs that one statement removes. */
const pruneBatch = 200;

/** What nobody asks for: runs of lost workers, those that are late, those that are to be forgotten. */
export const keeping = (app: App, ends: Ending) => ({
  /**
   * Puts right what nobody else does: runs of lost workers go back to the queue (or are given up), deadlines are
   * enforced, and queued runs whose wake-up was lost are woken again. Any number of workers may do this at once.
   */
  async reconcile(): Promise<void> {
    // What this program does not know is left to one that does.
    const kinds = runKinds().map(({ name }) => name);
    const lost = await app.database.pool.query<{ id: string }>(
      `select id from run where status in ('RUNNING', 'CANCELING') and lease_until < clock_timestamp() and kind = any($1)
       limit 100`,
      [kinds],
    );
    await eachOf(lost.rows, (id) => app.transact(system, (tx) => requeueLost(app, ends, tx, id)));
    const late = await app.database.pool.query<{ id: string }>(
      `select id from run where (status in ('QUEUED', 'WAITING') or (status = 'CANCELING' and lease_until is null))
         and deadline_at < clock_timestamp() and kind = any($1) limit 100`,
      [kinds],
    );
    await eachOf(late.rows, (id) =>
      app.transact(system, async (tx) => {
        // Judged by the same clock that chose it.
        const [still] = await tx.db.$queryRaw<{ id: string }[]>`
          select id from run where id = ${id}::uuid and deadline_at < clock_timestamp()
            and (status in ('QUEUED', 'WAITING') or (status = 'CANCELING' and lease_until is null)) for update`;
        if (!still) return;
        const run = await tx.db.run.findUniqueOrThrow({ where: { id } });
        const { canceled, failed } = runKind(run.kind).ends;
        await ends.end(
          tx,
          run,
          run.status === 'CANCELING'
            ? { phase: canceled(run.phase), reason: 'It was canceled, and no worker came to clean up.' }
            : { phase: failed(run.phase), reason: 'The deadline passed while it waited.', timedOut: true },
        );
      }),
    );
    const idle = await app.database.pool.query<{ id: string; host_id: string | null }>(
      `select r.id, r.host_id from run r left join run_lock l on l.key = r.lock_key and l.run_id <> r.id
       where (r.status = 'QUEUED' or (r.status = 'CANCELING' and r.lease_until is null))
         and l.key is null and r.updated_at < clock_timestamp() - interval '5 seconds'
       order by r.created_at limit 500`,
    );
    await app.jobs.wakeRuns(idle.rows.map((row) => ({ id: row.id, hostId: row.host_id })));
  },

  /** Removes runs that are over, with their steps, their output and what their kinds keep of them. @returns how many */
  async remove(tx: Transaction, ids: readonly string[]): Promise<number> {
    return tx.db.$executeRaw`
      with over as (select id from run where id = any(${[...ids]}::uuid[]) and completed_at is not null),
        lines as (delete from log_line using over where run_id = over.id)
      delete from run using over where run.id = over.id`;
  },

  /**
   * Removes runs of a workspace that are over, with their steps, their output and what their kinds keep of them, in
   * small statements. With `before` only those that ended before then, and none that may have to be tried again: of what
   * failed the last try stays.
   * @returns how many
   */
  async prune(of: {
    readonly workspaceId: string;
    readonly before?: Date;
    readonly signal: AbortSignal | undefined;
  }): Promise<number> {
    let removed = 0;
    for (;;) {
      of.signal?.throwIfAborted();
      const { rowCount } = await app.database.pool.query(
        `with over as (
           select id from run where workspace_id = $1 and status::text = any($2)
             and ($3::timestamptz is null or (completed_at < $3
               and (status = 'SUCCEEDED' or exists (select 1 from run again where again.retry_of_id = run.id))))
           order by created_at limit ${pruneBatch}
         ), lines as (delete from log_line using over where run_id = over.id)
         delete from run using over where run.id = over.id`,
        [of.workspaceId, terminal, of.before ?? null],
      );
      removed += rowCount ?? 0;
      if ((rowCount ?? 0) < pruneBatch) return removed;
    }
  },
});

/** Tries them all; the first failure is thrown at the end, so that one run does not keep the others from being put right. */
async function eachOf(rows: readonly { id: string }[], put: (id: string) => Promise<void>): Promise<void> {
  const failures: unknown[] = [];
  for (const { id } of rows) {
    try {
      await put(id);
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw new AggregateError(failures, `${failures.length} runs could not be put right`);
}

async function requeueLost(app: App, ends: Ending, tx: Transaction, id: string): Promise<void> {
  const [lost] = await tx.db.$queryRaw<{ id: string }[]>`
    select id from run where id = ${id}::uuid and status in ('RUNNING', 'CANCELING') and lease_until < clock_timestamp()
    for update skip locked`;
  if (!lost) return;
  const run = await tx.db.run.findUniqueOrThrow({ where: { id } });
  if (run.lostWorkers + 1 >= maxLostWorkers) {
    await tx.db.run.update({ where: { id }, data: { lostWorkers: maxLostWorkers } });
    await ends.end(tx, run, {
      phase: runKind(run.kind).ends.failed(run.phase),
      reason: `${maxLostWorkers} workers were lost while they executed it.`,
    });
    return;
  }
  await tx.db.run.update({
    where: { id },
    data: {
      lostWorkers: { increment: 1 },
      leaseUntil: null,
      workerId: null,
      ...(run.status === 'RUNNING' ? { status: 'QUEUED' as const } : {}),
    },
  });
  requeued(tx, run);
  await app.jobs.wakeRun(tx, run);
}
