import type pg from 'pg';
import { Prisma } from '#prisma';
import type { Actor, Origin } from '../auth/actor.ts';
import type { OriginIds } from '../auth/origins.ts';
import type { LoggedEvent, NewEvent } from '../events/define.ts';
import { Latest } from '../latest.ts';
import type { Database, DbTx } from './client.ts';
import type { Connection, SqlValue } from './connection.ts';

/** Where an appended event came to stand; filled when its transaction commits. */
export interface Appended {
  seq: bigint | null;
  epoch: number;
}

/** A transaction in progress: state, events and jobs that commit together or not at all. */
export interface Transaction {
  /** Prisma's client of the transaction. What is written often is written with `sql` and `send`, which cost a fraction. */
  readonly db: DbTx;
  /**
   * A statement, prepared where the connection allows it. It goes out at once: several that do not need each other's
   * answers cost one round trip when they are awaited together.
   * @returns its rows; `workspace_id` is `workspaceId`, int8 a bigint
   */
  sql<R>(text: string, values: readonly SqlValue[]): Promise<R[]>;
  /**
   * The same for one whose answer is not needed: it is not waited for, and when it fails the transaction does.
   * @param options.again a unique constraint: where that refuses it, the transaction begins anew
   */
  send(text: string, values: readonly SqlValue[], options?: { readonly again?: string }): void;
  /** Which execution this is, from 1: on a deadlock it begins anew. */
  readonly attempt: number;
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

interface Settings extends TransactOptions {
  readonly places: Places;
}

/** Places that requests come from, each written by this process once an hour: its row says no more than that. */
class Places {
  readonly #known = new Latest<string, { readonly id: string; readonly until: number }>(10_000);
  readonly #ids: OriginIds;

  constructor(ids: OriginIds) {
    this.#ids = ids;
  }

  of(userId: string | null, origin: Origin): { readonly key: string; readonly id: string; readonly written: boolean } {
    const key = JSON.stringify([userId, origin.address, origin.userAgent]);
    const known = this.#known.get(key);
    if (known && known.until > performance.now()) return { key, id: known.id, written: true };
    return { key, id: this.#ids(userId, origin), written: false };
  }

  /** Call it after the commit. */
  wrote({ key, id }: { readonly key: string; readonly id: string }): void {
    this.#known.set(key, { id, until: performance.now() + 3_600_000 });
  }
}

export type Transact = <T>(actor: Actor, fn: (tx: Transaction) => Promise<T>) => Promise<T>;

/**
 * Runs `fn` in one READ COMMITTED transaction, then writes the events it appended, workspaces in ascending id, and
 * commits. Repeats it at most three times on a deadlock and what `again` says: so `fn` has no effect outside the database
 * but `afterCommit`.
 */
export function createTransact(options: TransactOptions): Transact {
  const settings = { ...options, places: new Places(options.originIds) };
  return async (actor, fn) => {
    const again = new Set<string>();
    for (let attempt = 1; ; attempt++) {
      try {
        return await once(settings, actor, fn, attempt, again);
      } catch (error) {
        if (attempt >= attempts || !(retriable.has(codeOf(error)) || isRefusedBy(again, error))) throw error;
      }
    }
  };
}

/** Whether one of these unique constraints refused a row. */
function isRefusedBy(constraints: ReadonlySet<string>, error: unknown): boolean {
  const { code, constraint } = error as Partial<pg.DatabaseError>;
  return code === '23505' && constraint !== undefined && constraints.has(constraint);
}

async function once<T>(
  options: Settings,
  actor: Actor,
  fn: (tx: Transaction) => Promise<T>,
  attempt: number,
  again: Set<string>,
): Promise<T> {
  const pending: { event: NewEvent; at: Appended }[] = [];
  const hooks: (() => void)[] = [];
  let open = true;
  const mustBeOpen = () => {
    // A promise that `fn` did not wait for: its event would be lost.
    if (!open) throw new Error('The transaction is over');
  };
  const connection = await options.database.begin();
  let value: T;
  let flushed: Promise<unknown>;
  try {
    value = await fn({
      db: connection.db,
      actor,
      attempt,
      sql(text, values) {
        mustBeOpen();
        return connection.query(text, values);
      },
      send(text, values, given) {
        mustBeOpen();
        if (given?.again !== undefined) again.add(given.again);
        connection.send(text, values);
      },
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
    flushed = pending.length > 0 ? flush(connection, actor, pending, hooks, options) : Promise.resolve();
  } catch (error) {
    open = false;
    throw await connection.rollback(error);
  }
  // Goes out with what was not waited for and with the events: where one of them fails, it is a ROLLBACK.
  const [committed, written] = await Promise.allSettled([connection.commit(), flushed]);
  if (committed.status === 'rejected') throw headless(committed.reason, pending);
  if (written.status === 'rejected') throw written.reason;
  if (pending.length > 0) {
    options.onAppended(
      pending.map(({ event, at }) => ({ workspaceId: event.workspaceId, seq: at.seq ?? 0n, type: event.type.name })),
    );
  }
  for (const hook of hooks) hook();
  return value;
}

/** Sends the events. Resolves when their places are known. @throws at once what cannot be sent */
function flush(
  connection: Connection,
  actor: Actor,
  pending: readonly { event: NewEvent; at: Appended }[],
  hooks: (() => void)[],
  options: Settings,
): Promise<unknown> {
  const { userId, kind, credentialId, origin } = actor;
  const traceparent = options.traceparent() ?? null;
  const place = origin && options.places.of(userId, origin);
  const originId = place?.id ?? null;
  if (place && !place.written) {
    // Its own statement: what the log's head is locked for stays short.
    connection.send(originText, [originId, userId, origin.address, origin.userAgent]);
    hooks.push(() => options.places.wrote(place));
  }
  const byWorkspace = Map.groupBy(pending, ({ event }) => event.workspaceId);
  const statements = [...byWorkspace.keys()].toSorted().map((workspaceId) => {
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
    const json = JSON.stringify(rows);
    return { group, values: [workspaceId, rows.length, json, userId, kind, credentialId, originId, traceparent] };
  });
  return Promise.all(
    // Not async: what cannot be sent throws here and now, before COMMIT goes out.
    statements.map(({ group, values }) =>
      connection.query<{ seq: bigint; epoch: number }>(eventsText, values).then(([head]) => {
        group.forEach(({ at }, index) => {
          at.seq = (head?.seq ?? 0n) - BigInt(group.length - 1 - index);
          at.epoch = head?.epoch ?? 0;
        });
      }),
    ),
  );
}

const originText = `
  insert into origin (id, user_id, address, user_agent)
  select $1::uuid, $2::uuid, $3, $4 where $2::uuid is null or exists (select 1 from app_user where id = $2::uuid)
  on conflict (id) do update set last_seen_at = now() where origin.last_seen_at < now() - interval '1 hour'`;

/** COMMIT is behind it already: a workspace without a head must be an error, which a seq of null is. */
const eventsText = `
  with head as (
    update event_head set seq = seq + $2::int where workspace_id = $1::uuid returning seq, epoch
  ), added as (
    insert into event (workspace_id, seq, type, version, from_state, to_state, subject_type, subject_id, run_id, run_kind,
                       actor_id, actor_kind, credential_id, origin_id, data, traceparent)
    select $1::uuid, head.seq - $2::int + e.i, e.row->>'type', (e.row->>'version')::smallint,
           e.row->>'from_state', e.row->>'to_state', e.row->>'subject_type', (e.row->>'subject_id')::uuid,
           (e.row->>'run_id')::uuid, e.row->>'run_kind', $4::uuid, $5, $6::uuid, $7::uuid, e.row->'data', $8
    from jsonb_array_elements($3::jsonb) with ordinality as e(row, i) left join head on true
  )
  select seq, epoch from head`;

/** Tells of a workspace without a log what it is. */
function headless(error: unknown, pending: readonly { event: NewEvent }[]): unknown {
  const { code, table, column } = error as Partial<pg.DatabaseError>;
  if (code !== '23502' || table !== 'event' || column !== 'seq') return error;
  const ids = [...new Set(pending.map(({ event }) => event.workspaceId))];
  return new Error(`Workspace ${ids.join(' or ')} has no event head`, { cause: error });
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
