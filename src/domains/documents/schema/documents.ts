import { DocumentFormat, DocumentSource, DocumentStatus } from '#prisma';
import { Conflict, NotFound, RateLimited } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { ErrorInterface, errorType, eventCursor, failing, guarded, newestFirst, visible } from '#kernel/graphql/kit.ts';
import { Llm } from '#kernel/llm.ts';
import { loadUser, UserRef } from '#kernel/auth/schema.ts';
import { EventPage, timeline, timelineArgs, timelineCost } from '#kernel/runs/schema.ts';
import { Artifacts } from '#kernel/storage/artifacts.ts';
import { FileDamaged } from '#kernel/storage/verify.ts';
import { SignedUrlRef } from '#kernel/storage/schema.ts';
import { DocumentQuarantined, DocumentQuotaExceeded, DuplicateDocument, UploadNotReady } from '../errors.ts';
import { can } from '../policy.ts';
import {
  DocumentEncrypted,
  Documents,
  DocumentBeyondLimits,
  DocumentUnsupported,
  ExtractionError,
  ExtractorUnavailable,
  ModelUse,
  Retentions,
  sentenceOf,
  type Written,
} from '../service/index.ts';

export const DocumentFormatEnum = builder.enumType(DocumentFormat, {
  name: 'DocumentFormat',
  description: 'What the bytes of a document are.',
  values: {
    CSV: { description: 'Text with a delimiter, RFC 4180 and its relatives.' },
    TSV: { description: 'Text whose delimiter is a tabulator.' },
    XLSX: { description: 'Workbook of Office Open XML.' },
    XLS: { description: 'Workbook of Excel 97 to 2003.' },
    PDF: { description: 'Portable Document Format.' },
    DOCX: { description: 'Text document of Office Open XML.' },
    HTML: { description: 'HTML.' },
    JSON_LINES: { description: 'A JSON value a line: what an export made. No tables are extracted from it.' },
  },
});
const DocumentStatusEnum = builder.enumType(DocumentStatus, {
  name: 'DocumentStatus',
  description: 'Whether a document may be used.',
  values: {
    AVAILABLE: { description: 'It is what it claims to be, and can be extracted.' },
    QUARANTINED: { description: 'It is not what it claims to be, or cannot be read: it can only be deleted.' },
  },
});
const DocumentSourceEnum = builder.enumType(DocumentSource, {
  name: 'DocumentSource',
  description: 'Where a document came from.',
  values: {
    UPLOAD: { description: 'Somebody uploaded it.' },
    EXPORT: { description: 'An export made it.' },
  },
});
const QuotaEnum = builder.enumType('DocumentQuota', {
  description: 'What a workspace may have so many of.',
  values: {
    DOCUMENTS: { description: 'Documents that were uploaded.' },
    DOCUMENT_BYTES: { description: 'Their bytes, together.' },
    CONFIGURATIONS: { description: 'Configurations that were not archived.' },
    CELLS: { description: 'Cells of extracted tables.' },
  } as const,
});

errorType(DocumentQuotaExceeded, {
  name: 'DocumentQuotaExceeded',
  description: 'The workspace may not have more of it. Delete something first.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    quota: t.expose('quota', { type: QuotaEnum, description: 'What it may not have more of.' }),
    limit: t.expose('limit', { type: 'BigInt', description: 'How many it may have.' }),
    actual: t.expose('actual', { type: 'BigInt', description: 'How many it would have.' }),
  }),
});
errorType(UploadNotReady, {
  name: 'UploadNotReady',
  description: 'The bytes of the file have not arrived yet.',
  interfaces: [ErrorInterface],
});
errorType(DocumentQuarantined, {
  name: 'DocumentQuarantined',
  description: 'The document is in quarantine: it can only be deleted.',
  interfaces: [ErrorInterface],
  fields: (t) => ({ problem: t.exposeString('problem', { description: 'Why, a code.' }) }),
});
errorType(DocumentEncrypted, {
  name: 'DocumentEncrypted',
  description: 'The document is protected by a password, and cannot be read without it.',
  interfaces: [ErrorInterface],
});
errorType(DocumentUnsupported, {
  name: 'DocumentUnsupported',
  description: 'Documents of this kind are not read.',
  interfaces: [ErrorInterface],
});
errorType(DocumentBeyondLimits, {
  name: 'DocumentBeyondLimits',
  description: 'The document has more of something than is read.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    bound: t.string({
      description: 'What it has too much of, for instance `maxBytes`.',
      resolve: ({ limit }) => limit,
    }),
    most: t.float({ description: 'How much is read.', resolve: ({ most }) => most }),
  }),
});
errorType(ExtractorUnavailable, {
  name: 'ExtractorUnavailable',
  description: 'The extractor that the configuration names is not there.',
  interfaces: [ErrorInterface],
});
// Abstract: those that are told apart have types of their own.
errorType(ExtractionError as unknown as new () => ExtractionError, {
  name: 'ExtractionError',
  description: 'The document could not be read; `code` tells why.',
  interfaces: [ErrorInterface],
});
/** Why a document cannot be read. The most general one last: the first that fits is answered. */
export const readingFails = [
  FileDamaged,
  DocumentEncrypted,
  DocumentUnsupported,
  DocumentBeyondLimits,
  ExtractorUnavailable,
  ExtractionError,
] as const;

export const DocumentRef = builder.prismaNode('Document', {
  id: { field: 'id' },
  description: 'A file whose tables can be extracted, or that was made of extracted tables.',
  ...guarded('Document'),
  fields: (t) => ({
    name: t.exposeString('name'),
    format: t.expose('format', {
      type: DocumentFormatEnum,
      nullable: true,
      description: 'What its bytes are; null: nothing that is read here.',
    }),
    contentType: t.exposeString('contentType', {
      description: 'Media type that its bytes have, whatever was announced.',
    }),
    status: t.expose('status', { type: DocumentStatusEnum, description: 'Whether it may be used.' }),
    problem: t.exposeString('problem', {
      nullable: true,
      description: 'Why it is in quarantine, a code; null: it is not.',
    }),
    problemMessage: t.string({
      nullable: true,
      description: 'The same for a person, a sentence.',
      resolve: ({ problem }) => problem && sentenceOf(problem),
    }),
    source: t.expose('source', { type: DocumentSourceEnum, description: 'Where it came from.' }),
    sizeBytes: t.expose('sizeBytes', { type: 'BigInt', description: 'Size, bytes.' }),
    sha256: t.exposeString('sha256', { description: 'SHA-256 of its bytes, hexadecimal.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was registered.' }),
    removalAskedAt: t.expose('removalAskedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When its deletion was asked for; null: it was not.',
    }),
    workspace: t.relation('workspace', { description: 'The workspace that it belongs to.' }),
    createdBy: t.field({
      type: UserRef,
      nullable: true,
      description: 'Who uploaded it; null: the server, or somebody you share no workspace with any more.',
      compiled: { one: 'User', id: 'createdById' },
      resolve: ({ createdById }, _, context) => loadUser(context, createdById),
    }),
    download: t.field({
      type: SignedUrlRef,
      nullable: true,
      description:
        'Where to get its bytes, as an attachment, good for 15 minutes. Null while it is in quarantine or being deleted.',
      resolve: ({ artifactId, name, contentType, status, removalAskedAt }, _, { app }) =>
        status === 'QUARANTINED' || removalAskedAt
          ? null
          : app.use(Artifacts).downloadUrl({ id: artifactId, status: 'READY', name, contentType }),
    }),
    events: t.field({
      type: EventPage,
      complexity: timelineCost,
      description:
        'Its timeline: what the log of the workspace tells of it, oldest first; what its jobs did is told by them. To follow, use `workspaceEvents` with `subjectId`.',
      args: { first: t.arg.int(timelineArgs.first), after: t.arg.string(timelineArgs.after) },
      resolve: (document, args, context) => timeline(context, document, args),
    }),
  }),
});

errorType(DuplicateDocument, {
  name: 'DuplicateDocument',
  description: 'The workspace has a document with the same bytes already. `allowDuplicate` registers another one.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    duplicateOf: t.prismaField({
      type: DocumentRef,
      nullable: true,
      description: 'The oldest of them; null: it was deleted since.',
      resolve: (query, { documentId }, _, { app }) =>
        app.db.document.findUnique({ ...query, where: { id: documentId } }),
    }),
  }),
});

const DocumentFilter = builder.inputType('DocumentFilter', {
  description: 'Which documents to give. All that is given must hold.',
  fields: (t) => ({
    status: t.field({ type: DocumentStatusEnum, required: false, description: 'Whether they may be used.' }),
    source: t.field({ type: DocumentSourceEnum, required: false, description: 'Where they came from.' }),
    format: t.field({ type: DocumentFormatEnum, required: false, description: 'What their bytes are.' }),
    name: t.string({
      required: false,
      description: 'Part of their name, in upper or lower case; at most 200 characters.',
    }),
  }),
});

builder.prismaObjectField('Workspace', 'documents', (t) =>
  t.relatedConnection('documents', {
    cursor: 'id',
    totalCount: true,
    description: 'Its documents, newest first; those that are being deleted are left out.',
    args: { filter: t.arg({ type: DocumentFilter, required: false, description: 'Which to give; all without it.' }) },
    query: ({ filter }, context) => ({
      where: visible(context, 'Document', {
        removalAskedAt: null,
        ...(filter?.status ? { status: filter.status } : {}),
        ...(filter?.source ? { source: filter.source } : {}),
        ...(filter?.format ? { format: filter.format } : {}),
        ...(filter?.name ? { name: { contains: escapeLike(filter.name.slice(0, 200)), mode: 'insensitive' } } : {}),
      }),
      orderBy: newestFirst,
    }),
  }),
);

/** A text that is looked for as it is: `%` and `_` are no wildcards. */
const escapeLike = (text: string): string => text.replaceAll(/[\\%_]/g, String.raw`\$&`);

builder.prismaObjectField('Workspace', 'documentRetentionDays', (t) =>
  t.int({
    nullable: true,
    description: 'Days after which its documents are deleted; null: they are kept.',
    select: { retention: { select: { days: true } } },
    resolve: ({ retention }) => retention?.days ?? null,
  }),
);

const DocumentModelRef = builder.objectRef<{ allowed: boolean }>('DocumentModel').implement({
  description: "Whether the server's language model extracts tables of a workspace's documents.",
  fields: (t) => ({
    model: t.string({
      nullable: true,
      description: "Name of the server's model; null: it has none.",
      resolve: (_parent, _args, { app }) => app.use(Llm).model?.name ?? null,
    }),
    allowed: t.boolean({
      description: 'Whether the workspace allows that the model is told of its documents; at first it does not.',
      resolve: ({ allowed }) => allowed,
    }),
  }),
});

builder.prismaObjectField('Workspace', 'documentModel', (t) =>
  t.field({
    type: DocumentModelRef,
    description: "Whether the server's language model extracts tables of its documents.",
    select: { documentModel: { select: { allowed: true } } },
    resolve: ({ documentModel }) => ({ allowed: documentModel?.allowed ?? false }),
  }),
);

const documentSuccess = (name: string, description: string) =>
  builder.objectRef<Written>(name).implement({
    description,
    fields: (t) => ({
      document: t.prismaField({
        type: DocumentRef,
        description: 'The document.',
        resolve: async (query, { id }, _, { app }) => {
          const document = await app.db.document.findUnique({ ...query, where: { id } });
          if (!document) throw new NotFound('Document', id);
          return document;
        },
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

const never = new AbortController().signal;

builder.mutationFields((t) => ({
  uploadDocument: t.fieldWithInput({
    access: can.uploadDocument,
    type: documentSuccess(
      'UploadDocumentSuccess',
      'The document is registered: AVAILABLE, or QUARANTINED when it is not what it claims to be.',
    ),
    errors: failing(Conflict, UploadNotReady, DuplicateDocument, DocumentQuotaExceeded, RateLimited, ...readingFails),
    description:
      'Registers an uploaded file as a document. What it is, is found out from its bytes. The same file again gives the same document.',
    input: {
      artifactId: t.input.id({
        description: 'Global id of the artifact that `createUpload` made; its bytes must have arrived.',
      }),
      name: t.input.string({
        required: false,
        description: 'File name for a person, 1 to 255 characters; default: the name of the upload.',
      }),
      allowDuplicate: t.input.boolean({
        required: false,
        description: 'Registers it although there is a document with the same bytes; default: false.',
      }),
    },
    resolve: (_, { input }, { app, actor, gone }) =>
      app.use(Documents).upload(actor, { ...input, artifactId: rowId('Artifact', input.artifactId) }, gone ?? never),
  }),
  deleteDocument: t.fieldWithInput({
    access: can.deleteDocument,
    type: builder.objectRef<Written>('DeleteDocumentSuccess').implement({
      description:
        'The document is hidden and its jobs are told to stop; the event `document.deleted` tells when all of it is gone.',
      fields: (f) => ({
        documentId: f.id({ description: 'Its global id.', resolve: ({ id }) => globalId('Document', id) }),
        eventCursor: f.string(eventCursor),
      }),
    }),
    errors: failing(),
    description:
      'Deletes a document for good: its bytes, its jobs, the tables that they found, and the documents that were exported of those. What is large goes in the background.',
    input: { id: t.input.id({ description: 'Global id of the document.' }) },
    resolve: (_, { input }, { app, actor }) => app.use(Documents).delete(actor, rowId('Document', input.id)),
  }),
  setDocumentModel: t.fieldWithInput({
    access: can.setDocumentModel,
    type: builder.objectRef<Written>('SetDocumentModelSuccess').implement({
      description: 'It holds for extractions from now on.',
      fields: (f) => ({
        documentModel: f.field({
          type: DocumentModelRef,
          description: 'What holds now.',
          resolve: async ({ workspaceId }, _, { app }) => ({
            allowed: await app.use(ModelUse).isAllowed(app.db, workspaceId),
          }),
        }),
        eventCursor: f.string(eventCursor),
      }),
    }),
    errors: failing(),
    description:
      "Says whether the text of a workspace's documents may be told to the language model that the operator of the server has configured. Configurations with the extractor MODEL need it.",
    input: {
      workspaceId: t.input.id({ description: 'Global id of the workspace.' }),
      allowed: t.input.boolean({ description: 'True: it may.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(ModelUse).set(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  setDocumentRetention: t.fieldWithInput({
    access: can.setDocumentRetention,
    type: builder.objectRef<Written>('SetDocumentRetentionSuccess').implement({
      description: 'It holds from the next clean-up on, which is within an hour.',
      fields: (f) => ({
        workspace: f.prismaField({
          type: 'Workspace',
          description: 'The workspace.',
          resolve: (query, { workspaceId }, _, { app }) =>
            app.db.workspace.findUniqueOrThrow({ ...query, where: { id: workspaceId } }),
        }),
        eventCursor: f.string(eventCursor),
      }),
    }),
    errors: failing(),
    description:
      'Says for how many days a workspace keeps its documents. Older ones are deleted with all that they have.',
    input: {
      workspaceId: t.input.id({ description: 'Global id of the workspace.' }),
      days: t.input.int({ required: false, description: 'Days, 1 to 36500; null or absent: they are kept.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Retentions).set(actor, { workspaceId: rowId('Workspace', input.workspaceId), days: input.days ?? null }),
  }),
}));
