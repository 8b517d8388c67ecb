import { setTimeout as pause } from 'node:timers/promises';
import type { App } from '#kernel/app.ts';
import type { RunContext, StepContext } from '#kernel/runs/context.ts';
import { defineRunKind } from '#kernel/runs/kinds.ts';
import { openRun, Runs } from '#kernel/runs/runs.ts';
import { workspaceCleanups, type CleanupReport } from '#kernel/workspace-cleanup.ts';
import { deletionPhases, DeletionReport, type WorkspaceDeletionInput } from '../model.ts';

type Context = RunContext<WorkspaceDeletionInput>;

/** Rows that one statement removes. */
const batch = 5000;
const pollMs = 1000;

/**
 * Removes a workspace that nobody reaches any more: what it has outside the database, domain by domain, then its rows
 * and its log. Every part is safe to repeat.
 */
export const workspaceDeletionKind = defineRunKind<WorkspaceDeletionInput>({
  name: 'WorkspaceDeletion',
  versions: [1],
  phases: deletionPhases,
  initial: 'PENDING',
  ends: { canceled: () => 'CANCELED', failed: () => 'FAILED' },
  steps: () => ['clean', 'rows'],
  begin: () => 'DELETING',
  deadlineS: 24 * 3600,
  async execute(context) {
    await context.step('clean', { timeoutS: 12 * 3600 }, async (step) => {
      await cleanAll(context, step);
      return null;
    });
    await context.step('rows', { timeoutS: 6 * 3600 }, async (step) => {
      for (;;) {
        // Once more: what was under way when the workspace was closed may have come after the first time.
        await cleanAll(context, step);
        await context.app.database.unhurried(() => prune(context.app, context.input.workspaceId, step.signal));
        if (await removeRows(context)) return null;
        await pause(pollMs, undefined, { signal: step.signal });
      }
    });
    return { phase: 'DELETED' };
  },
  // Its row is made by whoever asks for it.
  onCreate: async () => undefined,
  async retryInput(_tx, run) {
    return run.input as WorkspaceDeletionInput;
  },
});

async function cleanAll(context: Context, step: StepContext): Promise<void> {
  for (const { name, clean } of workspaceCleanups()) {
    step.signal.throwIfAborted();
    const report = await clean(context.app, context.input.workspaceId, {
      signal: step.signal,
      log: (text) => step.log(text),
      fence: () => context.fence(),
    });
    for (const left of report.left) await step.log(`${name}: ${left}`);
    await note(context, name, report);
  }
}

/** What was there is counted once, however often it is looked at; what is left is as it was seen last. */
async function note(context: Context, name: string, { removed, left }: CleanupReport): Promise<void> {
  const { workspaceId } = context.input;
  // Also for a retry of the run: the receipt tells of the newest one.
  await context.write(async (tx, { id: runId }) => {
    const row = await tx.db.workspaceDeletion.findUniqueOrThrow({ where: { workspaceId } });
    const report = DeletionReport.parse(row.report);
    const before = report[name]?.removed ?? 0;
    await tx.db.workspaceDeletion.update({
      where: { workspaceId },
      data: { runId, report: { ...report, [name]: { removed: Math.max(before, removed), left: [...left] } } },
    });
  });
}

/**
 * Removes what there can be very much of in small statements: the log, files, whose bytes are gone, and runs with their
 * output, steps, deployments and releases. The last statement must not hold its locks for long.
 */
async function prune(app: App, workspaceId: string, signal: AbortSignal): Promise<void> {
  const statements = [
    `delete from event where workspace_id = $1 and seq in (select seq from event where workspace_id = $1 order by seq limit ${batch})`,
    `delete from log_line where (run_id, seq) in (select l.run_id, l.seq from log_line l join run r on r.id = l.run_id where r.workspace_id = $1 limit ${batch})`,
    `delete from artifact where id in (select id from artifact where workspace_id = $1 limit ${batch})`,
  ];
  for (const sql of statements) {
    let removed: number;
    do {
      signal.throwIfAborted();
      removed = (await app.database.pool.query(sql, [workspaceId])).rowCount ?? 0;
    } while (removed === batch);
  }
  await app.use(Runs).prune({ workspaceId, signal });
}

/** Removes the workspace with all that belongs to it. @returns false when a run began in it after all */
async function removeRows(context: Context): Promise<boolean> {
  const { workspaceId } = context.input;
  return context.write(async (tx) => {
    // Nothing refers to it anew while it is locked like this.
    const there = await tx.db.$queryRaw<unknown[]>`select 1 from workspace where id = ${workspaceId}::uuid for update`;
    if (there.length === 0) return true;
    if ((await tx.db.run.count({ where: { workspaceId, ...openRun } })) > 0) return false;
    await tx.db
      .$executeRaw`delete from log_line where run_id in (select id from run where workspace_id = ${workspaceId}::uuid)`;
    await tx.db.idempotencyKey.deleteMany({ where: { workspaceId } });
    await tx.db.workspace.delete({ where: { id: workspaceId } });
    await tx.db.eventHead.deleteMany({ where: { workspaceId } });
    await tx.db.event.deleteMany({ where: { workspaceId } });
    return true;
  });
}
