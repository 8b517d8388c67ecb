import { GraphQLError } from 'graphql';
import type { Role } from '#prisma';
import type { App } from '../app.ts';
import { atLeast, type Actor } from '../auth/actor.ts';
import { NotFound, Unauthenticated } from '../errors.ts';
import { eventTypes, type LoggedEvent } from '../events/define.ts';
import type { Context } from '../graphql/context.ts';
import { isId } from '../ids.ts';
import { aboutRuns } from '../runs/about.ts';
import { knowsRunKind, runKind } from '../runs/kinds.ts';
import { isTerminal } from '../runs/model.ts';
import { onceAt } from '../timer.ts';
import type { Channel, Followed, GapReason } from './channel.ts';
import { decodeCursor, encodeCursor, type Cursor } from './cursor.ts';
import type { LoggedLine, Subscription } from './hub.ts';

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

/** An entry of a log as it is told; its cursor is made when it is asked for. */
export class EntryItem<T extends { readonly seq: bigint }> {
  readonly kind = 'entry';
  readonly entry: T;
  readonly #stream: string;
  readonly #epoch: number;

  constructor(stream: string, epoch: number, entry: T) {
    this.entry = entry;
    this.#stream = stream;
    this.#epoch = epoch;
  }
  get cursor(): string {
    return encodeCursor({ stream: this.#stream, epoch: this.#epoch, seq: this.entry.seq });
  }
}

/** How often a quiet follower looks at the clock. */
export const tickMs = 5_000;
/** A stream that was silent for this long says where it stands; with the tick, at least every 15 seconds. */
export const checkpointMs = 10_000;

const rightsEnded = () =>
  new GraphQLError('Your right to this stream ended. Sign in again and resume after your last cursor.', {
    extensions: { code: 'FORBIDDEN' },
  });

/** How a stream is told that its credential has another end. */
const ends = new WeakMap<Context, () => void>();

/** Calls `arm` whenever the credential of a context has another end; null: not any more. */
export const onNewEnd = (context: Context, arm: (() => void) | null): void =>
  void (arm ? ends.set(context, arm) : ends.delete(context));

/** Tells the client that its credential has ended. @returns the error that its stream ends with */
export function credentialEnded(context: Context): GraphQLError {
  context.endStreams?.('The credential expired.');
  return rightsEnded();
}

/**
 * An iterator whose `return` ends a wait at once (a generator's own would be heard only at its next yield), and that
 * ends when the actor's credential does.
 */
export function abortable<T>(
  context: Context,
  make: (signal: AbortSignal) => AsyncGenerator<T, void, void>,
): AsyncIterableIterator<T> {
  const abort = new AbortController();
  let expired = false;
  let disarm = (): void => undefined;
  const arm = (): void => {
    disarm();
    const { expiresAt } = context.actor;
    if (!expiresAt || over) return;
    disarm = onceAt(expiresAt, () => {
      expired = true;
      abort.abort();
    });
  };
  let over = false;
  arm();
  ends.set(context, arm);
  const generator = make(abort.signal);
  context.app.metrics.liveSubscribers.inc();
  const end = () => {
    if (over) return;
    over = true;
    disarm();
    context.app.metrics.liveSubscribers.dec();
  };
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      // A transport may go on pulling after an error.
      if (over) return { done: true, value: undefined };
      try {
        const result = await generator.next();
        // Also for what was read before the end and not told yet.
        if (expired) {
          await generator.return();
          throw credentialEnded(context);
        }
        if (result.done) end();
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

/**
 * Looks at the rights again; what is resolved from now on has those of now.
 * @throws when the actor may no longer read the workspace
 */
async function recheck(context: Context, workspaceId: string, least: Role = 'VIEWER'): Promise<void> {
  const now = await context.app.actors.refresh(context.actor);
  const role = now?.roles.get(workspaceId);
  if (now && role !== undefined && atLeast(role, least)) {
    context.actor = now;
    ends.get(context)?.();
    return;
  }
  context.endStreams?.('The right to a stream ended.');
  throw rightsEnded();
}

/** True for an event after which the actor may have other rights. */
export function changesRights(event: LoggedEvent, actor: Actor): boolean {
  if (!eventTypes().get(event.type)?.rights) return false;
  const { userId } = event.data;
  return typeof userId !== 'string' || userId === actor.userId;
}

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

/** Whether the role in the event's workspace is enough to be told of it. */
export function mayHear({ roles }: Pick<Actor, 'roles'>, event: LoggedEvent): boolean {
  const role = roles.get(event.workspaceId);
  const least = eventTypes().get(event.type)?.least ?? 'VIEWER';
  return role !== undefined && atLeast(role, least);
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
  /** Told of the entries that were read together, before they are looked at one by one. */
  readonly prepare?: (entries: readonly T[]) => Promise<unknown>;
  readonly wanted: (entry: T) => boolean | Promise<boolean>;
  /** Before an entry is delivered, and for those that are skipped. May throw to end the stream. */
  readonly before?: (entry: T) => Promise<void> | void;
  /** True when nothing will come after this entry. */
  readonly last?: (entry: T) => boolean;
  /** Nothing will come after this seq. */
  readonly until?: bigint | undefined;
  /** @see Channel.follow */
  readonly taken?: ((position: bigint) => boolean) | undefined;
}

async function* follow<T extends { readonly seq: bigint }>(
  options: Following<T>,
): AsyncGenerator<StreamItem<T>, void, void> {
  const { stream, channel, after, signal, until } = options;
  const cursorAt = (seq: bigint) => encodeCursor({ stream, epoch: after.epoch, seq });
  let spokeAt = performance.now();
  for await (const found of channel.follow(after.seq, after.epoch, tickMs, signal, options.taken)) {
    if (found.kind === 'gap') return yield gapOf(stream, found);
    let skippedAll = false;
    if (found.kind === 'entries') {
      skippedAll = true;
      if (options.prepare) await options.prepare(found.entries);
      for (const entry of found.entries) {
        if (options.before) await options.before(entry);
        const wanted = options.wanted(entry);
        if (typeof wanted === 'boolean' ? wanted : await wanted) {
          skippedAll = false;
          yield new EntryItem(stream, after.epoch, entry);
          spokeAt = performance.now();
        }
        if (options.last?.(entry)) return;
      }
      // A page that is not full is the log as it grows: a message for each would be as many as there are events.
      skippedAll &&= found.entries.length >= channel.pageSize;
    }
    if (skippedAll || performance.now() - spokeAt >= checkpointMs) {
      yield { kind: 'checkpoint', cursor: cursorAt(found.last) };
      spokeAt = performance.now();
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

/** The cursor that a client gave. @throws {ValidationError} when it is none, or one of another stream */
const given = (after: string | null | undefined, stream: string): Cursor | null =>
  after == null ? null : decodeCursor(after, stream);

/** Which events of a workspace's log a stream tells, and to whom. Says nothing of who follows it. */
export interface EventPlan {
  readonly workspaceId: string;
  /** Null: from now, and says where that is. */
  readonly after: Cursor | null;
  /** Told of the events that were read together, before they are looked at one by one. */
  readonly prepare?: (events: readonly LoggedEvent[]) => Promise<unknown>;
  /** Given the rights of those who follow. */
  readonly wanted: (event: LoggedEvent, rights: Pick<Actor, 'roles'>) => boolean | Promise<boolean>;
  /** The only events that can be wanted, where one id tells: those of a run, or about one thing. */
  readonly only?: { readonly runId: string } | { readonly subjectId: string } | undefined;
  /** True when nothing will come after this event. */
  readonly last?: (event: LoggedEvent) => boolean;
  /** Nothing will come after this seq. */
  readonly until?: bigint | undefined;
  /** Role without which the stream ends. */
  readonly least?: Role;
}

/** Events as a plan says. Who iterates it follows alone; whoever can share (audiences.ts) takes the plan. */
export class EventStream implements AsyncIterable<StreamItem<LoggedEvent>> {
  readonly context: Context;
  readonly plan: EventPlan;

  constructor(context: Context, plan: EventPlan) {
    this.context = context;
    this.plan = plan;
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<StreamItem<LoggedEvent>> {
    return abortable(this.context, (signal) => followEvents(this.context, this.plan, signal));
  }
}

/** The workspace's log: what came after the cursor, then what comes. */
export function workspaceEvents(
  context: Context,
  workspaceId: string,
  after: string | null | undefined,
  filter: EventFilter | null | undefined,
): EventStream {
  requireMember(context, isId(workspaceId) ? workspaceId : undefined, 'Workspace', workspaceId);
  const wanted = matches(filter);
  const { runId, subjectId } = filter ?? {};
  return new EventStream(context, {
    workspaceId,
    after: given(after, workspaceId),
    wanted: (event, rights) => wanted(event) && mayHear(rights, event),
    only: runId ? { runId } : subjectId ? { subjectId } : undefined,
  });
}

/** The run of a kind that an event tells of: one that it belongs to, or, once that is over, that it happened to. */
export function runOf(event: LoggedEvent, kind: string): string | null {
  if (event.runId !== null) return event.runKind === kind ? event.runId : null;
  return event.subjectType === kind ? event.subjectId : null;
}

/** The same of runs of one kind, or of those of them that are about one thing. */
export function eventsOfKind(
  context: Context,
  options: {
    readonly kind: string;
    readonly workspaceId: string;
    readonly after: string | null | undefined;
    readonly about: { readonly name: string; readonly id: string } | null;
  },
): EventStream {
  const { kind, workspaceId, about } = options;
  requireMember(context, workspaceId, 'Workspace', workspaceId);
  const ofKind = (event: LoggedEvent): boolean => runOf(event, kind) !== null;
  const idOf = (event: LoggedEvent): string => runOf(event, kind) ?? '';
  const { app } = context;
  return new EventStream(context, {
    workspaceId,
    after: given(options.after, workspaceId),
    wanted: (event, rights) => ofKind(event) && mayHear(rights, event),
    ...(about && {
      prepare: (events) => aboutRuns(app, [...new Set(events.filter(ofKind).map(idOf))]),
      wanted: (event, rights) =>
        ofKind(event) &&
        mayHear(rights, event) &&
        aboutRuns(app, [idOf(event)]).then(([found]) => found?.[about.name] === about.id),
    }),
  });
}

/** The same with the audit log's own rights and filter. */
export function auditEvents(
  context: Context,
  workspaceId: string,
  after: string | null | undefined,
  wanted: (event: LoggedEvent) => boolean,
): EventStream {
  return new EventStream(context, { workspaceId, after: given(after, workspaceId), wanted, least: 'ADMIN' });
}

/** The log of a workspace as this process follows it. @throws {NotFound} when there is none */
export async function watchWorkspace(app: App, workspaceId: string): Promise<Subscription<LoggedEvent>> {
  const subscription = await app.hub.watchEvents(workspaceId);
  if (!subscription) throw new NotFound('Workspace', workspaceId);
  return subscription;
}

async function* followEvents(
  context: Context,
  plan: EventPlan,
  signal: AbortSignal,
): AsyncGenerator<StreamItem<LoggedEvent>, void, void> {
  const { channel, release } = await watchWorkspace(context.app, plan.workspaceId);
  try {
    yield* followIn(channel, context, plan, signal);
  } finally {
    release();
  }
}

/**
 * What a plan tells of a channel, to one who follows alone.
 * @param options.taken see `Channel.follow`
 * @param options.resumed the rights were looked at up to where it begins
 */
export async function* followIn(
  channel: Channel<LoggedEvent>,
  context: Context,
  plan: EventPlan,
  signal: AbortSignal,
  options: { readonly taken?: (position: bigint) => boolean; readonly resumed?: boolean } = {},
): AsyncGenerator<StreamItem<LoggedEvent>, void, void> {
  const { workspaceId, prepare, wanted, last, until, least } = plan;
  const after = plan.after ?? { stream: workspaceId, epoch: channel.head.epoch, seq: channel.head.seq };
  // Rights that changed after the actor was read and before this place have no event in the stream.
  if (!options.resumed) await recheck(context, workspaceId, least);
  // Who is cut off before the first event can resume from here.
  if (!plan.after) yield { kind: 'checkpoint', cursor: encodeCursor(after) };
  yield* follow<LoggedEvent>({
    stream: workspaceId,
    channel,
    after,
    signal,
    wanted: (event) => wanted(event, context.actor),
    before: (event) => (changesRights(event, context.actor) ? recheck(context, workspaceId, least) : undefined),
    ...(prepare ? { prepare } : {}),
    ...(last ? { last } : {}),
    until,
    taken: options.taken,
  });
}

/** A stream of a workspace that is no log of it: it ends when the right to the workspace does. */
export function workspaceStream<T>(
  context: Context,
  workspaceId: string,
  make: (signal: AbortSignal) => AsyncIterable<T>,
): AsyncIterableIterator<T> {
  requireMember(context, workspaceId, 'Workspace', workspaceId);
  return abortable(context, async function* (outer) {
    const stop = new AbortController();
    const signal = AbortSignal.any([outer, stop.signal]);
    let lost: unknown = null;
    const watch = async (): Promise<void> => {
      for await (const item of followEvents(context, { workspaceId, after: null, wanted: () => false }, signal))
        if (item.kind === 'gap')
          throw new GraphQLError('The workspace is gone.', { extensions: { code: 'NOT_FOUND' } });
    };
    const watching = watch()
      .catch((error: unknown) => {
        lost = error;
      })
      .finally(() => stop.abort());
    try {
      for await (const item of make(signal)) {
        if (lost) throw lost;
        yield item;
      }
      if (lost) throw lost;
    } finally {
      stop.abort();
      await watching;
    }
  });
}

/** @param expected its kind; without it, any */
async function findRun(
  context: Context,
  id: string,
  expected?: string,
): Promise<{ workspaceId: string; kind: string }> {
  const run = isId(id)
    ? await context.app.db.run.findUnique({ where: { id }, select: { workspaceId: true, kind: true } })
    : null;
  const workspaceId = expected === undefined || run?.kind === expected ? run?.workspaceId : undefined;
  requireMember(context, workspaceId, expected ?? 'Run', id);
  return { workspaceId, kind: run?.kind ?? '' };
}

const stateOf = async (context: Context, id: string): Promise<'OPEN' | 'OVER' | 'GONE'> => {
  const run = await context.app.db.run.findUnique({ where: { id }, select: { status: true } });
  if (!run) return 'GONE';
  return isTerminal(run.status) ? 'OVER' : 'OPEN';
};

/** A run's events from its first (or after the cursor); ends after the one that ends the run. */
export async function runEvents(
  context: Context,
  id: string,
  after: string | null | undefined,
  expectedKind?: string,
): Promise<AsyncIterable<StreamItem<LoggedEvent>>> {
  const { workspaceId, kind } = await findRun(context, id, expectedKind);
  const cursor = given(after, workspaceId);
  // Before the log is read: a run that is over has written its last event.
  const over = (await stateOf(context, id)) !== 'OPEN';
  const { rows } = await context.app.database.pool.query<{
    first: string | null;
    last: string | null;
    head: string;
    epoch: number;
  }>(
    `select min(e.seq) filter (where e.type = $3) first, max(e.seq) last, h.seq head, h.epoch
     from event_head h left join event e on e.workspace_id = h.workspace_id and e.run_id = $1
     where h.workspace_id = $2 group by h.seq, h.epoch`,
    [id, workspaceId, runKind(kind).queued.name],
  );
  const [row] = rows;
  if (!row) throw new NotFound('Run', id);
  const { epoch } = row;
  const head = BigInt(row.head);
  // Without its first event, which retention has removed, the stream begins before what is left: with a gap.
  const begin = cursor ?? { stream: workspaceId, epoch, seq: row.first ? BigInt(row.first) - 1n : 0n };
  const until = over ? BigInt(row.last ?? row.head) : undefined;
  const told = until !== undefined && begin.epoch === epoch && begin.seq >= until && begin.seq <= head;
  if (told) return abortable(context, async function* () {});
  return new EventStream(context, {
    workspaceId,
    after: begin,
    wanted: (event) => event.runId === id,
    only: { runId: id },
    last: (event) => event.runId === id && endsRun(event),
    until,
  });
}

function endsRun(event: LoggedEvent): boolean {
  if (event.to === null || !knowsRunKind(event.subjectType)) return false;
  const kind = runKind(event.subjectType);
  const phase = kind.phases[event.to];
  // A step that FAILED is not a run that did: the type tells which of the two it is.
  return phase !== undefined && kind.events.get(event.to)?.name === event.type && isTerminal(phase.status);
}

/** Lines of a run's output. Whoever can share what is written of them does. */
export class LineStream implements AsyncIterable<StreamItem<LoggedLine>> {
  readonly context: Context;
  readonly workspaceId: string;
  readonly #make: (signal: AbortSignal) => AsyncGenerator<StreamItem<LoggedLine>, void, void>;

  constructor(
    context: Context,
    workspaceId: string,
    make: (signal: AbortSignal) => AsyncGenerator<StreamItem<LoggedLine>, void, void>,
  ) {
    this.context = context;
    this.workspaceId = workspaceId;
    this.#make = make;
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<StreamItem<LoggedLine>> {
    return abortable(this.context, this.#make);
  }
}

/** A run's output from its first line (or after the cursor); ends when the run has and everything was told. */
export async function runLogs(
  context: Context,
  id: string,
  after: string | null | undefined,
  wanted: (line: LoggedLine) => boolean = () => true,
): Promise<LineStream> {
  const { workspaceId } = await findRun(context, id);
  const cursor = given(after, id);
  return new LineStream(context, workspaceId, async function* (outer) {
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
      const begin = cursor ?? { seq: 0n, epoch: channel.head.epoch };
      let position = begin.seq;
      for await (const item of follow<LoggedLine>({ stream: id, channel, after: begin, signal, wanted })) {
        if (lost) throw lost;
        yield item;
        if (item.kind === 'gap') return;
        position = item.kind === 'entry' ? item.entry.seq : decodeCursor(item.cursor, id).seq;
      }
      if (lost) throw lost;
      // The run is over, and its lines were written before its end: what the table holds is all there will be.
      while (!outer.aborted) {
        const rest = await channel.read(position);
        if (rest.length === 0) return;
        for (const entry of rest) {
          position = entry.seq;
          if (!wanted(entry)) continue;
          yield new EntryItem(id, begin.epoch, entry);
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
      await recheck(context, workspaceId);
      if ((await stateOf(context, runId)) !== 'OPEN') return;
      for await (const found of channel.follow(head.seq, head.epoch, tickMs, signal)) {
        if (found.kind === 'gap') break; // another history: look at the run again
        if (found.kind === 'idle') continue;
        for (const event of found.entries) if (changesRights(event, context.actor)) await recheck(context, workspaceId);
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
    const { channel, release } = subscription;
    try {
      while (!signal.aborted) {
        // The head is read before the snapshot: what commits between the two is told again, never lost.
        const { head } = channel;
        const cursorAt = (seq: bigint) => encodeCursor({ stream: workspaceId, epoch: head.epoch, seq });
        await recheck(context, workspaceId);
        const state = await stateOf(context, id);
        if (state === 'GONE') return;
        yield { id, cursor: cursorAt(head.seq) };
        if (state === 'OVER') return;
        for await (const found of channel.follow(head.seq, head.epoch, tickMs, signal)) {
          if (found.kind === 'gap') break; // another history: begin again with a snapshot
          if (found.kind === 'idle') continue;
          for (const event of found.entries) {
            if (changesRights(event, context.actor)) await recheck(context, workspaceId);
          }
          if (!found.entries.some((event) => event.runId === id)) continue;
          const now = await stateOf(context, id);
          if (now === 'GONE') return;
          yield { id, cursor: cursorAt(found.last) };
          if (now === 'OVER') return;
        }
      }
    } finally {
      release();
    }
  });
}
