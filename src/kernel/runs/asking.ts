import type { Run, RunTrigger } from '#prisma';
import type { App } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { authorizeRow } from '../auth/policy.ts';
import { canonicalJson, sha256Hex } from '../crypto.ts';
import type { Appended, Transaction } from '../db/transact.ts';
import { IdempotencyConflict, IllegalTransition, NotFound, ValidationError } from '../errors.ts';
import { isId, newId } from '../ids.ts';
import { currentTraceparent } from '../telemetry/trace.ts';
import { runKind, type RegisteredKind } from './kinds.ts';
import { isTerminal, type Json } from './model.ts';
import { runPolicy } from './policy.ts';

/** What a new run is made of. */
export interface NewRun {
  /** Default: a new one. */
  readonly id?: string;
  readonly kind: RegisteredKind;
  readonly workspaceId: string;
  readonly input: Json;
  readonly lockKey?: string;
  readonly hostId?: string | null;
  readonly trigger: RunTrigger;
  readonly retryOfId?: string;
  /** The run that it is a part of. */
  readonly parentId?: string;
}

export interface Started {
  readonly id: string;
  readonly event: Appended;
  /** As it was written, where it is new, with what its kind wrote beside it. */
  readonly run?: Run;
}

/** 1 to 200 characters that a log line and the database can hold. */
const idempotencyKeys = /^[^\p{Cc}\p{Cs}]{1,200}$/u;

const createText = `
  with fresh as (
    insert into run (id, workspace_id, kind, status, phase, trigger, actor_id, retry_of_id, parent_id, lock_key, host_id,
                     input, input_version, traceparent, deadline_at, created_at, updated_at)
    values ($1, $2, $3, 'QUEUED', $4, $5::text::run_trigger, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15)
  )
  insert into run_step (id, run_id, name, position, created_at, updated_at)
  select uuidv7(), $1, s.name, s.i - 1, $15, $15 from unnest($16::text[]) with ordinality s(name, i)`;
const firstKeyText = `
  insert into idempotency_key (workspace_id, actor_id, mutation, key, input_hash, result_id) values ($1, $2, $3, $4, $5, $6)`;
const keyText = `
  ${firstKeyText}
  on conflict (workspace_id, actor_id, mutation, key)
    do update set input_hash = excluded.input_hash, result_id = excluded.result_id, created_at = excluded.created_at
    where idempotency_key.created_at < now() - interval '24 hours'
  returning 1`;
const ofKey = 'workspace_id = $1 and actor_id = $2 and mutation = $3 and key = $4';
const keptKeyText = `select input_hash, result_id from idempotency_key where ${ofKey}`;
const resultText = `update idempotency_key set result_id = $5 where ${ofKey}`;

/** How runs come to be. */
export const asking = (app: App) => {
  const verbs = {
    /** Adds a run, its steps and kind's rows, its `queued` event and its wake-up, in the caller's transaction. */
    async create(tx: Transaction, fresh: NewRun): Promise<Started> {
      const { kind } = fresh;
      const input = fresh.input as never;
      const now = new Date();
      const run: Run = {
        id: fresh.id ?? newId(),
        workspaceId: fresh.workspaceId,
        kind: kind.name,
        status: 'QUEUED',
        phase: kind.initial,
        statusReason: null,
        attempt: 0,
        lostWorkers: 0,
        trigger: fresh.trigger,
        actorId: tx.actor.userId,
        retryOfId: fresh.retryOfId ?? null,
        parentId: fresh.parentId ?? null,
        lockKey: fresh.lockKey ?? null,
        hostId: fresh.hostId ?? null,
        input,
        inputVersion: Math.max(...kind.versions),
        progress: null,
        workerId: null,
        leaseUntil: null,
        cancelRequestedAt: null,
        logSeq: 0n,
        traceparent: currentTraceparent() ?? null,
        startedAt: null,
        completedAt: null,
        deadlineAt: new Date(now.getTime() + kind.deadlineS * 1000),
        createdAt: now,
        updatedAt: now,
      };
      const steps = kind.steps(input);
      tx.send(createText, [
        run.id,
        run.workspaceId,
        run.kind,
        run.phase,
        run.trigger,
        run.actorId,
        run.retryOfId,
        run.parentId,
        run.lockKey,
        run.hostId,
        JSON.stringify(input),
        run.inputVersion,
        run.traceparent,
        run.deadlineAt,
        now,
        steps,
      ]);
      const rows = await kind.onCreate(tx, run, input, app);
      const event = tx.append({
        type: kind.queued,
        workspaceId: run.workspaceId,
        subjectId: run.id,
        run,
        to: kind.initial,
        data: kind.about?.(input) ?? {},
      });
      await app.jobs.wakeRun(tx, run);
      return { id: run.id, event, run: rows ? { ...run, ...rows } : run };
    },

    /**
     * Runs `make` once for a key: a repeat within 24 h with the same input gets the first result's id.
     * @param make is given an id for the run; one that takes another id costs a statement more
     * @throws {ValidationError} for a malformed key
     * @throws {IdempotencyConflict} for another input under the same key
     */
    async once(
      tx: Transaction,
      request: { workspaceId: string; mutation: string; key: string | null | undefined; input: unknown },
      make: (id: string) => Promise<Started>,
    ): Promise<{ id: string; event: Appended | null; run?: Run }> {
      const { workspaceId, mutation, key } = request;
      const id = newId();
      if (key == null) return make(id);
      if (!idempotencyKeys.test(key)) {
        throw new ValidationError([
          { path: 'idempotencyKey', message: 'must have 1 to 200 characters and no control characters' },
        ]);
      }
      const actorId = tx.actor.userId;
      if (!actorId) throw new Error('Only a person or a key can use an idempotency key');
      const inputHash = sha256Hex(canonicalJson(request.input));
      const of = [workspaceId, actorId, mutation, key];
      if (tx.attempt === 1) {
        // Nearly always it is the first with its key. That is found out with the rest; where it is not, all begins anew.
        tx.send(firstKeyText, [...of, inputHash, id], { again: 'idempotency_key_pkey' });
        try {
          const made = await make(id);
          if (made.id !== id) tx.send(resultText, [...of, made.id]);
          return made;
        } catch (error) {
          // What speaks against it now does not matter to a repeat.
          await tx.sql('select', []).catch(() => undefined);
          throw error;
        }
      }
      // The insert waits for a concurrent one with the same key, and then finds its row.
      const inserted = await tx.sql(keyText, [...of, inputHash, id]);
      if (inserted.length === 0) {
        const [first] = await tx.sql<{ inputHash: string; resultId: string }>(keptKeyText, of);
        if (first?.inputHash !== inputHash) throw new IdempotencyConflict(key);
        return { id: first.resultId, event: null };
      }
      const made = await make(id);
      if (made.id !== id) tx.send(resultText, [...of, made.id]);
      return made;
    },

    /**
     * Does the same again as a new run.
     * @throws {NotFound} {Forbidden} {IllegalTransition} when it is not over, or succeeded
     */
    async retry(
      actor: Actor,
      id: string,
      idempotencyKey?: string | null,
    ): Promise<{ id: string; event: Appended | null }> {
      if (!isId(id)) throw new NotFound('Run', id);
      return app.transact(actor, async (tx) => {
        const run = await tx.db.run.findUnique({ where: { id } });
        authorizeRow(actor, runPolicy.verbs.retryRun, run, 'Run', id);
        if (!isTerminal(run.status) || run.status === 'SUCCEEDED') {
          throw new IllegalTransition(run.status, 'QUEUED', []);
        }
        const kind = runKind(run.kind);
        return verbs.once(
          tx,
          { workspaceId: run.workspaceId, mutation: 'retryRun', key: idempotencyKey, input: { id } },
          async () =>
            verbs.create(tx, {
              kind,
              workspaceId: run.workspaceId,
              input: await kind.retryInput(tx, run),
              ...(run.lockKey ? { lockKey: run.lockKey } : {}),
              hostId: run.hostId,
              trigger: 'RETRY',
              retryOfId: id,
              ...(run.parentId ? { parentId: run.parentId } : {}),
            }),
        );
      });
    },
  };
  return verbs;
};
