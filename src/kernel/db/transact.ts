import type pg from 'pg';
import { Prisma } from '#prisma';
import type { Actor } from '../auth/actor.ts';
import type { OriginIds } from '../auth/origins.ts';
import type { LoggedEvent, NewEvent } from '../events/define.ts';
import { sessionLimits, type Database, type DbTx } from './client.ts';

/** Where an appended event came to stand; filled when its transaction commits. */
export interface Appended {
  seq: bigint | null;
  epoch: number;
}

/** A transaction in progress: state, events and jobs that commit together or not at all. */
export interface Transaction {
  readonly db: DbTx;
  readonly actor: Actor;
  /** Collects an event; it is written last before COMMIT, because the log's head is locked from then on. */
  append<D extends object>(event: NewEvent<D>): Appended;
  /** Runs after a successful COMMIT. Must not throw; what it does may be lost with the process. */
  afterCommit(fn: () => void): void;
}

export interface TransactOptions {
  readonly database: Database;
  readonly traceparent: () => string | undefined;
  readonly originIds: OriginIds;
  readonly onAppended: (events: readonly Pick<LoggedEvent, 'workspaceId' | 'seq' | 'type'>[]) => void;
}

/** Deadlock, serialization failure, and Prisma's names for them and for a transaction that could not begin in time. */
const retriable = new Set(['40P01', '40001', 'P2034', 'P2028']);
const attempts = 4;

export type Transact = <T>(actor: Actor, fn: (tx: Transaction) => Promise<T>) => Promise<T>;

/**
 * Runs `fn` in one READ COMMITTED transaction, then writes the events it appended, workspaces in ascending id, and
 * commits. Repeats it at most three times on a deadlock: so `fn` has no effect outside the database but `afterCommit`.
 */
export function createTransact(options: TransactOptions): Transact {
  return async (actor, fn) => {
    for (let attempt = 1; ; attempt++) {
      try {
        return await once(options, actor, fn);
      } catch (error) {
        if (attempt >= attempts || !retriable.has(codeOf(error))) throw error;
      }
    }
  };
}

async function once<T>(options: TransactOptions, actor: Actor, fn: (tx: Transaction) => Promise<T>): Promise<T> {
  const pending: { event: NewEvent; at: Appended }[] = [];
  const hooks: (() => void)[] = [];
  let open = true;
  const mustBeOpen = () => {
    // A promise that `fn` did not wait for: its event would be lost.
    if (!open) throw new Error('The transaction is over');
  };
  const result = await options.database.db.$transaction(async (db) => {
    if (options.database.pooled) {
      const { lock_timeout: lock, idle_in_transaction_session_timeout: idle } = sessionLimits;
      await db.$queryRaw`select set_config('lock_timeout', ${lock}, true), set_config('idle_in_transaction_session_timeout', ${idle}, true)`;
    }
    const value = await fn({
      db,
      actor,
      append(event) {
        mustBeOpen();
        const at: Appended = { seq: null, epoch: 0 };
        pending.push({ event, at });
        return at;
      },
      afterCommit(hook) {
        mustBeOpen();
        hooks.push(hook);
      },
    });
    open = false;
    if (pending.length > 0) await flush(db, actor, pending, options);
    return value;
  });
  if (pending.length > 0) {
    options.onAppended(
      pending.map(({ event, at }) => ({ workspaceId: event.workspaceId, seq: at.seq ?? 0n, type: event.type.name })),
    );
  }
  for (const hook of hooks) hook();
  return result;
}

async function flush(
  db: DbTx,
  actor: Actor,
  pending: readonly { event: NewEvent; at: Appended }[],
  options: TransactOptions,
): Promise<void> {
  const { userId, kind, credentialId, origin } = actor;
  const traceparent = options.traceparent() ?? null;
  const originId = origin ? options.originIds(userId, origin) : null;
  if (origin) {
    // Seldom new, and then its own statement: what the log's head is locked for stays short.
    await db.$executeRaw`
      insert into origin (id, user_id, address, user_agent)
      select ${originId}::uuid, ${userId}::uuid, ${origin.address}, ${origin.userAgent}
      where ${userId}::uuid is null or exists (select 1 from app_user where id = ${userId}::uuid)
      on conflict (id) do update set last_seen_at = now() where origin.last_seen_at < now() - interval '1 hour'`;
  }
  const byWorkspace = Map.groupBy(pending, ({ event }) => event.workspaceId);
  for (const workspaceId of [...byWorkspace.keys()].toSorted()) {
    const group = byWorkspace.get(workspaceId) ?? [];
    const rows = group.map(({ event }) => ({
      type: event.type.name,
      version: event.type.version,
      from_state: event.from ?? null,
      to_state: event.to ?? null,
      subject_type: event.type.subject,
      subject_id: event.subjectId,
      run_id: event.run?.id ?? null,
      run_kind: event.run?.kind ?? null,
      data: event.data ?? {},
    }));
    const [head] = await db.$queryRaw<{ seq: bigint; epoch: number }[]>`
      with head as (
        update event_head set seq = seq + ${rows.length} where workspace_id = ${workspaceId}::uuid returning seq, epoch
      ), added as (
        insert into event (workspace_id, seq, type, version, from_state, to_state, subject_type, subject_id, run_id, run_kind,
                           actor_id, actor_kind, credential_id, origin_id, data, traceparent)
        select ${workspaceId}::uuid, head.seq - ${rows.length} + e.i, e.row->>'type', (e.row->>'version')::smallint,
               e.row->>'from_state', e.row->>'to_state', e.row->>'subject_type', (e.row->>'subject_id')::uuid,
               (e.row->>'run_id')::uuid, e.row->>'run_kind', ${userId}::uuid, ${kind}, ${credentialId}::uuid, ${originId}::uuid,
               e.row->'data', ${traceparent}
        from head, jsonb_array_elements(${JSON.stringify(rows)}::jsonb) with ordinality as e(row, i)
      )
      select seq, epoch from head`;
    if (!head) throw new Error(`Workspace ${workspaceId} has no event head`);
    group.forEach(({ at }, index) => {
      at.seq = head.seq - BigInt(rows.length - 1 - index);
      at.epoch = head.epoch;
    });
  }
}

/** The SQLSTATE or Prisma code of an error; Prisma wraps the driver's error in several ways. */
export function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return '';
  if (error instanceof Prisma.PrismaClientKnownRequestError) {
    const meta = error.meta as
      { code?: unknown; driverAdapterError?: { cause?: { originalCode?: unknown } } } | undefined;
    const original = meta?.driverAdapterError?.cause?.originalCode ?? meta?.code;
    return typeof original === 'string' && retriable.has(original) ? original : error.code;
  }
  const cause = error.cause as { originalCode?: unknown } | undefined;
  if (typeof cause?.originalCode === 'string') return cause.originalCode;
  return (error as Partial<pg.DatabaseError>).code ?? '';
}
