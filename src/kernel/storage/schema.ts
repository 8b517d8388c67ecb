import './cleanup.ts';
import DataLoader from 'dataloader';
import { ArtifactStatus } from '#prisma';
import { builder } from '../graphql/builder.ts';
import type { Context } from '../graphql/context.ts';
import { globalId, rowId } from '../graphql/global-id.ts';
import { Conflict } from '../errors.ts';
import { ErrorInterface, errorType, failing, guarded, newestFirst, visible } from '../graphql/kit.ts';
import { runPolicy } from '../runs/policy.ts';
import { Artifacts, uploadLifeMs, type PartUpload } from './artifacts.ts';
import { partCount, UploadIncomplete, UploadQuotaExceeded, type UploadQuota } from './parts.ts';
import type { SignedUrl } from './signed-urls.ts';
import { StorageUnavailable, UploadMismatch, type StoredBlob } from './store.ts';
import { FileDamaged } from './verify.ts';
import { withheldOf } from './withheld.ts';

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

const UploadQuotaEnum = builder.enumType('UploadQuota', {
  description: 'What a workspace may have of uploads that have not arrived.',
  values: {
    OPEN_UPLOADS: { description: 'How many they are.' },
    PENDING_BYTES: { description: 'Their announced bytes.' },
  } satisfies Record<UploadQuota, object>,
});

const StoredBytesRef = builder.objectRef<StoredBlob>('StoredBytes').implement({
  description: 'Length and checksum of bytes.',
  fields: (t) => ({
    sizeBytes: t.field({ type: 'BigInt', description: 'Size, bytes.', resolve: ({ sizeBytes }) => BigInt(sizeBytes) }),
    sha256: t.exposeString('sha256', { description: 'SHA-256, 64 lower-case hexadecimal digits.' }),
  }),
});

errorType(UploadQuotaExceeded, {
  name: 'UploadQuotaExceeded',
  description: 'The workspace has announced as much as it may without sending it. Finish or abort some uploads.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    quota: t.expose('quota', { type: UploadQuotaEnum, description: 'What there is too much of.' }),
    limit: t.field({ type: 'BigInt', description: 'How much it may have.', resolve: ({ limit }) => BigInt(limit) }),
  }),
});
errorType(UploadIncomplete, {
  name: 'UploadIncomplete',
  description: 'Parts of the upload have not arrived.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    missing: t.intList({ description: 'Numbers of the first hundred.', resolve: ({ missing }) => [...missing] }),
  }),
});
errorType(UploadMismatch, {
  name: 'UploadMismatch',
  description: 'The bytes are not the announced ones. Parts that are wrong can be sent again.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    expected: t.expose('expected', { type: StoredBytesRef, description: 'What was announced.' }),
    actual: t.expose('actual', { type: StoredBytesRef, description: 'What has arrived.' }),
  }),
});
errorType(StorageUnavailable, {
  name: 'StorageUnavailable',
  description: 'The storage of files does not answer as it should. Try again later.',
  interfaces: [ErrorInterface],
});

const PartUploadRef = builder.objectRef<PartUpload>('PartUpload').implement({
  description: 'A part of an upload, and where to put it.',
  fields: (t) => ({
    number: t.exposeInt('number', { description: 'Its number, from 1.' }),
    sizeBytes: t.exposeInt('sizeBytes', {
      description: 'Its size, bytes: as much of the file, from where the one before ends.',
    }),
    upload: t.expose('upload', {
      type: SignedUrlRef,
      description: 'Where to put it, with its Content-Length; good for 15 minutes, and to send it again.',
    }),
  }),
});

interface OpenUpload {
  readonly expiresAt: Date;
  readonly partSizeBytes: number;
  readonly partCount: number;
  readonly receivedParts: readonly number[];
}

const OpenUploadRef = builder.objectRef<OpenUpload>('OpenUpload').implement({
  description:
    'An upload that is not over, which may be sent in parts: in any order, side by side, and again after a break.',
  fields: (t) => ({
    expiresAt: t.expose('expiresAt', { type: 'DateTime', description: 'What has not arrived by then is removed.' }),
    partSizeBytes: t.exposeInt('partSizeBytes', { description: 'Size of each part but the last, bytes.' }),
    partCount: t.exposeInt('partCount', { description: 'How many parts the file has.' }),
    receivedParts: t.intList({
      description: 'Numbers of the parts that have arrived, ascending.',
      resolve: ({ receivedParts }) => [...receivedParts],
    }),
  }),
});

errorType(FileDamaged, {
  name: 'FileDamaged',
  description: 'The bytes of the file are gone, or are other ones than were stored. Upload it again.',
  interfaces: [ErrorInterface],
});

const withheld = new WeakMap<Context, DataLoader<string, boolean>>();

/** Whether nobody gets its bytes for now; of many files in one statement. */
function isWithheld(context: Context, id: string): Promise<boolean> {
  let loader = withheld.get(context);
  if (!loader) {
    loader = new DataLoader<string, boolean>(async (ids) => {
      const found = await withheldOf(context.app, ids);
      return ids.map((one) => found.has(one));
    });
    withheld.set(context, loader);
  }
  return loader.load(id);
}

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
    upload: t.field({
      type: OpenUploadRef,
      nullable: true,
      description: 'How far its upload is; null when it is over.',
      select: {
        status: true,
        createdAt: true,
        sizeBytes: true,
        partSizeBytes: true,
        parts: { select: { number: true }, orderBy: { number: 'asc' } },
      },
      resolve: ({ status, createdAt, sizeBytes, partSizeBytes, parts }) =>
        status === 'READY' || partSizeBytes === null
          ? null
          : {
              expiresAt: new Date(createdAt.getTime() + uploadLifeMs),
              partSizeBytes,
              partCount: partCount(Number(sizeBytes), partSizeBytes),
              receivedParts: parts.map(({ number }) => number),
            },
    }),
    download: t.field({
      type: SignedUrlRef,
      nullable: true,
      description:
        'Where to get its bytes, good for 15 minutes; null while they have not arrived, or are of a document that is in quarantine or being deleted.',
      resolve: async (artifact, _, context) => {
        const address = context.app.use(Artifacts).downloadUrl(artifact);
        return address && (await isWithheld(context, artifact.id)) ? null : address;
      },
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
    errors: failing(UploadQuotaExceeded),
    description:
      'Announces a file and gives the address to put its bytes to. Size and SHA-256 are verified. A large one may be sent in parts instead: see `uploadParts`.',
    input: {
      workspaceId: t.input.id({ description: 'Global id of the workspace.' }),
      name: t.input.string({ description: 'File name for a person, 1 to 255 characters.' }),
      contentType: t.input.string({ description: 'Media type, for instance `application/pdf`.' }),
      sizeBytes: t.input.field({ type: 'BigInt', description: 'Size, bytes.' }),
      sha256: t.input.string({ description: 'SHA-256 of the bytes, 64 lower-case hexadecimal digits.' }),
      partSizeBytes: t.input.int({
        required: false,
        description:
          'Size of a part, 64 KiB to 1 GiB, for at most 10,000 parts. Default: 8 MiB, or more for a file of more than 78 GiB.',
      }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Artifacts).createUpload(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
);

/** A mutation's success that names the artifact. */
const artifactSuccess = (name: string, description: string, ofArtifact: string) =>
  builder.objectRef<{ id: string }>(name).implement({
    description,
    fields: (f) => ({
      artifact: f.prismaField({
        type: ArtifactRef,
        description: ofArtifact,
        resolve: (query, { id }, __, { app }) => app.db.artifact.findUniqueOrThrow({ ...query, where: { id } }),
      }),
    }),
  });

builder.mutationFields((t) => ({
  uploadParts: t.fieldWithInput({
    access: runPolicy.verbs.uploadParts,
    type: builder.objectRef<{ parts: PartUpload[] }>('UploadPartsSuccess').implement({
      description: 'Addresses of parts.',
      fields: (f) => ({
        parts: f.field({ type: [PartUploadRef], description: 'In order.', resolve: ({ parts }) => parts }),
      }),
    }),
    errors: failing(Conflict),
    description:
      'Gives the addresses of parts of an upload; ask again when they have expired. A part that is put again takes the place of the former one. When all are there: `completeUpload`.',
    input: {
      artifactId: t.input.id({ description: 'Global id of the artifact.' }),
      from: t.input.int({ defaultValue: 1, required: true, description: 'Number of the first one, from 1.' }),
      count: t.input.int({ defaultValue: 100, required: true, description: 'How many, 1 to 1000.' }),
    },
    resolve: async (_, { input }, { app, actor }) => ({
      parts: await app.use(Artifacts).uploadParts(actor, rowId('Artifact', input.artifactId), input),
    }),
  }),
  completeUpload: t.fieldWithInput({
    access: runPolicy.verbs.completeUpload,
    type: artifactSuccess('CompleteUploadSuccess', 'The file is complete.', 'The artifact, READY.'),
    errors: failing(Conflict, UploadIncomplete, UploadMismatch, StorageUnavailable),
    description:
      'Puts the parts of an upload together, and verifies size and SHA-256 of the whole. May be repeated after any failure.',
    input: { artifactId: t.input.id({ description: 'Global id of the artifact.' }) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Artifacts).completeUpload(actor, rowId('Artifact', input.artifactId)),
  }),
  abortUpload: t.fieldWithInput({
    access: runPolicy.verbs.abortUpload,
    type: builder.objectRef<{ id: string }>('AbortUploadSuccess').implement({
      description: 'The upload and what had arrived of it are gone.',
      fields: (f) => ({
        artifactId: f.id({
          description: 'Global id that the artifact had.',
          resolve: ({ id }) => globalId('Artifact', id),
        }),
      }),
    }),
    errors: failing(Conflict, StorageUnavailable),
    description: 'Ends an upload that has not arrived.',
    input: { artifactId: t.input.id({ description: 'Global id of the artifact.' }) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Artifacts).abortUpload(actor, rowId('Artifact', input.artifactId)),
  }),
}));
