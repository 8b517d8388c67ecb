import { z } from 'zod';
import { setTimeout as pause } from 'node:timers/promises';
import { service, type App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { authorize } from '#kernel/auth/policy.ts';
import type { Appended } from '#kernel/db/transact.ts';
import { parse } from '#kernel/input.ts';
import type { RunContext, StepContext } from '#kernel/runs/context.ts';
import { defineRunKind } from '#kernel/runs/kinds.ts';
import { Runs } from '#kernel/runs/runs.ts';
import {
  keysOf,
  replaceSealed,
  sealedByOthers,
  sealedColumns,
  type SealedColumn,
  type SealedValue,
} from '#kernel/sealing/columns.ts';
import { SealBroken, UnknownKey } from '#kernel/sealing/errors.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { OtherCurrentKey, RotationIncomplete } from './errors.ts';
import { phases, Report, type KeyRotationInput } from './model.ts';
import { can } from './policy.ts';

/** Values that are read, and replaced in one transaction. */
const batch = 100;
/** Times that a column is gone through: what somebody else writes or holds meanwhile is found by the next one. */
const passes = 5;

const NewRotation = z.object({ idempotencyKey: z.string().nullish() });

export interface Requested {
  readonly id: string;
  readonly event: Appended | null;
}

/** Puts every sealed value under the current encryption key, so that older ones can be taken out of the configuration. */
export const keyRotationKind = defineRunKind<KeyRotationInput>({
  name: 'KeyRotation',
  versions: [1],
  phases,
  initial: 'PENDING',
  ends: { canceled: () => 'CANCELED', failed: () => 'FAILED' },
  steps: () => ['rewrap', 'verify'],
  begin: () => 'ROTATING',
  deadlineS: 24 * 3600,
  async execute(context) {
    const sealing = context.app.use(Sealing);
    const { keyId } = context.input;
    // A worker that was not restarted yet would turn everything back.
    if (sealing.currentKey !== keyId) throw new OtherCurrentKey(keyId, sealing.currentKey);
    const { unhurried } = context.app.database;
    await context.step('rewrap', { timeoutS: 20 * 3600 }, (step) => unhurried(() => rewrapAll(context, step)));
    await context.step('verify', { timeoutS: 3600 }, async () => {
      const left = await unhurried(() => sealedBy(context.app, (kid) => kid !== keyId));
      if (left.length > 0) throw new RotationIncomplete(left);
      return null;
    });
    return { phase: 'ROTATED' };
  },
  async onCreate(tx, run, { keyId }) {
    await tx.db.keyRotation.create({ data: { id: run.id, keyId } });
  },
  retryInput: async (_tx, run) => run.input as KeyRotationInput,
});

/** The server itself, and what its operators do to it. The only writer of `key_rotation`. */
export const Instance = service('instance', (app) => ({
  /**
   * Queues a run that puts every sealed value under the current encryption key. Two never run at once.
   * @throws {ValidationError} {Unauthenticated} {NotFound} {Forbidden} {IdempotencyConflict}
   */
  async rotateEncryptionKeys(actor: Actor, raw: unknown): Promise<Requested> {
    const { idempotencyKey } = parse(NewRotation, raw);
    authorize(actor, can.rotateEncryptionKeys, instanceWorkspaceId);
    const input = { keyId: app.use(Sealing).currentKey };
    const request = { workspaceId: instanceWorkspaceId, mutation: 'rotateEncryptionKeys', key: idempotencyKey, input };
    return app.transact(actor, (tx) =>
      app.use(Runs).once(tx, request, () =>
        app.use(Runs).create(tx, {
          kind: keyRotationKind,
          workspaceId: instanceWorkspaceId,
          input,
          lockKey: 'encryption-keys',
          trigger: 'API',
        }),
      ),
    );
  },
}));

/** How many values there are, by column and key, of the keys that are asked for. */
async function sealedBy(
  app: App,
  which: (kid: string) => boolean,
): Promise<{ column: string; kid: string; values: number }[]> {
  const found: { column: string; kid: string; values: number }[] = [];
  for (const { name, ...column } of sealedColumns()) {
    const keys = await keysOf(app.database.pool, { name, ...column });
    for (const [kid, values] of keys) if (which(kid)) found.push({ column: name, kid, values });
  }
  return found;
}

/** Goes through every column, in batches that commit by themselves: one that is executed again has less to do. */
async function rewrapAll(context: RunContext<KeyRotationInput>, step: StepContext): Promise<null> {
  const todo = await sealedBy(context.app, (kid) => kid !== context.input.keyId);
  const total = todo.reduce((sum, { values }) => sum + values, 0);
  let done = 0;
  for (const column of sealedColumns()) {
    for (let pass = 1; pass <= passes; pass++) {
      const { seen, rewrapped, failed } = await rewrapColumn(context, step, column, async (values) => {
        done += values;
        await context.progress(Math.min(1, done / Math.max(1, total)));
      });
      // What cannot be opened now cannot be in the next pass either.
      if (seen === failed) break;
      // Somebody was changing the others: they get the time to commit.
      if (seen > rewrapped + failed) await pause(300 * pass, undefined, { signal: step.signal });
    }
  }
  return null;
}

/** One pass over a column. @returns how many values of other keys it met, and what became of them */
async function rewrapColumn(
  context: RunContext<KeyRotationInput>,
  step: StepContext,
  column: SealedColumn,
  onBatch: (values: number) => Promise<void>,
): Promise<{ seen: number; rewrapped: number; failed: number }> {
  const { app, input } = context;
  const sealing = app.use(Sealing);
  const broken: string[] = [];
  let seen = 0;
  let rewrapped = 0;
  let after = '00000000-0000-0000-0000-000000000000';
  for (;;) {
    step.signal.throwIfAborted();
    const values = await sealedByOthers(app.database.pool, column, { kid: input.keyId, after, limit: batch });
    const last = values.at(-1);
    if (!last) break;
    const replacements: (SealedValue & { replacement: string })[] = [];
    for (const value of values) {
      try {
        replacements.push({ ...value, replacement: await sealing.rewrap(value.sealed, column.context(value.id)) });
      } catch (error) {
        if (!(error instanceof UnknownKey || error instanceof SealBroken)) throw error;
        broken.push(value.id);
        await step.log(`${column.name} of ${value.id}: ${error.message}`);
      }
    }
    const replaced = await context.write(async (tx) => {
      const count = await replaceSealed(tx.db, column, replacements);
      await report(tx.db, context.run.id, column, (before) => ({ ...before, rewrapped: before.rewrapped + count }));
      return count;
    });
    seen += values.length;
    rewrapped += replaced;
    after = last.id;
    await onBatch(replaced);
  }
  await context.write((tx) =>
    report(tx.db, context.run.id, column, (before) => ({ ...before, failed: broken.length })),
  );
  return { seen, rewrapped, failed: broken.length };
}

type Counts = Report[string];

/** Changes a column's part of the report. The caller holds the run's row, so nobody else does meanwhile. */
async function report(
  db: Pick<App['db'], 'keyRotation'>,
  id: string,
  { name }: SealedColumn,
  change: (before: Counts) => Counts,
): Promise<void> {
  const columns = Report.parse((await db.keyRotation.findUniqueOrThrow({ where: { id } })).columns);
  await db.keyRotation.update({
    where: { id },
    data: { columns: { ...columns, [name]: change(columns[name] ?? { rewrapped: 0, failed: 0 }) } },
  });
}
