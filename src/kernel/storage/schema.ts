import './cleanup.ts';
import { ArtifactStatus } from '#prisma';
import { builder } from '../graphql/builder.ts';
import { rowId } from '../graphql/global-id.ts';
import { ErrorInterface, errorType, failing, guarded, newestFirst, visible } from '../graphql/kit.ts';
import { runPolicy } from '../runs/policy.ts';
import { Artifacts } from './artifacts.ts';
import type { SignedUrl } from './signed-urls.ts';
import { FileDamaged } from './verify.ts';

const ArtifactStatusEnum = builder.enumType(ArtifactStatus, {
  name: 'ArtifactStatus',
  description: 'Whether the bytes of an artifact are there.',
  values: {
    PENDING: { description: 'Announced; its bytes have not all arrived.' },
    READY: { description: 'Complete; size and SHA-256 were verified.' },
  },
});

export const SignedUrlRef = builder.objectRef<SignedUrl>('SignedUrl').implement({
  description: 'An address that is good for one purpose and a short time. Whoever has it can use it: keep it secret.',
  fields: (t) => ({
    url: t.exposeString('url', { description: 'The address.' }),
    method: t.exposeString('method', { description: 'HTTP method to use it with: GET or PUT.' }),
    expiresAt: t.expose('expiresAt', { type: 'DateTime', description: 'Refused from then on.' }),
  }),
});

errorType(FileDamaged, {
  name: 'FileDamaged',
  description: 'The bytes of the file are gone, or are other ones than were stored. Upload it again.',
  interfaces: [ErrorInterface],
});

export const ArtifactRef = builder.prismaNode('Artifact', {
  id: { field: 'id' },
  description: 'Bytes that belong to a workspace: an upload, or what a run produced.',
  ...guarded('Artifact'),
  fields: (t) => ({
    name: t.exposeString('name'),
    contentType: t.exposeString('contentType', { description: 'Media type that was announced.' }),
    status: t.expose('status', { type: ArtifactStatusEnum, description: 'Whether its bytes are there.' }),
    sizeBytes: t.expose('sizeBytes', { type: 'BigInt', description: 'Size, bytes.' }),
    sha256: t.exposeString('sha256'),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was announced.' }),
    download: t.field({
      type: SignedUrlRef,
      nullable: true,
      description: 'Where to get its bytes, good for 15 minutes; null while they have not arrived.',
      resolve: (artifact, _, { app }) => app.use(Artifacts).downloadUrl(artifact),
    }),
  }),
});

builder.prismaObjectField('Workspace', 'artifacts', (t) =>
  t.relatedConnection('artifacts', {
    cursor: 'id',
    totalCount: true,
    description: 'Its artifacts, newest first.',
    query: (_, context) => ({ where: visible(context, 'Artifact'), orderBy: newestFirst }),
  }),
);

builder.mutationField('createUpload', (t) =>
  t.fieldWithInput({
    access: runPolicy.verbs.createUpload,
    type: builder.objectRef<{ id: string; upload: SignedUrl }>('CreateUploadSuccess').implement({
      description: 'The file is announced. Put its bytes to the address.',
      fields: (f) => ({
        artifact: f.prismaField({
          type: ArtifactRef,
          description: 'The artifact; READY once its bytes have arrived.',
          resolve: (query, { id }, __, { app }) => app.db.artifact.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        upload: f.field({
          type: SignedUrlRef,
          description:
            'Where to put the bytes, with the announced Content-Type and Content-Length; good for 15 minutes.',
          resolve: ({ upload }) => upload,
        }),
      }),
    }),
    errors: failing(),
    description: 'Announces a file and gives the address to put its bytes to. Size and SHA-256 are verified.',
    input: {
      workspaceId: t.input.id({ description: 'Global id of the workspace.' }),
      name: t.input.string({ description: 'File name for a person, 1 to 255 characters.' }),
      contentType: t.input.string({ description: 'Media type, for instance `application/pdf`.' }),
      sizeBytes: t.input.field({ type: 'BigInt', description: 'Size, bytes.' }),
      sha256: t.input.string({ description: 'SHA-256 of the bytes, 64 lower-case hexadecimal digits.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Artifacts).createUpload(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
);
