import type { Prisma } from '#prisma';
import { WorkspaceRef } from '#kernel/auth/schema.ts';
import { Conflict, IdempotencyConflict } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { eventCursor, failing, guarded, idempotencyKey } from '#kernel/graphql/kit.ts';
import { RunRef, RunStatusEnum } from '#kernel/runs/schema.ts';
import { DeletionReport, type DeletionPhase, type WorkspaceDeletionInput } from '../model.ts';
import { can } from '../policy.ts';
import { Workspaces } from '../service/index.ts';
import { DeletionPhaseEnum, deletionSuccess, type Written } from './shared.ts';

const workspaceSuccess = (name: string, description: string) =>
  builder.objectRef<Written>(name).implement({
    description,
    fields: (t) => ({
      workspace: t.prismaField({
        type: WorkspaceRef,
        description: 'The workspace.',
        resolve: (query, { id }, _, { app }) => app.db.workspace.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

interface Part {
  readonly name: string;
  readonly removed: number;
  readonly left: readonly string[];
}

const WorkspaceDeletionPart = builder.objectRef<Part>('WorkspaceDeletionPart').implement({
  description: 'What the deletion of a workspace did to one kind of thing.',
  fields: (t) => ({
    name: t.exposeString('name', { description: 'Kind of thing: `runs`, `files`, `applications`.' }),
    removed: t.exposeInt('removed', { description: 'How many are gone.' }),
    left: t.stringList({ description: 'What could not be removed, for a person.', resolve: ({ left }) => [...left] }),
  }),
});

const partsOf = (report: Prisma.JsonValue | undefined): Part[] =>
  Object.entries(DeletionReport.parse(report ?? {})).map(([name, part]) => ({ name, ...part }));

const report = 'What it has done so far, by kind of thing. The rest was in the database, and goes last.';

/** A deletion is a run of the server: the Prisma model is Run, its own columns are reached through the relation. */
builder.prismaNode('Run', {
  variant: 'WorkspaceDeletion',
  interfaces: [RunRef],
  id: { resolve: ({ id }) => id },
  description: 'Removes a workspace that nobody reaches any more. A run of the server itself, for its operators.',
  ...guarded('Run'),
  fields: (t) => ({
    phase: t.field({
      type: DeletionPhaseEnum,
      description: 'Where it stands, finer than `status`.',
      compiled: { column: 'phase' },
      resolve: ({ phase }) => phase as DeletionPhase,
    }),
    workspaceRowId: t.string({
      description: 'UUID of the workspace.',
      resolve: ({ input }) => (input as WorkspaceDeletionInput).workspaceId,
    }),
    report: t.field({
      type: [WorkspaceDeletionPart],
      description: report,
      select: { workspaceDeletion: { select: { report: true } } },
      resolve: ({ workspaceDeletion }) => partsOf(workspaceDeletion?.report),
    }),
  }),
});

const WorkspaceDeletionOutcome = builder
  .objectRef<NonNullable<Awaited<ReturnType<Workspaces['deletion']>>>>('WorkspaceDeletionOutcome')
  .implement({
    description: 'How the deletion of a workspace goes, told to whoever has its receipt.',
    fields: (t) => ({
      status: t.field({ type: RunStatusEnum, description: 'Where it stands.', resolve: ({ run }) => run.status }),
      phase: t.field({
        type: DeletionPhaseEnum,
        description: 'Where it stands, finer.',
        resolve: ({ run }) => run.phase as DeletionPhase,
      }),
      statusReason: t.string({
        nullable: true,
        description: 'Why it is where it is.',
        resolve: ({ run }) => run.statusReason,
      }),
      requestedAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was asked for.' }),
      completedAt: t.field({
        type: 'DateTime',
        nullable: true,
        description: 'When it ended.',
        resolve: ({ run }) => run.completedAt,
      }),
      report: t.field({
        type: [WorkspaceDeletionPart],
        description: report,
        resolve: (deletion) => partsOf(deletion.report),
      }),
    }),
  });

builder.queryFields((t) => ({
  workspaceDeletion: t.field({
    access: 'public',
    type: WorkspaceDeletionOutcome,
    nullable: true,
    description: 'How the deletion of a workspace goes; null for a receipt that is none.',
    args: { receipt: t.arg.string({ description: 'What `deleteWorkspace` answered.' }) },
    resolve: (_, { receipt }, { app }) => app.use(Workspaces).deletion(receipt),
  }),
}));

const name = 'Name shown to members, 1 to 120 characters.';
const slug = 'Short name in addresses: 1 to 63 lower-case letters, digits and dashes.';
const workspaceId = { description: 'Global id of the workspace.' };

builder.mutationFields((t) => ({
  createWorkspace: t.fieldWithInput({
    access: can.createWorkspace,
    type: workspaceSuccess('CreateWorkspaceSuccess', 'The workspace was created; you own it.'),
    errors: failing(Conflict),
    description: 'Creates a workspace that you own.',
    input: { name: t.input.string({ description: name }), slug: t.input.string({ description: slug }) },
    resolve: async (_, { input }, context) => {
      const made = await context.app.use(Workspaces).createWorkspace(context.actor, input);
      // Rights are read once an operation: the rest of this one has those that it gained.
      context.actor = { ...context.actor, roles: new Map(context.actor.roles).set(made.id, 'OWNER') };
      return made;
    },
  }),
  updateWorkspace: t.fieldWithInput({
    access: can.updateWorkspace,
    type: workspaceSuccess('UpdateWorkspaceSuccess', 'It was changed.'),
    errors: failing(Conflict),
    description: 'Changes the name or the short name of a workspace. What is left out stays.',
    input: {
      id: t.input.id(workspaceId),
      name: t.input.string({ required: false, description: name }),
      slug: t.input.string({ required: false, description: `${slug} The older one is free for anybody.` }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Workspaces).updateWorkspace(actor, { ...input, id: rowId('Workspace', input.id) }),
  }),
  deleteWorkspace: t.fieldWithInput({
    access: can.deleteWorkspace,
    type: deletionSuccess(
      'DeleteWorkspaceSuccess',
      'Nobody reaches the workspace any more, and a run removes what it has.',
      'workspaceDeletion',
    ),
    errors: failing(IdempotencyConflict),
    description:
      'Deletes a workspace with all that it has: applications, their files and addresses, runs, uploads, members, keys, its log. It cannot be undone.',
    input: {
      id: t.input.id(workspaceId),
      slug: t.input.string({ description: 'Its short name again, to confirm.' }),
      idempotencyKey: t.input.string(idempotencyKey),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Workspaces).deleteWorkspace(actor, { ...input, id: rowId('Workspace', input.id) }),
  }),
}));
