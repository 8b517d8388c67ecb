import type { Readable } from 'node:stream';
import { z } from 'zod';
import { service } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { authorize } from '../auth/policy.ts';
import { system } from '../auth/actor.ts';
import type { Transaction } from '../db/transact.ts';
import { defineEvent } from '../events/define.ts';
import { sha256Hex } from '../crypto.ts';
import { newId } from '../ids.ts';
import { parse } from '../input.ts';
import type { RunContext } from '../runs/context.ts';
import { runPolicy } from '../runs/policy.ts';
import { isContentType, type SignedUrl } from './signed-urls.ts';
import type { StoredBlob } from './store.ts';

export const artifactReady = defineEvent('artifact.ready', {
  subject: 'Artifact',
  description: 'Its bytes have arrived and were verified.',
});

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

  /** A short-lived address of a file's bytes; null while they have not arrived. */
  downloadUrl(artifact: { id: string; status: string; name: string; contentType: string }): SignedUrl | null {
    if (artifact.status !== 'READY') return null;
    return app.storageUrls.sign(
      { method: 'GET', key: artifact.id, fileName: artifact.name, contentType: artifact.contentType },
      urlTtlS,
    );
  },
}));
