import { resolveCursorConnection } from '@pothos/plugin-relay';
import DataLoader from 'dataloader';
import { atLeast } from '../auth/actor.ts';
import type { Verb } from '../auth/policy.ts';
import { loadUser, UserRef } from '../auth/schema.ts';
import { Forbidden, NotFound, Unauthenticated } from '../errors.ts';
import type { LoggedEvent } from '../events/define.ts';
import { builder, sizeCost } from '../graphql/builder.ts';
import type { Context } from '../graphql/context.ts';
import { anyRowId, globalId, rowId } from '../graphql/global-id.ts';
import { CheckpointRef, GapRef, type Placed } from '../live/schema.ts';
import type { StreamItem } from '../live/items.ts';
import { auditEvents } from '../live/streams.ts';
import { auditCount, auditPage, isAudited, outcomeOf, type AuditFilter } from './log.ts';

const OutcomeEnum = builder.enumType('AuditOutcome', {
  description: 'How what somebody tried ended.',
  values: {
    SUCCEEDED: { description: 'It was done.' },
    REFUSED: { description: 'They were not allowed, or did not get in.' },
  } as const,
});

interface OriginRow {
  readonly id: string;
  readonly address: string;
  readonly userAgent: string;
}

const OriginRef = builder.objectRef<OriginRow>('AuditOrigin').implement({
  description: 'Where a request came from.',
  fields: (t) => ({
    address: t.exposeString('address', { description: 'IPv4 or IPv6 address, as far as trusted proxies tell it.' }),
    userAgent: t.exposeString('userAgent', { description: 'What the client called itself; empty when it did not.' }),
  }),
});

const origins = new WeakMap<Context, DataLoader<string, OriginRow | null>>();

function loadOrigin(context: Context, id: string | null): Promise<OriginRow | null> | null {
  if (!id) return null;
  let loader = origins.get(context);
  if (!loader) {
    loader = new DataLoader<string, OriginRow | null>(async (ids) => {
      const found = await context.app.db.origin.findMany({ where: { id: { in: [...ids] } } });
      const byId = new Map(found.map((one) => [one.id, one]));
      return ids.map((one) => byId.get(one) ?? null);
    });
    origins.set(context, loader);
  }
  return loader.load(id);
}

const AuditEntryRef = builder.objectRef<Placed<LoggedEvent>>('AuditEntry').implement({
  description:
    'Who did what, on what, from where, by which credential, and how it ended. An entry is an event of the log and never changes; the people in it may be forgotten.',
  fields: (t) => ({
    cursor: t.exposeString('cursor', { description: "Place in the workspace's log." }),
    at: t.field({ type: 'DateTime', description: 'When it was written.', resolve: ({ entry }) => entry.at }),
    action: t.string({
      description: 'What: the type of the event, for instance `deployment.queued`; see the event reference.',
      resolve: ({ entry }) => entry.type,
    }),
    outcome: t.field({ type: OutcomeEnum, description: 'How it ended.', resolve: ({ entry }) => outcomeOf(entry) }),
    verb: t.string({
      nullable: true,
      description: 'What was refused; null for what was not.',
      resolve: ({ entry }) => (typeof entry.data['verb'] === 'string' ? entry.data['verb'] : null),
    }),
    count: t.int({
      description: 'How often, for refusals, which are told once a minute; else 1.',
      resolve: ({ entry }) => (typeof entry.data['count'] === 'number' ? entry.data['count'] : 1),
    }),
    actor: t.field({
      type: UserRef,
      nullable: true,
      description: 'The person; null: nobody, somebody who has gone, or the server itself.',
      compiled: { one: 'User', idOf: ({ entry }: Placed<LoggedEvent>) => entry.actorId },
      resolve: ({ entry }, _, context) => loadUser(context, entry.actorId),
    }),
    actorId: t.id({
      nullable: true,
      description: 'Global id of the person, also of one who has gone.',
      resolve: ({ entry }) => (entry.actorId ? globalId('User', entry.actorId) : null),
    }),
    credential: t.string({
      description: 'Kind of credential: SESSION, TOKEN, API_KEY, MACHINE, ANONYMOUS or SYSTEM.',
      resolve: ({ entry }) => entry.actorKind,
    }),
    credentialId: t.id({
      nullable: true,
      description: 'Global id of the API key or session; null where there was none.',
      resolve: ({ entry }) =>
        entry.credentialId ? globalId(entry.actorKind === 'API_KEY' ? 'ApiKey' : 'Session', entry.credentialId) : null,
    }),
    origin: t.field({
      type: OriginRef,
      nullable: true,
      description: 'From where; null for the server itself, and once it is forgotten.',
      resolve: ({ entry }, _, context) => loadOrigin(context, entry.originId),
    }),
    subjectType: t.string({
      description: 'Type of the thing it was done to.',
      resolve: ({ entry }) => entry.subjectType,
    }),
    subjectId: t.id({
      description: 'Global id of that thing, also of one that is gone.',
      resolve: ({ entry }) => globalId(entry.subjectType, entry.subjectId),
    }),
    data: t.field({
      type: 'JSON',
      description: 'Ids and figures by action; see the event reference.',
      resolve: ({ entry }) => entry.data,
    }),
  }),
});

const AuditFilterInput = builder.inputType('AuditFilter', {
  description: 'Which entries. All that is given must hold.',
  fields: (t) => ({
    actorId: t.id({ required: false, description: 'Global id of a person.' }),
    credentialId: t.id({ required: false, description: 'Global id of an API key or session.' }),
    subjectId: t.id({ required: false, description: 'Global id of the thing it was done to.' }),
    actions: t.stringList({ required: false, description: 'Event types.' }),
    outcome: t.field({ type: OutcomeEnum, required: false, description: 'How it ended.' }),
    since: t.field({ type: 'DateTime', required: false, description: 'Written then or later.' }),
    until: t.field({ type: 'DateTime', required: false, description: 'Written before.' }),
  }),
});

type GivenFilter = Omit<AuditFilter, 'actorId'> & { readonly actorId?: string | null | undefined };

const filterOf = (given: GivenFilter | null | undefined): AuditFilter => ({
  ...given,
  actorId: given?.actorId ? rowId('User', given.actorId) : null,
  credentialId: given?.credentialId ? anyRowId(given.credentialId) : null,
  subjectId: given?.subjectId ? anyRowId(given.subjectId) : null,
});

/** Reading it: a right by role alone, like all reading, so no scope of keys. */
const readAuditLog = { name: 'audit.auditLog', least: 'ADMIN' } as const satisfies Verb;

/** @throws {Unauthenticated} {NotFound} for strangers, {Forbidden} for members who may not read it */
function auditedWorkspace({ actor }: Context, id: string): string {
  const workspaceId = rowId('Workspace', id);
  if (actor.kind === 'ANONYMOUS') throw new Unauthenticated();
  const role = actor.roles.get(workspaceId);
  if (!role) throw new NotFound('Workspace', id, readAuditLog.name);
  if (!atLeast(role, readAuditLog.least)) throw new Forbidden(readAuditLog.name, workspaceId);
  return workspaceId;
}

const workspaceArg = { description: 'Global id of the workspace. For its administrators.' };
const filterArg = { required: false, description: 'Which entries; all without it.' } as const;

builder.queryFields((t) => ({
  auditLog: t.connection(
    {
      access: readAuditLog,
      type: AuditEntryRef,
      complexity: sizeCost,
      description: 'What people and programs did and were refused in a workspace, newest first.',
      args: {
        workspaceId: t.arg.id(workspaceArg),
        filter: t.arg({ type: AuditFilterInput, ...filterArg }),
      },
      resolve: async (_, args, context) => {
        const workspaceId = auditedWorkspace(context, args.workspaceId);
        const filter = filterOf(args.filter);
        const { pool } = context.app.database;
        const connection = await resolveCursorConnection<Promise<Placed<LoggedEvent>[]>>(
          { args, defaultSize: 20, maxSize: 100, toCursor: (one) => one.cursor },
          async ({ before, after, limit, inverted }): Promise<Placed<LoggedEvent>[]> => {
            // `after` an entry of a list that begins with the newest is what is older.
            const page = { workspaceId, filter, limit, olderThan: after, newerThan: before, oldestFirst: inverted };
            const found = await auditPage(pool, page);
            return found.map((one) => ({ kind: 'entry' as const, ...one }));
          },
        );
        return { ...connection, countAll: () => auditCount(pool, workspaceId, filter) };
      },
    },
    {
      fields: (f) => ({
        totalCount: f.int({
          description: 'How many there are in all.',
          resolve: (connection) => (connection as unknown as { countAll(): Promise<number> }).countAll(),
        }),
      }),
    },
  ),
}));

const AuditStreamItem = builder.unionType('AuditStreamItem', {
  description: 'What the stream of the audit log sends.',
  types: [AuditEntryRef, CheckpointRef, GapRef],
  resolveType: (item) =>
    ({ entry: 'AuditEntry', checkpoint: 'StreamCheckpoint', gap: 'StreamGap' })[
      (item as StreamItem<LoggedEvent>).kind
    ] as never,
});

builder.subscriptionFields((t) => ({
  auditLog: t.field({
    access: readAuditLog,
    type: AuditStreamItem,
    description:
      'The audit log as it grows, none left out, none twice. It ends when you are no administrator any more.',
    args: {
      workspaceId: t.arg.id(workspaceArg),
      after: t.arg.string({
        required: false,
        description: 'Cursor to resume after: what came since is told first. Without it the stream begins now.',
      }),
      filter: t.arg({ type: AuditFilterInput, ...filterArg }),
    },
    subscribe: (_, args, context) => {
      const workspaceId = auditedWorkspace(context, args.workspaceId);
      return auditEvents(context, workspaceId, args.after, isAudited(filterOf(args.filter)));
    },
    resolve: (item) => item as never,
  }),
}));
