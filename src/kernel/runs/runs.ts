import type pg from 'pg';
import type { Run, RunTrigger, StepStatus } from '#prisma';
import { Prisma } from '#prisma';
import type { App } from '../app.ts';
import { service } from '../app.ts';
import { system, type Actor } from '../auth/actor.ts';
import type { ProcessIdentity } from '../processes/children.ts';
import { authorizeRow } from '../auth/policy.ts';
import { canonicalJson, sha256Hex } from '../crypto.ts';
import { columnsOf } from '../db/connection.ts';
import type { Appended, Transaction } from '../db/transact.ts';
import type { NewEvent } from '../events/define.ts';
import { IdempotencyConflict, IllegalTransition, NotFound, ValidationError } from '../errors.ts';
import { isId, newId } from '../ids.ts';
import { Fenced } from './errors.ts';
import { knowsRunKind, leadsTo, phaseOf, runKind, runKinds, type RegisteredKind } from './kinds.ts';
import { isTerminal, statusMayBecome, statusTransitions, terminal, type Json } from './model.ts';
import { currentTraceparent } from '../telemetry/trace.ts';
import { runPolicy } from './policy.ts';

/** Workers that a run may lose before it is given up. */
const maxLostWorkers = 5;
/** Runs that one statement removes. */
const pruneBatch = 200;
/** How long a run waits for a person where its kind says nothing else, seconds. */
const defaultWaitS = 30 * 24 * 3600;

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

/** A worker's hold on a run: who, and which execution. Every write of the execution is conditional on it. */
export interface Hold {
  readonly runId: string;
  readonly attempt: number;
  readonly workerId: string;
}

export interface Started {
  readonly id: string;
  readonly event: Appended;
  /** As it was written, where it is new, with what its kind wrote beside it. */
  readonly run?: Run;
}

/** 1 to 200 characters that a log line and the database can hold. */
const idempotencyKeys = /^[^\p{Cc}\p{Cs}]{1,200}$/u;

const runColumns = columnsOf(Prisma.RunScalarFieldEnum);
const lockText = `select ${runColumns} from run where id = $1 for update`;
const createText = `
  with fresh as (
    insert into run (id, workspace_id, kind, status, phase, trigger, actor_id, retry_of_id, parent_id, lock_key, host_id,
                     input, input_version, traceparent, deadline_at, created_at, updated_at)
    values ($1, $2, $3, 'QUEUED', $4, $5::text::run_trigger, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15)
  )
  insert into run_step (id, run_id, name, position, created_at, updated_at)
  select uuidv7(), $1, s.name, s.i - 1, $15, $15 from unnest($16::text[]) with ordinality s(name, i)`;
const takeText = `
  update run set attempt = attempt + 1, worker_id = $2,
    lease_until = clock_timestamp() + make_interval(secs => $3::float8),
    status = case when status = 'CANCELING' then status else 'RUNNING'::run_status end, phase = $4,
    started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp()
  where id = $1 returning ${runColumns}`;
const moveText = `
  update run set phase = $2, status = $3::text::run_status, status_reason = $4, updated_at = clock_timestamp() where id = $1`;
const endText = `
  update run set status = $2::text::run_status, phase = $3, status_reason = $4, completed_at = clock_timestamp(),
    lease_until = null, worker_id = null, updated_at = clock_timestamp()
  where id = $1`;
const endStepsText = `
  update run_step set status = case when status = 'RUNNING' then $2::text::step_status else 'SKIPPED' end,
    completed_at = case when status = 'RUNNING' then clock_timestamp() end, updated_at = clock_timestamp()
  where run_id = $1 and status in ('RUNNING', 'PENDING') returning name, attempt, status`;
/** Without the hold, a step's attempt would be null, which the database refuses. */
const stepText = (set: string) => `
  with held as (
    select attempt from run
    where id = $1 and attempt = $2 and worker_id = $3 and status in ('RUNNING', 'CANCELING') for update
  )
  update run_step set attempt = (select attempt from held), ${set}, updated_at = clock_timestamp()
  where run_id = $1 and name = $4`;
const beginStepText = stepText(`status = 'RUNNING', started_at = clock_timestamp(), completed_at = null, error = null`);
const completeStepText = stepText(`status = 'SUCCEEDED', output = $5, completed_at = clock_timestamp()`);
const renewText = (locked: string) => `
  update run set lease_until = clock_timestamp() + make_interval(secs => $1::float8)
  where id in (
    select id from run
    where id = any($2::uuid[]) and worker_id = $3 and lease_until > clock_timestamp() and status in ('RUNNING', 'CANCELING')
    for update ${locked}
  )
  returning id, attempt, status`;
const unlockText = 'delete from run_lock where key = $1 and run_id = $2';
// In the words of the index on lock keys, and in such as no other index has: in a burst of queued runs the statistics still
// say that there are none, any index of open or queued ones would be thought as good, and have all of them read.
const queued = (run: string) =>
  `coalesce(${run}.completed_at, 'infinity'::timestamptz) = 'infinity'::timestamptz and ${run}.status::text = 'QUEUED'`;
const nextText = `
  select id, host_id from run where lock_key = $1 and ${queued('run')} and id <> $2 order by created_at, id limit 1`;
const waitingText = `
  select id, host_id from run
  where workspace_id = $1 and kind = $2 and status = 'QUEUED' and completed_at is null and attempt = 0 and id <> $3
  order by created_at, id limit 1`;
const olderText = `
  select o.id, o.host_id from run o, run r
  where r.id = $1 and o.lock_key = r.lock_key and ${queued('o')} and o.id <> r.id
    and (o.created_at, o.id) < (r.created_at, r.id)
  order by o.created_at, o.id limit 1 for update of o`;
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

/** Condition on runs with a lock key that no worker has begun. */
export const notBegun = `lock_key = $1 and ${queued('run')} and attempt = 0`;

/** The only writer of run, run_step, run_child, run_lock and idempotency_key. */
export const Runs = service('runs', (app) => ({
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
   * Tells a run to stop. A queued one is CANCELED at once; a running one is CANCELING until its worker has ended it.
   * @throws {NotFound} {Forbidden} {IllegalTransition} when it is over already
   */
  async cancel(actor: Actor, id: string): Promise<{ id: string; event: Appended | null }> {
    if (!isId(id)) throw new NotFound('Run', id);
    return app.transact(actor, async (tx) => {
      const run = await lockRow(tx, id);
      authorizeRow(actor, runPolicy.verbs.cancelRun, run, 'Run', id);
      return { id, event: await this.tellToStop(tx, run) };
    });
  },

  /** Tells a run that is not over to stop, for the server itself. */
  async stop(id: string): Promise<void> {
    await app.transact(system, (tx) => this.stopWithin(tx, id));
  },

  /** The same in the caller's transaction. */
  async stopWithin(tx: Transaction, id: string): Promise<void> {
    const run = await lockRow(tx, id);
    if (run && !isTerminal(run.status)) await this.tellToStop(tx, run);
  },

  /** Removes runs that are over, with their steps, their output and what their kinds keep of them. @returns how many */
  async remove(tx: Transaction, ids: readonly string[]): Promise<number> {
    return tx.db.$executeRaw`
      with over as (select id from run where id = any(${[...ids]}::uuid[]) and completed_at is not null),
        lines as (delete from log_line using over where run_id = over.id)
      delete from run using over where run.id = over.id`;
  },

  /** Ends a run that was told to stop, whoever holds it. @returns false when it is over already */
  async giveUp(id: string, reason: string): Promise<boolean> {
    return app.transact(system, (tx) => this.giveUpWithin(tx, id, reason));
  },

  /** The same in the caller's transaction. */
  async giveUpWithin(tx: Transaction, id: string, reason: string): Promise<boolean> {
    const run = await lockRow(tx, id);
    if (!run || isTerminal(run.status)) return false;
    const { ends } = runKind(run.kind);
    // What a worker holds, or holds no more, is canceled by way of CANCELING.
    const held = run.status === 'RUNNING' || run.status === 'WAITING';
    if (held) await this.tellToStop(tx, run);
    await this.end(tx, held ? { ...run, status: 'CANCELING' } : run, { phase: ends.canceled(run.phase), reason });
    return true;
  },

  /** Tells a run whose row is locked to stop. @throws {IllegalTransition} when it is over already */
  async tellToStop(tx: Transaction, run: Run): Promise<Appended | null> {
    const kind = runKind(run.kind);
    const { id } = run;
    if (run.status === 'CANCELING') return null;
    if (isTerminal(run.status)) throw new IllegalTransition(run.status, 'CANCELING', []);
    if (run.status === 'QUEUED' && run.attempt === 0) {
      return this.end(tx, run, {
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
      return this.once(
        tx,
        { workspaceId: run.workspaceId, mutation: 'retryRun', key: idempotencyKey, input: { id } },
        async () =>
          this.create(tx, {
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

  /**
   * Takes a run for execution: raises its attempt, which fences every earlier execution. Null when it is not to be
   * taken: another worker has it, its lock is held or an older run waits for it, it is over, or it is not for this
   * host or program.
   */
  async take(id: string, worker: { workerId: string; hostId: string }): Promise<Run | null> {
    const { taken } = await app.transact<{ taken?: Promise<Run[]> }>(system, async (tx) => {
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
      const taken = tx.sql<Run>(takeText, [id, worker.workerId, app.limits.runLeaseS, begin]);
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
   * Moves a run that this worker holds to another phase that is not an end. An execution that repeats an earlier one
   * passes the phases again that the run has left behind: those moves do nothing.
   * @throws {Fenced} when the worker no longer holds it
   * @throws {IllegalTransition}
   */
  async moveTo(tx: Transaction, hold: Hold, to: string, reason?: string): Promise<void> {
    const run = await fence(tx, hold);
    const kind = runKind(run.kind);
    if (run.phase === to) return;
    const from = phaseOf(kind, run.phase);
    if (!from.next.includes(to)) {
      if (hold.attempt > 1 && leadsTo(kind, to, run.phase)) return;
      throw new IllegalTransition(run.phase, to, from.next);
    }
    const { status } = phaseOf(kind, to);
    if (isTerminal(status) || status === 'WAITING')
      throw new Error(`${to} is no phase that a worker executes ${kind.name} in: its execution returns it`);
    tx.send(moveText, [run.id, to, run.status === 'CANCELING' ? run.status : status, reason ?? run.statusReason]);
    tx.append({ type: eventOf(kind, to), workspaceId: run.workspaceId, subjectId: run.id, run, from: run.phase, to });
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
      return this.end(tx, run, { phase: kind.ends.canceled(run.phase), reason: 'The run was canceled.' });
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
    return tx.append({
      type: eventOf(kind, to),
      workspaceId: run.workspaceId,
      subjectId: run.id,
      run,
      from: run.phase,
      to,
    });
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
    return tx.append({
      type: eventOf(kind, to),
      workspaceId: run.workspaceId,
      subjectId: run.id,
      run,
      from: run.phase,
      to,
    });
  },

  /** The row of a run, locked until the transaction ends; null: there is none. */
  lock: (tx: Transaction, id: string): Promise<Run | null> => lockRow(tx, id),

  /** The row of a run that this worker holds, locked. @throws {Fenced} */
  fence: (tx: Transaction, hold: Hold): Promise<Run> => fence(tx, hold),

  /** Steps of a run by name. */
  async steps(runId: string): Promise<Map<string, { status: StepStatus; output: unknown }>> {
    const { rows } = await app.database.query<{ name: string; status: StepStatus; output: unknown }>(
      'select name, status, output from run_step where run_id = $1',
      [runId],
    );
    return new Map(rows.map(({ name, status, output }) => [name, { status, output }]));
  },

  /** A step of a run that this worker holds begins: one round trip. @throws {Fenced} */
  async beginStep({ runId, attempt, workerId }: Hold, name: string, event: NewEvent): Promise<void> {
    const transaction = app.transact(system, async (tx) => {
      tx.send(beginStepText, [runId, attempt, workerId, name]);
      tx.append(event);
    });
    await fencedBy(runId, transaction);
  },

  /**
   * It completes: one round trip, but for what `commit` asks.
   * @param commit writes that belong to it, of a run that is known to be held
   * @throws {Fenced}
   */
  async completeStep(
    hold: Hold,
    step: { readonly name: string; readonly output: Json; /** Whether it recorded any. */ readonly children: boolean },
    event: NewEvent,
    commit?: (tx: Transaction) => Promise<void>,
  ): Promise<void> {
    const { runId, attempt, workerId } = hold;
    const output = step.output == null ? null : JSON.stringify(step.output);
    const transaction = app.transact(system, async (tx) => {
      if (commit) {
        await fence(tx, hold);
        await commit(tx);
      }
      tx.send(completeStepText, [runId, attempt, workerId, step.name, output]);
      // What the step started and left running is its output's now: a take-over must not end it.
      if (step.children) tx.send('delete from run_child where run_id = $1 and attempt = $2', [runId, attempt]);
      tx.append(event);
    });
    await fencedBy(runId, transaction);
  },

  /** Ends a run that this worker holds. @throws {Fenced} */
  async finish(
    tx: Transaction,
    hold: Hold,
    end: { phase: string; reason?: string; timedOut?: boolean },
  ): Promise<Appended> {
    return this.end(tx, await fence(tx, hold), end);
  },

  /** Ends a run whose row the caller has locked: terminal state, lock released, next one woken. */
  async end(
    tx: Transaction,
    run: Run,
    end: { readonly phase: string; readonly reason?: string | undefined; readonly timedOut?: boolean },
  ): Promise<Appended> {
    const kind = runKind(run.kind);
    const phase = phaseOf(kind, end.phase);
    if (!isTerminal(phase.status)) throw new Error(`${end.phase} is no end of ${kind.name}`);
    const from = phaseOf(kind, run.phase);
    if (!from.next.includes(end.phase)) throw new IllegalTransition(run.phase, end.phase, from.next);
    const status = end.timedOut ? 'TIMED_OUT' : phase.status;
    if (!statusMayBecome(run.status, status)) {
      throw new IllegalTransition(run.status, status, statusTransitions[run.status]);
    }
    tx.send(endText, [run.id, status, end.phase, end.reason ?? null]);
    const stepStatus = status === 'CANCELED' ? 'CANCELED' : 'FAILED';
    const ending = tx.sql<{ name: string; attempt: number; status: string }>(endStepsText, [run.id, stepStatus]);
    if (run.lockKey) tx.send(unlockText, [run.lockKey, run.id]);
    const [steps, [next], waiting] = await Promise.all([
      ending,
      run.lockKey ? tx.sql<Woken>(nextText, [run.lockKey, run.id]) : [],
      roomFor(tx, run),
    ]);
    const open = steps.filter((step) => step.status !== 'SKIPPED');
    for (const step of open) {
      tx.append({
        type: kind.step.failed,
        workspaceId: run.workspaceId,
        subjectId: run.id,
        run,
        from: 'RUNNING',
        to: stepStatus,
        data: { step: step.name, attempt: step.attempt },
      });
    }
    await kind.onEnd?.(tx, run, end.phase, app);
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

  /** Records a process that an execution is about to start. @throws {Fenced} */
  async recordChild(hold: Hold, hostId: string, child: ProcessIdentity): Promise<void> {
    await app.transact(system, async (tx) => {
      await fence(tx, hold);
      const { pid, startTime } = child;
      await tx.db.runChild.create({
        data: { runId: hold.runId, attempt: hold.attempt, hostId, pid, startTime },
      });
    });
  },

  /** Processes on a host that no execution answers for: their run is over, waits, or is at a later attempt. */
  async strayChildren(hostId: string): Promise<(ProcessIdentity & { id: string; runId: string })[]> {
    const { rows } = await app.database.pool.query<{ id: string; run_id: string; pid: number; start_time: string }>(
      `select c.id, c.run_id, c.pid, c.start_time from run_child c left join run r on r.id = c.run_id
       where c.host_id = $1 and (r.worker_id is null or c.attempt < r.attempt) limit 100`,
      [hostId],
    );
    return rows.map((row) => ({ id: row.id, runId: row.run_id, pid: row.pid, startTime: row.start_time }));
  },

  /** Leaves processes of runs that are over to the workers of a host, which end them. */
  async leaveChildren(hostId: string, children: readonly (ProcessIdentity & { runId: string })[]): Promise<void> {
    for (const child of children) {
      const known = { runId: child.runId, hostId, pid: child.pid, startTime: child.startTime };
      if ((await app.db.runChild.count({ where: known })) === 0)
        await app.db.runChild.create({ data: { ...known, attempt: 0 } });
    }
  },

  /** Forgets processes that have ended. */
  async forgetChildren(ids: readonly string[]): Promise<void> {
    await app.db.runChild.deleteMany({ where: { id: { in: [...ids] } } });
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
    await eachOf(lost.rows, (id) => app.transact(system, (tx) => requeueLost(app, tx, id)));
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
        const { ends } = runKind(run.kind);
        await this.end(
          tx,
          run,
          run.status === 'CANCELING'
            ? { phase: ends.canceled(run.phase), reason: 'It was canceled, and no worker came to clean up.' }
            : { phase: ends.failed(run.phase), reason: 'The deadline passed while it waited.', timedOut: true },
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
}));

export type Runs = ReturnType<(typeof Runs)['make']>;

function eventOf(kind: RegisteredKind, phase: string) {
  const type = kind.events.get(phase);
  if (!type) throw new Error(`${kind.name} has no event for ${phase}`);
  return type;
}

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

type Woken = Pick<Run, 'id' | 'hostId'>;

/** The oldest run that waits for room in its workspace, where this one may have made some; null: none. */
async function roomFor(tx: Transaction, { id, workspaceId, kind }: Run): Promise<Woken | null> {
  if (!runKind(kind).hasRoom) return null;
  const [next] = await tx.sql<Woken>(waitingText, [workspaceId, kind, id]);
  return next ?? null;
}

function requeued(tx: Transaction, run: Run): void {
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

/**
 * The oldest run that waits for the same lock and came before this one; null: none. Locked before the run itself, so
 * that one that is just ending is seen to have ended, and in the order in which all lock runs of one key.
 */
async function lockOlder(tx: Transaction, id: string): Promise<Woken | null> {
  const [older] = await tx.sql<Woken>(olderText, [id]);
  return older ?? null;
}

async function lockRow(tx: Transaction, id: string): Promise<Run | null> {
  const [run] = await tx.sql<Run>(lockText, [id]);
  return run ?? null;
}

/** Whether a run may begin, as far as its workspace's other runs go; decided one at a time for each workspace and kind. */
async function hasRoom(app: App, tx: Transaction, run: Run): Promise<boolean> {
  const kind = runKind(run.kind);
  if (!kind.hasRoom || run.attempt > 0 || run.status !== 'QUEUED') return true;
  await tx.db.$queryRaw`select pg_advisory_xact_lock(hashtextextended(${`${run.kind} ${run.workspaceId}`}, 0))::text`;
  return kind.hasRoom(tx, run, app);
}

/** Tells of a step that was not written by whoever holds the run. */
async function fencedBy(runId: string, transaction: Promise<void>): Promise<void> {
  try {
    await transaction;
  } catch (error) {
    const { code, table, column } = error as Partial<pg.DatabaseError>;
    throw code === '23502' && table === 'run_step' && column === 'attempt' ? new Fenced(runId) : error;
  }
}

async function fence(tx: Transaction, hold: Hold): Promise<Run> {
  const run = await lockRow(tx, hold.runId);
  const held = run && run.attempt === hold.attempt && run.workerId === hold.workerId && !isTerminal(run.status);
  if (!held) throw new Fenced(hold.runId);
  return run;
}

async function requeueLost(app: App, tx: Transaction, id: string): Promise<void> {
  const [lost] = await tx.db.$queryRaw<{ id: string }[]>`
    select id from run where id = ${id}::uuid and status in ('RUNNING', 'CANCELING') and lease_until < clock_timestamp()
    for update skip locked`;
  if (!lost) return;
  const run = await tx.db.run.findUniqueOrThrow({ where: { id } });
  if (run.lostWorkers + 1 >= maxLostWorkers) {
    await tx.db.run.update({ where: { id }, data: { lostWorkers: maxLostWorkers } });
    await app.use(Runs).end(tx, run, {
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

/** For queries: a run that is not over. */
export const openRun: Prisma.RunWhereInput = { status: { notIn: [...terminal] } };
