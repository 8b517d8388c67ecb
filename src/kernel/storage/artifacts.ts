import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import type { Prisma } from '#prisma';
import { service } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { authorize, authorizeRow } from '../auth/policy.ts';
import { system } from '../auth/actor.ts';
import { sha256Hex } from '../crypto.ts';
import type { Transaction } from '../db/transact.ts';
import { Conflict, NotFound, ValidationError } from '../errors.ts';
import { defineEvent } from '../events/define.ts';
import { newId } from '../ids.ts';
import { parse } from '../input.ts';
import type { RunContext } from '../runs/context.ts';
import { runPolicy } from '../runs/policy.ts';
import { unclaimed } from './claims.ts';
import {
  maxPartBytes,
  minPartBytes,
  partCount,
  proposedPartBytes,
  sizeOfPart,
  UploadIncomplete,
  UploadQuotaExceeded,
} from './parts.ts';
import { isContentType, maxParts, type SignedUrl } from './signed-urls.ts';
import type { StoredBlob } from './store.ts';
import { FileDamaged, verified } from './verify.ts';

export const artifactReady = defineEvent('artifact.ready', {
  subject: 'Artifact',
  description: 'Its bytes have arrived and were verified.',
});

export const artifactExpired = defineEvent<{ reason: 'NOT_SENT' | 'NOT_USED'; sizeBytes: number }>('artifact.expired', {
  subject: 'Artifact',
  description:
    'The clean-up removed an upload that was a day old: its bytes had not arrived (`reason` NOT_SENT), or nothing made use of it (NOT_USED). `sizeBytes` in bytes.',
});

function readerReports(): void {}

/** SHA-256 of no bytes. */
const nothing = sha256Hex('');

/** How long a signed address is good, seconds. */
const urlTtlS = 900;

/** How long an upload may take, milliseconds; what has not arrived by then is removed by the hourly clean-up. */
export const uploadLifeMs = 24 * 3600 * 1000;

/** How long others are kept from putting the parts together when whoever does it has died, seconds. It renews thrice. */
const completingS = 60;

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
    partSizeBytes: z.int().min(minPartBytes).max(maxPartBytes).nullish(),
  });

const PartRange = z.object({
  from: z.int().min(1).max(maxParts),
  count: z.int().min(1).max(1000),
});

/** One part of an upload, and where to put it. */
export interface PartUpload {
  readonly number: number;
  readonly sizeBytes: number;
  readonly upload: SignedUrl;
}

/** The only writer of artifact. */
export const Artifacts = service('artifacts', (app) => ({
  /**
   * Announces a file and gives the address to put its bytes to.
   * @throws {ValidationError} {NotFound} {Forbidden} {UploadQuotaExceeded}
   */
  async createUpload(actor: Actor, raw: unknown): Promise<{ id: string; upload: SignedUrl }> {
    const input = parse(NewUpload(app.limits.maxUploadBytes), raw);
    authorize(actor, runPolicy.verbs.createUpload, input.workspaceId);
    const size = Number(input.sizeBytes);
    const partSizeBytes = input.partSizeBytes ?? proposedPartBytes(size);
    if (partCount(size, partSizeBytes) > maxParts) {
      const least = Math.ceil(size / maxParts);
      throw new ValidationError([{ path: 'partSizeBytes', message: `must be at least ${least} for this file` }]);
    }
    const id = newId();
    await app.transact(actor, async (tx) => {
      await this.requireRoom(tx, input.workspaceId, size);
      await tx.db.artifact.create({ data: { id, ...input, partSizeBytes, createdById: actor.userId } });
    });
    const upload = app.storageUrls.sign(
      {
        method: 'PUT',
        key: id,
        sizeBytes: size,
        sha256: input.sha256,
        contentType: input.contentType,
      },
      urlTtlS,
    );
    return { id, upload };
  },

  /** @throws {UploadQuotaExceeded} */
  async requireRoom(tx: Transaction, workspaceId: string, sizeBytes: number): Promise<void> {
    const { maxOpenUploads, maxPendingBytes } = app.limits;
    // Of two that come at once the second one sees the first. What refers to the workspace otherwise does not wait.
    await tx.db.$queryRaw`select 1 from workspace where id = ${workspaceId}::uuid for no key update`;
    const open = await tx.db.artifact.aggregate({
      where: { workspaceId, status: 'PENDING' },
      _count: true,
      _sum: { sizeBytes: true },
    });
    if (open._count >= maxOpenUploads) throw new UploadQuotaExceeded('OPEN_UPLOADS', maxOpenUploads);
    if (Number(open._sum.sizeBytes ?? 0n) + sizeBytes > maxPendingBytes)
      throw new UploadQuotaExceeded('PENDING_BYTES', maxPendingBytes);
  },

  /**
   * Gives the addresses of parts of an upload, also of those that have arrived; fewer where it has fewer.
   * @throws {ValidationError} {NotFound} {Forbidden} {Conflict} the upload is over
   */
  async uploadParts(actor: Actor, id: string, raw: unknown): Promise<PartUpload[]> {
    const row = await app.db.artifact.findUnique({ where: { id } });
    authorizeRow(actor, runPolicy.verbs.uploadParts, row, 'Artifact', id);
    const { from, count } = parse(PartRange, raw);
    const { partSizeBytes, expiresAt } = openUpload(row);
    const size = Number(row.sizeBytes);
    const parts = partCount(size, partSizeBytes);
    if (from > parts) throw new ValidationError([{ path: 'from', message: `must be at most ${parts}` }]);
    const ttlS = Math.min(urlTtlS, Math.max(1, Math.floor((expiresAt.getTime() - Date.now()) / 1000)));
    return Array.from({ length: Math.min(count, parts - from + 1) }, (_, i) => {
      const part = from + i;
      const sizeBytes = sizeOfPart(size, partSizeBytes, part);
      return {
        number: part,
        sizeBytes,
        upload: app.storageUrls.sign({ method: 'PUT', key: id, part, sizeBytes }, ttlS),
      };
    });
  },

  /**
   * Stores a part; the same part again takes the place of the former one. Its signed address was the permission.
   * @throws {NotFound} {Conflict} the upload is over
   * @throws {UploadTooLarge} {StorageUnavailable}
   */
  async receivePart(id: string, part: number, sizeBytes: number, source: Readable): Promise<StoredBlob> {
    const where = { id, workspace: { deletedAt: null } };
    const find = async () => {
      const row = await app.db.artifact.findFirst({ where });
      if (!row) throw new NotFound('file', id);
      return openUpload(row);
    };
    await find();
    // A key of its own: whoever reads the former bytes at this moment is not disturbed before its row says otherwise.
    const key = newId();
    const stored = await app.blobs.put(key, source, { maxBytes: sizeBytes });
    try {
      if (stored.sizeBytes !== sizeBytes) throw new Conflict('The part did not arrive as a whole.');
      const former = await app.transact(system, async (tx) => {
        // Neither completed nor aborted until this is committed.
        await tx.db.$queryRaw`select 1 from artifact where id = ${id}::uuid for no key update`;
        const row = await tx.db.artifact.findFirst({ where });
        if (!row) throw new NotFound('file', id);
        openUpload(row);
        const unique = { artifactId_number: { artifactId: id, number: part } };
        const there = await tx.db.artifactPart.findUnique({ where: unique });
        const is = { key, sizeBytes, sha256: stored.sha256, createdAt: new Date() };
        await tx.db.artifactPart.upsert({
          where: unique,
          create: { artifactId: id, number: part, ...is },
          update: is,
        });
        return there?.key;
      });
      if (former !== undefined) await app.blobs.remove(former);
      return stored;
    } catch (error) {
      // Unless it is known after all: a commit whose answer was lost.
      if ((await app.db.artifactPart.count({ where: { key } })) === 0) await app.blobs.remove(key);
      throw error;
    }
  },

  /**
   * Puts the parts together and verifies the whole. Of one that has arrived already it does nothing. After a failure
   * the parts are still there: wrong ones can be sent again.
   *
   * @throws {NotFound} {Forbidden} {UploadIncomplete} {UploadMismatch} {StorageUnavailable}
   * @throws {Conflict} somebody else is doing it, a part was replaced meanwhile, or the upload is over
   */
  async completeUpload(actor: Actor, id: string): Promise<{ id: string }> {
    const row = await app.db.artifact.findUnique({ where: { id } });
    authorizeRow(actor, runPolicy.verbs.completeUpload, row, 'Artifact', id);
    if (row.status === 'READY') return { id };
    openUpload(row);
    // By the database's clock, which is one for all.
    const mine = await app.db.$executeRaw`
      update artifact set completing_until = now() + make_interval(secs => ${completingS})
      where id = ${id}::uuid and status = 'PENDING' and (completing_until is null or completing_until < now())`;
    if (mine === 0) throw new Conflict('The upload is being completed already, or is over.');
    const renew = () =>
      app.db.$executeRaw`
        update artifact set completing_until = now() + make_interval(secs => ${completingS}) where id = ${id}::uuid`.catch(
        // Somebody else may then do it as well, which is a waste and no harm.
        (error: unknown) => app.log.warn({ err: error, artifact: id }, 'could not keep others from the same upload'),
      );
    const renewing = setInterval(() => void renew(), (completingS * 1000) / 3);
    try {
      const expect = { sizeBytes: Number(row.sizeBytes), sha256: row.sha256 };
      await this.putTogether(id, expect, row.partSizeBytes ?? 0);
      await this.uploaded(id, expect);
    } finally {
      clearInterval(renewing);
      await app.db.artifact.updateMany({ where: { id }, data: { completingUntil: null } });
    }
    if ((await app.db.artifact.count({ where: { id, status: 'READY' } })) === 0) throw new NotFound('Artifact', id);
    return { id };
  },

  /** Makes the file of its parts, unless it is there: nothing is stored under its key that was not verified. */
  async putTogether(id: string, expect: StoredBlob, partBytes: number): Promise<void> {
    if (await app.blobs.stat(id)) return;
    const parts = await app.db.artifactPart.findMany({ where: { artifactId: id }, orderBy: { number: 'asc' } });
    const there = new Set(parts.map(({ number }) => number));
    const all = Array.from({ length: partCount(expect.sizeBytes, partBytes) }, (_, i) => i + 1);
    const missing = all.filter((number) => !there.has(number));
    if (missing.length > 0) throw new UploadIncomplete(missing);
    const source = Readable.from(
      (async function* () {
        for (const { key } of parts) yield* (await app.blobs.get(key)).stream;
      })(),
      { objectMode: false },
    );
    try {
      await app.blobs.put(id, source, { maxBytes: expect.sizeBytes, expect });
    } catch (error) {
      if (error instanceof NotFound) throw new Conflict('A part was replaced meanwhile. Try again.');
      // Somebody else stored the whole, which was verified as this would have been.
      if (!(error instanceof Conflict) || !(await app.blobs.stat(id))) throw error;
    } finally {
      source.destroy();
    }
  },

  /**
   * Ends an upload that has not arrived, and removes what there is of it.
   * @throws {NotFound} {Forbidden} {Conflict} it has arrived
   */
  async abortUpload(actor: Actor, id: string): Promise<{ id: string }> {
    const row = await app.db.artifact.findUnique({ where: { id } });
    authorizeRow(actor, runPolicy.verbs.abortUpload, row, 'Artifact', id);
    if (row.runId) throw new Conflict('A run makes this file: cancel the run.');
    if (!(await this.dropPending(id))) throw new Conflict('The file has arrived.');
    return { id };
  },

  /**
   * The row first: an upload that ends afterwards finds none, and removes its own.
   * @param within what else belongs to it, in the transaction that removes the row
   * @returns whether it was pending
   */
  async dropPending(id: string, within?: (tx: Transaction) => void): Promise<boolean> {
    const keys = await app.transact(system, async (tx) => {
      await tx.db.$queryRaw`select 1 from artifact where id = ${id}::uuid for update`;
      const parts = await tx.db.artifactPart.findMany({ where: { artifactId: id }, select: { key: true } });
      const { count } = await tx.db.artifact.deleteMany({ where: { id, status: 'PENDING' } });
      if (count === 0) return null;
      within?.(tx);
      return [id, ...parts.map(({ key }) => key)];
    });
    // What is left when this fails is removed as orphans are.
    for (const key of keys ?? []) await app.blobs.remove(key);
    return keys !== null;
  },

  /** Ends uploads that were begun before, and removes parts of those that have arrived. @returns how many were ended */
  async expire(before: Date, signal: AbortSignal): Promise<number> {
    let ended = 0;
    const whole = await app.db.artifact.findMany({
      where: { status: 'READY', createdAt: { lt: before }, parts: { some: {} } },
      select: { id: true },
      take: 500,
    });
    for (const { id } of whole) await this.dropParts(id);
    for (;;) {
      const old = await app.db.artifact.findMany({
        where: { status: 'PENDING', createdAt: { lt: before } },
        select: expiring,
        take: 500,
      });
      if (old.length === 0) return ended;
      for (const one of old) {
        signal.throwIfAborted();
        // What a run had begun to store is its own affair.
        const tell = one.runId ? undefined : (tx: Transaction) => void tx.append(expired(one, 'NOT_SENT'));
        if (await this.dropPending(one.id, tell)) ended++;
      }
    }
  },

  /** Removes uploads that have arrived, and that no domain makes use of. @returns how many */
  async expireUnclaimed(before: Date, signal: AbortSignal): Promise<number> {
    const where = unclaimed(before);
    if (!where) return 0;
    let removed = 0;
    let after = '00000000-0000-0000-0000-000000000000';
    for (;;) {
      const some = await app.db.artifact.findMany({
        where: { ...where, id: { gt: after } },
        orderBy: { id: 'asc' },
        select: expiring,
        take: 100,
      });
      if (some.length === 0) return removed;
      for (const one of some) {
        signal.throwIfAborted();
        const within = (tx: Transaction) => void tx.append(expired(one, 'NOT_USED'));
        if (await this.remove(one, { only: where, within })) removed++;
        after = one.id;
      }
    }
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
    // It may have come in parts, or some of it before it came as a whole. From here on the file is there: what fails is
    // no reason to remove it, and the hourly clean-up comes back to the parts.
    await this.dropParts(id).catch((error: unknown) =>
      app.log.warn({ err: error, artifact: id }, 'parts of a file that is whole were left'),
    );
  },

  /** Removes the parts of a file that is whole. */
  async dropParts(id: string): Promise<void> {
    const parts = await app.db.artifactPart.findMany({ where: { artifactId: id }, select: { key: true } });
    if (parts.length === 0) return;
    await app.db.artifactPart.deleteMany({ where: { artifactId: id } });
    for (const { key } of parts) await app.blobs.remove(key);
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
    const id = newId();
    // The bytes after that: an execution that has lost its run must not touch what the next one stores.
    const begun = await context.write(async (tx) => {
      const left = await tx.db.artifact.findMany({ where: { runId, status: 'PENDING' }, select: { id: true } });
      await tx.db.artifact.deleteMany({ where: { runId, status: 'PENDING' } });
      const row = { id, workspaceId, runId, createdById: actorId, name, contentType, sizeBytes: 0n, sha256: nothing };
      await tx.db.artifact.create({ data: row });
      return left;
    });
    try {
      for (const left of begun) await app.blobs.remove(left.id);
      return { id, ...(await app.blobs.put(id, source, { maxBytes, signal })) };
    } catch (error) {
      // What failed is what is told, whatever of this fails in its turn: the row goes with the next execution of the run
      // or with the hourly clean-up, bytes without one as orphans.
      const cleared = await Promise.allSettled([
        app.db.artifact.deleteMany({ where: { id, status: 'PENDING' } }),
        app.blobs.remove(id),
      ]);
      for (const one of cleared)
        if (one.status === 'rejected')
          app.log.warn({ err: one.reason as unknown, artifact: id }, 'what a run had begun to store was left');
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
   * @param options.only it is removed when this holds
   * @param options.within what else belongs to it, in the transaction that removes the row; not called when there is none
   * @returns whether it was there
   */
  async remove(
    { workspaceId, id }: FileRef,
    options: { readonly only?: Prisma.ArtifactWhereInput; readonly within?: (tx: Transaction) => void } = {},
  ): Promise<boolean> {
    const removed = await app.transact(system, async (tx) => {
      const where = { ...options.only, id, workspaceId };
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

const expiring = { id: true, workspaceId: true, runId: true, sizeBytes: true } as const;

const expired = (
  { id, workspaceId, sizeBytes }: { id: string; workspaceId: string; sizeBytes: bigint },
  reason: 'NOT_SENT' | 'NOT_USED',
) => ({ type: artifactExpired, workspaceId, subjectId: id, data: { reason, sizeBytes: Number(sizeBytes) } });

/** What an upload that is not over is sent in. @throws {Conflict} */
export function openUpload(row: { status: string; createdAt: Date; partSizeBytes: number | null }): {
  readonly partSizeBytes: number;
  readonly expiresAt: Date;
} {
  if (row.status === 'READY') throw new Conflict('The file has arrived.');
  const expiresAt = new Date(row.createdAt.getTime() + uploadLifeMs);
  if (row.partSizeBytes === null || expiresAt.getTime() <= Date.now())
    throw new Conflict('The upload is over. Announce the file again.');
  return { partSizeBytes: row.partSizeBytes, expiresAt };
}
