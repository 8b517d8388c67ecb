import { ApiKeyRef, RoleEnum } from '#kernel/auth/schema.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { descriptionOfCursor, failing } from '#kernel/graphql/kit.ts';
import { can } from '../policy.ts';
import { ApiKeys } from '../service/index.ts';
import { eventCursor, workspaceId, type Written } from './shared.ts';

builder.mutationFields((t) => ({
  createApiKey: t.fieldWithInput({
    access: can.createApiKey,
    type: builder.objectRef<Written & { key: string }>('CreateApiKeySuccess').implement({
      description: 'The key was made.',
      fields: (f) => ({
        apiKey: f.prismaField({
          type: ApiKeyRef,
          description: 'What is kept of it.',
          resolve: (query, { id }, __, { app }) => app.db.apiKey.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        key: f.exposeString('key', { description: 'The key, for the header `X-API-Key`. It is shown this once.' }),
        eventCursor: f.string({ nullable: true, description: descriptionOfCursor, resolve: eventCursor }),
      }),
    }),
    errors: failing(),
    description: 'Makes an API key for one workspace.',
    input: {
      workspaceId: t.input.id(workspaceId),
      name: t.input.string({ description: 'What it is for, 1 to 120 characters.' }),
      role: t.input.field({ type: RoleEnum, description: 'Not above your own.' }),
      expiresAt: t.input.field({
        type: 'DateTime',
        required: false,
        description: 'Refused from then on; without it, it does not expire.',
      }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(ApiKeys).createApiKey(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  revokeApiKey: t.fieldWithInput({
    access: can.revokeApiKey,
    type: builder.objectRef<Written>('RevokeApiKeySuccess').implement({
      description: 'The key is refused from now on, and its streams have ended.',
      fields: (f) => ({
        apiKey: f.prismaField({
          type: ApiKeyRef,
          description: 'The key.',
          resolve: (query, { id }, __, { app }) => app.db.apiKey.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        eventCursor: f.string({ nullable: true, description: descriptionOfCursor, resolve: eventCursor }),
      }),
    }),
    errors: failing(),
    description: 'Ends an API key.',
    input: { id: t.input.id({ description: 'Global id of the key.' }) },
    resolve: (_, { input }, { app, actor }) => app.use(ApiKeys).revokeApiKey(actor, rowId('ApiKey', input.id)),
  }),
}));
