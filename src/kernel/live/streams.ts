import { GraphQLError } from 'graphql';
import { atLeast } from '../auth/actor.ts';
import { rowRule } from '../auth/policy.ts';
import { NotFound, Unauthenticated } from '../errors.ts';
import { eventTypes, type LoggedEvent } from '../events/define.ts';
import type { Context } from '../graphql/context.ts';
import { isId } from '../ids.ts';
import { knowsRunKind, runKind } from '../runs/kinds.ts';
import { isTerminal } from '../runs/model.ts';
import type { Channel, Followed, GapReason, LogHead } from './channel.ts';
import { decodeCursor, encodeCursor } from './cursor.ts';
import type { LoggedLine } from './hub.ts';

/** Where a quiet stream stands. */
export interface Checkpoint {
  readonly kind: 'checkpoint';
  readonly cursor: string;
}

/** What a stream could not tell. It ends after this. */
export interface Gap {
  readonly kind: 'gap';
  readonly reason: GapReason;
  /** Where to go on: before the oldest entry that is left. Null when the log is gone. */
  readonly resumeAfter: string | null;
}

export type StreamItem<T> = { readonly kind: 'entry'; readonly entry: T; readonly cursor: string } | Checkpoint | Gap;

/** A stream says something at least this often. */
const checkpointMs = 15_000;

const rightsEnded = () =>
  new GraphQLError('Your right to this stream ended. Sign in again and resume after your last cursor.', {
    extensions: { code: 'FORBIDDEN' },
  });

/**
 * An iterator whose `return` ends a wait at once (a generator's own would be heard only at its next yield), and that
 * ends when the actor's credential does.
 */
export function abortable<T>(
  context: Context,
  make: (signal: AbortSignal) => AsyncGenerator<T, void, void>,
): AsyncIterableIterator<T> {
  const abort = new AbortController();
  const { expiresAt } = context.actor;
  let expired = false;
  const timer = expiresAt
    ? setTimeout(
        () => {
          expired = true;
          abort.abort();
        },
        Math.min(Math.max(expiresAt.getTime() - Date.now(), 0), 2 ** 31 - 1),
      )
    : undefined;
  const generator = make(abort.signal);
  context.app.metrics.liveSubscribers.inc();
  let over = false;
  const end = () => {
    if (over) return;
    over = true;
    clearTimeout(timer);
    context.app.metrics.liveSubscribers.dec();
  };
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      try {
        const result = await generator.next();
        if (result.done) end();
        if (result.done && expired) {
          context.endStreams?.('The credential expired.');
          throw rightsEnded();
        }
        return result;
      } catch (error) {
        end();
        throw error;
      }
    },
    async return() {
      abort.abort();
      end();
      await generator.return();
      return { done: true, value: undefined };
    },
    async throw(error) {
      abort.abort();
      end();
      return generator.throw(error);
    },
  };
}

/** Looks at the rights again. @throws when the actor may no longer read the workspace */
async function recheck(context: Context, workspaceId: string): Promise<void> {
  const now = await context.app.actors.refresh(context.actor);
  const role = now?.roles.get(workspaceId);
  const rule = rowRule('Run');
  const least = rule.by === 'workspace' ? rule.least : 'OWNER';
  if (role !== undefined && atLeast(role, least)) return;
  context.endStreams?.('The right to a stream ended.');
  throw rightsEnded();
}

const changesRights = (event: LoggedEvent): boolean => eventTypes().get(event.type)?.rights ?? false;

/** @throws {Unauthenticated} {NotFound} */
function requireMember(
  context: Context,
  workspaceId: string | undefined,
  kind: string,
  id: string,
): asserts workspaceId is string {
  if (context.actor.kind === 'ANONYMOUS') throw new Unauthenticated();
  if (!workspaceId || !context.actor.roles.has(workspaceId)) throw new NotFound(kind, id);
}

const gapOf = (stream: string, found: Extract<Followed<unknown>, { kind: 'gap' }>): Gap => ({
  kind: 'gap',
  reason: found.reason,
  resumeAfter: found.head
    ? encodeCursor({
        stream,
        epoch: found.head.epoch,
        seq: found.reason === 'PRUNED' ? found.head.prunedSeq : found.head.seq,
      })
    : null,
});

interface Following<T extends { readonly seq: bigint }> {
  readonly stream: string;
  readonly channel: Channel<T>;
  readonly after: { readonly seq: bigint; readonly epoch: number };
  readonly signal: AbortSignal;
  readonly wanted: (entry: T) => boolean;
  /** Before an entry is delivered, and for those that are skipped. May throw to end the stream. */
  readonly before?: (entry: T) => Promise<void> | void;
  /** True when nothing will come after this entry. */
  readonly last?: (entry: T) => boolean;
  /** Nothing will come after this seq. */
  readonly until?: bigint | undefined;
}

async function* follow<T extends { readonly seq: bigint }>(
  options: Following<T>,
): AsyncGenerator<StreamItem<T>, void, void> {
  const { stream, channel, after, signal, until } = options;
  const cursorAt = (seq: bigint) => encodeCursor({ stream, epoch: after.epoch, seq });
  if (until !== undefined && after.epoch === channel.head.epoch && after.seq >= until && until <= channel.last) return;
  for await (const found of channel.follow(after.seq, after.epoch, checkpointMs, signal)) {
    if (found.kind === 'gap') return yield gapOf(stream, found);
    if (found.kind === 'idle') {
      yield { kind: 'checkpoint', cursor: cursorAt(found.last) };
    } else {
      let skipped = false;
      for (const entry of found.entries) {
        if (options.before) await options.before(entry);
        skipped = !options.wanted(entry);
        if (!skipped) yield { kind: 'entry', entry, cursor: cursorAt(entry.seq) };
        if (options.last?.(entry)) return;
      }
      if (skipped) yield { kind: 'checkpoint', cursor: cursorAt(found.last) };
    }
    if (until !== undefined && found.last >= until) return;
  }
}

export interface EventFilter {
  /** Event types; one that ends in `.*` stands for all with that beginning. */
  readonly types?: readonly string[] | null | undefined;
  readonly subjectId?: string | null | undefined;
  readonly runId?: string | null | undefined;
}

const matches = (filter: EventFilter | null | undefined) => {
  const types = filter?.types ?? [];
  const exact = new Set(types);
  const prefixes = types.filter((type) => type.endsWith('.*')).map((type) => type.slice(0, -1));
  return (event: LoggedEvent): boolean =>
    (types.length === 0 || exact.has(event.type) || prefixes.some((prefix) => event.type.startsWith(prefix))) &&
    (!filter?.subjectId || event.subjectId === filter.subjectId) &&
    (!filter?.runId || event.runId === filter.runId);
};

/** Where a stream begins: after the cursor, or at the head as it is now. */
const startAt = (stream: string, head: LogHead, after: string | null | undefined) =>
  after ? decodeCursor(after, stream) : { seq: head.seq, epoch: head.epoch };

/** The workspace's log: what came after the cursor, then what comes. */
export function workspaceEvents(
  context: Context,
  workspaceId: string,
  after: string | null | undefined,
  filter: EventFilter | null | undefined,
): AsyncIterableIterator<StreamItem<LoggedEvent>> {
  requireMember(context, isId(workspaceId) ? workspaceId : undefined, 'Workspace', workspaceId);
  return abortable(context, (signal) => followEvents(context, { workspaceId, after, signal, wanted: matches(filter) }));
}

async function* followEvents(
  context: Context,
  options: {
    workspaceId: string;
    after: string | null | undefined;
    signal: AbortSignal;
    wanted: (event: LoggedEvent) => boolean;
    last?: (event: LoggedEvent) => boolean;
    until?: bigint | undefined;
  },
): AsyncGenerator<StreamItem<LoggedEvent>, void, void> {
  const { workspaceId, signal, wanted, last, until } = options;
  const subscription = await context.app.hub.watchEvents(workspaceId);
  if (!subscription) throw new NotFound('Workspace', workspaceId);
  try {
    const after = startAt(workspaceId, subscription.channel.head, options.after);
    yield* follow<LoggedEvent>({
      stream: workspaceId,
      channel: subscription.channel,
      after,
      signal,
      wanted,
      before: (event) => (changesRights(event) ? recheck(context, workspaceId) : undefined),
      ...(last ? { last } : {}),
      until,
    });
  } finally {
    subscription.release();
  }
}

async function findRun(context: Context, id: string) {
  const run = isId(id) ? await context.app.db.run.findUnique({ where: { id }, select: { workspaceId: true } }) : null;
  requireMember(context, run?.workspaceId, 'Run', id);
  return run as { workspaceId: string };
}

const isOver = async (context: Context, id: string): Promise<boolean> => {
  const run = await context.app.db.run.findUnique({ where: { id }, select: { status: true } });
  return run === null || isTerminal(run.status);
};

/** A run's events from its first (or after the cursor); ends after the one that ends the run. */
export async function runEvents(
  context: Context,
  id: string,
  after: string | null | undefined,
): Promise<AsyncIterableIterator<StreamItem<LoggedEvent>>> {
  const { workspaceId } = await findRun(context, id);
  const over = await isOver(context, id);
  const { rows } = await context.app.database.pool.query<{ first: string | null; last: string | null; epoch: number }>(
    `select min(e.seq) first, max(e.seq) last, h.epoch from event_head h left join event e on e.workspace_id = h.workspace_id and e.run_id = $1
     where h.workspace_id = $2 group by h.epoch`,
    [id, workspaceId],
  );
  const [row] = rows;
  const first = row?.first
    ? encodeCursor({ stream: workspaceId, epoch: row.epoch, seq: BigInt(row.first) - 1n })
    : null;
  return abortable(context, (signal) =>
    followEvents(context, {
      workspaceId,
      after: after ?? first,
      signal,
      wanted: (event) => event.runId === id,
      last: (event) => event.runId === id && endsRun(event),
      until: over && row?.last ? BigInt(row.last) : undefined,
    }),
  );
}

function endsRun(event: LoggedEvent): boolean {
  if (event.to === null || !knowsRunKind(event.subjectType)) return false;
  const kind = runKind(event.subjectType);
  const phase = kind.phases[event.to];
  // A step that FAILED is not a run that did: the type tells which of the two it is.
  return phase !== undefined && kind.events.get(event.to)?.name === event.type && isTerminal(phase.status);
}

/** A run's output from its first line (or after the cursor); ends when the run has and everything was told. */
export async function runLogs(
  context: Context,
  id: string,
  after: string | null | undefined,
): Promise<AsyncIterableIterator<StreamItem<LoggedLine>>> {
  const { workspaceId } = await findRun(context, id);
  return abortable(context, async function* (outer) {
    const subscription = await context.app.hub.watchLines(id);
    if (!subscription) throw new NotFound('Run', id);
    const { channel, release } = subscription;
    const stop = new AbortController();
    const signal = AbortSignal.any([outer, stop.signal]);
    let lost: unknown = null;
    const watching = watchRun(context, workspaceId, id, signal)
      .catch((error: unknown) => {
        lost = error;
      })
      .finally(() => stop.abort());
    try {
      const begin = after ? decodeCursor(after, id) : { seq: 0n, epoch: channel.head.epoch };
      let position = begin.seq;
      for await (const item of follow<LoggedLine>({ stream: id, channel, after: begin, signal, wanted: () => true })) {
        if (lost) throw lost;
        yield item;
        if (item.kind === 'gap') return;
        if (item.kind === 'entry') position = item.entry.seq;
      }
      if (lost) throw lost;
      // The run is over, and its lines were written before its end: what the table holds is all there will be.
      while (!outer.aborted) {
        const rest = await channel.read(position);
        if (rest.length === 0) return;
        for (const entry of rest) {
          yield { kind: 'entry', entry, cursor: encodeCursor({ stream: id, epoch: begin.epoch, seq: entry.seq }) };
          position = entry.seq;
        }
      }
    } finally {
      stop.abort();
      release();
      await watching;
    }
  });
}

/** Returns when the run is over. Rejects when the actor's right to it ended. */
async function watchRun(context: Context, workspaceId: string, runId: string, signal: AbortSignal): Promise<void> {
  const subscription = await context.app.hub.watchEvents(workspaceId);
  if (!subscription) throw new NotFound('Run', runId);
  const { channel, release } = subscription;
  try {
    while (!signal.aborted) {
      const { head } = channel;
      if (await isOver(context, runId)) return;
      for await (const found of channel.follow(head.seq, head.epoch, checkpointMs, signal)) {
        if (found.kind === 'gap') {
          await recheck(context, workspaceId);
          break;
        }
        if (found.kind === 'idle') continue;
        for (const event of found.entries) if (changesRights(event)) await recheck(context, workspaceId);
        if (found.entries.some((event) => event.runId === runId && endsRun(event))) return;
      }
    }
  } finally {
    release();
  }
}

/** Ids and cursors of a run as it changes: at once as it is now, then after each change, merged while the reader is busy. */
export async function runSnapshots(
  context: Context,
  id: string,
): Promise<AsyncIterableIterator<{ id: string; cursor: string }>> {
  const { workspaceId } = await findRun(context, id);
  return abortable(context, async function* (signal) {
    const subscription = await context.app.hub.watchEvents(workspaceId);
    if (!subscription) throw new NotFound('Run', id);
    try {
      for (;;) {
        // The head is read before the snapshot: what commits between the two is told again, never lost.
        const { head } = subscription.channel;
        const cursorAt = (seq: bigint) => encodeCursor({ stream: workspaceId, epoch: head.epoch, seq });
        const over = await isOver(context, id);
        yield { id, cursor: cursorAt(head.seq) };
        if (over) return;
        for await (const found of subscription.channel.follow(head.seq, head.epoch, checkpointMs, signal)) {
          if (found.kind === 'gap') break; // another history: begin again with a snapshot
          if (found.kind === 'idle') continue;
          for (const event of found.entries) if (changesRights(event)) await recheck(context, workspaceId);
          if (!found.entries.some((event) => event.runId === id)) continue;
          const done = await isOver(context, id);
          yield { id, cursor: cursorAt(found.last) };
          if (done) return;
        }
        if (signal.aborted) return;
      }
    } finally {
      subscription.release();
    }
  });
}
