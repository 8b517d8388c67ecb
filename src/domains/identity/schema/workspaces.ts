import { WorkspaceRef } from '#kernel/auth/schema.ts';
import { Conflict } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { descriptionOfCursor, failing } from '#kernel/graphql/kit.ts';
import { can } from '../policy.ts';
import { Workspaces } from '../service/index.ts';
import { eventCursor, type Written } from './shared.ts';

builder.mutationFields((t) => ({
  createWorkspace: t.fieldWithInput({
    access: can.createWorkspace,
    type: builder.objectRef<Written>('CreateWorkspaceSuccess').implement({
      description: 'The workspace was created; you own it.',
      fields: (f) => ({
        workspace: f.prismaField({
          type: WorkspaceRef,
          description: 'The workspace.',
          resolve: (query, { id }, __, { app }) => app.db.workspace.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        eventCursor: f.string({ nullable: true, description: descriptionOfCursor, resolve: eventCursor }),
      }),
    }),
    errors: failing(Conflict),
    description: 'Creates a workspace that you own.',
    input: {
      name: t.input.string({ description: 'Name shown to members, 1 to 120 characters.' }),
      slug: t.input.string({ description: 'Short name in addresses: 1 to 63 lower-case letters, digits and dashes.' }),
    },
    resolve: async (_, { input }, context) => {
      const made = await context.app.use(Workspaces).createWorkspace(context.actor, input);
      // Rights are read once an operation: the rest of this one has those that it gained.
      context.actor = { ...context.actor, roles: new Map(context.actor.roles).set(made.id, 'OWNER') };
      return made;
    },
  }),
}));
