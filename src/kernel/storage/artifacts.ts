import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import type { Prisma } from '#prisma';
import { service } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { authorize } from '../auth/policy.ts';
import { system } from '../auth/actor.ts';
import { sha256Hex } from '../crypto.ts';
import type { Transaction } from '../db/transact.ts';
import { NotFound } from '../errors.ts';
import { defineEvent } from '../events/define.ts';
import { newId } from '../ids.ts';
import { parse } from '../input.ts';
import type { RunContext } from '../runs/context.ts';
import { runPolicy } from '../runs/policy.ts';
import { isContentType, type SignedUrl } from './signed-urls.ts';
import type { StoredBlob } from './store.ts';
import { FileDamaged, verified } from './verify.ts';

export const artifactReady = defineEvent('artifact.ready', {
  subject: 'Artifact',
  description: 'Its bytes have arrived and were verified.',
});

function readerReports(): void {}

/** SHA-256 of no bytes. */
const nothing = sha256Hex('');

/** How long a signed address is good, seconds. */
const urlTtlS = 900;

/** A file that a run makes. */
export interface Product {
  /** File name for a person. */
  readonly name: string;
  readonly contentType: string;
  readonly source: Readable;
  readonly maxBytes: number;
  readonly signal: AbortSignal;
}

export type Produced = StoredBlob & { readonly id: string };
/** Names a file of a workspace; a row of artifact does. */
export interface FileRef {
  readonly workspaceId: string;
  readonly id: string;
}

/** A file whose bytes have arrived. */
export interface OpenFile extends StoredBlob {
  /** For a person; never a path. */
  readonly name: string;
  /** As it was announced: not proven. */
  readonly contentType: string;
}

const NewUpload = (maxBytes: number) =>
  z.object({
    workspaceId: z.string(),
    name: z.string().min(1).max(255),
    contentType: z.string().refine(isContentType, 'is not a media type'),
    // The scalar gives a number where a number can hold it.
    sizeBytes: z
      .union([z.bigint(), z.int()])
      .transform(BigInt)
      .refine((size) => size >= 1n && size <= BigInt(maxBytes), `must be from 1 to ${maxBytes}`),
    sha256: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hexadecimal digits'),
  });

/** The only writer of artifact. */
export const Artifacts = service('artifacts', (app) => ({
  /**
   * Announces a file and gives the address to put its bytes to.
   * @throws {ValidationError} {NotFound} {Forbidden}
   */
  async createUpload(actor: Actor, raw: unknown): Promise<{ id: string; upload: SignedUrl }> {
    const input = parse(NewUpload(app.limits.maxUploadBytes), raw);
    authorize(actor, runPolicy.verbs.createUpload, input.workspaceId);
    const id = newId();
    await app.db.artifact.create({ data: { id, ...input, createdById: actor.userId } });
    const upload = app.storageUrls.sign(
      {
        method: 'PUT',
        key: id,
        sizeBytes: Number(input.sizeBytes),
        sha256: input.sha256,
        contentType: input.contentType,
      },
      urlTtlS,
    );
    return { id, upload };
  },

  /** The bytes are stored. Safe to run twice. */
  async uploaded(id: string, stored: StoredBlob): Promise<void> {
    // Bytes that came after their workspace was closed: nothing else would find them.
    if ((await app.db.artifact.count({ where: { id, workspace: { deletedAt: null } } })) === 0) {
      await app.blobs.remove(id);
      return;
    }
    await app.transact(system, async (tx) => {
      const { count } = await tx.db.artifact.updateMany({
        where: { id, status: 'PENDING', sha256: stored.sha256, workspace: { deletedAt: null } },
        data: { status: 'READY', sizeBytes: BigInt(stored.sizeBytes) },
      });
      if (count === 0) return;
      const artifact = await tx.db.artifact.findUniqueOrThrow({ where: { id } });
      tx.append({ type: artifactReady, workspaceId: artifact.workspaceId, subjectId: id });
    });
  },

  /**
   * Stores what a run makes, of a size that is known only afterwards. It is announced first, and stays PENDING until
   * `ready`: what an execution leaves behind that is lost in between, the next one of the same run removes.
   * @throws {Fenced} {UploadTooLarge} the signal's reason, and what the source fails with; nothing is kept then
   */
  async produce(context: Pick<RunContext, 'run' | 'write'>, product: Product): Promise<Produced> {
    const { name, contentType, source, maxBytes, signal } = product;
    // It may fail before anybody reads it: whoever does is told.
    source.on('error', readerReports);
    const { id: runId, workspaceId, actorId } = context.run;
    const begun = await app.db.artifact.findMany({ where: { runId, status: 'PENDING' }, select: { id: true } });
    for (const { id } of begun) await app.blobs.remove(id);
    const id = newId();
    await context.write(async (tx) => {
      await tx.db.artifact.deleteMany({ where: { id: { in: begun.map((one) => one.id) }, status: 'PENDING' } });
      const row = { id, workspaceId, runId, createdById: actorId, name, contentType, sizeBytes: 0n, sha256: nothing };
      await tx.db.artifact.create({ data: row });
    });
    try {
      return { id, ...(await app.blobs.put(id, source, { maxBytes, signal })) };
    } catch (error) {
      await app.blobs.remove(id);
      await app.db.artifact.deleteMany({ where: { id, status: 'PENDING' } });
      throw error;
    } finally {
      source.destroy();
    }
  },

  /** What a run has produced is whole, in the transaction in which something comes to stand for it. */
  async ready(tx: Transaction, { id, sizeBytes, sha256 }: Produced): Promise<void> {
    const artifact = await tx.db.artifact.update({
      where: { id, status: 'PENDING' },
      data: { status: 'READY', sizeBytes: BigInt(sizeBytes), sha256 },
    });
    tx.append({ type: artifactReady, workspaceId: artifact.workspaceId, subjectId: id });
  },

  /**
   * Streams a file's bytes, for a worker. The stream fails with FileDamaged before its end when they are not the ones
   * that were stored. It must be read or destroyed. Who may read was asked before.
   *
   * @throws {NotFound} no such file in this workspace, or its bytes have not arrived
   * @throws {FileDamaged} the bytes are gone
   */
  async open(file: FileRef, signal?: AbortSignal): Promise<OpenFile & { readonly stream: Readable }> {
    const { id, workspaceId } = file;
    const row = await app.db.artifact.findFirst({ where: { id, workspaceId, status: 'READY' } });
    if (!row) throw new NotFound('file', id);
    const stored = { sizeBytes: Number(row.sizeBytes), sha256: row.sha256 };
    const { stream } = await app.blobs.get(id).catch((error: unknown) => {
      throw error instanceof NotFound ? new FileDamaged(id, 'its bytes are gone') : error;
    });
    return { ...stored, name: row.name, contentType: row.contentType, stream: verified(id, stream, stored, signal) };
  },

  /**
   * Copies a file to `<folder>/<id>`, mode 0600, for programs that want a path. It is there only when all of its bytes
   * are the right ones; it replaces one that is there. Whoever asks removes it.
   *
   * @throws as open
   */
  async materialise(
    file: FileRef,
    folder: string,
    signal?: AbortSignal,
  ): Promise<OpenFile & { readonly path: string }> {
    const { stream, ...opened } = await this.open(file, signal);
    const target = path.join(folder, file.id);
    const partial = `${target}.partial`;
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      await rm(partial, { force: true });
      await pipeline(stream, createWriteStream(partial, { flags: 'wx', mode: 0o600 }));
      await rename(partial, target);
    } catch (error) {
      stream.destroy();
      await rm(partial, { force: true });
      throw error;
    }
    return { ...opened, path: target };
  },

  /**
   * Removes a file for good. The row first: bytes without a row are removed by the maintenance of the storage.
   * @param options.unless it is not removed when this holds
   * @param options.within what else belongs to it, in the transaction that removes the row; not called when there is none
   * @returns whether it was there
   */
  async remove(
    { workspaceId, id }: FileRef,
    options: { readonly unless?: Prisma.ArtifactWhereInput; readonly within?: (tx: Transaction) => void } = {},
  ): Promise<boolean> {
    const removed = await app.transact(system, async (tx) => {
      const where = { id, workspaceId, ...(options.unless ? { NOT: options.unless } : {}) };
      const { count } = await tx.db.artifact.deleteMany({ where });
      if (count > 0) options.within?.(tx);
      return count > 0;
    });
    if (removed) await app.blobs.remove(id);
    return removed;
  },

  /** A short-lived address of a file's bytes; null while they have not arrived. */
  downloadUrl(artifact: { id: string; status: string; name: string; contentType: string }): SignedUrl | null {
    if (artifact.status !== 'READY') return null;
    return app.storageUrls.sign(
      { method: 'GET', key: artifact.id, fileName: artifact.name, contentType: artifact.contentType },
      urlTtlS,
    );
  },
}));
