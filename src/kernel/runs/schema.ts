import './cleanup.ts';
import DataLoader from 'dataloader';
import { RunStatus, RunTrigger, StepStatus } from '#prisma';
import { loadUser, UserRef } from '../auth/schema.ts';
import { typeColumn } from '../compiler/declared.ts';
import type { LoggedEvent } from '../events/define.ts';
import { builder } from '../graphql/builder.ts';
import type { Context } from '../graphql/context.ts';
import { globalId, rowId } from '../graphql/global-id.ts';
import {
  cursorOf,
  descriptionOfCursor,
  failing,
  guarded,
  guardedPart,
  idempotencyKey,
  newestFirst,
  visible,
  ofCredential,
} from '../graphql/kit.ts';
import { mayRead } from '../graphql/guard.ts';
import { IdempotencyConflict, IllegalTransition, ValidationError, Conflict } from '../errors.ts';
import { decodeCursor, encodeCursor } from '../live/cursor.ts';
import { toEvent, toLine, type EventRow, type LineRow, type LoggedLine } from '../live/hub.ts';
import { parseLogFilter } from '../live/log-filter.ts';
import { EventRef, LogFilterInput, LogLineRef, type Placed } from '../live/schema.ts';
import type { Snapshot } from '../live/items.ts';
import { runSnapshots } from '../live/run-snapshots.ts';
import type { Appended } from '../db/transact.ts';
import { searchLines } from './log-search.ts';
import { Runs } from './runs.ts';
import { runPolicy } from './policy.ts';
import { may } from '../auth/policy.ts';
import { isTerminal } from './model.ts';

export const RunStatusEnum = builder.enumType(RunStatus, {
  name: 'RunStatus',
  description: 'Status of a long operation of any kind. SUCCEEDED, FAILED, CANCELED and TIMED_OUT are final.',
  values: {
    QUEUED: { description: 'Waits for a worker, or for another run with the same lock.' },
    RUNNING: { description: 'A worker is executing it.' },
    WAITING: { description: 'Waits on a person or on a child run; holds no worker.' },
    CANCELING: { description: 'Told to stop; the worker is ending it.' },
    SUCCEEDED: { description: 'It did what it was asked to. Final.' },
    FAILED: { description: 'It could not do it; `statusReason` tells why. Final.' },
    CANCELED: { description: 'It was told to stop and has. Final.' },
    TIMED_OUT: { description: 'Its deadline passed. Final.' },
  },
});
const RunTriggerEnum = builder.enumType(RunTrigger, {
  name: 'RunTrigger',
  description: 'What started a run.',
  values: {
    API: { description: 'A person or program, by the API.' },
    RETRY: { description: 'A retry of another run.' },
    ROLLBACK: { description: 'A request to restore an earlier release.' },
    SCHEDULE: { description: 'A schedule.' },
    WEBHOOK: { description: 'An inbound webhook.' },
    AUTOMATIC_ROLLBACK: { description: 'The server itself, because what was released crashed again and again.' },
  },
});
const StepStatusEnum = builder.enumType(StepStatus, {
  name: 'StepStatus',
  description: 'Status of one step of a run.',
  values: {
    PENDING: { description: 'Its turn has not come.' },
    RUNNING: { description: 'A worker is executing it.' },
    SUCCEEDED: { description: 'It is complete and is not executed again.' },
    FAILED: { description: 'It failed, and its run with it.' },
    CANCELED: { description: 'Its run was told to stop while it was executed.' },
    SKIPPED: { description: 'Its run ended before its turn came.' },
  },
});

const RunStepRef = builder.prismaObject('RunStep', {
  description: 'One step of a run. A completed step is never executed again.',
  authScopes: guardedPart('RunStep').authScopes,
  fields: (t) => ({
    name: t.exposeString('name'),
    position: t.exposeInt('position'),
    status: t.expose('status', { type: StepStatusEnum, description: 'Where it stands.' }),
    attempt: t.exposeInt('attempt'),
    error: t.exposeString('error', { nullable: true }),
    startedAt: t.expose('startedAt', { type: 'DateTime', nullable: true, description: 'When it began, last.' }),
    completedAt: t.expose('completedAt', { type: 'DateTime', nullable: true, description: 'When it ended.' }),
  }),
});

/** A page of a dense log of one run. */
interface Page<T> {
  readonly nodes: readonly Placed<T>[];
  readonly endCursor: string | null;
  readonly hasNextPage: boolean;
}

const pageFields = {
  endCursor: 'Cursor of the last one; `after` of the next page, or of the subscription. Null on an empty first page.',
  hasNextPage: 'True when more were there already.',
};

export const EventPage = builder.objectRef<Page<LoggedEvent>>('RunEventPage').implement({
  description: "Some of a run's events, oldest first.",
  fields: (t) => ({
    nodes: t.field({ type: [EventRef], description: 'The events.', resolve: ({ nodes }) => [...nodes] }),
    endCursor: t.exposeString('endCursor', { nullable: true, description: pageFields.endCursor }),
    hasNextPage: t.exposeBoolean('hasNextPage', { description: pageFields.hasNextPage }),
  }),
});

const LinePage = builder.objectRef<Page<LoggedLine>>('RunLogPage').implement({
  description: "Some of a run's output, oldest first.",
  fields: (t) => ({
    nodes: t.field({ type: [LogLineRef], description: 'The lines.', resolve: ({ nodes }) => [...nodes] }),
    endCursor: t.exposeString('endCursor', { nullable: true, description: pageFields.endCursor }),
    hasNextPage: t.exposeBoolean('hasNextPage', { description: pageFields.hasNextPage }),
  }),
});

interface PageKey {
  readonly run: { readonly id: string; readonly workspaceId: string };
  readonly after: string | null | undefined;
  readonly first: number;
}

/** Reads the same page of many runs' logs in one statement. */
function pageLoader<R extends { seq: string; epoch: number; of: string }, T>(
  context: Context,
  options: { streamOf: (key: PageKey) => string; sql: string; toEntry: (row: R) => T; byWorkspace?: true },
): DataLoader<PageKey, Page<T>, string> {
  return new DataLoader<PageKey, Page<T>, string>(
    async (keys) => {
      const pages = new Map<string, Page<T>>();
      const ofSize = Map.groupBy(keys, (key) => key.first);
      for (const [first, group] of ofSize) {
        const after = group.map((key) => (key.after ? decodeCursor(key.after, options.streamOf(key)).seq : 0n));
        const { rows } = await context.app.database.pool.query<R>(options.sql, [
          group.map((key) => key.run.id),
          after.map(String),
          first + 1,
          ...(options.byWorkspace ? [group.map((key) => key.run.workspaceId)] : []),
        ]);
        const byRun = Map.groupBy(rows, (row) => row.of);
        for (const key of group) {
          const found = byRun.get(key.run.id) ?? [];
          const nodes = found.slice(0, first).map((row) => ({
            kind: 'entry' as const,
            entry: options.toEntry(row),
            cursor: encodeCursor({ stream: options.streamOf(key), epoch: row.epoch, seq: BigInt(row.seq) }),
          }));
          pages.set(keyOf(key), {
            nodes,
            endCursor: nodes.at(-1)?.cursor ?? key.after ?? null,
            hasNextPage: found.length > first,
          });
        }
      }
      return keys.map((key) => pages.get(keyOf(key)) ?? { nodes: [], endCursor: null, hasNextPage: false });
    },
    { cacheKeyFn: keyOf },
  );
}

const keyOf = (key: PageKey): string => `${key.run.id} ${key.after ?? ''} ${key.first}`;

const eventsOfRuns = `select e.*, h.epoch, e.run_id of from unnest($1::uuid[], $2::bigint[]) r(id, after)
  cross join lateral (select * from event where run_id = r.id and seq > r.after order by seq limit $3) e
  join event_head h on h.workspace_id = e.workspace_id order by e.seq`;
const eventsOfSubjects = `select e.*, h.epoch, e.subject_id of
  from unnest($1::uuid[], $2::bigint[], $4::uuid[]) s(id, after, workspace_id)
  cross join lateral (select * from event where workspace_id = s.workspace_id and subject_id = s.id and seq > s.after
    order by seq limit $3) e
  join event_head h on h.workspace_id = e.workspace_id order by e.seq`;
const linesOfRuns = `select l.*, h.epoch, l.run_id of from unnest($1::uuid[], $2::bigint[]) r(id, after)
  join run on run.id = r.id join event_head h on h.workspace_id = run.workspace_id
  cross join lateral (select * from log_line where run_id = r.id and seq > r.after order by seq limit $3) l order by l.seq`;

/** Place in the queue of each waiting run: 1 is next. Counted among those that the same workers serve. */
const queuePositions = `select id, position from (
    select id, row_number() over (partition by host_id order by created_at, id) position from run where status = 'QUEUED'
  ) queued where id = any($1::uuid[])`;

interface Loaders {
  readonly events: DataLoader<PageKey, Page<LoggedEvent>, string>;
  readonly subjectEvents: DataLoader<PageKey, Page<LoggedEvent>, string>;
  readonly lines: DataLoader<PageKey, Page<LoggedLine>, string>;
  readonly queuePosition: DataLoader<string, number | null>;
}

const ofContext = new WeakMap<Context, Loaders>();

function loaders(context: Context): Loaders {
  let made = ofContext.get(context);
  if (!made) {
    made = {
      events: pageLoader<EventRow & { epoch: number; of: string }, LoggedEvent>(context, {
        streamOf: ({ run }) => run.workspaceId,
        sql: eventsOfRuns,
        toEntry: toEvent,
      }),
      subjectEvents: pageLoader<EventRow & { epoch: number; of: string }, LoggedEvent>(context, {
        streamOf: ({ run }) => run.workspaceId,
        sql: eventsOfSubjects,
        toEntry: toEvent,
        byWorkspace: true,
      }),
      lines: pageLoader<LineRow & { epoch: number; of: string }, LoggedLine>(context, {
        streamOf: ({ run }) => run.id,
        sql: linesOfRuns,
        toEntry: toLine,
      }),
      queuePosition: new DataLoader<string, number | null>(async (ids) => {
        const { rows } = await context.app.database.pool.query<{ id: string; position: string }>(queuePositions, [ids]);
        const byId = new Map(rows.map((row) => [row.id, Number(row.position)]));
        return ids.map((id) => byId.get(id) ?? null);
      }),
    };
    ofContext.set(context, made);
  }
  return made;
}

const pageArgs = {
  first: { defaultValue: 50, description: 'How many, at most 200.' },
  after: { required: false, description: 'Cursor to read on after.' },
} as const;

/** @throws {ValidationError} */
function pageSize(first: number): number {
  if (first >= 0 && first <= 200) return first;
  throw new ValidationError([{ path: 'first', message: 'must be from 0 to 200' }]);
}

/** Arguments and cost of a timeline: a field of the type `EventPage`. */
export const timelineArgs = pageArgs;
export const timelineCost = (args: { first?: number | null }) => ({
  field: 1,
  multiplier: Math.min(args.first ?? 50, 200),
});

/** A page of what a workspace's log tells of a thing, oldest first: events whose subject it is. @throws {ValidationError} */
export const timeline = (
  context: Context,
  subject: { readonly id: string; readonly workspaceId: string },
  { first, after }: { readonly first: number; readonly after?: string | null | undefined },
): Promise<Page<LoggedEvent>> => loaders(context).subjectEvents.load({ run: subject, first: pageSize(first), after });

const [over, open] = [
  Object.values(RunStatus).filter(isTerminal),
  Object.values(RunStatus).filter((one) => !isTerminal(one)),
];

/** A long operation of any kind. Each kind is a Prisma variant of the model Run. */
export const RunRef = builder.prismaInterface('Run', {
  name: 'Run',
  description: 'A long operation: durable, live, with steps, output and a final status.',
  resolveType: (run) => run.kind,
  extensions: { [typeColumn]: 'kind' },
  fields: (t) => ({
    id: t.id({ description: 'Global id.', resolve: (run) => globalId(run.kind, run.id) }),
    kind: t.exposeString('kind'),
    status: t.expose('status', { type: RunStatusEnum, description: 'Where it stands.' }),
    statusReason: t.exposeString('statusReason', { nullable: true }),
    attempt: t.exposeInt('attempt'),
    trigger: t.expose('trigger', { type: RunTriggerEnum, description: 'What started it.' }),
    progress: t.exposeFloat('progress', { nullable: true }),
    queuePosition: t.int({
      nullable: true,
      description:
        'Place among the runs that wait for the same workers, in the order in which they were asked for: 1 is next. One that waits for another run, or for room in its workspace, may be passed. Null when it does not wait.',
      resolve: (run, _, context) => (run.status === 'QUEUED' ? loaders(context).queuePosition.load(run.id) : null),
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was asked for.' }),
    startedAt: t.expose('startedAt', { type: 'DateTime', nullable: true, description: 'When a worker first took it.' }),
    completedAt: t.expose('completedAt', { type: 'DateTime', nullable: true, description: 'When it ended.' }),
    deadlineAt: t.expose('deadlineAt', {
      type: 'DateTime',
      description: 'It becomes TIMED_OUT if it is not over by then.',
    }),
    workspace: t.relation('workspace', { description: 'The workspace that it belongs to.' }),
    actor: t.field({
      type: UserRef,
      nullable: true,
      description: 'Who asked for it; null: the server, or somebody you share no workspace with any more.',
      compiled: { one: 'User', id: 'actorId' },
      resolve: (run, _, context) => loadUser(context, run.actorId),
    }),
    steps: t.relation('steps', {
      description: 'Its steps in order.',
      query: { orderBy: { position: 'asc' } },
    }),
    artifacts: t.relation('artifacts', {
      description: 'What it produced, at most 100.',
      query: (_, context) => ({ where: visible(context, 'Artifact'), take: 100, orderBy: newestFirst }),
    }),
    events: t.field({
      type: EventPage,
      complexity: (args) => ({ field: 1, multiplier: Math.min(args.first ?? 50, 200) }),
      description: 'Its events so far, oldest first. To follow, use the subscription `runEvents` after `endCursor`.',
      args: { first: t.arg.int(pageArgs.first), after: t.arg.string(pageArgs.after) },
      resolve: (run, { first, after }, context) => loaders(context).events.load({ run, first: pageSize(first), after }),
    }),
    logs: t.field({
      type: LinePage,
      // With a filter it looks through many lines, however few it gives.
      complexity: (args) => ({ field: args.filter ? 200 : 1, multiplier: Math.min(args.first ?? 50, 200) }),
      description:
        'Its output so far, oldest first. To follow, use the subscription `runLogs` after `endCursor`. With a filter a page may have fewer lines, or none, and say that there is a next one: it looks through so many lines and no more.',
      args: {
        first: t.arg.int(pageArgs.first),
        after: t.arg.string(pageArgs.after),
        filter: t.arg({ type: LogFilterInput, required: false, description: 'Which lines to give; all without it.' }),
      },
      resolve: (run, { first, after, filter }, context) => {
        const parsed = parseLogFilter(filter);
        const page = { run, first: pageSize(first), after };
        return parsed ? searchLines(context.app, run, { ...page, filter: parsed }) : loaders(context).lines.load(page);
      },
    }),
    viewerCanCancel: t.boolean({
      ...ofCredential,
      description: 'Whether you may cancel it now.',
      compiled: { may: runPolicy.verbs.cancelRun, so: { status: { in: open.filter((one) => one !== 'CANCELING') } } },
      resolve: (run, _, context) =>
        !isTerminal(run.status) &&
        run.status !== 'CANCELING' &&
        may(context.actor, runPolicy.verbs.cancelRun, run.workspaceId),
    }),
    viewerCanRetry: t.boolean({
      ...ofCredential,
      description: 'Whether you may retry it now.',
      compiled: { may: runPolicy.verbs.retryRun, so: { status: { in: over.filter((one) => one !== 'SUCCEEDED') } } },
      resolve: (run, _, context) =>
        isTerminal(run.status) &&
        run.status !== 'SUCCEEDED' &&
        may(context.actor, runPolicy.verbs.retryRun, run.workspaceId),
    }),
  }),
});

// Apart from the rest, because they refer to the type itself.
builder.prismaInterfaceFields(RunRef, (t) => ({
  retryOf: t.relation('retryOf', { type: RunRef, nullable: true, description: 'The run that this one does again.' }),
  parent: t.relation('parent', { type: RunRef, nullable: true, description: 'The run that this one is a part of.' }),
  children: t.relation('children', {
    type: RunRef,
    description: 'Runs that are a part of this one, at most 100, oldest first.',
    query: (_, context) => ({
      where: visible(context, 'Run'),
      take: 100,
      orderBy: [{ createdAt: 'asc' as const }, { id: 'asc' as const }],
    }),
  }),
}));

const DeadLetterRef = builder.prismaNode('DeadLetter', {
  id: { field: 'id' },
  description: 'Background work that failed as often as it may. It can be put back into its queue.',
  ...guarded('DeadLetter'),
  fields: (t) => ({
    job: t.exposeString('job'),
    payload: t.expose('payload', { type: 'JSON', description: 'What it was asked to do.' }),
    error: t.exposeString('error'),
    attempts: t.exposeInt('attempts', { description: 'How often it was tried.' }),
    replayedAt: t.expose('replayedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was put back; null: not yet.',
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was given up.' }),
  }),
});

builder.prismaObjectFields('Workspace', (t) => ({
  runs: t.relatedConnection('runs', {
    type: RunRef,
    cursor: 'id',
    totalCount: true,
    description: 'Runs of every kind, newest first.',
    args: {
      status: t.arg({ type: [RunStatusEnum], required: false, description: 'Only those with one of these statuses.' }),
      kind: t.arg.string({ required: false, description: 'Only those of this kind, for instance `Deployment`.' }),
    },
    query: ({ status, kind }, context) => ({
      where: visible(context, 'Run', {
        ...(status ? { status: { in: status } } : {}),
        ...(kind ? { kind } : {}),
      }),
      orderBy: newestFirst,
    }),
  }),
  deadLetters: t.relatedConnection('deadLetters', {
    cursor: 'id',
    totalCount: true,
    description:
      'Background work of this workspace that was given up, newest first. For administrators; empty for others.',
    query: (_, context) => ({ where: visible(context, 'DeadLetter'), orderBy: newestFirst }),
  }),
}));

interface RunSuccess {
  readonly id: string;
  readonly event: Appended | null;
}

const runSuccess = (name: string, description: string) =>
  builder.objectRef<RunSuccess>(name).implement({
    description,
    fields: (t) => ({
      run: t.prismaField({
        type: RunRef,
        description: 'The run.',
        resolve: (query, { id }, _, { app }) => app.db.run.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      eventCursor: t.string({
        nullable: true,
        description: descriptionOfCursor,
        resolve: async ({ id, event }, _, { app }) => {
          const run = await app.db.run.findUniqueOrThrow({ where: { id }, select: { workspaceId: true } });
          return cursorOf(run.workspaceId, event);
        },
      }),
    }),
  });

builder.mutationFields((t) => ({
  cancelRun: t.fieldWithInput({
    access: runPolicy.verbs.cancelRun,
    type: runSuccess('CancelRunSuccess', 'The run was told to stop, or is stopped already.'),
    errors: failing(IllegalTransition),
    description: 'Tells a run of any kind to stop. One that waits ends at once, one that runs within a second or so.',
    input: { id: t.input.id({ description: 'Global id of the run.' }) },
    resolve: (_, { input }, { app, actor }) => app.use(Runs).cancel(actor, rowId('Run', input.id)),
  }),
  retryRun: t.fieldWithInput({
    access: runPolicy.verbs.retryRun,
    type: runSuccess('RetryRunSuccess', 'A new run does the same again.'),
    errors: failing(IllegalTransition, IdempotencyConflict, Conflict),
    description: 'Does a run that failed or was canceled again, as a new run.',
    input: {
      id: t.input.id({ description: 'Global id of the run.' }),
      idempotencyKey: t.input.string(idempotencyKey),
    },
    resolve: (_, { input }, { app, actor }) => app.use(Runs).retry(actor, rowId('Run', input.id), input.idempotencyKey),
  }),
  replayDeadLetter: t.fieldWithInput({
    access: runPolicy.verbs.replayDeadLetter,
    type: builder.objectRef<{ id: string }>('ReplayDeadLetterSuccess').implement({
      description: 'It is in its queue again.',
      fields: (f) => ({
        deadLetter: f.prismaField({
          type: DeadLetterRef,
          description: 'The dead letter.',
          resolve: (query, { id }, __, { app }) => app.db.deadLetter.findUniqueOrThrow({ ...query, where: { id } }),
        }),
      }),
    }),
    errors: failing(Conflict),
    description: 'Puts background work that was given up back into its queue.',
    input: { id: t.input.id({ description: 'Global id of the dead letter.' }) },
    resolve: (_, { input }, { app, actor }) => app.jobs.replay(app, actor, rowId('DeadLetter', input.id)),
  }),
}));

const RunSnapshotRef = builder.objectRef<Snapshot>('RunSnapshot').implement({
  description: 'A run as it is now.',
  fields: (t) => ({
    run: t.prismaField({
      type: RunRef,
      description: 'The run, at least as new as the cursor.',
      compiled: { one: 'Run', idOf: ({ id }: Snapshot) => id },
      resolve: (query, { id }, _, { app }) => app.db.run.findUniqueOrThrow({ ...query, where: { id } }),
    }),
    cursor: t.exposeString('cursor', {
      description: "Place in the workspace's log: `after` of `runEvents` or `workspaceEvents`.",
    }),
  }),
});

builder.subscriptionFields((t) => ({
  run: t.field({
    access: 'member',
    type: RunSnapshotRef,
    description:
      'A run: at once as it is, then after each change, merged when they come faster than you read. Ends with the run.',
    args: { id: t.arg.id({ description: 'Global id of the run.' }) },
    subscribe: (_, { id }, context) => runSnapshots(context, rowId('Run', id)),
    resolve: (snapshot) => snapshot as never,
  }),
}));

// An event's run: here, because the event type stands below the run type.
builder.objectField(EventRef, 'run', (t) =>
  t.prismaField({
    type: RunRef,
    nullable: true,
    description: 'The run that it belongs to, as it is now.',
    compiled: { one: 'Run', idOf: ({ entry }: Placed<LoggedEvent>) => entry.runId },
    resolve: async (query, { entry }, _, context) => {
      if (!entry.runId) return null;
      const run = await context.app.db.run.findUnique({ ...query, where: { id: entry.runId } });
      return run && (await mayRead(context, 'Run', run)) ? run : null;
    },
  }),
);

export { RunStepRef };
