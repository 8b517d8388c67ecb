import type { Document, DocumentFormat, Prisma } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Conflict } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineThrottle, Throttles } from '#kernel/rates/throttles.ts';
import { claim } from '#kernel/storage/claims.ts';
import { withhold } from '#kernel/storage/withheld.ts';
import {
  DocumentEncrypted,
  DocumentBeyondLimits,
  DocumentUnsupported,
  type Detected,
} from '../../../integrations/extractors/index.ts';
import { DocumentQuotaExceeded, DuplicateDocument, UploadNotReady } from '../errors.ts';
import { documentProduced, documentQuarantined, documentUploaded } from '../events.ts';
import { isMislabeled, NewDocument } from '../model.ts';
import { can } from '../policy.ts';
import { Copies } from './copies.ts';
import { askForRemoval } from './deletion.ts';
import { Readers } from './readers.ts';
import { DocumentSettings, lockDocument, type Written } from './shared.ts';

// Not by way of its file, either.
withhold({ document: { is: { OR: [{ status: 'QUARANTINED' }, { removalAskedAt: { not: null } }] } } });

// Uploads that are registered are in use.
claim({ document: { isNot: null } });

const registrations = defineThrottle({
  name: 'documents.uploads',
  description: 'Files that are registered as documents, for each person or key: each is looked at by a process.',
  points: 1_000,
  durationS: 300,
  verbs: ['documents.uploadDocument'],
});

/** What an export made. */
export interface Produced {
  readonly workspaceId: string;
  readonly artifactId: string;
  readonly exportId: string;
  readonly name: string;
  /** Null: an archive. */
  readonly format: DocumentFormat | null;
  readonly contentType: string;
  readonly sizeBytes: bigint;
  /** 64 lower-case hexadecimal digits. */
  readonly sha256: string;
  readonly createdById: string | null;
}

/** The writer of document. */
export const Documents = service('documents', (app) => ({
  /**
   * Registers an upload as a document, after a look at its bytes. The same upload twice is one document.
   * @throws {ValidationError} {NotFound} {Forbidden} {Conflict} {UploadNotReady} {DuplicateDocument}
   *   {DocumentQuotaExceeded} {ExtractionError} {RateLimited}
   */
  async upload(actor: Actor, raw: unknown, signal: AbortSignal): Promise<Written> {
    const input = parse(NewDocument, raw);
    const { artifactId } = input;
    const artifact = isId(artifactId) ? await app.db.artifact.findUnique({ where: { id: artifactId } }) : null;
    authorizeRow(actor, can.uploadDocument, artifact, 'Artifact', artifactId);
    const { workspaceId, sizeBytes, sha256 } = artifact;
    const known = await registered(app.db, artifactId);
    if (known) return { id: known.id, workspaceId, event: null };
    if (artifact.runId) throw new Conflict('This file was made by a run.');
    if (artifact.status !== 'READY') throw new UploadNotReady();
    const { maxBytes } = app.use(DocumentSettings);
    if (sizeBytes > maxBytes) throw new DocumentBeyondLimits('maxBytes', maxBytes);
    const allowed = async (db: Db) => {
      await requireRoom(app, db, workspaceId, sizeBytes);
      if (!input.allowDuplicate) await requireNew(db, workspaceId, sha256);
    };
    // Asked before the bytes are read, and again under the lock.
    await allowed(app.db);
    await app.use(Throttles).consume(registrations, actor.credentialId ?? actor.userId ?? workspaceId);
    const detected = await detect(app, artifact, signal);
    const problem = problemOf(artifact, detected);
    return app.transact(actor, async (tx) => {
      // Of two that come at once the second one sees the first. What refers to the workspace otherwise does not wait.
      await tx.db.$queryRaw`select 1 from workspace where id = ${workspaceId}::uuid for no key update`;
      const meanwhile = await registered(tx.db, artifactId);
      if (meanwhile) return { id: meanwhile.id, workspaceId, event: null };
      await allowed(tx.db);
      const { id } = await tx.db.document.create({
        data: {
          id: newId(),
          workspaceId,
          artifactId,
          name: input.name ?? artifact.name,
          format: detected.format,
          contentType: detected.contentType.slice(0, 120),
          status: problem ? 'QUARANTINED' : 'AVAILABLE',
          problem,
          sizeBytes,
          sha256,
          createdById: actor.userId,
        },
      });
      const event = tx.append({
        type: documentUploaded,
        workspaceId,
        subjectId: id,
        data: { sha256, format: detected.format, sizeBytes: Number(sizeBytes) },
      });
      if (problem) tx.append({ type: documentQuarantined, workspaceId, subjectId: id, data: { problem } });
      return { id, workspaceId, event };
    });
  },

  /**
   * Whether the workspace may have one more file of an export: what exports made counts here, beside what was uploaded.
   * @throws {DocumentQuotaExceeded}
   */
  async requireRoomForProduced(workspaceId: string): Promise<void> {
    const { maxStoredBytes } = app.use(DocumentSettings);
    const { _sum: sum } = await app.db.document.aggregate({
      where: { workspaceId, removalAskedAt: null },
      _sum: { sizeBytes: true },
    });
    const stored = sum.sizeBytes ?? 0n;
    if (stored >= maxStoredBytes) throw new DocumentQuotaExceeded('DOCUMENT_BYTES', maxStoredBytes, stored);
  },

  /** Registers what an export made, in the caller's transaction. */
  async addProduced(tx: Transaction, { exportId, ...made }: Produced): Promise<{ id: string; event: Appended }> {
    const { id } = await tx.db.document.create({ data: { id: newId(), ...made, source: 'EXPORT' } });
    const { workspaceId, sha256, format, sizeBytes } = made;
    const event = tx.append({
      type: documentProduced,
      workspaceId,
      subjectId: id,
      data: { exportId, sha256, format, sizeBytes: Number(sizeBytes) },
    });
    return { id, event };
  },

  /**
   * Hides a document at once, tells its jobs to stop, and queues the removal of all that it has. One that is being
   * deleted already is no error.
   * @throws {NotFound} {Forbidden}
   */
  async delete(actor: Actor, id: string): Promise<Written> {
    return app.transact(actor, async (tx) => {
      const document = isId(id) ? await lockDocument(tx, id) : null;
      authorizeRow(actor, can.deleteDocument, document, 'Document', id);
      const event = await askForRemoval(app, tx, document);
      return { id, workspaceId: document.workspaceId, event };
    });
  },
}));

type Db = Pick<App['db'], 'document' | '$queryRaw'>;

/** @throws {Conflict} for one that is being deleted */
async function registered(db: Pick<App['db'], 'document'>, artifactId: string): Promise<Document | null> {
  const document = await db.document.findUnique({ where: { artifactId } });
  if (document?.removalAskedAt) throw new Conflict('The document of this file is being deleted.');
  return document;
}

/** What there is of a workspace's own uploads, those that are being deleted left out. */
export const uploads = (workspaceId: string): Prisma.DocumentWhereInput => ({
  workspaceId,
  source: 'UPLOAD',
  removalAskedAt: null,
});

/** @throws {DocumentQuotaExceeded} */
async function requireRoom(app: App, db: Db, workspaceId: string, more: bigint): Promise<void> {
  const { maxDocuments, maxStoredBytes } = app.use(DocumentSettings);
  const { _count: count, _sum: sum } = await db.document.aggregate({
    where: uploads(workspaceId),
    _count: true,
    _sum: { sizeBytes: true },
  });
  if (count + 1 > maxDocuments) throw new DocumentQuotaExceeded('DOCUMENTS', maxDocuments, count + 1);
  const stored = (sum.sizeBytes ?? 0n) + more;
  if (stored > maxStoredBytes) throw new DocumentQuotaExceeded('DOCUMENT_BYTES', maxStoredBytes, stored);
}

/** @throws {DuplicateDocument} */
async function requireNew(db: Db, workspaceId: string, sha256: string): Promise<void> {
  const first = await db.document.findFirst({
    where: { ...uploads(workspaceId), sha256 },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    select: { id: true },
  });
  if (first) throw new DuplicateDocument(first.id);
}

/** Looks at the bytes, in a child process. @throws {DocumentEncrypted} {DocumentUnsupported} {RateLimited} … */
async function detect(app: App, file: { id: string; workspaceId: string }, signal: AbortSignal): Promise<Detected> {
  return app.use(Readers).turn(signal, async (extractors) => {
    const copy = app.use(Copies).of(file, signal);
    try {
      return await extractors.detect(await copy.path(), signal);
    } finally {
      await copy.remove();
    }
  });
}

/**
 * Why a file goes into quarantine; null: it does not.
 * @throws {DocumentEncrypted} {DocumentUnsupported} for what is what it claims to be, and cannot be read
 */
function problemOf(claims: { name: string; contentType: string }, detected: Detected): string | null {
  if (detected.encrypted || detected.problem === 'DOCUMENT_ENCRYPTED') throw new DocumentEncrypted();
  // What is damaged or empty may well be what it claims to be.
  if (detected.problem && detected.problem !== 'DOCUMENT_UNSUPPORTED') return detected.problem;
  if (isMislabeled(claims, detected.format)) return 'DOCUMENT_MISLABELED';
  if (!detected.format) throw new DocumentUnsupported();
  return null;
}
