import type { LoggedEvent } from '../events/define.ts';
import { builder } from '../graphql/builder.ts';
import { anyRowId, globalId, rowId } from '../graphql/global-id.ts';
import type { LogLevel } from '../runs/log-level.ts';
import type { LoggedLine } from './hub.ts';
import { matchesLine, parseLogFilter } from './log-filter.ts';
import type { Checkpoint, Gap, StreamItem } from './items.ts';
import { runLogs } from './run-logs.ts';
import { runEvents, workspaceEvents } from './streams.ts';

/** An event or line together with the cursor to resume after it. */
export interface Placed<T> {
  readonly kind: 'entry';
  readonly entry: T;
  readonly cursor: string;
}

const cursorField = { description: 'Resume after this: everything up to and including it was told.' };

export const EventRef = builder.objectRef<Placed<LoggedEvent>>('Event').implement({
  description:
    'A fact of the workspace, committed together with the state that it tells of. Its own fields never change; objects reached from it are as they are now, at least as new as the event.',
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursorField),
    seq: t.field({
      type: 'BigInt',
      description: "Place in the workspace's log: 1, 2, 3, … without holes, in order of commit.",
      resolve: ({ entry }) => entry.seq,
    }),
    type: t.string({
      description: 'What happened, for instance `deployment.building`.',
      resolve: ({ entry }) => entry.type,
    }),
    version: t.int({
      description: 'Version of the shape of `data` for this type.',
      resolve: ({ entry }) => entry.version,
    }),
    from: t.string({
      nullable: true,
      description: 'State before, for a transition.',
      resolve: ({ entry }) => entry.from,
    }),
    to: t.string({ nullable: true, description: 'State after, for a transition.', resolve: ({ entry }) => entry.to }),
    subjectId: t.id({
      description: 'Global id of the thing that it happened to.',
      resolve: ({ entry }) => globalId(entry.subjectType, entry.subjectId),
    }),
    subjectType: t.string({ description: 'Type of that thing.', resolve: ({ entry }) => entry.subjectType }),
    runId: t.id({
      nullable: true,
      description: 'Global id of the run that it belongs to.',
      resolve: ({ entry }) => (entry.runId && entry.runKind ? globalId(entry.runKind, entry.runId) : null),
    }),
    actorId: t.id({
      nullable: true,
      description: 'Global id of the user who caused it; null: the server itself.',
      resolve: ({ entry }) => (entry.actorId ? globalId('User', entry.actorId) : null),
    }),
    actorKind: t.string({
      description: 'Credential: SESSION, TOKEN, API_KEY, MACHINE or SYSTEM.',
      resolve: ({ entry }) => entry.actorKind,
    }),
    data: t.field({
      type: 'JSON',
      description: 'Ids and figures by type and version.',
      resolve: ({ entry }) => entry.data,
    }),
    at: t.field({ type: 'DateTime', description: 'When it was written.', resolve: ({ entry }) => entry.at }),
  }),
});

const LogStream = builder.enumType('LogStream', {
  description: 'Where a line of output came from.',
  values: {
    STDOUT: { description: "The program's standard output." },
    STDERR: { description: "The program's standard error." },
    SYSTEM: { description: 'This server.' },
  } as const,
});

const LogLevelEnum = builder.enumType('LogLevel', {
  description: 'How severe a line of output is.',
  values: {
    ERROR: { description: 'Something failed.' },
    WARN: { description: 'Something may be wrong.' },
    INFO: { description: 'What happens.' },
    DEBUG: { description: 'Details for who looks for a fault.' },
  } satisfies Record<LogLevel, object>,
});

export const LogLineRef = builder.objectRef<Placed<LoggedLine>>('LogLine').implement({
  description: "One line of a run's output. Secrets are masked.",
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursorField),
    seq: t.field({
      type: 'BigInt',
      description: 'Place in the output: 1, 2, 3, … without holes.',
      resolve: ({ entry }) => entry.seq,
    }),
    at: t.field({ type: 'DateTime', description: 'When the server read it.', resolve: ({ entry }) => entry.at }),
    stream: t.field({ type: LogStream, description: 'Where it came from.', resolve: ({ entry }) => entry.stream }),
    level: t.field({
      type: LogLevelEnum,
      nullable: true,
      description:
        'How severe it says that it is: by the field `level` of a line of JSON, or by a marker at its beginning such as `[error]`, `WARN` or `npm warn`. Null: it does not say.',
      resolve: ({ entry }) => entry.level,
    }),
    step: t.string({ nullable: true, description: 'Step that wrote it.', resolve: ({ entry }) => entry.step }),
    text: t.string({ description: 'Text without line end.', resolve: ({ entry }) => entry.text }),
  }),
});

export const CheckpointRef = builder.objectRef<Checkpoint>('StreamCheckpoint').implement({
  description:
    'Nothing that you asked for came, up to here. Sent at least every 15 seconds: it is also the sign of life.',
  fields: (t) => ({ cursor: t.exposeString('cursor', cursorField) }),
});

const GapReasonEnum = builder.enumType('StreamGapReason', {
  description: 'Why a stream cannot tell what comes after a cursor.',
  values: {
    PRUNED: { description: 'It is older than what is kept.' },
    EPOCH_CHANGED: { description: 'The database was restored: the cursor is of another history.' },
    AHEAD: { description: 'The cursor is ahead of the log: it is of a history that was lost.' },
    GONE: { description: 'The log no longer exists.' },
  } as const,
});

export const GapRef = builder.objectRef<Gap>('StreamGap').implement({
  description:
    'The stream cannot continue without leaving something out, says so, and ends. Read the state anew, then follow on.',
  fields: (t) => ({
    reason: t.expose('reason', { type: GapReasonEnum, description: 'Why.' }),
    resumeAfter: t.exposeString('resumeAfter', {
      nullable: true,
      description: 'Cursor to go on after, once the state was read anew; null when there is nothing to follow.',
    }),
  }),
});

const typeOf = (entry: string) => (item: unknown) =>
  ({ entry, checkpoint: 'StreamCheckpoint', gap: 'StreamGap' })[(item as StreamItem<unknown>).kind];

export const EventStreamItem = builder.unionType('EventStreamItem', {
  description: 'What a stream of events sends.',
  types: [EventRef, CheckpointRef, GapRef],
  resolveType: typeOf('Event'),
});

const LogStreamItem = builder.unionType('LogStreamItem', {
  description: "What a stream of a run's output sends.",
  types: [LogLineRef, CheckpointRef, GapRef],
  resolveType: typeOf('LogLine'),
});

const EventFilterInput = builder.inputType('EventFilter', {
  description: 'Which events to send. All that is given must hold.',
  fields: (t) => ({
    types: t.stringList({
      required: false,
      description: 'Event types; one that ends in `.*` stands for all that begin so. See the event reference.',
    }),
    subjectId: t.id({ required: false, description: 'Global id of the thing that they happened to.' }),
    runId: t.id({ required: false, description: 'Global id of the run that they belong to.' }),
  }),
});

export const LogFilterInput = builder.inputType('LogFilter', {
  description: 'Which lines of output to give. All that is given must hold.',
  fields: (t) => ({
    text: t.string({
      required: false,
      description: 'Lines that contain this, in upper or lower case; at most 200 characters.',
    }),
    streams: t.field({ type: [LogStream], required: false, description: 'Lines from one of these.' }),
    level: t.field({
      type: LogLevelEnum,
      required: false,
      description: 'Lines that are at least that severe. Those that do not say how severe they are, are none of them.',
    }),
    step: t.string({ required: false, description: 'Lines that this step wrote.' }),
  }),
});

export const after = (otherwise: string) =>
  ({ required: false, description: `Cursor to resume after: what came since is told first. ${otherwise}` }) as const;

builder.subscriptionFields((t) => ({
  workspaceEvents: t.field({
    access: 'member',
    type: EventStreamItem,
    description: "A workspace's events in order of commit, none left out, none twice.",
    args: {
      workspaceId: t.arg.id({ description: 'Global id of the workspace.' }),
      after: t.arg.string(after('Without it the stream begins now, and a StreamCheckpoint tells where that is.')),
      filter: t.arg({ type: EventFilterInput, required: false, description: 'Which events to send; all without it.' }),
    },
    subscribe: (_, args, context) =>
      workspaceEvents(context, rowId('Workspace', args.workspaceId), args.after, {
        types: args.filter?.types,
        subjectId: args.filter?.subjectId ? anyRowId(args.filter.subjectId) : null,
        runId: args.filter?.runId ? rowId('Run', args.filter.runId) : null,
      }),
    resolve: (item) => item as never,
  }),
  runEvents: t.field({
    access: 'member',
    type: EventStreamItem,
    description: "A run's events from its first (or after the cursor), until the run is over.",
    args: {
      id: t.arg.id({ description: 'Global id of the run.' }),
      after: t.arg.string(after('Without it, from the first.')),
    },
    subscribe: (_, args, context) => runEvents(context, rowId('Run', args.id), args.after),
    resolve: (item) => item as never,
  }),
  runLogs: t.field({
    access: 'member',
    type: LogStreamItem,
    description: "A run's output from its first line (or after the cursor), until the run is over.",
    args: {
      id: t.arg.id({ description: 'Global id of the run.' }),
      after: t.arg.string(after('Without it, from the first.')),
      filter: t.arg({ type: LogFilterInput, required: false, description: 'Which lines to send; all without it.' }),
    },
    subscribe: (_, args, context) =>
      runLogs(context, rowId('Run', args.id), args.after, matchesLine(parseLogFilter(args.filter))),
    resolve: (item) => item as never,
  }),
}));
