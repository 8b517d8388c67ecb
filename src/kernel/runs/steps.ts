import type pg from 'pg';
import type { StepStatus } from '#prisma';
import type { App } from '../app.ts';
import { system } from '../auth/actor.ts';
import type { Transaction } from '../db/transact.ts';
import type { NewEvent } from '../events/define.ts';
import { Fenced } from './errors.ts';
import type { Json } from './model.ts';
import { fence, type Hold } from './row.ts';

/** What is known of the steps of a run, by name. */
export type Steps = Readonly<Record<string, { readonly status: StepStatus; readonly output: unknown }>>;

/** A step that is complete, with the event that tells so. */
export interface Completed {
  readonly name: string;
  readonly output: Json;
  readonly event: NewEvent;
}

const heldText = `
  with held as (
    select attempt from run
    where id = $1 and attempt = $2 and worker_id = $3 and status in ('RUNNING', 'CANCELING') for update
  )`;
/** Without the hold, a step's attempt would be null, which the database refuses. */
const stepText = (name: string, set: string) => `
  update run_step set attempt = (select attempt from held), ${set}, updated_at = clock_timestamp()
  where run_id = $1 and name = ${name}`;
const begun = `status = 'RUNNING', started_at = clock_timestamp(), completed_at = null, error = null`;
const completed = `status = 'SUCCEEDED', output = $5, completed_at = clock_timestamp()`;
const beginStepText = `${heldText} ${stepText('$4', begun)}`;
const completeStepText = `${heldText} ${stepText('$4', completed)}`;
const nextStepText = `${heldText}, before as (${stepText('$4', completed)}) ${stepText('$6', begun)}`;

const textOf = (output: Json): string | null => (output == null ? null : JSON.stringify(output));

/** The steps of runs that workers hold. */
export const stepping = (app: App) => ({
  /**
   * A step of a run that this worker holds begins: one round trip.
   * @param before the step before it, which is complete and not written yet
   * @throws {Fenced}
   */
  async beginStep(hold: Hold, name: string, event: NewEvent, before: Completed | null = null): Promise<void> {
    const { runId, attempt, workerId } = hold;
    const transaction = app.transact(system, async (tx) => {
      if (before) {
        tx.send(nextStepText, [runId, attempt, workerId, before.name, textOf(before.output), name]);
        tx.append(before.event);
      } else tx.send(beginStepText, [runId, attempt, workerId, name]);
      tx.append(event);
    });
    await fencedBy(runId, transaction);
  },

  /**
   * It completes: one round trip, but for what `commit` asks.
   * @param and.commit writes that belong to it, of a run that is known to be held
   * @param and.children whether it recorded any
   * @throws {Fenced}
   */
  async completeStep(
    hold: Hold,
    step: Completed,
    { commit, children }: { readonly commit?: (tx: Transaction) => Promise<void>; readonly children?: boolean } = {},
  ): Promise<void> {
    const { runId, attempt } = hold;
    const transaction = app.transact(system, async (tx) => {
      if (commit) {
        await fence(tx, hold);
        await commit(tx);
      }
      sendCompletion(tx, hold, step);
      // What the step started and left running is its output's now: a take-over must not end it.
      if (children) tx.send('delete from run_child where run_id = $1 and attempt = $2', [runId, attempt]);
    });
    await fencedBy(runId, transaction);
  },
});

/** Writes it in a transaction that fails where the run is not held: see `fencedBy`. */
export function sendCompletion(tx: Transaction, { runId, attempt, workerId }: Hold, step: Completed): void {
  tx.send(completeStepText, [runId, attempt, workerId, step.name, textOf(step.output)]);
  tx.append(step.event);
}

/** Tells of a step that was not written by whoever holds the run. */
export async function fencedBy(runId: string, transaction: Promise<void>): Promise<void> {
  try {
    await transaction;
  } catch (error) {
    const { code, table, column } = error as Partial<pg.DatabaseError>;
    throw code === '23502' && table === 'run_step' && column === 'attempt' ? new Fenced(runId) : error;
  }
}
