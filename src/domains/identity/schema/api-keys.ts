import { ApiKeyRef, RoleEnum } from '#kernel/auth/schema.ts';
import { Conflict } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { eventCursor, failing } from '#kernel/graphql/kit.ts';
import { can } from '../policy.ts';
import { ApiKeys, type MadeKey } from '../service/index.ts';
import { workspaceId, type Written } from './shared.ts';

const keySuccess = (name: string, description: string) =>
  builder.objectRef<Written>(name).implement({
    description,
    fields: (t) => ({
      apiKey: t.prismaField({
        type: ApiKeyRef,
        description: 'What is kept of it.',
        resolve: (query, { id }, _, { app }) => app.db.apiKey.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

const keyText = 'The key, for the header `X-API-Key`. It is shown this once.';
const keyId = { description: 'Global id of the key.' };

builder.mutationFields((t) => ({
  createApiKey: t.fieldWithInput({
    access: can.createApiKey,
    type: builder.objectRef<MadeKey>('CreateApiKeySuccess').implement({
      description: 'The key was made.',
      fields: (f) => ({
        apiKey: f.prismaField({
          type: ApiKeyRef,
          description: 'What is kept of it.',
          resolve: (query, { id }, __, { app }) => app.db.apiKey.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        key: f.exposeString('key', { description: keyText }),
        eventCursor: f.string(eventCursor),
      }),
    }),
    errors: failing(),
    description:
      'Makes an API key for one workspace. One that is made with a key has none of the verbs that that one lacks, no later end, and is revoked with it.',
    input: {
      workspaceId: t.input.id(workspaceId),
      name: t.input.string({ description: 'What it is for, 1 to 120 characters.' }),
      role: t.input.field({ type: RoleEnum, description: 'Not above your own.' }),
      scopes: t.input.stringList({
        required: false,
        description:
          'Verbs that it may use, for instance `deployments.createDeployment`, within its role; `*`, the default, stands for all of them. With an empty list it only reads.',
      }),
      expiresAt: t.input.field({
        type: 'DateTime',
        required: false,
        description: 'Refused from then on; without it, it does not expire.',
      }),
    },
    resolve: (_, { input: { scopes, ...input } }, { app, actor }) =>
      app.use(ApiKeys).createApiKey(actor, {
        ...input,
        ...(scopes == null ? {} : { scopes }),
        workspaceId: rowId('Workspace', input.workspaceId),
      }),
  }),
  updateApiKey: t.fieldWithInput({
    access: can.updateApiKey,
    type: keySuccess('UpdateApiKeySuccess', 'The name was changed.'),
    errors: failing(),
    description: 'Changes the name of an API key. Role, verbs and end stay as they were made.',
    input: {
      id: t.input.id(keyId),
      name: t.input.string({ description: 'What it is for, 1 to 120 characters.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(ApiKeys).updateApiKey(actor, { ...input, id: rowId('ApiKey', input.id) }),
  }),
  rotateApiKey: t.fieldWithInput({
    access: can.rotateApiKey,
    type: builder.objectRef<MadeKey & { oldId: string }>('RotateApiKeySuccess').implement({
      description: 'A new key took the place of the old one.',
      fields: (f) => ({
        apiKey: f.prismaField({
          type: ApiKeyRef,
          description: 'The new key: same name, role, verbs and end. You are its maker.',
          resolve: (query, { id }, __, { app }) => app.db.apiKey.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        key: f.exposeString('key', { description: keyText }),
        previous: f.prismaField({
          type: ApiKeyRef,
          description: 'The old key: revoked, or good until `expiresAt`.',
          resolve: (query, { oldId }, __, { app }) =>
            app.db.apiKey.findUniqueOrThrow({ ...query, where: { id: oldId } }),
        }),
        eventCursor: f.string(eventCursor),
      }),
    }),
    errors: failing(Conflict),
    description: 'Makes a new key in place of one. The old one ends at once, or after a time of grace.',
    input: {
      id: t.input.id(keyId),
      graceS: t.input.int({
        required: false,
        description: 'How long the old key is still good, seconds, at most 86400 (a day); default 0.',
      }),
    },
    resolve: (_, { input: { id, graceS } }, { app, actor }) =>
      app.use(ApiKeys).rotateApiKey(actor, { id: rowId('ApiKey', id), ...(graceS == null ? {} : { graceS }) }),
  }),
  revokeApiKey: t.fieldWithInput({
    access: can.revokeApiKey,
    type: keySuccess('RevokeApiKeySuccess', 'The key is refused from now on, and its streams have ended.'),
    errors: failing(),
    description: 'Ends an API key, and those that were made with it. Its role may not be above yours.',
    input: { id: t.input.id(keyId) },
    resolve: (_, { input }, { app, actor }) => app.use(ApiKeys).revokeApiKey(actor, rowId('ApiKey', input.id)),
  }),
}));
