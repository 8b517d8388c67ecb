import { NotFound } from '../errors.ts';
import type { LoggedEvent } from '../events/define.ts';
import type { Context } from '../graphql/context.ts';
import { isId } from '../ids.ts';
import { aboutRuns } from '../runs/about.ts';
import { runKind } from '../runs/kinds.ts';
import { abortable } from './abortable.ts';
import { given } from './cursor.ts';
import { EventStream } from './event-stream.ts';
import type { EventItem } from './items.ts';
import { endsRun, findRun, stateOf } from './runs.ts';
import { mayHear, requireMember } from './stream-rights.ts';

// The streams of events that the schema has.

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

/** A run's events from its first (or after the cursor); ends after the one that ends the run. */
export async function runEvents(
  context: Context,
  id: string,
  after: string | null | undefined,
  expectedKind?: string,
): Promise<AsyncIterable<EventItem>> {
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
