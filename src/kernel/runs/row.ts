import type { Run } from '#prisma';
import { Prisma } from '#prisma';
import { columnsOf } from '../db/connection.ts';
import type { Transaction } from '../db/transact.ts';
import type { EventType } from '../events/define.ts';
import { Fenced } from './errors.ts';
import { runKind, type RegisteredKind } from './kinds.ts';
import { isTerminal, terminal } from './model.ts';

// The row of a run: what all that write it need.

/** A worker's hold on a run: who, and which execution. Every write of the execution is conditional on it. */
export interface Hold {
  readonly runId: string;
  readonly attempt: number;
  readonly workerId: string;
}

export const runColumns = columnsOf(Prisma.RunScalarFieldEnum);
export const unlockText = 'delete from run_lock where key = $1 and run_id = $2';
const lockText = `select ${runColumns} from run where id = $1 for update`;
// In the words of the index on lock keys, and in such as no other index has: in a burst of queued runs the statistics still
// say that there are none, any index of open or queued ones would be thought as good, and have all of them read.
export const queued = (run: string) =>
  `coalesce(${run}.completed_at, 'infinity'::timestamptz) = 'infinity'::timestamptz and ${run}.status::text = 'QUEUED'`;

/** Condition on runs with a lock key that no worker has begun. */
export const notBegun = `lock_key = $1 and ${queued('run')} and attempt = 0`;

/** For queries: a run that is not over. */
export const openRun: Prisma.RunWhereInput = { status: { notIn: [...terminal] } };

/** A run that is to be told that it may begin. */
export type Woken = Pick<Run, 'id' | 'hostId'>;

export async function lockRow(tx: Transaction, id: string): Promise<Run | null> {
  const [run] = await tx.sql<Run>(lockText, [id]);
  return run ?? null;
}

export async function fence(tx: Transaction, hold: Hold): Promise<Run> {
  const run = await lockRow(tx, hold.runId);
  const held = run && run.attempt === hold.attempt && run.workerId === hold.workerId && !isTerminal(run.status);
  if (!held) throw new Fenced(hold.runId);
  return run;
}

export function eventOf(kind: RegisteredKind, phase: string): EventType {
  const type = kind.events.get(phase);
  if (!type) throw new Error(`${kind.name} has no event for ${phase}`);
  return type;
}

const waitingText = `
  select id, host_id from run
  where workspace_id = $1 and kind = $2 and status = 'QUEUED' and completed_at is null and attempt = 0 and id <> $3
  order by created_at, id limit 1`;

/** The oldest run that waits for room in its workspace, where this one may have made some; null: none. */
export async function roomFor(tx: Transaction, { id, workspaceId, kind }: Run): Promise<Woken | null> {
  if (!runKind(kind).hasRoom) return null;
  const [next] = await tx.sql<Woken>(waitingText, [workspaceId, kind, id]);
  return next ?? null;
}

export function requeued(tx: Transaction, run: Run): void {
  if (run.status !== 'RUNNING') return;
  tx.append({
    type: runKind(run.kind).requeued,
    workspaceId: run.workspaceId,
    subjectId: run.id,
    run,
    from: 'RUNNING',
    to: 'QUEUED',
  });
}
